//! One answer in the making: its tokens, its text, its end.

use std::time::Instant;

use littoral_proto::{
    finish,
    v1::{Delta, Error, Finished, Started, Usage, delta::Part, event::Kind},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Outlet, stop::StopMatcher};
use crate::{
    sample::{SampleError, Sampler, Scratch},
    schedule::Id,
};

/// Ids to text, for one answer. [`crate::text::Detokenizer`] with its tokenizer is one.
pub trait Spelling: Send {
    /// Takes the next token; the text that is complete now, if any.
    fn push(&mut self, id: u32) -> Option<String>;
    /// What is left at the end.
    fn finish(&mut self) -> Option<String>;
    /// Whether the answer ends at this token, which has no text.
    fn is_end(&self, id: u32) -> bool;
}

/// A request that is ready to run: checked and tokenised.
pub struct Job {
    /// For the log.
    pub request_id: String,
    /// Name of this node, for `started`.
    pub node: String,
    pub prompt: Vec<u32>,
    /// Tokens of the answer that the client already has.
    pub resumed: Vec<u32>,
    /// Longest answer, tokens, those already sent included; at least 1.
    pub max_tokens: usize,
    pub sampler: Sampler,
    pub stops: Vec<String>,
    pub spelling: Box<dyn Spelling>,
    pub received: Instant,
    pub deadline: Option<Instant>,
}

/// Why a sequence is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A reason of [`finish`].
    Finished(&'static str),
    Cancelled,
    /// A code of the error event.
    Failed(&'static str),
}

impl End {
    /// The outcome under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished(name) | Self::Failed(name) => name,
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job the engine has taken.
pub(super) struct Sequence {
    pub id: Id,
    pub request_id: String,
    node: String,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    prompt: usize,
    max_tokens: usize,
    sampler: Sampler,
    spelling: Box<dyn Spelling>,
    stop: StopMatcher,
    /// The end, once it is known.
    end: Option<&'static str>,
    pub outlet: Outlet,
    pub received: Instant,
    pub deadline: Option<Instant>,
    pub started: Option<Instant>,
    pub first_token: Option<Instant>,
    pub last_token: Option<Instant>,
    /// Given back when the sequence is dropped: another request may come in.
    _permit: OwnedSemaphorePermit,
}

impl Sequence {
    /// Takes a job; the text of the tokens that the client already has is built again and not sent.
    pub fn new(id: Id, job: Job, outlet: Outlet, permit: OwnedSemaphorePermit) -> Self {
        let mut sequence = Self {
            id,
            request_id: job.request_id,
            node: job.node,
            prompt: job.prompt.len(),
            tokens: job.prompt,
            max_tokens: job.max_tokens,
            sampler: job.sampler,
            spelling: job.spelling,
            stop: StopMatcher::new(job.stops),
            end: None,
            outlet,
            received: job.received,
            deadline: job.deadline,
            started: None,
            first_token: None,
            last_token: None,
            _permit: permit,
        };
        let mut already_sent = String::new();
        for token in job.resumed {
            sequence.append(token, &mut already_sent);
        }
        sequence
    }

    pub fn prompt_tokens(&self) -> u32 {
        self.prompt as u32
    }

    /// Tokens of the answer, those that were sent before included.
    pub fn completion_tokens(&self) -> u32 {
        (self.tokens.len() - self.prompt) as u32
    }

    /// How the answer ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.end.map(End::Finished)
    }

    /// Tokens the answer may still get.
    pub fn left(&self) -> usize {
        if self.end.is_some() { 0 } else { self.max_tokens.saturating_sub(self.tokens.len() - self.prompt) }
    }

    /// Draws the next token from the logits and sends it. The end, if it is the last one.
    pub fn extend(&mut self, logits: &[f32], scratch: &mut Scratch) -> Result<Option<End>, SampleError> {
        let index = self.completion_tokens();
        let token = self.sampler.pick(logits, index, scratch)?;
        let mut text = String::new();
        self.append(token, &mut text);
        let delta = Delta {
            choice: self.sampler.choice,
            index,
            token_ids: vec![token],
            part: Some(Part::Text(text)),
            logprobs: Vec::new(),
        };
        self.outlet.send(Kind::Delta(delta));
        Ok(self.end())
    }

    /// Adds a token to the answer, and to `text` what may be sent of it now.
    fn append(&mut self, token: u32, text: &mut String) {
        self.tokens.push(token);
        let mut stopped = false;
        if self.spelling.is_end(token) {
            self.end = Some(finish::STOP);
        } else {
            stopped = self.spelling.push(token).is_some_and(|piece| self.stop.push(&piece, text));
            if self.left() == 0 {
                self.end = Some(finish::LENGTH);
            }
        }
        if self.end.is_some() && !stopped {
            stopped = self.spelling.finish().is_some_and(|piece| self.stop.push(&piece, text));
            if !stopped {
                self.stop.flush(text);
            }
        }
        if stopped {
            self.end = Some(finish::STOP);
        }
    }

    pub fn send_started(&self) {
        let started = Started {
            node: self.node.clone(),
            prompt_tokens: self.prompt_tokens(),
            cached_tokens: 0,
            seed: self.sampler.seed,
        };
        self.outlet.send(Kind::Started(started));
    }

    /// The last two events of an answer that came to its end.
    pub fn send_end(&self, reason: &'static str) {
        self.outlet.send(Kind::Finished(Finished { choice: self.sampler.choice, reason: reason.into() }));
        self.outlet.send(Kind::Usage(Usage {
            prompt_tokens: self.prompt_tokens(),
            completion_tokens: self.completion_tokens(),
            prompt_cache_hit_tokens: 0,
            reasoning_tokens: 0,
        }));
    }

    pub fn send_error(&self, error: Error) {
        self.outlet.send(Kind::Error(error));
    }
}
