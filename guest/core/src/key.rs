//! API keys: `lk_<id>_<secret>`, the secret 256 bits in hex, kept as a salted SHA-256.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cache::Rules;

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
        let hex =
            |s: &str, bytes: usize| s.len() == 2 * bytes && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex(id, ID_BYTES) && hex(secret, SECRET_BYTES)).then_some(Self { id, secret })
    }
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

    /// Whether the presented secret is this key's. The comparison takes the same time wherever they differ.
    pub fn matches(&self, presented: &Presented) -> bool {
        let (Some(salt), Some(hash)) = (unhex(&self.salt), unhex(&self.hash)) else { return false };
        digest(&salt, presented.secret).as_slice().ct_eq(&hash).into()
    }
}

fn digest(salt: &[u8], secret: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(secret).finalize().into()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for b in bytes {
        text.push(DIGITS[usize::from(b >> 4)] as char);
        text.push(DIGITS[usize::from(b & 15)] as char);
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
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
        assert!(record.matches(&presented));
        assert!(!other.matches(&presented));
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
        assert!(!record.matches(&Presented::parse(&text).unwrap()));
        record.hash.clear();
        assert!(!record.matches(&Presented::parse(&text).unwrap()));
    }
}
