//! An HTTP client that speaks either protocol without TLS and hides nothing.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::sse::Events;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// HTTP/2 by prior knowledge.
    H2c,
}

pub const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::H2c];

/// A request's body.
pub type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Where requests go, as whom and how. Each has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub protocol: Protocol,
    key: Option<String>,
    headers: Vec<(String, String)>,
}

/// The head of an answer, and its body on the way. Dropping it closes the stream, and over HTTP/1.1 the connection.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
}

/// An open connection.
#[derive(Debug)]
pub enum Connection {
    Http1(http1::SendRequest<Outgoing>),
    H2c(http2::SendRequest<Outgoing>),
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Http1, key: None, headers: Vec::new() }
    }

    pub fn over(&self, protocol: Protocol) -> Self {
        Self { protocol, ..self.clone() }
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// The same client at another server.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    pub fn without_key(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    /// Sends this header with every request.
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.into(), value.into()));
        client
    }

    /// A request with the client's key and headers.
    pub fn request(&self, method: &str, path: &str, body: Outgoing) -> Request<Outgoing> {
        let mut request = Request::builder().method(method);
        request = match self.protocol {
            Protocol::Http1 => request.uri(path).header(header::HOST, self.address.to_string()),
            Protocol::H2c => request.uri(format!("http://{}{path}", self.address)),
        };
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(body).expect("tests make well-formed requests")
    }

    pub async fn connect(&self) -> hyper::Result<Connection> {
        Connection::open(self.address, self.protocol).await
    }

    /// Sends one request over a connection of its own.
    pub async fn try_send(&self, request: Request<Outgoing>) -> hyper::Result<Answer> {
        self.connect().await?.send(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let answer = self.try_send(self.request("GET", path, empty())).await;
        answer.unwrap_or_else(|e| panic!("GET {path}: {e:?}"))
    }

    /// Sends `body` as it is.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let answer = self.try_send(self.request("POST", path, full(body))).await;
        answer.unwrap_or_else(|e| panic!("POST {path}: {e:?}"))
    }

    /// Asks for a chat completion.
    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body.to_string()).await
    }

    /// A chat request as [`Connection::send`] takes it.
    pub fn chat_request(&self, body: &Value) -> Request<Outgoing> {
        self.request("POST", "/v1/chat/completions", full(body.to_string()))
    }
}

impl Connection {
    /// Fails the test when nobody listens; use a [`TcpStream`] to ask whether somebody does.
    pub async fn open(address: SocketAddr, protocol: Protocol) -> hyper::Result<Self> {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("nobody listens at {address}: {e}"));
        stream.set_nodelay(true).expect("a TCP socket takes the option");
        let io = TokioIo::new(stream);
        // What ends a connection also fails the request or the body that waits for it.
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Protocol::H2c => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Self::H2c(sender)
            }
        })
    }

    /// Sends a request; over HTTP/1.1 the body of the answer before must have been read.
    pub async fn send(&mut self, request: Request<Outgoing>) -> hyper::Result<Answer> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2c(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Answer {
    /// A header's value; empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The whole body.
    pub async fn text(self) -> String {
        let body = self.body.collect().await.unwrap_or_else(|e| panic!("the answer broke off: {e:?}"));
        String::from_utf8(body.to_bytes().into()).expect("answers are UTF-8")
    }

    /// The whole body, which is JSON.
    pub async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// The body of a success with status 200.
    pub async fn ok(self) -> Value {
        let status = self.status;
        let json = self.json().await;
        assert_eq!(status, 200, "{json}");
        json
    }

    /// The error object of a refusal with this status, its form checked.
    pub async fn error(self, status: u16) -> Value {
        let (got, kind) = (self.status, self.header("content-type").to_string());
        let mut json = self.json().await;
        assert_eq!((got, kind.as_str()), (status, "application/json"), "{json}");
        let error = json["error"].take();
        let mut fields: Vec<_> = error.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["code", "message", "param", "type"], "{error}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
        let expected = littoral_api::error::kind(status);
        assert_eq!(error["type"], expected, "{error}");
        error
    }

    /// The body as server-sent events.
    pub fn events(self) -> Events {
        assert_eq!(self.status, 200, "{:?}", self.headers);
        let kind = self.header("content-type");
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Events::new(self.body)
    }
}

pub fn empty() -> Outgoing {
    Empty::new().boxed_unsync()
}

pub fn full(body: impl Into<Bytes>) -> Outgoing {
    Full::new(body.into()).boxed_unsync()
}

/// A body in pieces, without a declared length.
pub fn chunked(pieces: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Outgoing {
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(hyper::body::Frame::data(piece)));
    http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// What the server says to these bytes until it closes the connection; none when it is still open after `limit`.
pub async fn raw(address: SocketAddr, bytes: &[u8], limit: Duration) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("nobody listens at {address}: {e}"));
    // The server may have closed already: what it said before is what counts.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let closed = timeout(limit, async {
        let mut buffer = [0; 4096];
        // A reset is an end as well.
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..n]);
        }
    });
    closed.await.ok().map(|()| String::from_utf8_lossy(&said).into_owned())
}
