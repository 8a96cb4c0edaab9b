//! The flag that names the store, for the commands that write to it.

use clap::Args;

use crate::{config, vault};

#[derive(Debug, Args)]
pub struct At {
    /// The store: a file, or the address of a Redis, as in store.url.
    #[arg(long, value_name = "URL", default_value = "littoral.db", env = "LITTORAL_STORE")]
    pub store: String,
}

impl At {
    /// Opens the store for one command.
    pub fn with<T>(self, work: impl AsyncFnOnce(&dyn vault::Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut config = config::Config::default();
        config.store.url = self.store;
        config.check()?;
        let store = vault::open(&config.store)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work(&*store))
    }
}
