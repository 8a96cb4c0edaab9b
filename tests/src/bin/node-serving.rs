//! `node-serving`: measures what a node does for many: a second turn, a greedy user beside modest ones, long prompts
//! beside running answers, eight at once, a text that repeats itself.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use futures::future::try_join_all;
use littoral_proto::v1::Speculation;
use littoral_tests::answers::{Ask, Node, median, rate};
use serde::Serialize;

const JSON: &str = r#"[{"name": "harbour", "depth": 12, "open": true}, {"name": "quay", "depth": 7, "open": true}, {"name": "lock", "depth": 5, "open": false}, {"name": "basin", "depth": 9, "open": true}, {"name": "pier", "depth": 4, "open": true}, {"name": "slipway", "depth": 2, "open": false}]"#;
const SETTINGS: &str = r#"{"listen": "127.0.0.1:8080", "cache": {"policy": "deterministic", "ttl_s": 1800}, "nodes": [{"address": "10.0.0.1:7070", "weight": 1}, {"address": "10.0.0.2:7070", "weight": 1}]}"#;
const SUMS: &str = "def total_of(values):
    total = 0
    for value in values:
        total = total + value
    if total > 100:
        total = 100
    return total


def mean_of(values):
    if not values:
        return 0
    return total_of(values) / len(values)
";
const CIRCLES: &str = "def area(radius):
    return 3.14159 * radius * radius


def perimeter(radius):
    return 2 * 3.14159 * radius


def volume(radius, height):
    return area(radius) * height


print(area(2.0))
print(perimeter(2.0))
print(volume(2.0, 5.0))
";

/// What is to be done with a text, and what of it is to be another in the answer.
struct Edit {
    ask: &'static str,
    text: &'static str,
    changes: &'static [(&'static str, &'static str)],
}

/// Answers that say again what the prompt says, whole or edited. A small model copies but does not edit: answers are held
/// to the text that was asked for.
const COPIES: [Edit; 6] = [
    Edit { ask: "Copy this JSON, exactly, and nothing else:", text: JSON, changes: &[] },
    Edit {
        ask: "Write this function again, with `total` renamed to `sum`:",
        text: SUMS,
        changes: &[("total ", "sum "), ("total\n", "sum\n")],
    },
    Edit { ask: "Copy these settings, exactly, and nothing else:", text: SETTINGS, changes: &[] },
    Edit {
        ask: "Take pi from `math`, and write the program again:",
        text: CIRCLES,
        changes: &[("def area", "import math\n\n\ndef area"), ("3.14159", "math.pi")],
    },
    Edit { ask: "Open every place that is closed:", text: JSON, changes: &[("false", "true")] },
    Edit { ask: "Let the cache keep answers for an hour:", text: SETTINGS, changes: &[("1800", "3600")] },
];
const FREE: [&str; 4] = [
    "Write a story about a lighthouse keeper.",
    "Explain why the sea is salty.",
    "Describe a storm in a harbour.",
    "What does a pilot do on a ship?",
];

/// Prints one line of JSON. The node must be otherwise idle.
#[derive(Parser)]
struct Options {
    /// gRPC address of the node.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Tokens of the prefix that two turns share.
    #[arg(long, default_value_t = 1500)]
    prefix: usize,
    /// Tokens of the prompts that arrive beside running answers.
    #[arg(long, default_value_t = 4000)]
    long: usize,
    /// Requests of the greedy user.
    #[arg(long, default_value_t = 64)]
    greedy: usize,
    /// Tokens of the answers whose rate is measured.
    #[arg(long, default_value_t = 128)]
    tokens: u32,
    /// Prompts of each kind that drafts are tried on, where there are as many.
    #[arg(long, default_value_t = 6)]
    prompts: usize,
}

/// Times are seconds, rates tokens a second.
#[derive(Serialize)]
struct Report {
    first_turn: f64,
    second_turn: f64,
    /// Of the slowest of five requests of five users on an idle node.
    idle_batch: f64,
    /// Of the slowest of four modest users beside the greedy one.
    beside_greedy: f64,
    /// Between two tokens of running answers while long prompts arrive.
    inter_token_median: f64,
    inter_token_p99: f64,
    /// Of a prompt that is read alone.
    prefill: f64,
    /// Of one answer, and of eight together.
    batch_1: f64,
    batch_8: f64,
    /// Prompt by prompt, without drafts and with them, where the answer repeats the prompt or edits it.
    copy: Vec<Pair>,
    /// The same where it does not.
    free: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    off: f64,
    on: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let load = Load(Node::connect(&options.to).await?);
    load.0.ask(Ask::new("warm up", 4)).await?;
    let (first_turn, second_turn, prefill) = load.turns(options.prefix).await?;
    let idle_batch = load.modest("idle", 5).await?;
    let beside_greedy = load.beside(options.greedy).await?;
    let (inter_token_median, inter_token_p99) = load.long_prompts(options.long).await?;
    let copies: Vec<_> = COPIES.iter().map(Edit::prompt).take(options.prompts).collect();
    let free: Vec<_> = FREE.iter().map(|prompt| (prompt.to_string(), None)).take(options.prompts).collect();
    let report = Report {
        first_turn,
        second_turn,
        idle_batch,
        beside_greedy,
        inter_token_median,
        inter_token_p99,
        prefill,
        batch_1: load.batch(1, options.tokens).await?,
        batch_8: load.batch(8, options.tokens).await?,
        copy: load.drafting(&copies, options.tokens).await?,
        free: load.drafting(&free, options.tokens).await?,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

impl Edit {
    /// What is asked, and what the answer is held to.
    fn prompt(&self) -> (String, Option<String>) {
        let edited = self.changes.iter().fold(self.text.to_owned(), |text, (old, new)| text.replace(old, new));
        (format!("{}\n{}", self.ask, self.text), Some(edited))
    }
}

struct Load(Node);

impl Load {
    /// Time to first token of a conversation's first turn and of its second, and how fast the first was read.
    async fn turns(&self, prefix: usize) -> anyhow::Result<(f64, f64, f64)> {
        let beginning = words(prefix, 1);
        let first = self.0.ask(Ask::new(&beginning, 2)).await?;
        let second = self.0.ask(Ask::new(&format!("{beginning} And what of it?"), 2)).await?;
        Ok((first.first(), second.first(), f64::from(first.prompt_tokens) / first.first()))
    }

    /// The slowest first token of so many users with a request each.
    async fn modest(&self, name: &str, users: usize) -> anyhow::Result<f64> {
        let asked = (0..users).map(|i| async move {
            let (prompt, user) = (words(60, 3 + i), format!("{name} {i}"));
            self.0.ask(Ask { user: &user, ..Ask::new(&prompt, 16) }).await.map(|answer| answer.first())
        });
        Ok(try_join_all(asked).await?.into_iter().fold(0.0, f64::max))
    }

    async fn beside(&self, greedy: usize) -> anyhow::Result<f64> {
        let all = (0..greedy).map(|i| async move {
            let prompt = words(60, 20 + i);
            self.0.ask(Ask { user: "greedy", ..Ask::new(&prompt, 64) }).await
        });
        let modest = async {
            // The greedy user's requests are all there before.
            tokio::time::sleep(Duration::from_secs(2)).await;
            self.modest("modest", 4).await
        };
        tokio::select! {
            first = modest => first,
            done = try_join_all(all) => done.and_then(|_| bail!("the greedy user was done before the others asked")),
        }
    }

    /// Median and 99th percentile between tokens of four answers while two long prompts are read. Nothing is drafted, so
    /// that tokens come one by one.
    async fn long_prompts(&self, length: usize) -> anyhow::Result<(f64, f64)> {
        let one = |prompt: String, user: String, max_tokens| async move {
            self.0.ask(Ask { user: &user, speculation: Speculation::Off, ..Ask::new(&prompt, max_tokens) }).await
        };
        let running = (0..4).map(|i| one(words(30, 90 + i), format!("runs {i}"), 300));
        let long = (0..2).map(|i| one(words(length, 100 + i), format!("long {i}"), 1));
        let (answers, _) = tokio::try_join!(try_join_all(running), try_join_all(long))?;
        let gaps = answers.iter().flat_map(|a| a.tokens.windows(2)).map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let mut gaps: Vec<f64> = gaps.collect();
        gaps.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| gaps.get(((gaps.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(f64::NAN);
        Ok((at(0.5), at(0.99)))
    }

    /// All answers together, while all of them run; nothing is drafted.
    async fn batch(&self, size: usize, tokens: u32) -> anyhow::Result<f64> {
        let asked = (0..size).map(|i| async move {
            let (prompt, user) = (format!("Write a long story, number {i}, about the sea."), format!("batch {i}"));
            self.0.ask(Ask { user: &user, speculation: Speculation::Off, ..Ask::new(&prompt, tokens) }).await
        });
        let answers = try_join_all(asked).await?;
        rate(&answers).context("the answers did not overlap; ask for more --tokens")
    }

    /// Each prompt without drafts and with them; twice, the order turned round the second time.
    async fn drafting(&self, prompts: &[(String, Option<String>)], tokens: u32) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (prompt, says) in prompts {
            let (mut off, mut on) = (Vec::new(), Vec::new());
            for how in [Speculation::Off, Speculation::Auto, Speculation::Auto, Speculation::Off] {
                let answer =
                    self.0.ask(Ask { speculation: how, says: says.as_deref(), ..Ask::new(prompt, tokens) }).await?;
                // Too short an answer has no rate.
                if let Some(rate) = rate(std::slice::from_ref(&answer)) {
                    if how == Speculation::Off { off.push(rate) } else { on.push(rate) }
                }
            }
            if !off.is_empty() && !on.is_empty() {
                pairs.push(Pair { off: median(&mut off), on: median(&mut on) });
            }
        }
        match pairs.is_empty() {
            true => bail!("no answer was long enough for a rate"),
            false => Ok(pairs),
        }
    }
}

/// So many common words in an order of their own, a token each.
fn words(count: usize, number: usize) -> String {
    const WORDS: [&str; 12] = ["the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by"];
    let list: Vec<_> =
        (0..count).map(|i| WORDS[(i * (number % 11 + 1) + i / 12 * number + number) % WORDS.len()]).collect();
    list.join(" ")
}
