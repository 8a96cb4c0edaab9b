//! The audit of one request: its begin mark, and its line.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use littoral_core::{
    Pairs, Plan, Principal,
    audit::{Auth, Outcome, Record, Usage, event},
    calendar,
    limits::Tokens,
};

use super::{Audit, AuditError, Synced};

/// Names in [`littoral_core::Denial::audit`] that say whom a guest refused.
pub use littoral_core::denial::audit_name as name;

/// See the module.
#[derive(Default)]
pub struct Ticket {
    /// None when there is no audit log, or once the line was written.
    audit: Option<Arc<Audit>>,
    begin: Option<u64>,
    source_ip: String,
    action: String,
    prompt_digest: String,
    policy: Pairs,
    synced: Option<Synced>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("action", &self.action).field("begin", &self.begin).finish_non_exhaustive()
    }
}

/// What the rest of the host knows of a request that is over.
pub struct Over<'a> {
    pub request_id: &'a str,
    pub principal: &'a Principal,
    pub model: &'a str,
    pub status: u16,
    pub error: &'a str,
    pub took: Duration,
    pub tokens: Tokens,
}

impl Ticket {
    pub fn new(audit: Option<Arc<Audit>>, source_ip: &str, method: &str, path: &str) -> Self {
        if audit.is_none() {
            return Self::default();
        }
        Self { audit, source_ip: source_ip.into(), action: format!("{method} {path}"), ..Self::default() }
    }

    /// Whether a line is still to be written.
    pub fn is_open(&self) -> bool {
        self.audit.is_some()
    }

    /// What the policy says of its decision.
    pub fn decided(&mut self, pairs: &Pairs) {
        if self.audit.is_some() {
            self.policy.extend(pairs.iter().filter(|(known, _)| !name::IDENTITY.contains(&known.as_str())).cloned());
        }
    }

    /// Marks the beginning of a generation, before it costs anything.
    pub fn begin(&mut self, request_id: &str, plan: &Plan) -> Result<(), AuditError> {
        let Some(audit) = &self.audit else { return Ok(()) };
        self.prompt_digest = audit.digest(&plan.request);
        let principal = plan.principal.clone().unwrap_or_default();
        let mark = Record {
            timestamp: now(),
            request_id: request_id.into(),
            source_ip: self.source_ip.clone(),
            key_id: principal.key_id,
            user: principal.user,
            tenant: principal.tenant,
            event_type: event::BEGIN.into(),
            action: self.action.clone(),
            ..Record::default()
        };
        match audit.begin(&mark) {
            Ok(seq) => self.begin = Some(seq),
            Err(error) if audit.denies() => return Err(error),
            // Told by the log itself.
            Err(_) => {}
        }
        Ok(())
    }

    /// Writes the line; a second call writes none. The error says that nothing of the request is in the log, and that it
    /// must not be answered.
    pub fn over(&mut self, over: &Over<'_>) -> Result<(), AuditError> {
        let Some(audit) = self.audit.take() else { return Ok(()) };
        let result = match over.status {
            200..=399 if over.error.is_empty() => "allowed",
            400..=498 => "denied",
            499 => "left",
            _ => "failed",
        };
        let Principal { tenant, key_id, user, method } = over.principal.clone();
        let record = Record {
            timestamp: now(),
            request_id: over.request_id.into(),
            source_ip: std::mem::take(&mut self.source_ip),
            key_id,
            user,
            tenant,
            event_type: event::REQUEST.into(),
            action: std::mem::take(&mut self.action),
            model: over.model.into(),
            outcome: Some(Outcome { result: result.into(), status: over.status, error: over.error.into() }),
            duration_ms: Some(over.took.as_millis() as u64),
            tokens: (over.tokens != Tokens::default()).then(|| Usage::from(over.tokens)),
            auth: Some(auth(method, std::mem::take(&mut self.policy))),
            prompt_digest: std::mem::take(&mut self.prompt_digest),
            begin: self.begin,
        };
        match audit.write(&record) {
            Ok(synced) => self.synced = synced,
            Err(error) if self.begin.is_none() && audit.denies() => return Err(error),
            // Told by the log itself.
            Err(_) => {}
        }
        Ok(())
    }

    /// Ready when nothing has to be waited for: in strict mode, when the line is on disk.
    pub fn poll_synced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(synced) = &mut self.synced {
            ready!(synced.as_mut().poll(cx));
            self.synced = None;
        }
        Poll::Ready(())
    }
}

/// `acr` and `amr` have fields of their own.
fn auth(method: String, policy: Pairs) -> Auth {
    let mut auth = Auth { method, ..Auth::default() };
    for (name, value) in policy {
        match name.as_str() {
            "acr" => auth.acr = value,
            "amr" => auth.amr = value.split(' ').map(Into::into).collect(),
            _ => auth.policy.push((name, value)),
        }
    }
    auth
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    calendar::rfc3339(since.as_millis() as u64)
}
