//! The router: what the path asks for, and the nodes that may answer it. It is the last layer, and opens.

use crate::{
    Body, Call, Knowledge, Outcome, Reply, chat,
    denial::{method_not_allowed, not_found, unavailable, unknown_model},
    operation,
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
}

impl Endpoint {
    /// The endpoint of a path, with or without `/v1`.
    pub fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/v1").unwrap_or(path) {
            "/chat/completions" => Some(Self::Chat),
            "/models" => Some(Self::Models),
            _ => None,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Chat => "POST",
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
        Endpoint::Chat => {
            if let Err(outcome) = chat::draft(&mut call) {
                return outcome;
            }
            let draft = &mut call.draft;
            let model = draft.rendering.as_ref().map(|r| r.model.as_str()).unwrap_or_default();
            if known.model(model).is_none() {
                return unknown_model(model).into();
            }
            draft.candidates = known.candidates(model, draft.tenant(), &draft.session, CANDIDATES);
            if draft.candidates.is_empty() {
                return unavailable(format!("no node that serves '{model}' is ready"), 1).into();
            }
            draft.operation = operation::GENERATE.into();
            Body::Generation
        }
    };
    Outcome::Reply(Box::new(Reply { status: 200, headers: Vec::new(), body, plan: call.draft }))
}
