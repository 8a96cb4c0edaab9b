//! Questions by their popularity: the n-th most popular is asked in proportion to n^-s (Zipf's law).

use clap::Args;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::json;

use crate::ask::{Answer, Asker, Draws, Times};

#[derive(Args)]
pub struct Zipf {
    /// Different questions that may be asked.
    #[arg(long, default_value_t = 1000)]
    questions: usize,
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    #[arg(long, default_value_t = 1.0)]
    s: f64,
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 32)]
    tokens: u32,
    /// Another one makes other texts that are asked as often.
    #[arg(long, default_value_t = 0)]
    texts: u64,
}

#[derive(Serialize)]
pub struct Report {
    asked: usize,
    failed: usize,
    first_error: String,
    /// Different questions among them.
    distinct: usize,
    whole: Times,
    hits: usize,
    coalesced: usize,
}

impl Zipf {
    pub async fn run(&self, asker: &Asker, seed: u64) -> Report {
        let asked = self.draw(&mut Draws::new(seed));
        let asking = stream::iter(&asked).map(|&question| {
            let content = format!(
                "Question {question}: {}?",
                Draws::new(seed ^ (self.texts << 40) ^ ((question as u64) << 16)).words(12)
            );
            asker.ask(json!({"messages": [{"role": "user", "content": content}], "max_tokens": self.tokens}))
        });
        let answers: Vec<Result<Answer, String>> = asking.buffer_unordered(self.at_once.max(1)).collect().await;
        let whole: Vec<&Answer> = answers.iter().flatten().collect();
        let said = |what: &str| whole.iter().filter(|answer| answer.cache == what).count();
        let mut distinct = asked;
        distinct.sort_unstable();
        distinct.dedup();
        Report {
            asked: answers.len(),
            failed: answers.len() - whole.len(),
            first_error: answers.iter().find_map(|answer| answer.as_ref().err().cloned()).unwrap_or_default(),
            distinct: distinct.len(),
            whole: Times::of(whole.iter().map(|answer| answer.whole)),
            hits: said("hit"),
            coalesced: said("coalesced"),
        }
    }

    /// The questions in the order in which they are asked.
    fn draw(&self, draws: &mut Draws) -> Vec<usize> {
        let mut sum = 0.0;
        let shares: Vec<f64> = (1..=self.questions.max(1))
            .map(|rank| {
                sum += (rank as f64).powf(-self.s);
                sum
            })
            .collect();
        let question = |share: f64| shares.partition_point(|end| *end <= share * sum).min(shares.len() - 1);
        (0..self.requests).map(|_| question(draws.share())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_asked_half_as_often_as_the_first() {
        let zipf = Zipf { questions: 1000, requests: 200_000, s: 1.0, at_once: 1, tokens: 1, texts: 0 };
        let drawn = zipf.draw(&mut Draws::new(7));
        let count = |rank: usize| drawn.iter().filter(|question| **question == rank - 1).count() as f64;
        // The sum of 1/n over 1,000 is 7.485.
        assert!((count(1) / 200_000.0 - 1.0 / 7.485).abs() < 0.005, "{}", count(1));
        for rank in [2, 5, 10] {
            let share = count(1) / count(rank) / rank as f64;
            assert!((0.9..1.1).contains(&share), "{rank}: {share}");
        }
        assert!(drawn.iter().all(|question| *question < 1000));
    }
}
