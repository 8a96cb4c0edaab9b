//! One measurement: a load on a server for a while, and what the server's process spent meanwhile.

use std::fmt;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::servers::{Bench, Server};
use crate::bench::machine;
use crate::exec;

/// How a server is asked.
#[derive(Clone, Copy)]
pub struct Shape {
    pub connections: usize,
    /// Requests a second of an open loop; none for a closed one.
    pub rate: Option<u32>,
    pub stream: bool,
    pub seconds: f64,
}

/// What the load generator prints; latencies in microseconds.
#[derive(Debug, Clone, Default, Deserialize)]
struct Report {
    requests: u64,
    requests_per_s: f64,
    events: u64,
    events_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_seconds: f64,
    errors: u64,
    first_error: String,
}

/// What a measurement came to.
#[derive(Debug, Clone)]
pub struct Sample {
    pub requests_per_s: f64,
    pub events_per_s: f64,
    /// CPU time of the server's process, user and system, microseconds.
    pub cpu_us_per_request: f64,
    pub cpu_us_per_event: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// What the middle one of the guests' decisions took, by the clock, microseconds; none for the plain proxy.
    pub decide_us: Option<f64>,
    /// Share of the machine's CPU that neither server, node nor load took.
    pub others: f64,
}

impl Bench {
    /// Puts this load on a server. Answers that are errors fail it.
    pub fn measure(&self, server: &Server, node: &Server, shape: Shape) -> Result<Sample> {
        let mut command = self.load(server)?;
        command.args(["--connections", &shape.connections.to_string(), "--seconds", &shape.seconds.to_string()]);
        if let Some(rate) = shape.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if shape.stream {
            command.arg("--stream");
        }
        let before = server.decisions()?;
        let began = std::time::Instant::now();
        let (busy, spent, at_node) =
            (machine::busy_seconds(), machine::cpu_seconds(server.id())?, machine::cpu_seconds(node.id())?);
        let printed = exec::output(&mut command)?;
        let spent = machine::cpu_seconds(server.id())? - spent;
        let at_node = machine::cpu_seconds(node.id())? - at_node;
        let busy = machine::busy_seconds() - busy;
        let report: Report = serde_json::from_str(&printed).context("the load generator printed something else")?;
        if report.errors > 0 {
            bail!("{}, {shape}: {} errors, the first: {}", server.variant.name, report.errors, report.first_error);
        }
        let capacity = began.elapsed().as_secs_f64() * machine::cores() as f64;
        let others = (busy - spent - at_node - report.cpu_seconds).max(0.0) / capacity;
        let decide_us = middle(&before, &server.decisions()?).map(|seconds| seconds * 1e6);
        let each = |count: u64| if count == 0 { 0.0 } else { spent * 1e6 / count as f64 };
        Ok(Sample {
            requests_per_s: report.requests_per_s,
            events_per_s: report.events_per_s,
            cpu_us_per_request: each(report.requests),
            cpu_us_per_event: each(report.events),
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            decide_us,
            others,
        })
    }
}

/// The median of what came between two states of a histogram: counts up to each bound. Within a bucket the values are
/// taken to be spread evenly.
fn middle(before: &[(f64, f64)], after: &[(f64, f64)]) -> Option<f64> {
    let counts: Vec<_> =
        before.iter().zip(after).map(|((_, before), (bound, after))| (*bound, after - before)).collect();
    let half = counts.last()?.1 / 2.0;
    let mut below = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= half && count > below.1 {
            let share = (half - below.1) / (count - below.1);
            return bound.is_finite().then_some(below.0 + share * (bound - below.0));
        }
        below = (bound, count);
    }
    None
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Some(rate) => write!(out, "{rate}/s"),
            None => write!(out, "{} connections", self.connections),
        }
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_median_lies_within_its_bucket() {
        let before = [(1.0, 5.0), (2.0, 5.0), (4.0, 5.0), (f64::INFINITY, 5.0)];
        let after = [(1.0, 7.0), (2.0, 7.0), (4.0, 15.0), (f64::INFINITY, 15.0)];
        // Ten values, eight of them between 2 and 4: the fifth is three eighths of the way.
        assert_eq!(middle(&before, &after), Some(2.75));
        assert_eq!(middle(&before, &before), None);
        assert_eq!(middle(&[], &[]), None);
    }
}
