//! One call to an upstream: its place among the streams, the request, and its answer as node events.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body;
use hyper::body::Incoming;
use littoral_api::error::code;
use littoral_proto::v1::{self, Event};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep_until, timeout},
};

use super::{
    Http,
    client::{FULL, document},
    request::{self, Said},
    rest,
    sse::Parser,
    translate::{Broken, Translator, started},
};
use crate::{error::Error, fleet::Member, plan::now_ms, telemetry::Metrics};

/// How long a server that has said all may take to end the stream.
const LINGER: Duration = Duration::from_millis(500);

/// What an upstream is asked.
pub struct Call {
    pub canonical: Bytes,
    /// The name the fleet knows the model by.
    pub model: String,
    pub request_id: String,
    pub seed: u64,
    /// What was said of the answer before its node was lost.
    pub said: Said,
    /// How long it may say nothing, before the head of its answer and after each piece of it.
    pub silence: Duration,
}

/// The events of a call under way. Dropping it closes the stream.
pub struct HttpWire {
    body: Option<Incoming>,
    parser: Option<Parser>,
    translator: Translator,
    ready: VecDeque<Event>,
    /// What ends the answer, when what is ready has been read.
    failure: Option<Error>,
    silence: Duration,
    /// When it last said something, be it a comment.
    heard: Instant,
    /// Ends a silence.
    patience: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl HttpWire {
    /// Waits for a place among the node's streams, asks, and returns when the head of the answer has come.
    pub async fn open(http: Http, member: Arc<Member>, call: Call, metrics: &Metrics) -> Result<Self, Error> {
        let node = &member.node;
        let asked = Instant::now();
        let place = member.streams().acquire_owned().await;
        metrics.pool_wait(asked.elapsed());
        let place = place.map_err(|_| Error::NoNode("the upstream has been removed".into()))?;
        // While this one waited, another may have been told to come back later.
        if let Some(seconds) = member.rests(now_ms()) {
            return Err(Error::busy(FULL, seconds));
        }
        let Call { canonical, model, said, silence, .. } = &call;
        let body = request::body(canonical, node.upstream_name(model), said, node.resume)
            .ok_or_else(|| Error::Plan("its request is no chat request that this upstream can be asked".into()))?;
        let asking = http.send(node, "/chat/completions", Some(body.into()), &call.request_id);
        let response = timeout(*silence, asking).await.map_err(|_| silent())??;
        if response.status() != StatusCode::OK {
            return Err(refused(&member, response).await);
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.to_ascii_lowercase();
        let mut wire = Self {
            body: None,
            parser: None,
            translator: Translator::at(said.at, request::choices(canonical)),
            ready: VecDeque::from([started(node.name(), call.seed)]),
            failure: None,
            silence: *silence,
            heard: Instant::now(),
            patience: Box::pin(sleep_until((Instant::now() + *silence).into())),
            _place: place,
        };
        if kind.starts_with("text/event-stream") {
            (wire.body, wire.parser) = (Some(response.into_body()), Some(Parser::default()));
        } else if kind.starts_with(littoral_api::JSON) {
            // A server that does not stream: its one document is one chunk.
            let whole = timeout(*silence, document(response.into_body())).await.map_err(|_| silent())??;
            wire.data(&whole);
            wire.data(b"[DONE]");
            if let Some(failure) = wire.failure.take() {
                return Err(failure);
            }
        } else {
            return Err(Error::Garbage("an answer that is no chat completion"));
        }
        Ok(wire)
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(failure) = self.failure.take() {
                self.body = None;
                return Poll::Ready(Some(Err(failure)));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(self.poll_silence(cx));
                    continue;
                }
            };
            match frame {
                Some(Ok(frame)) => {
                    self.heard = Instant::now();
                    if let Ok(bytes) = frame.into_data() {
                        self.bytes(&bytes);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an upstream's stream broke");
                    if self.translator.has_told_all() {
                        self.end();
                    } else {
                        self.failure = Some(lost());
                    }
                }
                None => self.end(),
            }
            if self.translator.is_over() {
                self.body = None;
            }
        }
    }

    /// Ready when it has said nothing for too long, and the answer is over: as a whole one, if every choice has finished.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let allowed = if self.translator.has_told_all() { LINGER.min(self.silence) } else { self.silence };
        let due = (self.heard + allowed).into();
        // Set when the time comes, or is nearer than it was: not with every piece.
        if self.patience.deadline() > due || self.patience.is_elapsed() {
            self.patience.as_mut().reset(due);
        }
        loop {
            ready!(self.patience.as_mut().poll(cx));
            if self.patience.deadline() >= due {
                break;
            }
            self.patience.as_mut().reset(due);
        }
        if self.translator.has_finished() {
            self.end();
        } else {
            self.failure = Some(silent());
        }
        Poll::Ready(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let Some(mut parser) = self.parser.take() else { return };
        let mut events = Vec::new();
        if parser.push(bytes, |data| events.push(data.to_vec())).is_err() {
            self.failure = Some(Error::Garbage("an event that does not end"));
        }
        events.iter().for_each(|data| self.data(data));
        self.parser = Some(parser);
    }

    fn data(&mut self, data: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let mut out = Vec::new();
        let result = self.translator.push(data, &mut out);
        self.ready.extend(out);
        self.failure = result.err().map(broken);
    }

    /// The stream ended.
    fn end(&mut self) {
        self.body = None;
        if let Some(parser) = self.parser.take() {
            let mut rest = Vec::new();
            parser.end(|data| rest.push(data.to_vec()));
            // An event that it closed in the middle of is none.
            rest.retain(|data| !breaks_off(data));
            rest.iter().for_each(|data| self.data(data));
        }
        if self.failure.is_none() {
            let mut out = Vec::new();
            let result = self.translator.end(false, &mut out);
            self.ready.extend(out);
            self.failure = result.err().map(|broken| match broken {
                // Closed in the middle of an answer, or of an event.
                Broken::Garbage(_) => lost(),
                said => self::broken(said),
            });
        }
    }
}

/// Whether this is the beginning of a chunk, or of the sign of the end.
fn breaks_off(data: &[u8]) -> bool {
    let data = data.trim_ascii();
    let is_partial = |error: serde_json::Error| error.is_eof();
    data.is_empty()
        || b"[DONE]".strip_prefix(data).is_some_and(|rest| !rest.is_empty())
        || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_err_and(is_partial)
}

fn silent() -> Error {
    Error::NoNode("the upstream has said nothing for too long; please try again".into())
}

fn lost() -> Error {
    Error::NoNode("the upstream ended the answer before its end; please try again".into())
}

fn broken(broken: Broken) -> Error {
    match broken {
        Broken::Said(message) => Error::Node(v1::Error { code: code::INTERNAL.into(), message, retryable: true }),
        Broken::Garbage(what) => Error::Garbage(what),
    }
}

/// A refusal as an error of ours: what is about the request keeps its message, what is about the server does not.
async fn refused(member: &Member, response: Response<Incoming>) -> Error {
    let status = response.status();
    let rest = rest::asked(status, response.headers());
    let document = document(response.into_body()).await.unwrap_or_default();
    let said = serde_json::from_slice::<serde_json::Value>(&document).ok();
    let message = said.as_ref().and_then(|said| said.pointer("/error/message").or(said.get("message"))?.as_str());
    let message: String = message.unwrap_or("the upstream refused the request").chars().take(300).collect();
    tracing::info!(node = member.name(), status = status.as_u16(), message, rest, "an upstream refused a request");
    if let Some(seconds) = rest {
        member.rest(now_ms(), seconds);
        return Error::busy(FULL, seconds);
    }
    let error =
        |code: &str, message: String, retryable| Error::Node(v1::Error { code: code.into(), message, retryable });
    match status.as_u16() {
        400 | 413 | 422 => error(code::INVALID_REQUEST, message, false),
        404 => error(code::MODEL_NOT_FOUND, message, true),
        429 => error(code::OVERLOADED, format!("{FULL}; please try again"), true),
        _ => error(code::UNAVAILABLE, "the upstream failed; please try again".into(), true),
    }
}
