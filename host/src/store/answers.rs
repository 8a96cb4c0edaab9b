//! Answers as they lie in the store.

use std::time::Duration;

use littoral_proto::v1::Event;
use redis::cmd;

use super::{Link, Stored, Trouble};
use crate::plan::now_ms;

/// What is at a key.
#[derive(Debug, PartialEq)]
pub enum Entry {
    Answer(Stored),
    None,
    /// Something that is no answer.
    Undecodable,
}

impl Stored {
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
        let kept = self.run(&set).await;
        self.takes_writes(&kept);
        kept
    }

    pub async fn forget(&self, key: &str) -> Result<(), Trouble> {
        self.run(cmd("DEL").arg(name(key))).await
    }
}
