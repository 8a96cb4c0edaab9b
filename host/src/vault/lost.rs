//! Limits that go on when the store is lost.
//!
//! With `store.on_loss = "share"` each edge goes on with its share of what was left when the store was last heard:
//! the remainder divided by the number of edges. What is spent meanwhile is charged to the store once it is back.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use littoral_core::{
    ledger::{Correction, Demand, Grant, Ledger, Refusal},
    limits::charge_kind,
};

use super::{Admission, Settlement, Store, StoreError, now_ms};
use crate::config::OnLoss;

/// Remainders that are remembered; beyond them those of other limits are forgotten.
const MOST_REMEMBERED: usize = 65_536;

/// The limits of this edge: the store's, or this edge's share of them.
pub struct Limits {
    store: Arc<dyn Store>,
    on_loss: OnLoss,
    /// The store did not answer when it was last asked.
    lost: AtomicBool,
    /// Limits go on without the store, until it admits something.
    alone: AtomicBool,
    shared: AtomicU64,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    ledger: Ledger,
    /// What was left when the store last said so, by kind and key.
    left: HashMap<(String, String), u64>,
    /// Limits whose share has been set.
    shares: HashSet<(String, String)>,
    /// Leases granted here and not by the store.
    leases: HashSet<String>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Limits {
    pub fn new(store: Arc<dyn Store>, on_loss: OnLoss) -> Self {
        let (lost, alone, shared) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        Self { store, on_loss, lost, alone, shared, own: Mutex::default() }
    }

    /// Whether the store did not answer when it was last asked.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Requests admitted by share since the start.
    pub fn shared(&self) -> u64 {
        self.shared.load(Relaxed)
    }

    /// Takes a request's charges.
    pub async fn admit(&self, admission: Admission) -> Result<Result<Vec<Grant>, Refusal>, StoreError> {
        let keep = (self.on_loss == OnLoss::Share && self.store.is_shared()).then(|| admission.clone());
        let slots = admission.demands.iter().filter(|demand| demand.kind == charge_kind::CONCURRENCY);
        let slots: Vec<_> = slots.map(|demand| demand.key.clone()).collect();
        let (tenant, lease) = (admission.tenant.clone(), admission.lease.clone());
        match self.store.admit(admission).await {
            Ok(answer) => {
                if let Some(admission) = keep {
                    self.heard(&admission, &answer);
                }
                Ok(answer)
            }
            Err(error) => {
                // It may have been done all the same: a slot that nobody knows of would be held to the end of its lease.
                if !slots.is_empty() {
                    self.store.settle(Settlement { tenant, lease, corrections: Vec::new(), slots });
                }
                self.lost.store(true, Relaxed);
                if !self.alone.swap(true, Relaxed) {
                    tracing::error!(%error, on_loss = ?self.on_loss, "the store is lost; limits go on without it");
                }
                match keep.and_then(|admission| self.share(admission)) {
                    Some(answer) => Ok(answer),
                    None => Err(error),
                }
            }
        }
    }

    /// Corrects grants of a request that goes on.
    pub fn correct(&self, settlement: Settlement) {
        let own = self.own();
        let here = own.leases.contains(&settlement.lease);
        drop(own);
        // A share is corrected once, at the end.
        if !here {
            self.store.settle(settlement);
        }
    }

    /// Settles where the request was admitted.
    pub fn settle(&self, mut settlement: Settlement) {
        let mut own = self.own();
        if !own.leases.remove(&settlement.lease) {
            drop(own);
            if !(settlement.corrections.is_empty() && settlement.slots.is_empty()) {
                self.store.settle(settlement);
            }
            return;
        }
        let now = now_ms();
        let edges = u64::from(self.store.edges().max(1));
        for correction in &settlement.corrections {
            let limit = correction.limit.div_ceil(edges);
            own.ledger.settle(&Correction { limit, ..correction.clone() }, now);
        }
        for slot in &settlement.slots {
            own.ledger.release(slot, &settlement.lease);
        }
        drop(own);
        // The store knows nothing of the grant: it is charged what was used.
        settlement.corrections.retain(|c| c.kind == charge_kind::BUDGET && c.actual > 0);
        settlement.corrections.iter_mut().for_each(|c| c.granted = 0);
        settlement.slots.clear();
        if !settlement.corrections.is_empty() {
            self.store.settle(settlement);
        }
    }

    /// The store has answered something else than an admission: it is not lost. Limits are its own again with the next
    /// admission, which says what is left of them.
    pub fn answered(&self) {
        self.lost.store(false, Relaxed);
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, admission: &Admission, answer: &Result<Vec<Grant>, Refusal>) {
        let mut own = self.own();
        self.lost.store(false, Relaxed);
        if self.alone.swap(false, Relaxed) {
            tracing::info!("the store is back");
            own.ledger = Ledger::default();
            own.shares.clear();
        }
        if own.left.len() > MOST_REMEMBERED {
            own.left.clear();
        }
        let mut note = |demand: &Demand, left: u64| {
            if demand.kind != charge_kind::CONCURRENCY {
                own.left.insert((demand.kind.clone(), demand.key.clone()), left);
            }
        };
        match answer {
            Ok(grants) => {
                admission.demands.iter().zip(grants).for_each(|(demand, grant)| note(demand, grant.remaining))
            }
            Err(refusal) => {
                if let Some(demand) = admission.demands.get(refusal.at) {
                    note(demand, refusal.remaining);
                }
            }
        }
    }

    /// This edge's share of each limit, beginning with its share of what was left. None where a budget is among them of
    /// which nobody has heard: it may be used up or whole.
    fn share(&self, mut admission: Admission) -> Option<Result<Vec<Grant>, Refusal>> {
        let edges = u64::from(self.store.edges().max(1));
        let now = now_ms();
        let mut guard = self.own();
        let own = &mut *guard;
        for demand in &mut admission.demands {
            let name = (demand.kind.clone(), demand.key.clone());
            let left = own.left.get(&name).map(|left| left / edges);
            match demand.kind.as_str() {
                charge_kind::BUDGET => demand.limit = left?,
                charge_kind::CONCURRENCY => demand.limit = demand.limit.div_ceil(edges),
                _ => {
                    demand.limit = demand.limit.div_ceil(edges);
                    if own.shares.insert(name) {
                        let gone = demand.limit.saturating_sub(left.unwrap_or(demand.limit));
                        let drain = Demand { amount: gone, least: gone, ..demand.clone() };
                        // A fresh bucket holds all of its limit, so this cannot be refused.
                        let _ = own.ledger.admit(&[drain], "", 0, now);
                    }
                }
            }
        }
        let until = now + admission.lease_for.as_millis() as u64;
        let granted = own.ledger.admit(&admission.demands, &admission.lease, until, now);
        if granted.is_ok() {
            own.leases.insert(admission.lease);
            self.shared.fetch_add(1, Relaxed);
        }
        Some(granted)
    }
}
