//! What it costs to choose a node out of many.

use std::{hint::black_box, time::Instant};

use littoral_core::{
    fleet::{Balance, Load, choose},
    rendezvous,
};

const CHOICES: u32 = 4000;

/// Microseconds a choice, for fleets of so many nodes. Every other one finds its home over its bound, which is the longest
/// way.
pub fn run() -> Vec<(usize, f64)> {
    let one = |count: usize| {
        let node =
            |i| Load { hash: rendezvous::hash(&format!("10.0.0.{i}:7433")), slots: 8, busy: 20, ..Load::default() };
        let mut nodes: Vec<Load> = (0..count).map(node).collect();
        let began = Instant::now();
        for i in 0..CHOICES / 2 {
            let session = format!("session {i}");
            let home = black_box(choose(Balance::default(), &session, &nodes, 0, 3))[0].node;
            nodes[home].busy = 1000;
            black_box(choose(Balance::default(), &session, &nodes, 0, 3));
            nodes[home].busy = 20;
        }
        (count, began.elapsed().as_secs_f64() * 1e6 / f64::from(CHOICES))
    };
    [10, 100, 1000].map(one).into()
}
