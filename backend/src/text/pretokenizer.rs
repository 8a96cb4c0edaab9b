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

const LINE_ENDS: &str = r"[\r\n]";
const HAN_KANA_AND_HANGUL: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
/// Letters that have a case.
const CASED: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}",
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}",
    r"\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}",
    r"\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}",
    r"\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}",
    r"\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}",
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}",
    r"\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}",
    r"\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}",
    r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);
/// Punctuation and symbols of ASCII, their wide forms, and quotation marks.
const MARKS: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";

/// What a name stands for.
pub struct PreTokenizer {
    pub cut: PreTokenizerWrapper,
    /// A piece that is a token as a whole is not merged from its bytes.
    pub whole_first: bool,
}

/// The names known here, for messages.
pub const KNOWN: &str =
    "gpt-2, smollm, llama-bpe, qwen2, deepseek-r1-qwen, deepseek-llm, deepseek-coder and deepseek-v3";

/// None: the name is not known, or the pattern does not compile.
pub fn named(name: &str) -> Option<PreTokenizer> {
    let (patterns, whole_first): (&[&str], bool) = match name {
        "gpt-2" => (&[GPT2], false),
        "smollm" => (&[DIGIT, GPT2], false),
        "llama-bpe" | "llama3" | "llama-v3" => (&[LLAMA3], true),
        "qwen2" | "deepseek-r1-qwen" => (&[QWEN2], false),
        "deepseek-llm" => (&[LINE_ENDS, CASED, MARKS, r"\s+$", HAN_KANA_AND_HANGUL, r"\p{N}+"], false),
        "deepseek-coder" => (&[LINE_ENDS, r"\s?\p{L}+", r"\s?\p{P}+", HAN_KANA_AND_HANGUL, DIGIT], false),
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
        assert_eq!(cut("deepseek-llm", text), ["I", "'", "ve", " ", "1234", " ", "中文", "!", "\n", "\n", " x"]);
        assert_eq!(
            cut("deepseek-coder", text),
            ["I", "'", "ve", " ", "1", "2", "3", "4", " ", "中文", "!", "\n", "\n", " x"]
        );
        // The third pattern's range from ':' to '~' holds ASCII's letters: it cuts what the second kept together.
        assert_eq!(
            cut("deepseek-llm", "Été Ωι、“q” 한글  "),
            ["É", "t", "é", " Ωι", "、“", "q", "”", " ", "한글", "  "]
        );
        assert!(named("unheard-of").is_none());
    }
}
