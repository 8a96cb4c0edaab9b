//! Where the events of an answer come from: a node, the cache, another request's generation, or a filter over these.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, stream};
use littoral_proto::v1::Event;

use super::{
    cache::{Answer, Listener},
    generation::Generation,
};
use crate::guest::{FilteredEvents, GuestError, Worker};

/// The events of one answer, in order.
pub enum Events {
    Generation(Box<Generation>),
    Replay {
        answer: Arc<Answer>,
        next: usize,
    },
    /// A generation that others listen to as well.
    Shared(Listener),
    Filtered(FilteredEvents),
}

impl Events {
    pub fn replay(answer: Arc<Answer>) -> Self {
        Self::Replay { answer, next: 0 }
    }

    /// Puts the filters a plan names around the events.
    pub fn through(self, filters: &[String], guests: &Worker) -> Result<Self, GuestError> {
        if filters.is_empty() {
            return Ok(self);
        }
        let filtered = match self {
            Self::Generation(generation) => guests.filter(filters, *generation)?,
            Self::Replay { answer, .. } => guests.filter(filters, stream::iter(answer.events.clone()))?,
            Self::Shared(listener) => guests.filter(filters, listener)?,
            Self::Filtered(events) => guests.filter(filters, events)?,
        };
        Ok(Self::Filtered(filtered))
    }

    /// Shows the next event to `take`, without a copy; false at the end.
    pub fn poll_with(&mut self, cx: &mut Context<'_>, take: impl FnOnce(&Event)) -> Poll<bool> {
        let event = match self {
            Self::Replay { answer, next } => {
                let Some(event) = answer.events.get(*next) else { return Poll::Ready(false) };
                *next += 1;
                take(event);
                return Poll::Ready(true);
            }
            Self::Shared(listener) => return listener.poll_with(cx, take),
            Self::Generation(generation) => ready!(Pin::new(generation.as_mut()).poll_next(cx)),
            Self::Filtered(events) => ready!(Pin::new(events).poll_next(cx)),
        };
        if let Some(event) = &event {
            take(event);
        }
        Poll::Ready(event.is_some())
    }
}
