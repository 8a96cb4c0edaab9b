//! What the policy asks synchronously, answered from the settings.

use littoral_core::{Candidate, Fact, document, fact_kind, rendezvous};

use crate::settings::Settings;

/// No cache stands behind this provider, so the cache layer plans none.
const CACHE_OFF: &[u8] = br#"{"policy":"off"}"#;

impl Settings {
    /// None for a key that the settings do not hold: the host may keep more of them elsewhere.
    pub fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = match kind {
            fact_kind::CONFIG if key == "cache" => Some(CACHE_OFF.to_vec()),
            fact_kind::ISSUER => self.issuers.trust(key),
            fact_kind::VERIFYING_KEY => self.issuers.peek(key)?,
            fact_kind::CONFIG | fact_kind::TENANT | fact_kind::PLACE | fact_kind::SEEN => None,
            fact_kind::API_KEY => Some(self.keys.get(key)?.clone()),
            _ => return None,
        };
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    /// Every node serves every model of the settings, so a session's order of preference is all there is to say.
    pub fn candidates(&self, model: &str, session: &str, k: u32) -> Vec<Candidate> {
        if self.model(model).is_none() {
            return Vec::new();
        }
        let names = self.nodes.iter().map(|node| node.name.as_str());
        let order = rendezvous::order(session, names, k as usize).into_iter().enumerate();
        let reason = |place| if place == 0 { "session" } else { "fallback" };
        order.map(|(place, node)| Candidate { node: node.into(), reason: reason(place).into() }).collect()
    }

    /// `GET /models`.
    pub fn models_document(&self) -> Vec<u8> {
        document::models(self.models.iter().map(|model| (model.name.as_str(), model.created)))
    }
}
