//! A tokenizer from the metadata of a GGUF file.

use std::path::Path;

use tokenizers::{
    ModelWrapper,
    models::bpe::{BPE, Vocab},
};

use super::{ENDS, Tokenizer};
use crate::{
    text::{
        bytes,
        pretokenizer::{self, PreTokenizer},
        special::{Literal, Specials},
        vocabulary::Vocabulary,
    },
    weights::{
        FileError,
        gguf::{Gguf, GgufError, Value},
    },
};

/// Token types of llama.cpp.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Why the metadata make no tokenizer, before the file's name is added.
pub(super) enum Wrong {
    File(GgufError),
    Unsupported(String),
}

impl Wrong {
    pub fn at(self, path: &Path) -> FileError {
        match self {
            Self::File(source) => FileError::gguf(path)(source),
            Self::Unsupported(what) => FileError::unsupported(path, what),
        }
    }
}

impl From<GgufError> for Wrong {
    fn from(error: GgufError) -> Self {
        Self::File(error)
    }
}

impl Tokenizer {
    /// Reads vocabulary, merges and special tokens.
    pub(super) fn of_gguf(file: &Gguf) -> Result<Self, Wrong> {
        let model = file.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Wrong::Unsupported(format!(
                "the tokenizer '{model}' is not run here; byte-level BPE ('gpt2') is"
            )));
        }
        let pre = file.str("tokenizer.ggml.pre")?;
        let cut = pretokenizer::named(pre).ok_or_else(|| {
            Wrong::Unsupported(format!("the pre-tokenizer '{pre}' is not known here; {} are", pretokenizer::KNOWN))
        })?;
        let tokens = file.strings("tokenizer.ggml.tokens")?;
        let kinds = match file.get("tokenizer.ggml.token_type") {
            Some(_) => file.i32s("tokenizer.ggml.token_type")?,
            None => vec![1; tokens.len()],
        };
        if kinds.len() != tokens.len() || tokens.is_empty() {
            return Err(Wrong::File(GgufError::Value {
                key: "tokenizer.ggml.token_type".into(),
                found: format!("{} types", kinds.len()),
                expected: format!("one for each of the {} tokens", tokens.len()),
            }));
        }
        let model = bpe(file, &tokens, &cut)?;
        let all = || (0u32..).zip(tokens.iter().zip(&kinds)).map(|(id, (token, kind))| (id, *token, *kind));
        let literal = all().filter(|(_, _, kind)| matches!(*kind, CONTROL | USER_DEFINED));
        let specials = literal.map(|(id, token, kind)| Literal {
            text: token.into(),
            id,
            control: kind == CONTROL,
            ..Default::default()
        });
        let specials = Specials::new(specials);
        let vocabulary = Vocabulary::new(all().map(|(_, token, kind)| match kind {
            CONTROL | UNUSED => Vec::new(),
            USER_DEFINED => token.as_bytes().to_vec(),
            _ => bytes::decode(token).unwrap_or_else(|| token.as_bytes().to_vec()),
        }));
        let id = |key: &str| -> Result<Option<u32>, Wrong> {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let Some(value) = file.get(&key) else { return Ok(None) };
            let known = value.as_u64().filter(|id| *id < tokens.len() as u64);
            let wrong = || GgufError::Value {
                key,
                found: value.to_string(),
                expected: format!("the id of one of the {} tokens", tokens.len()),
            };
            Ok(Some(known.ok_or_else(wrong)? as u32))
        };
        let (bos, eos) = (id("bos")?, id("eos")?);
        let mut ends: Vec<u32> = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
        ends.extend(all().filter(|(_, token, kind)| *kind == CONTROL && ENDS.contains(token)).map(|(id, ..)| id));
        ends.sort_unstable();
        ends.dedup();
        let named = [("bos_token", bos), ("eos_token", eos)];
        let names = named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), tokens[id? as usize].to_owned())));
        let add_bos = file.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            normalizer: None,
            cut: Some(cut.cut),
            model: ModelWrapper::BPE(model),
            specials,
            normalized: Specials::default(),
            vocabulary,
            strip: 0,
            bos: bos.filter(|_| add_bos),
            // Templates in GGUF files may have lost their first token: llama.cpp adds it.
            bos_before_chats: true,
            after: Vec::new(),
            ends,
            names: names.collect(),
        })
    }
}

fn bpe(file: &Gguf, tokens: &[&str], cut: &PreTokenizer) -> Result<BPE, Wrong> {
    let key = "tokenizer.ggml.merges";
    let wrong = |found: String, expected: &str| {
        Wrong::File(GgufError::Value { key: key.into(), found, expected: expected.into() })
    };
    let mut merges = Vec::new();
    for merge in file.strings(key)? {
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| wrong(format!("'{merge}'"), "two tokens and a space between"))?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    let vocab: Vocab = tokens.iter().map(|t| (*t).to_owned()).zip(0u32..).collect();
    let built = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(cut.whole_first).build();
    built.map_err(|e| wrong(e.to_string(), "merges of tokens of the vocabulary"))
}
