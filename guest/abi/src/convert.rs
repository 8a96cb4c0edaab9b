//! WIT records into plain ones and back, field by field; nothing is copied but what crosses the boundary anyway.

use littoral_core as core;

use crate::bindings::{
    exports::littoral::edge::policy,
    littoral::edge::{inference::Generation, types as wit},
};

/// Two record types with the same fields.
macro_rules! record {
    ($($plain:ident { $($field:ident),* $(,)? })*) => {$(
        impl From<wit::$plain> for core::$plain {
            fn from(wit::$plain { $($field),* }: wit::$plain) -> Self {
                Self { $($field: $field.into()),* }
            }
        }
        impl From<core::$plain> for wit::$plain {
            fn from(core::$plain { $($field),* }: core::$plain) -> Self {
                Self { $($field: $field.into()),* }
            }
        }
    )*};
}

record! {
    Head { method, path, query, headers }
    Fact { kind, key, value, error }
    Principal { tenant, key_id, user, method }
    Rendering { dialect, model, stream, include_usage }
    Charge { kind, key, amount, limit, window_ms }
    CachePlan { key, scope, ttl_ms, max_age_ms, mode, tags, reason }
    Candidate { node, reason }
    Effect { kind, key, value, ttl_ms }
    Memo { ttl_ms, vary }
    Denial { status, code, message, headers, audit, extra }
}

fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(B::from).collect()
}

macro_rules! plan {
    ($($from:ident => $to:ident;)*) => {$(
        impl From<$from::Plan> for $to::Plan {
            fn from(p: $from::Plan) -> Self {
                Self {
                    principal: p.principal.map(Into::into),
                    operation: p.operation,
                    rendering: p.rendering.map(Into::into),
                    request: p.request,
                    session: p.session,
                    deadline_ms: p.deadline_ms,
                    seed: p.seed,
                    charges: all(p.charges),
                    cache: p.cache.map(Into::into),
                    candidates: all(p.candidates),
                    filters: p.filters,
                    effects: all(p.effects),
                    memo: p.memo.map(Into::into),
                    compression: p.compression,
                    audit: p.audit,
                    extra: p.extra,
                }
            }
        }
    )*};
}

plan! {
    wit => core;
    core => wit;
}

impl From<policy::Call> for core::Call {
    fn from(c: policy::Call) -> Self {
        Self {
            head: c.head.into(),
            peer: c.peer,
            now_ms: c.now_ms,
            body: c.body,
            facts: all(c.facts),
            draft: c.draft.into(),
        }
    }
}

impl From<core::Want> for wit::Want {
    fn from(want: core::Want) -> Self {
        match want {
            core::Want::Body => Self::Body,
            core::Want::Fact(kind, key) => Self::Fact((kind, key)),
        }
    }
}

impl From<core::Outcome> for policy::Outcome {
    fn from(outcome: core::Outcome) -> Self {
        match outcome {
            core::Outcome::Reply(reply) => Self::Reply((*reply).into()),
            core::Outcome::Denial(denial) => Self::Denial(denial.into()),
            core::Outcome::Need(wants) => Self::Need(all(wants)),
        }
    }
}

impl From<core::Reply> for policy::Reply {
    fn from(reply: core::Reply) -> Self {
        let plan = reply.plan.into();
        let (body, plan) = match reply.body {
            core::Body::Bytes(bytes) => (policy::Body::Bytes(bytes), Some(plan)),
            core::Body::Service(name, args) => (policy::Body::Service((name, args)), Some(plan)),
            core::Body::Generation => (policy::Body::Generation(Generation::open(&plan)), None),
        };
        Self { status: reply.status, headers: reply.headers, body, plan }
    }
}

/// The imported `policy` of the next layer has types of its own: the same records, the other way round.
#[cfg(feature = "layer")]
mod next {
    use super::{all, core, policy};
    use crate::bindings::littoral::edge::policy as next;

    impl From<core::Call> for next::Call {
        fn from(c: core::Call) -> Self {
            Self {
                head: c.head.into(),
                peer: c.peer,
                now_ms: c.now_ms,
                body: c.body,
                facts: all(c.facts),
                draft: c.draft.into(),
            }
        }
    }

    impl From<next::Outcome> for policy::Outcome {
        fn from(outcome: next::Outcome) -> Self {
            match outcome {
                next::Outcome::Denial(denial) => Self::Denial(denial),
                next::Outcome::Need(wants) => Self::Need(wants),
                next::Outcome::Reply(next::Reply { status, headers, body, plan }) => {
                    let body = match body {
                        next::Body::Bytes(bytes) => policy::Body::Bytes(bytes),
                        next::Body::Generation(generation) => policy::Body::Generation(generation),
                        next::Body::Service(service) => policy::Body::Service(service),
                    };
                    Self::Reply(policy::Reply { status, headers, body, plan })
                }
            }
        }
    }
}
