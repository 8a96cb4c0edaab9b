//! A tokenizer from a `tokenizer.json`, read by the `tokenizers` crate.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Encoding, PostProcessor, Tokenizer as Whole};

use super::{ENDS, Tokenizer};
use crate::text::{
    decoder::Decoder,
    special::{self, Literal, Specials},
    vocabulary::Vocabulary,
};

/// No id of a real model is larger.
const MOST_IDS: u32 = 1 << 24;

impl Tokenizer {
    /// From the file's bytes, what `tokenizer_config.json` says beside it, and the ends that the model's makers name. An
    /// error says what is wrong, without the file's name.
    pub(super) fn of_json(bytes: &[u8], config: &Map<String, Value>, ends: &[u32]) -> Result<Self, String> {
        // The crate takes some contradictions for impossible, and panics.
        let read = catch_unwind(AssertUnwindSafe(|| read(bytes, config)));
        let whole = read.unwrap_or_else(|_| Err("it contradicts itself".into()))?;
        let names = names(config);
        let model_ids = whole.get_vocab(false);
        let added: BTreeMap<u32, AddedToken> = whole.get_added_tokens_decoder().into_iter().collect();
        let decoder = serde_json::to_value(whole.get_decoder()).map_err(|e| e.to_string())?;
        let decoder = Decoder::of(&decoder).map_err(|what| format!("its decoder {what}"))?;
        let vocabulary = vocabulary(&model_ids, &whole, &added, &decoder)?;

        let literals = |normalized: bool| {
            let of = added.iter().filter(|(_, token)| token.normalized == normalized);
            Specials::new(of.map(|(id, token)| Literal {
                // What is looked for after a text was normalised is normalised too.
                text: match normalized {
                    true => whole.get_added_vocabulary().simple_id_to_token(*id).unwrap_or_default(),
                    false => token.content.clone(),
                },
                id: *id,
                control: token.special || special::looks_like_control(&token.content),
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            }))
        };
        let id = |name: &str| names.get(name).and_then(|text| whole.token_to_id(text));
        let mut ends: Vec<u32> = ends.iter().copied().chain(id("eos_token")).collect();
        let known = added.iter().filter(|(_, t)| ENDS.contains(&t.content.as_str()));
        ends.extend(known.map(|(id, _)| *id));
        ends.sort_unstable();
        ends.dedup();
        let asked = config.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false);
        let bos = id("bos_token").filter(|bos| asked || first_added(&whole) == Some(*bos));
        let closes = config.get("add_eos_token").and_then(Value::as_bool).unwrap_or(false);
        let mut after = added_after(&whole);
        if after.is_empty() && closes {
            after.extend(id("eos_token"));
        }
        Ok(Self {
            normalizer: whole.get_normalizer().cloned(),
            cut: whole.get_pre_tokenizer().cloned(),
            model: whole.get_model().clone(),
            specials: literals(false),
            normalized: literals(true),
            vocabulary,
            strip: decoder.strip,
            bos,
            // The template itself writes it.
            bos_before_chats: false,
            after,
            ends,
            names,
        })
    }
}

/// Reads the file, and adds what tokens `tokenizer_config.json` has beyond it, as transformers does.
fn read(bytes: &[u8], config: &Map<String, Value>) -> Result<Whole, String> {
    let mut whole = Whole::from_bytes(bytes).map_err(|e| format!("no tokenizer: {e}"))?;
    let there = whole.get_added_tokens_decoder();
    let mut more: Vec<(u32, AddedToken)> = Vec::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let Ok(id) = id.parse() else { continue };
        let flag = |key: &str| token[key].as_bool().unwrap_or(false);
        let content = token["content"].as_str().unwrap_or_default();
        let token = AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        if there.get(&id) != Some(&token) {
            more.push((id, token));
        }
    }
    more.sort_by_key(|(id, _)| *id);
    whole.add_tokens(more.into_iter().map(|(_, token)| token)).map_err(|e| e.to_string())?;
    Ok(whole)
}

/// The bytes of every id. Special tokens have none; other added ones are read as the decoder reads them.
fn vocabulary(
    model: &std::collections::HashMap<String, u32>,
    whole: &Whole,
    added: &BTreeMap<u32, AddedToken>,
    decoder: &Decoder,
) -> Result<Vocabulary, String> {
    let largest = model.values().chain(added.keys()).copied().max().ok_or("it has no tokens")?;
    if largest >= MOST_IDS {
        return Err(format!("the token id {largest} cannot be; the largest known are below {MOST_IDS}"));
    }
    let mut tokens = vec![Vec::new(); largest as usize + 1];
    for (token, id) in model {
        tokens[*id as usize] = decoder.bytes(token);
    }
    for (id, token) in added {
        let text = whole.get_added_vocabulary().simple_id_to_token(*id).unwrap_or_default();
        tokens[*id as usize] = if token.special { Vec::new() } else { decoder.bytes(&text) };
    }
    Ok(Vocabulary::new(tokens.into_iter()))
}

/// The tokens that `tokenizer_config.json` gives names: texts, or objects that hold one.
fn names(config: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let named = config.iter().filter(|(key, _)| key.ends_with("_token") && !key.starts_with("add_"));
    named.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

/// The tokens that the file puts behind every text.
fn added_after(whole: &Whole) -> Vec<u32> {
    const TEXT: &str = "a";
    let ids = |special: bool| whole.encode(TEXT, special).map(|of| of.get_ids().to_vec()).unwrap_or_default();
    let (bare, all) = (ids(false), ids(true));
    let at = all.windows(bare.len().max(1)).position(|part| part == bare);
    at.map(|at| all[at + bare.len()..].to_vec()).unwrap_or_default()
}

/// The token that the file puts before every text.
fn first_added(whole: &Whole) -> Option<u32> {
    let empty = whole.get_post_processor()?.process(Encoding::default(), None, true).ok()?;
    empty.get_ids().first().copied()
}
