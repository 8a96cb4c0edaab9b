//! What guests may ask the host while they decide. Every answer comes from memory.

mod keys;
mod verify;

use std::sync::Arc;

use littoral_core::{Candidate, Fact, Knowledge, Model, fact_kind, route::FleetConfig};

use crate::fleet::Fleet;
pub use keys::{KeyFileError, Keys, create as create_key};

/// The host's memory, as guests see it.
pub struct Known {
    keys: Arc<Keys>,
    /// The section `cache` of the configuration, JSON.
    cache: Vec<u8>,
    fleet: Arc<Fleet>,
}

impl Known {
    pub fn new(keys: Arc<Keys>, cache: Vec<u8>, fleet: Arc<Fleet>) -> Self {
        Self { keys, cache, fleet }
    }

    /// Changes whenever keys or the fleet's models do: a decision made before is old.
    pub fn epoch(&self) -> u64 {
        self.keys.epoch().wrapping_add(self.fleet.epoch())
    }

    /// A fact a guest asked for with `need`. A kind nobody here keeps is answered with an error, so that the guest can
    /// refuse the request with a reason.
    pub fn fetch(&self, kind: &str, key: &str) -> Fact {
        self.peek(kind, key).unwrap_or_else(|| Fact {
            kind: kind.into(),
            key: key.into(),
            value: None,
            error: Some(format!("this host keeps no facts of kind '{kind}'")),
        })
    }
}

impl Knowledge for Known {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = match (kind, key) {
            (fact_kind::API_KEY, id) => self.keys.get(id),
            (fact_kind::CONFIG, "cache") => Some(self.cache.clone()),
            (fact_kind::CONFIG, "fleet") => {
                serde_json::to_vec(&FleetConfig { wait_ms: self.fleet.config().wait_ms }).ok()
            }
            (fact_kind::CONFIG, _) => None,
            _ => return None,
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
        verify::verify(algorithm, key, message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_without_a_source_are_an_error_and_not_an_absence() {
        let known = Known::new(Arc::default(), b"{}".to_vec(), Arc::new(Fleet::new(Vec::new(), Default::default())));
        assert!(known.peek("weather", "x").is_none());
        assert!(known.fetch("weather", "x").error.is_some());
        let absent = known.fetch(fact_kind::API_KEY, "0123456789ab");
        assert_eq!((absent.value, absent.error), (None, None));
        assert_eq!(known.peek(fact_kind::CONFIG, "cache").unwrap().value.as_deref(), Some(&b"{}"[..]));
    }
}
