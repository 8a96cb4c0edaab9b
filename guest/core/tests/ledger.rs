//! The ledger against a brute-force oracle, and what must never happen to a budget.

use littoral_core::{
    ledger::{Correction, Demand, Ledger},
    limits::charge_kind::{BUDGET, CONCURRENCY, REQUESTS, TOKENS},
};
use proptest::prelude::*;

fn demand(kind: &str, amount: u64, least: u64, limit: u64, window_ms: u64) -> Demand {
    Demand { kind: kind.into(), key: "k".into(), amount, least, limit, window_ms }
}

/// A bucket as the textbook has it, stepped one millisecond at a time in exact fractions of a token.
struct Oracle {
    /// Fractions of a token: `window` of them are one.
    level: u64,
    limit: u64,
    window: u64,
    at: u64,
}

impl Oracle {
    fn admits(&mut self, amount: u64, now: u64) -> bool {
        while self.at < now {
            self.level = (self.level + self.limit).min(self.limit * self.window);
            self.at += 1;
        }
        let fits = self.level >= amount * self.window;
        if fits {
            self.level -= amount * self.window;
        }
        fits
    }
}

proptest! {
    #[test]
    fn a_bucket_is_the_textbooks(
        limit in 1u64..50, window in 1u64..2000,
        schedule in proptest::collection::vec((0u64..300, 1u64..60), 1..120),
    ) {
        let mut ledger = Ledger::default();
        let mut oracle = Oracle { level: limit * window, limit, window, at: 0 };
        let mut now = 0;
        for (wait, amount) in schedule {
            now += wait;
            let amount = amount.min(limit);
            let admitted = ledger.admit(&[demand(REQUESTS, amount, amount, limit, window)], "r", 0, now);
            prop_assert_eq!(admitted.is_ok(), oracle.admits(amount, now));
            match admitted {
                Ok(grant) => prop_assert_eq!(grant[0].remaining, oracle.level / window),
                Err(refusal) => {
                    // Not a millisecond too early, and not one too late.
                    let retry = refusal.retry_ms.unwrap();
                    prop_assert!(retry > 0);
                    let at = |after| Oracle { ..oracle }.admits(amount, now + after);
                    prop_assert!(at(retry) && !at(retry - 1));
                }
            }
        }
    }

    /// However reservations and corrections come, what was really used is within the bucket's line from the start.
    #[test]
    fn corrections_never_open_a_bucket_wider(
        limit in 1u64..1000,
        steps in proptest::collection::vec((0u64..5000, 1u64..1000, 0u64..1000, 0u64..20), 1..100),
    ) {
        let window = 60_000;
        let mut ledger = Ledger::default();
        let (mut now, mut used) = (1_000_000, 0);
        let began = now;
        let mut open: Vec<(u64, u64, u64)> = Vec::new();
        for (wait, amount, actual, hold) in steps {
            now += wait;
            if let Ok(grants) = ledger.admit(&[demand(TOKENS, amount, 1, limit, window)], "r", 0, now) {
                let granted = grants[0].amount;
                prop_assert!(granted <= amount.min(limit));
                open.push((granted, actual.min(granted), now));
            }
            while open.len() as u64 > hold {
                let (granted, actual, at) = open.remove(0);
                used += actual;
                let correction = Correction {
                    kind: TOKENS.into(), key: "k".into(), granted, actual, limit, window_ms: window, elapsed_ms: now - at,
                };
                ledger.settle(&correction, now);
            }
            prop_assert!(used * window <= limit * window + limit * (now - began));
        }
    }

    /// Reserved and settled in any order, a budget is never overrun, and what was not used comes back.
    #[test]
    fn a_budget_is_never_overrun(
        budget in 0u64..10_000,
        steps in proptest::collection::vec((1u64..3000, 1u64..500, 0u64..3000, 0usize..8), 1..150),
    ) {
        let mut ledger = Ledger::default();
        let (mut open, mut used) = (Vec::new(), 0);
        for (amount, least, actual, hold) in steps {
            if let Ok(grants) = ledger.admit(&[demand(BUDGET, amount, least.min(amount), budget, 0)], "r", 0, 5) {
                prop_assert!(grants[0].amount >= least.min(amount));
                open.push((grants[0].amount, actual.min(grants[0].amount)));
            }
            while open.len() > hold {
                let (granted, actual) = open.remove(0);
                used += actual;
                let correction = Correction {
                    kind: BUDGET.into(), key: "k".into(), granted, actual, limit: budget, window_ms: 0, elapsed_ms: 0,
                };
                ledger.settle(&correction, 5);
            }
            let reserved: u64 = open.iter().map(|(granted, _)| granted).sum();
            prop_assert_eq!(ledger.spent("k", 5), used + reserved);
            prop_assert!(used + reserved <= budget);
        }
    }
}

#[test]
fn all_or_nothing() {
    let mut ledger = Ledger::default();
    let asked = [demand(REQUESTS, 1, 1, 10, 1000), demand(BUDGET, 50, 50, 40, 0)];
    let refusal = ledger.admit(&asked, "r", 0, 0).unwrap_err();
    assert_eq!((refusal.at, refusal.remaining, refusal.retry_ms), (1, 40, None));
    assert!(ledger.is_empty(), "a refused request was charged: {ledger:?}");
}

#[test]
fn slots_are_leases() {
    let mut ledger = Ledger::default();
    let asked = [demand(CONCURRENCY, 1, 1, 2, 0)];
    assert!(ledger.admit(&asked, "a", 100, 0).is_ok());
    assert!(ledger.admit(&asked, "b", 200, 0).is_ok());
    assert!(ledger.admit(&asked, "c", 200, 99).is_err());
    // The edge behind `a` is gone: its slot is free when its lease is over.
    assert!(ledger.admit(&asked, "c", 300, 100).is_ok());
    ledger.release("k", "b");
    assert!(ledger.admit(&asked, "d", 300, 101).is_ok());
    ledger.sweep(300);
    assert!(ledger.is_empty());
}

#[test]
fn a_limit_of_nothing_admits_nobody() {
    for kind in [REQUESTS, TOKENS, CONCURRENCY, BUDGET] {
        assert!(Ledger::default().admit(&[demand(kind, 1, 1, 0, 1000)], "r", 1, 0).is_err(), "{kind}");
    }
}

#[test]
fn a_request_larger_than_its_bucket_is_not_told_to_come_again() {
    let refusal = Ledger::default().admit(&[demand(TOKENS, 500, 200, 100, 60_000)], "r", 1, 0).unwrap_err();
    assert_eq!((refusal.retry_ms, refusal.remaining), (None, 100));
}
