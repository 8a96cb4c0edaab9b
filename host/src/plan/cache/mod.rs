//! The answer cache of this process: exact keys, bounded in bytes, each answer with its own time to live; and the
//! generations under way that others may join.
//!
//! Never kept or shared: another tenant's answer (the scope is part of the key), one that broke off or failed, one over
//! the size cap, and one whose generation is older than a purge that means it.

mod answer;
mod flight;
mod purge;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use littoral_core::{CachePlan, cache_mode};
use moka::sync::Cache;

use crate::{store::Stored, telemetry::CacheOutcome};
use answer::OwnTtl;
pub use answer::{Answer, Place};
pub use flight::{Flight, Listener, Pilot};
use purge::Mark;
pub use purge::{Point, Purge, Purges};

/// All answers kept, and those in the making.
#[derive(Clone)]
pub struct AnswerCache(Arc<Store>);

struct Store {
    answers: Cache<Key, Arc<Answer>>,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    purges: Mutex<Purges>,
    max_answer_bytes: usize,
}

/// Scope and key, a NUL between them.
pub type Key = Arc<str>;

/// What came of a look-up.
pub struct LookUp {
    pub outcome: CacheOutcome,
    pub found: Found,
}

/// Where the answer comes from.
pub enum Found {
    Kept(Arc<Answer>),
    /// Another request's generation.
    Joined(Listener),
    /// A generation that others may join: who flies it, and the first who listens.
    Leads(Pilot, Listener),
    /// A generation that is nobody else's.
    Alone,
}

impl LookUp {
    /// Nothing was planned for the cache.
    pub fn none() -> Self {
        Self { outcome: CacheOutcome::None, found: Found::Alone }
    }
}

impl AnswerCache {
    /// `max_bytes` for all answers together, `max_answer_bytes` for each.
    pub fn new(max_bytes: u64, max_answer_bytes: usize) -> Self {
        let weigh = |key: &Key, answer: &Arc<Answer>| u32::try_from(key.len() + answer.size).unwrap_or(u32::MAX);
        let answers = Cache::builder().max_capacity(max_bytes).weigher(weigh).expire_after(OwnTtl).build();
        Self(Arc::new(Store { answers, flights: Mutex::default(), purges: Mutex::default(), max_answer_bytes }))
    }

    /// Whether a plan has anything looked up.
    pub fn looks(plan: &CachePlan) -> bool {
        (plan.mode == cache_mode::USE || plan.mode == cache_mode::REFRESH) && !plan.key.is_empty()
    }

    /// Whether a plan may be answered with what another request began.
    pub fn shares(plan: &CachePlan) -> bool {
        plan.mode == cache_mode::USE && !plan.key.is_empty() && plan.oldest_ms() > 0
    }

    /// What the plan allows: an answer, a generation under way, or a new one, and what to tell the client.
    pub fn look_up(&self, plan: &CachePlan) -> LookUp {
        if !Self::looks(plan) {
            return LookUp { outcome: CacheOutcome::Bypass, found: Found::Alone };
        }
        let uses = plan.mode == cache_mode::USE;
        if uses && let Some(answer) = self.get(plan) {
            return LookUp { outcome: CacheOutcome::Hit, found: Found::Kept(answer) };
        }
        let place = Place::of(plan);
        let outcome = if uses { CacheOutcome::Miss } else { CacheOutcome::Bypass };
        // What is not kept is not shared.
        if place.ttl.is_zero() {
            return LookUp { outcome, found: Found::Alone };
        }
        let mut flights = lock(&self.0.flights);
        if Self::shares(plan) {
            if let Some(listener) = flights.get(&place.key).and_then(Flight::join) {
                return LookUp { outcome: CacheOutcome::Coalesced, found: Found::Joined(listener) };
            }
            // One that landed between the first look and the lock.
            if let Some(answer) = self.get(plan) {
                return LookUp { outcome: CacheOutcome::Hit, found: Found::Kept(answer) };
            }
        }
        let mark = lock(&self.0.purges).mark();
        let flight = Flight::new(self.clone(), place, mark);
        let Some(listener) = flight.join() else { return LookUp { outcome, found: Found::Alone } };
        flights.insert(flight.place().key.clone(), flight.clone());
        LookUp { outcome, found: Found::Leads(Pilot::new(flight), listener) }
    }

    /// A kept answer that is as young as the plan asks.
    fn get(&self, plan: &CachePlan) -> Option<Arc<Answer>> {
        let oldest = Duration::from_millis(plan.oldest_ms());
        self.0.answers.get(answer::key(plan).as_str()).filter(|answer| answer.age() < oldest)
    }

    /// Keeps an answer begun at `mark`, unless it has been purged since.
    fn keep(&self, answer: Arc<Answer>, mark: Mark) -> bool {
        // Held until it is in: a purge comes before, and is seen, or after, and finds it.
        let purges = lock(&self.0.purges);
        let keeps = !purges.purged_since(mark, &answer.place);
        if keeps {
            self.0.answers.insert(answer.place.key.clone(), answer);
        }
        keeps
    }

    /// A flight that nobody may join any more.
    fn landed(&self, flight: &Arc<Flight>) {
        let mut flights = lock(&self.0.flights);
        if flights.get(&flight.place().key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            flights.remove(&flight.place().key);
        }
    }

    /// Forgets the answers a purge means, and sees to it that those in the making are neither kept nor joined. How many
    /// kept ones there were.
    pub fn purge(&self, purge: &Purge) -> u64 {
        lock(&self.0.purges).add(purge.clone());
        self.sweep(purge)
    }

    fn sweep(&self, purge: &Purge) -> u64 {
        lock(&self.0.flights).retain(|_, flight| !purge.means(flight.place()));
        let mut gone = 0;
        for (key, answer) in &self.0.answers {
            if purge.means(&answer.place) {
                self.0.answers.invalidate(key.as_ref());
                gone += 1;
            }
        }
        gone
    }

    /// A purge that came from the store; how many kept answers it meant, none when it is known.
    pub fn purge_numbered(&self, point: Point, purge: &Purge) -> Option<u64> {
        let is_new = lock(&self.0.purges).add_numbered(point, purge.clone());
        is_new.then(|| self.sweep(purge))
    }

    /// The last purge that came from the store.
    pub fn last_purge(&self) -> Point {
        lock(&self.0.purges).mark().point
    }

    /// The store is in this memory: what was kept in another is not taken from it.
    pub fn store_is(&self, epoch: u64) {
        lock(&self.0.purges).enter(epoch);
    }

    /// Whether the store is worth asking for what a plan looks up: nothing here answers it.
    pub fn lacks(&self, plan: &CachePlan) -> bool {
        Self::shares(plan)
            && self.get(plan).is_none()
            && !lock(&self.0.flights).contains_key(answer::key(plan).as_str())
    }

    /// Takes in an answer from the store, unless it is another tenant's, too old or purged.
    pub fn adopt(&self, plan: &CachePlan, stored: Stored) -> Option<Arc<Answer>> {
        let (age, answer) = (stored.age(), &stored.0);
        let mut place = Place { tags: answer.tags.clone(), ..Place::of(plan) };
        place.ttl = Duration::from_millis(answer.ttl_ms);
        let since = Instant::now().checked_sub(age)?;
        if answer.scope != plan.scope || age >= place.ttl.min(Duration::from_millis(plan.oldest_ms())) {
            return None;
        }
        let purges = lock(&self.0.purges);
        if purges.purged_after(Point { epoch: answer.epoch, number: answer.purge }, &place) {
            return None;
        }
        let answer = Arc::new(Answer::since(since, stored.events(), place));
        self.0.answers.insert(answer.place.key.clone(), answer.clone());
        Some(answer)
    }

    /// Bytes and answers kept.
    pub fn size(&self) -> (u64, u64) {
        (self.0.answers.weighted_size(), self.0.answers.entry_count())
    }

    /// Generations that may be joined.
    pub fn flights(&self) -> usize {
        lock(&self.0.flights).len()
    }

    fn max_answer_bytes(&self) -> usize {
        self.0.max_answer_bytes
    }

    /// Lets expired answers go; nothing else does while nobody asks for any.
    pub fn upkeep(&self) {
        self.0.answers.run_pending_tasks();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
