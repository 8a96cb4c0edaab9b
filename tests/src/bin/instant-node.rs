//! `instant-node`: a node without a model as a process of its own, for measurements of what stands before it.

use std::{io::Write, net::SocketAddr, time::Duration};

use clap::Parser;
use littoral_tests::instant_node::{InstantNode, Script};

/// Answers every request with the same tokens, as fast as they are taken or at a pace.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What it calls itself.
    #[arg(long, default_value = "instant")]
    node: String,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 5)]
    tokens: u32,
    /// Between two tokens, microseconds.
    #[arg(long, default_value_t = 0)]
    interval_us: u64,
    /// The text of each token.
    #[arg(long, default_value = "token ")]
    text: String,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> std::io::Result<()> {
    let Options { listen, node, tokens, interval_us, text, threads } = Options::parse();
    let script = Script { tokens, text, interval: Duration::from_micros(interval_us), ..Script::default() };
    let node = InstantNode::start_at(listen, &node, script, threads);
    println!("ready grpc={}", node.address());
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}
