//! Nodes as they are served, asked through their gRPC.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{BATCH, PREFILL, Plan, Round};
use crate::bench::{self, machine, median};
use crate::{exec, place};

/// What a node may need besides weights and cache: its program, threads, buffers of a step.
pub const BESIDES: f64 = (64 << 20) as f64;
/// Times that the load is measured, after one that brings the file into memory.
const LOADS: usize = 3;

pub struct Node {
    arithmetic: &'static str,
    node: bench::node::Node,
}

impl Node {
    pub fn start(plan: &Plan, arithmetic: &'static str) -> Result<Self> {
        Ok(Self { arithmetic, node: start(plan.model, arithmetic)? })
    }

    pub fn name(&self) -> String {
        format!("littoral-node, {}", self.arithmetic)
    }

    /// One round; its number makes its prompts begin like no other round's.
    pub fn round(&self, plan: &Plan, number: u32) -> Result<Round> {
        let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut load = Command::new(place::binary("node-load"));
        load.args(["--to", self.node.grpc()?, "--rounds", "1", "--first-round", &number.to_string()]);
        load.args(["--tokens", &plan.tokens.to_string(), "--prefill", &list(&PREFILL), "--batch", &list(&BATCH)]);
        serde_json::from_str(&exec::output(&mut load)?).context("node-load printed something else")
    }

    /// The most memory it has had so far, bytes.
    pub fn peak_bytes(&self) -> f64 {
        machine::peak_kib(self.node.process.id()) as f64 * 1024.0
    }

    /// Bytes of the KV cache, as the node said when it started.
    pub fn cache_bytes(&self) -> Result<f64> {
        let log = self.node.process.log()?;
        cache_bytes(&log).with_context(|| format!("the node did not say what its KV cache takes:\n{log}"))
    }

    pub fn stop(&mut self) {
        self.node.stop();
    }
}

/// Seconds from exec until the node is ready, of a file that is in the system's memory.
pub fn load_seconds(plan: &Plan) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..=LOADS {
        let began = Instant::now();
        let mut node = start(plan.model, super::ARITHMETIC[0])?;
        seconds.push(began.elapsed().as_secs_f64());
        node.stop();
    }
    Ok(median(seconds.into_iter().skip(1)))
}

fn start(model: &Path, arithmetic: &str) -> Result<bench::node::Node> {
    bench::node::Node::start(model, arithmetic, &["--arithmetic", arithmetic])
}

/// Of `… KV cache of 16384 tokens in 360.0 MiB`.
fn cache_bytes(log: &str) -> Option<f64> {
    let (_, rest) = log.rsplit_once("KV cache of ")?;
    let (_, size) = rest.lines().next()?.split_once(" tokens in ")?;
    let (number, unit) = size.trim().split_once(' ')?;
    let power = ["B", "KiB", "MiB", "GiB"].iter().position(|known| *known == unit)?;
    Some(number.parse::<f64>().ok()? * 1024_f64.powi(power as i32))
}

#[cfg(test)]
mod unit_tests {
    use super::cache_bytes;

    #[test]
    fn the_caches_size_is_read_off_the_log() {
        let log = "first\nm (1M parameters, 2.0 MiB in memory) on cpu; 8 slots, KV cache of 16 tokens in 1.5 MiB\nready a=b\n";
        assert_eq!(cache_bytes(log), Some(1.5 * 1024.0 * 1024.0));
        assert_eq!(cache_bytes("no cache"), None);
    }
}
