//! An edge of its own configuration, and `chat-load` pointed at it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::node::Metrics;
use crate::up::child::{Child, Ready};
use crate::{exec, place};

const READY: Duration = Duration::from_secs(60);

/// A running edge and the key it is asked with.
pub struct Edge {
    pub process: Child,
    ready: Ready,
    key: String,
}

/// Who asks, and what for.
pub struct Asking<'a> {
    pub model: &'a str,
    /// Another one makes other texts, which no cache holds.
    pub seed: u64,
    /// The arguments of `chat-load`.
    pub what: &'a [&'a str],
}

/// What `chat-load` says of times, seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Times {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
}

impl Edge {
    /// Starts one in `dir`; `config` is all of its configuration but sockets, guests, keys and store.
    pub fn start(dir: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let store = dir.join("littoral.db");
        let own = format!(
            "[edge]\nlisten = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\n[guest]\ndir = '{}'\n[keys]\nfile = '{}'\n",
            place::guests().display(),
            dir.join("keys.json").display(),
        );
        // A configuration that names a store has one of its own.
        let named =
            if config.contains("[store]") { String::new() } else { format!("[store]\nurl = '{}'\n", store.display()) };
        let file = dir.join("edge.toml");
        fs::write(&file, format!("{config}\n{own}{named}"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let mut create = Command::new(place::binary("littoral"));
        create.args(["key", "create", "--tenant", "bench", "--user", "load", "--keys"]).arg(dir.join("keys.json"));
        let key = exec::output(&mut create)?.trim().to_owned();
        let mut serve = Command::new(place::binary("littoral"));
        serve.arg("serve").arg("--config").arg(&file).env("LITTORAL_LOG", "warn");
        let mut process = Child::start("edge", &mut serve, dir)?;
        let ready = process.await_ready(READY)?;
        Ok(Self { process, ready, key })
    }

    /// Where clients connect.
    pub fn http(&self) -> Result<&str> {
        self.ready.get("http")
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::at(self.ready.get("metrics")?)
    }

    /// Waits until so many nodes are ready.
    pub fn await_nodes(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        while self.metrics()?.get("littoral_nodes_ready") != count as f64 {
            if began.elapsed() > READY {
                bail!("the edge does not see {count} nodes\n{}", self.process.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The command that asks this edge, and `others` in turn with it.
    pub fn chat_load(&self, others: &[&Edge], asking: &Asking) -> Result<Command> {
        let mut to = self.http()?.to_owned();
        for other in others {
            to.push(',');
            to.push_str(other.http()?);
        }
        let mut command = Command::new(place::binary("chat-load"));
        command.args(["--to", &to, "--key", &self.key, "--model", asking.model, "--seed", &asking.seed.to_string()]);
        command.args(asking.what);
        Ok(command)
    }

    /// Asks, and reads what `chat-load` says of it.
    pub fn ask<T: DeserializeOwned>(&self, asking: &Asking) -> Result<T> {
        read(&exec::output(&mut self.chat_load(&[], asking)?)?)
    }
}

/// Gives an edge in `with` the keys of the one in `from`, before it is started: who may ask one may ask both.
pub fn share_keys(from: &Path, with: &Path) -> Result<()> {
    fs::create_dir_all(with)?;
    fs::copy(from.join("keys.json"), with.join("keys.json"))?;
    Ok(())
}

/// What `chat-load` printed last.
pub fn read<T: DeserializeOwned>(printed: &str) -> Result<T> {
    let line = printed.lines().rfind(|line| line.starts_with(['{', '['])).unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("chat-load printed something else: {printed}"))
}
