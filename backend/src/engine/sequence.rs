//! One answer in the making, as the engine's thread sees it: its tokens, and how the next ones are drawn.

use std::sync::Arc;

use littoral_proto::finish;
use tokio::sync::oneshot;
use toktrie::SimpleVob;

use super::{job::Constraint, voice::Said, writer::RequestId};
use crate::{
    grammar::{GrammarError, Masker, Masks, Pending},
    sample::{Draw, Picked, SampleError, Sampler},
    speculate::{Eagerness, Lookup},
};

pub struct Sequence {
    pub request: RequestId,
    /// Position among the request's choices.
    pub at: usize,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    sampler: Sampler,
    /// As it is after each draft, of those that are drawn behind.
    ahead: Vec<Sampler>,
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
    /// Not before this token; what may come until then, which is no end: the answer has not begun.
    After(Box<Constraint>, SimpleVob),
    /// The mask for the next token is computed, and those after drafts.
    Now(Pending),
    /// They are there.
    Known(Box<Masks>),
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
            Some(_) => {
                let before = c.grammar.before();
                Bound::After(Box::new(c), before)
            }
        });
        Self {
            request,
            at,
            tokens,
            sampler,
            ahead: Vec::new(),
            bound,
            lookup,
            drafts: Vec::new(),
            max_tokens,
            ends,
            vector,
        }
    }

    /// Looks for drafts for the next step; how many there are.
    pub fn draft(&mut self) -> usize {
        self.drafts.clear();
        // No more than the answer may still have, less the token that is drawn anyway.
        let left = self.max_tokens.saturating_sub(self.sampler.index() as usize + 1);
        if let Some(lookup) = &mut self.lookup {
            self.drafts.extend(lookup.draft(&self.tokens).into_iter().take(left));
        }
        self.drafts.len()
    }

    /// Has the masks after the first `drafts` drafts computed while the step runs.
    pub fn look_ahead(&mut self, drafts: usize, masker: &Masker) {
        if drafts > 0 {
            let drafts = self.drafts[..drafts].into();
            self.bound = match self.bound.take() {
                Some(Bound::Now(pending)) => Some(Bound::Now(masker.ahead(pending, drafts))),
                // Of a step that failed.
                Some(Bound::Known(masks)) => Some(Bound::Now(masker.ahead(Pending::known(*masks), drafts))),
                bound => bound,
            };
        }
    }

    /// The tokens of a step: those known from `start` on, and the first `drafts` drafts.
    pub fn input(&self, start: usize, count: usize, drafts: usize) -> Option<Vec<u32>> {
        let known = self.tokens.get(start..start + count - drafts)?;
        Some([known, self.drafts.get(..drafts)?].concat())
    }

    /// Makes ready what is drawn after the last known token and behind each of the first `drafts` drafts, were they right.
    /// Waits for masks. How many draws that is.
    pub fn prepare(&mut self, drafts: usize) -> Result<usize, DrawError> {
        let drafts = &self.drafts[..drafts.min(self.drafts.len())];
        if let Some(Bound::Now(_)) = self.bound
            && let Some(Bound::Now(pending)) = self.bound.take()
        {
            self.bound = Some(Bound::Known(Box::new(pending.wait()?)));
        }
        // Nothing is drawn where no mask is known: behind a draft that the grammar does not let through, or after which it
        // begins to hold.
        let behind = match &self.bound {
            None => drafts.len(),
            Some(Bound::After(constraint, _)) => {
                drafts.iter().position(|id| constraint.after == Some(*id)).unwrap_or(drafts.len())
            }
            Some(Bound::Known(masks)) => (1..=drafts.len()).take_while(|i| masks.after_drafts(*i).is_some()).count(),
            Some(Bound::Now(_)) => 0,
        };
        self.ahead.clear();
        for draft in &drafts[..behind] {
            let mut sampler = self.ahead.last().unwrap_or(&self.sampler).clone();
            sampler.accept(*draft);
            self.ahead.push(sampler);
        }
        Ok(1 + behind)
    }

    /// The draws that are prepared, from `row` of the step's rows on.
    pub fn draws(&self, row: usize) -> impl Iterator<Item = Draw<'_>> {
        let mask = |drafts| match &self.bound {
            Some(Bound::Known(masks)) => masks.after_drafts(drafts),
            Some(Bound::After(_, before)) => Some(before.as_slice()),
            Some(Bound::Now(_)) | None => None,
        };
        let samplers = std::iter::once(&self.sampler).chain(&self.ahead);
        samplers.enumerate().map(move |(i, sampler)| sampler.draw(row + i, mask(i)))
    }

    /// Takes in what was drawn, as long as it is what was drafted: at least one token; the last may be the end. `drafts`
    /// were tried.
    pub fn extend(
        &mut self,
        picked: impl Iterator<Item = Result<Picked, SampleError>>,
        drafts: usize,
        masker: &Masker,
    ) -> Result<Vec<Said>, DrawError> {
        let mut said = Vec::with_capacity(drafts + 1);
        for (i, picked) in picked.enumerate() {
            let picked = picked?;
            let id = picked.id;
            self.sampler.accept(id);
            self.tokens.push(id);
            let end = end_of(id, self.sampler.index() as usize, self.max_tokens, &self.ends);
            let right = i < drafts && self.drafts.get(i) == Some(&id);
            said.push(Said { picked, end });
            if end.is_some() {
                break;
            }
            match self.bound.take() {
                // Where the draft was right, the next row's mask may be there already.
                Some(Bound::Known(mut masks)) => {
                    let known = right && masks.pass();
                    let bound = if known { Bound::Known(masks) } else { Bound::Now(masker.next(*masks, id)) };
                    self.bound = Some(bound);
                }
                bound => {
                    self.bound = bound;
                    self.unbound(id, masker)?;
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
        if let Some(Bound::After(constraint, _)) = &mut self.bound {
            constraint.accept(id)?;
        }
        self.bound = self.bound.take().map(|bound| match bound {
            Bound::After(constraint, _) if constraint.after.is_none() => Bound::Now(masker.begin(constraint.grammar)),
            bound => bound,
        });
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
