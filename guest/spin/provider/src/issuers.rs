//! Issuers of access tokens: whose tokens are taken, and the keys they are verified with, from the setting itself or from
//! the issuer's address, which is asked again within bounds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use littoral_core::{
    Fact, fact_kind,
    token::{self, Issuer, Trust, jwks},
};
use serde_json::{Map, Value};

use crate::{get, settings::split};

/// A set of keys is fetched again after this time.
const REFRESH_MS: u64 = 5 * 60_000;
/// However many unknown keys are presented, their issuer is asked no more often than this.
const ASK_EVERY_MS: u64 = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Issuers {
    /// By the issuer's name.
    sources: HashMap<String, Source>,
}

#[derive(Debug)]
struct Source {
    rules: Issuer,
    /// Where its keys are; none when the setting holds them.
    url: Option<String>,
    known: Mutex<Keys>,
}

/// Stored keys by their names as facts, as JSON.
#[derive(Debug, Default)]
struct Keys {
    keys: HashMap<String, Vec<u8>>,
    /// When the issuer answered, and when it was asked, Unix milliseconds.
    heard_ms: u64,
    asked_ms: u64,
}

impl Issuers {
    /// A JSON list of `{issuer, audience, jwks, ...}`, where `jwks` is a set of keys or the address of one; the others are
    /// the keys of the edge's `[[auth.issuer]]`.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let wrong = |e: String| format!("the setting 'issuers' cannot be read: {e}");
        let list: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let mut issuers = Self::default();
        for entry in list {
            let source = one(entry).map_err(wrong)?;
            issuers.sources.insert(source.rules.issuer.clone(), source);
        }
        Ok(issuers)
    }

    /// JSON of the [`Trust`] in the issuer of a key that a fact names; none for one whose tokens are not taken.
    pub fn trust(&self, name: &str) -> Option<Vec<u8>> {
        let source = self.source(name)?;
        // A key that its issuer is to be asked of is a fact of its own.
        let key = self.peek(name).flatten().and_then(|json| serde_json::from_slice(&json).ok());
        let trust = Trust { rules: source.rules.clone(), key };
        Some(serde_json::to_vec(&trust).expect("strings and numbers always serialise"))
    }

    /// The key that a fact names, or that there is none; none when its issuer is to be asked.
    pub fn peek(&self, name: &str) -> Option<Option<Vec<u8>>> {
        let Some(source) = self.source(name) else { return Some(None) };
        source.known().peek(name, source.url.is_some(), now_ms())
    }

    /// Asks the issuer of a key.
    pub async fn fetch(&self, name: &str) -> Fact {
        let fact = |value, error| Fact { kind: fact_kind::VERIFYING_KEY.into(), key: name.into(), value, error };
        let Some((issuer, source)) = name.split_once('\n').and_then(|(issuer, _)| Some((issuer, self.source(name)?)))
        else {
            return fact(None, None);
        };
        let due = source.url.as_deref().filter(|_| source.known().may_ask(now_ms()));
        let mut error = None;
        if let Some(url) = due {
            source.known().asked_ms = now_ms();
            match fetch(issuer, url).await {
                Ok(keys) => {
                    let mut known = source.known();
                    known.keys = keys;
                    known.heard_ms = now_ms();
                }
                Err(why) => {
                    eprintln!("littoral: the keys of {issuer} at {url}: {why}; those known before stay");
                    error = Some(why);
                }
            }
        }
        let key = source.known().keys.get(name).cloned();
        let error = error.filter(|_| key.is_none());
        fact(key, error)
    }

    fn source(&self, name: &str) -> Option<&Source> {
        self.sources.get(name.split_once('\n')?.0)
    }
}

impl Source {
    fn known(&self) -> MutexGuard<'_, Keys> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn may_ask(&self, now_ms: u64) -> bool {
        self.asked_ms.saturating_add(ASK_EVERY_MS) <= now_ms
    }

    fn peek(&self, name: &str, is_remote: bool, now_ms: u64) -> Option<Option<Vec<u8>>> {
        let key = self.keys.get(name);
        let is_fresh = key.is_some() && now_ms < self.heard_ms.saturating_add(REFRESH_MS);
        if is_remote && !is_fresh && self.may_ask(now_ms) { None } else { Some(key.cloned()) }
    }
}

fn one(mut entry: Map<String, Value>) -> Result<Source, String> {
    let jwks = entry.remove("jwks").ok_or("an issuer has no jwks")?;
    let rules: Issuer = serde_json::from_value(Value::Object(entry)).map_err(|e| e.to_string())?;
    if rules.issuer.is_empty() || rules.audience.is_empty() {
        return Err("an issuer has no issuer or no audience".into());
    }
    match jwks {
        Value::String(url) if split(&url).is_some() => Ok(Source { rules, url: Some(url), known: Mutex::default() }),
        Value::String(url) => Err(format!("'{url}' is no address: write https://host/path")),
        set => {
            let keys = keys(&rules.issuer, set.to_string().as_bytes())?;
            if keys.is_empty() {
                return Err("a key set holds no signature key for ES256, EdDSA or RS256".into());
            }
            Ok(Source { rules, url: None, known: Mutex::new(Keys { keys, ..Keys::default() }) })
        }
    }
}

fn keys(issuer: &str, set: &[u8]) -> Result<HashMap<String, Vec<u8>>, String> {
    let keys = jwks::parse(set).map_err(|e| e.to_string())?;
    let json = |key: &jwks::Key| serde_json::to_vec(key).expect("strings always serialise");
    Ok(keys.iter().map(|key| (token::key_of(issuer, &key.kid), json(key))).collect())
}

async fn fetch(issuer: &str, url: &str) -> Result<HashMap<String, Vec<u8>>, String> {
    keys(issuer, &get::get(url, jwks::MAX_BYTES).await?)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}]}"#;

    #[test]
    fn a_set_in_the_setting_is_all_there_is() {
        let text = format!(r#"[{{"issuer":"i","audience":"a","tenant":"acme","jwks":{SET}}}]"#);
        let issuers = Issuers::read(&text).unwrap();
        assert!(issuers.peek("i\nk1").unwrap().is_some());
        assert_eq!((issuers.peek("i\nk2"), issuers.peek("other\nk1")), (Some(None), Some(None)));
        let trust = |name| issuers.trust(name).map(|json| serde_json::from_slice::<Trust>(&json).unwrap());
        let Trust { rules, key } = trust("i\nk1").unwrap();
        assert_eq!((rules.tenant.as_deref(), rules.max_lifetime_s), (Some("acme"), 900));
        assert_eq!((key.unwrap().algorithm.as_str(), trust("i\nk2").unwrap().key), ("EdDSA", None));
        assert_eq!(trust("other\nk1"), None);
    }

    #[test]
    fn an_address_is_asked_within_bounds() {
        let key = |name: &str| HashMap::from([(name.to_string(), b"{}".to_vec())]);
        let now = 1_000_000_000;
        assert_eq!(Keys::default().peek("k1", true, now), None);
        let known = Keys { keys: key("k1"), heard_ms: now, asked_ms: now };
        assert!(known.peek("k1", true, now + REFRESH_MS - 1).is_some_and(|key| key.is_some()));
        assert_eq!(known.peek("k1", true, now + REFRESH_MS), None);
        // A key that is not known has it asked, and not at once again.
        assert_eq!(known.peek("k2", true, now + ASK_EVERY_MS - 1), Some(None));
        assert_eq!(known.peek("k2", true, now + ASK_EVERY_MS), None);
        // An issuer that does not answer leaves what was known.
        let silent = Keys { keys: key("k1"), heard_ms: now, asked_ms: now + REFRESH_MS };
        assert!(silent.peek("k1", true, now + REFRESH_MS + 1).is_some_and(|key| key.is_some()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_the_settings_name() {
        assert!(Issuers::read(" ").unwrap().sources.is_empty());
        for bad in [
            "{}",
            r#"[{"issuer":"i","audience":"a"}]"#,
            r#"[{"issuer":"i","audience":"a","jwks":"keys.json"}]"#,
            r#"[{"issuer":"i","audience":"a","jwks":{"keys":[]}}]"#,
            r#"[{"issuer":"i","jwks":"https://i/jwks"}]"#,
            r#"[{"issuer":"i","audience":"a","audiense":"b","jwks":"https://i/jwks"}]"#,
        ] {
            assert!(Issuers::read(bad).unwrap_err().contains("'issuers'"), "{bad}");
        }
    }
}
