//! Short requests beside long ones: who sends a short one behind a long one makes it wait.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::json;

use crate::ask::{Asker, Draws, Times};

#[derive(Args)]
pub struct Mixed {
    /// Users that ask short requests, one after the other.
    #[arg(long, default_value_t = 4)]
    short: usize,
    /// Users that ask long ones.
    #[arg(long, default_value_t = 2)]
    long: usize,
    /// Tokens of a long answer.
    #[arg(long, default_value_t = 400)]
    tokens: u32,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Serialize)]
pub struct Report {
    short: usize,
    long: usize,
    /// Of short requests, until the last token.
    short_whole: Times,
}

impl Mixed {
    pub async fn run(&self, asker: &Asker, seed: u64) -> anyhow::Result<Report> {
        let ends = Instant::now() + Duration::from_secs_f64(self.seconds);
        let user = |i: usize, words: usize, tokens: u32| {
            let mut draws = Draws::new(seed ^ (i as u64) << 20);
            async move {
                let mut times = Vec::new();
                while Instant::now() < ends {
                    let content = draws.words(words);
                    let body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": tokens});
                    times.push(asker.ask(body).await.map_err(|error| anyhow!(error))?.whole);
                }
                anyhow::Ok(times)
            }
        };
        let short = try_join_all((0..self.short).map(|i| user(i, 10, 4)));
        let long = try_join_all((0..self.long).map(|i| user(1000 + i, 200, self.tokens)));
        let (short, long) = tokio::try_join!(short, long)?;
        let (short, long) = (short.concat(), long.concat());
        Ok(Report { short: short.len(), long: long.len(), short_whole: Times::of(short) })
    }
}
