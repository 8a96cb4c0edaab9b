//! Masks, computed on a thread of their own while the model computes the step they are for.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use toktrie::SimpleVob;

use super::{Grammar, GrammarError};
use crate::sample::Mask;

type Reply = Result<Masks, GrammarError>;

enum Work {
    /// The mask after these tokens.
    Next { grammar: Box<Grammar>, tokens: Vec<u32>, reply: Sender<Reply> },
    /// Those after each of these drafts too.
    Ahead { pending: Pending, drafts: Box<[u32]>, reply: Sender<Reply> },
}

/// The thread's other end.
#[derive(Clone)]
pub struct Masker(Sender<Work>);

/// Masks on their way.
pub struct Pending(Receiver<Reply>);

/// An answer's place in its grammar, the mask for the token that comes next, and the masks after drafts.
pub struct Masks {
    grammar: Grammar,
    masks: Vec<SimpleVob>,
    drafts: Box<[u32]>,
    /// Drafts that were taken in, the grammar not told yet.
    passed: usize,
}

impl Masker {
    /// Starts the thread; it ends with the last handle on it.
    pub fn start() -> std::io::Result<Self> {
        let (work, inbox) = channel::<Work>();
        thread::Builder::new().name("grammar".into()).spawn(move || {
            while let Ok(work) = inbox.recv() {
                // Nobody waits for the masks of an answer that was cancelled.
                let _ = match work {
                    Work::Next { grammar, tokens, reply } => reply.send(Masks::after(*grammar, &tokens)),
                    // What is pending was computed before: this thread does one thing after the other.
                    Work::Ahead { pending, drafts, reply } => reply.send(pending.wait().map(|m| m.ahead(drafts))),
                };
            }
        })?;
        Ok(Self(work))
    }

    /// Has the mask of a grammar's next token computed.
    pub fn begin(&self, grammar: Grammar) -> Pending {
        self.ask(|reply| Work::Next { grammar: Box::new(grammar), tokens: Vec::new(), reply })
    }

    /// Has the mask computed that follows `id`, which was drawn under the next of `masks`.
    pub fn next(&self, masks: Masks, id: u32) -> Pending {
        let tokens = [&masks.drafts[..masks.passed], &[id]].concat();
        self.ask(|reply| Work::Next { grammar: Box::new(masks.grammar), tokens, reply })
    }

    /// Has the masks after each of `drafts` computed as well, as far as the grammar lets them through.
    pub fn ahead(&self, pending: Pending, drafts: Box<[u32]>) -> Pending {
        self.ask(|reply| Work::Ahead { pending, drafts, reply })
    }

    fn ask(&self, work: impl FnOnce(Sender<Reply>) -> Work) -> Pending {
        let (reply, pending) = channel();
        // A thread that has ended drops the reply, and the waiting says so.
        let _ = self.0.send(work(reply));
        Pending(pending)
    }
}

impl Pending {
    /// Masks that are there.
    pub fn known(masks: Masks) -> Self {
        let (reply, pending) = channel();
        let _ = reply.send(Ok(masks));
        Self(pending)
    }

    pub fn wait(self) -> Result<Masks, GrammarError> {
        let gone = |_| GrammarError::Step("the thread that computes masks has ended".into());
        self.0.recv().map_err(gone)?
    }
}

impl Masks {
    fn after(mut grammar: Grammar, tokens: &[u32]) -> Reply {
        tokens.iter().try_for_each(|id| grammar.accept(*id))?;
        let mask = grammar.mask()?;
        Ok(Self { grammar, masks: vec![mask], drafts: Box::default(), passed: 0 })
    }

    /// Goes on in a copy: what a draft leads to, an error perhaps, is nothing to an answer that takes another way.
    fn ahead(mut self, drafts: Box<[u32]>) -> Self {
        let mut grammar = self.grammar.fork();
        // Those after other drafts, of a step that failed.
        self.masks.truncate(1);
        for id in &drafts {
            let allowed = self.masks.last().is_some_and(|mask| (*id as usize) < mask.len() && mask.is_allowed(*id));
            if !allowed || grammar.ends.contains(id) {
                break;
            }
            match grammar.accept(*id).and_then(|()| grammar.mask()) {
                Ok(mask) => self.masks.push(mask),
                Err(_) => break,
            }
        }
        self.drafts = drafts;
        self
    }

    /// The tokens that may come after so many drafts more; None where that was not computed.
    pub fn after_drafts(&self, drafts: usize) -> Option<&Mask> {
        self.masks.get(self.passed + drafts).map(SimpleVob::as_slice)
    }

    /// Takes in the next draft, which was drawn; false when the mask after it was not computed.
    pub fn pass(&mut self) -> bool {
        let known = self.passed + 1 < self.masks.len();
        self.passed += usize::from(known);
        known
    }
}
