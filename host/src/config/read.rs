//! From text to [`Config`], or an error that says which key to change.

use std::{io, path::Path};

use serde::Deserialize;

use super::{Cache, Config, Edge, Fleet, Keys, Node, Retrieval, access, auth, check_nodes, known};
use crate::guest::GuestConfig;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("there is no key '{key}'; the nearest is '{nearest}' (known here: {})", .known.join(", "))]
    Unknown { key: String, nearest: String, known: Vec<&'static str> },
    #[error("{key}: {message}")]
    Invalid { key: String, message: String },
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.display().to_string(), source };
    parse(&std::fs::read_to_string(path).map_err(unreadable)?)
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let file: toml::Table = text.parse()?;
    known::check::<Config>("", &file)?;
    section::<Edge>("edge", &file)?;
    section::<Node>("node", &file)?;
    section::<Fleet>("fleet", &file)?;
    section::<Cache>("cache", &file)?;
    section::<Retrieval>("retrieval", &file)?;
    section::<GuestConfig>("guest", &file)?;
    section::<Keys>("keys", &file)?;
    access::known(&file)?;
    auth::known(&file)?;
    // From the text again, so that an error of type shows the line.
    let mut config: Config = toml::from_str(text)?;
    if !file.contains_key("node") && config.fleet.discovers() {
        // Those that are found are all there are.
        config.node.clear();
    }
    Ok(config)
}

/// Reads the text of a file that holds `[[node]]` sections alone.
pub fn nodes(text: &str) -> Result<Vec<Node>, ConfigError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nodes {
        #[serde(default)]
        node: Vec<Node>,
    }
    let file: toml::Table = text.parse()?;
    known::check::<Nodes>("", &file)?;
    section::<Node>("node", &file)?;
    let Nodes { node } = toml::from_str(text)?;
    check_nodes(&node)?;
    Ok(node)
}

/// Checks the keys of `[name]`, or of each `[[name]]`. A section of another type is left to the typed reading.
pub(super) fn section<'de, T: serde::Deserialize<'de>>(name: &str, file: &toml::Table) -> Result<(), ConfigError> {
    match file.get(name) {
        Some(toml::Value::Table(table)) => known::check::<T>(&format!("{name}."), table),
        Some(toml::Value::Array(list)) => {
            list.iter().filter_map(toml::Value::as_table).try_for_each(|t| known::check::<T>(&format!("{name}."), t))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let cases = [
            ("[egde]\nlisten = '127.0.0.1:1'", "egde", "edge"),
            ("[edge]\nlisen = '127.0.0.1:1'", "edge.lisen", "edge.listen"),
            ("[[node]]\naddress = 'a:1'\nnmae = 'x'", "node.nmae", "node.name"),
            ("[cache]\nttl = 5", "cache.ttl", "cache.ttl_ms"),
            ("[keys]\npath = 'x'", "keys.path", "keys.file"),
        ];
        for (text, expected, suggestion) in cases {
            match parse(text) {
                Err(ConfigError::Unknown { key, nearest, .. }) => {
                    assert_eq!((&*key, &*nearest), (expected, suggestion))
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_type_shows_its_line() {
        let error = parse("[edge]\n\nmax_body_bytes = 'big'").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("max_body_bytes"), "{error}");
        let error = parse("[edge]\nlisten = 'nowhere'").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_whole_file() {
        let config = parse(
            "[edge]\nlisten = '0.0.0.0:80'\nworkers = 3\n[[node]]\nname = 'n1'\naddress = 'localhost:7000'\n\
             [cache]\npolicy = 'always'\nttl_ms = 1000\n[keys]\nfile = '/etc/littoral/keys.json'",
        )
        .unwrap();
        assert_eq!(config.edge.worker_count(), 3);
        assert_eq!(config.node[0].name(), "n1");
        assert_eq!(config.cache.ttl_ms, 1000);
        assert_eq!(config.keys.file.to_str(), Some("/etc/littoral/keys.json"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nowhere/littoral.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/littoral.toml"), "{error}");
    }
}
