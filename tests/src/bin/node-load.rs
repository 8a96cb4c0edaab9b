//! `node-load`: measures a node through its gRPC, with its scheduler: how fast it reads prompts, how fast it writes.

use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use futures::future::try_join_all;
use littoral_tests::answers::{Ask, Node, median, rate};
use serde::Serialize;

/// Prints one line of JSON.
#[derive(Parser)]
struct Options {
    /// gRPC address of the node.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Prompt lengths to read, tokens; none to read nothing.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "128,512")]
    prefill: Vec<u32>,
    /// Requests to write at once; none to write nothing.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "1,4,8")]
    batch: Vec<usize>,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Number of the first round: the prompts of a round begin in a way of their own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_round: usize,
}

/// Medians over the rounds.
#[derive(Serialize)]
struct Report {
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    /// Seconds of everything that was asked, one after the other, a first short answer included.
    wall: f64,
}

#[derive(Serialize)]
struct Prefill {
    prompt_tokens: u32,
    /// From the request to the first token.
    seconds: f64,
}

#[derive(Serialize)]
struct Decode {
    batch: usize,
    /// All sequences together, while all of them run.
    tokens_per_s: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let load = Load(Node::connect(&options.to).await?);
    let began = Instant::now();
    // The first steps of a process are slower.
    load.0.ask(Ask::new("warm up", 4)).await?;
    let mut report = Report { prefill: Vec::new(), decode: Vec::new(), wall: 0.0 };
    for &length in &options.prefill {
        report.prefill.push(load.prefill(length, options.first_round, options.rounds).await?);
    }
    for &batch in &options.batch {
        report.decode.push(load.decode(batch, options.tokens, options.rounds).await?);
    }
    report.wall = began.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Load(Node);

impl Load {
    /// Reads prompts of `length` tokens: their words are a token each, so a first try tells how many more are needed.
    async fn prefill(&self, length: u32, first: usize, rounds: usize) -> anyhow::Result<Prefill> {
        let mut words = length.saturating_sub(32).max(1);
        let first_try = text(&format!("{length} {first} try"), words);
        let mut prompt_tokens = self.0.ask(Ask::new(&first_try, 1)).await?.prompt_tokens;
        words = (words + length).saturating_sub(prompt_tokens).max(1);
        let mut seconds = Vec::new();
        for round in first..first + rounds {
            // No prompt begins like another, so that no prefix is known.
            let answer = self.0.ask(Ask::new(&text(&format!("{length} {round} now"), words), 1)).await?;
            prompt_tokens = answer.prompt_tokens;
            seconds.push(answer.first());
        }
        Ok(Prefill { prompt_tokens, seconds: median(&mut seconds) })
    }

    async fn decode(&self, batch: usize, tokens: u32, rounds: usize) -> anyhow::Result<Decode> {
        const THINGS: [&str; 8] = ["tide", "harbour", "storm", "lighthouse", "ferry", "whale", "island", "pilot"];
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let prompts = THINGS.iter().cycle().take(batch).map(|thing| format!("Write a long story about a {thing}."));
            let answers = try_join_all(prompts.map(async |prompt| self.0.ask(Ask::new(&prompt, tokens)).await)).await?;
            rates.push(rate(&answers).context("the answers did not overlap; ask for more --tokens")?);
        }
        Ok(Decode { batch, tokens_per_s: median(&mut rates) })
    }
}

/// A prompt that begins with `opening` and goes on with so many common words.
fn text(opening: &str, words: u32) -> String {
    const WORDS: [&str; 12] = ["the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by"];
    let words = WORDS.iter().cycle().take(words as usize).copied();
    std::iter::once(opening).chain(words).collect::<Vec<_>>().join(" ")
}
