//! One answer in the making, as the engine's thread sees it: its tokens, and how the next ones are drawn.

use std::sync::Arc;

use littoral_proto::finish;
use tokio::sync::oneshot;

use super::{job::Constraint, voice::Said, writer::RequestId};
use crate::{
    grammar::{GrammarError, Masker, Masks, Pending},
    sample::{SampleError, Sampler, Scratch},
    speculate::{Eagerness, Lookup},
};

pub struct Sequence {
    pub request: RequestId,
    /// Position among the request's choices.
    pub at: usize,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    sampler: Sampler,
    bound: Option<Bound>,
    lookup: Option<Lookup>,
    /// What is tried after the last token in the next step.
    drafts: Vec<u32>,
    max_tokens: usize,
    ends: Arc<[u32]>,
    /// Who wants the prompt's vector, in place of an answer.
    pub vector: Option<oneshot::Sender<Vec<f32>>>,
}

/// How an answer is held to its grammar.
enum Bound {
    /// Not before this token.
    After(Box<Constraint>),
    /// The mask for the next token is computed, and those after drafts.
    Now(Pending),
}

/// What a sequence is made of.
pub struct Parts {
    pub request: RequestId,
    pub at: usize,
    /// The prompt, and what the client already has of the answer, which `sampler` has counted.
    pub tokens: Vec<u32>,
    pub sampler: Sampler,
    pub constraint: Option<Constraint>,
    pub speculate: Option<Eagerness>,
    pub max_tokens: usize,
    pub ends: Arc<[u32]>,
    pub vector: Option<oneshot::Sender<Vec<f32>>>,
}

/// Why a token cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

impl Sequence {
    pub fn new(parts: Parts, masker: &Masker) -> Self {
        let Parts { request, at, tokens, sampler, constraint, speculate, max_tokens, ends, vector } = parts;
        let lookup = speculate.map(Lookup::new);
        let bound = constraint.map(|c| match c.after {
            None => Bound::Now(masker.begin(c.grammar)),
            Some(_) => Bound::After(Box::new(c)),
        });
        Self { request, at, tokens, sampler, bound, lookup, drafts: Vec::new(), max_tokens, ends, vector }
    }

    /// Looks for drafts for the next step; how many there are.
    pub fn draft(&mut self) -> usize {
        self.drafts.clear();
        // No more than the answer may still have, less the token that is drawn anyway.
        let left = self.max_tokens.saturating_sub(self.sampler.index() as usize + 1);
        if let Some(lookup) = &mut self.lookup {
            self.drafts.extend(lookup.draft(&self.tokens).iter().take(left));
        }
        self.drafts.len()
    }

    /// Has the masks after the first `drafts` drafts computed while the step runs.
    pub fn look_ahead(&mut self, drafts: usize, masker: &Masker) {
        if drafts > 0 {
            self.bound = match self.bound.take() {
                Some(Bound::Now(pending)) => Some(Bound::Now(masker.ahead(pending, self.drafts[..drafts].into()))),
                bound => bound,
            };
        }
    }

    /// The tokens of a step: those known from `start` on, and the first `drafts` drafts.
    pub fn input(&self, start: usize, count: usize, drafts: usize) -> Option<Vec<u32>> {
        let known = self.tokens.get(start..start + count - drafts)?;
        Some([known, self.drafts.get(..drafts)?].concat())
    }

    /// Draws tokens from the rows of logits after the last known token and each of the `drafts` behind it, as long as
    /// what is drawn is what was drafted. At least one; the last may be the end.
    pub fn extend(
        &mut self,
        logits: &[f32],
        drafts: usize,
        (masker, scratch): (&Masker, &mut Scratch),
    ) -> Result<Vec<Said>, DrawError> {
        let vocabulary = logits.len() / (drafts + 1);
        let mut said = Vec::with_capacity(drafts + 1);
        let mut masks: Option<Masks> = None;
        for (i, row) in logits.chunks_exact(vocabulary.max(1)).enumerate() {
            if masks.is_none()
                && let Some(Bound::Now(_)) = self.bound
                && let Some(Bound::Now(pending)) = self.bound.take()
            {
                masks = Some(pending.wait()?);
            }
            let picked = self.sampler.pick(row, masks.as_ref().map(Masks::next), scratch)?;
            let id = picked.id;
            self.sampler.accept(id);
            self.tokens.push(id);
            let end = end_of(id, self.sampler.index() as usize, self.max_tokens, &self.ends);
            let right = i < drafts && self.drafts.get(i) == Some(&id);
            said.push(Said { picked, end });
            if end.is_some() {
                break;
            }
            match masks.take() {
                None => self.unbound(id, masker)?,
                Some(mut these) => {
                    // Where the draft was right, the next row's mask may be there already.
                    if right && these.pass() {
                        masks = Some(these);
                    } else {
                        self.bound = Some(Bound::Now(masker.next(these, id)));
                    }
                }
            }
            if !right {
                break;
            }
        }
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(drafts, said.len().saturating_sub(1));
        }
        if said.is_empty() { Err(SampleError::Empty.into()) } else { Ok(said) }
    }

    /// Takes in a token of an answer whose grammar may begin to hold after it.
    fn unbound(&mut self, id: u32, masker: &Masker) -> Result<(), GrammarError> {
        if let Some(Bound::After(mut constraint)) = self.bound.take() {
            constraint.accept(id)?;
            self.bound = Some(match constraint.after {
                None => Bound::Now(masker.begin(constraint.grammar)),
                Some(_) => Bound::After(constraint),
            });
        }
        Ok(())
    }
}

/// How an answer ends with this token, the `count`-th, if it does.
pub fn end_of(id: u32, count: usize, max_tokens: usize, ends: &[u32]) -> Option<&'static str> {
    match id {
        id if ends.contains(&id) => Some(finish::STOP),
        _ if count >= max_tokens => Some(finish::LENGTH),
        _ => None,
    }
}
