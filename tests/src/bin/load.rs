//! `load`: asks a server for chat completions as fast as it answers, at a rate, or for streams that stay open.

use std::{io::Write, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use littoral_tests::load::Load;

/// Prints one line of JSON. With --hold, prints `ready open=N` once every connection has a running stream.
#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: SocketAddr,
    /// API key.
    #[arg(long)]
    key: Option<String>,
    #[arg(long, default_value = littoral_tests::instant_node::MODEL)]
    model: String,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Requests a second: an open loop, its latencies counted from the intended times [default: a closed loop].
    #[arg(long)]
    rate: Option<f64>,
    /// Ask for server-sent events.
    #[arg(long)]
    stream: bool,
    /// Open a stream on each connection and keep it.
    #[arg(long, conflicts_with = "rate")]
    hold: bool,
    /// Length of the message, bytes.
    #[arg(long, default_value_t = 400)]
    message: usize,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let load = Load {
        address: options.to,
        key: options.key,
        model: options.model,
        stream: options.stream || options.hold,
        message: options.message,
        connections: options.connections,
        time: Duration::from_secs_f64(options.seconds),
        rate: options.rate,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.hold {
        let opened = || {
            println!("ready open={}", load.connections);
            let _ = std::io::stdout().flush();
        };
        let ended = runtime.block_on(load.hold(opened))?;
        anyhow::ensure!(ended == 0, "{ended} of {} streams ended early", load.connections);
    } else {
        println!("{}", serde_json::to_string(&runtime.block_on(load.run())?)?);
    }
    Ok(())
}
