//! The command line.

mod admin;
mod ask;
mod audit;
mod cache;
mod chat;
mod key;
mod models;
mod node;
mod serve;
mod store;
mod token;
mod user;

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
    /// Manages the answers that edges keep.
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Answers one prompt with a model, without a server: starts littoral-node with these arguments.
    #[command(disable_help_flag = true)]
    Generate(node::Arguments),
    /// Says what a model holds and what it will need: starts littoral-node with these arguments.
    #[command(disable_help_flag = true)]
    Inspect(node::Arguments),
    /// Manages API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Mints and revokes access tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Manages second factors.
    #[command(subcommand)]
    User(user::User),
    /// Manages the admin listener.
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Checks and searches the audit log.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Prints completions for a shell: `source <(littoral completions bash)`.
    Completions { shell: Shell },
}

impl Cli {
    /// Does what was asked, to its end.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Ask(ask) => ask.run(),
            Command::Cache(cache) => cache.run(),
            Command::Chat(chat) => chat.run(),
            Command::Key(key) => key.run(),
            Command::Token(token) => token.run(),
            Command::User(user) => user.run(),
            Command::Admin(admin) => admin.run(),
            Command::Audit(audit) => audit.run(),
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
