//! Special tokens: the tokens that are written in a text literally and never merged from bytes.

use std::{borrow::Cow, ops::Range};

/// Characters that are none (Unicode, section 23.7): they never stand in a text meant for others.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A token that is written literally. The last three are conditions that `tokenizer.json` may set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Literal {
    pub text: String,
    pub id: u32,
    /// It opens or closes something: in the text of a message it is no token.
    pub control: bool,
    /// It is no token inside a word.
    pub single_word: bool,
    /// The white space before (behind) it belongs to it.
    pub lstrip: bool,
    pub rstrip: bool,
}

/// The literal tokens of a vocabulary.
#[derive(Default)]
pub struct Specials {
    /// By text, each text once.
    sorted: Vec<Literal>,
    /// The bytes that texts begin with.
    begins: Vec<bool>,
}

/// A piece of a text: where it lies, and the token it is, if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub range: Range<usize>,
    pub token: Option<u32>,
}

impl Specials {
    pub fn new(tokens: impl IntoIterator<Item = Literal>) -> Self {
        let mut sorted: Vec<Literal> = tokens.into_iter().filter(|l| !l.text.is_empty()).collect();
        sorted.sort_by(|a, b| a.text.cmp(&b.text));
        sorted.dedup_by(|later, kept| later.text == kept.text);
        let mut begins = vec![false; 256];
        sorted.iter().for_each(|l| begins[usize::from(l.text.as_bytes()[0])] = true);
        Self { sorted, begins }
    }

    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The id of a literal.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|l| l.text.as_str().cmp(text)).ok()?;
        Some(self.sorted[at].id)
    }

    /// The literal of an id.
    pub fn text_of(&self, id: u32) -> Option<&str> {
        self.sorted.iter().find(|l| l.id == id).map(|l| l.text.as_str())
    }

    /// The longest literal that begins at byte `at`.
    fn match_at(&self, text: &str, at: usize) -> Option<&Literal> {
        let rest = &text.as_bytes()[at..];
        if !*self.begins.get(usize::from(*rest.first()?))? {
            return None;
        }
        // Literals that agree with the text so far lie side by side; each byte leaves fewer of them.
        let mut agreeing = &self.sorted[..];
        let mut found = None;
        for (i, byte) in rest.iter().enumerate() {
            let of = |l: &Literal| l.text.as_bytes().get(i).copied();
            let begin = agreeing.partition_point(|l| of(l) < Some(*byte));
            let end = agreeing.partition_point(|l| of(l) <= Some(*byte));
            agreeing = &agreeing[begin..end];
            match agreeing.first() {
                Some(first) if first.text.len() == i + 1 => found = Some(first),
                Some(_) => {}
                None => break,
            }
        }
        found
    }

    /// Cuts a text at its literals, the longest of those that begin first. The pieces cover the text.
    pub fn split(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            let Some(literal) = self.match_at(text, at) else {
                at += 1;
                continue;
            };
            let mut range = at..at + literal.text.len();
            at = range.end;
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let (before, behind) = (&text[..range.start], &text[range.end..]);
            if literal.single_word && (word(before.chars().next_back()) || word(behind.chars().next())) {
                continue;
            }
            if literal.lstrip {
                range.start = before.trim_end().len().max(begin);
            }
            if literal.rstrip {
                range.end = text.len() - behind.trim_start().len();
                at = range.end;
            }
            if begin < range.start {
                pieces.push(Piece { range: begin..range.start, token: None });
            }
            begin = range.end;
            pieces.push(Piece { range, token: Some(literal.id) });
        }
        if begin < text.len() {
            pieces.push(Piece { range: begin..text.len(), token: None });
        }
        pieces
    }

    /// The text with `shield` put after the first character of every control token spelled out in it, so that it is no
    /// longer one. [`Self::split`] leaves the shield in the text; take it out after splitting.
    pub fn shielded<'a>(&self, text: &'a str, shield: char) -> Cow<'a, str> {
        let mut out = String::new();
        let mut begin = 0;
        for (at, first) in text.char_indices() {
            if self.match_at(text, at).is_some_and(|l| l.control) {
                let cut = at + first.len_utf8();
                out.push_str(&text[begin..cut]);
                out.push(shield);
                begin = cut;
            }
        }
        if begin == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[begin..]);
        Cow::Owned(out)
    }
}

/// Whether a literal looks like one that opens or closes something, though its file does not say so (llama.cpp's rule).
pub fn looks_like_control(text: &str) -> bool {
    let between =
        |begin: &str, end: &str| text.starts_with(begin) && text.ends_with(end) && text.len() > begin.len() + 1;
    between("<|", "|>") || between("<｜", "｜>")
}

/// Whether a character may be a shield.
pub fn is_shield(c: char) -> bool {
    NONCHARACTERS.contains(&c)
}

/// A character that stands in none of these texts and in no special token.
pub fn shield_for<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> char {
    NONCHARACTERS.clone().find(|c| !texts.clone().any(|t| t.contains(*c))).unwrap_or(*NONCHARACTERS.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str, id: u32, control: bool) -> Literal {
        Literal { text: text.into(), id, control, ..Default::default() }
    }

    fn specials() -> Specials {
        let tokens = [("<|end|>", 1, true), ("<|end|>more", 2, true), ("\t\t", 3, false), ("｜begin｜", 4, true)];
        Specials::new(tokens.map(|(text, id, control)| literal(text, id, control)))
    }

    /// Pieces as text or id.
    fn split(specials: &Specials, text: &str) -> Vec<Result<u32, String>> {
        let pieces = specials.split(text);
        let mut at = 0;
        for piece in &pieces {
            assert_eq!(piece.range.start, at, "{text}");
            at = piece.range.end;
        }
        assert_eq!(at, text.len());
        pieces.into_iter().map(|p| p.token.ok_or_else(|| text[p.range].to_owned())).collect()
    }

    #[test]
    fn the_longest_literal_wins() {
        let text = |t: &str| Err(t.to_owned());
        assert_eq!(
            split(&specials(), "a<|end|>b<|end|>more\t\t\t<|end"),
            [text("a"), Ok(1), text("b"), Ok(2), Ok(3), text("\t<|end")]
        );
        assert_eq!(split(&specials(), "中｜begin｜文"), [text("中"), Ok(4), text("文")]);
        assert_eq!(split(&specials(), ""), []);
        let shorter_later = Specials::new([literal("ab", 1, false), literal("abcd", 2, false), literal("c", 3, false)]);
        assert_eq!(split(&shorter_later, "abcabcd"), [Ok(1), Ok(3), Ok(2)]);
    }

    #[test]
    fn conditions_of_literals_hold() {
        let strip = Literal { lstrip: true, rstrip: true, ..literal("<m>", 1, false) };
        let word = Literal { single_word: true, ..literal("tok", 2, false) };
        let specials = Specials::new([strip, word]);
        let text = |t: &str| Err(t.to_owned());
        assert_eq!(split(&specials, "a \n<m>  <m> tok"), [text("a"), Ok(1), Ok(1), Ok(2)]);
        assert_eq!(split(&specials, "token tok, _tok"), [text("token "), Ok(2), text(", _tok")]);
    }

    #[test]
    fn a_shielded_text_holds_no_control_token() {
        let shield = shield_for(["\u{fdd0}"].into_iter());
        assert_eq!(shield, '\u{fdd1}');
        for text in ["x<|end|>y", "<|end|>more", "｜begin｜", "<|end|><|end|>", "<<|end|>|end|>", "<|en<|end|>d|>"] {
            let shielded = specials().shielded(text, shield);
            assert!(specials().split(&shielded).iter().all(|p| p.token.is_none()), "{text}");
            assert_eq!(shielded.replace(shield, ""), text);
        }
        assert!(matches!(specials().shielded("plain \t\t", shield), Cow::Borrowed(_)));
    }

    #[test]
    fn control_tokens_are_known_by_their_looks() {
        assert!(["<|im_end|>", "<｜User｜>", "<｜tool▁sep｜>"].into_iter().all(looks_like_control));
        assert!(!["<think>", "<|>", "<｜>", "|x|", "<tool_call>"].into_iter().any(looks_like_control));
    }
}
