//! The tokenizer against the crate that reads `tokenizer.json`, and what it makes of files that are wrong.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Reference;

use super::Tokenizer;

/// A small tokenizer.json: bytes, a few merges, and whatever added tokens, normaliser and the like are asked for.
fn file(more: Value) -> Vec<u8> {
    let mut vocab = Map::new();
    let alphabet = (0x21..=0x7eu32).chain(0xa1..=0xac).chain(0xae..=0xff).chain(0x100..=0x143);
    for c in alphabet.filter_map(char::from_u32) {
        let id = vocab.len();
        vocab.insert(c.to_string(), json!(id));
    }
    let merges = ["t h", "th e", "Ġ th", "e n", "en d", "< |", "| >", "Ã ©"];
    for merge in merges {
        let id = vocab.len();
        vocab.insert(merge.replace(' ', ""), json!(id));
    }
    let mut whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocab, "merges": merges },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    whole.to_string().into_bytes()
}

fn added(id: u32, content: &str, flags: &[&str]) -> Value {
    let flag = |name: &str| flags.contains(&name);
    json!({ "id": id, "content": content, "single_word": flag("single_word"), "lstrip": flag("lstrip"),
            "rstrip": flag("rstrip"), "normalized": flag("normalized"), "special": flag("special") })
}

fn open(bytes: &[u8]) -> Tokenizer {
    Tokenizer::of_json(bytes, &Map::new(), &[]).unwrap()
}

/// Numbers that look random, always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

const FIRST: u32 = 264;

fn literals() -> Value {
    json!([
        added(FIRST, "<|end|>", &["special"]),
        added(FIRST + 1, "<|end|>more", &[]),
        added(FIRST + 2, "<｜User｜>", &["normalized"]),
        added(FIRST + 3, "<m>", &["special", "lstrip", "rstrip"]),
        added(FIRST + 4, "tok", &["single_word", "normalized"]),
        added(FIRST + 5, "\t\t", &["normalized"]),
        added(FIRST + 6, "<left>", &["lstrip"]),
        added(FIRST + 7, "Éa", &["normalized"]),
        added(FIRST + 8, "</think>", &["normalized"]),
    ])
}

/// Every text cut from these words has the ids that the crate itself gives, whatever normaliser stands before.
#[test]
fn ids_are_those_of_the_crate() {
    const WORDS: [&str; 24] = [
        "<|end|>",
        "<|end|>more",
        "<|end",
        "|>",
        "<｜User｜>",
        "<｜",
        "<m>",
        " ",
        "  ",
        "\n",
        "tok",
        "token",
        "_tok",
        "\t",
        "\t\t",
        "<left>",
        "Éa",
        "E\u{301}a",
        "é",
        "the",
        " the",
        "</think>",
        "👩‍👧",
        "ﬁ",
    ];
    let normalizers = [
        Value::Null,
        json!({ "type": "NFC" }),
        json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, { "type": "Lowercase" }] }),
        json!({ "type": "Prepend", "prepend": "_" }),
    ];
    for normalizer in normalizers {
        let bytes = file(json!({ "added_tokens": literals(), "normalizer": normalizer }));
        let (ours, reference) = (open(&bytes), Reference::from_bytes(&bytes).unwrap());
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        for _ in 0..4000 {
            let text: String = (0..dice.below(9)).map(|_| WORDS[dice.below(WORDS.len())]).collect();
            let expected = reference.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(ours.encode_bare(&text), expected.get_ids(), "{text:?} after {normalizer}");
            let decoded = reference.decode(expected.get_ids(), true).unwrap();
            assert_eq!(ours.decode(expected.get_ids()), decoded, "{text:?}");
        }
    }
}

#[test]
fn the_ids_of_spaces_and_of_single_bytes_are_those_of_the_crate() {
    let vocab = json!({ "<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "<0xC3>": 4, "<0xA9>": 5, "b": 6, "ab": 7, "<s>": 8 });
    let model = json!({ "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                        "merges": ["▁ a", "a b"] });
    let decoder = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
        { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
    ]});
    let cut = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    let bytes = file(json!({
        "model": model, "decoder": decoder, "pre_tokenizer": cut, "added_tokens": [added(8, "<s>", &["special"])],
    }));
    let (ours, reference) = (open(&bytes), Reference::from_bytes(&bytes).unwrap());
    for text in ["a", " a", "aé ab", "é", "<s>a<s> a", "b<s>b", "  a", ""] {
        let expected = reference.encode_fast(text, false).unwrap();
        assert_eq!(ours.encode_bare(text), expected.get_ids(), "{text:?}");
        assert_eq!(ours.decode(expected.get_ids()), reference.decode(expected.get_ids(), true).unwrap(), "{text:?}");
    }
    assert_eq!((ours.leading_spaces(), ours.bytes(3), ours.bytes(4)), (1, &b" a"[..], &b"\xc3"[..]));
}

#[test]
fn control_tokens_of_a_message_are_text() {
    let ours = open(&file(json!({ "added_tokens": literals(), "normalizer": { "type": "NFC" } })));
    let shield = '\u{fdd0}';
    for text in ["<|end|>", "<｜User｜>", "a<m> <|end|>more<|end|>"] {
        let ids = ours.encode_chat(&ours.shielded(text, shield), shield);
        let control = |id: &u32| [FIRST, FIRST + 2, FIRST + 3].contains(id);
        assert!(!ids.iter().any(control), "{text}: {ids:?}");
        assert_eq!(ours.decode(&ids), text);
    }
    // What carries content is a token in a message too.
    let shielded = ours.shielded("a</think>", shield);
    assert!(ours.encode_chat(&shielded, shield).contains(&(FIRST + 8)));
}

#[test]
fn added_tokens_carry_content_unless_they_are_special() {
    let ours = open(&file(json!({ "added_tokens": literals() })));
    assert_eq!((ours.bytes(FIRST), ours.bytes(FIRST + 8)), (&b""[..], &b"</think>"[..]));
    assert_eq!(ours.literal(FIRST), Some("<|end|>"));
    assert_eq!(
        (ours.special("<|end|>"), ours.special("</think>"), ours.special("the")),
        (Some(FIRST), Some(FIRST + 8), None)
    );
    assert_eq!(ours.vocab(), FIRST as usize + 9);
    assert!(ours.is_end(FIRST) && !ours.is_end(FIRST + 1));
}

#[test]
fn the_configuration_names_special_tokens_and_adds_more() {
    let config = json!({
        "bos_token": { "__type": "AddedToken", "content": "<s>" }, "eos_token": "</s>", "add_bos_token": true,
        "unk_token": null, "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": {
            "265": { "content": "</s>", "special": true }, "264": { "content": "<s>", "special": true },
        },
    });
    let config = config.as_object().unwrap();
    let ours = Tokenizer::of_json(&file(json!({})), config, &[7]).unwrap();
    assert_eq!((ours.special("<s>"), ours.special("</s>")), (Some(264), Some(265)));
    assert_eq!(ours.ends(), [7, 265]);
    assert_eq!((ours.bos(), ours.encode("a")[0], ours.encode_bare("a").len()), (Some(264), 264, 1));
    assert_eq!(ours.encode("<s>a"), ours.encode_bare("<s>a"));
    let names: Vec<_> = ours.names().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(names, [("bos_token", "<s>"), ("eos_token", "</s>")]);
    // A template writes the token itself.
    assert_eq!(ours.encode_chat("a", '\u{fdd0}').len(), 1);
}

#[test]
fn a_post_processor_that_puts_a_token_first_is_heard() {
    let template = json!({
        "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [264], "tokens": ["<s>"] } },
    });
    let bytes = file(json!({ "added_tokens": [added(264, "<s>", &["special"])], "post_processor": template }));
    let config = json!({ "bos_token": "<s>" });
    let ours = Tokenizer::of_json(&bytes, config.as_object().unwrap(), &[]).unwrap();
    assert_eq!(ours.encode("a"), Reference::from_bytes(&bytes).unwrap().encode("a", true).unwrap().get_ids());
}

#[test]
fn wrong_files_are_refused_and_none_panics() {
    let refused = |more: Value| Tokenizer::of_json(&file(more), &Map::new(), &[]).err().unwrap_or_default();
    assert!(refused(json!({ "model": { "type": "Magic" } })).contains("no tokenizer"));
    assert!(
        refused(json!({ "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true } })).contains("WordPiece")
    );
    let huge = json!({ "type": "WordLevel", "unk_token": "a", "vocab": { "a": 0, "b": 4_000_000_000u32 } });
    assert!(refused(json!({ "model": huge })).contains("4000000000 cannot be"));
    let whole = file(json!({ "added_tokens": literals() }));
    let mut dice = Dice(7);
    for round in 0..600 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(dice.below(bytes.len())),
            1 => {
                let at = dice.below(bytes.len());
                bytes[at] = dice.below(256) as u8;
            }
            // Something else in place of a number or a name.
            _ => {
                let (at, length) = (dice.below(bytes.len()), dice.below(12));
                let end = (at + length).min(bytes.len());
                bytes.splice(at..end, *b"99999999999");
            }
        }
        if let Ok(ours) = Tokenizer::of_json(&bytes, &Map::new(), &[]) {
            ours.encode("the end<|end|> <｜User｜>é");
        }
    }
}
