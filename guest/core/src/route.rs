//! The router: what the path asks for, and the nodes that may answer it. It is the last layer, and opens.

use serde::{Deserialize, Serialize};

use crate::{
    Body, Call, Knowledge, Outcome, Reply, Want, chat,
    denial::{internal, method_not_allowed, not_found, unavailable, unknown_model},
    extra_name, fact_kind, operation, retrieval,
    step_up::Proof,
};

/// How many nodes a plan names: the first choice and those that may take over.
const CANDIDATES: u32 = 3;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Endpoint {
    /// `POST /chat/completions`
    Chat,
    /// `GET /models`
    Models,
    /// `POST /retrieval`
    Retrieval,
    /// `POST /oauth/token`
    Token,
    /// `POST /auth/step-up`
    StepUp,
}

impl Endpoint {
    /// The endpoint of a path, with or without `/v1`.
    pub fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/v1").unwrap_or(path) {
            "/chat/completions" => Some(Self::Chat),
            "/models" => Some(Self::Models),
            "/retrieval" => Some(Self::Retrieval),
            "/oauth/token" => Some(Self::Token),
            "/auth/step-up" => Some(Self::StepUp),
            _ => None,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Chat | Self::Retrieval | Self::Token | Self::StepUp => "POST",
            Self::Models => "GET",
        }
    }
}

/// Opens the generation or the service the call asks for.
pub fn open(mut call: Call, known: &dyn Knowledge) -> Outcome {
    let Some(endpoint) = Endpoint::of(&call.head.path) else {
        return not_found(&call.head.path).into();
    };
    if call.head.method != endpoint.method() {
        return method_not_allowed(&call.head.method, &call.head.path, endpoint.method()).into();
    }
    let body = match endpoint {
        Endpoint::Models => {
            call.draft.operation = operation::MODELS.into();
            Body::Service(operation::MODELS.into(), String::new())
        }
        Endpoint::Retrieval => {
            if let Err(outcome) = retrieval::read(&mut call) {
                return outcome;
            }
            Body::Service(operation::RETRIEVAL.into(), String::new())
        }
        Endpoint::Token => {
            let grant = call.draft.extra.iter().find(|(name, _)| name == extra_name::GRANT);
            let Some((_, grant)) = grant.cloned() else {
                return internal("no policy layer let a client in").into();
            };
            call.draft.operation = operation::OAUTH_TOKEN.into();
            Body::Service(operation::OAUTH_TOKEN.into(), grant)
        }
        Endpoint::StepUp => {
            let Some(body) = call.body.as_deref() else { return Outcome::Need(vec![Want::Body]) };
            let proof = match Proof::read(body) {
                Ok(proof) => serde_json::to_string(&proof).expect("strings always serialise"),
                Err(denial) => return denial.into(),
            };
            call.draft.operation = operation::STEP_UP.into();
            Body::Service(operation::STEP_UP.into(), proof)
        }
        Endpoint::Chat => {
            if let Err(outcome) = chat::draft(&mut call) {
                return outcome;
            }
            let draft = &mut call.draft;
            let model = draft.rendering.as_ref().map(|r| r.model.as_str()).unwrap_or_default();
            draft.candidates = known.candidates(model, draft.tenant(), &draft.session, CANDIDATES);
            if draft.candidates.is_empty() {
                if known.model(model).is_none() {
                    return unknown_model(model).into();
                }
                // A host that waits for nodes asks for candidates itself when there are some.
                if !waits(known) {
                    return unavailable(format!("no node that serves '{model}' is ready"), 1).into();
                }
            }
            draft.operation = operation::GENERATE.into();
            Body::Generation
        }
    };
    Outcome::Reply(Box::new(Reply { status: 200, headers: Vec::new(), body, plan: call.draft }))
}

/// Whether the host lets requests wait while no node is ready. What it does not say it does not do.
fn waits(known: &dyn Knowledge) -> bool {
    let config = known.peek(fact_kind::CONFIG, "fleet").and_then(|fact| fact.value);
    config.and_then(|json| serde_json::from_slice(&json).ok()).is_some_and(|config: FleetConfig| config.wait_ms > 0)
}

/// What of the section `fleet` matters to decisions, as the host hands it in.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetConfig {
    pub wait_ms: u64,
}
