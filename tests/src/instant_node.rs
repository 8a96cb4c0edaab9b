//! A node without a model: a gRPC server of `littoral.v1.Node` whose tokens, pauses and faults the test decides.
//!
//! It speaks the same wire as `littoral-node`, counts what is open and what was taken back, and costs next to nothing
//! a token, so that a measurement through it is a measurement of the edge.

use std::{
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use littoral_proto::{
    MAX_MESSAGE_BYTES, finish,
    health::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    v1::{
        Delta, DescribeRequest, DetokenizeRequest, DetokenizeResponse, EmbedRequest, EmbedResponse, Error, Event,
        Finished, GenerateRequest, Model, NodeInfo, Resume, Started, TokenizeRequest, TokenizeResponse, Usage,
        delta::Part, event::Kind, node_server,
    },
};
use tokio::{
    runtime::Runtime,
    sync::watch,
    time::{Instant, Sleep},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// What every generation of a node does. Events are counted from 0: `started`, the tokens, `finished`, `usage`.
#[derive(Debug, Clone)]
pub struct Script {
    /// Tokens of an answer, one event each.
    pub tokens: u32,
    /// The text of each token; `{}` in it becomes the token's number.
    pub text: String,
    /// Between one token and the next.
    pub interval: Duration,
    pub prompt_tokens: u32,
    /// Before this event, wait until the gate is opened.
    pub gate: Option<(u32, Gate)>,
    /// Instead of this event, and of all that would follow.
    pub fault: Option<(u32, Fault)>,
    /// Begins anew instead of going on after the tokens it is given.
    pub ignores_resume: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tokens: 5,
            text: "t{} ".into(),
            interval: Duration::ZERO,
            prompt_tokens: 7,
            gate: None,
            fault: None,
            ignores_resume: false,
        }
    }
}

/// How a generation fails.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error event.
    Error(Error),
    /// A gRPC status.
    Status(Status),
    /// The stream ends as if all had been said.
    End,
    /// The whole node dies: every socket is closed at once.
    Crash,
    /// This instead of the event that is due; the stream goes on.
    Garbage(Event),
}

/// Holds streams back until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(self) {
        // The sender lives in `self`, so the wait ends only when the gate is open.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What a node has seen.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: AtomicU32,
    /// Generations asked for.
    pub asked: AtomicU64,
    /// Generations under way.
    pub open: AtomicU32,
    /// Generations whose stream was taken back before its last event.
    pub cancelled: AtomicU64,
    /// Generations whose last event was sent.
    pub completed: AtomicU64,
}

/// A running node.
pub struct InstantNode {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Arc<Mutex<Option<Runtime>>>,
}

struct Shared {
    info: Mutex<NodeInfo>,
    /// What gRPC's health protocol says.
    serving: AtomicBool,
    /// Tells a thread outside the runtime to end it.
    crash: std::sync::mpsc::Sender<()>,
    script: Mutex<Arc<Script>>,
    counts: Counts,
    last: Mutex<Option<GenerateRequest>>,
}

/// The model that an instant node says it serves.
pub const MODEL: &str = "instant";

impl InstantNode {
    /// A node on a port that the system chooses.
    pub fn start(name: &str, script: Script) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), name, script, 1)
    }

    /// A node at this address, on so many threads.
    pub fn start_at(address: SocketAddr, name: &str, script: Script, threads: usize) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        listener.set_nonblocking(true).expect("a listener can be made not to block");
        let address = listener.local_addr().expect("a bound listener has an address");
        let model = Model {
            name: MODEL.into(),
            revision: "r1".into(),
            context_length: 1 << 20,
            created: 1_700_000_000,
            embedding_dimensions: 0,
        };
        let info = NodeInfo {
            node: name.into(),
            device: "script".into(),
            models: vec![model],
            slots: u32::MAX,
            ..NodeInfo::default()
        };
        let (crash, crashed) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared {
            info: Mutex::new(info),
            serving: AtomicBool::new(true),
            crash,
            script: Mutex::new(Arc::new(script)),
            counts: Counts::default(),
            last: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        let runtime = runtime.expect("the system gives threads");
        runtime.spawn(serve(listener, shared.clone()));
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let mine = runtime.clone();
        std::thread::spawn(move || {
            // An error: the node was dropped without a crash.
            if crashed.recv().is_ok() {
                end(&mine);
            }
        });
        Self { address, shared, runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Generations under way.
    pub fn open(&self) -> u32 {
        self.counts().open.load(Acquire)
    }

    /// Generations that were asked for since the start.
    pub fn asked(&self) -> u64 {
        self.counts().asked.load(Relaxed)
    }

    /// The script of the generations that begin from now on.
    pub fn follow(&self, script: Script) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// The last request for a generation.
    pub fn last_request(&self) -> GenerateRequest {
        lock(&self.shared.last).clone().expect("a generation was asked for")
    }

    /// Ends as a process ends that is killed: every socket is closed at once.
    pub fn crash(&self) {
        end(&self.runtime);
    }

    /// Changes what the node says of itself.
    pub fn describe(&self, change: impl FnOnce(&mut NodeInfo)) {
        change(&mut lock(&self.shared.info));
    }

    /// What the node says by gRPC's health protocol.
    pub fn set_serving(&self, serving: bool) {
        self.shared.serving.store(serving, Relaxed);
    }
}

fn end(runtime: &Mutex<Option<Runtime>>) {
    if let Some(runtime) = lock(runtime).take() {
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for InstantNode {
    fn drop(&mut self) {
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener =
        tokio::net::TcpListener::from_std(listener).expect("the runtime takes a listener that does not block");
    let counted = shared.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).inspect(move |connection| {
        if connection.is_ok() {
            counted.counts.connections.fetch_add(1, Relaxed);
        }
    });
    let health = HealthServer::new(Scripted(shared.clone()));
    let service = node_server::NodeServer::new(Scripted(shared))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .max_concurrent_streams(Some(100_000))
        .http2_max_pending_accept_reset_streams(Some(100_000))
        .add_service(health)
        .add_service(service);
    server.serve_with_incoming(incoming).await.expect("the node serves until it is dropped");
}

/// A number of a canonical request: `max_tokens`, beyond which no node goes, or `n`.
fn number(request: &[u8], name: &str) -> Option<u32> {
    let request: serde_json::Value = serde_json::from_slice(request).ok()?;
    u32::try_from(request[name].as_u64()?).ok()
}

struct Scripted(Arc<Shared>);

#[tonic::async_trait]
impl node_server::Node for Scripted {
    type GenerateStream = Answer;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Answer>, Status> {
        let shared = self.0.clone();
        shared.counts.asked.fetch_add(1, Relaxed);
        let request = request.into_inner();
        let mut script = lock(&shared.script).clone();
        if let Some(most) = number(&request.request, "max_tokens").filter(|most| *most < script.tokens) {
            script = Arc::new(Script { tokens: most, ..(*script).clone() });
        }
        let seed = request.seed.unwrap_or(1);
        let choices = number(&request.request, "n").unwrap_or(1);
        // A text is read as words, which its tokens are.
        let read = |resume: &Resume| resume.token_ids.len() + resume.text.split_whitespace().count();
        let sent = request.resume_from.iter().map(|resume| read(resume) as u32).sum();
        *lock(&shared.last) = Some(request);
        shared.counts.open.fetch_add(1, Relaxed);
        Ok(Response::new(Answer {
            resume: if script.ignores_resume { 0 } else { sent },
            choices,
            script,
            shared,
            seed,
            at: 0,
            wait: None,
            gate: None,
            passed: false,
            due: None,
            over: false,
        }))
    }

    async fn tokenize(&self, _: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        Err(Status::unimplemented("a scripted node has no tokenizer"))
    }

    async fn detokenize(&self, _: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        Err(Status::unimplemented("a scripted node has no tokenizer"))
    }

    async fn embed(&self, _: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        Err(Status::unimplemented("a scripted node has no model"))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<NodeInfo>, Status> {
        let running = self.0.counts.open.load(Relaxed);
        let info = lock(&self.0.info).clone();
        Ok(Response::new(NodeInfo { running: info.running + running, ..info }))
    }
}

#[tonic::async_trait]
impl Health for Scripted {
    type WatchStream = futures::stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = self.0.serving.load(Relaxed);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("this node is only asked"))
    }
}

/// One generation.
pub struct Answer {
    script: Arc<Script>,
    shared: Arc<Shared>,
    seed: u64,
    /// Tokens that another node has sent.
    resume: u32,
    /// They come one after the other.
    choices: u32,
    /// The event that comes next.
    at: u32,
    wait: Option<Pin<Box<Sleep>>>,
    gate: Option<BoxFuture<'static, ()>>,
    /// The gate was open: what comes next may be waited for yet, and the gate is not asked again.
    passed: bool,
    /// When the next token is due.
    due: Option<Instant>,
    over: bool,
}

impl Answer {
    /// Ready when the next event may be sent.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((at, gate)) = &self.script.gate
            && *at == self.at
            && !self.passed
        {
            ready!(self.gate.get_or_insert_with(|| gate.clone().passed().boxed()).poll_unpin(cx));
            self.passed = true;
        }
        let is_token = (1..=self.tokens()).contains(&self.at);
        if is_token && !self.script.interval.is_zero() {
            let due = *self.due.get_or_insert_with(|| Instant::now() + self.script.interval);
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if wait.deadline() != due {
                wait.as_mut().reset(due);
            }
            ready!(wait.as_mut().poll(cx));
            self.due = Some(due + self.script.interval);
        }
        Poll::Ready(())
    }

    /// Tokens of all choices.
    fn tokens(&self) -> u32 {
        self.script.tokens * self.choices
    }

    fn event(&self) -> Event {
        let Script { tokens: each, text, prompt_tokens, .. } = &*self.script;
        let (tokens, prompt_tokens) = (self.tokens(), *prompt_tokens);
        let kind = match self.at {
            0 => {
                let node = lock(&self.shared.info).node.clone();
                Kind::Started(Started { node, prompt_tokens, cached_tokens: 0, seed: self.seed })
            }
            n if n <= tokens => {
                let text = if text.contains("{}") { text.replace("{}", &n.to_string()) } else { text.clone() };
                let part = Some(Part::Text(text));
                let (choice, index) = ((n - 1) / each, (n - 1) % each);
                Kind::Delta(Delta { choice, index, token_ids: vec![n], part, ..Delta::default() })
            }
            n if n <= tokens + self.choices => {
                Kind::Finished(Finished { choice: n - tokens - 1, reason: finish::STOP.into() })
            }
            _ => Kind::Usage(Usage { prompt_tokens, completion_tokens: tokens, ..Usage::default() }),
        };
        Event { kind: Some(kind) }
    }
}

impl Stream for Answer {
    type Item = Result<Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        ready!(self.poll_pace(cx));
        if let Some((at, fault)) = &self.script.fault
            && *at == self.at
        {
            if let Fault::Garbage(event) = fault {
                let event = event.clone();
                self.at += 1;
                return Poll::Ready(Some(Ok(event)));
            }
            let item = match fault {
                Fault::Error(error) => Some(Ok(Event { kind: Some(Kind::Error(error.clone())) })),
                Fault::Status(status) => Some(Err(status.clone())),
                Fault::End | Fault::Garbage(_) => None,
                Fault::Crash => {
                    let _ = self.shared.crash.send(());
                    return Poll::Pending;
                }
            };
            self.over = true;
            return Poll::Ready(item);
        }
        let event = self.event();
        self.at += if self.at == 0 { 1 + self.resume.min(self.script.tokens) } else { 1 };
        self.over = self.at > self.tokens() + self.choices + 1;
        Poll::Ready(Some(Ok(event)))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let counts = &self.shared.counts;
        let ended = if self.over { &counts.completed } else { &counts.cancelled };
        ended.fetch_add(1, Release);
        // Last: who sees that none is open finds every one among those that ended.
        counts.open.fetch_sub(1, Release);
    }
}
