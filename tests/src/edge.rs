//! A real edge, `littoral serve`, with a configuration and keys of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use littoral_core::{
    cache::{Policy, Rules},
    key::KeyRecord,
};

use crate::{
    artefact,
    client::Client,
    eventually,
    metrics::Metrics,
    process::{self, Ended, Process},
};

/// How long an edge may take to hear of its nodes.
const HEARD: Duration = Duration::from_secs(30);

/// `[fleet]` of an edge that holds no failures in a row against a node, and leaves the one that fails most alone for a
/// millisecond.
pub const FORGIVING: &str = "breaker_failures = 100000\nbreaker_ms = 1\nbreaker_max_ms = 1";

/// An edge that is about to be started.
pub struct Setup {
    dir: PathBuf,
    nodes: Vec<(String, SocketAddr)>,
    /// Names of further nodes, and their sections as they stand in the file.
    upstreams: Vec<(String, String)>,
    sections: BTreeMap<&'static str, String>,
}

/// A running edge.
pub struct Edge {
    pub process: Process,
    pub http: SocketAddr,
    metrics: SocketAddr,
    pub keys: Keys,
    keys_file: PathBuf,
    config: PathBuf,
    /// `store.url`
    pub store: String,
}

/// One key each.
#[derive(Debug, Clone)]
pub struct Keys {
    pub acme: String,
    pub globex: String,
    /// Of tenant acme too; its answers run through the filter `redact`.
    pub redacted: String,
    /// Of tenant acme too; its answers never come from the cache.
    pub uncached: String,
    /// Was good until 1970.
    pub expired: String,
}

impl Edge {
    /// An edge in front of these nodes, called n1, n2 and so on.
    pub fn to(nodes: &[SocketAddr]) -> Setup {
        let named = nodes.iter().enumerate().map(|(i, address)| (format!("n{}", i + 1), *address));
        Setup {
            dir: artefact::scratch("edge"),
            nodes: named.collect(),
            upstreams: Vec::new(),
            sections: BTreeMap::new(),
        }
    }

    /// A client with acme's key.
    pub fn client(&self) -> Client {
        Client::new(self.http).with_key(&self.keys.acme)
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::of(self.metrics).await
    }

    /// The file of its keys.
    pub fn keys_file(&self) -> &Path {
        &self.keys_file
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }
}

impl Setup {
    /// Adds a line of TOML to a section.
    pub fn with(mut self, section: &'static str, line: &str) -> Self {
        let text = self.sections.entry(section).or_default();
        text.push_str(line);
        text.push('\n');
        self
    }

    /// Adds a node that speaks OpenAI's API; `more` are further lines of its section.
    pub fn upstream(mut self, name: &str, url: &str, more: &str) -> Self {
        let section = format!("[[node]]\nkind = 'openai'\nname = '{name}'\naddress = '{url}'\n{more}\n");
        self.upstreams.push((name.into(), section));
        self
    }

    /// The folder of configuration and keys.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes keys and configuration; the command that serves them.
    pub fn command(&self) -> (Command, Keys) {
        let keys = Keys::write(&self.dir.join("keys.json"));
        let defaults = [
            ("edge", "listen", "'127.0.0.1:0'".to_string()),
            ("edge", "metrics", "'127.0.0.1:0'".into()),
            ("guest", "dir", format!("'{}'", artefact::guests().display())),
            ("store", "url", format!("'{}'", self.dir.join("littoral.db").display())),
            ("keys", "file", format!("'{}'", self.dir.join("keys.json").display())),
        ];
        let mut sections = self.sections.clone();
        for (section, key, value) in defaults {
            let text = sections.entry(section).or_default();
            if !text.lines().any(|line| line.split('=').next().is_some_and(|name| name.trim() == key)) {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        let none = if self.nodes.is_empty() && self.upstreams.is_empty() { "node = []\n" } else { "" };
        let mut toml: String = none.to_string();
        toml.extend(sections.iter().map(|(name, lines)| format!("[{name}]\n{lines}\n")));
        for (name, address) in &self.nodes {
            toml.push_str(&format!("[[node]]\nname = '{name}'\naddress = '{address}'\n\n"));
        }
        self.upstreams.iter().for_each(|(_, section)| toml.push_str(section));
        let config = self.dir.join("edge.toml");
        fs::write(&config, toml).expect("the test's folder can be written to");
        let mut command = Command::new(artefact::binary("littoral"));
        command.arg("serve").arg("--config").arg(config);
        (command, keys)
    }

    /// Waits until an edge of this setup has heard of each of its nodes, or said why it has not: its own first look at
    /// them is so short that a busy machine lets it pass.
    pub fn wait_for_nodes(&self, edge: &Process) {
        let began = Instant::now();
        let nodes = self.nodes.iter().map(|(name, _)| name).chain(self.upstreams.iter().map(|(name, _)| name));
        for name in nodes {
            while edge.logged("node", name).is_none() {
                assert!(began.elapsed() < HEARD, "the edge says nothing of its node {name}\n{}", edge.log());
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// An edge that knows of its nodes.
    pub fn start(self) -> Edge {
        let (command, keys) = self.command();
        let named = self.sections.get("store").and_then(|lines| lines.lines().find_map(|l| l.strip_prefix("url = ")));
        let store = named
            .map_or_else(|| self.dir.join("littoral.db").display().to_string(), |url| url.trim_matches('\'').into());
        let process = Process::start("edge", command);
        self.wait_for_nodes(&process);
        let (http, metrics) = (process.address("http"), process.address("metrics"));
        let (keys_file, config) = (self.dir.join("keys.json"), self.dir.join("edge.toml"));
        Edge { process, http, metrics, keys, keys_file, config, store }
    }
}

impl Edge {
    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs `littoral key ...` on this edge's store; what it said.
    pub fn key(&self, arguments: &[&str]) -> String {
        let ended = self.run(&[&["key"], arguments].concat());
        assert!(ended.status.success(), "{}", ended.said);
        ended.said.trim().to_string()
    }

    /// Runs `littoral ...` with this edge's configuration.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(artefact::binary("littoral"));
        command.args(arguments).arg("--config").arg(&self.config);
        process::run("littoral", command, Duration::from_secs(20))
    }

    /// A client with a new key of tenant `acme`, once the edge knows it.
    pub async fn client_with(&self, arguments: &[&str]) -> Client {
        let key = self.key(&[&["create", "--tenant", "acme", "--user", "ada"], arguments].concat());
        let client = Client::new(self.http).with_key(&key);
        let known = async || client.get("/v1/models").await.status != 401;
        eventually("the new key", Duration::from_secs(20), known).await;
        client
    }
}

impl Keys {
    /// New keys, their records in `path`.
    pub fn write(path: &Path) -> Self {
        let (acme, acme_key) = record("acme");
        let (globex, globex_key) = record("globex");
        let (mut redacted, redacted_key) = record("acme");
        redacted.filters = vec!["redact".into()];
        let (mut uncached, uncached_key) = record("acme");
        uncached.cache = Some(Rules { policy: Some(Policy::Off), ttl_ms: None });
        let (mut expired, expired_key) = record("acme");
        expired.expires_at_ms = Some(1);
        let records =
            serde_json::to_vec(&[acme, globex, redacted, uncached, expired]).expect("records always serialise");
        fs::write(path, records).expect("the test's folder can be written to");
        Self {
            acme: acme_key,
            globex: globex_key,
            redacted: redacted_key,
            uncached: uncached_key,
            expired: expired_key,
        }
    }
}

fn record(tenant: &str) -> (KeyRecord, String) {
    let mut entropy = [0; 54];
    let random = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut entropy));
    random.expect("the system gives random numbers");
    KeyRecord::create(tenant, "tester", &entropy)
}

/// The key with another last sign: of the right form, and nobody's.
pub fn wrong(key: &str) -> String {
    let last = if key.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &key[..key.len() - 1])
}
