//! One question through an edge, timed; texts to ask, and sums over many answers.

use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use littoral_tests::{answers::median, client::Client};
use serde::Serialize;
use serde_json::Value;

/// Edges that are asked in turn.
pub struct Asker {
    clients: Vec<Client>,
    model: String,
    turn: Cell<usize>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    /// Until the first token, and until the last.
    pub first: Duration,
    pub whole: Duration,
    pub prompt_tokens: u64,
    pub hit_tokens: u64,
    pub node: String,
    /// `hit`, `miss`, `coalesced` or `bypass`.
    pub cache: String,
}

impl Asker {
    /// None without an edge, a key or a model.
    pub fn new(to: &[SocketAddr], key: &str, model: &str) -> Option<Self> {
        let clients: Vec<Client> = to.iter().map(|address| Client::new(*address).with_key(key)).collect();
        let known = !clients.is_empty() && !key.is_empty() && !model.is_empty();
        known.then(|| Self { clients, model: model.into(), turn: Cell::new(0) })
    }

    /// Asks the next edge and streams the answer; the error is what the client would see.
    pub async fn ask(&self, mut body: Value) -> Result<Answer, String> {
        let turn = self.turn.replace(self.turn.get() + 1);
        let client = &self.clients[turn % self.clients.len()];
        body["model"] = self.model.as_str().into();
        body["stream"] = true.into();
        let asked = Instant::now();
        let answer = client.try_send(client.chat_request(&body)).await.map_err(|e| e.to_string())?;
        if answer.status != 200 {
            let status = answer.status;
            return Err(format!("status {status}: {}", answer.text().await));
        }
        let node = answer.header("x-littoral-node").to_string();
        let cache = answer.header("x-littoral-cache").split(';').next().unwrap_or_default().to_string();
        let (mut text, mut first, mut usage, mut done) = (String::new(), None, Value::Null, false);
        let mut events = answer.events();
        while let Some(data) = events.next().await {
            if data == "[DONE]" {
                done = true;
                continue;
            }
            let mut chunk: Value = serde_json::from_str(&data).map_err(|e| format!("{e}: {data}"))?;
            if chunk.get("error").is_some() {
                return Err(data);
            }
            if let Some(said) = chunk["choices"][0]["delta"]["content"].as_str().filter(|said| !said.is_empty()) {
                first.get_or_insert_with(|| asked.elapsed());
                text.push_str(said);
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].take();
            }
        }
        if !done {
            return Err(events.broken.unwrap_or_else(|| "the stream ended before its end".into()));
        }
        let whole = asked.elapsed();
        let count = |name: &str| usage[name].as_u64().unwrap_or_default();
        Ok(Answer {
            text,
            first: first.unwrap_or(whole),
            whole,
            prompt_tokens: count("prompt_tokens"),
            hit_tokens: count("prompt_cache_hit_tokens"),
            node,
            cache,
        })
    }
}

/// Mean and percentiles of times, seconds.
#[derive(Debug, Serialize)]
pub struct Times {
    mean: f64,
    p50: f64,
    p99: f64,
}

impl Times {
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut seconds: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64()).collect();
        if seconds.is_empty() {
            return Self { mean: f64::NAN, p50: f64::NAN, p99: f64::NAN };
        }
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        let p50 = median(&mut seconds);
        seconds.sort_unstable_by(f64::total_cmp);
        Self { mean, p50, p99: seconds[(seconds.len() * 99 / 100).min(seconds.len() - 1)] }
    }
}

/// Draws of one seed.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(littoral_core::rendezvous::mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        littoral_core::rendezvous::mix(self.0)
    }

    /// At least 0 and less than 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// So many words in an order that no other seed has.
    pub fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 16] = [
            "tide", "harbour", "light", "keeper", "storm", "sail", "rope", "anchor", "gull", "reef", "pilot", "quay",
            "fog", "bell", "wave", "chart",
        ];
        let list: Vec<_> = (0..count).map(|_| WORDS[(self.next() % WORDS.len() as u64) as usize]).collect();
        list.join(" ")
    }
}
