//! A node as it is served, started for a measurement.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place;
use crate::up::child::{Child, Ready};

const READY: Duration = Duration::from_secs(300);

/// A process that computes on the CPU.
pub struct Node {
    pub process: Child,
    ready: Ready,
}

impl Node {
    /// Starts a node of the model with more arguments; its log is named after `log`.
    pub fn start(model: &Path, log: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_at("127.0.0.1:0", model, log, arguments)
    }

    /// The same at an address, where another may have been a moment ago.
    pub fn start_at(address: &str, model: &Path, log: &str, arguments: &[&str]) -> Result<Self> {
        let mut serve = Command::new(place::binary("littoral-node"));
        serve.args(["serve", "--listen", address, "--metrics", "127.0.0.1:0", "--device", "cpu"]);
        serve.args(arguments).arg("--model").arg(model);
        let dir = place::state().join("bench");
        std::fs::create_dir_all(&dir)?;
        let mut process = Child::start_logging("node", &mut serve, dir.join(format!("node-{log}.log")))?;
        let ready = process.await_ready(READY)?;
        Ok(Self { process, ready })
    }

    /// Address of its gRPC.
    pub fn grpc(&self) -> Result<&str> {
        self.ready.get("grpc")
    }

    /// What its metrics say now.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::at(self.ready.get("metrics")?)
    }

    /// Ends it without a word, as a machine that loses its power.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn stop(&mut self) {
        self.process.stop(Duration::from_secs(5));
    }
}

/// What the process at this address says of its metrics.
pub fn scrape(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("nobody serves metrics at {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Values by name and labels, as Prometheus writes them.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// What the process at this address says now.
    pub fn at(address: &str) -> Result<Self> {
        Ok(Self::of(&scrape(address)?))
    }

    pub fn of(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The value of a line; 0 of one that is not there.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The sum over all labels of a name; 0 of one that is not there.
    pub fn sum(&self, name: &str) -> f64 {
        let own = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0.iter().filter(|(line, _)| own(line)).map(|(_, value)| value).sum()
    }

    /// What was counted since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value - earlier.get(name))).collect())
    }
}

#[cfg(test)]
mod unit_tests {
    use super::Metrics;

    #[test]
    fn lines_are_read_with_their_labels_and_subtracted() {
        let page = "# TYPE a counter\na 2\n\nb_sum{part=\"head x\"} 1.5e-3\nbroken x\n";
        let metrics = Metrics::of(page);
        assert_eq!((metrics.get("a"), metrics.get("b_sum{part=\"head x\"}"), metrics.get("c")), (2.0, 1.5e-3, 0.0));
        let labelled = Metrics::of("a{x=\"1\"} 2\na{x=\"2\"} 3\nab 7");
        assert_eq!((labelled.sum("a"), labelled.sum("ab"), labelled.sum("b")), (5.0, 7.0, 0.0));
        assert_eq!(Metrics::of("a 5\nc 1").since(&metrics), Metrics::of("a 3\nc 1"));
    }
}
