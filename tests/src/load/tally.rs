//! What a run counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pace::Pace;

/// Counts while a run goes on.
#[derive(Debug)]
pub struct Tally {
    pub pace: Option<Pace>,
    /// Server-sent events of whole and of unfinished answers.
    pub events: u64,
    /// Of each answer, microseconds.
    latencies: Vec<u32>,
    errors: u64,
    first_error: String,
}

/// What a run came to. Latencies are microseconds.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Report {
    pub seconds: f64,
    pub requests: u64,
    pub requests_per_s: f64,
    pub events: u64,
    pub events_per_s: f64,
    pub p50_us: u32,
    pub p99_us: u32,
    pub max_us: u32,
    /// CPU time of this process, so that others' can be told from it.
    pub cpu_seconds: f64,
    pub errors: u64,
    pub first_error: String,
}

impl Tally {
    pub fn new(pace: Option<Pace>) -> Self {
        let latencies = Vec::with_capacity(1 << 16);
        Self { pace, events: 0, latencies, errors: 0, first_error: String::new() }
    }

    pub fn answered(&mut self, after: Duration) {
        self.latencies.push(after.as_micros().try_into().unwrap_or(u32::MAX));
    }

    pub fn failed(&mut self, why: String) {
        self.errors += 1;
        if self.first_error.is_empty() {
            self.first_error = why;
        }
    }

    /// The figures of a run that took so long.
    pub fn report(mut self, took: Duration) -> Report {
        self.latencies.sort_unstable();
        let seconds = took.as_secs_f64();
        let requests = self.latencies.len() as u64;
        Report {
            seconds,
            requests,
            requests_per_s: requests as f64 / seconds,
            events: self.events,
            events_per_s: self.events as f64 / seconds,
            p50_us: quantile(&self.latencies, 0.5),
            p99_us: quantile(&self.latencies, 0.99),
            max_us: quantile(&self.latencies, 1.0),
            cpu_seconds: cpu_seconds(),
            errors: self.errors,
            first_error: self.first_error,
        }
    }
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    // SAFETY: rusage is plain data, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place to write to that outlives the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The smallest value that at least this share of all values does not exceed; 0 of none.
fn quantile(sorted: &[u32], share: f64) -> u32 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<u32> = (1..=100).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [1, 50, 99, 100]);
        assert_eq!((quantile(&[7], 0.99), quantile(&[], 0.5)), (7, 0));
    }
}
