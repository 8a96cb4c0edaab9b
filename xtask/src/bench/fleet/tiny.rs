//! A tiny checkpoint that can hold a conversation: the golden one's weights with a longer context, a tokenizer of single
//! characters and a template.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::place;

const CONTEXT: u32 = 8192;
const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>";

/// The checkpoint's folder, made in `dir`.
pub fn make(dir: &Path) -> Result<PathBuf> {
    let golden = place::root().join("backend/golden/tiny/llama");
    let folder = dir.join("tiny");
    fs::create_dir_all(&folder)?;
    let text = fs::read_to_string(golden.join("config.json")).context("the golden checkpoint is not there")?;
    let mut config: Value = serde_json::from_str(&text)?;
    let size = config["vocab_size"].as_u64().context("the golden configuration names no size of its vocabulary")?;
    config["max_position_embeddings"] = CONTEXT.into();
    config["rope_scaling"] = Value::Null;
    write(&folder.join("config.json"), &config)?;
    write(&folder.join("tokenizer.json"), &tokenizer(size))?;
    let names = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE});
    write(&folder.join("tokenizer_config.json"), &names)?;
    fs::copy(golden.join("generation_config.json"), folder.join("generation_config.json"))?;
    fs::copy(golden.join("model.safetensors"), folder.join("model.safetensors"))?;
    Ok(folder)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, serde_json::to_vec_pretty(value)?).with_context(|| format!("cannot write {}", path.display()))
}

/// Printable ASCII, a token a character; what is left of the vocabulary are words that no text is cut into.
fn tokenizer(size: u64) -> Value {
    let special = ["<unk>", "<s>", "</s>", "<|end|>"];
    let mut vocabulary = Map::new();
    let mut add = |token: String| {
        let id = vocabulary.len() as u64;
        if id < size {
            vocabulary.insert(token, id.into());
        }
    };
    special.iter().for_each(|token| add((*token).into()));
    // What byte-level tokenizers write for space and line feed.
    add("\u{120}".into());
    add("\u{10a}".into());
    (b'!'..=b'~').for_each(|byte| add(char::from(byte).into()));
    (0..size).for_each(|i| add(format!("word{i}")));
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": []}
    })
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn every_id_is_a_token_and_every_character_one_of_them() {
        let made = tokenizer(192);
        let vocabulary = made["model"]["vocab"].as_object().unwrap();
        let mut ids: Vec<_> = vocabulary.values().map(|id| id.as_u64().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..192).collect::<Vec<_>>());
        assert!(["a", "~", "\u{120}", "\u{10a}", "</s>"].iter().all(|token| vocabulary.contains_key(*token)));
    }
}
