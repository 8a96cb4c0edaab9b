//! What guests may ask the host while they decide. Every answer comes from memory.

mod access;
mod issuers;
mod keys;
mod mirror;
mod places;
mod remembered;
mod verify;

use std::sync::Arc;

use littoral_core::{Candidate, Fact, Knowledge, Model, fact_kind, route::FleetConfig, step_up::place::Place};

use crate::fleet::Fleet;
pub use access::Access;
pub use issuers::Issuers;
pub use keys::{KeyFileError, Keys, create as create_key};
pub use mirror::Mirror;
pub use places::Places;
use remembered::Remembered;

/// The host's memory, as guests see it.
pub struct Known {
    access: Access,
    /// The section `cache` of the configuration, JSON.
    cache: Vec<u8>,
    fleet: Arc<Fleet>,
    remembered: Remembered,
}

impl Known {
    pub fn new(access: Access, cache: Vec<u8>, fleet: Arc<Fleet>) -> Self {
        Self { access, cache, fleet, remembered: Remembered::default() }
    }

    /// Where an address is.
    pub fn place(&self, address: &str) -> Option<Place> {
        serde_json::from_slice(&self.access.places.get(address)?).ok()
    }

    /// Takes down where this edge has just written that a user was seen.
    pub fn seen(&self, user: &str, places: Vec<u8>) {
        self.access.seen(user, places);
    }

    /// Asks outside for a fact that is not in memory. Blocks.
    pub fn learn(&self, name: &str) {
        self.access.issuers.learn(name);
    }

    /// Changes whenever keys, revocations, verification keys or the fleet's models do: a decision made before is old.
    pub fn epoch(&self) -> u64 {
        self.access.epoch().wrapping_add(self.fleet.epoch())
    }

    /// A fact a guest asked for with `need`. A kind nobody here keeps is answered with an error, so that the guest can
    /// refuse the request with a reason.
    pub fn fetch(&self, kind: &str, key: &str) -> Fact {
        let error = match kind {
            fact_kind::VERIFYING_KEY => "its issuer was asked a moment ago".to_string(),
            _ => format!("this host keeps no facts of kind '{kind}'"),
        };
        let unknown = || Fact { kind: kind.into(), key: key.into(), value: None, error: Some(error) };
        self.peek(kind, key).unwrap_or_else(unknown)
    }
}

impl Knowledge for Known {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        if kind == fact_kind::VERIFYING_KEY {
            return self.access.verifying_key(key);
        }
        let value = match (kind, key) {
            (fact_kind::CONFIG, "cache") => Some(self.cache.clone()),
            (fact_kind::CONFIG, "fleet") => {
                serde_json::to_vec(&FleetConfig { wait_ms: self.fleet.config().wait_ms }).ok()
            }
            _ => match self.access.peek(kind, key) {
                Some(value) => value,
                None if kind == fact_kind::CONFIG => None,
                None => return None,
            },
        };
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    fn model(&self, name: &str) -> Option<Model> {
        self.fleet.model(name)
    }

    /// The tenant is part of the session already (see `littoral_core::chat`).
    fn candidates(&self, model: &str, _tenant: &str, session: &str, k: u32) -> Vec<Candidate> {
        self.fleet.candidates(model, session, k as usize)
    }

    fn verify(&self, algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.remembered.verify(algorithm, key, message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_a_source_are_an_error_and_not_an_absence() {
        let fleet = Arc::new(Fleet::new(Vec::new(), Default::default()));
        let known = Known::new(Access::default(), b"{}".to_vec(), fleet);
        assert!(known.peek("weather", "x").is_none());
        assert!(known.fetch("weather", "x").error.is_some());
        let absent = known.fetch(fact_kind::API_KEY, "0123456789ab");
        assert_eq!((absent.value, absent.error), (None, None));
        assert_eq!(known.peek(fact_kind::CONFIG, "cache").unwrap().value.as_deref(), Some(&b"{}"[..]));
    }
}
