//! The section `retrieval`: where `POST /retrieval` is answered.

use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, Kind, Node};

/// An upstream that speaks Dify's External Knowledge API.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retrieval {
    /// The whole URL, as `http://host:5000/retrieval`; none: `/retrieval` is not answered.
    pub url: Option<String>,
    /// A file with the key for it, read again for every request.
    pub api_key_file: Option<PathBuf>,
    /// The authorities whose certificates it may have, PEM, instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Retrieval {
    /// The upstream as a node to send requests to.
    pub fn node(&self) -> Option<Node> {
        let Self { url, api_key_file, ca_file } = self.clone();
        let node = Node { kind: Kind::OpenAi, api_key_file, ca_file, ..Node::at(url?) };
        Some(node.named("retrieval"))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let checked = self.node().map_or(Ok(()), |node| node.check());
        checked.map_err(|(key, message)| {
            let key = if key == "address" { "url" } else { key };
            ConfigError::Invalid { key: format!("retrieval.{key}"), message }
        })
    }
}
