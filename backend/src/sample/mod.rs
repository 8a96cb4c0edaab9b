//! Sampling: logits in, one token out.
//!
//! Randomness is a function of (seed, choice, index), not of a generator's state: a stream that another node continues
//! draws what the first one would have drawn, and a request draws the same alone and in a batch.

#[cfg(test)]
mod tests;

use sha2::{Digest, Sha256};

/// How the tokens of one choice are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Draws from the likeliest tokens that together have this probability, 0..=1; at least one.
    pub top_p: f64,
    pub seed: u64,
    pub choice: u32,
}

/// Why no token can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the logit of token {0} is not a number")]
    NotANumber(usize),
    #[error("no token has a probability")]
    Empty,
}

/// Candidates of a draw (weight, token), kept between draws to spare the allocation.
pub type Scratch = Vec<(f32, u32)>;

impl Sampler {
    /// The token at position `index` of the answer. Equal logits are decided in favour of the smaller id.
    pub fn pick(&self, logits: &[f32], index: u32, scratch: &mut Scratch) -> Result<u32, SampleError> {
        let (best, highest) = greatest(logits)?;
        if self.temperature <= 0.0 {
            return Ok(best);
        }
        let scale = 1.0 / self.temperature as f32;
        scratch.clear();
        scratch.extend(logits.iter().zip(0..).map(|(&logit, id)| (((logit - highest) * scale).exp(), id)));
        let whole: f64 = scratch.iter().map(|(w, _)| f64::from(*w)).sum();
        let (kept, mass) =
            if self.top_p < 1.0 { nucleus(scratch, self.top_p * whole) } else { (scratch.as_slice(), whole) };
        let mut rest = self.uniform(index) * mass;
        for (weight, id) in kept {
            rest -= f64::from(*weight);
            if rest < 0.0 {
                return Ok(*id);
            }
        }
        // Rounding left a remainder: the last token that has a probability.
        Ok(kept.iter().rev().find(|(w, _)| *w > 0.0).map_or(best, |(_, id)| *id))
    }

    /// A number in [0, 1): the first 53 bits of SHA-256 over seed, choice and index, little-endian.
    fn uniform(&self, index: u32) -> f64 {
        let digest = Sha256::new()
            .chain_update(b"littoral sample 1")
            .chain_update(self.seed.to_le_bytes())
            .chain_update(self.choice.to_le_bytes())
            .chain_update(index.to_le_bytes())
            .finalize();
        let first = digest.iter().take(8).fold(0u64, |n, b| n << 8 | u64::from(*b));
        (first >> 11) as f64 / (1u64 << 53) as f64
    }
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

/// The heaviest candidates that together reach `mass`, heaviest first, and their weight. Sorts only as many as it needs.
fn nucleus(candidates: &mut [(f32, u32)], mass: f64) -> (&[(f32, u32)], f64) {
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mut head = 32;
    while head < candidates.len() {
        candidates.select_nth_unstable_by(head, order);
        if candidates[..head].iter().map(|(w, _)| f64::from(*w)).sum::<f64>() >= mass {
            break;
        }
        head *= 4;
    }
    let head = head.min(candidates.len());
    candidates[..head].sort_unstable_by(order);
    let mut sum = 0.0;
    for i in 0..head {
        sum += f64::from(candidates[i].0);
        if sum >= mass {
            return (&candidates[..=i], sum);
        }
    }
    (&candidates[..head], sum)
}
