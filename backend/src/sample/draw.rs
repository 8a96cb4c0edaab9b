//! One draw, on the host: what a device that draws itself is held against.

use std::cell::RefCell;

use littoral_kernels::softmax_weights;

use super::{Change, Logprob, Logprobs, Mask, SampleError, Sampling, candidates, logprobs};

/// One draw: which row of a step's logits, and all that decides what is taken from it.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    pub row: usize,
    pub sampling: &'a Sampling,
    /// At most one for each token.
    pub changes: &'a [Change],
    /// Only these tokens may be drawn, and none beyond the mask's end.
    pub mask: Option<&'a Mask>,
    /// Of the draw's random numbers.
    pub key: u64,
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    pub id: u32,
    pub logprobs: Option<Logprobs>,
}

/// Memory for a draw, kept between draws to spare the allocations.
#[derive(Debug, Default)]
struct Scratch {
    logits: Vec<f32>,
    weights: Vec<f32>,
    /// Weight, token.
    candidates: Vec<(f32, u32)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Draw<'_> {
    /// Whether the likeliest token is taken.
    pub fn greedy(&self) -> bool {
        self.sampling.temperature <= 0.0
    }

    /// Draws from a row of logits. Equal ones are decided in favour of the smaller id.
    pub fn pick(&self, given: &[f32]) -> Result<Picked, SampleError> {
        SCRATCH.with_borrow_mut(|Scratch { logits: moved, weights, candidates }| {
            let logits = self.moved(given, moved);
            let (best, highest) = greatest(logits)?;
            let id = if self.greedy() {
                best
            } else {
                weights.resize(logits.len(), 0.0);
                softmax_weights(logits, highest, 1.0 / self.sampling.temperature as f32, weights);
                // The likeliest token weighs 1.
                let least = self.sampling.min_p as f32;
                let all = weights.iter().copied().zip(0..).filter(|(weight, _)| *weight >= least);
                let winner = if candidates::cuts(self.sampling, logits.len()) {
                    candidates.clear();
                    candidates.extend(all);
                    self.race(candidates::cut(candidates, self.sampling).iter().copied())
                } else {
                    self.race(all)
                };
                winner.unwrap_or(best)
            };
            let logprobs = self.sampling.logprobs.map(|top| logprobs::of(given, id, top, candidates));
            Ok(Picked { id, logprobs })
        })
    }

    /// The logits a token is drawn from: those given, or changed ones in `buffer`. Tokens outside the mask get -inf.
    fn moved<'b>(&self, given: &'b [f32], buffer: &'b mut Vec<f32>) -> &'b [f32] {
        if self.changes.is_empty() && self.mask.is_none() {
            return given;
        }
        buffer.clear();
        buffer.extend_from_slice(given);
        for change in self.changes {
            if let Some(logit) = buffer.get_mut(change.id as usize) {
                *logit = change.of(*logit);
            }
        }
        if let Some(mask) = self.mask {
            for (logits, word) in buffer.chunks_mut(32).zip(mask.iter().copied().chain(std::iter::repeat(0))) {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    // A logit that is not a number stays one, so that it is noticed.
                    if word >> bit & 1 == 0 && !logit.is_nan() {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
        buffer
    }

    /// The first to arrive, where a candidate of weight `w` takes the time `-ln(u) / w` and `u` is uniform: each wins
    /// with the probability `w / sum of all w` (the Gumbel-max trick: Maddison et al. 2014, "A* Sampling").
    fn race(&self, candidates: impl Iterator<Item = (f32, u32)>) -> Option<u32> {
        let mut first = (f64::INFINITY, None);
        for (weight, id) in candidates {
            let weight = f64::from(weight);
            let late = uniform(self.key, id);
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
    // Lane by lane, so that it compiles to vectors: it goes over a whole vocabulary for each draw.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut numbers = [true; 16];
    let (groups, rest) = logits.as_chunks::<16>();
    for group in groups {
        for ((lane, number), logit) in lanes.iter_mut().zip(&mut numbers).zip(group) {
            *lane = if *logit > *lane { *logit } else { *lane };
            *number &= *logit < f32::INFINITY;
        }
    }
    let highest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let is_number = |logit: &f32| *logit < f32::INFINITY;
    if numbers.contains(&false) || !rest.iter().all(is_number) {
        let wrong = logits.iter().position(|logit| !is_number(logit));
        return Err(SampleError::NotANumber(wrong.unwrap_or_default()));
    }
    match logits.iter().position(|logit| *logit == highest) {
        Some(id) if highest > f32::NEG_INFINITY => Ok((id as u32, highest)),
        _ => Err(SampleError::Empty),
    }
}

/// What draws took, as the memory of a device holds it: for each draw as many words, of which the first is a token or one
/// of the errors below. Where log probabilities are asked for, the bits of the token's own follow, then token and bits of
/// each of the likeliest.
pub mod words {
    use super::*;

    /// With the number of the first token whose logit is not a number.
    pub const NOT_A_NUMBER: u32 = 1 << 31;
    pub const EMPTY: u32 = u32::MAX;

    /// Words of each of these draws, from rows of `vocab` logits.
    pub fn width(draws: &[Draw], vocab: usize) -> usize {
        let most = draws.iter().filter_map(|draw| draw.sampling.logprobs).max();
        most.map_or(1, |top| 2 + 2 * top.min(vocab))
    }

    pub fn write(picked: &Result<Picked, SampleError>, words: &mut [u32]) {
        let (first, logprobs) = match picked {
            Ok(picked) => (picked.id, picked.logprobs.as_ref()),
            Err(SampleError::NotANumber(id)) => (NOT_A_NUMBER | *id as u32, None),
            Err(SampleError::Empty) => (EMPTY, None),
        };
        let logprobs = logprobs.into_iter().flat_map(|asked| {
            let top = asked.top.iter().flat_map(|top| [top.id, top.logprob.to_bits()]);
            std::iter::once(asked.logprob.to_bits()).chain(top)
        });
        words.iter_mut().zip(std::iter::once(first).chain(logprobs)).for_each(|(word, value)| *word = value);
    }

    /// What a draw with these settings took from a row of `vocab` logits.
    pub fn read(words: &[u32], sampling: &Sampling, vocab: usize) -> Result<Picked, SampleError> {
        let id = match words.first() {
            None | Some(&EMPTY) => return Err(SampleError::Empty),
            Some(id) if id & NOT_A_NUMBER != 0 => return Err(SampleError::NotANumber((id & !NOT_A_NUMBER) as usize)),
            Some(id) => *id,
        };
        let logprobs = sampling.logprobs.zip(words.split_at_checked(2)).map(|(top, (own, rest))| {
            let (pairs, _) = rest.as_chunks();
            let top =
                pairs.iter().take(top.min(vocab)).map(|[id, bits]| Logprob { id: *id, logprob: f32::from_bits(*bits) });
            Logprobs { logprob: f32::from_bits(own[1]), top: top.collect() }
        });
        Ok(Picked { id, logprobs })
    }
}
