//! The flags that name the store, for the commands that write to it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::{config, vault};

#[derive(Debug, Args)]
pub struct At {
    /// The edges' configuration, for its section [store].
    #[arg(long, value_name = "FILE", env = "LITTORAL_CONFIG")]
    config: Option<PathBuf>,
    /// The store, in place of the configuration's: a file, or the address of a Redis, as in store.url.
    #[arg(long, value_name = "URL", env = STORE)]
    store: Option<String>,
}

const STORE: &str = "LITTORAL_STORE";

impl At {
    /// Whether the command line itself names a store, not the environment it runs in.
    pub fn names_a_store(&self) -> bool {
        self.store.is_some() && self.store != std::env::var(STORE).ok()
    }

    /// What the flags amount to: the configuration with the store that is named.
    pub fn read(&self) -> anyhow::Result<config::Config> {
        let mut config = match &self.config {
            None => config::Config::default(),
            Some(path) => config::read(path).with_context(|| format!("the configuration {}", path.display()))?,
        };
        if let Some(url) = &self.store {
            config.store.url = url.clone();
            if !config.store.is_tls() {
                config.store.ca_file = None;
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Opens the store for one command.
    pub fn with<T>(self, work: impl AsyncFnOnce(&dyn vault::Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let store = vault::open(&self.read()?.store)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work(&*store))
    }
}
