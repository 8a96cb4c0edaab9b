//! The audit log's lines and the chain that binds them.
//!
//! A line is one JSON object: `{"seq":N,"prev":"HEX",…,"mac":"HEX"}`. `mac` is HMAC-SHA-256 over the bytes of the line
//! before `,"mac"`, and `prev` is the `mac` of the line before, so that a change, a gap, a line in another place or a cut
//! shows, and nobody without the key can mend it.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{key::hex, limits::Tokens};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;
/// `prev` of the very first line.
pub const GENESIS: Seal = [0; 32];

/// The `mac` of a line.
pub type Seal = [u8; 32];

/// Values of [`Record::event_type`].
pub mod event {
    /// A request was admitted; its own line follows when it is over.
    pub const BEGIN: &str = "begin";
    /// A request, allowed or denied.
    pub const REQUEST: &str = "request";
    /// What an administrator did.
    pub const ADMIN: &str = "admin";
}

/// One event: the fields that MLPS level 3 and its like ask for. Never a prompt, a key or a token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// UTC, RFC 3339 with milliseconds.
    pub timestamp: String,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_ip: String,
    /// Id of the key or the client, never the key.
    pub key_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// See [`event`].
    pub event_type: String,
    /// Method and path, without the query.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Usage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Keyed digest of the canonical request, so that a known prompt can be looked for and none can be guessed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt_digest: String,
    /// Of a request's line, and of a mark that was carried into a new file: the number of its begin mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// `allowed`, `denied`, `failed`, `interrupted`
    pub result: String,
    pub status: u16,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
}

impl From<Tokens> for Usage {
    fn from(Tokens { prompt, cache_hit, completion }: Tokens) -> Self {
        Self { prompt, cached: cache_hit, completion }
    }
}

/// How the one who asked was known, and what the policy decided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    pub method: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub acr: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// What else the policy says of its decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<(String, String)>,
}

/// The end of a chain, to which the next line is bound.
#[derive(Clone)]
pub struct Chain {
    key: Hmac<Sha256>,
    /// Number of the last line; 0 = none yet.
    pub seq: u64,
    pub seal: Seal,
}

impl Chain {
    /// Goes on after line `seq`, whose `mac` is `seal`.
    pub fn new(key: &[u8; KEY_BYTES], seq: u64, seal: Seal) -> Self {
        let key = Hmac::new_from_slice(key).expect("HMAC takes keys of any size");
        Self { key, seq, seal }
    }

    /// The next line, with its end of line. The chain stays where it is until [`Chain::advance`]: a line that could not be
    /// written is as if it had never been.
    pub fn seal(&self, record: &Record) -> (Vec<u8>, Seal) {
        let body = serde_json::to_vec(record).expect("strings and numbers always serialise");
        let mut line = format!("{{\"seq\":{},\"prev\":\"{}\",", self.seq + 1, hex(&self.seal)).into_bytes();
        // Without the object's own braces.
        line.extend_from_slice(&body[1..body.len() - 1]);
        let seal = self.mac(&line);
        line.extend_from_slice(b",\"mac\":\"");
        line.extend_from_slice(hex(&seal).as_bytes());
        line.extend_from_slice(b"\"}\n");
        (line, seal)
    }

    /// The line was written.
    pub fn advance(&mut self, seal: Seal) {
        self.seq += 1;
        self.seal = seal;
    }

    /// Digest of a prompt under the same key, hex.
    pub fn digest(&self, prompt: &[u8]) -> String {
        hex(&self.mac(&[b"prompt\0", prompt].concat())[..16])
    }

    fn mac(&self, bytes: &[u8]) -> Seal {
        self.key.clone().chain_update(bytes).finalize().into_bytes().into()
    }

    /// Checks the next line of a log, without its end of line, and goes on after it.
    pub fn check(&mut self, line: &[u8]) -> Result<Record, Flaw> {
        let found = Sealed::read(line)?;
        if found.seq != self.seq + 1 {
            return Err(Flaw::Order { expected: self.seq + 1, found: found.seq });
        }
        if found.prev != self.seal {
            return Err(Flaw::Unlinked(found.seq));
        }
        self.verify(&found)?;
        self.advance(found.mac);
        Ok(found.record)
    }

    /// Checks the first line of a log that begins elsewhere than at 1.
    pub fn begin_at(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let found = Sealed::read(line)?;
        self.verify(&found)?;
        self.seq = found.seq.saturating_sub(1);
        self.seal = found.prev;
        Ok(())
    }

    fn verify(&self, found: &Sealed) -> Result<(), Flaw> {
        // In constant time, by the library.
        let whole = self.key.clone().chain_update(found.covered).verify_slice(&found.mac);
        whole.map_err(|_| Flaw::Changed(found.seq))
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Not a line of an audit log.
    Malformed,
    /// The line of this number is not what was written.
    Changed(u64),
    /// A line is missing, doubled or in another place.
    Order { expected: u64, found: u64 },
    /// The line of this number does not follow the one before it.
    Unlinked(u64),
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("this is no line of an audit log"),
            Self::Changed(seq) => write!(f, "line {seq} was changed, or sealed with another key"),
            Self::Order { expected, found } => write!(f, "line {expected} is expected, and {found} is there"),
            Self::Unlinked(seq) => write!(f, "line {seq} does not follow the line before it"),
        }
    }
}

impl std::error::Error for Flaw {}

struct Sealed<'a> {
    seq: u64,
    prev: Seal,
    mac: Seal,
    covered: &'a [u8],
    record: Record,
}

impl<'a> Sealed<'a> {
    fn read(line: &'a [u8]) -> Result<Self, Flaw> {
        #[derive(Deserialize)]
        struct Line {
            seq: u64,
            prev: String,
            mac: String,
            #[serde(flatten)]
            record: Record,
        }
        const TAIL: usize = ",\"mac\":\"\"}".len() + 64;
        let covered = line.len().checked_sub(TAIL).map(|end| &line[..end]).ok_or(Flaw::Malformed)?;
        let read: Line = serde_json::from_slice(line).map_err(|_| Flaw::Malformed)?;
        let seal = |text: &str| -> Result<Seal, Flaw> {
            let bytes = crate::key::unhex(text).ok_or(Flaw::Malformed)?;
            bytes.try_into().map_err(|_| Flaw::Malformed)
        };
        let (prev, mac) = (seal(&read.prev)?, seal(&read.mac)?);
        // The last 64 digits are the ones that were read, and not others of the same name before them.
        if &line[covered.len()..] != format!(",\"mac\":\"{}\"}}", hex(&mac)).as_bytes() {
            return Err(Flaw::Malformed);
        }
        Ok(Self { seq: read.seq, prev, mac, covered, record: read.record })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    fn log(lines: usize) -> Vec<Vec<u8>> {
        let mut chain = Chain::new(&KEY, 0, GENESIS);
        (0..lines)
            .map(|i| {
                let record = Record {
                    timestamp: "2026-11-25T02:33:24.123Z".into(),
                    request_id: format!("r{i}"),
                    key_id: "k\"\n".into(),
                    event_type: event::REQUEST.into(),
                    outcome: Some(Outcome { result: "allowed".into(), status: 200, error: String::new() }),
                    ..Record::default()
                };
                let (mut line, seal) = chain.seal(&record);
                chain.advance(seal);
                assert_eq!(line.pop(), Some(b'\n'));
                line
            })
            .collect()
    }

    fn verify(lines: &[Vec<u8>]) -> Result<u64, Flaw> {
        let mut chain = Chain::new(&KEY, 0, GENESIS);
        lines.iter().try_for_each(|line| chain.check(line).map(drop))?;
        Ok(chain.seq)
    }

    #[test]
    fn a_log_is_whole_or_says_where_it_is_not() {
        let lines = log(5);
        assert_eq!(verify(&lines), Ok(5));
        let mut gap = lines.clone();
        gap.remove(2);
        assert_eq!(verify(&gap), Err(Flaw::Order { expected: 3, found: 4 }));
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_eq!(verify(&swapped), Err(Flaw::Order { expected: 2, found: 3 }));
        let mut doubled = lines.clone();
        doubled.insert(3, lines[2].clone());
        assert_eq!(verify(&doubled), Err(Flaw::Order { expected: 4, found: 3 }));
        let mut other = Chain::new(&[8; KEY_BYTES], 0, GENESIS);
        assert_eq!(other.check(&lines[0]), Err(Flaw::Changed(1)));
        // Another log's line of the same number, sealed with the same key.
        let mut foreign = lines.clone();
        let mut chain = Chain::new(&KEY, 2, [1; 32]);
        let (mut line, seal) = chain.seal(&Record::default());
        chain.advance(seal);
        line.pop();
        foreign[2] = line;
        assert_eq!(verify(&foreign), Err(Flaw::Unlinked(3)));
    }

    #[test]
    fn a_log_may_begin_where_older_files_were_removed() {
        let lines = log(5);
        let mut chain = Chain::new(&KEY, 0, GENESIS);
        chain.begin_at(&lines[2]).unwrap();
        lines[2..].iter().for_each(|line| drop(chain.check(line).unwrap()));
        assert_eq!(chain.seq, 5);
    }

    proptest! {
        #[test]
        fn any_changed_byte_shows(line in 0usize..5, at in any::<prop::sample::Index>(), by in 1u8..=255) {
            let mut lines = log(5);
            let byte = at.get_mut(&mut lines[line]);
            *byte = byte.wrapping_add(by);
            prop_assert!(verify(&lines).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verify(&[bytes]).is_err());
        }
    }
}
