//! `littoral serve`: configuration -> build -> run -> drain.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{self, Config, Node},
    edge::{Edge, Running},
    telemetry::Log,
};

/// Flags win over the environment, and both over the file.
#[derive(Debug, Args)]
pub struct Serve {
    /// TOML file; everything in it has a default.
    #[arg(long, env = "LITTORAL_CONFIG")]
    config: Option<PathBuf>,
    /// Where clients connect; port 0 lets the system choose.
    #[arg(long, value_name = "IP:PORT", env = "LITTORAL_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where /metrics is served.
    #[arg(long, value_name = "IP:PORT", env = "LITTORAL_METRICS")]
    metrics: Option<SocketAddr>,
    /// gRPC address of an inference node, repeatable; replaces the nodes of the file.
    #[arg(long, value_name = "[NAME=]HOST:PORT", env = "LITTORAL_NODES", value_delimiter = ',')]
    node: Vec<String>,
    /// Folder of the guest components.
    #[arg(long, value_name = "DIR", env = "LITTORAL_GUESTS")]
    guests: Option<PathBuf>,
    /// File of the API keys.
    #[arg(long, value_name = "FILE", env = "LITTORAL_KEYS")]
    keys: Option<PathBuf>,
    /// The store of keys, revocations and budgets: a file, or the address of a Redis.
    #[arg(long, value_name = "URL", env = "LITTORAL_STORE")]
    store: Option<String>,
    /// Worker threads.
    #[arg(long, value_name = "N", env = "LITTORAL_WORKERS")]
    workers: Option<usize>,
}

impl Serve {
    pub fn run(self) -> anyhow::Result<()> {
        let log = Log::to_stderr()?;
        let edge = Edge::build(self.configuration()?)?;
        let running = edge.run()?;
        until_stopped(running, &log)
    }

    fn configuration(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => config::read(path).with_context(|| format!("the configuration {}", path.display()))?,
        };
        let edge = &mut config.edge;
        edge.listen = self.listen.unwrap_or(edge.listen);
        edge.metrics = self.metrics.unwrap_or(edge.metrics);
        edge.workers = self.workers.or(edge.workers);
        if !self.node.is_empty() {
            config.node = self.node.iter().map(|text| node(text)).collect();
        }
        config.guest.dir = self.guests.unwrap_or(config.guest.dir);
        config.keys.file = self.keys.unwrap_or(config.keys.file);
        config.store.url = self.store.unwrap_or(config.store.url);
        config.check()?;
        Ok(config)
    }
}

fn node(text: &str) -> Node {
    match text.split_once('=') {
        Some((name, address)) => Node::at(address).named(name),
        None => Node::at(text),
    }
}

/// Says that it is ready and serves until the first SIGINT or SIGTERM, then drains; the second one ends the process.
fn until_stopped(running: Running, log: &Log) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Read by programs that started us: the addresses with the ports the system chose.
        let mut ready = format!("ready http={} metrics={}", running.http, running.metrics);
        if let Some((address, token)) = &running.admin {
            // Shown this once; `littoral admin token` makes another.
            token.iter().for_each(|token| println!("admin token {token}"));
            ready.push_str(&format!(" admin={address}"));
        }
        println!("{ready}");
        io::stdout().flush()?;
        let mut stop = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        stop().await;
        tracing::info!("stopping: open answers may end; a second signal ends them");
        tokio::select! {
            () = running.drain() => Ok(()),
            () = stop() => {
                tracing::warn!("stopped at once");
                log.flush();
                std::process::exit(0)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn configured(line: &[&str]) -> anyhow::Result<Config> {
        Line::parse_from([&["serve"], line].concat()).serve.configuration()
    }

    #[test]
    fn flags_win_over_the_file() {
        let path = std::env::temp_dir().join(format!("littoral-serve-{}.toml", std::process::id()));
        std::fs::write(&path, "[edge]\nlisten = '127.0.0.1:1'\nworkers = 5\n[[node]]\naddress = 'a:1'\n").unwrap();
        let config = path.to_str().unwrap();
        let read = configured(&["--config", config, "--listen", "127.0.0.1:0", "--node", "b:2", "--node", "n=c:3"]);
        let read = read.unwrap();
        assert_eq!((read.edge.listen.port(), read.edge.workers), (0, Some(5)));
        let nodes: Vec<_> = read.node.iter().map(|n| (n.name(), &*n.address)).collect();
        assert_eq!(nodes, [("b:2", "b:2"), ("n", "c:3")]);
        assert!(configured(&["--node", "nowhere"]).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
