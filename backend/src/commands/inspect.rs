//! `littoral-node inspect`: what a model's files hold, read from their headers.

use std::{collections::BTreeMap, io::Write, path::Path};

use anyhow::Context;
use littoral_node::{
    model::{Config, DeviceChoice, Estimate, LoadError, Options, Survey},
    text::{ChatTemplate, Tokenizer},
    weights::{Checkpoint, Generation},
};
use serde::Serialize;

use super::{bytes, count, locate, model_name};
use crate::cli::Inspect;

/// Tensors of a kind that are named before the rest is counted.
const NAMED: usize = 8;

#[derive(Serialize)]
struct Report {
    name: String,
    path: String,
    architecture: Option<String>,
    tensors: usize,
    bytes: u64,
    kinds: BTreeMap<String, Stored>,
    /// What it takes to run it, or why it is not run.
    #[serde(flatten)]
    needs: Option<Needs>,
    refused: Option<String>,
    tokenizer: Option<Tokens>,
    chat_template: bool,
    sampling: BTreeMap<&'static str, f64>,
    missing: Vec<Tensor>,
    wrong_shape: Vec<WrongShape>,
    extra: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    table: Vec<Tensor>,
}

#[derive(Default, Serialize)]
struct Stored {
    tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Needs {
    parameters: u64,
    context_length: usize,
    vocab: usize,
    weights_bytes: u64,
    /// What `--kv-cache-dtype auto` is on the CPU.
    kv_cache_dtype: String,
    kv_bytes_per_token: u64,
    left_out: usize,
    unknown_keys: Vec<String>,
}

#[derive(Serialize)]
struct Tokens {
    tokens: usize,
    /// The token put before a text.
    first: Option<Token>,
    ends: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    text: Option<String>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

#[derive(Serialize)]
struct WrongShape {
    name: String,
    found: Vec<usize>,
    expected: Vec<usize>,
}

pub fn run(options: Inspect) -> anyhow::Result<()> {
    let path = locate(&options.model)?;
    let report = Report::of(&path, options.tensors).context("the model cannot be read")?;
    let lines = if options.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.lines() };
    Ok(std::io::stdout().write_all(lines.as_bytes())?)
}

impl Report {
    fn of(path: &Path, tensors: bool) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::open(path)?;
        let architecture = checkpoint.config().get("model_type").and_then(|v| v.as_str()).map(str::to_owned);
        let mut kinds: BTreeMap<String, Stored> = BTreeMap::new();
        for tensor in checkpoint.table() {
            let stored = kinds.entry(tensor.kind.to_string()).or_default();
            stored.tensors += 1;
            stored.bytes += tensor.bytes as u64;
        }
        let all = || {
            checkpoint.table().map(|t| Tensor {
                name: t.name.to_owned(),
                kind: Some(t.kind.to_string()),
                shape: t.shape.to_vec(),
                bytes: Some(t.bytes),
            })
        };
        let mut report = Self {
            name: model_name(path),
            path: path.display().to_string(),
            architecture,
            tensors: checkpoint.names().len(),
            bytes: checkpoint.bytes(),
            kinds,
            needs: None,
            refused: None,
            tokenizer: None,
            chat_template: false,
            sampling: sampling(checkpoint.generation()),
            missing: Vec::new(),
            wrong_shape: Vec::new(),
            extra: Vec::new(),
            table: if tensors { all().collect() } else { Vec::new() },
        };
        // What is wrong with one part does not keep the others from being told.
        let refused = [report.add_model(&checkpoint), report.add_text(&checkpoint)];
        let refused: Vec<_> = refused.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect();
        report.refused = (!refused.is_empty()).then(|| refused.join("; "));
        Ok(report)
    }

    fn add_model(&mut self, checkpoint: &Checkpoint) -> Result<(), LoadError> {
        let at = |problem: littoral_node::model::Problem| problem.at(checkpoint.path());
        let config = Config::of(checkpoint.config()).map_err(at)?;
        let options = Options { device: DeviceChoice::Cpu, ..Options::default() };
        let kv = options.kv_dtype(&config).map_err(at)?;
        let estimate = Estimate::of(checkpoint, &config, None, kv).map_err(at)?;
        self.needs = Some(Needs {
            parameters: estimate.parameters,
            context_length: estimate.context_length,
            vocab: config.vocab,
            weights_bytes: estimate.weights_bytes,
            kv_cache_dtype: estimate.kv_cache_dtype.to_string(),
            kv_bytes_per_token: estimate.kv_bytes_per_token,
            left_out: estimate.skipped,
            unknown_keys: estimate.unread,
        });
        let survey = Survey::of(checkpoint, &config).map_err(at)?;
        let missing = survey.missing.into_iter();
        self.missing = missing.map(|(name, shape)| Tensor { name, kind: None, shape, bytes: None }).collect();
        let misshapen = survey.misshapen.into_iter();
        self.wrong_shape = misshapen.map(|(name, found, expected)| WrongShape { name, found, expected }).collect();
        self.extra = survey.extra;
        Ok(())
    }

    fn add_text(&mut self, checkpoint: &Checkpoint) -> Result<(), LoadError> {
        let Some(tokenizer) = Tokenizer::open(checkpoint)? else { return Ok(()) };
        let token = |id: u32| Token { id, text: tokenizer.literal(id).map(str::to_owned) };
        self.tokenizer = Some(Tokens {
            tokens: tokenizer.vocab(),
            first: tokenizer.bos().map(token),
            ends: tokenizer.ends().iter().copied().map(token).collect(),
        });
        self.chat_template = ChatTemplate::open(checkpoint, &tokenizer)?.is_some();
        Ok(())
    }

    /// For people: a line for each thing there is to say.
    fn lines(&self) -> String {
        let mut out = String::new();
        let mut line = |what: &str, value: String| out += &format!("{what:14}{value}\n");
        line("name", self.name.clone());
        line("path", self.path.clone());
        line("architecture", self.architecture.clone().unwrap_or_else(|| "not said".into()));
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, stored)| format!("{kind} {}", bytes(stored.bytes))).collect();
        line("tensors", format!("{} in {}: {}", self.tensors, bytes(self.bytes), kinds.join(", ")));
        if let Some(needs) = &self.needs {
            line("parameters", count(needs.parameters));
            line("context", format!("{} tokens", needs.context_length));
            line("vocabulary", format!("{} rows", needs.vocab));
            line("weights", format!("{} in memory", bytes(needs.weights_bytes)));
            line("KV cache", format!("{} a token in {}", bytes(needs.kv_bytes_per_token), needs.kv_cache_dtype));
            if needs.left_out > 0 {
                line("left out", format!("{} tensors of multi-token prediction", needs.left_out));
            }
            if !needs.unknown_keys.is_empty() {
                line("not known", format!("the configuration's {}", needs.unknown_keys.join(", ")));
            }
        }
        line("tokenizer", self.tokenizer.as_ref().map_or_else(|| "none".into(), Tokens::shown));
        line("template", if self.chat_template { "yes" } else { "none" }.into());
        if !self.sampling.is_empty() {
            let said: Vec<_> = self.sampling.iter().map(|(name, value)| format!("{name} {value}")).collect();
            line("sampling", said.join(", "));
        }
        let missing = self.missing.iter().map(|t| format!("{} {:?}", t.name, t.shape));
        let shapes = self.wrong_shape.iter().map(|t| format!("{} is {:?}, expected {:?}", t.name, t.found, t.expected));
        for (what, all) in
            [("missing", missing.collect()), ("wrong shape", shapes.collect()), ("extra", self.extra.clone())]
        {
            list(all).into_iter().enumerate().for_each(|(i, one)| line(if i == 0 { what } else { "" }, one));
        }
        if let Some(refused) = &self.refused {
            line("not run", refused.clone());
        }
        for tensor in &self.table {
            let kind = tensor.kind.as_deref().unwrap_or_default();
            let size = bytes(tensor.bytes.unwrap_or(0) as u64);
            out += &format!("{kind:8} {size:>12} {} {:?}\n", tensor.name, tensor.shape);
        }
        out
    }
}

/// The first of these, and how many there are more.
fn list(mut all: Vec<String>) -> Vec<String> {
    if all.len() > NAMED {
        let more = format!("and {} more", all.len() - NAMED);
        all.truncate(NAMED);
        all.push(more);
    }
    all
}

impl Tokens {
    fn shown(&self) -> String {
        let mut out = format!("{} tokens", self.tokens);
        let ends: Vec<_> = self.ends.iter().map(Token::shown).collect();
        if !ends.is_empty() {
            out += &format!("; a text ends at {}", ends.join(", "));
        }
        if let Some(first) = &self.first {
            out += &format!("; it begins with {}", first.shown());
        }
        out
    }
}

impl Token {
    fn shown(&self) -> String {
        self.text.as_ref().map_or_else(|| self.id.to_string(), |text| format!("{text} ({})", self.id))
    }
}

/// What the model's makers say of drawing from it.
fn sampling(said: &Generation) -> BTreeMap<&'static str, f64> {
    let all = [
        ("temperature", said.temperature),
        ("top_p", said.top_p),
        ("top_k", said.top_k.map(f64::from)),
        ("min_p", said.min_p),
        ("repetition_penalty", said.repetition_penalty),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
