//! `node-serving`: measures what a node does for many: a second turn, a greedy user beside modest ones, long prompts
//! beside running answers, a text that repeats itself.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use futures::future::try_join_all;
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{DescribeRequest, GenerateRequest, event::Kind, node_client::NodeClient};
use serde::Serialize;
use serde_json::json;
use tonic::transport::Channel;

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
}

/// Times are seconds.
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
    /// Tokens a second where the answer repeats the prompt, and on free text.
    copy_tokens_per_s: f64,
    free_tokens_per_s: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut client = NodeClient::connect(format!("http://{}", options.to)).await?;
    let info = client.describe(DescribeRequest {}).await?.into_inner();
    let model = info.models.first().context("the node serves no model")?.name.clone();
    let node = Node { client, model };
    node.ask("warm up", "warm", 4).await?;
    let (first_turn, second_turn) = node.turns(options.prefix).await?;
    let idle_batch = node.modest("idle", 5).await?;
    let beside_greedy = node.beside(options.greedy).await?;
    let (inter_token_median, inter_token_p99) = node.long_prompts(options.long).await?;
    let list = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu";
    let copy =
        node.ask(&format!("Repeat this list three times, exactly: {list}. {list}. {list}."), "copy", 120).await?;
    let free = node.ask("Write a story about a lighthouse keeper.", "free", 120).await?;
    let report = Report {
        first_turn,
        second_turn,
        idle_batch,
        beside_greedy,
        inter_token_median,
        inter_token_p99,
        copy_tokens_per_s: copy.rate(),
        free_tokens_per_s: free.rate(),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Node {
    client: NodeClient<Channel>,
    model: String,
}

/// When an answer was asked for, and when each of its tokens came.
struct Answer {
    asked: Instant,
    tokens: Vec<Instant>,
}

impl Answer {
    fn first(&self) -> f64 {
        self.tokens.first().map_or(f64::NAN, |at| (*at - self.asked).as_secs_f64())
    }

    fn rate(&self) -> f64 {
        match self.tokens.as_slice() {
            [first, .., last] => (self.tokens.len() - 1) as f64 / (*last - *first).as_secs_f64(),
            _ => f64::NAN,
        }
    }
}

impl Node {
    /// Time to first token of a conversation's first turn and of its second.
    async fn turns(&self, prefix: usize) -> anyhow::Result<(f64, f64)> {
        let beginning = words(prefix, 1);
        let first = self.ask(&beginning, "turns", 2).await?;
        let second = self.ask(&format!("{beginning} And what of it?"), "turns", 2).await?;
        Ok((first.first(), second.first()))
    }

    /// The slowest first token of so many users with a request each.
    async fn modest(&self, name: &str, users: usize) -> anyhow::Result<f64> {
        let asked = (0..users)
            .map(|i| async move { self.ask(&words(60, 3 + i), &format!("{name} {i}"), 16).await.map(|a| a.first()) });
        Ok(try_join_all(asked).await?.into_iter().fold(0.0, f64::max))
    }

    async fn beside(&self, greedy: usize) -> anyhow::Result<f64> {
        let all = (0..greedy).map(|i| async move { self.ask(&words(60, 20 + i), "greedy", 64).await });
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

    /// Median and 99th percentile between tokens of four answers while two long prompts are read.
    async fn long_prompts(&self, length: usize) -> anyhow::Result<(f64, f64)> {
        let running = (0..4).map(|i| async move { self.ask(&words(30, 90 + i), &format!("runs {i}"), 300).await });
        let long = (0..2).map(|i| async move { self.ask(&words(length, 100 + i), &format!("long {i}"), 1).await });
        let (answers, _) = tokio::try_join!(try_join_all(running), try_join_all(long))?;
        let gaps = answers.iter().flat_map(|a| a.tokens.windows(2)).map(|pair| (pair[1] - pair[0]).as_secs_f64());
        let mut gaps: Vec<f64> = gaps.collect();
        gaps.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| gaps.get(((gaps.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(f64::NAN);
        Ok((at(0.5), at(0.99)))
    }

    /// One greedy answer to a user's prompt.
    async fn ask(&self, prompt: &str, user: &str, max_tokens: u32) -> anyhow::Result<Answer> {
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "user_id": user,
            "stream": true,
        });
        let denied = |denial: littoral_core::Denial| anyhow::anyhow!(denial.message);
        let chat = ChatRequest::from_client(body.to_string().as_bytes()).map_err(denied)?;
        let request =
            GenerateRequest { model: chat.model.clone(), request: chat.to_bytes().into(), ..Default::default() };
        let mut answer = Answer { asked: Instant::now(), tokens: Vec::new() };
        let mut events = self.client.clone().generate(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            match event.kind {
                Some(Kind::Delta(delta)) => answer.tokens.extend(delta.token_ids.iter().map(|_| Instant::now())),
                Some(Kind::Error(error)) => bail!("the node said {}: {}", error.code, error.message),
                _ => {}
            }
        }
        Ok(answer)
    }
}

/// So many common words in an order of their own, a token each.
fn words(count: usize, number: usize) -> String {
    const WORDS: [&str; 12] = ["the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by"];
    let list: Vec<_> =
        (0..count).map(|i| WORDS[(i * (number % 11 + 1) + i / 12 * number + number) % WORDS.len()]).collect();
    list.join(" ")
}
