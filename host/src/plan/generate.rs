//! From a plan to the events of its answer: the cache first, then the nodes in the plan's order.

use std::{rc::Rc, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use futures::future::{LocalBoxFuture, poll_fn};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use littoral_api::chat::{Head, Renderer};
use littoral_core::{Pairs, Plan, dialect};
use littoral_proto::v1::{Event, GenerateRequest, event::Kind};
use tokio::time::{timeout, timeout_at};
use tonic::Streaming;

use super::{
    Answer, Arrival, CACHE, Executor, JSON, NODE, add,
    body::{Flow, KEEP_ALIVE_EVERY},
    cache::{LookUp, Tape},
    deadline,
    events::Events,
    generation::{self, Generation},
    now_ms,
    permit::Work,
};
use crate::{
    error::Error,
    telemetry::{CacheOutcome, Entry, Tally},
};

/// A generation that is being opened: it ends with its first event, or with why there is none.
pub type Opening = LocalBoxFuture<'static, Result<Events, Error>>;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static(littoral_api::EVENT_STREAM);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

impl Executor {
    /// Looks the answer up or has it generated.
    pub(super) async fn generate(
        self: &Rc<Self>,
        headers: Pairs,
        mut plan: Plan,
        arrival: &Arrival,
        entry: &mut Entry,
    ) -> Result<Answer, Error> {
        let rendering =
            plan.rendering.take().ok_or_else(|| Error::Plan("it generates and names no rendering".into()))?;
        if rendering.dialect != dialect::CHAT {
            return Err(Error::Plan(format!("this host does not speak the dialect '{}'", rendering.dialect)));
        }
        let mut head = HeaderMap::with_capacity(8);
        let mut look_up = match &plan.cache {
            None => LookUp { outcome: CacheOutcome::None, hit: None, tape: None },
            Some(cache) => {
                let look_up = self.shared.cache.look_up(cache);
                head.insert(CACHE, cache_header(&look_up, &cache.reason));
                look_up
            }
        };
        entry.cache = look_up.outcome;
        match look_up.outcome {
            CacheOutcome::Hit => self.shared.metrics.cache_hits.increment(1),
            CacheOutcome::Miss => self.shared.metrics.cache_misses.increment(1),
            CacheOutcome::Bypass | CacheOutcome::None => {}
        }
        let mut renderer = Renderer::new(Head {
            id: format!("chatcmpl-{:024x}", rand::random::<u128>() >> 32),
            created: now_ms() / 1000,
            fingerprint: self.fingerprint(&rendering.model),
            model: rendering.model.clone(),
            stream: rendering.stream,
            include_usage: rendering.include_usage,
        });
        add(&mut head, headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let work = if look_up.hit.is_some() { Work::Answer } else { Work::Generation };
        if let Some(permit) = self.admit(&mut plan, work, &arrival.id, self.shared.deadline).await? {
            add(&mut head, permit.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            if permit.lowered {
                // Others may be able to pay for the whole answer.
                look_up.tape = None;
            }
            entry.tally.meter(permit);
        }
        let job = Job {
            executor: self.clone(),
            request_id: arrival.id.clone(),
            received: arrival.received,
            deadline: deadline(arrival.received, plan.deadline_ms, self.shared.deadline),
            tally: entry.tally.clone(),
            model: rendering.model,
            plan,
        };
        if !rendering.stream {
            let mut events = job.events(look_up).await?;
            let document = collect(&mut events, &mut renderer).await?;
            name_node(&mut head, &entry.tally);
            head.entry(CONTENT_TYPE).or_insert(JSON);
            let mut response = Response::new(document);
            *response.headers_mut() = head;
            return Ok(Answer::Whole(response));
        }
        head.entry(CONTENT_TYPE).or_insert(EVENT_STREAM);
        head.entry(CACHE_CONTROL).or_insert(NO_CACHE);
        // The head waits for the first event, so that a failure before it keeps its status; but not for ever, because
        // clients give up on a silent connection.
        let mut opening: Opening = Box::pin(job.events(look_up));
        match timeout(KEEP_ALIVE_EVERY, &mut opening).await {
            Ok(events) => {
                let events = events?;
                name_node(&mut head, &entry.tally);
                Ok(Answer::Stream(head, Flow::of(events, renderer)))
            }
            Err(_) => Ok(Answer::Stream(head, Flow::opening(opening, renderer))),
        }
    }

    fn fingerprint(&self, model: &str) -> String {
        self.shared.fleet.view().served(model).map(|served| served.fingerprint.clone()).unwrap_or_default()
    }
}

/// What is needed to have one plan's answer generated.
struct Job {
    executor: Rc<Executor>,
    request_id: String,
    received: Instant,
    deadline: Instant,
    tally: Arc<Tally>,
    model: String,
    plan: Plan,
}

impl Job {
    /// The events, from the cache or a node, through the plan's filters.
    async fn events(mut self, look_up: LookUp) -> Result<Events, Error> {
        let events = match look_up.hit {
            Some(answer) => {
                answer.events.iter().for_each(|event| tell(&self.tally, event));
                Events::replay(answer)
            }
            None => Events::Generation(Box::new(self.open(look_up.tape).await?)),
        };
        Ok(events.through(&self.plan.filters, &self.executor.guests)?)
    }

    /// Asks the candidates in order until one begins to answer.
    async fn open(&mut self, mut tape: Option<Tape>) -> Result<Generation, Error> {
        let request: Bytes = std::mem::take(&mut self.plan.request).into();
        let mut last = Error::NoNode("the plan names no node".into());
        for candidate in &self.plan.candidates {
            let attempt = self.attempt(&candidate.node, request.clone());
            match timeout_at(self.deadline.into(), attempt).await.map_err(|_| Error::Deadline)? {
                Ok((first, wire)) => {
                    let when = (self.received, self.deadline);
                    let metrics = self.executor.shared.metrics.clone();
                    return Ok(Generation::new(first, wire, when, tape.take(), self.tally.clone(), metrics));
                }
                Err(error) if error.is_retryable() => {
                    tracing::info!(node = candidate.node, %error, detail = ?error, "a node did not take a request");
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Opens the generation at one node and waits for its first event.
    async fn attempt(&self, node: &str, request: Bytes) -> Result<(Event, Streaming<Event>), Error> {
        let client = self.executor.nodes.get(node);
        let mut client =
            client.ok_or_else(|| Error::Plan(format!("it names a node that is not configured: '{node}'")))?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let request = GenerateRequest {
            model: self.model.clone(),
            request,
            session: self.plan.session.clone(),
            tenant: self.plan.tenant().into(),
            deadline_ms: (left.as_millis() as u64).max(1),
            seed: self.plan.seed,
            resume_from: Vec::new(),
            request_id: self.request_id.clone(),
        };
        let mut wire = client.generate(request).await?.into_inner();
        match wire.message().await? {
            Some(Event { kind: Some(Kind::Error(error)) }) => {
                generation::let_go(wire);
                Err(Error::Node(error))
            }
            Some(first) => Ok((first, wire)),
            None => Err(tonic::Status::unavailable("the node sent no event").into()),
        }
    }
}

/// Renders a whole answer as one document.
async fn collect(events: &mut Events, renderer: &mut Renderer) -> Result<Bytes, Error> {
    let mut unused = BytesMut::new();
    let mut failure = None;
    let mut take = |event: &Event| match &event.kind {
        Some(Kind::Error(error)) => failure = Some(error.clone()),
        _ => renderer.push(event, &mut unused),
    };
    while poll_fn(|cx| events.poll_with(cx, &mut take)).await {}
    if let Some(error) = failure {
        return Err(Error::Node(error));
    }
    if !renderer.is_complete() {
        return Err(Error::NoNode("the answer ended before its end; please try again".into()));
    }
    Ok(renderer.document().1)
}

/// What a kept answer says of itself.
fn tell(tally: &Tally, event: &Event) {
    match &event.kind {
        Some(Kind::Started(started)) => tally.started(&started.node, started.prompt_tokens, started.cached_tokens),
        Some(Kind::Usage(usage)) => tally.used(usage),
        _ => {}
    }
}

fn name_node(head: &mut HeaderMap, tally: &Tally) {
    if let Some(value) = tally.node().and_then(|node| HeaderValue::from_str(node).ok()) {
        head.insert(NODE, value);
    }
}

/// `hit|miss|bypass; reason=...; age=...`, the age in seconds and of hits only.
fn cache_header(look_up: &LookUp, reason: &str) -> HeaderValue {
    let mut text = look_up.outcome.name().to_string();
    if !reason.is_empty() {
        text.push_str("; reason=");
        text.push_str(reason);
    }
    if let Some(answer) = &look_up.hit {
        text.push_str(&format!("; age={}", answer.age().as_secs()));
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(look_up.outcome.name()))
}
