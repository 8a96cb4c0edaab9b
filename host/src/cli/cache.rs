//! `littoral cache`: what edges keep for each other.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use clap::{ArgGroup, Subcommand, builder::NonEmptyStringValueParser};

use crate::{
    config,
    plan::Purge as Which,
    store::{Link, Server, publish},
};

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Has every edge forget the answers that fit all of what is named. Edges hear of it through Redis, within a second;
    /// one that cannot hear lets them go with their time to live.
    #[command(group = ArgGroup::new("which").required(true).multiple(true).args(["model", "tenant", "tag", "tag_prefix", "all"]))]
    Purge {
        /// Answers of this model; another name for it is known where --config has the alias.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        model: Option<String>,
        /// Answers to this tenant.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        tenant: Option<String>,
        /// Answers with this tag (requests name theirs in `x-littoral-cache-tags`).
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        tag: Option<String>,
        /// Answers with a tag that begins so.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        tag_prefix: Option<String>,
        /// Every answer.
        #[arg(long, conflicts_with_all = ["model", "tenant", "tag", "tag_prefix"])]
        all: bool,
        /// The edges' configuration, for its section [store].
        #[arg(long, env = "LITTORAL_CONFIG")]
        config: Option<PathBuf>,
        /// The Redis that edges share answers in, instead of the configuration's.
        #[arg(long, value_name = "URL", env = "LITTORAL_STORE")]
        store: Option<String>,
    },
}

impl Cache {
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Purge { model, tenant, tag, tag_prefix, all: _, config, store } = self;
        let mut config = match &config {
            None => config::Config::default(),
            Some(path) => config::read(path).with_context(|| format!("the configuration {}", path.display()))?,
        };
        if let Some(url) = store {
            config.store.answers = Some(url);
        }
        config.check()?;
        // Answers are kept under the model's own name.
        let model = model.map(|name| config.fleet.aliases.remove(&name).unwrap_or(name));
        let mut settings = config.store;
        // A person waits longer than a request.
        settings.answers_timeout_ms = settings.answers_timeout_ms.max(5_000);
        let Some(address) = settings.shares() else {
            bail!(
                "no Redis is named: give --store URL, or --config whose section [store] names one; an edge without one keeps its answers to itself until it is restarted"
            )
        };
        let link = Link::new(Arc::new(Server::new(address, &settings)?));
        let purge = Which { model, tenant, tag, tag_prefix };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let number = runtime.block_on(publish(&link, &purge)).context("the purge was not published")?;
        println!("purge {number}");
        Ok(())
    }
}
