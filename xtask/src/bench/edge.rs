//! `cargo xtask bench edge`: the edge, with and without each of its guests, beside a plain proxy to the same node.
//!
//! Nothing is pinned to a core: servers, node and load generator share the machine, as the ratios of one run say
//! nothing else. CPU is what the server's process alone took.

mod measure;
mod report;
mod servers;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guests::{self, Component};
use crate::ui::{Step, Ui};
use crate::{build, place, toolchain};
use measure::{Sample, Shape};
use report::{Requests, Results, Streams};
use servers::{Bench, NodeScript, Server};

use super::{machine, median};

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works; its figures mean little
    #[arg(long)]
    quick: bool,
    /// Rounds that alternate between what is compared
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests a second of the open loop
    #[arg(long, default_value_t = 3000)]
    rate: u32,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq)]
pub struct Variant {
    pub name: &'static str,
    /// The policy component; none for the plain proxy.
    policy: Option<&'static str>,
    fresh: bool,
    /// Whether each request is logged.
    access_log: bool,
}

impl Variant {
    const fn edge(name: &'static str, policy: &'static str) -> Self {
        Self { name, policy: Some(policy), fresh: false, access_log: true }
    }
}

const BASELINE: Variant = Variant { name: "plain proxy", policy: None, fresh: false, access_log: false };
const EDGE: Variant = Variant::edge("edge, all guests", "edge");
/// The plain proxy first, the edge as it is second: the report compares the others with these.
const VARIANTS: [Variant; 8] = [
    BASELINE,
    EDGE,
    Variant { access_log: false, ..Variant::edge("… no request log", "edge") },
    Variant { fresh: true, ..Variant::edge("… a fresh instance each", "edge") },
    Variant::edge("… composed layers", "layers"),
    Variant::edge("… without auth", "without-auth"),
    Variant::edge("… without cache", "without-cache"),
    Variant::edge("… router alone", "router-alone"),
];

/// Components that are built for this benchmark only: name, and the layers that stay before the router.
const PARTIAL: [(&str, &[&str]); 3] =
    [("without-auth", &["cache"]), ("without-cache", &["auth"]), ("router-alone", &[])];

/// Connections of the closed loops. The second is the one that aims are about.
const CONNECTIONS: [usize; 3] = [1, 32, 256];
/// Connections that the open loop spreads its requests over.
const OPEN_CONNECTIONS: usize = 64;
const SSE_CONNECTIONS: usize = 256;
const HELD_STREAMS: usize = 1000;
const FIRST_STREAMS: usize = 8;
const STARTS: usize = 11;

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        build(ui)?;
    }
    let bench = Bench::prepare()?;
    let (rounds, seconds) = if options.quick { (1, 0.5) } else { (options.rounds.max(1), options.seconds) };
    let began = std::time::Instant::now();
    let results = Results {
        rounds,
        seconds,
        rate: options.rate,
        requests: requests(ui, &bench, rounds, seconds, options.rate)?,
        sse: sse(ui, &bench, rounds, seconds)?,
        streams: streams(ui, &bench)?,
        ready: ready(ui, &bench)?,
    };
    println!("{}\n", machine::describe());
    print!("{results}");
    println!("\nMeasured in {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}

fn build(ui: &Ui) -> Result<()> {
    let wasm = toolchain::ensure(ui, None)?;
    guests::build(ui, &wasm)?;
    let step = ui.step("partial");
    fs::create_dir_all(servers::partial_guests())?;
    for (name, features) in PARTIAL {
        let component = Component::variant(name, "littoral-guest-partial", features);
        guests::compile(&component, &wasm, &step, &servers::partial_guests())?;
    }
    step.done("guests with layers left out");
    build::benchmarks(ui)
}

/// Completions of one token of 1,000 bytes, asked for as one document.
fn requests(ui: &Ui, bench: &Bench, rounds: usize, seconds: f64, rate: u32) -> Result<Vec<Requests>> {
    let step = ui.step("requests");
    let node = bench.node(NodeScript { tokens: 1, text: "x".repeat(1000), interval_us: 0 })?;
    let servers = VARIANTS.iter().map(|variant| bench.server(*variant, &node)).collect::<Result<Vec<_>>>()?;
    let closed = |connections| Shape { connections, rate: None, stream: false, seconds };
    let open = Shape { rate: Some(rate), ..closed(OPEN_CONNECTIONS) };
    let shapes: Vec<_> = CONNECTIONS.into_iter().map(closed).chain([open]).collect();
    warm_up(&step, bench, &node, &servers, closed(32))?;
    let mut samples = vec![vec![Vec::new(); shapes.len()]; servers.len()];
    let (mut done, total) = (0, rounds * shapes.len() * servers.len());
    for round in 0..rounds {
        for (at, shape) in shapes.iter().enumerate() {
            for i in 0..servers.len() {
                // Each round begins with another server, so that none always follows the same one.
                let i = (i + round) % servers.len();
                step.progress(done as u64, total as u64, &format!("{}, {shape}", servers[i].variant.name));
                samples[i][at].push(bench.measure(&servers[i], &node, *shape)?);
                done += 1;
            }
        }
    }
    step.done(&format!("{rounds} rounds of {} servers", servers.len()));
    Ok(servers.iter().zip(samples).map(|(server, samples)| Requests { variant: server.variant, samples }).collect())
}

/// Answers of 512 tokens, an event each, as fast as they are taken. The plain proxy's samples, then the edge's.
fn sse(ui: &Ui, bench: &Bench, rounds: usize, seconds: f64) -> Result<[Vec<Sample>; 2]> {
    let step = ui.step("events");
    let node = bench.node(NodeScript { tokens: 512, text: " token".into(), interval_us: 0 })?;
    let servers = [bench.server(BASELINE, &node)?, bench.server(EDGE, &node)?];
    let shape = Shape { connections: SSE_CONNECTIONS, rate: None, stream: true, seconds };
    warm_up(&step, bench, &node, &servers, Shape { connections: 32, ..shape })?;
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for i in [round % 2, 1 - round % 2] {
            step.progress(round as u64, rounds as u64, servers[i].variant.name);
            samples[i].push(bench.measure(&servers[i], &node, shape)?);
        }
    }
    step.done(&format!("{SSE_CONNECTIONS} streams at full speed"));
    Ok(samples)
}

fn warm_up(step: &Step, bench: &Bench, node: &Server, servers: &[Server], shape: Shape) -> Result<()> {
    for server in servers {
        step.say(&format!("warming up: {}", server.variant.name));
        bench.measure(server, node, Shape { seconds: 0.5, ..shape })?;
    }
    Ok(())
}

/// Streams of one token a second, held open.
fn streams(ui: &Ui, bench: &Bench) -> Result<[Streams; 2]> {
    let step = ui.step("streams");
    let node = bench.node(NodeScript { tokens: 100_000, text: " token".into(), interval_us: 1_000_000 })?;
    let measure = |variant| -> Result<Streams> {
        let server = bench.server(variant, &node)?;
        let idle_kib = server.resident_kib();
        // What the first request of a worker brings to life, guests among it, is no stream's. A few do, so that hardly
        // anything is left behind that later ones would use again.
        drop(bench.hold(&server, FIRST_STREAMS)?);
        std::thread::sleep(Duration::from_secs(1));
        let warm_kib = server.resident_kib();
        let held = bench.hold(&server, HELD_STREAMS)?;
        std::thread::sleep(Duration::from_secs(2));
        let open_kib = server.resident_kib();
        let (instances, open) = match variant.policy {
            None => (0.0, HELD_STREAMS as f64),
            Some(_) => (server.metric("littoral_guest_instances")?, server.metric("littoral_open_streams")?),
        };
        drop(held);
        Ok(Streams { idle_kib, warm_kib, open_kib, instances, open, workers: machine::cores() })
    };
    let streams = [measure(BASELINE)?, measure(EDGE)?];
    step.done(&format!("{HELD_STREAMS} streams open at once"));
    Ok(streams)
}

/// From exec to the ready line, components compiled before: median and longest, milliseconds.
fn ready(ui: &Ui, bench: &Bench) -> Result<(f64, f64)> {
    let step = ui.step("ready");
    let node = bench.node(NodeScript { tokens: 1, text: "x".into(), interval_us: 0 })?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        times.push(bench.server(EDGE, &node).context("a warm edge does not start")?.ready_after.as_secs_f64() * 1e3);
    }
    step.done(&format!("{STARTS} starts"));
    Ok((median(times.iter().copied()), times.iter().copied().fold(0.0, f64::max)))
}

/// The folder of what this benchmark writes.
fn state() -> std::path::PathBuf {
    place::state().join("bench")
}
