//! The sections that say who may enter, and how often: `store`, `tenant`, `price`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use littoral_core::{
    limits::{Budget, Limits, Price, TenantPolicy},
    step_up::{StepUp, When},
};
use serde::Deserialize;

use super::{Config, ConfigError, known as fields, read::section};
use crate::store::{Address, shown};

/// Where keys, revocations and budgets are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// A file of this machine; or `redis://HOST:PORT`, `redis-cluster://HOST:PORT,HOST:PORT`, with `rediss` for TLS.
    pub url: String,
    /// Whose certificates are believed where `url` or `answers` is TLS, PEM; by default those that the system names.
    pub ca_file: Option<PathBuf>,
    /// Replicas that must acknowledge an administrative write: by default 1 in a cluster, else 0.
    pub min_replicas: Option<u32>,
    /// How long a request waits for the store, milliseconds.
    pub timeout_ms: u64,
    /// What limits do when the store is lost.
    pub on_loss: OnLoss,
    /// Where edges share answers and generations: the address of a Redis; by default the store's own, if it is one.
    /// Empty: every edge keeps its answers to itself.
    pub answers: Option<String>,
    /// How long a command about answers may take, milliseconds.
    pub answers_timeout_ms: u64,
    /// How long the place of the answers is left alone after three failures in a row, milliseconds; each time after
    /// doubles it.
    pub breaker_ms: u64,
}

/// See [`crate::vault::Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// Each edge goes on with its share of what was left.
    #[default]
    Share,
    /// Requests with limits are answered 503.
    Deny,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "littoral.db".into(),
            ca_file: None,
            min_replicas: None,
            timeout_ms: 250,
            on_loss: OnLoss::default(),
            answers: None,
            answers_timeout_ms: 30,
            breaker_ms: 1_000,
        }
    }
}

impl Store {
    /// Where edges share answers; none: nowhere.
    pub fn shares(&self) -> Option<Address> {
        Address::of(self.answers.as_deref().unwrap_or(&self.url))
    }

    /// Whether `url` or `answers` is reached through TLS.
    pub fn is_tls(&self) -> bool {
        [Address::of(&self.url), self.shares()].iter().flatten().any(Address::is_tls)
    }
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Its folder; none: no audit log is written.
    pub dir: Option<PathBuf>,
    /// The key that seals it, made when it is not there; by default beside the folder, which it should not be for long.
    pub key: Option<PathBuf>,
    /// A second folder, on another disk, that follows the log.
    pub copy_to: Option<PathBuf>,
    /// A receiver of syslog over TLS that the log is sent to.
    pub syslog: Option<Syslog>,
    /// Whether answers wait until their line is on disk.
    pub strict: bool,
    /// What happens to requests while no line can be written.
    pub on_full: OnFull,
    /// A file that has this size is followed by the next, bytes.
    pub rotate_bytes: u64,
    /// Files are kept so long.
    pub keep_days: u64,
}

/// A receiver of syslog (RFC 5424) over TLS (RFC 5425).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
    pub address: String,
    /// Whose certificates are believed, PEM.
    pub ca_file: PathBuf,
    /// The name in the receiver's certificate; by default the host of the address.
    #[serde(default)]
    pub server_name: Option<String>,
    /// This edge's own certificate and its key, PEM, where the receiver asks for one.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
}

impl Syslog {
    /// The port of RFC 5425.
    const PORT: u16 = 6514;

    /// Host and port.
    fn parts(&self) -> (&str, Option<&str>) {
        match self.address.rsplit_once(':') {
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, Some(port)),
            _ => (&self.address, None),
        }
    }

    /// The name that the receiver's certificate must hold.
    pub fn name(&self) -> &str {
        self.server_name.as_deref().unwrap_or_else(|| self.parts().0.trim_matches(['[', ']']))
    }

    /// The address, with the default port where it has none.
    pub fn with_port(&self) -> String {
        match self.parts() {
            (_, Some(_)) => self.address.clone(),
            (host, None) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{}", Self::PORT),
            (host, None) => format!("{host}:{}", Self::PORT),
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let (host, port) = self.parts();
        if host.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err("address must be HOST or HOST:PORT");
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Err("certificate_file and key_file belong together");
        }
        Ok(())
    }
}

/// See [`Audit::on_full`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// They are answered 503.
    #[default]
    Deny,
    /// They are answered, and their lines are lost.
    Continue,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            dir: None,
            key: None,
            copy_to: None,
            syslog: None,
            strict: false,
            on_full: OnFull::default(),
            rotate_bytes: 64 << 20,
            keep_days: 180,
        }
    }
}

impl Audit {
    /// The key at fault, and how: a log that is not written is neither copied nor sent, and answers wait for nothing.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let without = [
            ("key", self.key.is_some()),
            ("copy_to", self.copy_to.is_some()),
            ("syslog", self.syslog.is_some()),
            ("strict", self.strict),
        ];
        match (&self.dir, &self.copy_to) {
            (None, _) => match without.into_iter().find(|(_, is_set)| *is_set) {
                Some((key, _)) => Err((key, "needs audit.dir: without it no audit log is written")),
                None => Ok(()),
            },
            (Some(dir), Some(copy)) if resolved(dir) == resolved(copy) => {
                Err(("copy_to", "is audit.dir itself; name a folder on another disk"))
            }
            _ if self.keep_days == 0 => Err(("keep_days", "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// Where the key of a log in `dir` is.
    pub fn key_file(&self, dir: &Path) -> PathBuf {
        self.key.clone().unwrap_or_else(|| crate::audit::default_key(dir))
    }
}

/// The folder a path leads to, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

/// The admin listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where administrators connect, on this machine; none: nowhere. Port 0 lets the system choose.
    pub listen: Option<SocketAddr>,
}

/// Refuses unknown keys.
pub(super) fn known(file: &toml::Table) -> Result<(), ConfigError> {
    section::<Store>("store", file)?;
    section::<Audit>("audit", file)?;
    section::<Admin>("admin", file)?;
    if let Some(syslog) = file.get("audit").and_then(|audit| audit.get("syslog")).and_then(toml::Value::as_table) {
        fields::check::<Syslog>("audit.syslog.", syslog)?;
    }
    for (name, policy) in tables(file, "tenant") {
        let prefix = format!("tenant.{name}.");
        fields::check::<TenantPolicy>(&prefix, policy)?;
        if let Some(step_up) = policy.get("step_up").and_then(toml::Value::as_table) {
            fields::check::<StepUp>(&format!("{prefix}step_up."), step_up)?;
        }
        for part in ["limits", "user_limits"] {
            let Some(limits) = policy.get(part).and_then(toml::Value::as_table) else { continue };
            fields::check::<Limits>(&format!("{prefix}{part}."), limits)?;
            if let Some(budget) = limits.get("budget").and_then(toml::Value::as_table) {
                fields::check::<Budget>(&format!("{prefix}{part}.budget."), budget)?;
            }
        }
    }
    tables(file, "price").try_for_each(|(model, price)| fields::check::<Price>(&format!("price.{model}."), price))
}

/// The tables `[name.X]`.
fn tables<'a>(file: &'a toml::Table, name: &str) -> impl Iterator<Item = (&'a String, &'a toml::Table)> {
    let all = file.get(name).and_then(toml::Value::as_table).into_iter().flatten();
    all.filter_map(|(name, value)| Some((name, value.as_table()?)))
}

/// Refuses values that cannot work.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key: String, message: String| Err(ConfigError::Invalid { key, message });
    let url = &config.store.url;
    let redis = "redis://, rediss://, redis-cluster:// or rediss-cluster://";
    if url.is_empty() || (url.contains("://") && Address::of(url).is_none()) {
        return refuse("store.url".into(), format!("'{}' is neither a file nor {redis}", shown(url)));
    }
    let answers = config.store.answers.as_ref().filter(|url| !url.is_empty());
    if let Some(url) = answers.filter(|url| Address::of(url).is_none()) {
        return refuse("store.answers".into(), format!("'{}' is not {redis}", shown(url)));
    }
    for (key, address) in [("store.url", Address::of(url)), ("store.answers", config.store.shares())] {
        // The URL may hold a password: it is not quoted.
        if let Some(Err(error)) = address.map(|address| address.check()) {
            return refuse(key.into(), format!("is no address of a Redis: {}", error.category()));
        }
    }
    if config.store.ca_file.is_some() && !config.store.is_tls() {
        let message = "is of no use: neither store.url nor store.answers begins with rediss";
        return refuse("store.ca_file".into(), message.into());
    }
    let Store { timeout_ms, answers_timeout_ms, breaker_ms, .. } = config.store;
    for (key, value) in [("timeout", timeout_ms), ("answers_timeout", answers_timeout_ms), ("breaker", breaker_ms)] {
        if value == 0 {
            return refuse(format!("store.{key}_ms"), "must be at least 1".into());
        }
    }
    if config.admin.listen.is_some_and(|address| !address.ip().is_loopback()) {
        return refuse("admin.listen".into(), "must be an address of this machine alone, as 127.0.0.1:8082".into());
    }
    if let Some(Err(message)) = config.audit.syslog.as_ref().map(Syslog::check) {
        return refuse("audit.syslog".into(), message.into());
    }
    if let Err((key, message)) = config.audit.check() {
        return refuse(format!("audit.{key}"), message.into());
    }
    if config.audit.rotate_bytes < 4096 {
        return refuse("audit.rotate_bytes".into(), "must be at least 4096".into());
    }
    for (name, policy) in &config.tenant {
        if policy.step_up.when != When::Off && config.token.issuer.is_none() {
            let message = "needs token.issuer: who has given a second factor gets a token".into();
            return refuse(format!("tenant.{name}.step_up"), message);
        }
        for (part, limits) in [("limits", &policy.limits), ("user_limits", &policy.user_limits)] {
            if let Err(message) = limits.check() {
                return refuse(format!("tenant.{name}.{part}"), message);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, parse};

    #[test]
    fn limits_and_prices_are_read() {
        let config = parse(
            "[store]\nurl = 'redis-cluster://a:1,b:2'\non_loss = 'deny'\n\
             [tenant.acme.limits]\nrequests_per_minute = 60\nbudget = { amount = 5_000_000, period = 'day' }\n\
             [tenant.acme.user_limits]\nconcurrency = 2\n\
             [price.\"deepseek-v4\"]\nprompt = 280000\ncache_hit = 28000\ncompletion = 420000",
        )
        .unwrap();
        config.check().unwrap();
        let acme = &config.tenant["acme"];
        assert_eq!((acme.limits.requests_per_minute, acme.user_limits.concurrency), (Some(60), Some(2)));
        assert_eq!(config.price["deepseek-v4"].cache_hit, 28_000);
    }

    #[test]
    fn a_receivers_name_and_port_are_told_by_its_address() {
        let cases = [
            ("logs.example", "logs.example", "logs.example:6514"),
            ("logs.example:1", "logs.example", "logs.example:1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.1:6514"),
            ("[2001:db8::1]:7", "2001:db8::1", "[2001:db8::1]:7"),
            ("2001:db8::1", "2001:db8::1", "[2001:db8::1]:6514"),
        ];
        for (address, name, with_port) in cases {
            let config =
                parse(&format!("[audit]\ndir = 'log'\nsyslog = {{ address = '{address}', ca_file = 'ca.pem' }}"))
                    .unwrap();
            config.check().unwrap();
            let syslog = config.audit.syslog.unwrap();
            assert_eq!((syslog.name(), &*syslog.with_port()), (name, with_port));
        }
    }

    #[test]
    fn what_is_not_known_or_cannot_work_is_named() {
        let cases = [
            ("[store]\nulr = 'x'", "store.ulr"),
            ("[tenant.acme]\nlimit = {}", "tenant.acme.limit"),
            ("[tenant.acme.limits]\nrequest_per_minute = 1", "tenant.acme.limits.request_per_minute"),
            ("[tenant.acme.limits.budget]\namuont = 1", "tenant.acme.limits.budget.amuont"),
            ("[audit.syslog]\naddress = 'a'\nca = 'b'", "audit.syslog.ca"),
            ("[audit.syslog]\naddress = 'a:b'\nca_file = 'b'", "audit.syslog"),
            ("[audit.syslog]\naddress = 'a'\nca_file = 'b'\nkey_file = 'c'", "audit.syslog"),
            ("[audit.syslog]\naddress = 'a'\nca_file = 'b'", "audit.syslog"),
            ("[audit]\ncopy_to = 'b'", "audit.copy_to"),
            ("[audit]\nkey = 'b'", "audit.key"),
            ("[audit]\nstrict = true", "audit.strict"),
            ("[audit]\ndir = '/nowhere/a'\ncopy_to = '/nowhere/./a'", "audit.copy_to"),
            ("[audit]\ndir = 'a'\nkeep_days = 0", "audit.keep_days"),
            ("[admin]\nlisten = '0.0.0.0:1'", "admin.listen"),
            ("[price.m]\npromt = 1", "price.m.promt"),
            ("[tenant.a.step_up]\nwhn = 'always'", "tenant.a.step_up.whn"),
            ("[tenant.a.step_up]\nwhen = 'always'", "tenant.a.step_up"),
            ("[store]\nurl = 'http://a'", "store.url"),
            ("[store]\ntimeout_ms = 0", "store.timeout_ms"),
            ("[store]\nurl = 'redis://a'\nca_file = 'ca.pem'", "store.ca_file"),
            ("[store]\nanswers = 'http://a'", "store.answers"),
            ("[store]\nanswers = 'redis://:x:y'", "store.answers"),
            ("[store]\nbreaker_ms = 0", "store.breaker_ms"),
            ("[tenant.acme.limits]\ntokens_per_minute = 99999999999", "tenant.acme.limits"),
        ];
        for (text, expected) in cases {
            match parse(text).and_then(|config| config.check()) {
                Err(ConfigError::Unknown { key, .. } | ConfigError::Invalid { key, .. }) => assert_eq!(key, expected),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
