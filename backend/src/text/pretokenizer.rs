//! How text is cut before byte pairs are merged, by the name the file gives (`tokenizer.ggml.pre`).

use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}{1,3}";
const HAN_AND_KANA: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// What a name stands for.
pub struct PreTokenizer {
    pub cut: PreTokenizerWrapper,
    /// A piece that is a token as a whole is not merged from its bytes.
    pub whole_first: bool,
}

/// The names known here, for messages.
pub const KNOWN: &str = "gpt-2, smollm, llama-bpe, qwen2, deepseek-r1-qwen and deepseek-v3";

/// None: the name is not known, or the pattern does not compile.
pub fn named(name: &str) -> Option<PreTokenizer> {
    let (patterns, whole_first): (&[&str], bool) = match name {
        "gpt-2" => (&[GPT2], false),
        "smollm" => (&[DIGIT, GPT2], false),
        "llama-bpe" | "llama3" | "llama-v3" => (&[LLAMA3], true),
        "qwen2" | "deepseek-r1-qwen" => (&[QWEN2], false),
        "deepseek-v3" => (&[DIGITS, HAN_AND_KANA, DEEPSEEK], false),
        _ => return None,
    };
    let mut steps = Vec::with_capacity(patterns.len() + 1);
    for pattern in patterns {
        let split = Split::new(SplitPattern::Regex((*pattern).into()), SplitDelimiterBehavior::Isolated, false).ok()?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)));
    Some(PreTokenizer { cut: PreTokenizerWrapper::Sequence(Sequence::new(steps)), whole_first })
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn cut(name: &str, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        named(name).unwrap().cut.pre_tokenize(&mut pieces).unwrap();
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (a, b), _)| text[a..b].to_owned()).collect()
    }

    #[test]
    fn digits_and_words_are_cut_as_the_names_say() {
        let text = "I've 1234 中文!\n\n x";
        assert_eq!(cut("gpt-2", text), ["I", "'ve", " 1234", " 中文", "!", "\n\n", " x"]);
        assert_eq!(cut("smollm", text), ["I", "'ve", " ", "1", "2", "3", "4", " 中文", "!", "\n\n", " x"]);
        assert_eq!(cut("llama-bpe", text), ["I", "'ve", " ", "123", "4", " 中文", "!\n\n", " x"]);
        assert_eq!(cut("qwen2", text), ["I", "'ve", " ", "1", "2", "3", "4", " 中文", "!\n\n", " x"]);
        assert_eq!(cut("deepseek-v3", text), ["I", "'ve", " ", "123", "4", " ", "中文", "!\n\n", " x"]);
        assert!(named("unheard-of").is_none());
    }
}
