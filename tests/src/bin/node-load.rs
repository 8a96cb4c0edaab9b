//! `node-load`: measures a node through its gRPC, with its scheduler: how fast it reads prompts, how fast it writes.

use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use futures::future::try_join_all;
use littoral_core::chat::{ChatRequest, Message};
use littoral_proto::v1::{DescribeRequest, GenerateRequest, event::Kind, node_client::NodeClient};
use serde::Serialize;
use tonic::transport::Channel;

/// Prints one line of JSON.
#[derive(Parser)]
struct Options {
    /// gRPC address of the node.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Prompt lengths to read, tokens.
    #[arg(long, value_delimiter = ',', default_value = "128,512")]
    prefill: Vec<u32>,
    /// Requests to write at once.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8")]
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
    let mut client = NodeClient::connect(format!("http://{}", options.to)).await?;
    let info = client.describe(DescribeRequest {}).await?.into_inner();
    let model = info.models.first().context("the node serves no model")?.name.clone();
    let node = Node { client, model };
    // The first steps of a process are slower.
    node.answer("warm up", 4).await?;
    let mut report = Report { prefill: Vec::new(), decode: Vec::new() };
    for &length in &options.prefill {
        report.prefill.push(node.prefill(length, options.first_round, options.rounds).await?);
    }
    for &batch in &options.batch {
        report.decode.push(node.decode(batch, options.tokens, options.rounds).await?);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Node {
    client: NodeClient<Channel>,
    model: String,
}

/// When each token of an answer came, and how long its prompt was.
struct Answer {
    prompt_tokens: u32,
    asked: Instant,
    tokens: Vec<Instant>,
}

impl Node {
    /// Reads prompts of `length` tokens: their words are a token each, so a first try tells how many more are needed.
    async fn prefill(&self, length: u32, first: usize, rounds: usize) -> anyhow::Result<Prefill> {
        let mut words = length.saturating_sub(32).max(1);
        let first_try = text(&format!("{length} {first} try"), words);
        let mut prompt_tokens = self.answer(&first_try, 1).await?.prompt_tokens;
        words = (words + length).saturating_sub(prompt_tokens).max(1);
        let mut seconds = Vec::new();
        for round in first..first + rounds {
            // No prompt begins like another, so that no prefix is known.
            let answer = self.answer(&text(&format!("{length} {round} now"), words), 1).await?;
            prompt_tokens = answer.prompt_tokens;
            let first = answer.tokens.first().context("the node answered without a token")?;
            seconds.push((*first - answer.asked).as_secs_f64());
        }
        Ok(Prefill { prompt_tokens, seconds: median(&mut seconds) })
    }

    async fn decode(&self, batch: usize, tokens: u32, rounds: usize) -> anyhow::Result<Decode> {
        const THINGS: [&str; 8] = ["tide", "harbour", "storm", "lighthouse", "ferry", "whale", "island", "pilot"];
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let prompts = THINGS.iter().cycle().take(batch).map(|thing| format!("Write a long story about a {thing}."));
            let answers = try_join_all(prompts.map(async |prompt| self.answer(&prompt, tokens).await)).await?;
            rates.push(rate(&answers).context("the answers did not overlap; ask for more --tokens")?);
        }
        Ok(Decode { batch, tokens_per_s: median(&mut rates) })
    }

    /// One greedy answer of at most so many tokens.
    async fn answer(&self, prompt: &str, max_tokens: u32) -> anyhow::Result<Answer> {
        let message = Message {
            role: "user".into(),
            content: prompt.into(),
            name: None,
            reasoning_content: None,
            tool_call_id: None,
            tool_calls: None,
        };
        let chat = ChatRequest {
            model: self.model.clone(),
            messages: vec![message],
            max_tokens: Some(max_tokens),
            temperature: 0.0,
            top_p: 1.0,
            stop: Vec::new(),
            seed: None,
            sampling: Default::default(),
            tools: Vec::new(),
            tool_choice: Default::default(),
            response_format: Default::default(),
            thinking: None,
            user_id: None,
            stream: true,
            stream_options: None,
        };
        let request = GenerateRequest {
            model: self.model.clone(),
            request: chat.to_bytes().into(),
            ..GenerateRequest::default()
        };
        let asked = Instant::now();
        let mut events = self.client.clone().generate(request).await?.into_inner();
        let mut answer = Answer { prompt_tokens: 0, asked, tokens: Vec::new() };
        while let Some(event) = events.message().await? {
            match event.kind {
                Some(Kind::Started(started)) => answer.prompt_tokens = started.prompt_tokens,
                Some(Kind::Delta(delta)) => {
                    answer.tokens.extend(delta.token_ids.iter().map(|_| Instant::now()));
                }
                Some(Kind::Error(error)) => bail!("the node said {}: {}", error.code, error.message),
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// A prompt that begins with `opening` and goes on with so many common words.
fn text(opening: &str, words: u32) -> String {
    const WORDS: [&str; 12] = ["the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by"];
    let words = WORDS.iter().cycle().take(words as usize).copied();
    std::iter::once(opening).chain(words).collect::<Vec<_>>().join(" ")
}

/// Tokens a second between the last answer's first token and the first answer's last.
fn rate(answers: &[Answer]) -> Option<f64> {
    let from = answers.iter().filter_map(|answer| answer.tokens.first()).max()?;
    let to = answers.iter().filter_map(|answer| answer.tokens.last()).min()?;
    let count = answers.iter().flat_map(|answer| &answer.tokens).filter(|at| from < *at && *at <= to).count();
    (to > from).then(|| count as f64 / (*to - *from).as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
