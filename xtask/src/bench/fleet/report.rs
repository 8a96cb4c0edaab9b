//! What `cargo xtask bench fleet` prints: the policies beside round robin, and the aims.

use std::fmt;

use super::{POLICIES, Steady, Times};
use crate::bench::{
    machine, median,
    table::{Table, aim},
};

/// The policy that the others are held against.
const BASELINE: usize = 1;

/// One policy in one round.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Share of the prompts' tokens that a node had.
    pub hits: f64,
    pub first_token: Times,
    pub short_whole: Times,
}

/// Shares of the sessions that have another node.
#[derive(Debug)]
pub struct Moved {
    pub nodes: usize,
    pub left: f64,
    pub came: f64,
}

/// Streams that nodes died under.
#[derive(Debug)]
pub struct Killed {
    pub kills: usize,
    pub resumed: f64,
    pub steady: Steady,
}

pub struct Results {
    /// By policy, in the order of [`POLICIES`].
    pub rounds: Vec<Vec<Round>>,
    /// Nodes, and microseconds a choice.
    pub decisions: Vec<(usize, f64)>,
    pub moved: Moved,
    pub killed: Killed,
}

/// At most so many microseconds a choice, at the largest fleet.
const DECISION: f64 = 20.0;
/// Sessions that move, to their node's share of all.
const MOVED: f64 = 1.2;

impl Results {
    fn median(&self, policy: usize, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds[policy].iter().map(figure))
    }

    /// A policy's figure to the baseline's of the same round; the median over rounds.
    fn ratio(&self, policy: usize, figure: impl Fn(&Round) -> f64) -> f64 {
        let rounds = self.rounds[policy].iter().zip(&self.rounds[BASELINE]);
        median(rounds.map(|(own, base)| figure(own) / figure(base)))
    }

    fn policies(&self) -> Table {
        let mut table = Table::new([
            "fleet.policy",
            "prompt tokens a node had",
            "first token, mean ms",
            "p99",
            "mean, to round robin's",
            "short beside long, p50 ms",
            "p99",
            "p99, to round robin's",
        ]);
        for (i, policy) in POLICIES.iter().enumerate() {
            let ms = |figure: fn(&Round) -> f64| format!("{:.1}", 1e3 * self.median(i, figure));
            table.row([
                (*policy).into(),
                format!("{:.0} %", 100.0 * self.median(i, |r| r.hits)),
                ms(|r| r.first_token.mean),
                ms(|r| r.first_token.p99),
                format!("{:.2} x", self.ratio(i, |r| r.first_token.mean)),
                ms(|r| r.short_whole.p50),
                ms(|r| r.short_whole.p99),
                format!("{:.2} x", self.ratio(i, |r| r.short_whole.p99)),
            ]);
        }
        table
    }

    fn decisions(&self) -> Table {
        let mut table = Table::new(["nodes", "us a decision"]);
        for (nodes, us) in &self.decisions {
            table.row([nodes.to_string(), format!("{us:.2}")]);
        }
        table
    }

    fn aims(&self) -> Table {
        let mut table = Table::new(["aim", "at most/least", "measured", ""]);
        let own = self.median(0, |r| r.hits);
        let others = (1..POLICIES.len()).map(|i| self.median(i, |r| r.hits)).fold(0.0, f64::max);
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let most = format!("> {}", percent(others));
        aim(&mut table, "prompt tokens a node had, to the best of the others", most, percent(own), own > others);
        let ratio = self.ratio(0, |r| r.first_token.mean);
        aim(&mut table, "first token, mean, to round robin's", "<= 1 x".into(), format!("{ratio:.2} x"), ratio <= 1.0);
        let ratio = self.ratio(0, |r| r.short_whole.p99);
        let what = "short requests beside long ones, p99, to round robin's";
        aim(&mut table, what, "<= 1 x".into(), format!("{ratio:.2} x"), ratio <= 1.0);
        let Moved { nodes, left, came } = self.moved;
        let bound = MOVED / nodes as f64;
        for (what, share) in [("leaves", left), ("comes back", came)] {
            let what = format!("sessions that move when one of {nodes} nodes {what}");
            aim(&mut table, &what, format!("<= {}", percent(bound)), format!("{:.1} %", 100.0 * share), share <= bound);
        }
        if let Some((nodes, us)) = self.decisions.last() {
            let what = format!("a decision among {nodes} nodes");
            aim(&mut table, &what, format!("<= {DECISION} us"), format!("{us:.2} us"), *us <= DECISION);
        }
        let Killed { kills, steady: Steady { streams, failed, different, .. }, .. } = &self.killed;
        let what = format!("of {streams} deterministic streams, failed under {kills} kills");
        aim(&mut table, &what, "0".into(), failed.to_string(), *failed == 0);
        aim(&mut table, "… that said something else", "0".into(), different.to_string(), *different == 0);
        table
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.rounds.first().map_or(0, Vec::len);
        writeln!(
            out,
            "Four nodes, edges and load share {} cores; medians of {rounds} rounds that alternate between policies.\n",
            machine::cores(),
        )?;
        writeln!(out, "### Policies\n\n{}", self.policies())?;
        writeln!(out, "### Decisions\n\n{}", self.decisions())?;
        let Killed { kills, resumed, steady } = &self.killed;
        writeln!(
            out,
            "{kills} kills, {} streams of which {resumed} went on at another node at least once.{}{}\n",
            steady.streams,
            if steady.first_error.is_empty() { "" } else { " The first error: " },
            steady.first_error,
        )?;
        write!(out, "### Aims\n\n{}", self.aims())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn round(hits: f64, first: f64, p99: f64) -> Round {
        let times = |mean, p99| Times { mean, p50: mean, p99 };
        Round { hits, first_token: times(first, 2.0 * first), short_whole: times(0.01, p99) }
    }

    #[test]
    fn policies_are_held_against_round_robin_in_the_same_round() {
        let results = Results {
            rounds: vec![
                vec![round(0.8, 0.01, 0.03), round(0.8, 0.04, 0.06)],
                vec![round(0.3, 0.02, 0.02), round(0.3, 0.02, 0.04)],
                vec![round(0.2, 0.02, 0.02); 2],
                vec![round(0.25, 0.02, 0.02); 2],
            ],
            decisions: vec![(10, 0.2), (1000, 26.0)],
            moved: Moved { nodes: 4, left: 0.24, came: 0.31 },
            killed: Killed {
                kills: 9,
                resumed: 5.0,
                steady: Steady { streams: 100, failed: 0, different: 1, first_error: String::new() },
            },
        };
        let text = results.to_string();
        let line = |what: &str| text.lines().rfind(|line| line.contains(what)).unwrap_or_default().to_owned();
        for (what, figure, verdict) in [
            ("to the best of the others", "80 %", "met"),
            ("first token, mean, to round", "2.00 x", "missed"),
            ("short requests beside long ones", "1.50 x", "missed"),
            ("nodes leaves", "24.0 %", "met"),
            ("nodes comes back", "31.0 %", "missed"),
            ("among 1000 nodes", "26.00 us", "missed"),
            ("failed under 9 kills", "0", "met"),
            ("said something else", "1", "missed"),
        ] {
            assert!(line(what).contains(figure) && line(what).contains(verdict), "{what}: {}", line(what));
        }
    }
}
