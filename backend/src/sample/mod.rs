//! Sampling: logits in, one token out.
//!
//! Randomness is a function of (seed, choice, index), not of a generator's state: a stream that another node continues
//! draws what the first one would have drawn, and a request draws the same alone and in a batch.
//!
//! The batch a row computes in moves its logits by rounding. A draw is therefore a race of the candidates, each with a
//! random number of its own: only two that arrive almost together could change places. (A number looked up in the sum
//! of all probabilities would fall beside one of thousands of borders, and every border moves with every logit.)

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
        let kept = if self.top_p < 1.0 { nucleus(scratch, self.top_p) } else { scratch.as_slice() };
        Ok(self.race(kept, index).unwrap_or(best))
    }

    /// The first to arrive, where a candidate of weight `w` takes the time `-ln(u) / w` and `u` is uniform: each wins
    /// with the probability `w / sum of all w` (the Gumbel-max trick: Maddison et al. 2014, "A* Sampling").
    fn race(&self, candidates: &[(f32, u32)], index: u32) -> Option<u32> {
        let key = self.key(index);
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
    fn key(&self, index: u32) -> u64 {
        let digest = Sha256::new()
            .chain_update(b"littoral sample 2")
            .chain_update(self.seed.to_le_bytes())
            .chain_update(self.choice.to_le_bytes())
            .chain_update(index.to_le_bytes())
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

/// The heaviest candidates that together have the share `top_p` of all weight, heaviest first; at least one. Sorts only
/// as many as it needs.
fn nucleus(candidates: &mut [(f32, u32)], top_p: f64) -> &[(f32, u32)] {
    let weight = |candidates: &[(f32, u32)]| candidates.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let mass = top_p * weight(candidates);
    let mut head = 32;
    while head < candidates.len() {
        candidates.select_nth_unstable_by(head, order);
        if weight(&candidates[..head]) >= mass {
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
            return &candidates[..=i];
        }
    }
    &candidates[..head]
}
