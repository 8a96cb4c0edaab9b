//! How one node stands: a circuit breaker that opens after failures in a row or when the node is ejected, lets one
//! request through to try it, and gives a node that came back its traffic little by little.

/// What the breaker goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Failures in a row that open the breaker.
    pub failures: u32,
    /// How long it stays open the first time, milliseconds; each time after doubles it.
    pub open_ms: u64,
    pub max_open_ms: u64,
    /// How long a node that came back is given less than its share, milliseconds.
    pub ramp_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { failures: 5, open_ms: 1_000, max_open_ms: 30_000, ramp_ms: 10_000 }
    }
}

/// Share of its traffic that a node gets when it has just come back.
const FIRST_SHARE: f32 = 0.1;

/// One node's standing.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    rules: Rules,
    state: State,
    /// Times in a row that it opened and no ramp was completed since.
    opened: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Failures in a row, and since when it is back, if it was away.
    Closed {
        failures: u32,
        back: Option<u64>,
    },
    Open {
        until: u64,
    },
    /// One request tries it since then.
    Trying {
        since: u64,
    },
}

/// What of a standing a look-up needs, so small that it can be published without a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Nothing goes there before this time, Unix milliseconds.
    pub closed_from: u64,
    /// When it came back; 0 = it was never away.
    pub back: u64,
    pub ramp_ms: u64,
}

impl Published {
    pub fn admits(&self, now_ms: u64) -> bool {
        now_ms >= self.closed_from
    }

    /// 0..=1: what share of its traffic it may get.
    pub fn share(&self, now_ms: u64) -> f32 {
        if self.back == 0 || self.ramp_ms == 0 {
            return 1.0;
        }
        let gone = now_ms.saturating_sub(self.back) as f32 / self.ramp_ms as f32;
        (FIRST_SHARE + (1.0 - FIRST_SHARE) * gone).min(1.0)
    }
}

impl Standing {
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed { failures: 0, back: None }, opened: 0 }
    }

    /// Whether a request may go there now. While the breaker is open one request may, once the time is up: it tries.
    pub fn admit(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } if now_ms >= until => {
                self.state = State::Trying { since: now_ms };
                true
            }
            State::Open { .. } => false,
            // A try that never told how it went does not keep the node out for ever.
            State::Trying { since } if now_ms >= since + self.open_for() => {
                self.state = State::Trying { since: now_ms };
                true
            }
            State::Trying { .. } => false,
        }
    }

    pub fn succeeded(&mut self, now_ms: u64) {
        self.state = match self.state {
            State::Closed { back, .. } => {
                let done = back.is_none_or(|back| now_ms >= back + self.rules.ramp_ms);
                if done {
                    self.opened = 0;
                }
                State::Closed { failures: 0, back: back.filter(|_| !done) }
            }
            State::Open { .. } | State::Trying { .. } => State::Closed { failures: 0, back: Some(now_ms) },
        };
    }

    /// A request failed there. True when that opened the breaker.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        match &mut self.state {
            State::Closed { failures, .. } => {
                *failures += 1;
                let opens = *failures >= self.rules.failures;
                if opens {
                    self.open(now_ms);
                }
                opens
            }
            State::Trying { .. } => {
                self.open(now_ms);
                true
            }
            // What was under way when it opened.
            State::Open { .. } => false,
        }
    }

    /// Takes the node out, as [`super::outlier`] found.
    pub fn eject(&mut self, now_ms: u64) {
        if matches!(self.state, State::Closed { .. }) {
            self.open(now_ms);
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    pub fn published(&self) -> Published {
        let ramp_ms = self.rules.ramp_ms;
        match self.state {
            State::Closed { back, .. } => Published { closed_from: 0, back: back.unwrap_or(0), ramp_ms },
            State::Open { until } => Published { closed_from: until, back: until.max(1), ramp_ms },
            State::Trying { since } => Published { closed_from: since + self.open_for(), back: since.max(1), ramp_ms },
        }
    }

    fn open(&mut self, now_ms: u64) {
        self.opened = self.opened.saturating_add(1);
        self.state = State::Open { until: now_ms + self.open_for() };
    }

    fn open_for(&self) -> u64 {
        let doubled = self.rules.open_ms.saturating_mul(1 << self.opened.saturating_sub(1).min(20));
        doubled.min(self.rules.max_open_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { failures: 3, open_ms: 1_000, max_open_ms: 4_000, ramp_ms: 1_000 };

    fn opened_at(now_ms: u64) -> Standing {
        let mut node = Standing::new(RULES);
        assert_eq!((0..3).map(|_| node.failed(now_ms)).collect::<Vec<_>>(), [false, false, true]);
        node
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let mut node = Standing::new(RULES);
        for _ in 0..10 {
            assert!(!node.failed(0) && !node.failed(0));
            node.succeeded(0);
        }
        assert!(node.admit(0) && !node.is_open());
        let mut node = opened_at(0);
        assert!(!node.admit(999) && !node.published().admits(999));
        assert!(!node.failed(500), "what was under way does not open it twice");
    }

    #[test]
    fn one_request_tries_it_and_the_wait_doubles() {
        let mut node = opened_at(0);
        assert!(node.published().admits(1_000));
        assert!(node.admit(1_000) && !node.admit(1_000), "one at a time");
        assert!(!node.published().admits(1_500));
        assert!(node.failed(1_100));
        assert!(!node.admit(3_099) && node.admit(3_100), "2 s the second time");
        assert!(node.admit(5_100), "a try that was never told of is followed by another");
        for i in 0..10 {
            node.failed(10_000 * i);
            node.admit(10_000 * i + 4_000);
        }
        assert!(node.published().closed_from <= 10_000 * 9 + 4_000 + 4_000, "never longer than the rules allow");
    }

    #[test]
    fn it_comes_back_slowly() {
        let mut node = opened_at(0);
        assert!(node.admit(1_000));
        node.succeeded(1_000);
        let shares = [1_000, 1_500, 2_000, 9_000].map(|now| node.published().share(now));
        assert!(
            shares[0] <= 0.11 && (0.5..0.6).contains(&shares[1]) && shares[2] == 1.0 && shares[3] == 1.0,
            "{shares:?}"
        );
        node.succeeded(2_000);
        assert_eq!(node.published(), Published { ramp_ms: 1_000, ..Published::default() });
    }

    #[test]
    fn an_ejected_node_is_out_for_as_long() {
        let mut node = Standing::new(RULES);
        node.eject(5);
        assert!(!node.admit(1_004) && node.admit(1_005));
    }
}
