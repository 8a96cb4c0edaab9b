//! The sections that say whose tokens are taken, and which are minted: `auth`, `token`.

use std::path::PathBuf;

use littoral_core::token::{ALGORITHMS, Issuer as Rules};
use serde::Deserialize;

use super::{ConfigError, known};

/// The longest lifetime of an access token that can be configured, seconds. Revocations are kept so long.
pub const LONGEST_TOKEN_S: u64 = 24 * 3600;

/// Issuers whose access tokens are taken.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `[[auth.issuer]]`
    pub issuer: Vec<Issuer>,
    /// A database in MaxMind's format: countries, or cities for journeys. Without one, networks are places.
    pub places: Option<PathBuf>,
}

/// One issuer.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "IssuerTable")]
pub struct Issuer {
    pub rules: Rules,
    pub jwks: Jwks,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    File(PathBuf),
    Url(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerTable {
    issuer: String,
    audience: String,
    jwks: String,
    algorithms: Option<Vec<String>>,
    tenant_claim: Option<String>,
    tenant: Option<String>,
    max_lifetime_s: Option<u64>,
    leeway_s: Option<u64>,
}

impl TryFrom<IssuerTable> for Issuer {
    type Error = String;

    fn try_from(table: IssuerTable) -> Result<Self, String> {
        let IssuerTable { issuer, audience, jwks, algorithms, tenant_claim, tenant, max_lifetime_s, leeway_s } = table;
        let default = Rules::default();
        let rules = Rules {
            issuer,
            audience,
            algorithms: algorithms.unwrap_or(default.algorithms),
            tenant_claim: tenant_claim.unwrap_or(default.tenant_claim),
            tenant,
            max_lifetime_s: max_lifetime_s.unwrap_or(default.max_lifetime_s),
            leeway_s: leeway_s.unwrap_or(default.leeway_s),
            for_keys: false,
        };
        let jwks = match jwks.split_once("://") {
            Some(("https" | "http", _)) => Jwks::Url(jwks),
            Some(_) => return Err(format!("jwks '{jwks}' is neither a file nor an https address")),
            None => Jwks::File(jwks.into()),
        };
        Ok(Self { rules, jwks })
    }
}

/// Tokens that this installation mints itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Token {
    /// `iss`; none: no tokens are minted, and `POST /oauth/token` says so.
    pub issuer: Option<String>,
    /// `aud`
    pub audience: String,
    /// How long an access token is good, seconds.
    pub lifetime_s: u64,
    /// How long a refresh token is good.
    pub refresh_days: u64,
    /// Seals the signing key and second factors in the store; made when it is not there. Every edge of a store needs it.
    pub secret_file: PathBuf,
}

impl Default for Token {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: "littoral".into(),
            lifetime_s: 600,
            refresh_days: 30,
            secret_file: "littoral.secret".into(),
        }
    }
}

impl Token {
    /// What is taken of the tokens that are minted here, if any are.
    pub fn rules(&self) -> Option<Rules> {
        Some(Rules {
            issuer: self.issuer.clone()?,
            audience: self.audience.clone(),
            algorithms: vec!["ES256".into()],
            max_lifetime_s: self.lifetime_s.max(Rules::default().max_lifetime_s),
            for_keys: true,
            ..Rules::default()
        })
    }
}

/// Refuses unknown keys.
pub(super) fn known(file: &toml::Table) -> Result<(), ConfigError> {
    super::read::section::<Token>("token", file)?;
    let Some(auth) = file.get("auth").and_then(toml::Value::as_table) else { return Ok(()) };
    known::check::<Auth>("auth.", auth)?;
    let issuers = auth.get("issuer").and_then(toml::Value::as_array).into_iter().flatten();
    issuers.filter_map(toml::Value::as_table).try_for_each(|table| known::check::<IssuerTable>("auth.issuer.", table))
}

/// Refuses values that cannot work.
pub(super) fn check(auth: &Auth, token: &Token) -> Result<(), ConfigError> {
    let refuse = |key: String, message: String| Err(ConfigError::Invalid { key, message });
    let all: Vec<Rules> = auth.issuer.iter().map(|issuer| issuer.rules.clone()).chain(token.rules()).collect();
    for (i, rules) in all.iter().enumerate() {
        // The last one is our own.
        let key = |name: &str| match (auth.issuer.get(i), name) {
            (Some(_), name) => format!("auth.issuer[{i}].{name}"),
            (None, "max_lifetime_s") => "token.lifetime_s".into(),
            (None, name) => format!("token.{name}"),
        };
        if rules.issuer.is_empty() || rules.issuer.contains('\n') || rules.audience.is_empty() {
            return refuse(key("issuer"), "issuer and audience must be named".into());
        }
        if all[..i].iter().any(|other| other.issuer == rules.issuer) {
            return refuse(key("issuer"), format!("'{}' is named twice", rules.issuer));
        }
        if let Some(other) = rules.algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
            return refuse(key("algorithms"), format!("'{other}' is none of {}", ALGORITHMS.join(", ")));
        }
        if rules.max_lifetime_s > LONGEST_TOKEN_S || rules.leeway_s > 300 {
            let bounds = format!("a lifetime must be at most {LONGEST_TOKEN_S} seconds, and leeway_s at most 300");
            return refuse(key("max_lifetime_s"), bounds);
        }
    }
    if token.lifetime_s == 0 || token.refresh_days == 0 {
        return refuse("token.lifetime_s".into(), "lifetime_s and refresh_days must be at least 1".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    #[test]
    fn issuers_are_read() {
        let config = parse(
            "[[auth.issuer]]\nissuer = 'https://id.example'\naudience = 'a'\njwks = 'https://id.example/jwks'\n\
             tenant = 'acme'\n[[auth.issuer]]\nissuer = 'b'\naudience = 'a'\njwks = 'keys/b.json'\n[token]\nissuer = 'own'",
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!(config.auth.issuer[1].jwks, Jwks::File("keys/b.json".into()));
        assert_eq!(config.auth.issuer[0].rules.tenant.as_deref(), Some("acme"));
        assert_eq!(config.token.rules().unwrap().algorithms, ["ES256"]);
    }

    #[test]
    fn what_is_not_known_or_cannot_work_is_named() {
        let issuer = "[[auth.issuer]]\nissuer = 'a'\naudience = 'b'\njwks = 'c'\n";
        let cases = [
            ("[auth]\nissuers = []".to_string(), "auth.issuers"),
            (format!("{issuer}algorithm = []"), "auth.issuer.algorithm"),
            (format!("{issuer}algorithms = ['HS256']"), "auth.issuer[0].algorithms"),
            (format!("{issuer}max_lifetime_s = 90000"), "auth.issuer[0].max_lifetime_s"),
            (format!("{issuer}{issuer}"), "auth.issuer[1].issuer"),
            ("[token]\nlifetime = 5".into(), "token.lifetime"),
            (format!("{issuer}[token]\nissuer = ''"), "token.issuer"),
            (format!("{issuer}[token]\nissuer = 'a'"), "token.issuer"),
            ("[token]\nissuer = 'o'\nlifetime_s = 99999999".into(), "token.lifetime_s"),
        ];
        for (text, expected) in cases {
            match parse(&text).and_then(|config| config.check()) {
                Err(ConfigError::Unknown { key, .. } | ConfigError::Invalid { key, .. }) => assert_eq!(key, expected),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(parse(&issuer.replace("'c'", "'ftp://c'")).is_err());
    }
}
