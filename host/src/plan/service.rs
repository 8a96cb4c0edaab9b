//! Host services: answers that are neither bytes of the guest nor a generation.

use bytes::Bytes;
use littoral_core::operation;

use super::Shared;
use crate::error::Error;

/// The body of a service's answer, JSON.
pub fn call(name: &str, shared: &Shared) -> Result<Bytes, Error> {
    match name {
        operation::MODELS => {
            let view = shared.fleet.view();
            Ok(littoral_api::models::list(view.models().map(|(name, model)| (name, model.created))))
        }
        other => Err(Error::Plan(format!("this host has no service '{other}'"))),
    }
}
