//! The body of an answer: bytes that are there, or events rendered as they come.
//!
//! Nothing runs beside it: events are polled when the connection has room, and all that are ready go out as one frame.
//! Dropping it drops the events, and with them the generation.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use littoral_api::{KEEP_ALIVE, chat::Renderer};
use littoral_proto::v1::{Event, event::Kind};
use tokio::time::{Instant, Sleep, sleep};

use super::{events::Events, generate::Opening};
use crate::{
    error::Error,
    telemetry::{Entry, Metrics},
};

/// Longest silence of a stream before a comment breaks it.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
/// A frame is sent when it has this size, though more events be ready.
const FRAME: usize = 16 << 10;

/// A response body.
pub enum Body {
    Whole(Bytes),
    Stream(Box<StreamBody>),
}

/// An answer that is to be streamed: its events, or the opening that will give them, and how they are written.
pub struct Flow {
    source: Source,
    renderer: Renderer,
}

enum Source {
    Opening(Opening),
    Events(Events),
    Ended,
}

impl Flow {
    pub fn of(events: Events, renderer: Renderer) -> Box<Self> {
        Box::new(Self { source: Source::Events(events), renderer })
    }

    pub fn opening(opening: Opening, renderer: Renderer) -> Box<Self> {
        Box::new(Self { source: Source::Opening(opening), renderer })
    }
}

/// A streamed answer being sent.
pub struct StreamBody {
    flow: Box<Flow>,
    out: BytesMut,
    /// When something was last sent.
    spoke: Instant,
    silence: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
    entry: Entry,
}

impl Body {
    pub fn whole(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }

    pub fn stream(flow: Box<Flow>, entry: Entry, metrics: Arc<Metrics>) -> Self {
        metrics.open_streams.increment(1);
        let silence = Box::pin(sleep(KEEP_ALIVE_EVERY));
        // A head that did not wait for its events is followed by a sign of life at once.
        let out = if matches!(flow.source, Source::Opening(_)) { KEEP_ALIVE.into() } else { BytesMut::new() };
        Self::Stream(Box::new(StreamBody { flow, out, spoke: Instant::now(), silence, metrics, entry }))
    }
}

impl StreamBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.out.len() < FRAME {
            match self.step(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => break,
                Poll::Pending if self.out.is_empty() => return self.wait(cx),
                Poll::Pending => break,
            }
        }
        if self.out.is_empty() {
            return Poll::Ready(None);
        }
        ready!(self.entry.poll_synced(cx));
        self.spoke = Instant::now();
        Poll::Ready(Some(self.out.split().freeze()))
    }

    /// Renders one event; false when there will be none.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Flow { source, renderer } = &mut *self.flow;
        match source {
            Source::Ended => Poll::Ready(false),
            Source::Opening(opening) => {
                match ready!(opening.as_mut().poll(cx)) {
                    Ok(events) => *source = Source::Events(events),
                    Err(error) => self.render(&error.event()),
                }
                Poll::Ready(true)
            }
            Source::Events(events) => {
                let (out, entry) = (&mut self.out, &mut self.entry);
                let more = ready!(events.poll_with(cx, |event| push(renderer, event, out, entry)));
                if !more && !self.flow.renderer.is_complete() {
                    let error = Error::NoNode("the answer ended before its end; please try again".into());
                    self.render(&error.event());
                }
                if self.flow.renderer.is_complete() {
                    self.flow.source = Source::Ended;
                }
                Poll::Ready(true)
            }
        }
    }

    fn render(&mut self, event: &Event) {
        push(&mut self.flow.renderer, event, &mut self.out, &mut self.entry);
        self.flow.source = Source::Ended;
    }

    /// Nothing to send: a comment when that has lasted too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            ready!(self.silence.as_mut().poll(cx));
            let now = Instant::now();
            let due = self.spoke + KEEP_ALIVE_EVERY;
            if now < due {
                self.silence.as_mut().reset(due);
                continue;
            }
            self.spoke = now;
            self.silence.as_mut().reset(now + KEEP_ALIVE_EVERY);
            return Poll::Ready(Some(Bytes::from_static(KEEP_ALIVE)));
        }
    }
}

/// Renders an event, and closes the log line with the last one.
fn push(renderer: &mut Renderer, event: &Event, out: &mut BytesMut, entry: &mut Entry) {
    renderer.push(event, out);
    let error = match &event.kind {
        Some(Kind::Usage(_)) => "",
        Some(Kind::Error(error)) => &error.code,
        _ => return,
    };
    // Its begin mark is in the log, or it is not asked for.
    let _ = entry.close(200, error);
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.metrics.open_streams.decrement(1);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(std::mem::take(bytes)),
            Self::Stream(stream) => ready!(stream.poll(cx)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => matches!(stream.flow.source, Source::Ended) && stream.out.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
