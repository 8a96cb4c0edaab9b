//! One request in the log: opened when its head came, written when its answer ended, however it ended.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use littoral_core::{Plan, Principal, route::Endpoint};
use littoral_proto::v1::{Event, Usage, event::Kind};

use super::Metrics;

/// What a path asks for, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Route {
    Chat,
    Models,
    Retrieval,
    Health,
    Page,
    Other,
}

impl Route {
    pub const ALL: [Self; 6] = [Self::Chat, Self::Models, Self::Retrieval, Self::Health, Self::Page, Self::Other];

    pub fn of(path: &str) -> Self {
        match Endpoint::of(path) {
            Some(Endpoint::Chat) => Self::Chat,
            Some(Endpoint::Models) => Self::Models,
            Some(Endpoint::Retrieval) => Self::Retrieval,
            None => Self::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Models => "models",
            Self::Retrieval => "retrieval",
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
    /// Another request's generation is shared.
    Coalesced,
    Bypass,
    /// Nothing was planned for the cache.
    None,
}

impl CacheOutcome {
    pub const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Coalesced, Self::Bypass, Self::None];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Bypass => "bypass",
            Self::None => "none",
        }
    }
}

/// What the events of a generation tell, read by the log line at the end. Shared with the event stream, which a filter
/// may drive from elsewhere, and which may outlive the request when others listen to it: the line is written when the
/// last of them lets go.
#[derive(Debug, Default)]
pub struct Tally {
    line: Mutex<Option<Line>>,
    route: Mutex<Option<Routed>>,
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

    /// A node took the request, for this reason, after others (or itself, the last of `asked`) were asked.
    pub fn routed(&self, node: &str, reason: &str, asked: &[String]) {
        let tried = asked.iter().filter(|other| *other != node).cloned().collect();
        let mut route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        let resumes = route.as_ref().map_or(0, |routed| routed.resumes + 1);
        *route = Some(Routed { node: node.into(), reason: reason.into(), tried, resumes });
    }

    /// The node that has the request now.
    pub fn routed_to(&self) -> Option<String> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|routed| routed.node.clone())
    }

    /// Where the request went and why: `n2; reason=overflow home=n1; tried=n1`; none while it went nowhere.
    pub fn route(&self) -> Option<String> {
        let route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        let Routed { node, reason, tried, resumes } = route.as_ref()?;
        let mut text = format!("{node}; reason={reason}");
        if !tried.is_empty() {
            text.push_str("; tried=");
            text.push_str(&tried.join(","));
        }
        if *resumes > 0 {
            text.push_str(&format!("; resumes={resumes}"));
        }
        Some(text)
    }

    /// What an event of somebody else's generation, or of a kept answer, says; `received` is when the request came.
    pub fn tell(&self, event: &Event, received: Instant) {
        match &event.kind {
            Some(Kind::Started(started)) => self.started(&started.node, started.prompt_tokens),
            Some(Kind::Delta(_)) if self.first_token_us.load(Relaxed) == 0 => {
                self.first_token(received.elapsed());
            }
            Some(Kind::Usage(usage)) => self.used(usage),
            _ => {}
        }
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

/// Where a request went.
#[derive(Debug)]
struct Routed {
    node: String,
    reason: String,
    tried: Vec<String>,
    /// How often another node had to go on.
    resumes: u32,
}

#[derive(Debug)]
struct End {
    status: u16,
    error: String,
}

/// A request that has ended, as it will stand in the log.
#[derive(Debug)]
struct Line {
    id: String,
    peer: String,
    method: String,
    path: String,
    principal: Principal,
    model: String,
    stream: bool,
    cache: CacheOutcome,
    end: End,
    took: Duration,
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
        let take = std::mem::take::<String>;
        let line = Line {
            id: take(&mut self.id),
            peer: take(&mut self.peer),
            method: take(&mut self.method),
            path: take(&mut self.path),
            principal: std::mem::take(&mut self.principal),
            model: take(&mut self.model),
            stream: self.stream,
            cache: self.cache,
            end,
            took,
        };
        *self.tally.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Some(line) = self.line.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let Principal { tenant, key_id, user, method: auth } = &line.principal;
        tracing::info!(
            target: "access",
            request_id = line.id,
            peer = line.peer,
            method = line.method,
            path = line.path,
            status = line.end.status,
            error = line.end.error,
            tenant,
            key_id,
            user,
            auth,
            model = line.model,
            stream = line.stream,
            node = self.node().unwrap_or_default(),
            route = self.route().unwrap_or_default(),
            cache = line.cache.name(),
            duration_us = line.took.as_micros() as u64,
            ttft_us = self.first_token_us.load(Relaxed),
            prompt_tokens = self.prompt_tokens.load(Relaxed),
            completion_tokens = self.completion_tokens.load(Relaxed),
            "request"
        );
    }
}
