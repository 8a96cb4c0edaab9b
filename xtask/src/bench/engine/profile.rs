//! `--profile`: where a token's time goes, part by part, in a node as it is served.

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result};

use super::{PREFILL, Plan, Round};
use crate::bench::{
    node::{Metrics, Node},
    table::Table,
};
use crate::ui::Ui;
use crate::{exec, place};

/// A request whose generation takes a larger share of its time is not helped by reading prompts faster.
const LARGE: f64 = 0.7;
const CURES: &str = "\
Generation takes most of a request. What helps:
1. streaming: the first words are read while the rest is computed, and tokens are sent as they leave the device (`stream: true`);
2. a smaller `max_tokens`, and stop strings: time grows with every token that nobody needs;
3. caching: an answer that is kept is not generated at all (the edge's cache), and equal requests at once are one generation.";

/// Parts of a step of the model by their label in the metrics, and what people call them.
const PARTS: [(&str, &str); 6] = [
    ("embedding", "embedding"),
    ("attention", "attention"),
    ("feed_forward", "MLP or experts"),
    ("head", "head"),
    ("sampler", "sampler"),
    ("readback", "readback"),
];

/// A part and its seconds.
type Row = (&'static str, f64);

/// What was asked while the clock ran.
struct Phase {
    name: String,
    /// Steps, or prompt tokens.
    count: f64,
    /// Seconds of all of them for whoever asked.
    wall: f64,
    spent: Metrics,
}

/// The profile of a node.
pub struct Profile {
    phases: Vec<Phase>,
    /// Of a request with a long prompt, the share of its time in which it writes.
    generation: f64,
    prompt: u32,
    answer: u32,
}

pub fn measure(ui: &Ui, plan: &Plan) -> Result<Profile> {
    let step = ui.step("profile");
    let mut node = Node::start(plan.model, "profile", &["--profile"])?;
    let prompt = PREFILL[PREFILL.len() - 1];
    let rounds = plan.rounds.to_string();
    let (tokens, length) = ((2 * plan.tokens).to_string(), prompt.to_string());
    let reading = ask(&node, &["--batch", "--prefill", &length, "--rounds", &rounds])?;
    let mut phases = Vec::new();
    let read = reading.round.prefill.first().context("node-load read nothing")?;
    phases.push(Phase {
        name: format!("a token of a prompt of {}", read.prompt_tokens),
        count: reading.spent.get("littoral_node_prompt_tokens_total")
            - reading.spent.get("littoral_node_prompt_cache_hit_tokens_total"),
        wall: reading.round.wall,
        spent: reading.spent.clone(),
    });
    let mut alone = 0.0;
    for batch in ["1", "8"] {
        let writing = ask(&node, &["--prefill", "--batch", batch, "--tokens", &tokens, "--rounds", &rounds])?;
        let written = writing.round.decode.first().context("node-load wrote nothing")?;
        if alone == 0.0 {
            alone = written.tokens_per_s;
        }
        phases.push(Phase {
            name: format!("a step of batch {batch}"),
            count: writing.spent.get("littoral_node_step_seconds_count"),
            wall: writing.round.wall,
            spent: writing.spent.clone(),
        });
    }
    node.stop();
    step.done("of prompts, of one answer and of eight");
    let writes = f64::from(2 * plan.tokens) / alone;
    let generation = writes / (writes + read.seconds);
    Ok(Profile { phases, generation, prompt: read.prompt_tokens, answer: 2 * plan.tokens })
}

/// What node-load said, and what the node counted meanwhile.
struct Asked {
    round: Round,
    spent: Metrics,
}

fn ask(node: &Node, arguments: &[&str]) -> Result<Asked> {
    let before = node.metrics()?;
    let mut load = Command::new(place::binary("node-load"));
    load.args(["--to", node.grpc()?]).args(arguments);
    let round = serde_json::from_str(&exec::output(&mut load)?).context("node-load printed something else")?;
    Ok(Asked { round, spent: node.metrics()?.since(&before) })
}

impl Phase {
    /// Seconds of one of what is counted.
    fn each(&self, histogram: &str, labels: &str) -> f64 {
        self.spent.get(&format!("littoral_node_{histogram}_seconds_sum{labels}")) / self.count.max(1.0)
    }

    /// What follows one another.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            PARTS.iter().map(|(label, name)| (*name, self.each("part", &format!("{{part=\"{label}\"}}")))).collect();
        let parts: f64 = rows.iter().map(|row| row.1).sum();
        let step = self.each("step", "");
        rows.push(("the rest of the model's step", (step - parts).max(0.0)));
        rows.push(("scheduler", self.each("schedule", "")));
        let inside: f64 = rows.iter().map(|row| row.1).sum();
        rows.push(("wire, wake-ups and who asks", (self.wall / self.count.max(1.0) - inside).max(0.0)));
        rows
    }

    /// What runs beside the next step.
    fn beside(&self) -> [Row; 2] {
        [("detokenising, events", self.each("write", "")), ("delivery", self.each("deliver", ""))]
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in &self.phases {
            let mut table = Table::new([phase.name.as_str(), "us", "share"]);
            let rows = phase.rows();
            let all: f64 = rows.iter().map(|row| row.1).sum();
            for (what, seconds) in rows {
                let share = 100.0 * seconds / all.max(f64::MIN_POSITIVE);
                table.row([what.into(), format!("{:.1}", 1e6 * seconds), format!("{share:.1} %")]);
            }
            table.row(["all".into(), format!("{:.1}", 1e6 * all), "100.0 %".into()]);
            for (what, seconds) in phase.beside() {
                table.row([format!("beside the next step: {what}"), format!("{:.1}", 1e6 * seconds), "-".into()]);
            }
            writeln!(out, "### {}\n\n{table}", phase.name)?;
        }
        writeln!(
            out,
            "Of a request with {} tokens and an answer of {}, {:.0} % of the time is generation.",
            self.prompt,
            self.answer,
            100.0 * self.generation
        )?;
        if self.generation > LARGE {
            writeln!(out, "\n{CURES}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn profile(generation: f64) -> Profile {
        let page = "littoral_node_step_seconds_sum 0.9\nlittoral_node_part_seconds_sum{part=\"attention\"} 0.3\n\
                    littoral_node_part_seconds_sum{part=\"head\"} 0.5\nlittoral_node_part_seconds_sum{part=\"sampler\"} 0.05\n\
                    littoral_node_write_seconds_sum 0.02\n";
        let phase = Phase { name: "a step".into(), count: 100.0, wall: 1.0, spent: Metrics::of(page) };
        Profile { phases: vec![phase], generation, prompt: 512, answer: 128 }
    }

    #[test]
    fn parts_add_up_to_what_the_one_who_asks_waits() {
        let text = profile(0.5).to_string();
        let line = |what: &str| text.lines().find(|line| line.contains(what)).unwrap_or_default().to_owned();
        for (what, figure) in [
            ("| attention", "3000.0 |  30.0 %"),
            ("| head", "5000.0 |  50.0 %"),
            ("the rest of the model", "500.0 |   5.0 %"),
            ("sampler", "500.0 |   5.0 %"),
            ("wire", "1000.0 |  10.0 %"),
            ("| all", "10000.0 | 100.0 %"),
            ("detokenising", "200.0"),
        ] {
            assert!(line(what).contains(figure), "{what}: {text}");
        }
    }

    #[test]
    fn cures_are_named_when_generation_is_most_of_a_request() {
        assert!(!profile(0.69).to_string().contains("What helps"));
        let text = profile(0.71).to_string();
        assert!(text.contains("streaming") && text.contains("max_tokens") && text.contains("caching"), "{text}");
    }
}
