//! The settings of this host: text in, typed values out, with an error that names the setting.

use std::{collections::HashMap, sync::OnceLock};

use littoral_core::{Model, key::KeyRecord};
use serde::Deserialize;

use crate::{Host, issuers::Issuers};

/// A node's HTTP side-door.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// As it stands in the settings, without a slash at the end. Plans name it so.
    pub name: String,
    pub tls: bool,
    /// `host:port`
    pub authority: String,
    /// Path before `/v1`, often empty.
    pub base: String,
}

impl Node {
    /// The address as `host:port`, for clients to see.
    pub fn shown(&self) -> &str {
        &self.authority
    }

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().trim_end_matches('/');
        let Some((tls, authority, base)) = split(name) else {
            return Err(format!("'{name}' is no address of a node: write http://host:port"));
        };
        Ok(Self { name: name.into(), tls, authority: authority.into(), base: base.into() })
    }
}

/// Whether it is TLS, `host:port`, and the path of an address; none when it is none, or holds credentials.
pub fn split(url: &str) -> Option<(bool, &str, &str)> {
    let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (_, rest) => (true, rest?),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    (!authority.is_empty() && !authority.contains('@')).then_some((tls, authority, path))
}

/// All settings, checked.
#[derive(Debug)]
pub struct Settings {
    pub nodes: Vec<Node>,
    /// Opens the side-doors of the nodes; never shown.
    pub secret: String,
    /// Stored records by key id, as JSON.
    pub keys: HashMap<String, Vec<u8>>,
    pub models: Vec<Model>,
    /// Whose access tokens are taken.
    pub issuers: Issuers,
}

static SETTINGS: OnceLock<Settings> = OnceLock::new();

impl Settings {
    /// What was read before; none before the first [`Settings::load`] that succeeded.
    pub fn get() -> Option<&'static Self> {
        SETTINGS.get()
    }

    /// Reads and keeps the settings. A failure is not kept: the next request tries again.
    pub async fn load<H: Host>() -> Result<&'static Self, String> {
        if let Some(settings) = SETTINGS.get() {
            return Ok(settings);
        }
        let settings = Self {
            nodes: nodes(&required::<H>("nodes").await?)?,
            secret: required::<H>("node_secret").await?,
            keys: keys(&H::setting("keys").await?.unwrap_or_default())?,
            models: models(&required::<H>("models").await?)?,
            issuers: Issuers::read(&H::setting("issuers").await?.unwrap_or_default())?,
        };
        Ok(SETTINGS.get_or_init(|| settings))
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }
}

async fn required<H: Host>(name: &str) -> Result<String, String> {
    match H::setting(name).await? {
        Some(value) if !value.trim().is_empty() => Ok(value),
        _ => Err(format!("the setting '{name}' is missing")),
    }
}

/// `http://host:port,...`
fn nodes(text: &str) -> Result<Vec<Node>, String> {
    text.split(',').map(|node| Node::parse(node).map_err(|e| format!("in the setting 'nodes': {e}"))).collect()
}

/// A JSON list of key records, as `littoral key create` writes them; empty when keys are kept elsewhere.
fn keys(text: &str) -> Result<HashMap<String, Vec<u8>>, String> {
    if text.trim().is_empty() {
        return Ok(HashMap::new());
    }
    // Where it went wrong, but never the text: it is about credentials.
    let wrong = |e: serde_json::Error| {
        format!("the setting 'keys' is no JSON list of key records (line {}, column {})", e.line(), e.column())
    };
    let records: Vec<KeyRecord> = serde_json::from_str(text).map_err(wrong)?;
    records.into_iter().map(|r| Ok((r.id.clone(), serde_json::to_vec(&r).map_err(wrong)?))).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelSetting {
    name: String,
    #[serde(default)]
    revision: String,
    /// Tokens.
    #[serde(default)]
    context_length: u32,
    /// Unix seconds.
    #[serde(default)]
    created: u64,
}

/// `name@revision@context,...` or a JSON list of `{name, revision, context_length, created}`.
fn models(text: &str) -> Result<Vec<Model>, String> {
    let text = text.trim();
    if text.starts_with('[') {
        let list: Vec<ModelSetting> =
            serde_json::from_str(text).map_err(|e| format!("the setting 'models' cannot be read: {e}"))?;
        let model = |ModelSetting { name, revision, context_length, created }| Model {
            name,
            revision,
            context_length,
            created,
        };
        return Ok(list.into_iter().map(model).collect());
    }
    text.split(',').map(|model| short(model.trim())).collect()
}

fn short(text: &str) -> Result<Model, String> {
    let wrong = || format!("in the setting 'models': '{text}' is no model: write name@revision@context");
    let mut parts = text.split('@');
    let name = parts.next().filter(|name| !name.is_empty()).ok_or_else(wrong)?.to_string();
    let revision = parts.next().unwrap_or_default().to_string();
    let context_length = parts.next().map_or(Ok(0), str::parse).map_err(|_| wrong())?;
    match parts.next() {
        None => Ok(Model { name, revision, context_length, created: 0 }),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_addresses() {
        let read = nodes("http://10.0.0.1:9000/, https://gpu.example/pool").unwrap();
        let parts: Vec<_> = read.iter().map(|n| (n.name.as_str(), n.tls, n.shown(), n.base.as_str())).collect();
        assert_eq!(
            parts,
            [
                ("http://10.0.0.1:9000", false, "10.0.0.1:9000", ""),
                ("https://gpu.example/pool", true, "gpu.example", "/pool")
            ]
        );
        for bad in ["", "10.0.0.1:9000", "http://", "grpc://n1", "http://user@host", "http://a,,http://b"] {
            assert!(nodes(bad).unwrap_err().contains("http://host:port"), "{bad}");
        }
    }

    #[test]
    fn models_come_short_or_long() {
        let short = models("a@r1@2048, b").unwrap();
        assert_eq!((short[0].revision.as_str(), short[0].context_length, short[1].name.as_str()), ("r1", 2048, "b"));
        let long = models(r#"[{"name":"a","revision":"r1","context_length":2048}]"#).unwrap();
        assert_eq!(long[0], short[0]);
        for bad in ["@r", "a@r@x", "a@r@1@2", r#"[{"nam":"a"}]"#] {
            assert!(models(bad).unwrap_err().contains("'models'"), "{bad}");
        }
    }

    #[test]
    fn a_broken_list_of_keys_is_not_quoted() {
        assert!(keys("").unwrap().is_empty());
        let error = keys(r#"[{"id":"secret-looking"}]"#).unwrap_err();
        assert!(error.contains("'keys'") && !error.contains("secret-looking"), "{error}");
    }
}
