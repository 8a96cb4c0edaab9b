//! `cargo xtask bench serving`: what a node does for many. A second turn against the first, modest users beside a greedy
//! one, long prompts beside running answers, eight answers at once, drafts where a text repeats itself and where it does
//! not, and what a step of the scheduler costs.

mod report;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{machine, node::Node};
use crate::ui::Ui;
use crate::{build, exec, model, place};
use report::Results;

/// Requests that run at once when the scheduler is measured.
const CROWD: [usize; 3] = [16, 64, 256];

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// A GGUF file or a folder, instead of the default model
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What node-serving says of a round: seconds, and tokens a second.
#[derive(Debug, Clone, Deserialize)]
struct Round {
    first_turn: f64,
    second_turn: f64,
    idle_batch: f64,
    beside_greedy: f64,
    inter_token_median: f64,
    inter_token_p99: f64,
    prefill: f64,
    batch_1: f64,
    batch_8: f64,
    copy: Vec<Pair>,
    free: Vec<Pair>,
}

/// One prompt without drafts and with them.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Pair {
    off: f64,
    on: f64,
}

/// What a step of the scheduler costs with so many requests running, microseconds.
type Step = (usize, f64);

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        build::benchmarks(ui)?;
        build::scheduler(ui)?;
    }
    let model = options.model.as_deref().map_or_else(|| model::ensure(ui), model::given)?;
    let scheduler = {
        let step = ui.step("scheduler");
        let measured = scheduler()?;
        step.done("its own time, without a model");
        measured
    };
    let rounds = if options.quick { 1 } else { options.rounds.max(1) };
    let step = ui.step("rounds");
    let mut results = Results { rounds: Vec::new(), scheduler, drafted: 0.0, accepted: 0.0 };
    for round in 0..rounds {
        step.say(&format!("round {} of {rounds}", round + 1));
        // A node for each round: what one has in its cache, the next would find.
        let mut node = Node::start(&model, "serving", &[])?;
        let mut serving = Command::new(place::binary("node-serving"));
        serving.args(["--to", node.grpc()?]);
        if options.quick {
            serving.args(["--prefix", "300", "--long", "400", "--greedy", "40", "--tokens", "40", "--prompts", "1"]);
        }
        let printed = exec::output(&mut serving)?;
        results.rounds.push(serde_json::from_str(&printed).context("node-serving printed something else")?);
        let metrics = node.metrics()?;
        results.drafted += metrics.get("littoral_node_draft_tokens_total");
        results.accepted += metrics.get("littoral_node_accepted_draft_tokens_total");
        node.stop();
    }
    step.done(&format!("{rounds} with a new node each"));
    println!("{}\n\n{results}", machine::describe());
    Ok(())
}

/// Runs the example that measures the scheduler; it prints `256 running, 100 waiting: 12.3 us a step`.
fn scheduler() -> Result<Vec<Step>> {
    let printed = exec::output(&mut Command::new(place::example("schedule")))?;
    let steps: Vec<Step> = printed.lines().filter_map(step_of).collect();
    ensure!(steps.iter().map(|step| step.0).eq(CROWD), "the example 'schedule' printed something else:\n{printed}");
    Ok(steps)
}

fn step_of(line: &str) -> Option<Step> {
    let (running, rest) = line.split_once(" running, ")?;
    let (_, cost) = rest.split_once(": ")?;
    Some((running.parse().ok()?, cost.strip_suffix(" us a step")?.parse().ok()?))
}

#[cfg(test)]
mod unit_tests {
    use super::step_of;

    #[test]
    fn the_examples_lines_are_read() {
        assert_eq!(step_of("256 running, 100 waiting: 12.3 us a step"), Some((256, 12.3)));
        assert_eq!(step_of("something else"), None);
    }
}
