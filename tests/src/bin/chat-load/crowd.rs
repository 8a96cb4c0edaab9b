//! Many at once who ask the same, and many sessions with a request each.

use anyhow::anyhow;
use clap::Args;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use serde::Serialize;
use serde_json::json;

use crate::ask::{Asker, Draws};

#[derive(Args)]
pub struct Places {
    #[arg(long, default_value_t = 400)]
    sessions: usize,
}

impl Places {
    /// The node of each session, in order.
    pub async fn run(&self, asker: &Asker) -> anyhow::Result<Vec<String>> {
        let asking = stream::iter(0..self.sessions).map(|i| async move {
            let messages = [json!({"role": "user", "content": "hi"})];
            let body = json!({"messages": messages, "max_tokens": 1, "user_id": format!("session {i}")});
            asker.ask(body).await.map(|answer| answer.node).map_err(|error| anyhow!(error))
        });
        asking.buffered(2).try_collect().await
    }
}

#[derive(Args)]
pub struct Identical {
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Tokens of the answer.
    #[arg(long, default_value_t = 32)]
    tokens: u32,
}

#[derive(Serialize)]
pub struct Report {
    asked: usize,
    failed: usize,
    first_error: String,
    /// Answers that differ from the first.
    different: usize,
}

impl Identical {
    pub async fn run(&self, asker: &Asker, seed: u64) -> Report {
        let content = format!("Tell me about this: {}", Draws::new(seed).words(20));
        let body =
            json!({"messages": [{"role": "user", "content": content}], "max_tokens": self.tokens, "temperature": 0});
        let answers = join_all((0..self.count).map(|_| asker.ask(body.clone()))).await;
        let texts: Vec<&str> = answers.iter().flatten().map(|answer| answer.text.as_str()).collect();
        Report {
            asked: answers.len(),
            failed: answers.len() - texts.len(),
            first_error: answers.iter().find_map(|answer| answer.as_ref().err().cloned()).unwrap_or_default(),
            different: texts.iter().filter(|text| **text != texts[0]).count(),
        }
    }
}
