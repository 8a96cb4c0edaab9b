//! A generation under way at a node: its events, its deadline, and what is learned from them. When the node is lost,
//! another goes on from the tokens that were sent.
//!
//! The stream owns the call: dropping it cancels the generation at the node.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::{FutureExt, Stream, future::BoxFuture};
use littoral_proto::v1::{Event, event::Kind};
use tokio::time::{Sleep, sleep_until};

use super::{
    dispatch::{Dispatch, Opened, blame},
    progress::{Progress, Verdict},
    wire::Wire,
};
use crate::{error::Error, fleet::Lease};

/// Events of one generation. Ends after `usage` or `error`; a stream that breaks and cannot be continued ends with an
/// error event.
pub struct Generation {
    state: State,
    /// None while another node is being asked.
    dispatch: Option<Dispatch>,
    progress: Progress,
    deadline: Pin<Box<Sleep>>,
    received: Instant,
    /// When the first token came: from then on no event asks for the time.
    spoke: Option<Instant>,
    resumes: u32,
}

enum State {
    Streaming {
        first: VecDeque<Event>,
        wire: Wire,
        lease: Lease,
    },
    /// Another node is being asked, because of this.
    Resuming {
        opening: BoxFuture<'static, (Dispatch, Result<Opened, Error>)>,
        why: Error,
    },
    Over,
}

impl Generation {
    /// `progress` is how far the answer had come elsewhere.
    pub fn new(opened: Opened, dispatch: Dispatch, progress: Progress) -> Self {
        let Opened { first, wire, lease } = opened;
        if let Some(Kind::Started(started)) = first.front().and_then(|event| event.kind.as_ref()) {
            dispatch.tally.started(&started.node, started.prompt_tokens, started.cached_tokens);
        }
        let deadline = Box::pin(sleep_until(dispatch.deadline.into()));
        let received = dispatch.received;
        let state = State::Streaming { first, wire, lease };
        let resumes = u32::from(progress.seed().is_some());
        Self { state, dispatch: Some(dispatch), progress, deadline, received, spoke: None, resumes }
    }

    /// Learns from an event on its way out; after the last one the call is let go.
    fn note(&mut self, event: &mut Event, cx: &mut Context<'_>) {
        let Some(dispatch) = &self.dispatch else { return };
        if let Some(Kind::Delta(delta)) = &event.kind {
            // A part without ids is a token with most servers.
            let unnumbered = u32::from(self.progress.tokens() == 0 && delta.part.is_some());
            dispatch.tally.spoke((delta.token_ids.len() as u32).max(unnumbered));
        }
        match &mut event.kind {
            Some(Kind::Delta(_)) if self.spoke.is_none() => {
                self.spoke = Some(Instant::now());
                let after = self.received.elapsed();
                if dispatch.tally.first_token(after) {
                    dispatch.metrics.first_token(after);
                }
            }
            Some(Kind::Usage(usage)) => {
                self.progress.settle(usage, self.resumes > 0);
                dispatch.metrics.tokens(usage);
                dispatch.tally.used(usage);
                dispatch.fleet.answered_in(self.received.elapsed());
            }
            _ => {}
        }
        if matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)))
            && let State::Streaming { mut wire, lease, .. } = std::mem::replace(&mut self.state, State::Over)
        {
            if let Some(began) = self.spoke.filter(|_| self.resumes == 0) {
                lease.measured(self.progress.tokens(), began.elapsed().as_secs_f32());
            }
            if wire.poll_next(cx).is_pending() {
                wire.let_go();
            }
        }
    }

    /// The node is lost: asks another, or says why not.
    fn lost(&mut self, error: Error) -> Option<Event> {
        let State::Streaming { lease, .. } = std::mem::replace(&mut self.state, State::Over) else { return None };
        blame(&lease, &error);
        drop(lease);
        let may = self.dispatch.as_ref().is_some_and(|d| self.resumes < d.fleet.config().max_resumes);
        if !error.is_retryable() || !may || !self.progress.can_resume() {
            return Some(self.fail(&error));
        }
        let Some(mut dispatch) = self.dispatch.take() else { return Some(self.fail(&error)) };
        self.resumes += 1;
        // Those that did not take it when it began may take it now; the one that lost it is asked no more.
        let lost = dispatch.tally.routed_to();
        dispatch.asked.retain(|node| Some(node) == lost.as_ref());
        dispatch.candidates.clear();
        dispatch.failing.clear();
        tracing::info!(node = lost, tokens = self.progress.tokens(), %error, "a stream broke; another node is asked to go on");
        let from = self.progress.origin();
        let opening = async move {
            let opened = dispatch.open(&from).await;
            (dispatch, opened)
        };
        self.state = State::Resuming { opening: opening.boxed(), why: error };
        None
    }

    fn fail(&mut self, error: &Error) -> Event {
        let node = self.dispatch.as_ref().and_then(|dispatch| dispatch.tally.node().map(String::from));
        tracing::info!(node, %error, detail = ?error, "a generation broke");
        self.state = State::Over;
        error.event()
    }

    /// The next event of the state it is in; none when the state has changed.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match &mut self.state {
            State::Over => Poll::Ready(None),
            State::Resuming { opening, why } => {
                let (dispatch, opened) = match opening.as_mut().poll(cx) {
                    Poll::Ready(done) => done,
                    Poll::Pending => return self.overdue(cx),
                };
                let metrics = dispatch.metrics.clone();
                self.dispatch = Some(dispatch);
                match opened {
                    Ok(Opened { first, wire, lease }) => {
                        metrics.resumed.increment(1);
                        self.state = State::Streaming { first, wire, lease };
                        Poll::Ready(None)
                    }
                    Err(error) => {
                        metrics.lost.increment(1);
                        // That there is nobody else says less than why there is need of one.
                        let why = std::mem::replace(why, Error::Deadline);
                        let error = if matches!(error, Error::NoNode(_) | Error::Busy { .. }) { why } else { error };
                        Poll::Ready(Some(self.fail(&error)))
                    }
                }
            }
            State::Streaming { first, wire, .. } => {
                let event = match first.pop_front() {
                    Some(event) => Some(Ok(event)),
                    None => match wire.poll_next(cx) {
                        Poll::Ready(event) => event,
                        Poll::Pending => return self.overdue(cx),
                    },
                };
                let ended = "the node ended the answer before its end; please try again";
                Poll::Ready(match event {
                    None => self.lost(Error::NoNode(ended.into())),
                    Some(Err(error)) => self.lost(error),
                    Some(Ok(Event { kind: Some(Kind::Error(error)) })) if error.retryable => {
                        self.lost(Error::Node(error))
                    }
                    Some(Ok(mut event)) => match self.progress.take(&event) {
                        Verdict::Pass => {
                            self.note(&mut event, cx);
                            Some(event)
                        }
                        Verdict::Drop => None,
                        Verdict::Garbage(what) => self.lost(Error::Garbage(what)),
                    },
                })
            }
        }
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(self.fail(&Error::Deadline)))
    }
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        loop {
            if matches!(this.state, State::Over) {
                return Poll::Ready(None);
            }
            if let Some(event) = ready!(this.step(cx)) {
                return Poll::Ready(Some(event));
            }
        }
    }
}
