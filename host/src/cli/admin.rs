//! `littoral admin`: the token of the admin listener.

use clap::Subcommand;

use crate::{admin::session, cli::store::At};

#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Makes a new token for the admin listener and prints it, once; the one before is good no longer.
    Token {
        #[command(flatten)]
        at: At,
    },
}

impl Admin {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Token { at } = self;
        at.with(async |store| {
            println!("{}", session::new_token(store).await?);
            Ok(())
        })
    }
}
