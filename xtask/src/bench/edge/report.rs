//! The figures of a run as tables, and beside the aims.

use std::fmt;

use super::{BASELINE, CONNECTIONS, EDGE, HELD_STREAMS, OPEN_CONNECTIONS, SSE_CONNECTIONS, Sample, Variant};
use crate::bench::{
    machine, median,
    table::{Table, aim},
};

/// The closed loop that aims are about, as an index of [`CONNECTIONS`].
const MAIN: usize = 1;
/// Above this share of foreign work on the machine a run is to be repeated.
const NOISY: f64 = 0.05;

/// Everything a run measured.
pub struct Results {
    pub rounds: usize,
    pub seconds: f64,
    pub rate: u32,
    /// Of each variant.
    pub requests: Vec<Requests>,
    /// Of the plain proxy and of the edge.
    pub sse: [Vec<Sample>; 2],
    pub streams: [Streams; 2],
    /// Milliseconds from exec to ready: median and longest.
    pub ready: (f64, f64),
}

/// One variant's samples, by shape (the closed loops, then the open one) and round.
pub struct Requests {
    pub variant: Variant,
    pub samples: Vec<Vec<Sample>>,
}

/// A server's memory before its first request, after a few, and with streams open.
pub struct Streams {
    pub idle_kib: u64,
    pub warm_kib: u64,
    pub open_kib: u64,
    /// Live guest instances while they are open, and open streams, as the edge counts them.
    pub instances: f64,
    pub open: f64,
    pub workers: usize,
}

impl Streams {
    fn kib_each(&self) -> f64 {
        self.open_kib.saturating_sub(self.warm_kib) as f64 / HELD_STREAMS as f64
    }
}

impl Requests {
    fn of(&self, shape: usize, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples[shape].iter().map(figure))
    }

    fn cpu_us(&self) -> f64 {
        self.of(MAIN, |s| s.cpu_us_per_request)
    }

    /// The middle decision by the clock, which no other process delayed.
    fn decide_us(&self) -> Option<f64> {
        self.samples[MAIN].first()?.decide_us?;
        Some(self.of(MAIN, |s| s.decide_us.unwrap_or_default()))
    }

    /// Median over the rounds of requests a second against another's of the same round.
    fn ratio(&self, to: &Self, shape: usize) -> f64 {
        let pairs = self.samples[shape].iter().zip(&to.samples[shape]);
        median(pairs.map(|(own, other)| own.requests_per_s / other.requests_per_s))
    }

    fn latency(&self, shape: usize) -> String {
        let ms = |us: f64| us / 1e3;
        format!("{:.2} / {:.2}", ms(self.of(shape, |s| s.p50_us)), ms(self.of(shape, |s| s.p99_us)))
    }
}

impl Results {
    fn variant(&self, variant: Variant) -> &Requests {
        self.requests.iter().find(|requests| requests.variant == variant).expect("every variant is measured")
    }

    fn throughput(&self) -> Table {
        let mut table = Table::new([
            "server",
            "requests/s at 1",
            "at 32",
            "at 256",
            "of the plain proxy, at 32",
            "CPU us a request",
            "more than the plain proxy",
            "of it one decision",
        ]);
        let baseline = self.variant(BASELINE);
        for requests in &self.requests {
            let rate = |shape| format!("{:.0}", requests.of(shape, |s| s.requests_per_s));
            table.row([
                requests.variant.name.to_owned(),
                rate(0),
                rate(1),
                rate(2),
                format!("{:.0} %", 100.0 * requests.ratio(baseline, MAIN)),
                format!("{:.1}", requests.cpu_us()),
                format!("{:+.1}", requests.cpu_us() - baseline.cpu_us()),
                requests.decide_us().map_or("-".into(), |us| format!("{us:.1}")),
            ]);
        }
        table
    }

    fn latency(&self) -> Table {
        let open = format!("{}/s, open loop", self.rate);
        let names = ["server", "1 connection", "32", "256", &open, "reached", "CPU us a request there"];
        let mut table = Table::new(names);
        let last = CONNECTIONS.len();
        for requests in &self.requests {
            table.row([
                requests.variant.name.to_owned(),
                requests.latency(0),
                requests.latency(1),
                requests.latency(2),
                requests.latency(last),
                format!("{:.0}/s", requests.of(last, |s| s.requests_per_s)),
                format!("{:.1}", requests.of(last, |s| s.cpu_us_per_request)),
            ]);
        }
        table
    }

    fn events(&self) -> Table {
        let mut table = Table::new([
            "server",
            "events/s",
            "CPU us an event",
            "MiB idle",
            "after a few",
            "with streams",
            "KiB a stream",
            "guest instances",
        ]);
        for (variant, samples, streams) in
            [(BASELINE, &self.sse[0], &self.streams[0]), (EDGE, &self.sse[1], &self.streams[1])]
        {
            let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
            table.row([
                variant.name.to_owned(),
                format!("{:.0}", median(samples.iter().map(|s| s.events_per_s))),
                format!("{:.2}", median(samples.iter().map(|s| s.cpu_us_per_event))),
                mib(streams.idle_kib),
                mib(streams.warm_kib),
                mib(streams.open_kib),
                format!("{:.1}", streams.kib_each()),
                if variant == BASELINE { "-".into() } else { format!("{:.0}", streams.instances) },
            ]);
        }
        table
    }

    fn aims(&self) -> Table {
        let (baseline, edge) = (self.variant(BASELINE), self.variant(EDGE));
        let mut table = Table::new(["aim", "at most/least", "measured", ""]);
        let added = edge.cpu_us() - baseline.cpu_us();
        aim(&mut table, "CPU the edge adds to a request", "<= 25 us".into(), format!("{added:.1} us"), added <= 25.0);
        let decide = edge.decide_us().unwrap_or_default();
        aim(
            &mut table,
            "of it one decision of the guests",
            "<= 25 us".into(),
            format!("{decide:.1} us"),
            decide <= 25.0,
        );
        let ratio = edge.ratio(baseline, MAIN);
        let percent = format!("{:.0} %", 100.0 * ratio);
        aim(&mut table, "requests/s of the plain proxy's", ">= 60 %".into(), percent, ratio >= 0.6);
        let [plain, ours] = &self.sse;
        let pairs = ours.iter().zip(plain);
        let times = median(pairs.map(|(own, other)| own.cpu_us_per_event / other.cpu_us_per_event));
        let text = format!("{times:.2} x");
        aim(&mut table, "CPU an event, to the plain proxy's", "<= 1.5 x".into(), text, times <= 1.5);
        let streams = &self.streams[1];
        let kib = streams.kib_each();
        aim(&mut table, "memory an open stream", "<= 40 KiB".into(), format!("{kib:.1} KiB"), kib <= 40.0);
        let workers = streams.workers as f64;
        let (most, live) = (format!("<= {workers} (workers)"), format!("{:.0}", streams.instances));
        let few = streams.instances <= workers && streams.open >= HELD_STREAMS as f64;
        aim(&mut table, "guest instances at 1,000 streams", most, live, few);
        let (middle, longest) = self.ready;
        let text = format!("{middle:.0} ms, longest {longest:.0}");
        aim(&mut table, "a warm edge is ready after", "<= 300 ms".into(), text, middle <= 300.0);
        table
    }

    /// The largest share of the machine that foreign work took in any round, and the median one.
    fn noise(&self) -> (f64, f64) {
        let samples = self.requests.iter().flat_map(|r| r.samples.iter().flatten()).chain(self.sse.iter().flatten());
        let shares: Vec<_> = samples.map(|s| s.others).collect();
        (median(shares.iter().copied()), shares.into_iter().fold(0.0, f64::max))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, seconds, .. } = self;
        writeln!(
            out,
            "Nothing pinned: {} workers, the node and the load generator share {} cores. {rounds} rounds of {seconds} s, medians.",
            machine::cores(),
            machine::cores()
        )?;
        writeln!(
            out,
            "\n### Requests: a completion of 1,000 bytes as one document, closed loop\n\n{}",
            self.throughput()
        )?;
        writeln!(
            out,
            "### Latency, p50 / p99 in ms; the open loop over {OPEN_CONNECTIONS} connections, from the intended time\n\n{}",
            self.latency()
        )?;
        writeln!(
            out,
            "### Events of {SSE_CONNECTIONS} streams at full speed; memory of {HELD_STREAMS} streams of one token a second\n\n{}",
            self.events()
        )?;
        writeln!(out, "### Aims\n\n{}", self.aims())?;
        let (middle, most) = self.noise();
        let verdict = if middle > NOISY { "the machine was busy with other things: measure again" } else { "quiet" };
        writeln!(
            out,
            "Foreign work took {:.1} % of the machine (at most {:.1} % in a round): {verdict}.",
            100.0 * middle,
            100.0 * most
        )
    }
}
