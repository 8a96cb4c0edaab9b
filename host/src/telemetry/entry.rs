//! One request in the log: opened when its head came, written when its answer ended, however it ended.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use littoral_core::{Plan, Principal, route::Endpoint};
use littoral_proto::v1::Usage;

use super::Metrics;

/// What a path asks for, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Route {
    Chat,
    Models,
    Health,
    Page,
    Other,
}

impl Route {
    pub const ALL: [Self; 5] = [Self::Chat, Self::Models, Self::Health, Self::Page, Self::Other];

    pub fn of(path: &str) -> Self {
        match Endpoint::of(path) {
            Some(Endpoint::Chat) => Self::Chat,
            Some(Endpoint::Models) => Self::Models,
            None => Self::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Models => "models",
            Self::Health => "healthz",
            Self::Page => "page",
            Self::Other => "other",
        }
    }
}

/// What the cache had to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CacheOutcome {
    Hit,
    Miss,
    Bypass,
    /// Nothing was planned for the cache.
    None,
}

impl CacheOutcome {
    pub const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Bypass, Self::None];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::None => "none",
        }
    }
}

/// What the events of a generation tell, read by the log line at the end. Shared with the event stream, which a filter
/// may drive from elsewhere.
#[derive(Debug, Default)]
pub struct Tally {
    node: OnceLock<String>,
    /// Microseconds from the head of the request; 0 = no token yet.
    first_token_us: AtomicU64,
    prompt_tokens: AtomicU32,
    completion_tokens: AtomicU32,
}

impl Tally {
    pub fn started(&self, node: &str, prompt_tokens: u32) {
        // A second `started` of one stream says nothing new.
        let _ = self.node.set(node.into());
        self.prompt_tokens.store(prompt_tokens, Relaxed);
    }

    /// True for the first call.
    pub fn first_token(&self, after: Duration) -> bool {
        let micros = (after.as_micros() as u64).max(1);
        self.first_token_us.compare_exchange(0, micros, Relaxed, Relaxed).is_ok()
    }

    pub fn used(&self, usage: &Usage) {
        self.prompt_tokens.store(usage.prompt_tokens, Relaxed);
        self.completion_tokens.store(usage.completion_tokens, Relaxed);
    }

    /// The node that made the answer, once it said so.
    pub fn node(&self) -> Option<&str> {
        self.node.get().map(String::as_str)
    }
}

/// The log line of one request. Dropping it before [`Entry::close`] writes that the client went away.
pub struct Entry {
    metrics: Arc<Metrics>,
    pub received: Instant,
    pub id: String,
    peer: String,
    method: String,
    path: String,
    route: Route,
    principal: Principal,
    model: String,
    stream: bool,
    pub cache: CacheOutcome,
    pub tally: Arc<Tally>,
    end: Option<End>,
}

struct End {
    status: u16,
    error: String,
}

/// nginx's status for a client that closed before it was answered; only logs and metrics show it.
const CLIENT_CLOSED: u16 = 499;

impl Entry {
    pub fn open(metrics: Arc<Metrics>, received: Instant, id: &str, peer: &str, method: &str, path: &str) -> Self {
        Self {
            metrics,
            received,
            id: id.into(),
            peer: peer.into(),
            method: method.into(),
            route: Route::of(path),
            path: path.into(),
            principal: Principal::default(),
            model: String::new(),
            stream: false,
            cache: CacheOutcome::None,
            tally: Arc::default(),
            end: None,
        }
    }

    /// What the plan tells of the request.
    pub fn planned(&mut self, plan: &Plan) {
        if let Some(principal) = &plan.principal {
            self.principal = principal.clone();
        }
        if let Some(rendering) = &plan.rendering {
            self.model = rendering.model.clone();
            self.stream = rendering.stream;
        }
    }

    /// The answer ended; `error` is the API's code, empty for success.
    pub fn close(&mut self, status: u16, error: &str) {
        self.end = Some(End { status, error: error.into() });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let took = self.received.elapsed();
        let end = self.end.take().unwrap_or_else(|| End { status: CLIENT_CLOSED, error: "client_closed".into() });
        self.metrics.request(self.route, end.status, self.cache, took);
        let Principal { tenant, key_id, user, method: auth } = &self.principal;
        tracing::info!(
            target: "access",
            request_id = self.id,
            peer = self.peer,
            method = self.method,
            path = self.path,
            status = end.status,
            error = end.error,
            tenant,
            key_id,
            user,
            auth,
            model = self.model,
            stream = self.stream,
            node = self.tally.node().unwrap_or_default(),
            cache = self.cache.name(),
            duration_us = took.as_micros() as u64,
            ttft_us = self.tally.first_token_us.load(Relaxed),
            prompt_tokens = self.tally.prompt_tokens.load(Relaxed),
            completion_tokens = self.tally.completion_tokens.load(Relaxed),
            "request"
        );
    }
}
