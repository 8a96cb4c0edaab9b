//! The server, the key, and the requests sent to it.

use std::{path::Path, sync::mpsc, thread, time::Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, Events, Piece};

/// One turn of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

impl Turn {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What is asked for. Fields that are none are left to the server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Request {
    pub model: String,
    pub messages: Vec<Turn>,
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
}

/// Where the key is that `cargo xtask up` made.
const LOCAL_KEY: &str = ".littoral/key";

/// One server.
#[derive(Clone)]
pub struct Connection {
    agent: ureq::Agent,
    base: String,
    key: String,
}

impl Connection {
    /// `url` with or without `/v1`. Without a key, the one that `cargo xtask up` left in this folder is taken.
    pub fn new(url: &str, key: Option<String>) -> anyhow::Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("--url '{url}' begins with neither http:// nor https://");
        }
        let local = || std::fs::read_to_string(Path::new(LOCAL_KEY)).ok().map(|key| key.trim().to_string());
        let key = key.or_else(local).with_context(|| {
            format!("no API key: give --key, set LITTORAL_API_KEY, or run where `cargo xtask up` left {LOCAL_KEY}")
        })?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(std::time::Duration::from_secs(10)))
            .user_agent(concat!("littoral/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_string();
        Ok(Self { agent, base, key })
    }

    /// Names of the models the server offers.
    pub fn models(&self) -> anyhow::Result<Vec<String>> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let url = format!("{}/v1/models", self.base);
        let request = self.agent.get(&url).header("authorization", format!("Bearer {}", self.key));
        let mut response = request.call().with_context(|| self.unreachable())?;
        if !response.status().is_success() {
            return Err(refused(response));
        }
        let list: List = response.body_mut().read_json().context("the list of models is not what was expected")?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// The model to ask when none was named: the first one offered.
    pub fn model(&self, named: Option<String>) -> anyhow::Result<String> {
        if let Some(name) = named {
            return Ok(name);
        }
        self.models()?.into_iter().next().context("the server offers no model yet; try again when a node has joined")
    }

    /// Sends a request; the pieces of the answer arrive over the channel while another thread reads them. Dropping the
    /// channel ends the answer, and with it the generation.
    pub fn ask(&self, request: &Request) -> anyhow::Result<mpsc::Receiver<anyhow::Result<Piece>>> {
        let body = serde_json::to_vec(request)?;
        let (pieces, answer) = mpsc::sync_channel(16);
        let connection = self.clone();
        let run = move || {
            if let Err(error) = connection.read(&body, &pieces) {
                // Nobody listens any more when this fails.
                let _ = pieces.send(Err(error));
            }
        };
        thread::Builder::new().name("answer".into()).spawn(run)?;
        Ok(answer)
    }

    fn read(&self, body: &[u8], pieces: &mpsc::SyncSender<anyhow::Result<Piece>>) -> anyhow::Result<()> {
        let url = format!("{}/v1/chat/completions", self.base);
        let sent = Instant::now();
        let request = self.agent.post(&url).header("authorization", format!("Bearer {}", self.key));
        let response = request.content_type("application/json").send(body).with_context(|| self.unreachable())?;
        if !response.status().is_success() {
            return Err(refused(response));
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
        let answer = Answer {
            node: header("x-littoral-node"),
            cache: header("x-littoral-cache"),
            request_id: header("x-request-id"),
            ..Answer::default()
        };
        let mut events = Events::new(response.into_body().into_reader(), answer, sent);
        while let Some(piece) = events.next()? {
            let last = matches!(piece, Piece::End(_));
            if pieces.send(Ok(piece)).is_err() || last {
                return Ok(());
            }
        }
        bail!("the answer broke off: the server closed the connection before the end")
    }

    fn unreachable(&self) -> String {
        format!("{} cannot be reached; is the edge running there (`cargo xtask up`)?", self.base)
    }
}

/// The server's own words for a refusal, in the API's error format.
fn refused(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Error {
    let status = response.status();
    let document: Option<Value> = response.body_mut().read_json().ok();
    let message = document.as_ref().and_then(|d| d["error"]["message"].as_str()).unwrap_or("no further explanation");
    anyhow::anyhow!("the server answered {}: {message}", status.as_u16())
}
