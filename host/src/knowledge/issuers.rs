//! The verification keys of token issuers: from a file that may change, from a URL that is asked again, or our own.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use littoral_core::token::{
    self, Issuer, Trust,
    jwks::{self, Key},
};
use serde::Serialize;

use crate::{
    config::{Auth, Jwks},
    plan::now_ms,
};

/// A set of keys is fetched again after this time.
const REFRESH_MS: u64 = 5 * 60_000;
/// A key that is not known has its issuer asked at most so often.
const UNKNOWN_EVERY_MS: u64 = 10_000;
/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub struct Issuers {
    sources: Vec<Source>,
}

struct Source {
    rules: Issuer,
    /// JSON of [`Trust`] without a key.
    trust: Vec<u8>,
    from: Jwks,
    /// By their names as facts.
    keys: ArcSwap<HashMap<String, Stored>>,
    /// When the URL was last asked, Unix milliseconds.
    asked_ms: AtomicU64,
    /// Which state of the file is in memory: inode, size, modification time.
    seen: Mutex<Option<(u64, u64, i64, i64)>>,
    /// How often other keys were read than those known before.
    epoch: AtomicU64,
    /// What was last said of keys that could not be read.
    told: Mutex<String>,
}

/// A verification key as guests read it.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    /// JSON of [`Key`].
    alone: Vec<u8>,
    /// JSON of [`Trust`].
    trust: Vec<u8>,
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    Key(Vec<u8>),
    /// The issuer has no such key.
    Absent,
    /// The issuer may be asked.
    Ask,
}

impl Issuers {
    /// Reads files, which must be good, and asks URLs, which need not answer yet. `own` are the rules and the key set
    /// of this installation.
    pub fn load(auth: &Auth, own: Option<(Issuer, Vec<u8>)>) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for (i, issuer) in auth.issuer.iter().enumerate() {
            let source = Source::new(issuer.rules.clone(), issuer.jwks.clone());
            match source.refresh() {
                Err(error) if matches!(source.from, Jwks::File(_)) => {
                    return Err(error.context(format!("auth.issuer[{i}].jwks")));
                }
                Err(error) => tracing::warn!(issuer = source.rules.issuer, error = format!("{error:#}"), "no keys yet"),
                Ok(()) if source.keys.load().is_empty() && matches!(source.from, Jwks::File(_)) => {
                    anyhow::bail!("auth.issuer[{i}].jwks: the key set holds no signature key for ES256, EdDSA or RS256")
                }
                Ok(()) => {}
            }
            sources.push(source);
        }
        if let Some((rules, set)) = own {
            let source = Source::new(rules, Jwks::File(PathBuf::new()));
            source.take(&set)?;
            *source.seen() = Some((0, 0, 0, 0));
            sources.push(source);
        }
        Ok(Self { sources })
    }

    /// How often keys have changed.
    pub fn epoch(&self) -> u64 {
        self.sources.iter().map(|source| source.epoch.load(Relaxed)).sum()
    }

    /// What is known of the key that a fact names.
    pub fn get(&self, name: &str) -> Known {
        let Some(source) = self.source(name) else { return Known::Absent };
        match source.keys.load().get(name) {
            Some(key) => Known::Key(key.alone.clone()),
            None if source.may_ask(UNKNOWN_EVERY_MS) => Known::Ask,
            None => Known::Absent,
        }
    }

    /// JSON of the [`Trust`] in the issuer of a key that a fact names; none for one whose tokens are not taken.
    pub fn trust(&self, name: &str) -> Option<Vec<u8>> {
        let source = self.source(name)?;
        Some(source.keys.load().get(name).map_or_else(|| source.trust.clone(), |key| key.trust.clone()))
    }

    /// Asks the issuer of a key that is not known. Blocks.
    pub fn learn(&self, name: &str) {
        if let Some(source) = self.source(name).filter(|source| source.may_ask(UNKNOWN_EVERY_MS)) {
            source.refresh_or_warn();
        }
    }

    /// Reads changed files and asks URLs whose time has come. Blocks.
    pub fn refresh(&self) {
        for source in &self.sources {
            if matches!(source.from, Jwks::File(_)) || source.may_ask(REFRESH_MS) {
                source.refresh_or_warn();
            }
        }
    }

    fn source(&self, name: &str) -> Option<&Source> {
        let (issuer, _) = name.split_once('\n')?;
        self.sources.iter().find(|source| source.rules.issuer == issuer)
    }
}

impl Source {
    fn new(rules: Issuer, from: Jwks) -> Self {
        Self {
            trust: json(&Trust { rules: rules.clone(), key: None }),
            rules,
            from,
            keys: ArcSwap::default(),
            asked_ms: AtomicU64::new(0),
            seen: Mutex::default(),
            epoch: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<(u64, u64, i64, i64)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_ask(&self, every_ms: u64) -> bool {
        let due = self.asked_ms.load(Relaxed).saturating_add(every_ms) <= now_ms();
        matches!(self.from, Jwks::Url(_)) && due
    }

    fn refresh_or_warn(&self) {
        let error = self.refresh().err().map(|error| format!("{error:#}")).unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is gone is looked for four times a second.
        if !error.is_empty() && *told != error {
            tracing::warn!(issuer = self.rules.issuer, error, "keys known before stay");
        }
        *told = error;
    }

    fn refresh(&self) -> anyhow::Result<()> {
        match &self.from {
            Jwks::File(path) if path.as_os_str().is_empty() => Ok(()),
            Jwks::File(path) => {
                let named = || format!("the key set {}", path.display());
                let stamp = stamp(path).with_context(named)?;
                // Once for each state of the file, also when it is malformed.
                if self.seen().replace(stamp) == Some(stamp) {
                    return Ok(());
                }
                self.take(&fs::read(path).with_context(named)?).with_context(named)
            }
            Jwks::Url(url) => {
                self.asked_ms.store(now_ms(), Relaxed);
                self.take(&fetch(url).with_context(|| format!("the key set {url}"))?)
            }
        }
    }

    fn take(&self, set: &[u8]) -> anyhow::Result<()> {
        let keys = jwks::parse(set)?;
        let stored = |key: &Key| Stored {
            alone: json(key),
            trust: json(&Trust { rules: self.rules.clone(), key: Some(key.clone()) }),
        };
        let named = keys.iter().map(|key| (token::key_of(&self.rules.issuer, &key.kid), stored(key)));
        let named: HashMap<_, _> = named.collect();
        if **self.keys.load() != named {
            self.keys.store(Arc::new(named));
            self.epoch.fetch_add(1, Relaxed);
        }
        if keys.is_empty() {
            // That is an answer: what an issuer has withdrawn opens nothing any more.
            tracing::warn!(
                issuer = self.rules.issuer,
                "the issuer has no key left that can be used; its tokens are refused"
            );
        } else {
            tracing::info!(issuer = self.rules.issuer, keys = keys.len(), "verification keys read");
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers always serialise")
}

fn stamp(path: &Path) -> io::Result<(u64, u64, i64, i64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

fn fetch(url: &str) -> anyhow::Result<Vec<u8>> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).max_redirects(0).build().into();
    let mut response = agent.get(url).call()?;
    anyhow::ensure!(response.status().is_success(), "it answered {}", response.status());
    Ok(response.body_mut().with_config().limit(jwks::MAX_BYTES as u64 + 1).read_to_vec()?)
}
