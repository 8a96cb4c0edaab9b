//! The way of events from the engine to the one who asked.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
        mpsc::Sender,
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::Stream;
use littoral_api::error::code;
use littoral_proto::v1::{Error, Event, event::Kind};
use metrics::Histogram;
use tokio::sync::mpsc;

use super::worker::Command;

/// A reader with so many events before it pauses its own sequence and no other. A few more may come: those of tokens
/// that were drawn before it was seen, and what ends the answer.
const CAPACITY: usize = 24;

/// The engine's end.
#[derive(Debug)]
pub struct Outlet {
    events: mpsc::UnboundedSender<(Instant, Event)>,
    queued: Arc<AtomicUsize>,
    stalled: Arc<AtomicBool>,
}

/// The engine's life: it ends when no handle on it and no reader is left.
#[derive(Debug)]
pub struct Life(pub Sender<Command>);

impl Drop for Life {
    fn drop(&mut self) {
        // A thread that has ended needs no order.
        let _ = self.0.send(Command::Stop);
    }
}

/// The reader's end: a stream that ends with `usage` or `error`. Dropping it cancels the generation before its next
/// token.
#[derive(Debug)]
pub struct Events {
    events: mpsc::UnboundedReceiver<(Instant, Event)>,
    /// How long events lay in the queue.
    lay: Histogram,
    queued: Arc<AtomicUsize>,
    stalled: Arc<AtomicBool>,
    engine: Option<Arc<Life>>,
    complete: bool,
}

/// A way for events; `engine` is woken when the reader has made room or has gone.
pub fn way(engine: Arc<Life>, lay: Histogram) -> (Outlet, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (queued, stalled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let outlet = Outlet { events: sender, queued: queued.clone(), stalled: stalled.clone() };
    (outlet, Events { events: receiver, lay, queued, stalled, engine: Some(engine), complete: false })
}

impl Outlet {
    /// Whether a step may be run for this reader. When not, the reader wakes the engine once it has made room.
    pub fn has_room(&self) -> bool {
        if self.queued.load(Ordering::SeqCst) < CAPACITY {
            return true;
        }
        // The flag first, then a second look: the reader makes room first, then looks at the flag. One of the two sees.
        self.stalled.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.queued.load(Ordering::SeqCst) < CAPACITY
    }

    /// Whether the reader has gone.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Sends an event; a reader that has gone needs none.
    pub fn send(&self, kind: Kind) {
        self.queued.fetch_add(1, Ordering::SeqCst);
        let _ = self.events.send((Instant::now(), Event { kind: Some(kind) }));
    }
}

impl Events {
    /// A stream of one error.
    pub fn failed(error: Error) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let outlet = Outlet { events: sender, queued: Arc::default(), stalled: Arc::default() };
        outlet.send(Kind::Error(error));
        Self {
            events,
            lay: Histogram::noop(),
            queued: outlet.queued,
            stalled: outlet.stalled,
            engine: None,
            complete: false,
        }
    }

    /// The next event; None after the last.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn wake(&self) {
        if let Some(engine) = &self.engine {
            // An engine that has stopped needs no waking.
            let _ = engine.0.send(Command::Wake);
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.complete {
            return Poll::Ready(None);
        }
        let event = match ready!(self.events.poll_recv(context)) {
            Some((made, event)) => {
                self.lay.record(made.elapsed());
                self.queued.fetch_sub(1, Ordering::SeqCst);
                event
            }
            None => engine_gone(),
        };
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
