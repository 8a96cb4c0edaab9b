//! Masks, computed on a thread of their own while the model computes the step they are for.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use toktrie::SimpleVob;

use super::{Grammar, GrammarError};

type Work = (Grammar, Option<u32>, Sender<(Grammar, Result<SimpleVob, GrammarError>)>);

/// The thread's other end.
#[derive(Clone)]
pub struct Masker(Sender<Work>);

/// A mask on its way.
pub struct Pending(Receiver<(Grammar, Result<SimpleVob, GrammarError>)>);

impl Masker {
    /// Starts the thread; it ends with the last handle on it.
    pub fn start() -> std::io::Result<Self> {
        let (work, inbox) = channel::<Work>();
        thread::Builder::new().name("grammar".into()).spawn(move || {
            while let Ok((mut grammar, token, reply)) = inbox.recv() {
                let mask = token.map_or(Ok(()), |id| grammar.accept(id)).and_then(|()| grammar.mask());
                // Nobody waits for the mask of an answer that was cancelled.
                let _ = reply.send((grammar, mask));
            }
        })?;
        Ok(Self(work))
    }

    /// Has the mask after `token` computed, or that of the beginning.
    pub fn next(&self, grammar: Grammar, token: Option<u32>) -> Pending {
        let (reply, pending) = channel();
        // A thread that has ended drops the reply, and the waiting says so.
        let _ = self.0.send((grammar, token, reply));
        Pending(pending)
    }
}

impl Pending {
    /// The grammar again, and the mask.
    pub fn wait(self) -> Result<(Grammar, SimpleVob), GrammarError> {
        let gone = |_| GrammarError::Step("the thread that computes masks has ended".into());
        let (grammar, mask) = self.0.recv().map_err(gone)?;
        Ok((grammar, mask?))
    }
}
