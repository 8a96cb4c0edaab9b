//! `littoral key`: API keys.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use littoral_core::{
    cache::{Policy, Rules},
    calendar,
    key::KeyRecord,
    limits::{Budget, Limits},
};

use crate::{
    admin::keys::{self, Listed, NewKey},
    cli::store::At,
    knowledge::create_key,
    plan::now_ms,
};

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Makes a key and prints it, once: only a salted hash is stored. A running edge knows it within a second.
    Create(Box<Create>),
    /// Shows every key of the store, but never a secret.
    List {
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
        /// The records as they are stored, salted hashes included: what `keys.file` and other hosts read.
        #[arg(long, conflicts_with = "json")]
        records: bool,
        #[command(flatten)]
        at: At,
    },
    /// Removes a key. Every edge refuses it within a second, also one whose key file holds it too.
    Revoke {
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Gives a key a new secret and prints the key, once.
    Rotate {
        id: String,
        /// How long the old secret is good beside it: 90s, 15m, 12h, 30d.
        #[arg(long, value_parser = keys::duration_ms, default_value = "0s")]
        grace: u64,
        #[command(flatten)]
        at: At,
    },
    /// Takes the records of a key file into the store; those known already stay as they are, and those revoked stay so.
    Import {
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

/// The new key's owner and what it may do.
#[derive(Debug, Args)]
pub struct Create {
    /// Whose key it is; tenants share neither cached answers nor KV.
    #[arg(long)]
    tenant: String,
    /// Who uses it, for limits and the log.
    #[arg(long)]
    user: String,
    /// A model it may use, repeatable; by default every one.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// A network its requests may come from, repeatable; by default any.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<IpNet>,
    /// A token filter its answers run through, repeatable.
    #[arg(long = "filter", value_name = "NAME")]
    filters: Vec<String>,
    /// Requests a minute.
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens a minute, prompt and completion.
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Requests under way at once.
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,
    /// Micro-units a period: 5000000/day, /month (the default) or /total.
    #[arg(long, value_name = "N/PERIOD", value_parser = keys::budget)]
    budget: Option<Budget>,
    /// How long it is good: 90s, 15m, 12h, 30d. By default for ever.
    #[arg(long, value_name = "DURATION", value_parser = keys::duration_ms)]
    expires_in: Option<u64>,
    /// In place of the configuration's cache.policy: deterministic, always, header or off.
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    cache: Option<Policy>,
    /// In place of the configuration's cache.ttl_ms: 90s, 15m, 12h.
    #[arg(long, value_name = "DURATION", value_parser = keys::duration_ms)]
    cache_ttl: Option<u64>,
    /// A JSON file the record is added to, in place of the store.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    at: At,
}

fn policy(text: &str) -> Result<Policy, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("'{text}' is none of deterministic, always, header, off"))
}

impl Key {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(),
            Self::List { json, records, at } => at.with(async |store| {
                let (found, damaged) = keys::list(store).await?;
                let mut out = io::stdout().lock();
                if records {
                    writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
                } else if json {
                    let listed: Vec<_> = found.into_iter().map(Listed::from).collect();
                    writeln!(out, "{}", serde_json::to_string_pretty(&listed)?)?;
                } else {
                    found.iter().try_for_each(|record| writeln!(out, "{}", line(record)))?;
                }
                anyhow::ensure!(
                    damaged.is_empty(),
                    "these records cannot be read, and their keys open nothing: {}; `littoral key revoke` removes them",
                    damaged.join(", ")
                );
                Ok(())
            }),
            Self::Revoke { id, at } => at.with(async |store| Ok(keys::revoke(store, &id).await?)),
            Self::Rotate { id, grace, at } => at.with(async |store| {
                println!("{}", keys::rotate(store, &id, grace).await?);
                Ok(())
            }),
            Self::Import { file, at } => {
                let named = || format!("the key file {}", file.display());
                let records: Vec<KeyRecord> =
                    serde_json::from_slice(&fs::read(&file).with_context(named)?).with_context(named)?;
                let all = records.len();
                at.with(async |store| {
                    let keys::Imported { new, revoked } = keys::import(store, records).await?;
                    println!("{new} of {all} keys imported; the others were known");
                    if !revoked.is_empty() {
                        println!("revoked here, and so not imported: {}", revoked.join(", "));
                    }
                    Ok(())
                })
            }
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let Self { tenant, user, models, networks, filters, budget, cache, keys, at, .. } = self;
        let limits = Limits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrency: self.concurrency,
            budget,
        };
        let rules = Rules { policy: cache, ttl_ms: self.cache_ttl };
        let cache = (rules != Rules::default()).then_some(rules);
        let expires_at_ms = self.expires_in.map(|ms| now_ms().saturating_add(ms));
        let new = NewKey { tenant, user, models, networks, filters, limits, cache, expires_at_ms };
        if let Some(file) = keys {
            anyhow::ensure!(!at.names_a_store(), "--keys and --store name two places; the key goes to one");
            println!("{}", create_key(&file, new)?);
            return Ok(());
        }
        at.with(async |store| {
            println!("{}", keys::create(store, new).await?.1);
            Ok(())
        })
    }
}

/// `ID  TENANT/USER  what is said of it`
fn line(record: &KeyRecord) -> String {
    let mut line = format!("{}  {}/{}", record.id, record.tenant, record.user);
    let mut add = |name: &str, value: String| line.push_str(&format!("  {name}={value}"));
    let Limits { requests_per_minute, tokens_per_minute, concurrency, budget } = &record.limits;
    let numbers = [("rpm", requests_per_minute), ("tpm", tokens_per_minute), ("concurrency", concurrency)];
    numbers.iter().for_each(|(name, value)| value.iter().for_each(|n| add(name, n.to_string())));
    if let Some(Budget { amount, period }) = budget {
        add("budget", format!("{amount}/{period:?}").to_lowercase());
    }
    for (name, list) in [("models", &record.models), ("filters", &record.filters)] {
        if !list.is_empty() {
            add(name, list.join(","));
        }
    }
    if !record.networks.is_empty() {
        add("networks", record.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    let Rules { policy, ttl_ms } = record.cache.unwrap_or_default();
    if let Some(policy) = policy {
        add("cache", format!("{policy:?}").to_lowercase());
    }
    if let Some(ms) = ttl_ms {
        add("cache-ttl", format!("{ms}ms"));
    }
    if let Some(end) = record.expires_at_ms {
        add(if end <= now_ms() { "expired" } else { "expires" }, calendar::rfc3339(end));
    }
    line
}
