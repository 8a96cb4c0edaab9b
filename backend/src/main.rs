//! `littoral-node`: serve a model over gRPC, generate from it at the terminal, or say what a model file holds.

mod cli;
mod commands;

use std::io::{self, Write};

use clap::Parser;

use cli::{Cli, Command};

fn main() {
    let code = run();
    let _ = io::stdout().flush();
    // SAFETY: the call ends the process and touches nothing of it. An orderly exit would take from under the threads that
    // still run, of kernels and of a GPU's driver, what their libraries tear down.
    unsafe { libc::_exit(code) }
}

/// Carries out the command; the process's exit code.
fn run() -> i32 {
    let cli = Cli::parse();
    cli.log_format.start();
    let result = match cli.command {
        Command::Serve(options) => commands::serve::run(options),
        Command::Generate(options) => commands::generate::run(options),
        Command::Inspect(options) => commands::inspect::run(options),
    };
    match result {
        Ok(()) => 0,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            1
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes in one line; a cause that the error has told already is not told again.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
}
