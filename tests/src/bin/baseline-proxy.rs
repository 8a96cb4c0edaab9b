//! `baseline-proxy`: what an edge costs that decides nothing. The measure for `cargo xtask bench edge`.
//!
//! Sockets, threads, gRPC client and rendering are the edge's own; there is no guest, key, cache, limit or log.

use std::{
    convert::Infallible,
    io::Write,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use futures::Stream;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use hyper::{
    body::{Frame, Incoming},
    rt::Executor,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use littoral::{door, fleet::connect};
use littoral_api::chat::{Head, Renderer};
use littoral_proto::v1::{Event, GenerateRequest, node_client::NodeClient};
use serde::Deserialize;
use tokio::task::{LocalSet, spawn_local};
use tonic::{Streaming, transport::Channel};

/// A frame is sent when it has this size, though more events be ready: the edge's own bound.
const FRAME: usize = 16 << 10;

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// gRPC address of the node.
    #[arg(long, value_name = "HOST:PORT")]
    node: String,
    /// Threads [default: one a core].
    #[arg(long)]
    workers: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let Options { listen, node, workers } = Options::parse();
    let workers = workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| n.get()));
    let (address, listeners) = door::bind(listen, workers)?;
    let threads: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            let node = node.clone();
            thread::spawn(move || serve(listener, &node))
        })
        .collect();
    println!("ready http={address}");
    std::io::stdout().flush()?;
    threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

fn serve(listener: TcpListener, node: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let client = connect(node)?;
        let mut builder = auto::Builder::new(Local);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60));
        let builder = Rc::new(builder);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (builder, client) = (builder.clone(), client.clone());
            spawn_local(async move {
                let service = service_fn(|request| {
                    let client = client.clone();
                    async move { Ok::<_, Infallible>(answer(client, request).await) }
                });
                // A client that goes away is no event.
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

/// As much of the request as is needed to write the answer.
#[derive(Deserialize)]
struct Asked {
    model: String,
    #[serde(default)]
    stream: bool,
}

async fn answer(client: NodeClient<Channel>, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST || request.uri().path() != "/v1/chat/completions" {
        return refusal(StatusCode::NOT_FOUND, "only POST /v1/chat/completions is here");
    }
    let Ok(body) = request.into_body().collect().await else {
        return refusal(StatusCode::BAD_REQUEST, "the body broke off");
    };
    match generate(client, body.to_bytes()).await {
        Ok(response) => response,
        Err(error) => refusal(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
    }
}

async fn generate(mut client: NodeClient<Channel>, request: Bytes) -> anyhow::Result<Response<Body>> {
    let Asked { model, stream } = serde_json::from_slice(&request)?;
    let asked = GenerateRequest { model: model.clone(), request, deadline_ms: 600_000, ..GenerateRequest::default() };
    let mut events = client.generate(asked).await?.into_inner();
    let mut renderer = Renderer::new(Head {
        id: "chatcmpl-0123456789abcdef01234567".into(),
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        model,
        fingerprint: "baseline".into(),
        stream,
        include_usage: false,
    });
    let mut out = BytesMut::new();
    if stream {
        let mut response = Response::new(Body::Events { events: Box::new(events), renderer: Box::new(renderer), out });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(littoral_api::EVENT_STREAM));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        return Ok(response);
    }
    while let Some(event) = events.message().await? {
        renderer.push(&event, &mut out);
    }
    let (status, document) = renderer.document();
    let mut response = Response::new(Body::Whole(document));
    *response.status_mut() = StatusCode::from_u16(status)?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(littoral_api::JSON));
    Ok(response)
}

fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::Whole(why.to_owned().into()));
    *response.status_mut() = status;
    response
}

enum Body {
    Whole(Bytes),
    Events { events: Box<Streaming<Event>>, renderer: Box<Renderer>, out: BytesMut },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (events, renderer, out) = match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events { events, renderer, out } => (events, renderer, out),
        };
        while out.len() < FRAME {
            match Pin::new(&mut **events).poll_next(cx)? {
                Poll::Ready(Some(event)) => renderer.push(&event, out),
                Poll::Ready(None) => break,
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        let frame = (!out.is_empty()).then(|| Ok(Frame::data(out.split().freeze())));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.len() as u64),
            Self::Events { .. } => hyper::body::SizeHint::default(),
        }
    }
}
