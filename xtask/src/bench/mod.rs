//! `cargo xtask bench edge | access | cache | fleet | engine | serving | device`: what the product costs on this machine,
//! beside something to compare it with.
//!
//! Figures mean something only beside others of the same run: rounds alternate between what is compared, every figure is
//! a median over rounds, and the report says how much of the machine others used meanwhile.

mod access;
mod cache;
mod device;
mod edge;
mod edge_process;
mod engine;
mod fleet;
mod machine;
mod node;
mod serving;
mod table;

use anyhow::Result;

use crate::ui::Ui;

#[derive(clap::Subcommand)]
pub enum Bench {
    /// The edge beside a plain proxy: requests/s, CPU, latency, streams, memory
    Edge(edge::Options),
    /// Who may enter: keys, tokens, limits in memory and in Redis, the audit log
    Access(access::Options),
    /// What users wait with the cache and without, and generations that many share
    Cache(cache::Options),
    /// Four nodes: policies beside one another, sessions that move, nodes that are killed
    Fleet(fleet::Options),
    /// The engine beside llama.cpp: prefill, decode, share of the memory bandwidth
    Engine(engine::Options),
    /// A node for many: turns, fairness, long prompts, batches, drafts
    Serving(serving::Options),
    /// A GPU: the tests of the architectures on it, then tokens/s at the shapes of real models
    Device(device::Options),
}

pub fn bench(ui: &Ui, bench: Bench) -> Result<()> {
    match bench {
        Bench::Edge(options) => edge::bench(ui, &options),
        Bench::Access(options) => access::bench(ui, &options),
        Bench::Cache(options) => cache::bench(ui, &options),
        Bench::Fleet(options) => fleet::bench(ui, &options),
        Bench::Engine(options) => engine::bench(ui, &options),
        Bench::Serving(options) => serving::bench(ui, &options),
        Bench::Device(options) => device::bench(ui, &options),
    }
}

/// The middle one, or the upper of the two in the middle; 0 of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod unit_tests {
    #[test]
    fn a_median_is_a_value_that_was_measured() {
        assert_eq!(super::median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median([]), 0.0);
    }
}
