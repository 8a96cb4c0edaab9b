//! Special tokens: the tokens that are written in a text literally and never merged from bytes.

use std::borrow::Cow;

/// Characters that are none (Unicode, section 23.7): they never stand in a text meant for others.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// The literal tokens of a vocabulary.
#[derive(Default)]
pub struct Specials {
    /// Literal, id, whether it is a control token; by first byte, the longest first.
    by_first_byte: Vec<Vec<(String, u32, bool)>>,
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Text(&'a str),
    Token(u32),
}

impl Specials {
    pub fn new(tokens: impl Iterator<Item = (String, u32, bool)>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for token in tokens.filter(|(literal, ..)| !literal.is_empty()) {
            by_first_byte[usize::from(token.0.as_bytes()[0])].push(token);
        }
        for list in &mut by_first_byte {
            list.sort_by_key(|(literal, ..)| std::cmp::Reverse(literal.len()));
        }
        Self { by_first_byte }
    }

    /// The longest literal that begins at byte `at`: its length, id, and whether it is a control token.
    fn match_at(&self, text: &str, at: usize) -> Option<(usize, u32, bool)> {
        let list = &self.by_first_byte[usize::from(text.as_bytes()[at])];
        let found = list.iter().find(|(literal, ..)| text.as_bytes()[at..].starts_with(literal.as_bytes()))?;
        Some((found.0.len(), found.1, found.2))
    }

    /// Cuts a text at its literals.
    pub fn split<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let (mut begin, mut at) = (0, 0);
        while at < text.len() {
            let Some((len, id, _)) = self.match_at(text, at) else {
                at += 1;
                continue;
            };
            if begin < at {
                pieces.push(Piece::Text(&text[begin..at]));
            }
            pieces.push(Piece::Token(id));
            at += len;
            begin = at;
        }
        if begin < text.len() {
            pieces.push(Piece::Text(&text[begin..]));
        }
        pieces
    }

    /// The text with `shield` put after the first character of every control token spelled out in it, so that it is no
    /// longer one. [`Self::split`] leaves the shield in the text; take it out after splitting.
    pub fn shielded<'a>(&self, text: &'a str, shield: char) -> Cow<'a, str> {
        let mut out = String::new();
        let mut begin = 0;
        for (at, first) in text.char_indices() {
            if matches!(self.match_at(text, at), Some((.., true))) {
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

/// A character that stands in none of these texts and in no special token.
pub fn shield_for<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> char {
    NONCHARACTERS.clone().find(|c| !texts.clone().any(|t| t.contains(*c))).unwrap_or(*NONCHARACTERS.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        let tokens = [("<|end|>", 1, true), ("<|end|>more", 2, true), ("\t\t", 3, false), ("｜begin｜", 4, true)];
        Specials::new(tokens.into_iter().map(|(s, id, control)| (s.to_owned(), id, control)))
    }

    #[test]
    fn the_longest_literal_wins() {
        use Piece::*;
        assert_eq!(
            specials().split("a<|end|>b<|end|>more\t\t\t<|end"),
            [Text("a"), Token(1), Text("b"), Token(2), Token(3), Text("\t<|end")]
        );
        assert_eq!(specials().split("中｜begin｜文"), [Text("中"), Token(4), Text("文")]);
        assert_eq!(specials().split(""), []);
    }

    #[test]
    fn a_shielded_text_holds_no_control_token() {
        let shield = shield_for(["\u{fdd0}"].into_iter());
        assert_eq!(shield, '\u{fdd1}');
        for text in ["x<|end|>y", "<|end|>more", "｜begin｜", "<|end|><|end|>", "<<|end|>|end|>", "<|en<|end|>d|>"] {
            let shielded = specials().shielded(text, shield);
            assert!(specials().split(&shielded).iter().all(|p| matches!(p, Piece::Text(_))), "{text}");
            assert_eq!(shielded.replace(shield, ""), text);
        }
        assert!(matches!(specials().shielded("plain \t\t", shield), Cow::Borrowed(_)));
    }
}
