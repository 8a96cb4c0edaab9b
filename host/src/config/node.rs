//! A section `[[node]]`: one node of the pool.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{error::Error, fleet::Path, trust::authorities, upstream::Continue};

/// What a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Littoral's own wire, gRPC.
    #[default]
    Littoral,
    /// OpenAI's HTTP API: vLLM, SGLang, llama.cpp, DeepSeek.
    OpenAi,
}

/// An inference node.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What plans and logs call it; its address by default.
    pub name: Option<String>,
    /// `host:port` of a gRPC listener; for `openai` the URL before `/chat/completions`, as `http://host:8000/v1`.
    pub address: String,
    #[serde(default)]
    pub kind: Kind,
    /// A file with the key for an `openai` node, read again for every request.
    pub api_key_file: Option<PathBuf>,
    /// The authorities whose certificates an `openai` node may have, PEM, instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Models of an `openai` node, as `name` or `name=what the server calls it`; by default those it lists. Of a node of
    /// ours, what it is expected to serve before it has said so.
    #[serde(default)]
    pub models: Vec<String>,
    /// Streams an `openai` node may have at once; further requests wait.
    pub max_streams: Option<u32>,
    /// How an `openai` node goes on with an answer that another began: `none`, `prefix` or `message`.
    #[serde(default)]
    pub resume: Continue,
    /// `bind`, `mark` and `dscp` of its connections.
    #[serde(default)]
    pub path: Path,
}

/// Streams an `openai` node may have at once when nothing else is said.
const MAX_STREAMS: u32 = 256;

impl Node {
    /// A node of ours.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// The same under a name.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }

    pub fn max_streams(&self) -> u32 {
        self.max_streams.unwrap_or(MAX_STREAMS)
    }

    /// The names of the models it was said to serve.
    pub fn model_names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.split_once('=').map_or(model.as_str(), |(name, _)| name).trim())
    }

    /// What the server calls the model of this name.
    pub fn upstream_name<'a>(&'a self, model: &'a str) -> &'a str {
        let pairs = self.models.iter().filter_map(|entry| entry.split_once('='));
        pairs.map(|(name, theirs)| (name.trim(), theirs.trim())).find(|(name, _)| *name == model).map_or(model, |p| p.1)
    }

    /// The key for the node, if it has one. Read anew, so that a key can be changed while the edge runs.
    pub fn api_key(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.api_key_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            tracing::warn!(node = self.name(), path = %path.display(), %error, "the upstream's key cannot be read");
            Error::NoNode("the upstream's key cannot be read".into())
        })?;
        Ok(Some(text.trim().to_string()))
    }

    /// Refuses what cannot be used; the error is the key and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        self.path.check().map_err(|message| ("path.dscp", message))?;
        self.check_address().map_err(|message| ("address", message))?;
        self.check_trust().map_err(|message| ("ca_file", message))?;
        self.check_models().map_err(|message| ("models", message))?;
        let theirs = [
            ("max_streams", self.max_streams.is_some()),
            ("resume", self.resume != Continue::None),
            ("api_key_file", self.api_key_file.is_some()),
        ];
        match theirs.into_iter().find(|(_, set)| *set && self.kind == Kind::Littoral) {
            Some((key, _)) => Err((key, "is for nodes of kind 'openai'".into())),
            None if self.max_streams == Some(0) => Err(("max_streams", "must be at least 1".into())),
            None => Ok(()),
        }
    }

    fn check_models(&self) -> Result<(), String> {
        for entry in &self.models {
            let pair = entry.split_once('=');
            if pair.is_some() && self.kind == Kind::Littoral {
                return Err(format!("'{entry}': a node of ours has its own names; give it one with --name there"));
            }
            let (name, theirs) = pair.unwrap_or((entry, entry));
            if name.trim().is_empty() || theirs.trim().is_empty() {
                return Err(format!("'{entry}' must be a name, or NAME=WHAT THE SERVER CALLS IT"));
            }
        }
        Ok(())
    }

    fn check_trust(&self) -> Result<(), String> {
        let Some(path) = &self.ca_file else { return Ok(()) };
        if self.kind != Kind::OpenAi || !self.address.starts_with("https://") {
            return Err("is for nodes whose address begins with https://".into());
        }
        authorities(path).map(drop).map_err(|error| format!("{error:#}"))
    }

    fn check_address(&self) -> Result<(), String> {
        let address = &self.address;
        match self.kind {
            Kind::OpenAi => {
                let url: http::Uri = address.parse().map_err(|e| format!("'{address}' is no URL: {e}"))?;
                if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
                    return Err(format!("'{address}' must be a URL, as http://host:8000/v1"));
                }
            }
            Kind::Littoral if address.contains("://") => {
                return Err(format!("'{address}' must be HOST:PORT, without a scheme; kind = 'openai' takes a URL"));
            }
            Kind::Littoral => {
                let port = address.rsplit_once(':').and_then(|(host, port)| {
                    let port: u16 = port.parse().ok()?;
                    (!host.is_empty() && port != 0).then_some(port)
                });
                port.ok_or_else(|| format!("'{address}' is not HOST:PORT"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_may_have_another_name_there() {
        let node = Node { models: vec!["chat = org/Chat-7B".into(), "plain".into()], ..Node::at("http://a/v1") };
        assert_eq!(node.model_names().collect::<Vec<_>>(), ["chat", "plain"]);
        assert_eq!([node.upstream_name("chat"), node.upstream_name("plain")], ["org/Chat-7B", "plain"]);
    }

    #[test]
    fn authorities_are_for_https_and_must_be_there() {
        let check = |address: &str, kind| {
            let ca_file = Some("/nowhere/ca.pem".into());
            Node { kind, ca_file, ..Node::at(address) }.check().unwrap_err()
        };
        for (address, kind) in [("http://a/v1", Kind::OpenAi), ("a:7433", Kind::Littoral)] {
            let (key, message) = check(address, kind);
            assert!(key == "ca_file" && message.contains("https://"), "{key}: {message}");
        }
        let (key, message) = check("https://a/v1", Kind::OpenAi);
        assert!(key == "ca_file" && message.contains("/nowhere/ca.pem"), "{key}: {message}");
    }

    #[test]
    fn addresses_fit_what_the_node_speaks() {
        let check = |kind, address: &str| Node { kind, ..Node::at(address) }.check_address();
        for address in ["http://10.0.0.1:8000/v1", "https://api.example.com"] {
            assert_eq!(check(Kind::OpenAi, address), Ok(()));
            assert!(check(Kind::Littoral, address).is_err());
        }
        for address in ["10.0.0.1:8000", "ftp://a/b", "http://", ""] {
            assert!(check(Kind::OpenAi, address).is_err(), "{address}");
        }
        assert_eq!(check(Kind::Littoral, "node:7433"), Ok(()));
    }
}
