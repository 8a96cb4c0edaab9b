//! What a step of the scheduler costs: `cargo run --release -p littoral-node --example schedule`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use littoral_node::schedule::{Ask, Beginning, Id, Key, Limits, Plan, Prefix, Replay, Scheduler};

const STEPS: u32 = 1000;
const USERS: u64 = 40;

/// A scheduler whose every step gives each sequence one token.
struct Bench {
    scheduler: Scheduler,
    tokens: HashMap<Id, Vec<u32>>,
    spent: Duration,
}

impl Bench {
    fn step(&mut self) -> Plan {
        let began = Instant::now();
        let plan = self.scheduler.plan(512, |_| Ask { ready: true, drafts: 0 });
        self.spent += began.elapsed();
        for rows in &plan.rows {
            let tokens = self.tokens.entry(rows.id).or_default();
            tokens.extend(rows.last.then_some(7));
            let began = Instant::now();
            self.scheduler.advance(rows, rows.count, tokens);
            self.spent += began.elapsed();
        }
        plan
    }
}

fn main() -> anyhow::Result<()> {
    for running in [16, 64, 256] {
        let blocks = running * 80;
        let limits = Limits {
            slots: running,
            queue: 256,
            rows: 512,
            blocks,
            block_tokens: 16,
            context: 8192,
            replay: Replay::Prefill,
        };
        let mut bench = Bench { scheduler: Scheduler::new(limits), tokens: HashMap::new(), spent: Duration::ZERO };
        for id in 0..running as u64 + 100 {
            let tokens: Vec<u32> = (0..100 + id as u32 % 16).map(|i| id as u32 * 1000 + i).collect();
            let prefix = Prefix::of(Key::scope(&(id % USERS).to_string(), None), &tokens, limits.block_tokens);
            bench.scheduler.submit(id, Beginning { known: tokens.len(), prompt: tokens.len(), prefix })?;
            bench.tokens.insert(id, tokens);
        }
        while bench.step().rows.iter().filter(|r| r.count == 1).count() < running {}
        bench.spent = Duration::ZERO;
        for _ in 0..STEPS {
            bench.step();
        }
        let microseconds = (bench.spent / STEPS).as_secs_f64() * 1e6;
        println!("{running} running, {} waiting: {microseconds:.1} us a step", bench.scheduler.waiting());
    }
    Ok(())
}
