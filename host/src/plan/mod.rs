//! Carries out what the guests decide: the rounds of the decision, the cache, the generation, the answer.
//!
//! The order is fixed: charge the request, look up or join, reserve, generate, settle, write the audit line and the log's.

mod arrival;
mod body;
mod cache;
mod dispatch;
mod events;
mod generate;
mod generation;
mod memo;
mod oauth;
mod origin;
mod permit;
mod progress;
mod retrieval;
mod rounds;
mod service;
mod step_up;
mod together;
mod upload;
mod wire;

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::poll_fn;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use littoral_core::{Body as ReplyBody, Pairs, denial::unavailable, operation, route::Endpoint};

use crate::{
    audit::Audit,
    config,
    error::Error,
    fleet::{Clients, Fleet},
    guest,
    knowledge::Known,
    store::{Link, Server},
    telemetry::{Entry, Metrics},
    tokens::Mint,
    vault::{Limits, Store},
};
pub use arrival::{Arrival, now_ms};
pub use body::Body;
pub use cache::{AnswerCache, Point, Purge};
pub use memo::Memos;
use permit::Take;
use rounds::Decision;
pub use upload::{Bounds, Upload};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NODE: HeaderName = HeaderName::from_static("x-littoral-node");
const ROUTE: HeaderName = HeaderName::from_static("x-littoral-route");
const CACHE: HeaderName = HeaderName::from_static("x-littoral-cache");
const JSON: HeaderValue = HeaderValue::from_static(littoral_api::JSON);

/// What all workers share.
pub struct Shared {
    pub fleet: Arc<Fleet>,
    pub known: Arc<Known>,
    pub cache: AnswerCache,
    pub memos: Memos,
    /// Keys, revocations and what of each limit is used.
    pub store: Arc<dyn Store>,
    pub limits: Arc<Limits>,
    /// Mints tokens, where this installation is an issuer.
    pub mint: Option<Mint>,
    pub audit: Option<Arc<Audit>>,
    pub metrics: Arc<Metrics>,
    /// Where `POST /retrieval` is answered; none: nowhere.
    pub retrieval: Option<Arc<config::Node>>,
    /// Where edges share answers; none: this one keeps its answers to itself.
    pub shares: Option<Arc<Server>>,
    /// The host's own deadline for a request.
    pub deadline: Duration,
}

/// One worker's hands: its guests and its connections to the nodes.
pub struct Executor {
    guests: guest::Worker,
    nodes: Arc<Clients>,
    /// To where edges share answers.
    link: Option<Link>,
    shared: Arc<Shared>,
}

/// What carrying a plan out comes to.
enum Answer {
    Whole(Response<Bytes>),
    /// Head and events, yet to be rendered.
    Stream(HeaderMap, Box<body::Flow>),
}

impl Executor {
    pub fn new(guests: guest::Worker, nodes: Arc<Clients>, shared: Arc<Shared>) -> Self {
        let link = shared.shares.clone().map(Link::new);
        Self { guests, nodes, link, shared }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Answers one request. Dropping the future, or later the body, ends what was begun for it.
    pub async fn answer(self: &Rc<Self>, mut arrival: Arrival) -> Response<Body> {
        let (method, path) = (arrival.head.method().as_str(), arrival.head.uri().path());
        let metrics = self.shared.metrics.clone();
        let mut entry = Entry::open(metrics, arrival.received, &arrival.id, &arrival.peer, method, path);
        entry.audited(self.shared.audit.clone());
        let knows = Endpoint::of(path) == Some(Endpoint::Retrieval);
        let bears = knows && retrieval::bears(arrival.head.headers());
        // What is known of the answer before it is there, and is said of a failure too.
        let mut head = HeaderMap::with_capacity(8);
        let answer = self.carry_out(&mut arrival, (&mut head, &mut entry)).await;
        let mut response = match answer {
            Ok(Answer::Whole(response)) => {
                let response = recorded(response, "", &mut entry);
                poll_fn(|cx| entry.poll_synced(cx)).await;
                response.map(Body::whole)
            }
            Ok(Answer::Stream(headers, flow)) => {
                let mut response = Response::new(Body::stream(flow, entry, self.shared.metrics.clone()));
                *response.headers_mut() = headers;
                response
            }
            Err(error) => {
                generate::name_node(&mut head, &entry.tally);
                let body = if knows { retrieval::body(&error, bears) } else { error.body() };
                if let Error::Denied(denial) = &error {
                    entry.denied(denial);
                }
                let response = recorded(refusal(&error, head, body), error.code(), &mut entry);
                poll_fn(|cx| entry.poll_synced(cx)).await;
                // What the client is still sending is taken, so that it reads the refusal instead of a reset.
                arrival.body.discard().await;
                response.map(Body::whole)
            }
        };
        if let Ok(id) = HeaderValue::from_str(&arrival.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    async fn carry_out(
        self: &Rc<Self>,
        arrival: &mut Arrival,
        (head, entry): (&mut HeaderMap, &mut Entry),
    ) -> Result<Answer, Error> {
        if self.shared.audit.as_ref().is_some_and(|audit| audit.is_closed()) {
            return Err(unrecorded());
        }
        let Decision { status, headers, body, mut plan } = self.decide(arrival).await?;
        entry.planned(&plan);
        if !plan.effects.is_empty() {
            Box::pin(self.effects(&plan.effects)).await;
        }
        // Boxed, all but one: futures are as large as the largest of what they wait for, and are moved about.
        match body {
            ReplyBody::Generation => {
                entry.begin(&plan).map_err(|_| unrecorded())?;
                self.generate(headers, plan, arrival, (head, entry)).await
            }
            ReplyBody::Bytes(bytes) => whole(status, headers, bytes.into()),
            ReplyBody::Service(name, _) if name == operation::RETRIEVAL => {
                entry.begin(&plan).map_err(|_| unrecorded())?;
                Box::pin(self.retrieve(headers, plan, arrival, (head, entry))).await
            }
            ReplyBody::Service(name, args) if name == operation::OAUTH_TOKEN => {
                Box::pin(self.oauth_token(plan, (&args, &arrival.id), entry)).await
            }
            ReplyBody::Service(name, args) if name == operation::STEP_UP => {
                Box::pin(self.step_up(Arc::unwrap_or_clone(plan), &args, &arrival.peer)).await
            }
            ReplyBody::Service(name, _) => {
                let permit = self.admit(&mut plan, Take::Request, &arrival.id, self.shared.deadline).await?;
                let headers = [headers, permit.map(|p| p.headers.clone()).unwrap_or_default()].concat();
                whole(status, headers, service::call(&name, &self.shared)?)
            }
        }
    }
}

/// The answer, once the request is recorded; a refusal where it cannot be.
fn recorded(response: Response<Bytes>, error: &str, entry: &mut Entry) -> Response<Bytes> {
    if entry.close(response.status().as_u16(), error).is_ok() {
        return response;
    }
    let error = unrecorded();
    let response = refusal(&error, HeaderMap::new(), error.body());
    // There is no line left to write.
    let _ = entry.close(response.status().as_u16(), error.code());
    response
}

/// The log has said why.
fn unrecorded() -> Error {
    unavailable("this server cannot record what it does now; please try again later", 5).into()
}

/// A finished answer under the guest's status and headers; JSON unless it says otherwise.
fn whole(status: u16, headers: Pairs, bytes: Bytes) -> Result<Answer, Error> {
    let status = StatusCode::from_u16(status).map_err(|_| Error::Plan(format!("{status} is not an HTTP status")))?;
    let mut response = Response::new(bytes);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    add(response.headers_mut(), headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    Ok(Answer::Whole(response))
}

/// The answer to a request that failed before its head was sent.
fn refusal(error: &Error, head: HeaderMap, body: Bytes) -> Response<Bytes> {
    // What a guest refuses and what is merely full is in the request's own line.
    if error.status() == StatusCode::INTERNAL_SERVER_ERROR && !matches!(error, Error::Denied(_)) {
        tracing::warn!(%error, detail = ?error, "a request failed");
    }
    let mut response = Response::new(body);
    *response.headers_mut() = head;
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    add(response.headers_mut(), error.headers().into_iter());
    response
}

/// Sets a guest's headers. What HTTP does not allow, and what frames the message, is left out.
fn add<'a>(headers: &mut HeaderMap, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "upgrade"];
    for (name, value) in pairs {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) if !FRAMING.contains(&name.as_str()) => {
                headers.insert(name, value);
            }
            _ => tracing::debug!(name, "a guest's header cannot be sent"),
        }
    }
}

/// When a request that came at `received` must have been answered.
fn deadline(received: Instant, planned_ms: u64, own: Duration) -> Instant {
    let planned = if planned_ms == 0 { own } else { Duration::from_millis(planned_ms).min(own) };
    received + planned
}
