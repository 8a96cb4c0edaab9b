//! How the decoder of a `tokenizer.json` reads a token: as bytes, one token at a time.

use serde_json::Value;

use super::bytes;

/// The decoder of a tokenizer. Steps that look at a text as a whole are folded into [`Self::strip`].
#[derive(Debug, Default, PartialEq)]
pub struct Decoder {
    steps: Vec<Step>,
    /// Spaces taken from the beginning of a text.
    pub strip: usize,
}

#[derive(Debug, PartialEq)]
enum Step {
    /// Characters of [`bytes`]' alphabet.
    ByteLevel,
    /// `<0xE4>` is one byte.
    ByteFallback,
    Replace(String, String),
    Prefix(String),
}

impl Decoder {
    /// From the decoder as JSON; `null` if there is none. An error names what is not read here.
    pub fn of(json: &Value) -> Result<Self, String> {
        let mut decoder = Self::default();
        if json.is_null() {
            // Tokens are words, with a space between.
            decoder.steps.push(Step::Prefix(" ".into()));
            decoder.strip = 1;
        } else {
            decoder.add(json)?;
        }
        Ok(decoder)
    }

    fn add(&mut self, json: &Value) -> Result<(), String> {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        match &*text("type") {
            "Sequence" => return json["decoders"].as_array().into_iter().flatten().try_for_each(|d| self.add(d)),
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => {}
            "Replace" => match json["pattern"]["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => self.steps.push(Step::Replace(pattern.into(), text("content"))),
                _ => return Err(format!("replaces by {}, where only a plain text is read", json["pattern"])),
            },
            "Metaspace" => {
                let replacement = text("replacement");
                if replacement.is_empty() {
                    return Err("is a Metaspace without a replacement".into());
                }
                self.steps.push(Step::Replace(replacement, " ".into()));
                self.strip = usize::from(text("prepend_scheme") != "never");
            }
            "Strip" if json["content"] == " " && json["stop"] == 0 => {
                self.strip = json["start"].as_u64().unwrap_or(0).min(64) as usize;
            }
            other => {
                return Err(format!(
                    "is {other}, which is not read; ByteLevel, ByteFallback, Metaspace, Replace and Strip (of leading spaces) are"
                ));
            }
        }
        Ok(())
    }

    /// The bytes of a token.
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => return bytes::decode(&text).unwrap_or_else(|| text.into_bytes()),
                Step::ByteFallback => {
                    if let Some(byte) = fallback(&text) {
                        return vec![byte];
                    }
                }
                Step::Replace(pattern, with) => text = text.replace(pattern, with),
                Step::Prefix(prefix) => text.insert_str(0, prefix),
            }
        }
        text.into_bytes()
    }
}

/// The byte that `<0xE4>` stands for.
fn fallback(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(decoder: &Value, token: &str) -> Vec<u8> {
        Decoder::of(decoder).unwrap().bytes(token)
    }

    #[test]
    fn every_kind_reads_its_tokens() {
        let level = json!({ "type": "ByteLevel", "add_prefix_space": true });
        assert_eq!(text(&level, "Ġaä"), b" a\xe4");
        assert_eq!(text(&level, "<｜User｜>"), "<｜User｜>".as_bytes());
        let llama = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]});
        assert_eq!(text(&llama, "▁a▁b"), b" a b");
        assert_eq!(text(&llama, "<0xE4>"), b"\xe4");
        assert_eq!(text(&llama, "<0x+4>"), b"\x04".map(|_| 4));
        assert_eq!(text(&llama, "<0xE>"), b"<0xE>");
        assert_eq!(Decoder::of(&llama).unwrap().strip, 1);
        let meta = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
        assert_eq!((text(&meta, "▁a"), Decoder::of(&meta).unwrap().strip), (b" a".to_vec(), 1));
        assert_eq!((text(&Value::Null, "a"), Decoder::of(&Value::Null).unwrap().strip), (b" a".to_vec(), 1));
    }

    #[test]
    fn what_is_not_read_is_named() {
        let refused = |json: Value| Decoder::of(&json).unwrap_err();
        assert!(refused(json!({ "type": "WordPiece", "prefix": "##" })).contains("WordPiece"));
        assert!(refused(json!({ "type": "Replace", "pattern": { "Regex": "a+" }, "content": "" })).contains("Regex"));
        assert!(refused(json!({ "type": "Strip", "content": " ", "start": 0, "stop": 1 })).contains("Strip"));
    }
}
