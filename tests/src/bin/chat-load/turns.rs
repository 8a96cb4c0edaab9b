//! Conversations that go on: every turn says again all that was said, so that a node that has it computes little.

use std::{cell::RefCell, collections::BTreeMap};

use clap::Args;
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::ask::{Answer, Asker, Draws, Times};

#[derive(Args)]
pub struct Turns {
    #[arg(long, default_value_t = 32)]
    conversations: usize,
    #[arg(long, default_value_t = 6)]
    turns: usize,
    /// Requests at once, over all conversations.
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Words of each message.
    #[arg(long, default_value_t = 40)]
    words: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 16)]
    tokens: u32,
}

#[derive(Serialize)]
pub struct Report {
    asked: usize,
    failed: usize,
    first_error: String,
    prompt_tokens: u64,
    hit_tokens: u64,
    first_token: Times,
    /// Requests that each node answered.
    nodes: BTreeMap<String, usize>,
}

impl Turns {
    pub async fn run(&self, asker: &Asker, seed: u64) -> Report {
        let places = Semaphore::new(self.at_once.max(1));
        // Those that want a place get it in the order in which they came: while one conversation has its turn, the others
        // have theirs.
        let errors = RefCell::new(Vec::new());
        let talks =
            (0..self.conversations).map(|i| self.talk(asker, &places, Draws::new(seed ^ (i as u64) << 20), &errors));
        let answers: Vec<Answer> = join_all(talks).await.into_iter().flatten().collect();
        let mut nodes = BTreeMap::new();
        for answer in &answers {
            *nodes.entry(answer.node.clone()).or_default() += 1;
        }
        let errors = errors.into_inner();
        Report {
            asked: answers.len() + errors.len(),
            failed: errors.len(),
            first_error: errors.into_iter().next().unwrap_or_default(),
            prompt_tokens: answers.iter().map(|answer| answer.prompt_tokens).sum(),
            hit_tokens: answers.iter().map(|answer| answer.hit_tokens).sum(),
            first_token: Times::of(answers.iter().map(|answer| answer.first)),
            nodes,
        }
    }

    /// One conversation, to its end or to its first failure.
    async fn talk(
        &self,
        asker: &Asker,
        places: &Semaphore,
        mut draws: Draws,
        errors: &RefCell<Vec<String>>,
    ) -> Vec<Answer> {
        let instructions = "You are the keeper of the harbour. Answer in short sentences and be kind to strangers.";
        let mut messages = vec![json!({"role": "system", "content": instructions})];
        let mut answers = Vec::new();
        for _ in 0..self.turns {
            messages.push(json!({"role": "user", "content": draws.words(self.words)}));
            let Ok(_place) = places.acquire().await else { return answers };
            match asker.ask(json!({"messages": messages, "max_tokens": self.tokens})).await {
                Ok(answer) => {
                    messages.push(json!({"role": "assistant", "content": answer.text}));
                    answers.push(answer);
                }
                Err(error) => {
                    errors.borrow_mut().push(error);
                    return answers;
                }
            }
        }
        answers
    }
}
