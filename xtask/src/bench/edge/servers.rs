//! The processes that are measured, and those they need: nodes, a plain proxy, edges.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{BASELINE, PARTIAL, Variant, state};
use crate::bench::{machine, node::scrape};
use crate::up::child::{Child, Ready};
use crate::{exec, place};

const READY: Duration = Duration::from_secs(60);
/// What is written for every request goes where it costs the writing and no disk.
const NOWHERE: &str = "/dev/null";

/// Keys and configurations of one run.
pub struct Bench {
    key: String,
    keys: PathBuf,
    /// Each edge has a store of its own.
    stores: Cell<usize>,
}

/// What the instant node answers.
pub struct NodeScript {
    pub tokens: u32,
    pub text: String,
    /// Between two tokens.
    pub interval_us: u64,
}

/// A running server, or the node behind it.
pub struct Server {
    pub variant: Variant,
    child: Child,
    ready: Ready,
    pub ready_after: Duration,
}

/// Components with layers left out.
pub fn partial_guests() -> PathBuf {
    place::guests().join("partial")
}

impl Bench {
    pub fn prepare() -> Result<Self> {
        fs::create_dir_all(state())?;
        let keys = state().join("keys.json");
        let _ = fs::remove_file(&keys);
        let mut create = Command::new(place::binary("littoral"));
        create.args(["key", "create", "--tenant", "bench", "--user", "load", "--keys"]).arg(&keys);
        let key = exec::output(&mut create)?.trim().to_owned();
        Ok(Self { key, keys, stores: Cell::new(0) })
    }

    /// A node without a model.
    pub fn node(&self, script: NodeScript) -> Result<Server> {
        let mut command = Command::new(place::binary("instant-node"));
        command.args(["--listen", "127.0.0.1:0", "--tokens", &script.tokens.to_string()]);
        command.args(["--interval-us", &script.interval_us.to_string(), "--text", &script.text]);
        start("instant-node", &mut command, BASELINE, &state().join("instant-node.log"))
    }

    /// A server of this kind before `node`.
    pub fn server(&self, variant: Variant, node: &Server) -> Result<Server> {
        let node = node.ready.get("grpc")?;
        let Some(policy) = variant.policy else {
            let mut command = Command::new(place::binary("baseline-proxy"));
            command.args(["--listen", "127.0.0.1:0", "--node", node]);
            return start("baseline-proxy", &mut command, variant, Path::new(NOWHERE));
        };
        let partial = PARTIAL.iter().any(|(name, _)| *name == policy);
        let policy = if partial { partial_guests().join(format!("{policy}.wasm")) } else { policy.into() };
        let store = self.stores.replace(self.stores.get() + 1);
        let config = format!(
            "[edge]\nlisten = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\n\n\
             [[node]]\naddress = '{node}'\n\n\
             [keys]\nfile = '{}'\n\n\
             [store]\nurl = '{}'\n\n\
             [guest]\ndir = '{}'\npolicy = '{}'\nisolation = '{}'\n",
            self.keys.display(),
            state().join(format!("store-{store}.db")).display(),
            place::guests().display(),
            policy.display(),
            if variant.fresh { "fresh" } else { "reuse" },
        );
        let path = state().join("edge.toml");
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(place::binary("littoral"));
        command.arg("serve").arg("--config").arg(&path);
        if !variant.access_log {
            command.env("LITTORAL_LOG", "warn");
        }
        start("edge", &mut command, variant, Path::new(NOWHERE))
    }

    /// The load generator, pointed at a server.
    pub fn load(&self, server: &Server) -> Result<Command> {
        let mut command = Command::new(place::binary("load"));
        command.args(["--to", server.ready.get("http")?, "--key", &self.key]);
        Ok(command)
    }

    /// Opens this many streams and keeps them until the result is dropped.
    pub fn hold(&self, server: &Server, streams: usize) -> Result<Child> {
        let mut command = self.load(server)?;
        command.args(["--hold", "--connections", &streams.to_string(), "--seconds", "600"]);
        let mut child = Child::start("load", &mut command, &state())?;
        child.await_ready(READY)?;
        Ok(child)
    }
}

impl Server {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn resident_kib(&self) -> u64 {
        machine::resident_kib(self.id())
    }

    /// A sample of the edge's metrics that has no labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = scrape(self.ready.get("metrics")?)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("the edge has no metric {name}"))
    }

    /// How many decisions of the guests took at most so many seconds, since the start: none of the plain proxy.
    pub fn decisions(&self) -> Result<Vec<(f64, f64)>> {
        if self.variant.policy.is_none() {
            return Ok(Vec::new());
        }
        let text = scrape(self.ready.get("metrics")?)?;
        let bucket = |line: &str| {
            let (bound, count) = line.strip_prefix("littoral_guest_decide_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        };
        Ok(text.lines().filter_map(bucket).collect())
    }
}

fn start(name: &'static str, command: &mut Command, variant: Variant, log: &Path) -> Result<Server> {
    let began = Instant::now();
    let mut child = Child::start_logging(name, command, log.to_owned())?;
    let ready = child.await_ready(READY).with_context(|| format!("what was started: {command:?}"))?;
    Ok(Server { variant, child, ready, ready_after: began.elapsed() })
}
