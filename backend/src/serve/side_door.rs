//! The side-door: `POST /v1/chat/completions` straight at the node, for hosts that cannot speak gRPC.
//!
//! Off by default. Whoever holds the shared secret may ask: there are no tenants, limits or caches here; those are
//! the edge's.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use littoral_api::{
    self as api,
    chat::{Head, Renderer},
};
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{Event, GenerateRequest, event::Kind};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, Sleep};

use super::{
    node::Node,
    web::{Body, full},
};
use crate::engine::Events;

/// Largest body, bytes.
const MAX_BODY: usize = 8 << 20;
/// A client may take so long over its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// A stream that is silent for so long gets a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes a frame collects while events are ready.
const FRAME: usize = 16 << 10;

/// The secret that opens the side-door, kept as its digest.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// None for a secret that is empty but for white space.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Sha256::digest(text).into()))
    }

    /// Whether the request carries `Authorization: Bearer <secret>`. Takes the same time wherever they differ.
    fn opens(&self, headers: &HeaderMap) -> bool {
        let presented = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let Some((scheme, secret)) = presented.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && Sha256::digest(secret).as_slice().ct_eq(&self.0).into()
    }
}

/// A refusal: status, code, message, parameter.
struct Refusal(u16, String, String, Option<String>);

impl Refusal {
    fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self(status, code.into(), message.into(), None)
    }
}

/// Answers one request.
pub async fn answer(node: Arc<Node>, secret: Secret, request: Request<Incoming>) -> Response<Body> {
    match open(&node, &secret, request).await {
        Ok(response) => response,
        Err(Refusal(status, code, message, param)) => {
            document(status, api::error::body(status, &code, &message, param.as_deref()))
        }
    }
}

async fn open(node: &Arc<Node>, secret: &Secret, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    if !secret.opens(request.headers()) {
        return Err(Refusal::new(
            401,
            "invalid_api_key",
            "this port wants 'Authorization: Bearer <the node's secret>'",
        ));
    }
    let path = request.uri().path();
    match (path.strip_prefix("/v1").unwrap_or(path), request.method()) {
        ("/chat/completions", &Method::POST) => chat(node, request).await,
        ("/models", &Method::GET) => {
            Ok(full(StatusCode::OK, api::JSON, api::models::list([(node.model.as_str(), node.created)])))
        }
        ("/chat/completions" | "/models", method) => {
            Err(Refusal::new(405, "method_not_allowed", format!("{path} does not answer {method}")))
        }
        _ => Err(Refusal::new(
            404,
            "not_found",
            format!("no such endpoint: {path}; this port answers /v1/chat/completions"),
        )),
    }
}

async fn chat(node: &Arc<Node>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let request_id =
        request.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    let body = read(request).await?;
    let chat = ChatRequest::from_client(&body).map_err(|denial| {
        let param = denial.extra.into_iter().find(|(name, _)| name == littoral_core::denial::PARAM).map(|(_, v)| v);
        Refusal(denial.status, denial.code, denial.message, param)
    })?;
    let head = Head {
        id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        model: chat.model.clone(),
        fingerprint: node.fingerprint(),
        stream: chat.stream,
        include_usage: chat.stream_options.is_some_and(|o| o.include_usage),
    };
    let generate = GenerateRequest {
        model: chat.model.clone(),
        request: chat.to_bytes().into(),
        request_id,
        ..Default::default()
    };
    let mut events = node.generate(generate).await;
    let mut renderer = Renderer::new(head);
    // The status is known with the first event: an error before any token is an HTTP error.
    let first = events.next().await;
    if let Some(Event { kind: Some(Kind::Error(error)) }) = &first {
        let (status, body) = api::error::of_node(error);
        return Ok(document(status, body));
    }
    let mut buffer = BytesMut::new();
    first.iter().for_each(|event| renderer.push(event, &mut buffer));
    if chat.stream {
        let sleep = Box::pin(tokio::time::sleep(KEEP_ALIVE));
        let stream = EventStream { events, renderer, buffer, sleep, ended: false };
        let mut response = Response::new(stream.boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(api::EVENT_STREAM));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        return Ok(response);
    }
    while let Some(event) = events.next().await {
        renderer.push(&event, &mut buffer);
    }
    let (status, body) = renderer.document();
    Ok(document(status, body))
}

/// The body, within its limits.
async fn read(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let too_large =
        || Refusal::new(413, "request_too_large", format!("the body is larger than {} MiB", MAX_BODY >> 20));
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::new(400, "invalid_request_error", format!("the body broke off: {error}"))),
        Err(_) => Err(Refusal::new(408, "request_timeout", "the body did not come within a minute")),
    }
}

fn document(status: u16, body: Bytes) -> Response<Body> {
    let mut response = full(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), api::JSON, body);
    match status {
        401 => response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        503 => response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        _ => None,
    };
    response
}

/// The answer as server-sent events. Dropped when the client goes, and the generation with it.
struct EventStream {
    events: Events,
    renderer: Renderer,
    buffer: BytesMut,
    sleep: Pin<Box<Sleep>>,
    ended: bool,
}

impl EventStream {
    /// Renders what has come; ready when there is something to send, or nothing will come any more.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.buffer.len() < FRAME {
            match Pin::new(&mut self.events).poll_next(context) {
                Poll::Ready(Some(event)) => self.renderer.push(&event, &mut self.buffer),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending if self.buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(())
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let data = if this.poll_fill(context).is_ready() {
            this.buffer.split().freeze()
        } else {
            ready!(this.sleep.as_mut().poll(context));
            Bytes::from_static(api::KEEP_ALIVE)
        };
        this.sleep.as_mut().reset(Instant::now() + KEEP_ALIVE);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }
}
