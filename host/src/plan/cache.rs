//! The answer cache of this process: exact keys, bounded in bytes, each answer with its own time to live.
//!
//! What is kept is what nodes sent, so that a stream and a document serve each other and filters run on every replay.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use littoral_core::{CachePlan, cache_mode};
use littoral_proto::v1::{Event, delta::Part, event::Kind};
use moka::{Expiry, sync::Cache};

use crate::telemetry::CacheOutcome;

/// A complete answer.
pub struct Answer {
    pub events: Vec<Event>,
    stored: Instant,
    ttl: Duration,
    /// Bytes in memory, roughly.
    size: usize,
}

impl Answer {
    pub fn age(&self) -> Duration {
        self.stored.elapsed()
    }
}

/// All answers kept.
#[derive(Clone)]
pub struct AnswerCache {
    answers: Cache<Key, Arc<Answer>>,
    max_answer_bytes: usize,
}

/// Scope and key, a NUL between them.
type Key = Arc<str>;

impl AnswerCache {
    /// `max_bytes` for all answers together, `max_answer_bytes` for each.
    pub fn new(max_bytes: u64, max_answer_bytes: usize) -> Self {
        let weigh = |key: &Key, answer: &Arc<Answer>| u32::try_from(key.len() + answer.size).unwrap_or(u32::MAX);
        let answers = Cache::builder().max_capacity(max_bytes).weigher(weigh).expire_after(OwnTtl).build();
        Self { answers, max_answer_bytes }
    }

    /// What the plan allows: an answer, or a place to keep the one that is generated now, and what to tell the client.
    pub fn look_up(&self, plan: &CachePlan) -> LookUp {
        let ttl = Duration::from_millis(plan.ttl_ms);
        let known_mode = plan.mode == cache_mode::USE || plan.mode == cache_mode::REFRESH;
        if !known_mode || plan.key.is_empty() {
            return LookUp { outcome: CacheOutcome::Bypass, hit: None, tape: None };
        }
        let key: Key = format!("{}\0{}", plan.scope, plan.key).into();
        if plan.mode == cache_mode::USE
            && let Some(answer) = self.answers.get(&key)
            && answer.age() < ttl
        {
            return LookUp { outcome: CacheOutcome::Hit, hit: Some(answer), tape: None };
        }
        let outcome = if plan.mode == cache_mode::USE { CacheOutcome::Miss } else { CacheOutcome::Bypass };
        let tape = Tape { cache: self.clone(), key, ttl, events: Vec::new(), size: 0 };
        LookUp { outcome, hit: None, tape: (!ttl.is_zero()).then_some(tape) }
    }

    /// Bytes and answers kept.
    pub fn size(&self) -> (u64, u64) {
        (self.answers.weighted_size(), self.answers.entry_count())
    }

    /// Lets expired answers go; nothing else does while nobody asks for any.
    pub fn upkeep(&self) {
        self.answers.run_pending_tasks();
    }
}

/// What came of a look-up.
pub struct LookUp {
    pub outcome: CacheOutcome,
    pub hit: Option<Arc<Answer>>,
    /// Where the answer is recorded that is generated instead.
    pub tape: Option<Tape>,
}

/// Records the events of one generation. Only [`Tape::keep`] stores them.
pub struct Tape {
    cache: AnswerCache,
    key: Key,
    ttl: Duration,
    events: Vec<Event>,
    size: usize,
}

impl Tape {
    /// Takes an event in; false when the answer has become too large to keep, and the tape with it useless.
    pub fn record(&mut self, event: &Event) -> bool {
        self.size += size(event);
        if self.size > self.cache.max_answer_bytes {
            return false;
        }
        self.events.push(event.clone());
        true
    }

    /// The answer is complete: stores it.
    pub fn keep(mut self) {
        self.events.shrink_to_fit();
        let answer = Answer { events: self.events, stored: Instant::now(), ttl: self.ttl, size: self.size };
        self.cache.answers.insert(self.key, Arc::new(answer));
    }
}

/// Bytes an event takes in memory, roughly.
fn size(event: &Event) -> usize {
    let heap = match &event.kind {
        Some(Kind::Delta(delta)) => {
            let part = match &delta.part {
                Some(Part::Text(text) | Part::Reasoning(text)) => text.len(),
                Some(Part::ToolCall(call)) => call.id.len() + call.name.len() + call.arguments.len(),
                None => 0,
            };
            part + 4 * delta.token_ids.len() + 96 * delta.logprobs.iter().map(|l| 1 + l.top.len()).sum::<usize>()
        }
        _ => 64,
    };
    size_of::<Event>() + heap
}

struct OwnTtl;

impl Expiry<Key, Arc<Answer>> for OwnTtl {
    fn expire_after_create(&self, _: &Key, answer: &Arc<Answer>, _: Instant) -> Option<Duration> {
        Some(answer.ttl)
    }

    fn expire_after_update(&self, _: &Key, answer: &Arc<Answer>, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(answer.ttl)
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1::{Delta, Usage};

    use super::*;

    fn plan(mode: &str, scope: &str, ttl_ms: u64) -> CachePlan {
        CachePlan { key: "k".into(), scope: scope.into(), ttl_ms, mode: mode.into(), ..CachePlan::default() }
    }

    fn text(text: &str) -> Event {
        Event { kind: Some(Kind::Delta(Delta { part: Some(Part::Text(text.into())), ..Delta::default() })) }
    }

    fn store(cache: &AnswerCache, plan: &CachePlan) {
        let mut tape = cache.look_up(plan).tape.unwrap();
        assert!(tape.record(&text("hello")));
        assert!(tape.record(&Event { kind: Some(Kind::Usage(Usage::default())) }));
        tape.keep();
    }

    fn hits(cache: &AnswerCache, plan: &CachePlan) -> bool {
        cache.look_up(plan).hit.is_some()
    }

    #[test]
    fn modes() {
        let cache = AnswerCache::new(1 << 20, 1 << 16);
        let used = plan(cache_mode::USE, "acme", 60_000);
        assert!(!hits(&cache, &used));
        store(&cache, &used);
        assert!(hits(&cache, &used));
        let refreshed = cache.look_up(&plan(cache_mode::REFRESH, "acme", 60_000));
        assert!(refreshed.hit.is_none() && refreshed.tape.is_some() && refreshed.outcome == CacheOutcome::Bypass);
        for mode in [cache_mode::BYPASS, "", "something new"] {
            let bypassed = cache.look_up(&plan(mode, "acme", 60_000));
            assert!(bypassed.hit.is_none() && bypassed.tape.is_none());
        }
    }

    #[test]
    fn scopes_do_not_see_each_other() {
        let cache = AnswerCache::new(1 << 20, 1 << 16);
        store(&cache, &plan(cache_mode::USE, "acme", 60_000));
        assert!(!hits(&cache, &plan(cache_mode::USE, "globex", 60_000)));
    }

    #[test]
    fn an_answer_is_kept_no_longer_than_either_side_says() {
        let cache = AnswerCache::new(1 << 20, 1 << 16);
        store(&cache, &plan(cache_mode::USE, "acme", 60_000));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!hits(&cache, &plan(cache_mode::USE, "acme", 2)));
        assert!(cache.look_up(&plan(cache_mode::USE, "acme", 0)).tape.is_none());
        store(&cache, &plan(cache_mode::REFRESH, "acme", 2));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!hits(&cache, &plan(cache_mode::USE, "acme", 60_000)));
    }

    #[test]
    fn what_is_too_large_is_not_recorded_further() {
        let cache = AnswerCache::new(1 << 20, 1000);
        let mut tape = cache.look_up(&plan(cache_mode::USE, "acme", 60_000)).tape.unwrap();
        assert!(!tape.record(&text(&"x".repeat(1000))));
    }

    #[test]
    fn memory_is_bounded() {
        let cache = AnswerCache::new(10_000, 10_000);
        for i in 0..200 {
            let plan = CachePlan { key: format!("k{i}"), ..plan(cache_mode::USE, "acme", 60_000) };
            store(&cache, &plan);
        }
        cache.upkeep();
        let (bytes, answers) = cache.size();
        assert!(bytes <= 10_000 && answers > 0, "{answers} answers take {bytes} bytes");
    }
}
