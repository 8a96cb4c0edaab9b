//! What the engine is asked to do.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::voice::Voice;
use crate::{
    grammar::{Grammar, GrammarError},
    sample::Sampling,
    schedule::Prefix,
    speculate::Eagerness,
};

/// Ids to text, for one answer. [`crate::text::Detokenizer`] with its tokenizer is one.
pub trait Spelling: Send {
    /// Takes the next token; the text that is complete now, if any.
    fn push(&mut self, id: u32) -> Option<String>;
    /// What is left at the end.
    fn finish(&mut self) -> Option<String>;
    /// The bytes a token stands for, for its log probability.
    fn bytes(&self, id: u32) -> Vec<u8>;
}

/// A request that is ready to run: checked and tokenised.
pub struct Job {
    /// For the log.
    pub request_id: String,
    /// Name of this node, for `started`.
    pub node: String,
    pub prompt: Vec<u32>,
    /// The keys of the prompt's blocks, and who asks.
    pub prefix: Prefix,
    pub task: Task,
    /// Longest answer, tokens, those already sent included; at least 1.
    pub max_tokens: usize,
    pub sampling: Arc<Sampling>,
    /// Whether tokens are drafted, and when; None never. The answer is the same.
    pub speculate: Option<Eagerness>,
    /// Tokens at which an answer ends; they have no text.
    pub ends: Arc<[u32]>,
    pub received: Instant,
    pub deadline: Option<Instant>,
}

/// What is made of a prompt.
pub enum Task {
    /// Answers; at least one.
    Answer(Vec<Choice>),
    /// Its vector, as the model gives it: the hidden state of its last token.
    Embed(oneshot::Sender<Vec<f32>>),
}

/// One answer of a request.
pub struct Choice {
    pub index: u32,
    /// Tokens of the answer that the client already has.
    pub resumed: Vec<u32>,
    /// Has taken in `resumed` already.
    pub voice: Voice,
    /// Has taken in `resumed` already.
    pub constraint: Option<Constraint>,
}

/// What holds an answer to a grammar.
pub struct Constraint {
    pub grammar: Grammar,
    /// It begins to hold after this token, which closes the reasoning; None when it holds now.
    pub after: Option<u32>,
}

impl Constraint {
    /// Takes a token in; false when the grammar does not hold yet and has not seen it.
    pub fn accept(&mut self, id: u32) -> Result<bool, GrammarError> {
        match self.after {
            None => self.grammar.accept(id).map(|()| true),
            Some(after) => {
                self.after = self.after.filter(|_| id != after);
                Ok(false)
            }
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A reason of [`littoral_proto::finish`].
    Finished(&'static str),
    Cancelled,
    /// A code of the error event.
    Failed(&'static str),
}

impl End {
    /// The outcome under which it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished(name) | Self::Failed(name) => name,
            Self::Cancelled => "cancelled",
        }
    }
}
