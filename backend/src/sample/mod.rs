//! Sampling: logits in, one token out.
//!
//! Randomness is a function of (seed, choice, index), not of a generator's state: a stream that another node continues
//! draws what the first one would have drawn, and a request draws the same alone and in a batch. What else a draw
//! depends on, the tokens so far, is rebuilt from them.
//!
//! The batch a row computes in moves its logits by rounding. A draw is therefore a race of the candidates, each with a
//! random number of its own: only two that arrive almost together could change places. (A number looked up in the sum
//! of all probabilities would fall beside one of thousands of borders, and every border moves with every logit.)

mod adjust;
mod candidates;
mod logprobs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use adjust::Seen;
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
    seen: Seen,
    /// Tokens of the answer so far.
    index: u32,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
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

/// Memory for a draw, kept between draws to spare the allocations.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    /// Weight, token.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// For an answer to `prompt`.
    pub fn new(sampling: Arc<Sampling>, choice: u32, prompt: &[u32]) -> Self {
        let seen = Seen::new(&sampling, prompt);
        Self { sampling, choice, seen, index: 0 }
    }

    pub fn seed(&self) -> u64 {
        self.sampling.seed
    }

    /// The next token of the answer, of those that `mask` allows. Equal logits are decided in favour of the smaller id.
    pub fn pick(&self, logits: &[f32], mask: Option<&Mask>, scratch: &mut Scratch) -> Result<Picked, SampleError> {
        let Scratch { logits: adjusted, candidates } = scratch;
        let given = logits;
        let logits = adjust::adjust(given, &self.sampling, &self.seen, mask, adjusted);
        let (best, highest) = greatest(logits)?;
        let id = if self.sampling.temperature <= 0.0 {
            best
        } else {
            let kept = candidates::candidates(logits, highest, &self.sampling, candidates);
            self.race(kept).unwrap_or(best)
        };
        let logprobs = self.sampling.logprobs.map(|top| logprobs::of(given, id, top, candidates));
        Ok(Picked { id, logprobs })
    }

    /// The token is part of the answer.
    pub fn accept(&mut self, id: u32) {
        self.seen.count(id);
        self.index += 1;
    }

    /// Position of the next token in the answer.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The first to arrive, where a candidate of weight `w` takes the time `-ln(u) / w` and `u` is uniform: each wins
    /// with the probability `w / sum of all w` (the Gumbel-max trick: Maddison et al. 2014, "A* Sampling").
    fn race(&self, candidates: &[(f32, u32)]) -> Option<u32> {
        let key = self.key();
        let mut first = (f64::INFINITY, None);
        for &(weight, id) in candidates {
            let weight = f64::from(weight);
            let late = uniform(key, id);
            // -ln(1 - late) is at least `late`: almost all are out of the race before a logarithm is taken.
            if weight > 0.0 && late < first.0 * weight {
                let arrival = -(-late).ln_1p() / weight;
                if arrival < first.0 {
                    first = (arrival, Some(id));
                }
            }
        }
        first.1
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

/// A number in [0, 1) for a token: the output of SplitMix64 at `id` steps from `key` (Steele et al. 2014).
fn uniform(key: u64, id: u32) -> f64 {
    let mut z = key.wrapping_add((u64::from(id) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
}

/// The first greatest logit and its token.
fn greatest(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let mut best = (0, f32::NEG_INFINITY);
    for (&logit, id) in logits.iter().zip(0u32..) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SampleError::NotANumber(id as usize));
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY { Err(SampleError::Empty) } else { Ok(best) }
}
