//! Streams whose every token is known before: whatever dies meanwhile, they are whole and say the same.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use clap::Args;
use futures::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ask::{Asker, Draws};

#[derive(Args)]
pub struct Steady {
    #[arg(long, default_value_t = 12)]
    questions: usize,
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 200)]
    tokens: u32,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Serialize)]
pub struct Report {
    streams: usize,
    failed: usize,
    /// Those that said something else than before.
    different: usize,
    first_error: String,
}

impl Steady {
    pub async fn run(&self, asker: &Asker, seed: u64) -> anyhow::Result<Report> {
        let mut draws = Draws::new(seed);
        let questions: Vec<Value> = (0..self.questions.max(1))
            .map(|_| {
                let content = draws.words(20);
                json!({"messages": [{"role": "user", "content": content}], "max_tokens": self.tokens, "temperature": 0})
            })
            .collect();
        let mut expected = Vec::new();
        for question in &questions {
            expected.push(asker.ask(question.clone()).await.map_err(|error| anyhow!(error))?.text);
        }
        println!("ready questions={}", questions.len());
        std::io::stdout().flush()?;
        let ends = Instant::now() + Duration::from_secs_f64(self.seconds);
        let users = (0..self.at_once).map(|user| {
            let (questions, expected) = (&questions, &expected);
            async move {
                let mut report = Report { streams: 0, failed: 0, different: 0, first_error: String::new() };
                let mut at = user;
                while Instant::now() < ends {
                    at = (at + 1) % questions.len();
                    report.streams += 1;
                    match asker.ask(questions[at].clone()).await {
                        Ok(answer) => report.different += usize::from(answer.text != expected[at]),
                        Err(error) => {
                            report.failed += 1;
                            if report.first_error.is_empty() {
                                report.first_error = error;
                            }
                        }
                    }
                }
                report
            }
        });
        let reports = join_all(users).await;
        Ok(Report {
            streams: reports.iter().map(|report| report.streams).sum(),
            failed: reports.iter().map(|report| report.failed).sum(),
            different: reports.iter().map(|report| report.different).sum(),
            first_error: reports
                .into_iter()
                .map(|report| report.first_error)
                .find(|e| !e.is_empty())
                .unwrap_or_default(),
        })
    }
}
