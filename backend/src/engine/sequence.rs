//! One answer in the making, as the engine's thread sees it: its tokens, and how the next ones are drawn.

use std::sync::Arc;

use littoral_proto::finish;

use super::{job::Constraint, voice::Said, writer::RequestId};
use crate::{
    grammar::{Grammar, GrammarError, Masker, Pending},
    sample::{Mask, SampleError, Sampler, Scratch},
    speculate::Lookup,
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
}

/// How an answer is held to its grammar.
enum Bound {
    /// Not before this token.
    After(Box<Constraint>),
    /// The mask for the next token is computed.
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
    pub speculate: bool,
    pub max_tokens: usize,
    pub ends: Arc<[u32]>,
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
        let Parts { request, at, tokens, sampler, constraint, speculate, max_tokens, ends } = parts;
        // Drafts would need a mask each.
        let lookup = (speculate && constraint.is_none()).then(Lookup::default);
        let bound = constraint.map(|c| match c.after {
            None => Bound::Now(masker.next(c.grammar, None)),
            Some(_) => Bound::After(Box::new(c)),
        });
        Self { request, at, tokens, sampler, bound, lookup, drafts: Vec::new(), max_tokens, ends }
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
        for (i, row) in logits.chunks_exact(vocabulary.max(1)).enumerate() {
            let token = self.draw(row, masker, scratch)?;
            let (id, over) = (token.picked.id, token.end.is_some());
            said.push(token);
            if over || self.drafts.get(i).is_none_or(|draft| i >= drafts || *draft != id) {
                break;
            }
        }
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(drafts, said.len().saturating_sub(1));
        }
        if said.is_empty() { Err(SampleError::Empty.into()) } else { Ok(said) }
    }

    fn draw(&mut self, logits: &[f32], masker: &Masker, scratch: &mut Scratch) -> Result<Said, DrawError> {
        let mut grammar: Option<Grammar> = None;
        let mut mask = None;
        if let Some(Bound::Now(_)) = self.bound
            && let Some(Bound::Now(pending)) = self.bound.take()
        {
            let (bound, allowed) = pending.wait()?;
            (grammar, mask) = (Some(bound), Some(allowed));
        }
        let picked = self.sampler.pick(logits, mask.as_ref().map(|m| m.as_slice() as &Mask), scratch)?;
        self.sampler.accept(picked.id);
        self.tokens.push(picked.id);
        let end = end_of(picked.id, self.sampler.index() as usize, self.max_tokens, &self.ends);
        if end.is_none() {
            self.bind(picked.id, grammar, masker)?;
        }
        Ok(Said { picked, end })
    }

    /// Has the mask for the token after `id` computed.
    fn bind(&mut self, id: u32, grammar: Option<Grammar>, masker: &Masker) -> Result<(), GrammarError> {
        if let Some(grammar) = grammar {
            self.bound = Some(Bound::Now(masker.next(grammar, Some(id))));
        } else if let Some(Bound::After(mut constraint)) = self.bound.take() {
            constraint.accept(id)?;
            self.bound = Some(match constraint.after {
                None => Bound::Now(masker.next(constraint.grammar, None)),
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
