//! Text to token ids and back.

mod gguf;
mod json;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Token, normalizer::Range,
};

use super::{special::Specials, vocabulary::Vocabulary};
use crate::weights::{Checkpoint, FileError, TOKENIZER, TextSource};

/// Control tokens that end a turn or a text, besides those the files name.
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

/// A model's tokenizer.
pub struct Tokenizer {
    /// How a text is changed, cut and merged into tokens.
    normalizer: Option<NormalizerWrapper>,
    cut: Option<PreTokenizerWrapper>,
    model: ModelWrapper,
    /// Tokens found in a text as it is, and those found after it was normalised.
    specials: Specials,
    normalized: Specials,
    vocabulary: Vocabulary,
    /// Spaces taken from the beginning of a decoded text.
    strip: usize,
    /// The token put before a text, if the files ask for one; also before a rendered conversation that lacks it?
    bos: Option<u32>,
    bos_before_chats: bool,
    /// What is put behind a text that stands alone.
    after: Vec<u32>,
    ends: Vec<u32>,
    /// Special tokens by their names in templates: `bos_token`, `eos_token`, `pad_token` ...
    names: BTreeMap<String, String>,
}

impl Tokenizer {
    /// A model's tokenizer: of a folder, its `tokenizer.json` as it is (None if there is none), whatever class its
    /// configuration declares; of a GGUF file, what the metadata say.
    pub fn open(checkpoint: &Checkpoint) -> Result<Option<Self>, FileError> {
        match checkpoint.text() {
            TextSource::Gguf(file) => Self::of_gguf(file).map(Some).map_err(|e| e.at(checkpoint.path())),
            TextSource::Folder(files) => {
                let Some(bytes) = files.read(TOKENIZER)? else { return Ok(None) };
                Self::of_json(&bytes, &files.config, &checkpoint.generation().eos_token_ids)
                    .map(Some)
                    .map_err(|what| FileError::damaged(&files.path(TOKENIZER), what))
            }
        }
    }

    /// Ids of `text`. Special tokens written in the text are recognised; the beginning-of-sequence token is put first
    /// when the files ask for it and the text does not already start with it.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.with_bos(self.encode_bare(text))
    }

    /// Ids of `text` and nothing else. Special tokens written in the text are recognised.
    pub fn encode_bare(&self, text: &str) -> Vec<u32> {
        self.ids(text, None)
    }

    /// Ids of a text that stands alone, as an embedding model wants it: with what the files put before and behind it.
    pub fn encode_whole(&self, text: &str) -> Vec<u32> {
        let mut ids = self.encode(text);
        ids.extend(&self.after);
        ids
    }

    /// Ids of a conversation as a template wrote it, taking `shield` out of what is no special token.
    pub(super) fn encode_chat(&self, text: &str, shield: char) -> Vec<u32> {
        let ids = self.ids(text, Some(shield));
        if self.bos_before_chats { self.with_bos(ids) } else { ids }
    }

    fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    fn ids(&self, text: &str, shield: Option<char>) -> Vec<u32> {
        self.try_ids(text, shield).unwrap_or_else(|error| {
            // Only a vocabulary with holes and without a token for what it does not know comes here.
            tracing::warn!(%error, "a text could not be tokenised");
            Vec::new()
        })
    }

    /// As the `tokenizers` crate does it, but for the shield.
    fn try_ids(&self, text: &str, shield: Option<char>) -> tokenizers::Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| Ok(cut(&piece, &self.specials)))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = &self.normalizer {
                normalizer.normalize(&mut piece)?;
            }
            let mut pieces = cut(&piece, &self.normalized);
            if let Some(shield) = shield {
                for (piece, _) in pieces.iter_mut().filter(|(p, token)| token.is_none() && p.get().contains(shield)) {
                    piece.filter(|c| c != shield);
                }
            }
            Ok(pieces)
        })?;
        if let Some(cut) = &self.cut {
            cut.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    /// The text with a shield in every control token spelled out in it.
    pub(super) fn shielded(&self, text: &str, shield: char) -> String {
        let text = self.specials.shielded(text, shield);
        self.normalized.shielded(&text, shield).into_owned()
    }

    /// Whether generation ends at this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The tokens that end generation, ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The token put before every text, if the files ask for one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id of a token that is written literally, e.g. `</think>`.
    pub fn special(&self, text: &str) -> Option<u32> {
        self.specials.id_of(text).or_else(|| self.normalized.id_of(text))
    }

    /// The text of a token that is written literally, control tokens included.
    pub fn literal(&self, id: u32) -> Option<&str> {
        self.specials.text_of(id).or_else(|| self.normalized.text_of(id))
    }

    /// The bytes a token stands for; special tokens and unknown ids stand for none.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// Spaces that are taken from the beginning of a text when it is put together from [`Self::bytes`].
    pub fn leading_spaces(&self) -> usize {
        self.strip
    }

    /// The text of these tokens, without special tokens; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.bytes(*id)).copied().collect();
        let strip = bytes.iter().take(self.strip).take_while(|b| **b == b' ').count();
        String::from_utf8_lossy(&bytes[strip..]).into_owned()
    }

    /// Number of ids; the largest id is one less.
    pub fn vocab(&self) -> usize {
        self.vocabulary.len()
    }

    /// The special tokens that templates may write, by name.
    pub(super) fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }
}

type Cut = (NormalizedString, Option<Vec<Token>>);

/// The pieces of a text between literals, and the literals as tokens.
fn cut(text: &NormalizedString, literals: &Specials) -> Vec<Cut> {
    if literals.is_empty() {
        return vec![(text.clone(), None)];
    }
    let piece = |range: std::ops::Range<usize>| text.slice(Range::Normalized(range));
    let token = |id| vec![Token { id, value: String::new(), offsets: (0, 0) }];
    literals.split(text.get()).into_iter().filter_map(|p| Some((piece(p.range)?, p.token.map(token)))).collect()
}
