//! What moves logits before a draw: penalties and biases, kept for every token that they touch.

use std::collections::HashMap;

use super::Sampling;

/// What is done to the logit of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub id: u32,
    /// Divides a positive logit, and multiplies another.
    pub penalty: f32,
    /// Taken off then.
    pub minus: f32,
    /// Added then.
    pub plus: f32,
}

impl Change {
    pub fn of(&self, logit: f32) -> f32 {
        let penalised = if logit > 0.0 { logit / self.penalty } else { logit * self.penalty };
        penalised - self.minus + self.plus
    }
}

/// The changes to the logits of one answer's next token, one for each token that has any.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    list: Vec<Change>,
    /// Place in the list, and how often the token stands in the answer.
    of: HashMap<u32, (usize, u32)>,
}

impl Changes {
    pub fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let mut changes = Self::default();
        if sampling.repetition_penalty != 1.0 {
            for id in prompt {
                changes.entry(*id).0.penalty = sampling.repetition_penalty;
            }
        }
        for (id, bias) in &sampling.logit_bias {
            changes.entry(*id).0.plus += bias;
        }
        changes
    }

    /// The token was added to the answer.
    pub fn count(&mut self, id: u32, sampling: &Sampling) {
        let Sampling { repetition_penalty, frequency_penalty, presence_penalty, .. } = *sampling;
        if repetition_penalty != 1.0 || frequency_penalty != 0.0 || presence_penalty != 0.0 {
            let (change, times) = self.entry(id);
            *times += 1;
            change.penalty = repetition_penalty;
            change.minus = presence_penalty + frequency_penalty * *times as f32;
        }
    }

    pub fn list(&self) -> &[Change] {
        &self.list
    }

    fn entry(&mut self, id: u32) -> (&mut Change, &mut u32) {
        let (at, times) = self.of.entry(id).or_insert((self.list.len(), 0));
        if *at == self.list.len() {
            self.list.push(Change { id, penalty: 1.0, minus: 0.0, plus: 0.0 });
        }
        (&mut self.list[*at], times)
    }
}
