//! A generation under way at a node: its events, its deadline, and what is learned from them. When the node is lost,
//! another goes on after the tokens that were sent, or after their text.
//!
//! The stream owns the call: dropping it cancels the generation at the node.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::{FutureExt, Stream, future::BoxFuture};
use littoral_api::error::code;
use littoral_proto::v1::{Event, Usage, event::Kind};
use tokio::time::{Sleep, sleep_until};

use super::{
    dispatch::{Dispatch, Opened, blame, fault},
    now_ms,
    origin::Way,
    progress::{Progress, Verdict},
    wire::Wire,
};
use crate::{error::Error, fleet::Lease, telemetry::Tally};

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
        /// Only what the answer took is asked for.
        over: bool,
    },
    Over,
}

impl Generation {
    /// `progress` is how far the answer had come elsewhere.
    pub fn new(opened: Opened, dispatch: Dispatch, mut progress: Progress) -> Self {
        let Opened { first, wire, lease, way } = opened;
        tell_started(&dispatch.tally, &first);
        let deadline = Box::pin(sleep_until(dispatch.deadline.into()));
        let received = dispatch.received;
        let state = State::Streaming { first, wire, lease };
        let resumes = u32::from(progress.seed().is_some());
        progress.goes_on(way);
        Self { state, dispatch: Some(dispatch), progress, deadline, received, spoke: None, resumes }
    }

    /// Learns from an event on its way out, of so many tokens; after the last one the call is let go.
    fn note(&mut self, event: &mut Event, tokens: u32, cx: &mut Context<'_>) {
        let Some(dispatch) = &self.dispatch else { return };
        dispatch.tally.spoke(tokens);
        match &mut event.kind {
            Some(Kind::Delta(_)) if self.spoke.is_none() => {
                self.spoke = Some(Instant::now());
                if let State::Streaming { wire: Wire::Http(_), lease, .. } = &self.state {
                    lease.succeeded(now_ms());
                }
                let after = self.received.elapsed();
                if dispatch.tally.first_token(after) {
                    dispatch.metrics.first_token(after);
                }
            }
            Some(Kind::Usage(usage)) => {
                self.progress.settle(usage);
                self.used(dispatch, usage);
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

    /// The books of the answer are closed.
    fn used(&self, dispatch: &Dispatch, usage: &Usage) {
        dispatch.metrics.tokens(usage);
        dispatch.tally.used(usage);
        dispatch.fleet.answered_in(self.received.elapsed());
    }

    /// The node is lost: asks another, or says why not.
    fn lost(&mut self, error: Error) -> Option<Event> {
        let State::Streaming { lease, .. } = std::mem::replace(&mut self.state, State::Over) else { return None };
        blame(&lease, &error);
        drop(lease);
        let Some(mut dispatch) = self.dispatch.take() else { return Some(self.fail(&error)) };
        let from = self.progress.origin(&dispatch.ask);
        let may_go_on = || self.resumes < dispatch.fleet.config().max_resumes && from.leads_on();
        if !error.is_retryable() || !may_go_on() || !self.is_paid(&dispatch) {
            dispatch.metrics.lost.increment(u64::from(error.is_retryable() && !from.over));
            self.dispatch = Some(dispatch);
            return Some(self.give_up(&error, from.over));
        }
        self.resumes += 1;
        // Those that did not take it when it began may take it now; the one that lost it is asked no more.
        let lost = dispatch.tally.routed_to();
        dispatch.asked.retain(|node| Some(node) == lost.as_ref());
        dispatch.candidates.clear();
        dispatch.readers.clear();
        dispatch.failing.clear();
        tracing::info!(node = lost, tokens = self.progress.tokens(), %error, "a stream broke; another node is asked to go on");
        let over = from.over;
        let opening = async move {
            let opened = dispatch.open(&from).await;
            (dispatch, opened)
        };
        self.state = State::Resuming { opening: opening.boxed(), why: error, over };
        None
    }

    /// Whether another may be asked. Until a word was said it is a retry, and paid for as such.
    fn is_paid(&self, dispatch: &Dispatch) -> bool {
        if self.progress.tokens() > 0 {
            return true;
        }
        let paid = dispatch.fleet.may_retry();
        let counter = if paid { &dispatch.metrics.retries } else { &dispatch.metrics.retries_refused };
        counter.increment(1);
        paid
    }

    /// Nobody goes on. An answer that has ended is whole all the same.
    fn give_up(&mut self, error: &Error, over: bool) -> Event {
        let Some(dispatch) = self.dispatch.as_ref().filter(|_| over) else { return self.fail(error) };
        let usage = self.progress.usage();
        self.used(dispatch, &usage);
        tracing::info!(%error, "a generation broke after its end; what it took is what was seen of it");
        self.state = State::Over;
        Event { kind: Some(Kind::Usage(usage)) }
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
            State::Resuming { opening, why, over } => {
                let (dispatch, opened) = match opening.as_mut().poll(cx) {
                    Poll::Ready(done) => done,
                    Poll::Pending => return self.overdue(cx),
                };
                let metrics = dispatch.metrics.clone();
                self.dispatch = Some(dispatch);
                match opened {
                    Ok(Opened { first, wire, lease, way }) => {
                        metrics.resumed.increment(1);
                        self.progress.goes_on(way);
                        if let Some(dispatch) = self.dispatch.as_ref().filter(|_| way == Way::Text) {
                            // Nobody has counted the prompt before.
                            tell_started(&dispatch.tally, &first);
                        }
                        self.state = State::Streaming { first, wire, lease };
                        Poll::Ready(None)
                    }
                    Err(error) => {
                        let (why, over) = (std::mem::replace(why, Error::Deadline), *over);
                        metrics.lost.increment(u64::from(!over));
                        // That there is nobody else says less than why there is need of one.
                        let nobody = matches!(error, Error::NoNode(_) | Error::Busy { .. });
                        let error = if nobody || error.code() == code::CANNOT_RESUME { why } else { error };
                        Poll::Ready(Some(self.give_up(&error, over)))
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
                    Some(Ok(mut event)) => {
                        let before = self.progress.tokens();
                        match self.progress.take(&event) {
                            Verdict::Pass => {
                                self.note(&mut event, self.progress.tokens() - before, cx);
                                Some(event)
                            }
                            Verdict::Drop => None,
                            Verdict::Garbage(what) => self.lost(Error::Garbage(what)),
                        }
                    }
                })
            }
        }
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        ready!(self.deadline.as_mut().poll(cx));
        if let (State::Streaming { wire: Wire::Http(_), lease, .. }, None, 0) = (&self.state, self.spoke, self.resumes)
        {
            // The head of an answer is all that came of it.
            fault(lease, &Error::Deadline);
        }
        Poll::Ready(Some(self.fail(&Error::Deadline)))
    }
}

/// Tells of the node that begins, and of what it counted.
fn tell_started(tally: &Tally, first: &VecDeque<Event>) {
    if let Some(Kind::Started(started)) = first.front().and_then(|event| event.kind.as_ref()) {
        tally.started(&started.node, started.prompt_tokens, started.cached_tokens);
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
