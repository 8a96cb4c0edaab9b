//! How a model's makers want text to be drawn from it, and where it ends.

use std::path::Path;

use serde_json::{Map, Value};

use super::{FileError, gguf::Gguf};

/// What `generation_config.json` (in GGUF: `general.sampling.*`) says. What it does not say is None.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// Generation ends at these tokens.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    /// False: greedy unless asked otherwise.
    pub do_sample: Option<bool>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
}

impl Generation {
    /// From a folder's `generation_config.json`, the file `path`; `config` is its `config.json`, whose ends count where the
    /// other names none.
    pub(super) fn of_folder(
        path: &Path,
        generation: &Map<String, Value>,
        config: &Map<String, Value>,
    ) -> Result<Self, FileError> {
        let number = |key: &str| generation.get(key).and_then(Value::as_f64);
        let either = |key: &str| [generation, config].into_iter().find_map(|m| m.get(key).filter(|v| !v.is_null()));
        let id = |key: &str, value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| FileError::damaged(path, format!("'{key}' is {value}; expected a token's id")))
        };
        let eos_token_ids = match either("eos_token_id") {
            None => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(|v| id("eos_token_id", v)).collect::<Result<_, _>>()?,
            Some(one) => vec![id("eos_token_id", one)?],
        };
        // Some models write null or -1 for no such token.
        let bos_token_id = either("bos_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        Ok(Self {
            eos_token_ids,
            bos_token_id,
            do_sample: generation.get("do_sample").and_then(Value::as_bool),
            temperature: number("temperature"),
            top_p: number("top_p"),
            top_k: generation.get("top_k").and_then(Value::as_u64).and_then(|k| u32::try_from(k).ok()),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
        })
    }

    pub(super) fn of_gguf(file: &Gguf) -> Self {
        let number = |key: &str| file.get(&format!("general.sampling.{key}")).and_then(|v| v.as_f64());
        let id = |key: &str| {
            let value = file.get(&format!("tokenizer.ggml.{key}_token_id"));
            value.and_then(|v| v.as_u64()).and_then(|id| u32::try_from(id).ok())
        };
        Self {
            eos_token_ids: ["eos", "eot", "eom"].into_iter().filter_map(id).collect(),
            bos_token_id: id("bos"),
            do_sample: None,
            temperature: number("temp"),
            top_p: number("top_p"),
            top_k: number("top_k").filter(|k| *k >= 0.0).map(|k| k as u32),
            min_p: number("min_p"),
            repetition_penalty: number("penalty_repeat"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(generation: Value, config: Value) -> Result<Generation, FileError> {
        let map = |value: Value| value.as_object().cloned().unwrap_or_default();
        Generation::of_folder(Path::new("g.json"), &map(generation), &map(config))
    }

    #[test]
    fn ends_are_one_or_several_and_fall_back_to_the_configuration() {
        let ends = |generation, config| read(generation, config).map(|g| g.eos_token_ids);
        assert_eq!(ends(json!({ "eos_token_id": [2, 3] }), json!({ "eos_token_id": 9 })).unwrap(), [2, 3]);
        assert_eq!(ends(json!({ "eos_token_id": 2 }), json!({})).unwrap(), [2]);
        assert_eq!(ends(json!({ "eos_token_id": null }), json!({ "eos_token_id": 9 })).unwrap(), [9]);
        assert!(ends(json!({}), json!({})).unwrap().is_empty());
        let refused = ends(json!({ "eos_token_id": "</s>" }), json!({})).unwrap_err().to_string();
        assert_eq!(refused, "g.json: 'eos_token_id' is \"</s>\"; expected a token's id");
    }

    #[test]
    fn defaults_are_what_the_file_says_and_nothing_else() {
        let said =
            read(json!({ "do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20 }), json!({})).unwrap();
        assert_eq!(
            (said.do_sample, said.temperature, said.top_p, said.top_k),
            (Some(true), Some(0.6), Some(0.95), Some(20))
        );
        assert_eq!(said.repetition_penalty, None);
        assert_eq!(read(json!({}), json!({})).unwrap(), Generation::default());
    }
}
