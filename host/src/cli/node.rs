//! `littoral generate` and `littoral inspect`: the node's commands. The engine is in another program, which takes this
//! one's place and with it the terminal, the signals and the exit status.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use clap::Args;

const NODE: &str = "littoral-node";

/// What the node's command is given, word for word.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The arguments of littoral-node's command of the same name; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Becomes `littoral-node COMMAND ARGUMENTS`. Returns only if that cannot be started.
pub fn run(command: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program cannot tell where it is")?;
    let beside = own.with_file_name(NODE);
    let program = if beside.is_file() { beside } else { PathBuf::from(NODE) };
    let error = Command::new(&program).arg(command).args(&arguments.arguments).exec();
    if error.kind() == io::ErrorKind::NotFound {
        let folder = own.parent().unwrap_or(Path::new("/"));
        bail!(
            "{NODE}, which computes, is neither in {} nor on PATH: put it there, or build both programs with `cargo xtask build`",
            folder.display()
        );
    }
    Err(error).with_context(|| format!("{} cannot be started", program.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn every_word_is_passed_on() {
        let words = ["--model", "a b", "--prompt", "-", "--help", "--", "--json", "-x"];
        let line = Line::parse_from(["generate"].iter().chain(&words));
        assert_eq!(line.arguments.arguments, words);
    }
}
