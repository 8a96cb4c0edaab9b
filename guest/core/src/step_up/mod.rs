//! The second factor: when it is asked for (RFC 9470), and what answers it.

pub mod place;
pub mod totp;

use std::ops::ControlFlow::{self, Break, Continue};

use serde::{Deserialize, Serialize};

use crate::{
    Call, Denial, Knowledge, Outcome,
    denial::{challenge, invalid},
    fact, fact_kind,
    token::Claims,
};
use place::{Place, Seen, Verdict};

/// `acr` of a token that was given for a second factor.
pub const ACR: &str = "urn:littoral:acr:mfa";

/// When a tenant's users are asked for a second factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepUp {
    pub when: When,
    /// How long a second factor counts, seconds.
    pub max_age_s: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    #[default]
    Off,
    /// From a place the user was never seen at, or could not have reached.
    UnusualPlaces,
    Always,
}

impl Default for StepUp {
    fn default() -> Self {
        Self { when: When::Off, max_age_s: 12 * 3600 }
    }
}

/// What the host's service `step-up` is asked with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A code of the authenticator.
    Code(String),
    /// One of the codes that were handed out at enrolment.
    RecoveryCode(String),
}

impl Proof {
    /// Reads the body of `POST /v1/auth/step-up`.
    pub fn read(body: &[u8]) -> Result<Self, Denial> {
        const MOST: usize = 1024;
        let wrong = || invalid(None, "the body must be {\"code\": \"123456\"} or {\"recovery_code\": \"...\"}");
        if body.len() > MOST { Err(wrong()) } else { serde_json::from_slice(body).map_err(|_| wrong()) }
    }
}

/// What is kept of a user's second factor, sealed by the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Factor {
    /// Base32.
    pub secret: String,
    /// SHA-256 in hex of the recovery codes that are left.
    pub recovery: Vec<String>,
}

/// Key of facts about a user.
pub fn user_key(tenant: &str, user: &str) -> String {
    format!("{tenant}\n{user}")
}

/// Lets a call pass that needs no second factor or brings one: the place it comes from, when that is to be remembered.
pub fn check(
    call: &Call,
    known: &dyn Knowledge,
    rules: &StepUp,
    user: &str,
    claims: Option<&Claims>,
) -> ControlFlow<Outcome, Option<Place>> {
    if rules.when == When::Off {
        return Continue(None);
    }
    let proven = claims.filter(|claims| claims.acr == ACR).and_then(|claims| claims.auth_time);
    let fresh = proven.is_some_and(|at| call.now_ms / 1000 <= at.saturating_add(rules.max_age_s));
    let place = match fact(call, known, fact_kind::PLACE, &call.peer)?.value {
        Some(json) => serde_json::from_slice(&json).unwrap_or_default(),
        None => Place::default(),
    };
    let seen: Seen = match fact(call, known, fact_kind::SEEN, user)?.value {
        Some(json) => serde_json::from_slice(&json).unwrap_or_default(),
        None => Seen::default(),
    };
    let verdict = seen.judge(&place, call.now_ms);
    let asked = match (rules.when, verdict) {
        (When::Always, _) => Some("always"),
        (_, Verdict::Unusual(reason)) => Some(reason),
        (_, Verdict::First | Verdict::Known { .. }) => None,
    };
    if let (Some(reason), false) = (asked, fresh) {
        let mut denial = challenge(ACR, rules.max_age_s);
        denial.audit.push(("step_up".into(), reason.into()));
        return Break(denial.into());
    }
    // A place is a user's own where the code was typed, not where a token came by that was given for it elsewhere.
    let remember = matches!(verdict, Verdict::First | Verdict::Known { stale: true });
    Continue(remember.then_some(place))
}
