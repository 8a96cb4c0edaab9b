//! Sampling: logits in, one token out, where the logits are: a GPU draws by itself (`model/ops/cube/draw`), and what it
//! draws is what the host draws ([`Draw::pick`]) but for candidates that arrive within its rounding.
//!
//! Randomness is a function of (seed, choice, index), not of a generator's state: a stream that another node continues
//! draws what the first one would have drawn, and a request draws the same alone and in a batch. What else a draw
//! depends on, the tokens so far, is rebuilt from them.
//!
//! The batch a row computes in moves its logits by rounding. A draw is therefore a race of the candidates, each with a
//! random number of its own: only two that arrive almost together could change places. (A number looked up in the sum
//! of all probabilities would fall beside one of thousands of borders, and every border moves with every logit.)

mod candidates;
mod changes;
mod draw;
mod logprobs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use changes::Change;
use changes::Changes;
pub use draw::{Draw, Picked, words};
pub use logprobs::{Logprob, Logprobs};

/// How the tokens of a request are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    pub seed: u64,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws from so many of the likeliest tokens; 0 from all.
    pub top_k: usize,
    /// Draws from the likeliest tokens that together have this probability, 0..=1; at least one.
    pub top_p: f64,
    /// Draws from tokens that are at least so likely, as a share of the likeliest one's probability, 0..=1.
    pub min_p: f64,
    /// Divides the positive logits of tokens in prompt or answer, and multiplies the negative ones; 1 leaves them
    /// (Keskar et al. 2019, "CTRL").
    pub repetition_penalty: f32,
    /// Taken off a token's logit for each time it stands in the answer.
    pub frequency_penalty: f32,
    /// Taken off a token's logit once it stands in the answer.
    pub presence_penalty: f32,
    /// Added to a token's logit.
    pub logit_bias: Vec<(u32, f32)>,
    /// The probability of each token is wanted, and those of so many of the likeliest beside it.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// Draws the tokens of one choice.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Arc<Sampling>,
    pub choice: u32,
    changes: Changes,
    /// Tokens of the answer so far.
    index: u32,
}

/// Tokens that may be drawn: bit `i % 32` of word `i / 32`.
pub type Mask = [u32];

/// Why no token can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the logit of token {0} is not a number")]
    NotANumber(usize),
    #[error("no token has a probability")]
    Empty,
}

impl Sampler {
    /// For an answer to `prompt`.
    pub fn new(sampling: Arc<Sampling>, choice: u32, prompt: &[u32]) -> Self {
        let changes = Changes::new(&sampling, prompt);
        Self { sampling, choice, changes, index: 0 }
    }

    pub fn seed(&self) -> u64 {
        self.sampling.seed
    }

    /// The draw of the answer's next token from a row of a step's logits, of those that `mask` allows.
    pub fn draw<'a>(&'a self, row: usize, mask: Option<&'a Mask>) -> Draw<'a> {
        Draw { row, sampling: &self.sampling, changes: self.changes.list(), mask, key: self.key() }
    }

    /// The token is part of the answer.
    pub fn accept(&mut self, id: u32) {
        self.changes.count(id, &self.sampling);
        self.index += 1;
    }

    /// Position of the next token in the answer.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The first 64 bits of SHA-256 over seed, choice and index, little-endian.
    fn key(&self) -> u64 {
        let digest = Sha256::new()
            .chain_update(b"littoral sample 2")
            .chain_update(self.sampling.seed.to_le_bytes())
            .chain_update(self.choice.to_le_bytes())
            .chain_update(self.index.to_le_bytes())
            .finalize();
        digest.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
    }
}
