//! A server of OpenAI's HTTP API whose every word the test decides: an upstream that is not ours.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// What the server does with a chat request.
#[derive(Debug, Clone)]
pub enum Conduct {
    /// Streams this many tokens, `t1 ` and so on, and how long it waits before each.
    Tokens(u32, Duration),
    /// The same, and closes the connection after so many of them.
    ClosesAfter(u32, u32),
    /// Streams these bytes and ends.
    Says(Bytes),
    /// Answers with this status, type and body.
    Answers(u16, &'static str, Bytes),
    /// Refuses with this status and `retry-after`, whatever is asked.
    Refuses(u16, String),
    /// Streams this again and again.
    Repeats(Bytes),
    /// Takes the request and says nothing.
    Silent,
    /// Streams these bytes and does not end.
    Stays(Bytes),
    /// Streams so many comments, and how long it waits before each, then five tokens.
    Muses(u32, Duration),
}

/// A running server.
pub struct OpenAiServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    conduct: Mutex<Conduct>,
    asked: AtomicU64,
    connections: AtomicU64,
    last: Mutex<Option<Value>>,
    last_key: Mutex<String>,
    last_version: Mutex<Version>,
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

impl OpenAiServer {
    pub fn start(conduct: Conduct) -> Self {
        Self::serve(conduct, None, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// One at this address.
    pub fn start_at(conduct: Conduct, address: SocketAddr) -> Self {
        Self::serve(conduct, None, address)
    }

    /// One that speaks TLS and nothing else.
    pub fn start_tls(conduct: Conduct, tls: ServerConfig) -> Self {
        Self::serve(conduct, Some(TlsAcceptor::from(Arc::new(tls))), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn serve(conduct: Conduct, tls: Option<TlsAcceptor>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        listener.set_nonblocking(true).expect("a listener can be made not to block");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            conduct: Mutex::new(conduct),
            asked: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            last: Mutex::default(),
            last_key: Mutex::default(),
            last_version: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("the system gives threads");
        let scheme = if tls.is_some() { "https" } else { "http" };
        runtime.spawn(accept(listener, tls, shared.clone()));
        Self { address, scheme, shared, runtime: Some(runtime) }
    }

    /// What stands before `/chat/completions`.
    pub fn url(&self) -> String {
        format!("{}://{}/v1", self.scheme, self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn follow(&self, conduct: Conduct) {
        *lock(&self.shared.conduct) = conduct;
    }

    /// Chat requests that came.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Relaxed)
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// The last chat request.
    pub fn last_request(&self) -> Value {
        lock(&self.shared.last).clone().expect("something was asked")
    }

    /// The last `authorization` header.
    pub fn last_key(&self) -> String {
        lock(&self.shared.last_key).clone()
    }

    /// HTTP's version in the last request.
    pub fn last_version(&self) -> Version {
        *lock(&self.shared.last_version)
    }
}

impl Drop for OpenAiServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes the listener");
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Relaxed);
        let (shared, tls) = (shared.clone(), tls.clone());
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            match tls {
                None => converse(stream, shared).await,
                // Who does not believe the certificate is no client.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    // A client that goes away is no event.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let key = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    *lock(&shared.last_key) = key.into();
    *lock(&shared.last_version) = request.version();
    if request.uri().path() == "/v1/models" {
        return whole(200, "application/json", json!({"data": [{"id": "upstream"}]}).to_string().into());
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let sent = sent(&asked);
    *lock(&shared.last) = Some(asked);
    shared.asked.fetch_add(1, Relaxed);
    let conduct = lock(&shared.conduct).clone();
    match conduct {
        Conduct::Answers(status, kind, body) => whole(status, kind, body),
        Conduct::Refuses(status, after) => {
            let mut response =
                whole(status, "application/json", Bytes::from_static(br#"{"error":{"message":"full"}}"#));
            let after = header::HeaderValue::try_from(after).expect("tests give values of headers");
            response.headers_mut().insert(header::RETRY_AFTER, after);
            response
        }
        Conduct::Silent => std::future::pending().await,
        Conduct::Stays(bytes) => streamed(stream::iter([Ok(bytes)]).chain(stream::pending())),
        Conduct::Muses(count, pace) => {
            let comments = stream::iter((0..count).map(|_| Ok(Bytes::from_static(b": hm\n\n"))));
            let slowly = comments.then(move |item| async move {
                tokio::time::sleep(pace).await;
                item
            });
            streamed(slowly.chain(tokens(5, sent)))
        }
        Conduct::Says(bytes) => streamed(stream::iter([Ok(bytes)])),
        Conduct::Repeats(bytes) => streamed(stream::repeat_with(move || Ok(bytes.clone())).then(|item| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            item
        })),
        Conduct::ClosesAfter(count, after) => {
            // After a while, so that what was said before is sent.
            let broken = stream::once(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            });
            streamed(tokens(count, sent).take(after as usize).chain(broken))
        }
        Conduct::Tokens(count, pace) => streamed(tokens(count, sent).then(move |item| async move {
            tokio::time::sleep(pace).await;
            item
        })),
    }
}

/// Words of the answer that the request says were given before.
fn sent(asked: &Value) -> u32 {
    let last = asked["messages"].as_array().and_then(|messages| messages.last());
    let last = last.filter(|message| message["role"] == "assistant");
    last.and_then(|message| message["content"].as_str()).map_or(0, |text| text.split_whitespace().count() as u32)
}

fn tokens(count: u32, sent: u32) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    let words = (sent + 1..=count).map(|n| json!({"choices": [{"index": 0, "delta": {"content": format!("t{n} ")}}]}));
    let finish = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 7 + sent, "completion_tokens": count - sent}});
    let chunks = words.chain([finish, usage]).map(|chunk| Ok(format!("data: {chunk}\n\n").into()));
    stream::iter(chunks.chain([Ok(Bytes::from_static(b"data: [DONE]\n\n"))]))
}

fn whole(status: u16, kind: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).expect("tests use HTTP's statuses");
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn streamed(bytes: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static) -> Answer {
    let bytes: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(bytes.map(|item| item.map(Frame::data)));
    let mut response = Response::new(StreamBody::new(bytes).boxed_unsync());
    let kind = header::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
