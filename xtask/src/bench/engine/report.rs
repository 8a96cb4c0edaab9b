//! The figures of a run as tables, and beside the aims.

use std::fmt;

use super::Round;
use crate::bench::{
    machine, median,
    table::{Table, aim},
};

const GB: f64 = 1e9;
const MIB: f64 = (1 << 20) as f64;

/// Everything a run measured. Bytes and seconds.
pub struct Results {
    /// The node's fast arithmetic first; llama.cpp last, if it takes part.
    pub engines: Vec<Engine>,
    pub has_peer: bool,
    /// What one step reads of weights: those in the file, whoever reads them.
    pub weights: f64,
    /// (threads, bytes a second)
    pub bandwidth: Vec<(usize, f64)>,
    /// From exec until the node is ready.
    pub load: f64,
    /// The most memory that the first engine had, and what weights, cache and all else may take.
    pub peak: f64,
    pub bound: f64,
}

/// An engine and its rounds, or why there are none.
pub struct Engine {
    pub name: String,
    pub rounds: Result<Vec<Round>, String>,
}

/// A figure of a round, tokens a second.
#[derive(Clone, Copy)]
enum Figure {
    Prefill(usize),
    Decode(usize),
}

const FIGURES: [Figure; 5] =
    [Figure::Prefill(0), Figure::Prefill(1), Figure::Decode(0), Figure::Decode(1), Figure::Decode(2)];

impl Figure {
    fn of(self, round: &Round) -> f64 {
        match self {
            Self::Prefill(i) => f64::from(round.prefill[i].prompt_tokens) / round.prefill[i].seconds,
            Self::Decode(i) => round.decode[i].tokens_per_s,
        }
    }
}

impl Engine {
    fn median(&self, figure: Figure) -> Option<f64> {
        let rounds = self.rounds.as_ref().ok()?;
        Some(median(rounds.iter().map(|round| figure.of(round))))
    }

    /// Median over the rounds of a figure against another engine's of the same round.
    fn ratio(&self, to: &Self, figure: Figure) -> Option<f64> {
        let (own, other) = (self.rounds.as_ref().ok()?, to.rounds.as_ref().ok()?);
        Some(median(own.iter().zip(other).map(|(own, other)| figure.of(own) / figure.of(other))))
    }
}

impl Results {
    fn own(&self) -> &[Engine] {
        let peers = usize::from(self.has_peer);
        &self.engines[..self.engines.len() - peers]
    }

    /// llama.cpp, if it was measured.
    fn peer(&self) -> Option<&Engine> {
        self.engines.last().filter(|_| self.has_peer)
    }

    fn rates(&self) -> Table {
        let mut table = columns();
        for engine in &self.engines {
            let name = match &engine.rounds {
                Ok(_) => engine.name.clone(),
                Err(why) => format!("{}: {why}", engine.name),
            };
            row(&mut table, name, |figure| engine.median(figure).map(|rate| format!("{rate:.1}")));
        }
        table
    }

    fn ratios(&self) -> Option<Table> {
        let peer = self.peer().filter(|peer| peer.rounds.is_ok())?;
        let mut table = columns();
        for engine in self.own() {
            let ratio = |figure| engine.ratio(peer, figure).map(|ratio| format!("{ratio:.2} x"));
            row(&mut table, engine.name.clone(), ratio);
        }
        Some(table)
    }

    fn reading(&self) -> Table {
        let best = self.bandwidth.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
        let mut table = Table::new(["engine", "batch 1", "batch 4", "batch 8"]);
        for engine in &self.engines {
            let Some(first) = engine.rounds.as_ref().ok().and_then(|rounds| rounds.first()) else { continue };
            let share = |i: usize| {
                let steps = engine.median(Figure::Decode(i)).unwrap_or_default() / f64::from(first.decode[i].batch);
                let read = steps * self.weights;
                format!("{:.1} GB/s, {:.0} %", read / GB, 100.0 * read / best)
            };
            table.row([engine.name.clone(), share(0), share(1), share(2)]);
        }
        table
    }

    fn aims(&self) -> Table {
        let mut table = Table::new(["aim", "at most/least", "measured", ""]);
        if let Some(peer) = self.peer() {
            let own = &self.own()[0];
            for (what, figure, least) in [
                ("decode, batch 1, to llama.cpp's", Figure::Decode(0), 1.3),
                ("decode, batch 8, to llama.cpp's", Figure::Decode(2), 1.3),
                ("prefill of 512, to llama.cpp's", Figure::Prefill(1), 1.0),
            ] {
                let ratio = own.ratio(peer, figure);
                let text = ratio.map_or("not measured".into(), |ratio| format!("{ratio:.2} x"));
                aim(&mut table, what, format!(">= {least:.1} x"), text, ratio.is_some_and(|ratio| ratio >= least));
            }
        }
        let text = format!("{:.2} s", self.load);
        aim(&mut table, "a node is ready after, the file in memory", "<= 1.0 s".into(), text, self.load <= 1.0);
        let share = self.peak / self.bound;
        let text = format!("{share:.2} x: {:.0} of {:.0} MiB", self.peak / MIB, self.bound / MIB);
        aim(&mut table, "peak memory, to weights + KV cache + 64 MiB", "<= 1.3 x".into(), text, share <= 1.3);
        table
    }
}

fn columns() -> Table {
    Table::new(["engine", "prefill of 128", "of 512", "decode, batch 1", "batch 4", "batch 8"])
}

fn row(table: &mut Table, name: String, text: impl Fn(Figure) -> Option<String>) {
    let [a, b, c, d, e] = FIGURES.map(|figure| text(figure).unwrap_or("-".into()));
    table.row([name, a, b, c, d, e]);
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.engines[0].rounds.as_ref().map_or(0, Vec::len);
        writeln!(
            out,
            "The same file for all, weights as in the file: {:.0} MB a step. As many threads as cores ({}). Rounds alternate; {rounds} of each, medians.\n",
            self.weights / 1e6,
            machine::cores(),
        )?;
        let mut table = Table::new(["threads", "GB/s"]);
        for (threads, bytes) in &self.bandwidth {
            table.row([threads.to_string(), format!("{:.1}", bytes / GB)]);
        }
        writeln!(out, "### Memory read bandwidth\n\n{table}")?;
        writeln!(out, "### Tokens a second\n\n{}", self.rates())?;
        if let Some(ratios) = self.ratios() {
            writeln!(out, "### Against llama.cpp, in the same round\n\n{ratios}")?;
        }
        writeln!(out, "### Weights read while decoding, and the share of the bandwidth\n\n{}", self.reading())?;
        write!(out, "### Aims\n\n{}", self.aims())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::super::{BATCH, Decode, PREFILL, Prefill};
    use super::*;

    /// Rounds in which everything runs at `rates` tokens a second.
    fn engine(name: &str, rates: &[f64]) -> Engine {
        let round = |rate: &f64| Round {
            prefill: PREFILL.map(|n| Prefill { prompt_tokens: n, seconds: f64::from(n) / rate }).into(),
            decode: BATCH.map(|batch| Decode { batch, tokens_per_s: *rate }).into(),
            wall: 0.0,
        };
        Engine { name: name.into(), rounds: Ok(rates.iter().map(round).collect()) }
    }

    fn results(engines: Vec<Engine>, has_peer: bool) -> Results {
        let (weights, bandwidth) = (1e9, vec![(1, 30e9), (2, 40e9)]);
        Results { engines, has_peer, weights, bandwidth, load: 0.5, peak: 100.0 * MIB, bound: 80.0 * MIB }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_are_held_against_the_aims() {
        let engines = vec![engine("a", &[10.0, 30.0, 12.0]), engine("llama.cpp", &[5.0, 20.0, 10.0])];
        let text = results(engines, true).to_string();
        assert!(text.contains("1.50 x") && text.contains("12.0 GB/s, 30 %"), "{text}");
        assert_eq!(text.matches("| met").count() + text.matches("  met").count(), 5, "{text}");
    }

    #[test]
    fn a_peer_that_cannot_be_had_is_a_row_with_its_reason() {
        let peer = Engine { name: "llama.cpp".into(), rounds: Err("no compiler".into()) };
        let text = results(vec![engine("a", &[10.0]), peer], true).to_string();
        assert!(text.contains("llama.cpp: no compiler") && text.contains("not measured"), "{text}");
        assert!(!text.contains("### Against llama.cpp"), "{text}");
    }
}
