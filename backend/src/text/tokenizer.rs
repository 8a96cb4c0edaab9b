//! Text to token ids and back, built from what a GGUF file carries.

use tokenizers::{
    ModelWrapper, TokenizerImpl,
    models::bpe::{BPE, Vocab},
};

use crate::{
    model::Problem,
    weights::gguf::{Gguf, GgufError, Value},
};

use super::{
    bytes,
    pretokenizer::{self, PreTokenizer},
    special::{Piece, Specials},
};

/// Token types of llama.cpp.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Control tokens that end a turn or a text, besides those the metadata name.
const ENDS: [&str; 9] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|EOT|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

type Bpe = TokenizerImpl<
    ModelWrapper,
    tokenizers::NormalizerWrapper,
    tokenizers::PreTokenizerWrapper,
    tokenizers::PostProcessorWrapper,
    tokenizers::DecoderWrapper,
>;

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    bpe: Bpe,
    specials: Specials,
    /// What every id stands for: `text[starts[id]..starts[id + 1]]`.
    text: Vec<u8>,
    starts: Vec<u32>,
    /// The token put before every text, if the file asks for one.
    bos: Option<u32>,
    ends: Vec<u32>,
    /// The special tokens that templates may write.
    pub(super) bos_text: String,
    pub(super) eos_text: String,
}

impl Tokenizer {
    /// Reads vocabulary, merges and special tokens.
    pub(crate) fn of(file: &Gguf) -> Result<Self, Problem> {
        let model = file.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Problem::Unsupported(format!(
                "the tokenizer '{model}' is not run here; byte-level BPE ('gpt2') is"
            )));
        }
        let pre = file.str("tokenizer.ggml.pre")?;
        let cut = pretokenizer::named(pre).ok_or_else(|| {
            Problem::Unsupported(format!("the pre-tokenizer '{pre}' is not known here; {} are", pretokenizer::KNOWN))
        })?;
        let tokens = file.strings("tokenizer.ggml.tokens")?;
        let kinds = match file.get("tokenizer.ggml.token_type") {
            Some(_) => file.i32s("tokenizer.ggml.token_type")?,
            None => vec![1; tokens.len()],
        };
        if kinds.len() != tokens.len() || tokens.is_empty() {
            return Err(Problem::File(GgufError::Value {
                key: "tokenizer.ggml.token_type".into(),
                found: format!("{} types", kinds.len()),
                expected: format!("one for each of the {} tokens", tokens.len()),
            }));
        }
        let bpe = bpe(file, &tokens, cut)?;
        let literal = |kind: i32| matches!(kind, CONTROL | USER_DEFINED);
        let specials = (0u32..).zip(tokens.iter().zip(&kinds)).filter(|(_, (_, kind))| literal(**kind));
        let specials = Specials::new(specials.map(|(id, (token, kind))| ((*token).to_owned(), id, *kind == CONTROL)));
        let mut text = Vec::new();
        let mut starts = vec![0];
        for (token, kind) in tokens.iter().zip(&kinds) {
            match *kind {
                CONTROL | UNUSED => {}
                USER_DEFINED => text.extend_from_slice(token.as_bytes()),
                _ => text.extend(bytes::decode(token).unwrap_or_else(|| token.as_bytes().to_vec())),
            }
            starts.push(text.len() as u32);
        }
        let id = |key: &str| -> Result<Option<u32>, Problem> {
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
        let control = (0u32..).zip(tokens.iter().zip(&kinds)).filter(|(_, (_, kind))| **kind == CONTROL);
        ends.extend(control.filter(|(_, (token, _))| ENDS.contains(token)).map(|(id, _)| id));
        ends.sort_unstable();
        ends.dedup();
        let named = |id: Option<u32>| id.map(|id| tokens[id as usize].to_owned()).unwrap_or_default();
        let add_bos = file.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            bpe,
            specials,
            text,
            starts,
            ends,
            bos_text: named(bos),
            eos_text: named(eos),
            bos: bos.filter(|_| add_bos),
        })
    }

    /// Ids of `text`. Special tokens written in the text are recognised; the beginning-of-sequence token is put first
    /// when the file asks for it and the text does not already start with it.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_shielded(text, None)
    }

    /// As [`Self::encode`], taking `shield` out of what is no special token.
    pub(super) fn encode_shielded(&self, text: &str, shield: Option<char>) -> Vec<u32> {
        let mut ids = Vec::new();
        for piece in self.specials.split(text) {
            match (piece, shield) {
                (Piece::Token(id), _) => ids.push(id),
                (Piece::Text(text), Some(shield)) if text.contains(shield) => {
                    self.merge(&text.replace(shield, ""), &mut ids);
                }
                (Piece::Text(text), _) => self.merge(text, &mut ids),
            }
        }
        if let Some(bos) = self.bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Appends the ids of a text without special tokens.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        // Byte-level BPE knows every byte, so that no text is refused; a vocabulary with holes skips what it lacks.
        if let Ok(encoding) = self.bpe.encode_fast(text, false) {
            ids.extend_from_slice(encoding.get_ids());
        }
    }

    pub(super) fn specials(&self) -> &Specials {
        &self.specials
    }

    /// Whether generation ends at this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The tokens at which generation ends.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The bytes a token stands for; control tokens and unknown ids stand for none.
    pub fn bytes(&self, id: u32) -> &[u8] {
        match self.starts.get(id as usize..).and_then(|s| s.get(..2)) {
            Some(range) => &self.text[range[0] as usize..range[1] as usize],
            None => &[],
        }
    }

    /// The text of these tokens, without control tokens; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Number of ids.
    pub fn vocab(&self) -> usize {
        self.starts.len() - 1
    }
}

fn bpe(file: &Gguf, tokens: &[&str], cut: PreTokenizer) -> Result<Bpe, Problem> {
    let key = "tokenizer.ggml.merges";
    let wrong = |found: String, expected: &str| {
        Problem::File(GgufError::Value { key: key.into(), found, expected: expected.into() })
    };
    let mut merges = Vec::new();
    for merge in file.strings(key)? {
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| wrong(format!("'{merge}'"), "two tokens and a space between"))?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    let vocab: Vocab = tokens.iter().map(|t| (*t).to_owned()).zip(0u32..).collect();
    let built = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(cut.whole_first).build();
    let model = built.map_err(|e| wrong(e.to_string(), "merges of tokens of the vocabulary"))?;
    let mut bpe = Bpe::new(ModelWrapper::BPE(model));
    bpe.with_pre_tokenizer(Some(cut.cut));
    Ok(bpe)
}
