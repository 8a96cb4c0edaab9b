//! `littoral`: the edge host.

use std::process::ExitCode;

use clap::Parser;

/// Requests are freed on other threads than they were made on, which makes glibc's arenas wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match littoral::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("littoral: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line; a cause that the error has told already is not told again.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
}
