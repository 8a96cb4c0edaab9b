//! What moves logits before a draw: penalties, biases and masks.

use std::{borrow::Borrow, collections::HashMap};

use super::{Mask, Sampling};

/// The tokens a penalty looks at. Empty when none does.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How often a token stands in the answer; 0 for one that stands in the prompt alone.
    counts: HashMap<u32, u32>,
    active: bool,
}

impl Seen {
    pub fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let repetition = sampling.repetition_penalty != 1.0;
        let active = repetition || sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0;
        let counts = if repetition { prompt.iter().map(|id| (*id, 0)).collect() } else { HashMap::new() };
        Self { counts, active }
    }

    /// A token was added to the answer.
    pub fn count(&mut self, id: u32) {
        if self.active {
            *self.counts.entry(id).or_default() += 1;
        }
    }
}

/// The logits a token is drawn from: those given, or changed ones in `buffer`. Tokens outside the mask get -inf.
pub fn adjust<'a>(
    given: &'a [f32],
    sampling: &Sampling,
    seen: &Seen,
    mask: Option<&Mask>,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    if seen.counts.is_empty() && sampling.logit_bias.is_empty() && mask.is_none() {
        return given;
    }
    buffer.clear();
    buffer.extend_from_slice(given);
    for (id, count) in &seen.counts {
        let Some(logit) = buffer.get_mut(*id as usize) else { continue };
        let penalty = sampling.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        if *count > 0 {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * *count as f32;
        }
    }
    for (id, bias) in &sampling.logit_bias {
        if let Some(logit) = buffer.get_mut(*id as usize) {
            *logit += bias;
        }
    }
    if let Some(mask) = mask {
        for (logits, word) in buffer.chunks_mut(32).zip(mask.iter().copied().chain(std::iter::repeat(0))) {
            for (bit, logit) in logits.iter_mut().enumerate() {
                // A logit that is not a number stays one, so that it is noticed.
                if word >> bit & 1 == 0 && !logit.is_nan() {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
    (*buffer).borrow()
}
