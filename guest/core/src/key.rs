//! API keys: `lk_<id>_<secret>`, the secret 256 bits in hex, kept as a salted SHA-256.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{cache::Rules, limits::Limits};

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// A key as a client presents it, borrowed from the header.
#[derive(Debug, PartialEq)]
pub struct Presented<'a> {
    pub id: &'a str,
    secret: &'a str,
}

impl<'a> Presented<'a> {
    /// None unless `text` has the form of a key: nothing else is looked up or hashed.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("lk_")?.split_once('_')?;
        (Self::is_id(id) && is_hex(secret, SECRET_BYTES)).then_some(Self { id, secret })
    }

    /// Whether `text` has the form of a key's id.
    pub fn is_id(text: &str) -> bool {
        is_hex(text, ID_BYTES)
    }
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What is stored of a key. Never the secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    pub id: String,
    /// Hex, 16 bytes.
    pub salt: String,
    /// Hex, SHA-256 of salt followed by the secret's text.
    pub hash: String,
    pub tenant: String,
    pub user: String,
    /// Token filters every answer to this key runs through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Other rules for the cache than everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Rules>,
    /// Unix milliseconds after which the key is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// Models the key may use; none named: every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Networks its requests may come from; none named: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// The secret before the last rotation, while it is still good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<u64>,
}

/// A secret that was replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    pub salt: String,
    pub hash: String,
    /// Unix milliseconds after which it opens nothing.
    pub until_ms: u64,
}

impl KeyRecord {
    /// A new key from `entropy` (6 bytes id, 32 bytes secret, 16 bytes salt): what is stored, and the key to hand out once.
    pub fn create(tenant: &str, user: &str, entropy: &[u8; 54]) -> (Self, String) {
        let id = hex(&entropy[..ID_BYTES]);
        let secret = hex(&entropy[ID_BYTES..ID_BYTES + SECRET_BYTES]);
        let salt = &entropy[ID_BYTES + SECRET_BYTES..];
        let text = format!("lk_{id}_{secret}");
        let record = Self {
            hash: hex(&digest(salt, &secret)),
            salt: hex(salt),
            tenant: tenant.into(),
            user: user.into(),
            id,
            ..Self::default()
        };
        (record, text)
    }

    /// Gives the key a new secret, from `entropy` (32 bytes secret, 16 bytes salt); the old one is good until `until_ms`.
    /// The key to hand out once.
    pub fn rotate(&mut self, entropy: &[u8; 48], until_ms: u64) -> String {
        let secret = hex(&entropy[..SECRET_BYTES]);
        let salt = &entropy[SECRET_BYTES..];
        let hash = std::mem::replace(&mut self.hash, hex(&digest(salt, &secret)));
        self.previous = Some(Previous { salt: std::mem::replace(&mut self.salt, hex(salt)), hash, until_ms });
        format!("lk_{}_{secret}", self.id)
    }

    /// Whether the presented secret is this key's. The comparison takes the same time wherever they differ.
    pub fn matches(&self, presented: &Presented, now_ms: u64) -> bool {
        let previous = self.previous.as_ref().filter(|previous| previous.until_ms > now_ms);
        opens(&self.salt, &self.hash, presented)
            || previous.is_some_and(|previous| opens(&previous.salt, &previous.hash, presented))
    }

    /// What is wrong with the record, if anything is.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [("tenant", &self.tenant), ("user", &self.user)] {
            if value.is_empty() || value.len() > MAX_NAME || value.chars().any(char::is_control) {
                return Err(format!("{name} must be 1..{MAX_NAME} bytes without control characters"));
            }
        }
        self.limits.check()
    }
}

/// Longest name of a tenant or a user, bytes.
pub const MAX_NAME: usize = 256;

fn opens(salt: &str, hash: &str, presented: &Presented) -> bool {
    let (Some(salt), Some(hash)) = (unhex(salt), unhex(hash)) else { return false };
    digest(&salt, presented.secret).as_slice().ct_eq(&hash).into()
}

fn digest(salt: &[u8], secret: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(secret).finalize().into()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    String::from_utf8(digits.collect()).expect("digits are ASCII")
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| Some(digit(p[0])? << 4 | digit(*p.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_key_opens_its_own_record_and_no_other() {
        let (record, text) = KeyRecord::create("acme", "ada", &[7; 54]);
        let (other, _) = KeyRecord::create("acme", "bob", &[8; 54]);
        let presented = Presented::parse(&text).unwrap();
        assert_eq!(presented.id, record.id);
        assert!(record.matches(&presented, 0));
        assert!(!other.matches(&presented, 0));
        assert!(!text.contains(&record.hash) && !record.hash.is_empty());
    }

    #[test]
    fn what_is_not_a_key_is_not_looked_up() {
        let (_, text) = KeyRecord::create("acme", "ada", &[7; 54]);
        let upper = text.to_uppercase();
        for bad in ["", "lk_", "lk__", "sk-test", &text[1..], &text[..text.len() - 1], &upper, &format!("{text}0")] {
            assert_eq!(Presented::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_damaged_record_opens_nothing() {
        let (mut record, text) = KeyRecord::create("acme", "ada", &[7; 54]);
        record.hash = "zz".into();
        assert!(!record.matches(&Presented::parse(&text).unwrap(), 0));
        record.hash.clear();
        assert!(!record.matches(&Presented::parse(&text).unwrap(), 0));
    }

    #[test]
    fn a_rotated_secret_is_good_for_its_grace_and_no_longer() {
        let (mut record, first) = KeyRecord::create("acme", "ada", &[7; 54]);
        let second = record.rotate(&[9; 48], 100);
        let (first, second) = (Presented::parse(&first).unwrap(), Presented::parse(&second).unwrap());
        assert_eq!(first.id, second.id);
        assert!(record.matches(&first, 99) && record.matches(&second, 99));
        assert!(!record.matches(&first, 100) && record.matches(&second, 100));
        record.rotate(&[11; 48], 0);
        assert!(!record.matches(&second, 0));
    }

    #[test]
    fn a_record_without_a_policy_is_read_as_it_was_written() {
        let old = r#"{"id":"0123456789ab","salt":"00","hash":"11","tenant":"acme","user":"ada"}"#;
        let record: KeyRecord = serde_json::from_str(old).unwrap();
        assert!(record.limits.is_none() && record.models.is_empty() && record.cache.is_none());
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
    }
}
