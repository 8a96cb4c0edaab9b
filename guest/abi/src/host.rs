//! The host's synchronous answers, as [`Knowledge`].

use littoral_core::{Candidate, Fact, Knowledge, Model};

use crate::bindings::littoral::edge::{crypto, facts, fleet};

/// The host this component runs in.
pub struct Host;

impl Knowledge for Host {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        facts::peek(kind, key).map(Fact::from)
    }

    fn model(&self, name: &str) -> Option<Model> {
        let fleet::ModelInfo { name, revision, context_length, created } = fleet::model(name)?;
        Some(Model { name, revision, context_length, created })
    }

    fn candidates(&self, model: &str, tenant: &str, session: &str, k: u32) -> Vec<Candidate> {
        fleet::candidates(model, tenant, session, k).into_iter().map(Candidate::from).collect()
    }

    fn verify(&self, algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        crypto::verify(algorithm, key, message, signature)
    }
}
