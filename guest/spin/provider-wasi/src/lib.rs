//! The provider of any wasi:http host: settings in environment variables, `LITTORAL_NODES` and so on.

use littoral_provider::{Fact, Host};

struct Environment;

impl Host for Environment {
    async fn setting(name: &str) -> Result<Option<String>, String> {
        let name = format!("LITTORAL_{}", name.to_ascii_uppercase());
        match std::env::var(&name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
        }
    }

    /// The settings are all this host knows.
    async fn fetch(kind: &str, key: &str) -> Fact {
        littoral_provider::unknown(kind, key)
    }
}

littoral_provider::provider!(Environment);
