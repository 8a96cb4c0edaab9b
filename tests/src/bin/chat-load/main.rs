//! `chat-load`: asks edges what many users ask, in conversations, in a crowd, again and again, and says how they were
//! answered. Everything random is drawn from `--seed`.

mod ask;
mod crowd;
mod decide;
mod mixed;
mod steady;
mod turns;
mod zipf;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde::Serialize;

use ask::Asker;

/// Prints one line of JSON. Times are seconds.
#[derive(Parser)]
struct Options {
    /// The edges, asked in turn.
    #[arg(long, value_name = "HOST:PORT", global = true, value_delimiter = ',')]
    to: Vec<SocketAddr>,
    /// API key.
    #[arg(long, global = true, default_value = "")]
    key: String,
    #[arg(long, global = true, default_value = "")]
    model: String,
    /// Another one makes other texts.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Conversations of several turns that begin with the same instructions
    Turns(turns::Turns),
    /// Short requests beside long ones
    Mixed(mixed::Mixed),
    /// Deterministic streams that must always say the same; prints `ready` when it knows what
    Steady(steady::Steady),
    /// One request of each of many sessions: where it went
    Places(crowd::Places),
    /// The same request so many times at once
    Identical(crowd::Identical),
    /// Questions of which few are asked often and many seldom
    Zipf(zipf::Zipf),
    /// How long the choice of a node takes, asking nobody
    Decide,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asker = || {
        let clients = Asker::new(&options.to, &options.key, &options.model);
        clients.context("--to, --key and --model are needed")
    };
    let seed = options.seed;
    match &options.what {
        What::Turns(turns) => print(&runtime.block_on(turns.run(&asker()?, seed))),
        What::Mixed(mixed) => print(&runtime.block_on(mixed.run(&asker()?, seed))?),
        What::Steady(steady) => print(&runtime.block_on(steady.run(&asker()?, seed))?),
        What::Places(places) => print(&runtime.block_on(places.run(&asker()?))?),
        What::Identical(identical) => print(&runtime.block_on(identical.run(&asker()?, seed))),
        What::Zipf(zipf) => print(&runtime.block_on(zipf.run(&asker()?, seed))),
        What::Decide => print(&decide::run()),
    }
}

fn print(report: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
