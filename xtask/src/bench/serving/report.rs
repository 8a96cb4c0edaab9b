//! The figures of a run as tables, and beside the aims.

use std::fmt;

use super::{Pair, Round, Step};
use crate::bench::{
    machine, median,
    table::{Table, aim},
};

/// Everything a run measured.
pub struct Results {
    pub rounds: Vec<Round>,
    pub scheduler: Vec<Step>,
    /// Tokens that were tried, and those that were right, over all rounds.
    pub drafted: f64,
    pub accepted: f64,
}

/// A figure that is held against an aim: a ratio of two of the same round.
struct Ratio {
    what: &'static str,
    most: bool,
    bound: f64,
    of: fn(&Round) -> f64,
}

const RATIOS: [Ratio; 6] = [
    Ratio {
        what: "first token of a second turn, to the first turn's",
        most: true,
        bound: 0.15,
        of: |r| r.second_turn / r.first_turn,
    },
    Ratio {
        what: "modest users beside a greedy one, to an idle node's batch of 5",
        most: true,
        bound: 2.0,
        of: |r| r.beside_greedy / r.idle_batch,
    },
    Ratio {
        what: "between tokens while long prompts come, p99 to median",
        most: true,
        bound: 3.0,
        of: |r| r.inter_token_p99 / r.inter_token_median,
    },
    Ratio { what: "batch 8 together, to the prefill", most: false, bound: 0.7, of: |r| r.batch_8 / r.prefill },
    Ratio {
        what: "drafts where the text repeats itself, to the bound (batch 8 to batch 1)",
        most: false,
        bound: 0.8,
        of: |r| gain(&r.copy) / (r.batch_8 / r.batch_1),
    },
    Ratio { what: "drafts on free text, to none", most: false, bound: 0.95, of: |r| gain(&r.free) },
];

/// A step of the scheduler, microseconds, at the largest crowd.
const STEP: f64 = 50.0;

/// Tokens a second with drafts, to those without; the median over the prompts.
fn gain(pairs: &[Pair]) -> f64 {
    median(pairs.iter().map(|pair| pair.on / pair.off))
}

impl Results {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn times(&self) -> Table {
        let mut table = Table::new(["first token, or the next", "ms"]);
        let mut row = |what: &str, of: fn(&Round) -> f64| {
            table.row([what.to_owned(), format!("{:.1}", 1e3 * self.median(of))]);
        };
        row("a long prompt, its first turn", |r| r.first_turn);
        row("the second turn, which begins alike", |r| r.second_turn);
        row("five users on an idle node, the slowest", |r| r.idle_batch);
        row("four users beside a greedy one, the slowest", |r| r.beside_greedy);
        row("between tokens while long prompts come, median", |r| r.inter_token_median);
        row("… 99th percentile", |r| r.inter_token_p99);
        table
    }

    fn rates(&self) -> Table {
        let mut table = Table::new(["tokens a second", "", "with drafts"]);
        let mut row = |what: &str, off: f64, on: Option<f64>| {
            table.row([what.to_owned(), format!("{off:.1}"), on.map_or("-".into(), |on| format!("{on:.1}"))]);
        };
        row("prefill, alone", self.median(|r| r.prefill), None);
        row("one answer", self.median(|r| r.batch_1), None);
        row("eight answers together", self.median(|r| r.batch_8), None);
        for (what, pairs) in [
            ("an answer that repeats the prompt", (|r| &r.copy) as fn(&Round) -> &Vec<Pair>),
            ("an answer that does not", |r| &r.free),
        ] {
            let side = |side: fn(&Pair) -> f64| self.median(|r| median(pairs(r).iter().map(side)));
            row(what, side(|pair| pair.off), Some(side(|pair| pair.on)));
        }
        table
    }

    fn steps(&self) -> Table {
        let mut table = Table::new(["requests that run", "us a step of the scheduler"]);
        for (running, cost) in &self.scheduler {
            table.row([running.to_string(), format!("{cost:.1}")]);
        }
        table
    }

    fn aims(&self) -> Table {
        let mut table = Table::new(["aim", "at most/least", "measured", ""]);
        for Ratio { what, most, bound, of } in RATIOS {
            let measured = self.median(of);
            let (sign, met) = if most { ("<=", measured <= bound) } else { (">=", measured >= bound) };
            aim(&mut table, what, format!("{sign} {bound} x"), format!("{measured:.2} x"), met);
        }
        if let Some((running, cost)) = self.scheduler.last() {
            let what = format!("a step of the scheduler with {running} requests running");
            aim(&mut table, &what, format!("<= {STEP} us"), format!("{cost:.1} us"), *cost <= STEP);
        }
        table
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "As many threads as cores ({}), a new node in each of {} rounds, medians. Of {} drafts {:.0} % were right.\n",
            machine::cores(),
            self.rounds.len(),
            self.drafted,
            100.0 * self.accepted / self.drafted.max(1.0),
        )?;
        writeln!(out, "### Times\n\n{}", self.times())?;
        writeln!(out, "### Rates\n\n{}", self.rates())?;
        writeln!(out, "### The scheduler\n\n{}", self.steps())?;
        write!(out, "### Aims\n\n{}", self.aims())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn round(second_turn: f64) -> Round {
        Round {
            first_turn: 1.0,
            second_turn,
            idle_batch: 0.5,
            beside_greedy: 0.9,
            inter_token_median: 0.01,
            inter_token_p99: 0.04,
            prefill: 400.0,
            batch_1: 80.0,
            batch_8: 300.0,
            copy: vec![Pair { off: 80.0, on: 260.0 }],
            free: vec![Pair { off: 80.0, on: 79.0 }, Pair { off: 50.0, on: 40.0 }, Pair { off: 60.0, on: 60.0 }],
        }
    }

    #[test]
    fn ratios_are_medians_over_rounds_and_are_held_against_the_aims() {
        let rounds = [0.1, 0.14, 0.3].map(round).into();
        let text =
            Results { rounds, scheduler: vec![(16, 2.0), (256, 61.0)], drafted: 200.0, accepted: 50.0 }.to_string();
        let line = |what: &str| text.lines().rfind(|line| line.contains(what)).unwrap_or_default().to_owned();
        for (what, figure, verdict) in [
            ("second turn, to", "0.14 x", "met"),
            ("beside a greedy one, to", "1.80 x", "met"),
            ("p99 to median", "4.00 x", "missed"),
            ("to the prefill", "0.75 x", "met"),
            ("to the bound", "0.87 x", "met"),
            ("on free text", "0.99 x", "met"),
            ("with 256 requests", "61.0 us", "missed"),
        ] {
            assert!(line(what).contains(figure) && line(what).contains(verdict), "{what}: {}", line(what));
        }
        assert!(text.contains("Of 200 drafts 25 % were right"), "{text}");
    }
}
