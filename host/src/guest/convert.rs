//! WIT records and plain ones: calls go in borrowed, outcomes come out owned.

use littoral_core as core;

use super::bindings::policy::{exports::littoral::edge::policy, littoral::edge::types as wit};

impl From<core::Fact> for wit::FactResult {
    fn from(core::Fact { kind, key, value, error }: core::Fact) -> Self {
        Self { kind, key, value, error }
    }
}

impl From<core::Candidate> for wit::CandidateResult {
    fn from(core::Candidate { node, reason }: core::Candidate) -> Self {
        Self { node, reason }
    }
}

impl From<wit::PlanResult> for core::Plan {
    fn from(p: wit::PlanResult) -> Self {
        Self {
            principal: p.principal.map(|p| core::Principal {
                tenant: p.tenant,
                key_id: p.key_id,
                user: p.user,
                method: p.method,
            }),
            operation: p.operation,
            rendering: p.rendering.map(|r| core::Rendering {
                dialect: r.dialect,
                model: r.model,
                stream: r.stream,
                include_usage: r.include_usage,
            }),
            request: p.request,
            session: p.session,
            deadline_ms: p.deadline_ms,
            seed: p.seed,
            charges: list(p.charges, |c| core::Charge {
                kind: c.kind,
                key: c.key,
                amount: c.amount,
                limit: c.limit,
                window_ms: c.window_ms,
            }),
            cache: p.cache.map(|c| core::CachePlan {
                key: c.key,
                scope: c.scope,
                ttl_ms: c.ttl_ms,
                max_age_ms: c.max_age_ms,
                mode: c.mode,
                tags: c.tags,
                reason: c.reason,
            }),
            candidates: list(p.candidates, |c| core::Candidate { node: c.node, reason: c.reason }),
            filters: p.filters,
            effects: list(p.effects, |e| core::Effect { kind: e.kind, key: e.key, value: e.value, ttl_ms: e.ttl_ms }),
            memo: p.memo.map(|m| core::Memo { ttl_ms: m.ttl_ms, vary: m.vary }),
            compression: p.compression,
            audit: p.audit,
            extra: p.extra,
        }
    }
}

impl From<wit::Denial> for core::Denial {
    fn from(d: wit::Denial) -> Self {
        Self { status: d.status, code: d.code, message: d.message, headers: d.headers, audit: d.audit, extra: d.extra }
    }
}

/// The outcome of a reply whose generation, if it has one, was taken back from the instance's table.
pub fn reply(status: u16, headers: core::Pairs, body: core::Body, plan: core::Plan) -> core::Outcome {
    core::Outcome::Reply(Box::new(core::Reply { status, headers, body, plan }))
}

pub fn wants(wants: Vec<wit::Want>) -> core::Outcome {
    core::Outcome::Need(list(wants, |want| match want {
        wit::Want::Body => core::Want::Body,
        wit::Want::Fact((kind, key)) => core::Want::Fact(kind, key),
    }))
}

/// Borrowed lists for one call: the records themselves point into these.
pub struct Lent<'a> {
    headers: Vec<(&'a str, &'a [u8])>,
    facts: Vec<wit::FactParam<'a>>,
}

impl<'a> Lent<'a> {
    pub fn new(call: &'a core::Call) -> Self {
        Self {
            headers: call.head.headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect(),
            facts: call
                .facts
                .iter()
                .map(|f| wit::FactParam {
                    kind: &f.kind,
                    key: &f.key,
                    value: f.value.as_deref(),
                    error: f.error.as_deref(),
                })
                .collect(),
        }
    }

    /// The call as it crosses the boundary. Its draft is empty but for what the host offers to remember: only guests
    /// write drafts.
    pub fn call(&'a self, call: &'a core::Call) -> policy::Call<'a> {
        let head = wit::Head {
            method: &call.head.method,
            path: &call.head.path,
            query: call.head.query.as_deref(),
            headers: &self.headers,
        };
        policy::Call {
            head,
            peer: &call.peer,
            now_ms: call.now_ms,
            body: call.body.as_deref(),
            facts: &self.facts,
            draft: wit::PlanParam {
                memo: call.draft.memo.as_ref().map(|memo| wit::MemoParam { ttl_ms: memo.ttl_ms, vary: &[] }),
                ..EMPTY_PLAN
            },
        }
    }
}

const EMPTY_PLAN: wit::PlanParam<'static> = wit::PlanParam {
    principal: None,
    operation: "",
    rendering: None,
    request: &[],
    session: "",
    deadline_ms: 0,
    seed: None,
    charges: &[],
    cache: None,
    candidates: &[],
    filters: &[],
    effects: &[],
    memo: None,
    compression: &[],
    audit: &[],
    extra: &[],
};

fn list<A, B>(list: Vec<A>, convert: impl FnMut(A) -> B) -> Vec<B> {
    list.into_iter().map(convert).collect()
}
