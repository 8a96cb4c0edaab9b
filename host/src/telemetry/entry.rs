//! One request in the log: opened when its head came, written when its answer ended, however it ended.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use littoral_core::{Denial, Pairs, Plan, Principal, denial::audit_name, limits::Tokens, route::Endpoint};
use littoral_proto::v1::{Event, Usage, event::Kind};

use super::Metrics;
use crate::audit::{Audit, AuditError, Over, Ticket};

/// What a path asks for, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Route {
    Chat,
    Models,
    Retrieval,
    Token,
    StepUp,
    Health,
    Page,
    Other,
}

impl Route {
    pub const ALL: [Self; 8] =
        [Self::Chat, Self::Models, Self::Retrieval, Self::Token, Self::StepUp, Self::Health, Self::Page, Self::Other];

    pub fn of(path: &str) -> Self {
        match Endpoint::of(path) {
            Some(Endpoint::Chat) => Self::Chat,
            Some(Endpoint::Models) => Self::Models,
            Some(Endpoint::Retrieval) => Self::Retrieval,
            Some(Endpoint::Token) => Self::Token,
            Some(Endpoint::StepUp) => Self::StepUp,
            None => Self::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Models => "models",
            Self::Retrieval => "retrieval",
            Self::Token => "token",
            Self::StepUp => "step_up",
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
    /// Nodes that were asked and have not answered.
    asked: Mutex<Vec<String>>,
    node: OnceLock<String>,
    /// Microseconds from the head of the request; 0 = no token yet.
    first_token_us: AtomicU64,
    prompt_tokens: AtomicU32,
    cached_tokens: AtomicU32,
    completion_tokens: AtomicU32,
    /// What the request is charged for.
    meter: OnceLock<Arc<dyn Meter>>,
}

/// Charged for what a generation uses.
pub trait Meter: fmt::Debug + Send + Sync {
    /// The prompt was counted.
    fn started(&self, prompt: u32, cached: u32);
    /// The generation is over; what is said after the first time changes nothing.
    fn ended(&self, used: Used);
}

/// What a generation used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Used {
    /// No node took it.
    Nothing,
    Tokens(Tokens),
    /// The client left before a node said anything.
    Unknown,
}

impl Tally {
    /// Lets `meter` know of what the events tell.
    pub fn meter(&self, meter: Arc<dyn Meter>) {
        // A request has one meter.
        let _ = self.meter.set(meter);
    }

    pub fn started(&self, node: &str, prompt_tokens: u32, cached_tokens: u32) {
        // A second `started` of one stream says nothing new.
        let _ = self.node.set(node.into());
        self.prompt_tokens.store(prompt_tokens, Relaxed);
        self.cached_tokens.store(cached_tokens, Relaxed);
        if let Some(meter) = self.meter.get() {
            meter.started(prompt_tokens, cached_tokens);
        }
    }

    /// So many tokens came; counted in case the answer breaks off before its `usage`.
    pub fn spoke(&self, tokens: u32) {
        self.completion_tokens.fetch_add(tokens, Relaxed);
    }

    fn tokens(&self) -> Tokens {
        Tokens {
            prompt: self.prompt_tokens.load(Relaxed).into(),
            cache_hit: self.cached_tokens.load(Relaxed).into(),
            completion: self.completion_tokens.load(Relaxed).into(),
        }
    }

    /// The generation is another's, or will not be: nothing of what was reserved is used.
    pub fn release(&self) {
        if let Some(meter) = self.meter.get() {
            meter.ended(Used::Nothing);
        }
    }

    /// Request and generation are over: whoever is charged for them is told what is known.
    fn over(&self, left: bool) {
        let Some(meter) = self.meter.get() else { return };
        meter.ended(match self.node() {
            Some(_) => Used::Tokens(self.tokens()),
            None if left => Used::Unknown,
            None => Used::Nothing,
        });
    }

    /// True for the first call.
    pub fn first_token(&self, after: Duration) -> bool {
        let micros = (after.as_micros() as u64).max(1);
        self.first_token_us.compare_exchange(0, micros, Relaxed, Relaxed).is_ok()
    }

    pub fn used(&self, usage: &Usage) {
        self.prompt_tokens.store(usage.prompt_tokens, Relaxed);
        self.cached_tokens.store(usage.prompt_cache_hit_tokens, Relaxed);
        self.completion_tokens.store(usage.completion_tokens, Relaxed);
        // Before the last bytes go out: who has read them finds the rest of its limits settled.
        if let Some(meter) = self.meter.get() {
            meter.ended(Used::Tokens(self.tokens()));
        }
    }

    /// A node took the request, for this reason, after others (or itself, the last of `asked`) were asked. It may know of
    /// what was said before no more than the text.
    pub fn routed(&self, node: &str, reason: &str, asked: &[String], by_text: bool) {
        let tried = asked.iter().filter(|other| *other != node).cloned().collect();
        let mut route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        let resumes = route.as_ref().map_or(0, |routed| routed.resumes + 1);
        *route = Some(Routed { node: node.into(), reason: reason.into(), tried, resumes, by_text });
    }

    /// These nodes are asked, the last of them now.
    pub fn asked(&self, nodes: &[String]) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = nodes.to_vec();
    }

    /// Where the request was sent last, if nobody has it.
    fn unanswered(&self) -> Option<Routed> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, others) = asked.split_last()?;
        Some(Routed {
            node: last.clone(),
            reason: "unanswered".into(),
            tried: others.to_vec(),
            resumes: 0,
            by_text: false,
        })
    }

    /// The node that made the answer, or has the request, or was the last to be asked.
    pub fn last_node(&self) -> Option<String> {
        let node = self.node().map(String::from);
        node.or_else(|| self.routed_to()).or_else(|| self.unanswered().map(|routed| routed.node))
    }

    /// The node that has the request now.
    pub fn routed_to(&self) -> Option<String> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|routed| routed.node.clone())
    }

    /// Where the request went and why: `n2; reason=overflow home=n1; tried=n1`, the last who was asked with
    /// `reason=unanswered` where nobody took it; none while it went nowhere.
    pub fn route(&self) -> Option<String> {
        let route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        let unanswered = if route.is_none() { self.unanswered() } else { None };
        let Routed { node, reason, tried, resumes, by_text } = route.as_ref().or(unanswered.as_ref())?;
        let mut text = format!("{node}; reason={reason}");
        if !tried.is_empty() {
            text.push_str("; tried=");
            text.push_str(&tried.join(","));
        }
        if *resumes > 0 {
            text.push_str(&format!("; resumes={resumes}"));
        }
        if *by_text {
            text.push_str("; by=text");
        }
        Some(text)
    }

    /// What an event of somebody else's generation, or of a kept answer, says; `received` is when the request came.
    pub fn tell(&self, event: &Event, received: Instant) {
        match &event.kind {
            Some(Kind::Started(started)) => {
                self.started(&started.node, started.prompt_tokens, started.cached_tokens);
            }
            Some(Kind::Delta(delta)) => {
                self.spoke(delta.token_ids.len() as u32);
                if self.first_token_us.load(Relaxed) == 0 {
                    self.first_token(received.elapsed());
                }
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
    ticket: Ticket,
    /// The code of a refusal that is no error of the host's.
    refusal: String,
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
    /// The last of them went on after the text, not after the tokens.
    by_text: bool,
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
    /// Of a request whose client left: its audit line is still to be written.
    ticket: Option<Ticket>,
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
            ticket: Ticket::default(),
            refusal: String::new(),
            end: None,
        }
    }

    /// Has the request recorded in the audit log, if there is one.
    pub fn audited(&mut self, audit: Option<Arc<Audit>>) {
        self.ticket = Ticket::new(audit, &self.peer, &self.method, &self.path);
    }

    /// A generation is about to begin.
    pub fn begin(&mut self, plan: &Plan) -> Result<(), AuditError> {
        self.ticket.begin(&self.id, plan)
    }

    /// Whom a guest refused, as far as it knew.
    pub fn denied(&mut self, denial: &Denial) {
        let said = |name: &str| denial.audit.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let Principal { tenant, key_id, user, method } = &mut self.principal;
        let fields = [tenant, key_id, user, method].into_iter();
        for (field, name) in fields.zip(audit_name::IDENTITY).filter(|(field, _)| field.is_empty()) {
            *field = said(name).unwrap_or_default();
        }
        self.ticket.decided(&denial.audit);
    }

    /// Ready when the last byte may go out: in the strict audit mode, when the request's line is on disk.
    pub fn poll_synced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ticket.poll_synced(cx)
    }

    /// What the plan tells of the request.
    pub fn planned(&mut self, plan: &Plan) {
        self.ticket.decided(&plan.audit);
        if let Some((_, code)) = plan.audit.iter().find(|(name, _)| name == audit_name::ERROR) {
            self.refusal = code.clone();
        }
        if let Some(principal) = &plan.principal {
            self.principal = principal.clone();
        }
        if let Some(rendering) = &plan.rendering {
            self.model = rendering.model.clone();
            self.stream = rendering.stream;
        }
    }

    /// The answer ended; `error` is the API's code, empty for success. Who is told that nothing of it could be recorded
    /// answers otherwise, and closes it again.
    pub fn close(&mut self, status: u16, error: &str) -> Result<(), AuditError> {
        let error = if error.is_empty() { std::mem::take(&mut self.refusal) } else { error.into() };
        let recorded = self.record(status, &error);
        self.end = Some(End { status, error });
        recorded
    }

    fn record(&mut self, status: u16, error: &str) -> Result<(), AuditError> {
        if !self.ticket.is_open() {
            return Ok(());
        }
        self.ticket.decided(&answered(self.cache, &self.tally));
        self.ticket.over(&Over {
            request_id: &self.id,
            principal: &self.principal,
            model: &self.model,
            status,
            error,
            took: self.received.elapsed(),
            tokens: self.tally.tokens(),
        })
    }
}

/// Where the answer came from, for the audit line.
fn answered(cache: CacheOutcome, tally: &Tally) -> Pairs {
    let cache = (cache != CacheOutcome::None).then(|| ("cache".to_string(), cache.name().to_string()));
    let route = tally.route().map(|route| ("route".to_string(), route));
    cache.into_iter().chain(route).collect()
}

impl Drop for Entry {
    fn drop(&mut self) {
        let took = self.received.elapsed();
        // Others may listen to the generation of a client that left: its line waits for what that comes to.
        let ticket = self.end.is_none().then(|| std::mem::take(&mut self.ticket));
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
            ticket,
        };
        *self.tally.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Some(mut line) = self.line.get_mut().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.over(line.ticket.is_some());
        if let Some(ticket) = &mut line.ticket {
            ticket.decided(&answered(line.cache, self));
            // Nobody is there to be refused.
            let _ = ticket.over(&Over {
                request_id: &line.id,
                principal: &line.principal,
                model: &line.model,
                status: line.end.status,
                error: &line.end.error,
                took: line.took,
                tokens: self.tokens(),
            });
        }
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
            node = self.last_node().unwrap_or_default(),
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
