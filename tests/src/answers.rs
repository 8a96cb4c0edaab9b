//! A node asked through its gRPC by a program that measures: when each token of an answer came.

use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use littoral_core::{Denial, chat::ChatRequest};
use littoral_proto::v1::{DescribeRequest, GenerateRequest, Speculation, event::Kind, node_client::NodeClient};
use serde_json::json;
use tonic::transport::Channel;

/// A node and the model it serves.
pub struct Node {
    client: NodeClient<Channel>,
    model: String,
}

/// One greedy answer.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub prompt: &'a str,
    pub user: &'a str,
    pub max_tokens: u32,
    pub speculation: Speculation,
    /// What the answer is held to say, as an answer to a `response_format` is; None lets the model say what it will.
    pub says: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub fn new(prompt: &'a str, max_tokens: u32) -> Self {
        Self { prompt, user: "bench", max_tokens, speculation: Speculation::Auto, says: None }
    }
}

/// When an answer was asked for, and when each of its tokens came.
#[derive(Debug)]
pub struct Answer {
    pub prompt_tokens: u32,
    pub asked: Instant,
    pub tokens: Vec<Instant>,
}

impl Node {
    /// Connects to `host:port`.
    pub async fn connect(to: &str) -> anyhow::Result<Self> {
        let mut client = NodeClient::connect(format!("http://{to}")).await?;
        let info = client.describe(DescribeRequest {}).await?.into_inner();
        let model = info.models.first().context("the node serves no model")?.name.clone();
        Ok(Self { client, model })
    }

    pub async fn ask(&self, ask: Ask<'_>) -> anyhow::Result<Answer> {
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": ask.prompt}],
            "temperature": 0,
            "max_tokens": ask.max_tokens,
            "user_id": ask.user,
            "stream": true,
        });
        if let Some(text) = ask.says {
            body["response_format"] = json!({"type": "regex", "regex": literally(text)});
        }
        let denied = |denial: Denial| anyhow!(denial.message);
        let chat = ChatRequest::from_client(body.to_string().as_bytes()).map_err(denied)?;
        let request = GenerateRequest {
            model: chat.model.clone(),
            request: chat.to_bytes().into(),
            speculation: ask.speculation.into(),
            ..GenerateRequest::default()
        };
        let mut answer = Answer { prompt_tokens: 0, asked: Instant::now(), tokens: Vec::new() };
        let mut events = self.client.clone().generate(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            match event.kind {
                Some(Kind::Started(started)) => answer.prompt_tokens = started.prompt_tokens,
                Some(Kind::Delta(delta)) => answer.tokens.extend(delta.token_ids.iter().map(|_| Instant::now())),
                Some(Kind::Error(error)) => bail!("the node said {}: {}", error.code, error.message),
                _ => {}
            }
        }
        match answer.tokens.is_empty() {
            true => bail!("the node answered without a token"),
            false => Ok(answer),
        }
    }
}

impl Answer {
    /// Seconds until the first token.
    pub fn first(&self) -> f64 {
        self.tokens.first().map_or(f64::NAN, |at| (*at - self.asked).as_secs_f64())
    }
}

/// The regular expression of one text.
fn literally(text: &str) -> String {
    let sign = |c: char| if r".*+?|(){}[]^$\-".contains(c) { format!("\\{c}") } else { c.to_string() };
    text.chars().map(sign).collect()
}

/// Tokens a second between the last answer's first token and the first answer's last; None where answers did not overlap.
pub fn rate(answers: &[Answer]) -> Option<f64> {
    let from = answers.iter().filter_map(|answer| answer.tokens.first()).max()?;
    let to = answers.iter().filter_map(|answer| answer.tokens.last()).min()?;
    let count = answers.iter().flat_map(|answer| &answer.tokens).filter(|at| from < *at && *at <= to).count();
    (to > from).then(|| count as f64 / (*to - *from).as_secs_f64())
}

/// The middle one, or the upper of the two in the middle; 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
