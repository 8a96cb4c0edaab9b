//! The provider under Spin: settings in the application's variables, further API keys and revoked tokens in its key-value
//! store.
//!
//! A key record lies in the store `default` under `api-key/<id>`, as JSON; it is read when a request presents a key
//! that the settings do not hold, so that keys come and go without a restart. A revocation lies under `revoked/<name>`,
//! with the names of `littoral_core::token::by_jti` and `by_subject`.

use littoral_provider::{
    Fact, Host, fact_kind,
    token::{self, Revocation},
};
use spin_sdk::{
    key_value::{Error as StoreError, Store},
    variables::{self, Error},
};

struct Spin;

impl Host for Spin {
    async fn setting(name: &str) -> Result<Option<String>, String> {
        match variables::get(name).await {
            Ok(value) => Ok(Some(value)),
            Err(Error::Undefined(_)) => Ok(None),
            Err(error) => Err(format!("the variable '{name}' cannot be read: {error}")),
        }
    }

    async fn fetch(kind: &str, key: &str) -> Fact {
        let found = match (kind, token::revocations(key)) {
            (fact_kind::API_KEY, _) => stored(&format!("{kind}/{key}")).await,
            (fact_kind::REVOKED, Some(names)) => revoked(names).await,
            _ => return littoral_provider::unknown(kind, key),
        };
        let (value, error) = match found {
            Ok(value) => (value, None),
            // Without a store the settings hold every key there is.
            Err(StoreError::NoSuchStore | StoreError::AccessDenied) => (None, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Fact { kind: kind.into(), key: key.into(), value, error }
    }
}

async fn revoked(names: [String; 2]) -> Result<Option<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    for name in names {
        found.extend(stored(&format!("revoked/{name}")).await?);
    }
    Ok(Revocation::latest(found))
}

async fn stored(key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Store::open_default().await?.get(key).await
}

littoral_provider::provider!(Spin);
