//! `littoral key`: API keys.

use std::path::PathBuf;

use clap::Subcommand;

use crate::knowledge::create_key;

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Makes a key and prints it, once: only a salted hash is stored. A running edge knows it within a second.
    Create {
        /// Whose key it is; tenants share neither cached answers nor KV.
        #[arg(long)]
        tenant: String,
        /// Who uses it, for the log.
        #[arg(long)]
        user: String,
        /// The file the record is added to.
        #[arg(long, default_value = "keys.json", env = "LITTORAL_KEYS")]
        keys: PathBuf,
    },
}

impl Key {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Create { tenant, user, keys } = self;
        println!("{}", create_key(&keys, &tenant, &user)?);
        Ok(())
    }
}
