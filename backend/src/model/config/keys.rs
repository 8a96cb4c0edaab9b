//! Reading a configuration key by key: what is wrong is said with the key's name, and what was never asked for is known.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Map, Value};

use super::super::error::Problem;

/// No dimension or count of a real model is larger.
const MOST: u64 = 1 << 24;

/// Keys that every configuration may have and that change no result.
const HARMLESS: [&str; 66] = [
    "_attn_implementation",
    "_name_or_path",
    "add_bos_token",
    "add_eos_token",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_module_list_cfg",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "ep_size",
    "exponential_decay_length_penalty",
    "expert_dtype",
    "finetuning_task",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_window_layers",
    "mlp_layer_types",
    "mlp_bias",
    "moe_layer_freq",
    "n_shared_experts",
    "num_experts",
    "num_key_value_heads",
    "num_nextn_predict_layers",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "quantization_config",
    "remove_invalid_values",
    "resid_pdrop",
    "return_dict",
    "rms_norm_eps",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scoring_func",
    "sep_token_id",
    "seq_aux",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "topk_method",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
];

/// A configuration, or an object inside one.
pub struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Put before a key's name in messages.
    prefix: String,
    read: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Keys<'a> {
    pub fn of(map: &'a Map<String, Value>) -> Self {
        Self { map, prefix: String::new(), read: RefCell::default() }
    }

    /// The object under a key, if there is one that is not null.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>, Problem> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Keys { map, prefix: format!("{}{key}.", self.prefix), read: RefCell::default() }))
            }
            Some(found) => Err(self.wrong(key, found, "an object")),
        }
    }

    /// The value of a key; null is as good as nothing.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.map.get_key_value(key)?;
        self.read.borrow_mut().insert(key);
        if value.is_null() { None } else { Some(value) }
    }

    /// Whether the key is there, even as null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// What to say of a value that cannot be.
    pub fn wrong(&self, key: &str, found: impl ToString, expected: impl ToString) -> Problem {
        Problem::Unsupported(format!(
            "config key '{}{key}' is {}: expected {}",
            self.prefix,
            found.to_string(),
            expected.to_string()
        ))
    }

    fn missing(&self, key: &str) -> Problem {
        Problem::Unsupported(format!("config key '{}{key}' is missing", self.prefix))
    }

    pub fn str(&self, key: &str) -> Result<&'a str, Problem> {
        self.str_or_none(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn str_or_none(&self, key: &str) -> Result<Option<&'a str>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, value, "a string"))
    }

    /// A key that may only have one of these values, if it is there.
    pub fn only(&self, key: &str, known: &[&str]) -> Result<(), Problem> {
        match self.str_or_none(key)? {
            Some(found) if !known.contains(&found) => {
                Err(self.wrong(key, format!("'{found}', which is not run here"), known.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// A key that must not be true.
    pub fn off(&self, key: &str) -> Result<(), Problem> {
        match self.flag_or(key, false)? {
            true => Err(self.wrong(key, "true, which is not run here", "false")),
            false => Ok(()),
        }
    }

    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, Problem> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// A count or length: 1 to 2^24.
    pub fn size(&self, key: &str) -> Result<usize, Problem> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        match value.as_u64() {
            Some(n) if (1..=MOST).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(key, value, format!("a whole number from 1 to {MOST}"))),
        }
    }

    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, Problem> {
        if self.get(key).is_none() { Ok(default) } else { self.size(key) }
    }

    /// A count that may be 0.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, Problem> {
        match self.get(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            _ => self.size_or(key, default),
        }
    }

    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().filter(|x| x.is_finite()).map(Some).ok_or_else(|| self.wrong(key, value, "a number"))
    }

    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, Problem> {
        Ok(self.number_or_none(key)?.unwrap_or(default))
    }

    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64, Problem> {
        let x = self.number_or(key, default)?;
        if x > 0.0 { Ok(x) } else { Err(self.wrong(key, x, "a positive number")) }
    }

    pub fn positive(&self, key: &str) -> Result<f64, Problem> {
        if self.get(key).is_none() {
            return Err(self.missing(key));
        }
        self.positive_or(key, 1.0)
    }

    /// A list of one word per layer; what is longer is cut.
    pub fn words(&self, key: &str, layers: usize) -> Result<Option<Vec<&'a str>>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, value, format!("a list of {layers} words, one per layer"));
        let list = value.as_array().filter(|list| list.len() >= layers).ok_or_else(wrong)?;
        list[..layers].iter().map(|word| word.as_str().ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
    }

    /// Keys that nobody asked for and that are not known to be harmless.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let known = |key: &str| read.contains(key) || HARMLESS.contains(&key);
        let left = self.map.iter().filter(|(key, value)| !known(key) && !value.is_null());
        left.map(|(key, _)| key.clone()).collect()
    }
}
