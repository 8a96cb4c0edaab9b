//! The developer's commands: `cargo xtask up | build | guests | toolchain | model | test | tidy | bench`.
//!
//! Each command does its own set-up, is quick the second time, and leaves nothing broken when interrupted: what is
//! fetched or unpacked grows in a temporary folder and is renamed when it is whole.

mod bench;
mod build;
mod compose;
mod exec;
mod guests;
mod model;
mod place;
mod test;
mod tidy;
mod tokenizers;
mod toolchain;
mod ui;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use build::Device;
use ui::Ui;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Littoral's developer commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set everything up and run it: a node and an edge with the default model, one key, one curl line to paste
    Up(up::Options),
    /// Build the two binaries, littoral and littoral-node
    Build {
        /// What the node can compute on besides the CPU
        #[arg(long, value_enum, default_value_t = Device::Cpu)]
        device: Device,
    },
    /// Build the guest components into target/guests
    Guests {
        /// Where to take the standard library for wasm32-wasip2 from, instead of the first place that works
        #[arg(long, value_enum)]
        from: Option<toolchain::Source>,
    },
    /// Make sure of a Rust standard library for wasm32-wasip2
    Toolchain {
        /// Where to take it from, instead of the first place that works
        #[arg(long, value_enum)]
        from: Option<toolchain::Source>,
    },
    /// Fetch the default model into the user's cache folder
    Model {
        /// Print the file's path alone, for use in scripts
        #[arg(long)]
        path: bool,
        /// Fetch the tokenizers that tests compare with as well
        #[arg(long)]
        tokenizers: bool,
    },
    /// Everything that must hold: format, house rules, guests, build, clippy, tests with the real model
    Test(test::Options),
    /// Check the house rules that the compiler does not
    Tidy,
    /// Measure what the edge or the engine costs on this machine
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let ui = Ui::new();
    match command {
        Command::Up(options) => return up::up(&ui, options),
        Command::Build { device } => build::binaries(&ui, device)?,
        Command::Guests { from } => guests::build(&ui, &toolchain::ensure(&ui, from)?)?,
        Command::Toolchain { from } => drop(toolchain::ensure(&ui, from)?),
        Command::Model { path, tokenizers } => {
            let file = model::ensure(&ui)?;
            if tokenizers {
                tokenizers::ensure(&ui)?;
            }
            if path {
                println!("{}", file.display());
            }
        }
        Command::Test(options) => test::test(&ui, &options)?,
        Command::Tidy => tidy::check(&ui)?,
        Command::Bench(bench) => bench::bench(&ui, bench)?,
    }
    Ok(ExitCode::SUCCESS)
}
