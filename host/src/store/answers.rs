//! Answers as they lie in the store.

use std::time::Duration;

use littoral_proto::{
    prost::Message,
    v1::{Event, StoredAnswer, event::Kind},
};
use redis::cmd;

use super::{Link, Trouble};
use crate::plan::now_ms;

/// Before every entry: what it is, and in which form. An entry of another form is none.
const MAGIC: &[u8] = b"LTA1";

/// An answer that came from the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored(pub StoredAnswer);

/// What is at a key.
#[derive(Debug, PartialEq)]
pub enum Entry {
    Answer(Stored),
    None,
    /// Something that is no answer.
    Undecodable,
}

impl Stored {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        self.0.encode(&mut bytes).expect("a vector takes every byte");
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let answer = StoredAnswer::decode(bytes.strip_prefix(MAGIC)?).ok()?;
        let last = answer.events.last().and_then(|event| event.kind.as_ref());
        matches!(last, Some(Kind::Usage(_))).then_some(Self(answer))
    }

    /// How old it is by this machine's clock.
    pub fn age(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.0.stored_ms))
    }

    pub fn events(self) -> Vec<Event> {
        self.0.events
    }
}

/// A key's name in the store.
fn name(key: &str) -> String {
    format!("littoral:answer:{key}")
}

impl Link {
    /// The answer of this key. What cannot be decoded is dropped from the store.
    pub async fn answer(&self, key: &str) -> Result<Entry, Trouble> {
        let found: Option<Vec<u8>> = self.run(cmd("GET").arg(name(key))).await?;
        let Some(bytes) = found else { return Ok(Entry::None) };
        if let Some(stored) = Stored::decode(&bytes) {
            return Ok(Entry::Answer(stored));
        }
        tracing::warn!(key, bytes = bytes.len(), "an entry of the store is no answer; it is dropped");
        self.forget(key).await?;
        Ok(Entry::Undecodable)
    }

    /// Keeps an answer as long as it may be given.
    pub async fn keep(&self, key: &str, answer: &Stored) -> Result<(), Trouble> {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(answer.encode()).arg("PX").arg(answer.0.ttl_ms.max(1));
        self.run(&set).await
    }

    pub async fn forget(&self, key: &str) -> Result<(), Trouble> {
        self.run(cmd("DEL").arg(name(key))).await
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1::Usage;

    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was_and_nothing_else_passes_for_one() {
        let usage = Event { kind: Some(Kind::Usage(Usage { prompt_tokens: 3, ..Usage::default() })) };
        let whole =
            Stored(StoredAnswer { scope: "acme".into(), events: vec![usage], purge: 7, ..StoredAnswer::default() });
        let bytes = whole.encode();
        assert_eq!(Stored::decode(&bytes), Some(whole));
        let partial = Stored(StoredAnswer { scope: "acme".into(), ..StoredAnswer::default() }).encode();
        for bad in [&b""[..], b"LTA1", b"LTA2\x0a\x01a", b"garbage", &bytes[..bytes.len() - 1], &partial] {
            assert_eq!(Stored::decode(bad), None, "{bad:?}");
        }
    }
}
