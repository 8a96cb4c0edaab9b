//! The way of events from the engine to the one who asked.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
        mpsc::Sender,
    },
    task::{Context, Poll, ready},
};

use futures::Stream;
use littoral_api::error::code;
use littoral_proto::v1::{Error, Event, event::Kind};
use tokio::sync::mpsc;

use super::worker::Command;

/// Events on their way at most. A reader slower than that pauses its own sequence and no other.
const CAPACITY: usize = 32;
/// Events one step can add (a delta, the finish, the usage) and one that an error later needs.
const ROOM: usize = 4;

/// The engine's end.
#[derive(Debug)]
pub struct Outlet {
    events: mpsc::Sender<Event>,
    stalled: Arc<AtomicBool>,
}

/// The reader's end: a stream that ends with `usage` or `error`. Dropping it cancels the generation before its next
/// token.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Event>,
    stalled: Arc<AtomicBool>,
    engine: Option<Sender<Command>>,
    complete: bool,
}

/// A way for events; `engine` is woken when the reader has made room or has gone.
pub fn way(engine: Sender<Command>) -> (Outlet, Events) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let stalled = Arc::new(AtomicBool::new(false));
    let outlet = Outlet { events: sender, stalled: stalled.clone() };
    (outlet, Events { events: receiver, stalled, engine: Some(engine), complete: false })
}

impl Outlet {
    /// Whether a step may be run for this reader. When not, the reader wakes the engine once it has made room.
    pub fn has_room(&self) -> bool {
        if self.events.capacity() >= ROOM {
            return true;
        }
        // The flag first, then a second look: the reader makes room first, then looks at the flag. One of the two sees.
        self.stalled.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.events.capacity() >= ROOM
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Sends an event. There is room for it by [`Self::has_room`]; a reader that has gone needs none.
    pub fn send(&self, kind: Kind) {
        let sent = self.events.try_send(Event { kind: Some(kind) });
        debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))), "an event for which no room was left");
    }
}

impl Events {
    /// A stream of one error.
    pub fn failed(error: Error) -> Self {
        let (sender, events) = mpsc::channel(1);
        // A new channel of one place takes one event.
        let _ = sender.try_send(Event { kind: Some(Kind::Error(error)) });
        Self { events, stalled: Arc::default(), engine: None, complete: false }
    }

    /// The next event; None after the last.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn wake(&self) {
        if let Some(engine) = &self.engine {
            // An engine that has stopped needs no waking.
            let _ = engine.send(Command::Wake);
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.complete {
            return Poll::Ready(None);
        }
        let event = ready!(self.events.poll_recv(context)).unwrap_or_else(engine_gone);
        self.complete = matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)));
        fence(Ordering::SeqCst);
        if self.stalled.load(Ordering::SeqCst) && self.stalled.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        Poll::Ready(Some(event))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.events.close();
        if !self.complete {
            self.wake();
        }
    }
}

/// The stream broke off without a last event: the engine's thread has ended.
fn engine_gone() -> Event {
    let message = "the node's engine has stopped; another node can answer".to_string();
    Event { kind: Some(Kind::Error(Error { code: code::INTERNAL.into(), message, retryable: true })) }
}
