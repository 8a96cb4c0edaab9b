//! The transformer: token ids in, logits out. One model, many configs.
//!
//! Arithmetic is exact f32: weights are unpacked to f32 when they are loaded (the embedding when it is looked up);
//! activations, keys and values are f32.

mod attention;
mod cache;
mod config;
mod device;
mod embedding;
mod error;
mod linear;
mod load;
mod memory;
mod rope;
mod transformer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use burn::tensor::{Device, Tensor};

use crate::{
    text::{ChatTemplate, Tokenizer},
    weights::gguf::{Gguf, GgufError, TensorInfo},
};

use cache::KvCache;
pub use config::Config;
use device::Opened;
pub use device::{DeviceChoice, UnknownDevice};
pub(crate) use error::Problem;
pub use error::{LoadError, StepError};
pub use rope::Scaling;
use transformer::Transformer;

/// Tokens whose keys and values one block holds.
pub const BLOCK_TOKENS: usize = 16;

/// Bytes of an f32.
const F32: u64 = 4;
/// The file's names of the embedding and of the matrix that makes logits.
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Tokens of one sequence to run in this step. `tokens[0]` is at position `start`; `blocks` is the sequence's block
/// table and covers `start + tokens.len()` positions.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub tokens: &'a [u32],
    pub start: usize,
    pub blocks: &'a [u32],
    pub logits: Logits,
}

/// Of which tokens of a segment logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Logits {
    None,
    #[default]
    Last,
    All,
}

impl Segment<'_> {
    /// Rows of logits that are wanted.
    fn wanted(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.tokens.len(),
        }
    }
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The file's name without its ending.
    pub name: String,
    pub architecture: String,
    /// Longest prompt plus completion, tokens.
    pub context_length: usize,
    pub vocab: usize,
    pub parameters: u64,
    /// Changes when weights, template or tokenizer change.
    pub revision: String,
    pub kv_bytes_per_block: u64,
    /// Bytes of the weights as they lie in memory.
    pub weights_bytes: u64,
}

/// What a model will need, read from a file's header alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    pub parameters: u64,
    pub weights_bytes: u64,
    pub kv_bytes_per_token: u64,
    pub context_length: usize,
}

/// Reads a GGUF file's header and says what the model will need.
pub fn estimate(path: &Path) -> Result<Estimate, LoadError> {
    let read = || -> Result<Estimate, Problem> {
        let file = Gguf::open(path)?;
        let config = Config::of(&file)?;
        Ok(Estimate {
            parameters: parameters(&file),
            weights_bytes: weights_bytes(&file),
            kv_bytes_per_token: config.kv_bytes_per_token(),
            context_length: config.context_length,
        })
    };
    read().map_err(|problem| problem.at(path))
}

fn parameters(file: &Gguf) -> u64 {
    file.tensors().iter().map(|t| t.elements()).sum()
}

/// The embedding stays as the file has it; everything else, an output matrix tied to the embedding included, is f32.
fn weights_bytes(file: &Gguf) -> u64 {
    let tied = file.tensors().iter().all(|t| t.name != OUTPUT);
    let bytes = |t: &TensorInfo| match t.name == EMBEDDING {
        true => file.data(t).len() as u64 + if tied { t.elements() * F32 } else { 0 },
        false => t.elements() * F32,
    };
    file.tensors().iter().map(bytes).sum()
}

/// A model with the tokenizer and the chat template that its file carries.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
}

/// Loads a GGUF file with all that is in it. `kv_blocks` blocks of [`BLOCK_TOKENS`] tokens are set aside for keys and
/// values; `progress` is told bytes done and bytes of all.
pub fn load_gguf(
    path: &Path,
    device: &DeviceChoice,
    kv_blocks: usize,
    progress: &dyn Fn(u64, u64),
) -> Result<Loaded, LoadError> {
    let load = || -> Result<Loaded, Problem> {
        let file = Gguf::open(path)?;
        // The small parts first: a file without a template is refused before its weights are read.
        let tokenizer = Tokenizer::of(&file)?;
        let template = ChatTemplate::of(&file, &tokenizer)?;
        let vocab = Config::of(&file)?.vocab;
        if tokenizer.vocab() > vocab {
            let what = format!("{vocab} rows, too few for the {} tokens of the vocabulary", tokenizer.vocab());
            return Err(GgufError::Tensor { name: EMBEDDING.into(), what }.into());
        }
        let model = Model::of(&file, path, *device, kv_blocks, progress)?;
        Ok(Loaded { model, tokenizer: Arc::new(tokenizer), template })
    };
    load().map_err(|problem| problem.at(path))
}

/// A transformer with its KV cache.
pub struct Model {
    transformer: Transformer,
    cache: KvCache,
    device: Device,
    label: String,
    info: ModelInfo,
    /// What the device said when it failed; the cache is lost then.
    failed: Option<String>,
}

impl Model {
    /// Loads the weights of a GGUF file.
    pub fn load(
        path: &Path,
        device: &DeviceChoice,
        kv_blocks: usize,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Model, LoadError> {
        let load = || Model::of(&Gguf::open(path)?, path, *device, kv_blocks, progress);
        load().map_err(|problem| problem.at(path))
    }

    fn of(
        file: &Gguf,
        path: &Path,
        device: DeviceChoice,
        kv_blocks: usize,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Model, Problem> {
        let config = Config::of(file)?;
        if kv_blocks == 0 || kv_blocks > i32::MAX as usize / BLOCK_TOKENS {
            return Err(Problem::Device(format!("a cache of {kv_blocks} blocks cannot be")));
        }
        let Opened { device, label, layout, memory } = device.open()?;
        let needed = weights_bytes(file).saturating_add(config.kv_bytes_per_block().saturating_mul(kv_blocks as u64));
        if let Some(there) = memory.filter(|there| *there < needed) {
            return Err(Problem::Device(format!(
                "{label}: the model needs {} MiB ({} MiB of it for a cache of {kv_blocks} blocks) and there are {} MiB: \
                 give the cache fewer blocks or take a smaller model",
                needed >> 20,
                (needed - weights_bytes(file)) >> 20,
                there >> 20
            )));
        }
        let parts = catch_unwind(AssertUnwindSafe(|| -> Result<_, Problem> {
            let transformer = load::transformer(file, &config, &device, layout, progress)?;
            Ok((transformer, KvCache::new(&config, kv_blocks, &device)))
        }));
        let (transformer, cache) =
            parts.unwrap_or_else(|panic| Err(Problem::Device(format!("{label}: {}", message(panic.as_ref())))))?;
        let info = ModelInfo {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            architecture: config.architecture.clone(),
            context_length: config.context_length,
            vocab: config.vocab,
            parameters: parameters(file),
            revision: file.fingerprint(),
            kv_bytes_per_block: config.kv_bytes_per_block(),
            weights_bytes: weights_bytes(file),
        };
        Ok(Model { transformer, cache, device, label, info, failed: None })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where it computes, e.g. `cpu (flex, 2 threads, AVX2+FMA)`.
    pub fn device(&self) -> &str {
        &self.label
    }

    /// Runs all rows of all segments in one forward pass: linear layers over all rows at once, attention per segment.
    /// Per segment the logits that were asked for (`[rows, vocab]`, f32), one row after the other.
    pub fn step(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError> {
        if let Some(failed) = &self.failed {
            return Err(StepError::Device(failed.clone()));
        }
        segments.iter().try_for_each(|segment| self.check(segment))?;
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        let forward = catch_unwind(AssertUnwindSafe(|| {
            let logits = self.transformer.forward(segments, &mut self.cache, &self.device);
            logits.map(Tensor::into_data)
        }));
        let logits = match forward {
            Ok(logits) => logits,
            Err(panic) => {
                let what = message(panic.as_ref());
                self.failed = Some(what.clone());
                return Err(StepError::Device(what));
            }
        };
        let logits = match logits.map(|data| data.try_into_vec::<f32>()).transpose() {
            Ok(logits) => logits.unwrap_or_default(),
            Err(e) => return Err(StepError::Device(format!("logits of another type than f32: {e:?}"))),
        };
        let mut rest = logits.as_slice();
        let mut out = Vec::with_capacity(segments.len());
        for (segment, wanted) in segments.iter().map(Segment::wanted).enumerate() {
            let Some((rows, others)) = rest.split_at_checked(wanted * self.info.vocab) else {
                return Err(StepError::Device("fewer logits than were asked for".into()));
            };
            rest = others;
            if rows.iter().any(|x| !x.is_finite()) {
                return Err(StepError::NotFinite { segment });
            }
            out.push((wanted > 0).then(|| rows.to_vec()));
        }
        Ok(out)
    }

    fn check(&self, segment: &Segment) -> Result<(), StepError> {
        let end = segment.start.saturating_add(segment.tokens.len());
        let refuse = |what: String| Err(StepError::Input(what));
        if segment.tokens.is_empty() {
            return refuse("a segment without tokens".into());
        }
        if end > self.info.context_length {
            return refuse(format!("position {end} is beyond the context of {} tokens", self.info.context_length));
        }
        if end > segment.blocks.len() * BLOCK_TOKENS {
            return refuse(format!("{end} positions do not fit in {} blocks", segment.blocks.len()));
        }
        if let Some(id) = segment.tokens.iter().find(|id| **id as usize >= self.info.vocab) {
            return refuse(format!("token {id} is outside the vocabulary of {}", self.info.vocab));
        }
        if let Some(block) = segment.blocks.iter().find(|b| **b as usize >= self.cache.blocks) {
            return refuse(format!("block {block} is outside the cache of {} blocks", self.cache.blocks));
        }
        Ok(())
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("an error without a message").to_owned()
}
