//! `cargo xtask bench cache`: what users wait for answers of the real model, with the cache and without, where few questions
//! are asked often; and how many generations a hundred identical requests cost, on one edge and on two.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{
    edge_process::{Asking, Edge, Times, read, share_keys},
    machine, median,
    node::Node,
    table::{Table, aim},
};
use crate::ui::Ui;
use crate::up::child::Child;
use crate::{build, exec, guests, model, place, toolchain};

/// What the node calls the model.
const MODEL: &str = "model";
const REDIS_PORT: &str = "7978";
/// Mean answer time with the cache, to that without: what the practice report has (2.8 s and 1.1 s).
const AIM: f64 = 0.39;

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds that alternate between with and without
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Requests of a round, over as many questions [default: 1000; with --quick 60]
    #[arg(long)]
    requests: Option<usize>,
    /// A GGUF file or a folder, instead of the default model
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What `chat-load zipf` says.
#[derive(Debug, Clone, Deserialize)]
struct Zipf {
    asked: f64,
    failed: u64,
    first_error: String,
    distinct: f64,
    whole: Times,
    hits: f64,
    coalesced: f64,
}

/// What `chat-load identical` says.
#[derive(Debug, Clone, Deserialize)]
struct Identical {
    asked: u64,
    failed: u64,
    first_error: String,
    different: u64,
}

/// Identical requests over so many edges, and the generations they cost.
struct Shared {
    edges: usize,
    requests: u64,
    generations: f64,
}

/// One round.
struct Round {
    with: Zipf,
    without: Zipf,
}

/// One side of a round.
type Side = fn(&Round) -> &Zipf;

struct Results {
    rounds: Vec<Round>,
    shared: Vec<Shared>,
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        guests::build(ui, &toolchain::ensure(ui, None)?)?;
        build::benchmarks(ui)?;
    }
    let model = options.model.as_deref().map_or_else(|| model::ensure(ui), model::given)?;
    let dir = place::state().join("bench-cache");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let node = Node::start(&model, "cache", &["--name", MODEL])?;
    let results = Results { rounds: rounds(ui, &dir, &node, options)?, shared: shared(ui, &dir, &node)? };
    println!("{}\n\n{results}", machine::describe());
    Ok(())
}

fn config(node: &Node, more: &str) -> Result<String> {
    Ok(format!("{more}[[node]]\nname = 'node'\naddress = '{}'\n", node.grpc()?))
}

fn rounds(ui: &Ui, dir: &Path, node: &Node, options: &Options) -> Result<Vec<Round>> {
    let requests = options.requests.unwrap_or(if options.quick { 60 } else { 1000 }).to_string();
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let step = ui.step("questions");
    let with = Edge::start(&dir.join("with"), &config(node, "[cache]\npolicy = 'always'\nttl_ms = 1800000\n")?)?;
    let without = Edge::start(&dir.join("without"), &config(node, "[cache]\npolicy = 'off'\n")?)?;
    let mut measured = Vec::new();
    for round in 0..rounds {
        // The same popularity and other texts: neither the edge's cache nor the node's has seen them.
        let ask = |edge: &Edge, turn: u64| -> Result<Zipf> {
            step.progress(2 * round + turn, 2 * rounds, "asking");
            edge.await_nodes(1)?;
            let texts = (2 * round + turn).to_string();
            let what = ["zipf", "--questions", &requests, "--requests", &requests, "--texts", &texts];
            let zipf: Zipf = edge.ask(&Asking { model: MODEL, seed: 1 + round, what: &what })?;
            ensure!(zipf.failed == 0, "{} of {} failed, the first: {}", zipf.failed, zipf.asked, zipf.first_error);
            Ok(zipf)
        };
        measured.push(match round % 2 {
            0 => Round { with: ask(&with, 0)?, without: ask(&without, 1)? },
            _ => {
                let without = ask(&without, 0)?;
                Round { with: ask(&with, 1)?, without }
            }
        });
    }
    step.done(&format!("{rounds} rounds of {requests} requests, with and without"));
    Ok(measured)
}

fn shared(ui: &Ui, dir: &Path, node: &Node) -> Result<Vec<Shared>> {
    let step = ui.step("at once");
    let mut redis = Command::new("redis-server");
    redis.args(["--port", REDIS_PORT, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let _redis = Child::start("redis", &mut redis, &dir.join("redis"))
        .context("redis-server is needed (apt-get install redis-server)")?;
    // A server that is not there yet would be left alone for a while.
    std::thread::sleep(Duration::from_secs(1));
    let store =
        format!("[store]\nurl = '{}'\nanswers = 'redis://127.0.0.1:{REDIS_PORT}'\n", dir.join("shared.db").display());
    let config = config(node, &format!("{store}[cache]\npolicy = 'always'\n"))?;
    let (one, two) = (dir.join("one"), dir.join("two"));
    let first = Edge::start(&one, &config)?;
    share_keys(&one, &two)?;
    let second = Edge::start(&two, &config)?;
    let generations = || -> Result<f64> {
        // The node counts a request a moment after its last event.
        std::thread::sleep(Duration::from_millis(300));
        Ok(node.metrics()?.sum("littoral_node_requests_total"))
    };
    let mut measured = Vec::new();
    for (edges, others) in [(1, &[][..]), (2, &[&second][..])] {
        for edge in std::iter::once(&first).chain(others.iter().copied()) {
            edge.await_nodes(1)?;
        }
        let before = generations()?;
        let asking = Asking { model: MODEL, seed: 1000 + edges as u64, what: &["identical", "--count", "100"] };
        let said: Identical = read(&exec::output(&mut first.chat_load(others, &asking)?)?)?;
        ensure!(said.failed == 0, "{} of {} failed, the first: {}", said.failed, said.asked, said.first_error);
        ensure!(said.different == 0, "{} of {} answers differ from the first", said.different, said.asked);
        measured.push(Shared { edges, requests: said.asked, generations: generations()? - before });
    }
    step.done("a hundred identical requests, twice");
    Ok(measured)
}

impl Results {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn times(&self) -> Table {
        let mut table = Table::new(["whole answers", "mean ms", "p50", "p99", "from the cache", "joined another's"]);
        let sides: [(&str, Side); 2] = [("without", |round| &round.without), ("with the cache", |round| &round.with)];
        for (name, side) in sides {
            let ms = |time: fn(&Times) -> f64| format!("{:.1}", 1e3 * self.median(|round| time(&side(round).whole)));
            let share = |count: fn(&Zipf) -> f64| {
                format!("{:.0} %", 100.0 * self.median(|round| count(side(round)) / side(round).asked.max(1.0)))
            };
            table.row([
                name.into(),
                ms(|t| t.mean),
                ms(|t| t.p50),
                ms(|t| t.p99),
                share(|zipf| zipf.hits),
                share(|zipf| zipf.coalesced),
            ]);
        }
        table
    }

    fn aims(&self) -> Table {
        let mut table = Table::new(["aim", "at most/least", "measured", ""]);
        let ratio = self.median(|round| round.with.whole.mean / round.without.whole.mean);
        let what = "mean answer time with the cache, to that without";
        aim(&mut table, what, format!("<= {AIM} x"), format!("{ratio:.2} x"), ratio <= AIM);
        for Shared { edges, requests, generations } in &self.shared {
            let on = if *edges == 1 { "one edge".into() } else { format!("{edges} edges and a Redis") };
            let what = format!("generations of {requests} identical requests at once, on {on}");
            aim(&mut table, &what, "1".into(), generations.to_string(), *generations == 1.0);
        }
        table
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |figure: fn(&Zipf) -> f64| self.median(|round| figure(&round.with));
        writeln!(
            out,
            "{} requests, of which {} different, drawn by Zipf's law with s = 1, 4 at once, from empty caches; \
             `cache.policy = 'always'`, 30 minutes. Medians of {} rounds.\n",
            of(|zipf| zipf.asked),
            of(|zipf| zipf.distinct),
            self.rounds.len(),
        )?;
        writeln!(out, "### Times\n\n{}", self.times())?;
        write!(out, "### Aims\n\n{}", self.aims())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn zipf(mean: f64, hits: f64) -> Zipf {
        let whole = Times { mean, p50: mean, p99: 3.0 * mean };
        Zipf { asked: 1000.0, failed: 0, first_error: String::new(), distinct: 370.0, whole, hits, coalesced: 10.0 }
    }

    #[test]
    fn the_ratio_is_taken_within_a_round() {
        let round = |with, without| Round { with: zipf(with, 600.0), without: zipf(without, 0.0) };
        let rounds = vec![round(0.1, 0.4), round(0.2, 0.5), round(0.2, 0.4)];
        let shared = vec![
            Shared { edges: 1, requests: 100, generations: 1.0 },
            Shared { edges: 2, requests: 100, generations: 2.0 },
        ];
        let text = Results { rounds, shared }.to_string();
        let line = |what: &str| text.lines().rfind(|line| line.contains(what)).unwrap_or_default().to_owned();
        for (what, figure, verdict) in
            [("mean answer time", "0.40 x", "missed"), ("on one edge", "1", "met"), ("on 2 edges", "2", "missed")]
        {
            assert!(line(what).contains(figure) && line(what).contains(verdict), "{what}: {}", line(what));
        }
    }
}
