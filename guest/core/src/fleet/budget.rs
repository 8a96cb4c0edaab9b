//! A retry budget: retries may add a share to the requests, not multiply them.
//!
//! Finagle's and Linkerd's `RetryBudget`: every request deposits a part of a retry, every retry withdraws a whole one,
//! and a small reserve a second lets a quiet edge retry too.

/// The budget of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Retries a request pays for.
    ratio: f64,
    /// Retries a second that need no request.
    reserve: f64,
    balance: f64,
    now_ms: u64,
}

/// The longest time for which deposits count, seconds.
const WINDOW: f64 = 10.0;
/// More than this is never saved.
const MOST: f64 = 10_000.0;

impl Budget {
    /// `ratio` retries a request, and `reserve` a second at least.
    pub fn new(ratio: f64, reserve: f64) -> Self {
        Self { ratio, reserve, balance: reserve * WINDOW, now_ms: 0 }
    }

    /// A request came.
    pub fn deposit(&mut self, now_ms: u64) {
        self.age(now_ms);
        self.balance = (self.balance + self.ratio).min(MOST);
    }

    /// Whether one more try may be made; it is paid for when it may.
    pub fn withdraw(&mut self, now_ms: u64) -> bool {
        self.age(now_ms);
        let may = self.balance >= 1.0;
        if may {
            self.balance -= 1.0;
        }
        may
    }

    /// What was saved melts within the window towards what the reserve alone would have saved.
    fn age(&mut self, now_ms: u64) {
        let seconds = now_ms.saturating_sub(self.now_ms) as f64 / 1000.0;
        self.now_ms = self.now_ms.max(now_ms);
        let floor = self.reserve * WINDOW;
        if self.balance < floor {
            self.balance = (self.balance + self.reserve * seconds).min(floor);
        } else {
            self.balance = floor + (self.balance - floor) * (-seconds / WINDOW).exp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(budget: &mut Budget, now_ms: u64) -> u32 {
        (0..100_000).take_while(|_| budget.withdraw(now_ms)).count() as u32
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let mut budget = Budget::new(0.2, 0.0);
        assert!(!budget.withdraw(0));
        (0..1000).for_each(|_| budget.deposit(0));
        assert!((199..=200).contains(&spend(&mut budget, 0)));
        (0..1000).for_each(|_| budget.deposit(0));
        let left = spend(&mut budget, 30_000);
        assert!((5..15).contains(&left), "most of it melted: {left}");
    }

    #[test]
    fn a_quiet_edge_may_retry_and_not_for_ever() {
        let mut budget = Budget::new(0.2, 1.0);
        assert_eq!(spend(&mut budget, 0), 10);
        assert_eq!(spend(&mut budget, 2_500), 2);
        assert_eq!(spend(&mut budget, 3_600_000), 10);
    }
}
