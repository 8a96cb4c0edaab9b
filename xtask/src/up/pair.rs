//! A node and an edge in front of it, as two processes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::child::{Child, Ready};
use super::served;
use crate::build::Device;
use crate::ui::Step;
use crate::{exec, place};

/// A running request may finish: the edge is given this long to drain, and the node as long after it.
pub const DRAIN: Duration = Duration::from_secs(40);
/// The node reads and unpacks the model before it is ready.
const READY: Duration = Duration::from_secs(300);

/// What to start, and where.
pub struct Plan<'a> {
    pub model: &'a Path,
    pub device: Device,
    /// Where clients reach the edge. All other ports are the system's choice.
    pub listen: SocketAddr,
    /// Keys, configuration and logs.
    pub state: &'a Path,
}

/// Both processes, ready. Dropped, the edge goes first.
pub struct Pair {
    pub edge: Child,
    pub node: Child,
    pub at_edge: Ready,
    pub at_node: Ready,
    /// The name by which clients ask for the model.
    pub model: String,
}

impl Plan<'_> {
    /// The key of an earlier run if its record is still there, or a new one.
    pub fn key(&self) -> Result<String> {
        let (held, known) = (self.state.join("key"), self.keys());
        let id = |key: &str| key.strip_prefix("lk_").and_then(|rest| Some(rest.split_once('_')?.0.to_owned()));
        if let (Ok(key), Ok(records)) = (fs::read_to_string(&held), fs::read_to_string(&known))
            && id(key.trim()).is_some_and(|id| records.contains(&id))
        {
            return Ok(key.trim().to_owned());
        }
        fs::create_dir_all(self.state).with_context(|| format!("cannot create {}", self.state.display()))?;
        let mut create = Command::new(place::binary("littoral"));
        create.args(["key", "create", "--tenant", "default", "--user", "me", "--keys"]).arg(&known);
        let printed = exec::output(&mut create)?;
        let key = printed.split_whitespace().find(|word| word.starts_with("lk_"));
        let key = key.context("`littoral key create` printed no key")?;
        place::write_whole(&held, key.as_bytes(), 0o600)?;
        Ok(key.to_owned())
    }

    /// Starts the node, then the edge, and asks the edge what it serves. None when `interrupted` came first.
    pub fn start(&self, step: &Step, key: &str, interrupted: &dyn Fn() -> bool) -> Result<Option<Pair>> {
        step.say("the node reads the model");
        let mut node = Child::start("node", &mut self.node(), self.state)?;
        let Some(at_node) = wait_ready(&mut node, interrupted)? else { return Ok(None) };
        step.say("the edge opens its doors");
        let mut command = Command::new(place::binary("littoral"));
        command.arg("serve").arg("--config").arg(self.configure(&at_node)?);
        let mut edge = Child::start("edge", &mut command, self.state)?;
        let Some(at_edge) = wait_ready(&mut edge, interrupted)? else { return Ok(None) };
        let model = served::model(at_edge.get("http")?, key)?;
        Ok(Some(Pair { edge, node, at_edge, at_node, model }))
    }

    fn keys(&self) -> PathBuf {
        self.state.join("keys.json")
    }

    fn node(&self) -> Command {
        let mut command = Command::new(place::binary("littoral-node"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--device", self.device.name()]);
        command.arg("--model").arg(self.model);
        command
    }

    fn configure(&self, node: &Ready) -> Result<PathBuf> {
        let text = format!(
            "# Written anew at each start.\n\
             [edge]\nlisten = {}\nmetrics = \"127.0.0.1:0\"\n\n\
             [[node]]\naddress = {}\n\n\
             [guest]\ndir = {}\n\n\
             [keys]\nfile = {}\n\n\
             [store]\nurl = {}\n",
            toml_string(&self.listen.to_string()),
            toml_string(node.get("grpc")?),
            toml_string(&place::guests().to_string_lossy()),
            toml_string(&self.keys().to_string_lossy()),
            toml_string(&self.state.join("littoral.db").to_string_lossy()),
        );
        let path = self.state.join("edge.toml");
        place::write_whole(&path, text.as_bytes(), 0o644)?;
        Ok(path)
    }
}

impl Pair {
    /// Drains the edge, then the node: a stream that the edge still carries keeps its node.
    pub fn stop(mut self, step: &Step) {
        step.say("the edge finishes what it has begun");
        self.edge.stop(DRAIN);
        step.say("the node goes");
        self.node.stop(DRAIN);
    }

    /// An error once one of the two has ended by itself; the other is stopped.
    pub fn check(&mut self) -> Result<()> {
        let Self { edge, node, .. } = self;
        let (dead, other, status) = match (edge.died(), node.died()) {
            (Some(status), _) => (edge, node, status),
            (None, Some(status)) => (node, edge, status),
            (None, None) => return Ok(()),
        };
        other.stop(DRAIN);
        bail!(
            "the {} ended by itself ({status}), so the {} was stopped; its last lines:\n{}",
            dead.name,
            other.name,
            dead.last_words()
        )
    }
}

/// None when `interrupted` came first.
fn wait_ready(child: &mut Child, interrupted: &dyn Fn() -> bool) -> Result<Option<Ready>> {
    let started = Instant::now();
    loop {
        if let Some(ready) = child.ready(Duration::from_millis(50))? {
            return Ok(Some(ready));
        }
        if interrupted() {
            return Ok(None);
        }
        if started.elapsed() > READY {
            bail!("the {} was not ready after {} s\n{}", child.name, READY.as_secs(), child.last_words());
        }
    }
}

/// A basic string of TOML.
fn toml_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::toml_string;

    #[test]
    fn any_path_is_a_toml_string() {
        assert_eq!(toml_string("/a b/\"c\"\\\n"), r#""/a b/\"c\"\\\u000A""#);
    }
}
