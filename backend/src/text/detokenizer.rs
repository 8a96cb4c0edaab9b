//! Token ids to text, one at a time, never splitting a character.

use std::sync::Arc;

use super::Tokenizer;

/// Turns a stream of ids into a stream of whole characters. What it gives, joined, is [`Tokenizer::decode`] of all ids.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// The beginning of a character whose other bytes have not come yet: at most 3 bytes between two calls.
    pending: Vec<u8>,
    /// Spaces that are still taken away, at the beginning of the text.
    strip: usize,
}

impl Detokenizer {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let strip = tokenizer.leading_spaces();
        Self { tokenizer, pending: Vec::new(), strip }
    }

    /// Takes the next token; the text that is complete now, if any. Bytes that can never become a character are U+FFFD.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let mut bytes = self.tokenizer.bytes(id);
        while let (1.., [first, rest @ ..]) = (self.strip, bytes) {
            if *first != b' ' {
                self.strip = 0;
                break;
            }
            self.strip -= 1;
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        let text = take_whole(&mut self.pending);
        (!text.is_empty()).then_some(text)
    }

    /// What is left at the end: a character that was never completed is U+FFFD.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

/// Takes all whole characters from the front.
fn take_whole(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    loop {
        match std::str::from_utf8(&pending[done..]) {
            Ok(rest) => {
                text.push_str(rest);
                done = pending.len();
                break;
            }
            Err(e) => {
                let valid = done + e.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&pending[done..valid]));
                done = valid;
                match e.error_len() {
                    Some(bad) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        done += bad;
                    }
                    None => break,
                }
            }
        }
    }
    pending.drain(..done);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut these bytes into three chunks gives the same text as the whole.
    #[test]
    fn every_cut_joins_to_the_same_text() {
        let texts: [&[u8]; 5] = [
            "深度求索 🌊🏖️ á".as_bytes(),
            "👩‍👩‍👧‍👦".as_bytes(),
            b"a\xff\xfe\xe4\xb8b",
            b"\xf0\x9f\x8c",
            b"\xe4\xb8\xe4\xb8\xad\xc0\x80",
        ];
        for bytes in texts {
            for i in 0..=bytes.len() {
                for j in i..=bytes.len() {
                    let mut pending = Vec::new();
                    let mut text = String::new();
                    for chunk in [&bytes[..i], &bytes[i..j], &bytes[j..]] {
                        pending.extend_from_slice(chunk);
                        text.push_str(&take_whole(&mut pending));
                        assert!(pending.len() < 4);
                    }
                    text.push_str(&String::from_utf8_lossy(&pending));
                    assert_eq!(text, String::from_utf8_lossy(bytes), "cut at {i} and {j}");
                }
            }
        }
    }
}
