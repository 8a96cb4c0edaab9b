//! What has been used of each limit: token buckets, slots and budgets, in memory.
//!
//! One [`Ledger::admit`] takes all charges of a request or none. The Redis script of the edge computes the same; tests
//! there hold the two against each other.
//!
//! A bucket keeps its debt in token-milliseconds: `limit` drains from it each millisecond, and a request fits while debt
//! and amount together are within `limit * window`. Everything is an integer, so nothing is lost to rounding.

use std::collections::{BTreeMap, HashMap};

use crate::limits::charge_kind;

/// One limit that a request wants a part of.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// See [`charge_kind`].
    pub kind: String,
    pub key: String,
    pub amount: u64,
    /// Less than this is of no use; between the two, what is left is granted.
    pub least: u64,
    pub limit: u64,
    /// Of a bucket: the time in which all of `limit` drains. Of a budget: how long its period lasts on, 0 = for ever.
    pub window_ms: u64,
}

/// What was given of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub amount: u64,
    /// What is left after it.
    pub remaining: u64,
    /// When all of the limit is there again, from now.
    pub reset_ms: u64,
}

/// A limit that could not give what was asked at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Position of the demand.
    pub at: usize,
    pub remaining: u64,
    /// When `least` will be there, from now; none when nobody can say, or never.
    pub retry_ms: Option<u64>,
    pub reset_ms: u64,
}

/// Corrects a grant once it is known what was used.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    pub kind: String,
    pub key: String,
    pub granted: u64,
    pub actual: u64,
    pub limit: u64,
    pub window_ms: u64,
    /// Since the grant. What a bucket has drained since is not given back a second time.
    pub elapsed_ms: u64,
}

/// Usage of every limit that is not untouched.
#[derive(Debug, Default)]
pub struct Ledger {
    buckets: HashMap<(String, String), Bucket>,
    slots: HashMap<String, BTreeMap<String, u64>>,
    budgets: HashMap<String, Spent>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Token-milliseconds.
    debt: u64,
    at_ms: u64,
    /// For the sweep: when it is empty at the latest.
    empty_ms: u64,
}

/// What a budget has paid in its period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    pub micro_units: u64,
    /// Unix milliseconds; 0 = for ever.
    pub until_ms: u64,
}

impl Bucket {
    /// The debt at `now_ms`; a clock that went back drains nothing.
    fn debt(self, limit: u64, now_ms: u64) -> u64 {
        self.debt.saturating_sub(limit.saturating_mul(now_ms.saturating_sub(self.at_ms)))
    }
}

impl Ledger {
    /// Takes every demand, or none. `lease` names the request and is freed with [`Ledger::release`], or at
    /// `lease_until_ms`.
    pub fn admit(
        &mut self,
        demands: &[Demand],
        lease: &str,
        lease_until_ms: u64,
        now_ms: u64,
    ) -> Result<Vec<Grant>, Refusal> {
        let mut grants = Vec::with_capacity(demands.len());
        for (at, demand) in demands.iter().enumerate() {
            grants.push(self.look(at, demand, now_ms)?);
        }
        for (demand, grant) in demands.iter().zip(&grants) {
            self.take(demand, grant.amount, (lease, lease_until_ms), now_ms);
        }
        Ok(grants)
    }

    fn look(&self, at: usize, demand: &Demand, now_ms: u64) -> Result<Grant, Refusal> {
        let Demand { kind, key, limit, window_ms, .. } = demand;
        let (limit, window_ms) = (*limit, *window_ms);
        let wanted = demand.amount.min(limit);
        let least = demand.least.min(demand.amount);
        match kind.as_str() {
            charge_kind::CONCURRENCY => {
                let busy = self.slots.get(key).map_or(0, |slots| slots.values().filter(|end| **end > now_ms).count());
                let left = limit.saturating_sub(busy as u64);
                let refusal = Refusal { at, remaining: 0, retry_ms: None, reset_ms: 0 };
                if left < 1 { Err(refusal) } else { Ok(Grant { amount: 1, remaining: left - 1, reset_ms: 0 }) }
            }
            charge_kind::BUDGET => {
                let left = limit.saturating_sub(self.spent(key, now_ms));
                let refusal = Refusal { at, remaining: left, retry_ms: None, reset_ms: window_ms };
                let amount = wanted.min(left);
                if left < least {
                    Err(refusal)
                } else {
                    Ok(Grant { amount, remaining: left - amount, reset_ms: window_ms })
                }
            }
            _ => {
                let bucket = self.buckets.get(&(kind.clone(), key.clone())).copied().unwrap_or_default();
                let debt = bucket.debt(limit, now_ms);
                let left = (limit * window_ms).saturating_sub(debt) / window_ms.max(1);
                if left < least {
                    let over = (debt + least.min(limit) * window_ms).saturating_sub(limit * window_ms);
                    let retry_ms = (least <= limit && limit > 0).then(|| over.div_ceil(limit));
                    return Err(Refusal { at, remaining: left, retry_ms, reset_ms: debt.div_ceil(limit.max(1)) });
                }
                let amount = wanted.min(left);
                let reset_ms = (debt + amount * window_ms).div_ceil(limit.max(1));
                Ok(Grant { amount, remaining: left - amount, reset_ms })
            }
        }
    }

    fn take(&mut self, demand: &Demand, amount: u64, (lease, until_ms): (&str, u64), now_ms: u64) {
        let Demand { kind, key, limit, window_ms, .. } = demand;
        match kind.as_str() {
            charge_kind::CONCURRENCY => {
                let slots = self.slots.entry(key.clone()).or_default();
                slots.retain(|_, end| *end > now_ms);
                slots.insert(lease.into(), until_ms);
            }
            charge_kind::BUDGET => {
                let until_ms = if *window_ms == 0 { 0 } else { now_ms + window_ms };
                let spent = self.spent(key, now_ms).saturating_add(amount);
                self.budgets.insert(key.clone(), Spent { micro_units: spent, until_ms });
            }
            _ => {
                let bucket = self.buckets.entry((kind.clone(), key.clone())).or_default();
                bucket.debt = bucket.debt(*limit, now_ms) + amount * window_ms;
                bucket.at_ms = bucket.at_ms.max(now_ms);
                bucket.empty_ms = bucket.at_ms + window_ms;
            }
        }
    }

    /// Makes the grant what was used.
    pub fn settle(&mut self, correction: &Correction, now_ms: u64) {
        let Correction { kind, key, granted, actual, limit, window_ms, elapsed_ms } = correction;
        match kind.as_str() {
            charge_kind::CONCURRENCY => {}
            charge_kind::BUDGET => {
                if let Some(spent) = self.budgets.get_mut(key) {
                    spent.micro_units = (spent.micro_units.saturating_add(*actual)).saturating_sub(*granted);
                }
            }
            _ => {
                let Some(bucket) = self.buckets.get_mut(&(kind.clone(), key.clone())) else { return };
                let (granted, actual) = (granted * window_ms, actual.saturating_mul(*window_ms));
                let debt = bucket.debt(*limit, now_ms);
                let still_there = granted.saturating_sub(limit.saturating_mul(*elapsed_ms));
                let refund = granted.saturating_sub(actual).min(still_there);
                bucket.debt = debt.saturating_sub(refund).saturating_add(actual.saturating_sub(granted));
                bucket.at_ms = bucket.at_ms.max(now_ms);
                bucket.empty_ms = bucket.at_ms + bucket.debt / (*limit).max(1) + 1;
            }
        }
    }

    /// Frees a slot.
    pub fn release(&mut self, key: &str, lease: &str) {
        if let Some(slots) = self.slots.get_mut(key) {
            slots.remove(lease);
            if slots.is_empty() {
                self.slots.remove(key);
            }
        }
    }

    /// Micro-units that a budget has paid in its period.
    pub fn spent(&self, key: &str, now_ms: u64) -> u64 {
        let open = |spent: &&Spent| spent.until_ms == 0 || spent.until_ms > now_ms;
        self.budgets.get(key).filter(open).map_or(0, |spent| spent.micro_units)
    }

    /// A budget as it is to be kept for the next start.
    pub fn budget(&self, key: &str) -> Option<Spent> {
        self.budgets.get(key).copied()
    }

    /// Takes a budget up where an earlier process left it.
    pub fn resume(&mut self, key: String, spent: Spent) {
        self.budgets.insert(key, spent);
    }

    /// Forgets what is as good as untouched.
    pub fn sweep(&mut self, now_ms: u64) {
        self.buckets.retain(|_, bucket| bucket.empty_ms > now_ms);
        self.budgets.retain(|_, spent| spent.until_ms == 0 || spent.until_ms > now_ms);
        self.slots.retain(|_, slots| {
            slots.retain(|_, end| *end > now_ms);
            !slots.is_empty()
        });
    }

    /// Limits that are remembered.
    pub fn len(&self) -> usize {
        self.buckets.len() + self.slots.len() + self.budgets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
