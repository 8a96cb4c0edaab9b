//! `cargo xtask bench fleet`: four nodes behind one edge a policy. Conversations, short requests beside long ones, sessions
//! that move when a node comes or goes, and nodes that are killed under load.
//!
//! The nodes are real processes on a tiny checkpoint. They share the machine with edge and load: what the policies are held
//! against is another policy in the same round on the same nodes.

mod report;
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::edge_process::{Asking, Edge, Times, read};
use super::machine;
use super::node::Node;
use crate::ui::Ui;
use crate::up::child::Child;
use crate::{build, exec, guests, model, place, toolchain};
use report::{Killed, Moved, Results, Round};

/// `fleet.policy`. What the others are held against is the second.
const POLICIES: [&str; 4] = ["session", "round-robin", "random", "least-connections"];
const NODES: usize = 4;
/// What the nodes call the model.
const MODEL: &str = "tiny";

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds that alternate between the policies
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// A GGUF file or a folder, instead of the tiny checkpoint
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What `chat-load turns` says.
#[derive(Debug, Clone, Deserialize)]
struct Turns {
    failed: u64,
    first_error: String,
    prompt_tokens: f64,
    hit_tokens: f64,
    first_token: Times,
}

/// What `chat-load mixed` says.
#[derive(Debug, Clone, Deserialize)]
struct Mixed {
    short_whole: Times,
}

/// What `chat-load steady` says.
#[derive(Debug, Clone, Deserialize)]
struct Steady {
    streams: u64,
    failed: u64,
    different: u64,
    first_error: String,
}

/// Nodes that may be killed and started again where they were.
struct Pool {
    model: PathBuf,
    nodes: Vec<(String, Node)>,
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        guests::build(ui, &toolchain::ensure(ui, None)?)?;
        build::benchmarks(ui)?;
    }
    let dir = place::state().join("bench-fleet");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let model = match &options.model {
        Some(path) => model::given(path)?,
        None => tiny::make(&dir)?,
    };
    let step = ui.step("nodes");
    let mut pool = Pool::start(model)?;
    step.done(&format!("{NODES} nodes"));
    let results = Results {
        rounds: rounds(ui, &dir, &pool, options)?,
        decisions: read(&exec::output(Command::new(place::binary("chat-load")).arg("decide"))?)?,
        moved: moved(ui, &dir, &mut pool, options.quick)?,
        killed: killed(ui, &dir, &mut pool, options.quick)?,
    };
    println!("{}\n\n{results}", machine::describe());
    Ok(())
}

impl Pool {
    fn start(model: PathBuf) -> Result<Self> {
        let mut pool = Self { model, nodes: Vec::new() };
        for i in 0..NODES {
            let node = pool.node(i, "127.0.0.1:0")?;
            pool.nodes.push((node.grpc()?.to_owned(), node));
        }
        Ok(pool)
    }

    /// As much cache as a node needs for its share of the conversations and no more: one that gets everybody's forgets.
    fn node(&self, i: usize, address: &str) -> Result<Node> {
        let arguments = ["--name", MODEL, "--node", &format!("node-{i}"), "--slots", "4", "--kv-tokens", "32768"];
        Node::start_at(address, &self.model, &format!("fleet-{i}"), &arguments)
    }

    fn start_again(&mut self, i: usize) -> Result<()> {
        let address = self.nodes[i].0.clone();
        self.nodes[i].1 = self.node(i, &address)?;
        Ok(())
    }

    /// `[[node]]` sections of the nodes at these positions. Their names are the same in every run, and with them the
    /// sessions' homes.
    fn sections(&self, which: impl IntoIterator<Item = usize>) -> String {
        let section = |i: usize| format!("[[node]]\nname = 'node-{i}'\naddress = '{}'\n", self.nodes[i].0);
        which.into_iter().map(section).collect()
    }
}

/// An edge that keeps no answers.
fn edge(dir: &Path, fleet: &str, nodes: &str) -> Result<Edge> {
    Edge::start(dir, &format!("[cache]\npolicy = 'off'\n[fleet]\n{fleet}\n{nodes}"))
}

fn rounds(ui: &Ui, dir: &Path, pool: &Pool, options: &Options) -> Result<Vec<Vec<Round>>> {
    let (conversations, turns, seconds) = if options.quick { ("12", "4", "2") } else { ("48", "6", "6") };
    let step = ui.step("policies");
    let edges = POLICIES.iter().map(|policy| {
        let edge = edge(&dir.join(policy), &format!("policy = '{policy}'"), &pool.sections(0..NODES))?;
        edge.await_nodes(NODES).map(|()| edge)
    });
    let edges = edges.collect::<Result<Vec<_>>>()?;
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let mut measured = vec![Vec::new(); POLICIES.len()];
    for round in 0..rounds {
        for i in 0..edges.len() {
            // Each round begins with another policy, so that none always follows the same one.
            let i = (i + round as usize) % edges.len();
            step.progress(round, rounds, POLICIES[i]);
            let seed = 1 + round * POLICIES.len() as u64 + i as u64;
            let what = ["turns", "--conversations", conversations, "--turns", turns];
            let turns: Turns = edges[i].ask(&Asking { model: MODEL, seed, what: &what })?;
            ensure!(turns.failed == 0, "{}: {} failed, the first: {}", POLICIES[i], turns.failed, turns.first_error);
            let what = ["mixed", "--short", "6", "--long", "4", "--seconds", seconds];
            let mixed: Mixed = edges[i].ask(&Asking { model: MODEL, seed, what: &what })?;
            measured[i].push(Round {
                hits: turns.hit_tokens / turns.prompt_tokens.max(1.0),
                first_token: turns.first_token,
                short_whole: mixed.short_whole,
            });
        }
    }
    step.done(&format!("{rounds} rounds of {} policies", POLICIES.len()));
    Ok(measured)
}

/// Sessions that have another node after one left, and after it came back.
fn moved(ui: &Ui, dir: &Path, pool: &mut Pool, quick: bool) -> Result<Moved> {
    let step = ui.step("sessions");
    let count = if quick { "200" } else { "1000" };
    let file = dir.join("nodes.toml");
    fs::write(&file, pool.sections(0..NODES))?;
    let fleet = format!("nodes_file = '{}'\ndiscover_ms = 100", file.display());
    let edge = Edge::start(&dir.join("moved"), &format!("node = []\n[cache]\npolicy = 'off'\n[fleet]\n{fleet}\n"))?;
    let places = |nodes: usize| -> Result<Vec<String>> {
        edge.await_nodes(nodes)?;
        edge.ask(&Asking { model: MODEL, seed: 1, what: &["places", "--sessions", count] })
    };
    let before = places(NODES)?;
    fs::write(&file, pool.sections(0..NODES - 1))?;
    let without = places(NODES - 1)?;
    fs::write(&file, pool.sections(0..NODES))?;
    let after = places(NODES)?;
    let share = |one: &[String], other: &[String]| {
        one.iter().zip(other).filter(|(one, other)| one != other).count() as f64 / one.len().max(1) as f64
    };
    step.done(&format!("{count} of them, one of {NODES} nodes left and came back"));
    Ok(Moved { nodes: NODES, left: share(&before, &without), came: share(&without, &after) })
}

/// Streams through an edge whose nodes are killed, one after the other, as long as they last.
fn killed(ui: &Ui, dir: &Path, pool: &mut Pool, quick: bool) -> Result<Killed> {
    let step = ui.step("kills");
    let seconds = if quick { "8" } else { "40" };
    let home = dir.join("killed");
    let edge = edge(&home, "", &pool.sections(0..NODES))?;
    edge.await_nodes(NODES)?;
    let asking = Asking { model: MODEL, seed: 7, what: &["steady", "--seconds", seconds] };
    let mut load = Child::start("chat-load", &mut edge.chat_load(&[], &asking)?, &home)?;
    load.await_ready(Duration::from_secs(60)).context("the answers are not known")?;
    let mut kills = 0;
    let status = loop {
        if let Some(status) = load.died() {
            break status;
        }
        let i = kills % NODES;
        pool.nodes[i].1.kill();
        kills += 1;
        step.progress(kills as u64, 0, "killed");
        std::thread::sleep(Duration::from_millis(200));
        pool.start_again(i)?;
        std::thread::sleep(Duration::from_millis(600));
    };
    if !status.success() {
        bail!("chat-load ended with {status}\n{}", load.last_words());
    }
    let metrics = edge.metrics()?;
    let steady: Steady = read(&load.log()?).context("what was asked while nodes were killed")?;
    step.done(&format!("{kills} kills under {} streams", steady.streams));
    Ok(Killed { kills, resumed: metrics.get("littoral_failovers_total{outcome=\"resumed\"}"), steady })
}
