//! `cargo xtask bench engine`: how fast a node reads prompts and writes answers, beside llama.cpp with the same file
//! and as many threads, how soon it has loaded the model, and how much memory that takes.
//!
//! Decoding reads every weight once a step, so that on a CPU the bandwidth is the limit: bytes of weights a step, times
//! steps a second, against what a plain loop reads.

mod bandwidth;
mod own;
mod peer;
mod profile;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::machine;
use crate::ui::Ui;
use crate::{build, model};
use own::Node;
use report::{Engine, Results};

const PREFILL: [u32; 2] = [128, 512];
const BATCH: [u32; 3] = [1, 4, 8];
/// How the node meets weights with activations: a row of the report each.
const ARITHMETIC: [&str; 2] = ["fast", "exact"];

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// A GGUF file, instead of the default model; a folder too, which llama.cpp does not read
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Leave llama.cpp out; its first use builds it, which takes minutes
    #[arg(long)]
    no_peer: bool,
    /// Only where a token's time goes: part by part, in a node that measures it
    #[arg(long)]
    profile: bool,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What an engine did in a round: prefill in the order of [`PREFILL`], decode in that of [`BATCH`].
#[derive(Debug, Deserialize)]
struct Round {
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    /// Seconds of everything that was asked, where that is said.
    #[serde(default)]
    wall: f64,
}

#[derive(Debug, Deserialize)]
struct Prefill {
    prompt_tokens: u32,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Decode {
    batch: u32,
    /// All sequences together.
    tokens_per_s: f64,
}

/// What is measured, and how long.
struct Plan<'a> {
    model: &'a Path,
    rounds: u32,
    /// Of each answer.
    tokens: u32,
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        build::benchmarks(ui)?;
    }
    let model = options.model.as_deref().map_or_else(|| model::ensure(ui), model::given)?;
    let (rounds, tokens) = if options.quick { (1, 16) } else { (options.rounds.max(1), 64) };
    let plan = Plan { model: &model, rounds, tokens };
    if options.profile {
        let profile = profile::measure(ui, &plan)?;
        println!("{}\n\n{profile}", machine::describe());
        return Ok(());
    }
    let bandwidth = {
        let step = ui.step("memory");
        let measured = bandwidth::measure(machine::cores());
        step.done("read bandwidth");
        measured
    };
    let peer = (!options.no_peer).then(|| peer::install(ui));
    let results = measure(ui, &plan, bandwidth, peer)?;
    println!("{}\n\n{results}", machine::describe());
    Ok(())
}

/// Rounds alternate between the engines; the nodes stay up and rest meanwhile.
fn measure(ui: &Ui, plan: &Plan, bandwidth: Vec<(usize, f64)>, peer: Option<Result<PathBuf>>) -> Result<Results> {
    let step = ui.step("load");
    let load = own::load_seconds(plan)?;
    step.done("the model, once it is in the system's memory");
    let mut nodes =
        ARITHMETIC.map(|arithmetic| Node::start(plan, arithmetic)).into_iter().collect::<Result<Vec<_>>>()?;
    let step = ui.step("rounds");
    let mut own: Vec<Vec<Round>> = nodes.iter().map(|_| Vec::new()).collect();
    let mut theirs = peer.as_ref().map(|python| match python {
        Ok(_) => Ok(Vec::new()),
        Err(error) => Err(format!("{error:#}")),
    });
    for round in 0..plan.rounds {
        for (node, rounds) in nodes.iter().zip(&mut own) {
            step.say(&format!("round {} of {}: {}", round + 1, plan.rounds, node.name()));
            rounds.push(node.round(plan, round)?);
        }
        if let (Some(Ok(python)), Some(Ok(rounds))) = (&peer, &mut theirs) {
            step.say(&format!("round {} of {}: llama.cpp", round + 1, plan.rounds));
            match peer::round(python, plan) {
                Ok(round) => rounds.push(round),
                Err(error) => theirs = Some(Err(format!("{error:#}"))),
            }
        }
    }
    let complete =
        |rounds: &[Round]| rounds.iter().all(|r| r.prefill.len() == PREFILL.len() && r.decode.len() == BATCH.len());
    ensure!(own.iter().all(|rounds| complete(rounds)), "node-load left figures out");
    let peak = nodes[0].peak_bytes();
    let bound = nodes[0].cache_bytes()? + model::bytes(plan.model)? as f64 + own::BESIDES;
    nodes.iter_mut().for_each(Node::stop);
    step.done(&format!("{} of each engine", plan.rounds));
    let names = nodes.iter().map(Node::name).zip(own.into_iter().map(Ok));
    let theirs = theirs.map(|rounds| (format!("llama.cpp ({})", peer::VERSION), rounds));
    let engines = names.chain(theirs).map(|(name, rounds)| Engine { name, rounds }).collect();
    let weights = model::bytes(plan.model)? as f64;
    Ok(Results { engines, has_peer: peer.is_some(), weights, bandwidth, load, peak, bound })
}
