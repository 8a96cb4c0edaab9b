//! The cache layer: whether an answer may come from the cache, and under which key.

use std::ops::ControlFlow::{Break, Continue};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    CachePlan, Call, Knowledge, Model, Step, cache_mode,
    chat::{self, ChatRequest},
    denial::internal,
    extra, extra_name, fact, fact_kind,
    key::hex,
    route::Endpoint,
};

/// The section `cache` of the configuration, as the host hands it in.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    pub policy: Policy,
    pub ttl_ms: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { policy: Policy::Deterministic, ttl_ms: 30 * 60 * 1000 }
    }
}

/// Which requests may be answered from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Those whose answer is always the same: temperature 0, or a seed.
    Deterministic,
    /// Every one.
    Always,
    /// Those that carry `x-littoral-cache: use`.
    Header,
    /// None.
    Off,
}

/// Fills the draft of a chat request with its canonical form and its cache plan; other calls pass untouched.
pub fn plan(mut call: Call, known: &dyn Knowledge) -> Step {
    if call.head.method != "POST" || Endpoint::of(&call.head.path) != Some(Endpoint::Chat) {
        return Continue(call);
    }
    let config = match fact(&call, known, fact_kind::CONFIG, "cache")?.value {
        None => CacheConfig::default(),
        Some(json) => match serde_json::from_slice(&json) {
            Ok(config) => config,
            Err(_) => return Break(internal("the cache configuration cannot be read").into()),
        },
    };
    let request = match chat::read(&mut call) {
        Ok(request) => request,
        Err(outcome) => return Break(outcome),
    };
    // A model nobody serves has no key; the router refuses it.
    if let Some(model) = known.model(&request.model) {
        let policy = extra(&call.draft, extra_name::CACHE_POLICY).unwrap_or(config.policy);
        let (mode, reason) = mode(&call, &request, policy);
        let key = if mode == cache_mode::BYPASS { String::new() } else { key(request, &model, call.draft.tenant()) };
        call.draft.cache = Some(CachePlan {
            key,
            scope: call.draft.tenant().into(),
            ttl_ms: max_age(&call).unwrap_or(config.ttl_ms).min(config.ttl_ms),
            mode: mode.into(),
            tags: vec![format!("model:{}", model.name)],
            reason: reason.into(),
        });
    }
    Continue(call)
}

/// Mode and reason. The client's `cache-control` comes first, then the policy.
fn mode(call: &Call, request: &ChatRequest, policy: Policy) -> (&'static str, &'static str) {
    let control = call.head.header("cache-control").unwrap_or_default();
    let says = |directive: &str| control.split(',').any(|d| d.trim().eq_ignore_ascii_case(directive));
    let deterministic = request.temperature == 0.0 || request.seed.is_some();
    let admitted = match policy {
        Policy::Always => Ok("always"),
        Policy::Deterministic if deterministic => Ok("deterministic"),
        Policy::Deterministic => Err("sampled"),
        Policy::Header if call.head.header("x-littoral-cache") == Some("use") => Ok("header"),
        Policy::Header => Err("no-header"),
        Policy::Off => Err("off"),
    };
    match admitted {
        _ if says("no-store") => (cache_mode::BYPASS, "no-store"),
        Ok(_) if says("no-cache") => (cache_mode::REFRESH, "no-cache"),
        Ok(reason) => (cache_mode::USE, reason),
        Err(reason) => (cache_mode::BYPASS, reason),
    }
}

/// `max-age` of the client's `cache-control`, milliseconds.
fn max_age(call: &Call) -> Option<u64> {
    let control = call.head.header("cache-control")?;
    let seconds = control.split(',').find_map(|d| d.trim().strip_prefix("max-age="))?;
    seconds.parse::<u64>().ok().map(|s| s.saturating_mul(1000))
}

/// SHA-256 in hex over everything that changes the answer: tenant, model, its revision, and the canonical request
/// without what only changes how the answer is written.
fn key(request: ChatRequest, model: &Model, tenant: &str) -> String {
    let mut hash = Sha256::new();
    for part in [tenant.as_bytes(), model.name.as_bytes(), model.revision.as_bytes(), &request.into_substance()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
