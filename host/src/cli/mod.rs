//! The command line.

mod ask;
mod chat;
mod key;
mod models;
mod node;
mod serve;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// The edge of Littoral: an OpenAI-compatible API, decided by WebAssembly guests, answered by a pool of inference nodes.
#[derive(Debug, Parser)]
#[command(name = "littoral", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the API.
    Serve(serve::Serve),
    /// Asks a server one question.
    Ask(ask::Ask),
    /// Talks with a model in the terminal.
    Chat(chat::Chat),
    /// Manages model files: what is here, pull, remove.
    #[command(subcommand)]
    Models(models::Models),
    /// Answers one prompt with a model, without a server: starts littoral-node with these arguments.
    #[command(disable_help_flag = true)]
    Generate(node::Arguments),
    /// Says what a model holds and what it will need: starts littoral-node with these arguments.
    #[command(disable_help_flag = true)]
    Inspect(node::Arguments),
    /// Manages API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Prints completions for a shell: `source <(littoral completions bash)`.
    Completions { shell: Shell },
}

impl Cli {
    /// Does what was asked, to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Ask(ask) => ask.run(),
            Command::Chat(chat) => chat.run(),
            Command::Key(key) => key.run(),
            Command::Models(models) => models.run(),
            Command::Generate(arguments) => node::run("generate", &arguments),
            Command::Inspect(arguments) => node::run("inspect", &arguments),
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "littoral", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
