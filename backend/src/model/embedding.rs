//! Models that make a vector of a text: the hidden state of its last token, after the last norm.

use serde_json::{Map, Value};

use super::error::Problem;
use crate::weights::{Checkpoint, TextSource};

/// The list of a sentence-transformers model's parts.
pub(crate) const MODULES: &str = "modules.json";

/// How a text's vector is made of what the model says of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooling {
    /// Elements of a vector.
    pub dimensions: usize,
    /// Vectors are brought to length 1.
    pub normalize: bool,
}

impl Pooling {
    /// As the checkpoint says: with the parts of a sentence-transformers model (`modules.json`), or by an architecture
    /// without an output matrix (`Qwen2Model`). None for a model that generates text. `dim` is the model's width.
    pub fn of(checkpoint: &Checkpoint, dim: usize) -> Result<Option<Self>, Problem> {
        let TextSource::Folder(files) = checkpoint.text() else { return Ok(None) };
        let unsupported = |what: String| Problem::Unsupported(format!("{MODULES}: {what}"));
        let Some(modules) = files.read(MODULES)? else {
            return Ok(is_headless(checkpoint.config()).then_some(Self { dimensions: dim, normalize: true }));
        };
        let modules: Vec<Map<String, Value>> =
            serde_json::from_slice(&modules).map_err(|e| unsupported(format!("no list of modules: {e}")))?;
        let (mut pools, mut normalize) = (false, false);
        for module in &modules {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            match text("type").rsplit('.').next().unwrap_or_default() {
                "Transformer" if text("path").is_empty() => {}
                "Pooling" if plain(text("path")) => {
                    let name = format!("{}/config.json", text("path"));
                    let bytes = files.read(&name)?.ok_or_else(|| unsupported(format!("{name} is not there")))?;
                    last_token(&bytes).map_err(|what| Problem::Unsupported(format!("{name}: {what}")))?;
                    pools = true;
                }
                "Normalize" => normalize = true,
                other => {
                    return Err(unsupported(format!("the module '{other}' in '{}' is not run here", text("path"))));
                }
            }
        }
        match pools {
            true => Ok(Some(Self { dimensions: dim, normalize })),
            false => Err(unsupported("it names no module that pools".into())),
        }
    }

    /// The vector as it is given out: its first `dimensions` elements, at length 1 if the model's vectors are.
    pub fn finish(&self, mut hidden: Vec<f32>, dimensions: usize) -> Vec<f32> {
        hidden.truncate(dimensions);
        if self.normalize {
            let length = hidden.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            // As torch's `normalize` does with a vector of zeros.
            let scale = 1.0 / length.max(1e-12);
            hidden.iter_mut().for_each(|x| *x = (f64::from(*x) * scale) as f32);
        }
        hidden
    }
}

/// Whether the architecture is a model without a head.
fn is_headless(config: &Map<String, Value>) -> bool {
    let first = config.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    first.is_some_and(|name| name.ends_with("Model"))
}

/// Refuses every pooling but that of the last token: it alone is known when the last token is computed.
fn last_token(config: &[u8]) -> Result<(), String> {
    let config: Map<String, Value> = serde_json::from_slice(config).map_err(|e| format!("no JSON object: {e}"))?;
    let said = config.get("pooling_mode").and_then(Value::as_str).map(str::to_owned);
    let set = config.iter().filter(|(_, set)| set.as_bool() == Some(true));
    let flagged = set.filter_map(|(key, _)| key.strip_prefix("pooling_mode_").map(str::to_owned));
    let modes: Vec<String> = flagged.chain(said).collect();
    match modes.as_slice() {
        [mode] if mode == "lasttoken" => Ok(()),
        [] => Err("it names no pooling".into()),
        modes => Err(format!("pooling by {} is not run here; by 'lasttoken' is", modes.join(" and "))),
    }
}

/// A folder beside the model's files, not one elsewhere.
fn plain(path: &str) -> bool {
    !path.is_empty() && path != ".." && !path.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_token_is_pooled() {
        let flags = |mode: &str| {
            format!(
                r#"{{"word_embedding_dimension": 8, "pooling_mode_{mode}": true, "pooling_mode_cls_token": false, "include_prompt": true}}"#
            )
        };
        assert_eq!(last_token(flags("lasttoken").as_bytes()), Ok(()));
        assert_eq!(last_token(br#"{"pooling_mode": "lasttoken"}"#), Ok(()));
        for (config, word) in
            [(flags("mean_tokens"), "mean_tokens"), ("{}".into(), "no pooling"), ("[]".into(), "object")]
        {
            let refused = last_token(config.as_bytes()).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn vectors_are_cut_before_they_are_brought_to_length_one() {
        let pooling = Pooling { dimensions: 3, normalize: true };
        assert_eq!(pooling.finish(vec![3.0, 4.0, 9.0], 2), [0.6, 0.8]);
        assert_eq!(Pooling { normalize: false, ..pooling }.finish(vec![3.0, 4.0, 9.0], 3), [3.0, 4.0, 9.0]);
        assert_eq!(pooling.finish(vec![0.0; 3], 3), [0.0; 3]);
    }

    #[test]
    fn paths_stay_in_the_folder() {
        assert!(plain("1_Pooling"));
        for path in ["", "..", "../x", "/etc", "a/b", "a\\b"] {
            assert!(!plain(path), "{path}");
        }
    }
}
