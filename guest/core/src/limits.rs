//! What a key, a user or a tenant may use: rates, concurrency, budgets, and the charges a request makes against them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Charge, Plan, calendar, extra, extra_name, step_up::StepUp};

/// The largest rate, tokens or requests a minute: a minute's worth in milliseconds stays exact in a double, in which
/// Redis counts.
pub const MAX_RATE: u64 = 10_000_000_000;
/// The largest budget, micro-units; exact in a double.
pub const MAX_BUDGET: u64 = 1 << 52;
const MINUTE_MS: u64 = 60_000;

/// Kinds of [`Charge`]. The key of a charge says whose it is: `key/ID`, `user/TENANT/USER`, `tenant/TENANT`; a budget's
/// ends in its period. A tenant's own `/` is `%2F` and its `%` is `%25`, so that no two users have one key.
pub mod charge_kind {
    /// Requests a minute: a token bucket of one minute's worth.
    pub const REQUESTS: &str = "requests";
    /// Tokens a minute, prompt and completion: the same.
    pub const TOKENS: &str = "tokens";
    /// Requests under way.
    pub const CONCURRENCY: &str = "concurrency";
    /// Micro-units a period.
    pub const BUDGET: &str = "budget";
}

/// Limits of one key, user or tenant. What is none is not limited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Micro-units of whatever currency the prices are in.
    pub amount: u64,
    #[serde(default)]
    pub period: Period,
}

/// When a budget begins anew, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Day,
    #[default]
    Month,
    /// Never.
    Total,
}

impl Period {
    /// The period `now_ms` is in, as `2026-11-25`, `2026-11` or `total`, and how long it lasts on, milliseconds; 0 = for
    /// ever.
    fn at(self, now_ms: u64) -> (String, u64) {
        let (year, month, day) = calendar::date(now_ms);
        match self {
            Self::Day => (format!("{year:04}-{month:02}-{day:02}"), calendar::DAY_MS - now_ms % calendar::DAY_MS),
            Self::Month => (format!("{year:04}-{month:02}"), calendar::next_month(now_ms) - now_ms),
            Self::Total => ("total".into(), 0),
        }
    }
}

impl Limits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The field at fault, if one is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let bounded = |name: &str, value: Option<u64>, most: u64| match value {
            Some(n) if n > most => Err(format!("{name} must be at most {most}, not {n}")),
            _ => Ok(()),
        };
        bounded("requests_per_minute", self.requests_per_minute, MAX_RATE)?;
        bounded("tokens_per_minute", self.tokens_per_minute, MAX_RATE)?;
        bounded("concurrency", self.concurrency, 1_000_000)?;
        bounded("budget", self.budget.map(|budget| budget.amount), MAX_BUDGET)
    }

    /// Charges of a request against these limits, which are `scope`'s. `work` is none for a request that generates
    /// nothing.
    fn charges(&self, scope: &str, work: Option<&Reservation>, now_ms: u64, into: &mut Vec<Charge>) {
        let mut add = |kind: &str, key: String, amount: u64, limit: u64, window_ms: u64| {
            into.push(Charge { kind: kind.into(), key, amount, limit, window_ms });
        };
        if let Some(limit) = self.requests_per_minute {
            add(charge_kind::REQUESTS, scope.into(), 1, limit, MINUTE_MS);
        }
        let Some(work) = work else { return };
        if let Some(limit) = self.tokens_per_minute {
            add(charge_kind::TOKENS, scope.into(), work.tokens(), limit, MINUTE_MS);
        }
        if let Some(limit) = self.concurrency {
            add(charge_kind::CONCURRENCY, scope.into(), 1, limit, 0);
        }
        if let Some(Budget { amount, period }) = self.budget {
            let (name, left_ms) = period.at(now_ms);
            add(charge_kind::BUDGET, format!("{scope}/{name}"), work.cost(), amount, left_ms);
        }
    }
}

/// What the configuration says of a tenant, section `tenant.NAME`, as the host hands it in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantPolicy {
    /// Of all its keys and users together.
    pub limits: Limits,
    /// Of each of its users.
    pub user_limits: Limits,
    /// When its users are asked for a second factor.
    pub step_up: StepUp,
}

/// Prices of one model, micro-units for a million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    pub prompt: u64,
    /// Prompt tokens that a node found computed already.
    pub cache_hit: u64,
    pub completion: u64,
}

/// Prices by model; `*` is every other's. Without either a model costs nothing.
pub type Prices = BTreeMap<String, Price>;

/// The price of a model under the first of its names that has one.
pub fn price(prices: &Prices, names: [&str; 2]) -> Price {
    names.into_iter().chain(["*"]).find_map(|name| prices.get(name)).copied().unwrap_or_default()
}

/// Tokens of one request, counted or bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    /// Of those, found computed already.
    pub cache_hit: u64,
    pub completion: u64,
}

impl Price {
    /// Micro-units, rounded up once.
    pub fn cost(&self, tokens: Tokens) -> u64 {
        let hit = tokens.cache_hit.min(tokens.prompt);
        let parts = [(tokens.prompt - hit, self.prompt), (hit, self.cache_hit), (tokens.completion, self.completion)];
        let sum: u128 = parts.iter().map(|(n, price)| u128::from(*n) * u128::from(*price)).sum();
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// What a request may use at most, and so reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Bytes of the canonical request: no tokenizer makes more tokens than bytes of it, chat template included.
    pub prompt: u64,
    /// `max_tokens`, or what the model's context holds: of each choice.
    pub completion: u64,
    /// Choices that are generated, `n`.
    #[serde(default = "one")]
    pub choices: u64,
    pub price: Price,
}

impl Reservation {
    /// The reservation a policy left in its plan.
    pub fn of(plan: &Plan) -> Option<Self> {
        extra(plan, extra_name::RESERVATION)
    }

    /// Completion tokens of all choices together, where each has so many.
    pub fn all(&self, each: u64) -> u64 {
        each.saturating_mul(self.choices)
    }

    /// The prompt, which is read once, and so many completion tokens of each choice.
    fn with(&self, each: u64) -> Tokens {
        Tokens { prompt: self.prompt, cache_hit: 0, completion: self.all(each) }
    }

    /// Prompt and completion.
    pub fn tokens(&self) -> u64 {
        self.prompt.saturating_add(self.all(self.completion))
    }

    /// Micro-units, as if nothing of the prompt were found computed.
    pub fn cost(&self) -> u64 {
        self.dear().cost(self.with(self.completion))
    }

    /// What `kind` must hold at least for the request to be of use: the prompt and one token of each choice.
    pub fn least(&self, kind: &str) -> u64 {
        match kind {
            charge_kind::TOKENS => self.prompt.saturating_add(self.choices),
            charge_kind::BUDGET => self.dear().cost(self.with(1)),
            _ => 1,
        }
    }

    /// The completion tokens of each choice that `granted` of `kind` pays for.
    pub fn affordable(&self, kind: &str, granted: u64) -> u64 {
        match self.payable(kind, granted) {
            u64::MAX => u64::MAX,
            tokens => tokens / self.choices.max(1),
        }
    }

    /// The completion tokens, of all choices together, that `granted` of `kind` pays for; the largest number for no end.
    fn payable(&self, kind: &str, granted: u64) -> u64 {
        match kind {
            charge_kind::TOKENS => granted.saturating_sub(self.prompt),
            charge_kind::BUDGET => {
                let price = self.dear();
                let left = (u128::from(granted) * 1_000_000)
                    .saturating_sub(u128::from(self.prompt) * u128::from(price.prompt));
                match price.completion {
                    0 => u64::MAX,
                    each => u64::try_from(left / u128::from(each)).unwrap_or(u64::MAX),
                }
            }
            _ => u64::MAX,
        }
    }

    /// What `kind` is charged for the tokens that were used in the end.
    pub fn actual(&self, kind: &str, used: Tokens) -> u64 {
        match kind {
            charge_kind::TOKENS => used.prompt.saturating_add(used.completion),
            charge_kind::BUDGET => self.price.cost(used),
            _ => 1,
        }
    }

    /// A price list may, by mistake, ask more for a hit than for a miss; the reservation is never below the bill.
    fn dear(&self) -> Price {
        Price { prompt: self.price.prompt.max(self.price.cache_hit), ..self.price }
    }
}

fn one() -> u64 {
    1
}

/// Whose limits a request is charged against.
pub struct Scopes<'a> {
    pub key: Option<(&'a str, &'a Limits)>,
    pub tenant: &'a str,
    pub user: &'a str,
    pub policy: &'a TenantPolicy,
}

impl Scopes<'_> {
    pub fn is_unlimited(&self) -> bool {
        self.key.is_none_or(|(_, limits)| limits.is_none())
            && self.policy.limits.is_none()
            && self.policy.user_limits.is_none()
    }

    /// The charges of one request, the key's first.
    pub fn charges(&self, work: Option<&Reservation>, now_ms: u64) -> Vec<Charge> {
        let mut charges = Vec::new();
        if let Some((id, limits)) = self.key {
            limits.charges(&format!("key/{id}"), work, now_ms, &mut charges);
        }
        let tenant = self.tenant.replace('%', "%25").replace('/', "%2F");
        self.policy.user_limits.charges(&format!("user/{tenant}/{}", self.user), work, now_ms, &mut charges);
        self.policy.limits.charges(&format!("tenant/{tenant}"), work, now_ms, &mut charges);
        charges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn periods_have_names_and_ends() {
        // 2026-11-25T02:33:24Z
        let now = 1_795_574_004_000;
        assert_eq!(Period::Day.at(now), ("2026-11-25".into(), 77_196_000));
        assert_eq!(Period::Month.at(now), ("2026-11".into(), 77_196_000 + 5 * calendar::DAY_MS));
        assert_eq!(Period::Total.at(now), ("total".into(), 0));
    }

    #[test]
    fn every_limit_makes_its_charge() {
        let limits = Limits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(1000),
            concurrency: Some(4),
            budget: Some(Budget { amount: 500, period: Period::Total }),
        };
        let price = Price { prompt: 1_000_000, cache_hit: 0, completion: 2_000_000 };
        let work = Reservation { prompt: 10, completion: 10, choices: 2, price };
        let policy = TenantPolicy { limits: limits.clone(), ..TenantPolicy::default() };
        let scopes = Scopes { key: Some(("k", &limits)), tenant: "t", user: "u", policy: &policy };
        let charges = scopes.charges(Some(&work), 0);
        let shown: Vec<_> = charges.iter().map(|c| (c.kind.as_str(), c.key.as_str(), c.amount, c.limit)).collect();
        assert_eq!(
            shown[..4],
            [
                ("requests", "key/k", 1, 60),
                ("tokens", "key/k", 30, 1000),
                ("concurrency", "key/k", 1, 4),
                ("budget", "key/k/total", 50, 500)
            ]
        );
        assert_eq!((shown.len(), shown[7]), (8, ("budget", "tenant/t/total", 50, 500)));
        assert_eq!(scopes.charges(None, 0).len(), 2);
    }

    #[test]
    fn no_two_users_share_a_bucket() {
        let limits = Limits { requests_per_minute: Some(60), ..Limits::default() };
        let policy = TenantPolicy { limits: limits.clone(), user_limits: limits, ..TenantPolicy::default() };
        let keys = |tenant, user| {
            let charges = Scopes { key: None, tenant, user, policy: &policy }.charges(None, 0);
            charges.into_iter().map(|charge| charge.key).collect::<Vec<_>>()
        };
        let all = [("x", "b/c"), ("x/b", "c"), ("x%2Fb", "c"), ("x%", "2Fb/c")].map(|(t, u)| keys(t, u));
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| one.iter().all(|key| !other.contains(key))), "{all:?}");
        }
    }

    proptest! {
        /// Whatever is granted, the completion it pays for never costs more, and one token more would.
        #[test]
        fn what_is_affordable_is_paid_for(
            prompt in 0u64..1_000_000, completion in 1u64..1_000_000, choices in 1u64..=16, granted in 0u64..10_000_000,
            miss in 0u64..9_000_000, hit in 0u64..9_000_000, each in 1u64..9_000_000,
        ) {
            let price = Price { prompt: miss, cache_hit: hit, completion: each };
            let work = Reservation { prompt, completion, choices, price };
            prop_assume!(granted >= work.least(charge_kind::BUDGET));
            let most = work.affordable(charge_kind::BUDGET, granted);
            prop_assert!(most >= 1);
            let cost = |each: u64| work.dear().cost(work.with(each));
            prop_assert!(cost(most) <= granted && cost(most + 1) > granted);
        }

        /// The same of a rate, whose grants are tokens themselves.
        #[test]
        fn what_a_rate_allows_is_shared_by_the_choices(
            prompt in 0u64..1_000_000, completion in 1u64..1_000_000, choices in 1u64..=16, granted in 0u64..10_000_000,
        ) {
            let work = Reservation { prompt, completion, choices, price: Price::default() };
            prop_assume!(granted >= work.least(charge_kind::TOKENS));
            let most = work.affordable(charge_kind::TOKENS, granted);
            prop_assert!(most >= 1);
            prop_assert!(prompt + work.all(most) <= granted && prompt + work.all(most + 1) > granted);
        }

        /// The bill for what was used is never above the reservation, in any split between hits and misses.
        #[test]
        fn the_bill_is_within_the_reservation(
            prompt in 0u64..1_000_000, used in 0u64..1_000_000, hit in 0u64..1_000_000, completion in 0u64..1_000_000,
            spoken in 0u64..16_000_000, choices in 1u64..=16, prices in (0u64..9_000_000, 0u64..9_000_000, 0u64..9_000_000),
        ) {
            let price = Price { prompt: prices.0, cache_hit: prices.1, completion: prices.2 };
            let work = Reservation { prompt, completion, choices, price };
            let completion = spoken.min(work.all(completion));
            let used = Tokens { prompt: used.min(prompt), cache_hit: hit, completion };
            for kind in [charge_kind::TOKENS, charge_kind::BUDGET] {
                let reserved = if kind == charge_kind::TOKENS { work.tokens() } else { work.cost() };
                prop_assert!(work.actual(kind, used) <= reserved);
            }
        }
    }
}
