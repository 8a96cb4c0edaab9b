//! A complete answer as it is kept: what nodes sent, so that a stream and a document serve each other and filters run
//! on every replay.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use littoral_api::chat::{Head, Renderer};
use littoral_core::CachePlan;
use littoral_proto::v1::{Delta, Event, StoredAnswer, delta::Part, event::Kind};
use moka::Expiry;

use super::{Key, purge::Point};
use crate::{plan::now_ms, store::Stored};

/// Where an answer belongs: its key, and what it can be purged by.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub key: Key,
    pub scope: String,
    pub tags: Vec<String>,
    pub ttl: Duration,
}

impl Place {
    pub fn of(plan: &CachePlan) -> Self {
        Self {
            key: key(plan).into(),
            scope: plan.scope.clone(),
            tags: plan.tags.clone(),
            ttl: Duration::from_millis(plan.ttl_ms),
        }
    }
}

/// A plan's [`Key`].
pub fn key(plan: &CachePlan) -> String {
    [&plan.scope, "\0", &plan.key].concat()
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub events: Vec<Event>,
    pub place: Place,
    pub(super) stored: Instant,
    /// Bytes in memory, roughly.
    pub(super) size: usize,
    ending: OnceLock<Option<Bytes>>,
}

impl Answer {
    /// What a generation that has just ended said, in as few events as say it.
    pub(super) fn new(events: &[Event], place: Place) -> Self {
        Self::since(Instant::now(), condense(events), place)
    }

    /// What was said so long ago.
    pub(super) fn since(stored: Instant, events: Vec<Event>, place: Place) -> Self {
        // Its text once more, as it stands in a document.
        let size = events.iter().map(|event| size(event) + heap(event)).sum();
        Self { events, place, stored, size, ending: OnceLock::new() }
    }

    /// What a document of it ends with (see [`littoral_api::chat::join`]), written when the first one is asked for.
    pub fn ending(&self) -> Option<&Bytes> {
        let write = || {
            let (mut renderer, mut unused) = (Renderer::new(Head::default()), BytesMut::new());
            self.events.iter().for_each(|event| renderer.push(event, &mut unused));
            renderer.ending()
        };
        self.ending.get_or_init(write).as_ref()
    }

    pub fn age(&self) -> Duration {
        self.stored.elapsed()
    }

    /// As it is kept for other edges; `known` is the last purge known when it began.
    pub fn to_store(&self, known: Point) -> Stored {
        let Place { scope, tags, ttl, .. } = self.place.clone();
        Stored(StoredAnswer {
            scope,
            tags,
            stored_ms: now_ms().saturating_sub(self.age().as_millis() as u64),
            ttl_ms: ttl.as_millis() as u64,
            purge: known.number,
            epoch: known.epoch,
            events: self.events.clone(),
        })
    }
}

/// Text of one event at most where several become one, bytes.
const CONDENSED: usize = 4 << 10;

/// Text that came token by token becomes longer pieces, each choice's in its own order: a replay has no pace to keep.
fn condense(events: &[Event]) -> Vec<Event> {
    let mut condensed: Vec<Event> = Vec::new();
    for event in events {
        let taken = match &event.kind {
            Some(Kind::Delta(delta)) => condensed.iter_mut().rev().find_map(|known| match &mut known.kind {
                Some(Kind::Delta(last)) if last.choice == delta.choice => Some(extend(last, delta)),
                _ => None,
            }),
            _ => None,
        };
        if taken != Some(true) {
            condensed.push(event.clone());
        }
    }
    condensed
}

/// Puts a delta at the end of the one before it; false for one that has to stand alone.
fn extend(last: &mut Delta, delta: &Delta) -> bool {
    let (text, more) = match (&mut last.part, &delta.part) {
        (Some(Part::Text(text)), Some(Part::Text(more))) => (text, more),
        (Some(Part::Reasoning(text)), Some(Part::Reasoning(more))) => (text, more),
        _ => return false,
    };
    if text.len() + more.len() > CONDENSED {
        return false;
    }
    text.push_str(more);
    last.token_ids.extend(&delta.token_ids);
    last.logprobs.extend(delta.logprobs.iter().cloned());
    true
}

/// Bytes an event takes in memory, roughly.
pub fn size(event: &Event) -> usize {
    size_of::<Event>() + heap(event)
}

fn heap(event: &Event) -> usize {
    match &event.kind {
        Some(Kind::Delta(delta)) => {
            let part = match &delta.part {
                Some(Part::Text(text) | Part::Reasoning(text)) => text.len(),
                Some(Part::ToolCall(call)) => call.id.len() + call.name.len() + call.arguments.len(),
                None => 0,
            };
            part + 4 * delta.token_ids.len() + 96 * delta.logprobs.iter().map(|l| 1 + l.top.len()).sum::<usize>()
        }
        _ => 64,
    }
}

/// Each answer lives as long as its own place says.
pub(super) struct OwnTtl;

impl Expiry<Key, std::sync::Arc<Answer>> for OwnTtl {
    fn expire_after_create(&self, _: &Key, answer: &std::sync::Arc<Answer>, _: Instant) -> Option<Duration> {
        Some(answer.place.ttl.saturating_sub(answer.age()))
    }

    fn expire_after_update(
        &self,
        _: &Key,
        answer: &std::sync::Arc<Answer>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.place.ttl.saturating_sub(answer.age()))
    }
}
