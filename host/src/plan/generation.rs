//! A generation under way at a node: its events, its deadline, and what is learned from them.
//!
//! The stream owns the gRPC call: dropping it cancels the generation at the node.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::Stream;
use littoral_proto::v1::{Event, event::Kind};
use tokio::time::{Sleep, sleep_until, timeout};
use tonic::Streaming;

use super::cache::Tape;
use crate::{
    error::Error,
    telemetry::{Metrics, Tally},
};

/// How long a node may take to end a call after its last event.
const TRAILERS: Duration = Duration::from_secs(1);

/// Events of one generation. Ends after `usage` or `error`; a stream that breaks ends with an error event.
pub struct Generation {
    /// Read before the head of the answer was sent.
    first: Option<Event>,
    wire: Option<Streaming<Event>>,
    deadline: Pin<Box<Sleep>>,
    received: Instant,
    /// The first token has come: from then on no event asks for the time.
    spoke: bool,
    tape: Option<Tape>,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
}

impl Generation {
    pub fn new(
        first: Event,
        wire: Streaming<Event>,
        (received, deadline): (Instant, Instant),
        tape: Option<Tape>,
        tally: Arc<Tally>,
        metrics: Arc<Metrics>,
    ) -> Self {
        if let Some(Kind::Started(started)) = &first.kind {
            tally.started(&started.node, started.prompt_tokens, started.cached_tokens);
        }
        let deadline = Box::pin(sleep_until(deadline.into()));
        Self { first: Some(first), wire: Some(wire), deadline, received, spoke: false, tape, tally, metrics }
    }

    /// Learns from an event on its way out; after the last one the call is let go.
    fn note(&mut self, event: &Event, cx: &mut Context<'_>) {
        if let Some(Kind::Delta(delta)) = &event.kind {
            self.tally.spoke(delta.token_ids.len() as u32);
        }
        match &event.kind {
            Some(Kind::Delta(_)) if !self.spoke => {
                self.spoke = true;
                let after = self.received.elapsed();
                if self.tally.first_token(after) {
                    self.metrics.first_token(after);
                }
            }
            Some(Kind::Usage(usage)) => {
                self.metrics.tokens(usage);
                self.tally.used(usage);
            }
            Some(Kind::Error(_)) => self.tape = None,
            Some(Kind::Started(_) | Kind::Delta(_) | Kind::Finished(_)) | None => {}
        }
        if self.tape.as_mut().is_some_and(|tape| !tape.record(event)) {
            self.tape = None;
        }
        if matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_))) {
            if let Some(tape) = self.tape.take() {
                tape.keep();
            }
            if let Some(mut wire) = self.wire.take()
                && Pin::new(&mut wire).poll_next(cx).is_pending()
            {
                let_go(wire);
            }
        }
    }

    fn fail(&mut self, error: &Error) -> Event {
        tracing::info!(node = self.tally.node(), %error, detail = ?error, "a generation broke");
        self.tape = None;
        self.wire = None;
        error.event()
    }
}

/// Takes the trailers of a call whose last event has come; they follow at once. To drop it before them would reset it,
/// and what arrives for calls reset long ago is counted over a connection's life until all its calls are broken off.
pub fn let_go(mut wire: Streaming<Event>) {
    tokio::spawn(timeout(TRAILERS, async move { while let Ok(Some(_)) = wire.message().await {} }));
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        if let Some(event) = this.first.take() {
            this.note(&event, cx);
            return Poll::Ready(Some(event));
        }
        let Some(wire) = &mut this.wire else { return Poll::Ready(None) };
        let event = match Pin::new(wire).poll_next(cx) {
            Poll::Ready(Some(Ok(event))) => {
                this.note(&event, cx);
                event
            }
            Poll::Ready(Some(Err(status))) => this.fail(&status.into()),
            Poll::Ready(None) => {
                this.fail(&Error::NoNode("the node ended the answer before its end; please try again".into()))
            }
            Poll::Pending => match this.deadline.as_mut().poll(cx) {
                Poll::Ready(()) => this.fail(&Error::Deadline),
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(Some(event))
    }
}
