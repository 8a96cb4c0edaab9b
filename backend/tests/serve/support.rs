//! A node in this process, a client for it, and what answers look like.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{LazyLock, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use littoral_core::chat::{ChatRequest, Message};
use littoral_node::{
    model::{BLOCK_TOKENS, DeviceChoice, Options, load},
    serve::{Addresses, Doors, Secret, Server, Settings},
};
use littoral_proto::v1::{
    DescribeRequest, Error, Event, GenerateRequest, NodeInfo, Resume, Started, Usage, delta::Part, event::Kind,
    node_client::NodeClient,
};
use tonic::{Streaming, transport::Channel};

pub const MODEL: &str = "smollm2-135m-instruct";
pub const SECRET: &str = "open sesame";

/// The model file; its absence fails the test and says what to do.
pub fn model_file() -> PathBuf {
    let cache = || {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
        let base = std::env::var_os("XDG_CACHE_HOME").filter(|p| !p.is_empty()).map_or_else(home, PathBuf::from);
        base.join("littoral/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    };
    let path = std::env::var_os("LITTORAL_TEST_MODEL").map_or_else(cache, PathBuf::from);
    assert!(path.is_file(), "{} is not there: `cargo xtask model` fetches it", path.display());
    path
}

/// The model file with another chat template, no longer than its own.
fn with_template(template: &str) -> PathBuf {
    let mut bytes = std::fs::read(model_file()).unwrap();
    let key = b"tokenizer.chat_template";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let padded = format!("{template}{{#{}#}}", " ".repeat(length.checked_sub(template.len() + 4).unwrap()));
    bytes[at + 8..at + 8 + length].copy_from_slice(padded.as_bytes());
    let path = std::env::temp_dir().join(format!("littoral-template-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The node of a model that calls tools as Hermes does.
pub fn calling() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let file = with_template(concat!(
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
            "{% endfor %}{{ '<|im_start|>assistant\\n' }}{# <tool_call> #}",
        ));
        let node = Node::serving(&file, 2, 8);
        std::fs::remove_file(file).unwrap();
        node
    })
}

/// A node on free ports, in a thread of its own until the test process ends.
pub struct Node {
    pub at: Addresses,
}

/// The node that most tests share.
pub fn shared() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::start(4, 16))
}

impl Node {
    /// For tests that look at counts: a node nobody else uses.
    pub fn start(slots: usize, queue: usize) -> Self {
        Self::serving(&model_file(), slots, queue)
    }

    /// With another model than the default one.
    pub fn serving(file: &Path, slots: usize, queue: usize) -> Self {
        let file = file.to_path_buf();
        let (ready, started) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let secret = Secret::new(SECRET).unwrap();
                let any = "127.0.0.1:0";
                let doors = Doors::bind(any, any, Some((any, secret))).await.unwrap();
                let at = doors.addresses().unwrap();
                let kv_blocks = 2 * 8192 / BLOCK_TOKENS;
                let options = Options { device: DeviceChoice::Cpu, kv_blocks, ..Options::default() };
                let loaded = load(&file, options, &|_, _| {}).unwrap().servable(&file).unwrap();
                let (node, model) = (at.grpc.to_string(), MODEL.to_string());
                let settings = Settings { node, model, slots, queue, rows: 64, kv_blocks, speculate: true };
                let server = Server::start(doors, loaded, settings).unwrap();
                ready.send(at).unwrap();
                server.run(std::future::pending(), Duration::ZERO).await;
            });
        });
        Self { at: started.recv().expect("the node starts") }
    }

    pub async fn client(&self) -> NodeClient<Channel> {
        NodeClient::connect(format!("http://{}", self.at.grpc)).await.unwrap()
    }

    pub async fn open(&self, request: GenerateRequest) -> Streaming<Event> {
        self.client().await.generate(request).await.unwrap().into_inner()
    }

    pub async fn answer(&self, request: GenerateRequest) -> Answer {
        collect(self.open(request).await).await
    }

    pub async fn describe(&self) -> NodeInfo {
        self.client().await.describe(DescribeRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the node describes itself so.
    pub async fn until(&self, what: impl Fn(&NodeInfo) -> bool) -> NodeInfo {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let info = self.describe().await;
            if what(&info) {
                return info;
            }
            assert!(Instant::now() < patience, "still {info:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The value of a metric's line, named with its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, page) = get(self.at.metrics, "/metrics").await;
        let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    /// Waits until a metric has this value: what ends is counted a moment after it has ended.
    pub async fn until_metric(&self, name: &str, value: f64) {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let now = self.metric(name).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < patience, "{name} is still {now}, not {value}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A chat request with one message of the user, greedy, 24 tokens at most.
pub fn chat(prompt: &str) -> ChatRequest {
    let user = Message {
        role: "user".into(),
        content: prompt.into(),
        name: None,
        reasoning_content: None,
        tool_call_id: None,
        tool_calls: None,
    };
    ChatRequest {
        model: MODEL.into(),
        messages: vec![user],
        max_tokens: Some(24),
        temperature: 0.0,
        top_p: 1.0,
        stop: Vec::new(),
        seed: None,
        sampling: Default::default(),
        tools: Vec::new(),
        tool_choice: Default::default(),
        response_format: Default::default(),
        thinking: None,
        user_id: None,
        stream: true,
        stream_options: None,
    }
}

pub fn request(chat: &ChatRequest) -> GenerateRequest {
    GenerateRequest { model: chat.model.clone(), request: chat.to_bytes().into(), ..Default::default() }
}

pub fn resumed(chat: &ChatRequest, sent: &[u32]) -> GenerateRequest {
    let resume = Resume { token_ids: sent.to_vec(), ..Resume::default() };
    GenerateRequest { resume_from: vec![resume], ..request(chat) }
}

/// A collected answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub started: Option<Started>,
    pub tokens: Vec<u32>,
    pub text: String,
    /// The texts as they came.
    pub pieces: Vec<String>,
    pub reason: String,
    pub usage: Usage,
    pub error: Option<Error>,
}

impl Answer {
    pub fn take(&mut self, event: Event) {
        match event.kind.expect("an event has a kind") {
            Kind::Started(started) => self.started = Some(started),
            Kind::Delta(delta) => {
                assert_eq!(delta.choice, 0);
                self.tokens.extend(&delta.token_ids);
                if let Some(Part::Text(text)) = delta.part {
                    self.text.push_str(&text);
                    self.pieces.push(text);
                }
            }
            Kind::Finished(finished) => self.reason = finished.reason,
            Kind::Usage(usage) => self.usage = usage,
            Kind::Error(error) => self.error = Some(error),
        }
    }

    pub fn code(&self) -> &str {
        self.error.as_ref().map_or("", |e| &e.code)
    }
}

pub async fn collect(mut events: Streaming<Event>) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = events.message().await.unwrap() {
        answer.take(event);
    }
    answer
}

/// A GET without further ado: status and body.
pub async fn get(at: SocketAddr, path: &str) -> (u16, String) {
    let request = http::Request::get(format!("http://{at}{path}"));
    send(request.body(Default::default()).unwrap()).await
}

type Client = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    http_body_util::Full<bytes::Bytes>,
>;

/// The client without a pool: tests have runtimes of their own, and a connection must not outlive one.
pub fn http_client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build_http()
    });
    &CLIENT
}

pub async fn send(request: http::Request<http_body_util::Full<bytes::Bytes>>) -> (u16, String) {
    use http_body_util::BodyExt;
    let response = http_client().request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
