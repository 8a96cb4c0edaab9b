//! The checkpoints and their references.

use std::path::PathBuf;

use littoral_node::model::{Arithmetic, DeviceChoice, Form, KvDtype, Logits, Model, Options, Quantize, Segment};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest difference of two logits, relative to the largest reference logit.
const TOLERANCE: f32 = 1e-4;
/// Blocks of the cache; more than a few sequences of the longest prompt need.
const BLOCKS: usize = 64;

pub const CASES: [&str; 11] = [
    "deepseek-v2",
    "deepseek-v2-lite",
    "deepseek-v3",
    "deepseek-v3-fp8",
    "deepseek-v32",
    "deepseek-v4",
    "deepseek-v4-disk",
    "llama",
    "llama-yarn",
    "qwen2",
    "qwen2-yarn",
];

pub struct Prompt {
    pub name: &'static str,
    pub ids: Vec<u32>,
    /// `[ids, vocab]`
    pub logits: Vec<f32>,
}

pub struct Case {
    pub name: &'static str,
    pub config: Value,
    /// The first is the longest.
    pub prompts: Vec<Prompt>,
    /// What follows the first prompt, and the logits that say so.
    pub greedy: Vec<u32>,
    pub greedy_logits: Vec<f32>,
}

pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny"))
}

impl Case {
    pub fn open(name: &'static str) -> Self {
        let folder = folder().join(name);
        let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: String| -> Vec<u32> {
            let tensor = file.tensor(&name).unwrap();
            tensor.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
        };
        let floats = |name: String| words(name).into_iter().map(f32::from_bits).collect::<Vec<_>>();
        let prompt =
            |name| Prompt { name, ids: words(format!("{name}.ids")), logits: floats(format!("{name}.logits")) };
        let config = std::fs::read(folder.join("config.json")).unwrap();
        Self {
            name,
            config: serde_json::from_slice(&config).unwrap(),
            prompts: ["a", "b", "c"].map(prompt).into(),
            greedy: words("a.greedy".into()),
            greedy_logits: floats("a.greedy_logits".into()),
        }
    }

    pub fn vocab(&self) -> usize {
        self.config["vocab_size"].as_u64().unwrap() as usize
    }

    pub fn is_latent(&self) -> bool {
        self.config.get("kv_lora_rank").is_some()
    }

    /// What it keeps of tokens may be f16.
    pub fn may_halve(&self) -> bool {
        self.config["model_type"] != "deepseek_v4"
    }

    pub fn is_grouped(&self) -> bool {
        !self.config["model_type"].as_str().unwrap().starts_with("deepseek")
    }

    /// Computes exactly.
    pub fn model(&self, device: DeviceChoice) -> Model {
        self.model_in(device, Form::default())
    }

    pub fn model_in(&self, device: DeviceChoice, form: Form) -> Model {
        self.load(Options { device, form, arithmetic: Arithmetic::Exact, ..self.options() })
    }

    /// Computes exactly, with keys and values of f16.
    pub fn model_of_halves(&self) -> Model {
        let halves = Some(KvDtype::F16);
        self.load(Options { arithmetic: Arithmetic::Exact, kv_cache_dtype: halves, ..self.options() })
    }

    /// Computes with 8-bit activations and quantised weights.
    pub fn quantised_model(&self, quantize: Quantize) -> Model {
        self.load(Options { quantize, ..self.options() })
    }

    fn options(&self) -> Options {
        Options { device: DeviceChoice::Cpu, kv_blocks: BLOCKS, ..Options::default() }
    }

    fn load(&self, options: Options) -> Model {
        Model::load(&folder().join(self.name), options, &|_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// A table of blocks: `first`, `first + stride`, ...
pub fn table(tokens: usize, first: usize, stride: usize) -> Vec<u32> {
    (0..tokens.div_ceil(littoral_node::model::BLOCK_TOKENS)).map(|i| (first + i * stride) as u32).collect()
}

/// A segment that wants the logits of all its tokens.
pub fn segment<'a>(tokens: &'a [u32], start: usize, blocks: &'a [u32]) -> Segment<'a> {
    Segment { tokens, start, blocks, logits: Logits::All }
}

/// Runs one segment and returns the logits of all its tokens.
pub fn run(model: &mut Model, tokens: &[u32], start: usize, blocks: &[u32]) -> Vec<f32> {
    model.step(&[segment(tokens, start, blocks)]).unwrap().remove(0).unwrap()
}

/// The largest difference, relative to the largest reference logit.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = error(found, expected);
    println!("{what}: {error:.1e}");
    assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
}

pub fn argmax(logits: &[f32]) -> u32 {
    (0u32..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}
