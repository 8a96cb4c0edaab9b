//! The transformer: token ids in, logits out. One model, many configs.
//!
//! Weights stay in the bytes they were stored in, and are computed with as they are; activations are f32, keys and values
//! f32 or f16.

mod attention;
mod batch;
mod cache;
mod config;
mod device;
mod embedding;
mod error;
mod estimate;
mod experts;
mod hyper;
mod linear;
mod load;
mod memory;
mod ops;
mod profile;
mod rope;
mod transformer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use burn::tensor::{Device, Tensor};
pub use littoral_kernels::Arithmetic;
use littoral_kernels::Format;

use crate::{
    sample::{Draw, Picked, SampleError, words},
    text::{ChatTemplate, Tokenizer},
    weights::Checkpoint,
};

pub use attention::Form;
use cache::KvCache;
pub use cache::KvDtype;
use config::AttentionConfig;
pub use config::{ARCHITECTURES, Config};
pub use device::{DeviceChoice, UnknownDevice};
use device::{Kind, Opened};
pub(crate) use embedding::MODULES;
pub use embedding::Pooling;
pub use error::{LoadError, Problem, StepError};
pub use estimate::Estimate;
use load::Precision;
pub use load::Survey;
use profile::Profile;
pub use profile::{Part, Spent};
use transformer::{Output, State, Transformer};

/// Tokens whose keys and values one block holds.
pub const BLOCK_TOKENS: usize = 16;

/// Tokens of one sequence to run in this step. `tokens[0]` is at position `start`; `blocks` is the sequence's block
/// table and covers `start + tokens.len()` positions.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub tokens: &'a [u32],
    pub start: usize,
    pub blocks: &'a [u32],
    pub logits: Logits,
}

impl Segment<'_> {
    /// Rows of logits, or of hidden states, that are wanted.
    pub fn wanted(&self) -> usize {
        match self.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => self.tokens.len(),
        }
    }
}

/// Of which tokens of a segment logits are wanted; of a model that embeds, hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Logits {
    None,
    #[default]
    Last,
    All,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub device: DeviceChoice,
    /// Blocks of [`BLOCK_TOKENS`] tokens set aside for what layers keep of past tokens.
    pub kv_blocks: usize,
    /// Exact: f32 activations. Fast: 8-bit activations where the weights are quantised. GPUs always compute exactly.
    pub arithmetic: Arithmetic,
    pub quantize: Quantize,
    /// What keys and values are kept as; if it is not said, f16 on the CPU where arithmetic is fast, else f32. V4 and GPUs
    /// know f32 alone.
    pub kv_cache_dtype: Option<KvDtype>,
    /// Of multi-head latent attention.
    pub form: Form,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: DeviceChoice::default(),
            kv_blocks: 1,
            arithmetic: Arithmetic::Fast,
            quantize: Quantize::default(),
            kv_cache_dtype: None,
            form: Form::default(),
        }
    }
}

impl Options {
    /// What the keys and values of a model of this shape are kept as.
    pub fn kv_dtype(&self, config: &Config) -> Result<KvDtype, Problem> {
        KvDtype::of(self.kv_cache_dtype, config, self.arithmetic, self.device.kind())
    }
}

/// What matrices stored as plain numbers are brought into when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantize {
    /// They stay as they are.
    #[default]
    None,
    /// 8 bits in blocks of 32 with a scale.
    Int8,
    /// 4 bits in blocks of 32 with a scale.
    Int4,
}

impl Quantize {
    fn format(self) -> Option<Format> {
        match self {
            Self::None => None,
            Self::Int8 => Some(Format::Q8_0),
            Self::Int4 => Some(Format::Q4_0),
        }
    }
}

impl FromStr for Quantize {
    type Err = UnknownQuantize;
    fn from_str(name: &str) -> Result<Self, UnknownQuantize> {
        match name {
            "none" => Ok(Self::None),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            _ => Err(UnknownQuantize(name.into())),
        }
    }
}

/// A name that is no quantisation.
#[derive(Debug, thiserror::Error)]
#[error("unknown quantisation '{0}': none, int8 or int4")]
pub struct UnknownQuantize(String);

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The file's or folder's name without an ending.
    pub name: String,
    pub architecture: String,
    /// Longest prompt plus completion, tokens.
    pub context_length: usize,
    pub vocab: usize,
    pub parameters: u64,
    /// Changes when weights, template or tokenizer change.
    pub revision: String,
    pub kv_cache_dtype: KvDtype,
    pub kv_bytes_per_block: u64,
    /// Bytes of the weights as they lie in memory.
    pub weights_bytes: u64,
    /// A row comes out the same to the last bit, whichever rows are computed beside it.
    pub batch_invariant: bool,
    /// Of a model that makes vectors of texts instead of generating.
    pub pooling: Option<Pooling>,
}

/// Whether a row's bits depend on that row and its past alone. The CPU's kernels go through every row in one order; GPUs
/// pick kernels by the number of rows, and latent and compressed attention pick forms by it, which round differently.
fn batch_invariant(attention: &AttentionConfig, device: Kind) -> bool {
    device == Kind::Cpu && matches!(attention, AttentionConfig::Grouped(_))
}

/// Reads the headers of a model's files and says what it will need, loaded like this.
pub fn estimate(path: &Path, options: &Options) -> Result<Estimate, LoadError> {
    let read = || -> Result<Estimate, Problem> {
        let checkpoint = Checkpoint::open(path)?;
        let config = Config::of(checkpoint.config())?;
        Estimate::of(&checkpoint, &config, options.quantize.format(), options.kv_dtype(&config)?)
    };
    read().map_err(|problem| problem.at(path))
}

/// A model with what its files carry beside it.
pub struct Loaded {
    pub model: Model,
    /// None where a folder has no tokenizer: such a model takes and gives token ids only.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub template: Option<ChatTemplate>,
}

/// A model that converses.
pub struct Chat {
    pub model: Model,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
}

/// Loads a model with all that its files carry. `progress` is told bytes done and bytes of all.
pub fn load(path: &Path, options: Options, progress: &dyn Fn(u64, u64)) -> Result<Loaded, LoadError> {
    let load = || -> Result<Loaded, Problem> {
        let checkpoint = Checkpoint::open(path)?;
        // The small parts first: what is refused for them is refused before the weights are read.
        let tokenizer = Tokenizer::open(&checkpoint)?;
        let template = match &tokenizer {
            Some(tokenizer) => ChatTemplate::open(&checkpoint, tokenizer)?,
            None => None,
        };
        let vocab = Config::of(checkpoint.config())?.vocab;
        if let Some(tokenizer) = tokenizer.as_ref().filter(|tokenizer| tokenizer.vocab() > vocab) {
            return Err(Problem::Unsupported(format!(
                "the embedding has {vocab} rows, too few for the {} tokens of the tokenizer",
                tokenizer.vocab()
            )));
        }
        let model = Model::of(&checkpoint, options, progress)?;
        Ok(Loaded { model, tokenizer: tokenizer.map(Arc::new), template })
    };
    load().map_err(|problem| problem.at(path))
}

impl Loaded {
    /// Refuses a model that can neither converse nor embed; `path` is where it was loaded from.
    pub fn servable(self, path: &Path) -> Result<Servable, LoadError> {
        match (self.model.info.pooling, self.tokenizer) {
            (Some(_), Some(tokenizer)) => Ok(Servable { model: self.model, tokenizer, template: None }),
            (_, tokenizer) => Self { tokenizer, ..self }.chat(path).map(Servable::from),
        }
    }

    /// Refuses a model that has no tokenizer or no chat template; `path` is where it was loaded from.
    pub fn chat(self, path: &Path) -> Result<Chat, LoadError> {
        let without = |what: &str| LoadError::Unsupported {
            path: path.into(),
            what: format!("there is no {what} beside the model: it can only be given token ids (`generate --tokens`)"),
        };
        let tokenizer = self.tokenizer.ok_or_else(|| without("tokenizer"))?;
        let template = self.template.ok_or_else(|| without("chat template"))?;
        Ok(Chat { model: self.model, tokenizer, template })
    }
}

/// A model that a node serves: one that converses, or one that embeds.
pub struct Servable {
    pub model: Model,
    pub tokenizer: Arc<Tokenizer>,
    /// Of one that converses.
    pub template: Option<ChatTemplate>,
}

impl From<Chat> for Servable {
    fn from(Chat { model, tokenizer, template }: Chat) -> Self {
        Self { model, tokenizer, template: Some(template) }
    }
}

/// A transformer with its cache.
pub struct Model {
    transformer: Transformer,
    cache: KvCache,
    device: Device,
    label: String,
    info: ModelInfo,
    profile: Profile,
    /// What the segments of the last forward pass wanted, `[rows, vocab]`, or hidden states, `[rows, dim]`.
    wanted: Option<Tensor<2>>,
    /// What the device said when it failed; the cache is lost then.
    failed: Option<String>,
}

impl Model {
    /// Loads the weights alone.
    pub fn load(path: &Path, options: Options, progress: &dyn Fn(u64, u64)) -> Result<Self, LoadError> {
        let load = || Self::of(&Checkpoint::open(path)?, options, progress);
        load().map_err(|problem| problem.at(path))
    }

    fn of(checkpoint: &Checkpoint, options: Options, progress: &dyn Fn(u64, u64)) -> Result<Self, Problem> {
        let config = Config::of(checkpoint.config())?;
        let kv_blocks = options.kv_blocks;
        if kv_blocks == 0 || kv_blocks > i32::MAX as usize / BLOCK_TOKENS {
            return Err(Problem::Device(format!("a cache of {kv_blocks} blocks cannot be")));
        }
        let pooling = Pooling::of(checkpoint, config.dim)?;
        let Opened { device, label, memory, kind } = options.device.open()?;
        let kv = KvDtype::of(options.kv_cache_dtype, &config, options.arithmetic, kind)?;
        let estimate = Estimate::of(checkpoint, &config, options.quantize.format(), kv)?;
        if let Some(there) = memory {
            estimate.fits(there, &label, &config, kv_blocks)?;
        }
        // It reads pieces of every tensor, whose pages are dropped again as the tensors are loaded.
        let revision = checkpoint.fingerprint()?;
        let precision = Precision { arithmetic: options.arithmetic, quantize: options.quantize.format() };
        let parts = catch_unwind(AssertUnwindSafe(|| -> Result<_, Problem> {
            let mut transformer = load::transformer(checkpoint, &config, precision, &device, progress)?;
            transformer.take_form(options.form);
            Ok((transformer, KvCache::new(&config, kv_blocks, kv, &device)))
        }));
        let (transformer, cache) = parts
            .unwrap_or_else(|panic| Err(Problem::Device(format!("{label}: {}", panic_message(panic.as_ref())))))?;
        let info = ModelInfo {
            name: checkpoint.name(),
            architecture: config.architecture.clone(),
            context_length: config.context_length,
            vocab: config.vocab,
            parameters: estimate.parameters,
            revision,
            kv_cache_dtype: kv,
            kv_bytes_per_block: config.kv_bytes_per_block(kv),
            weights_bytes: estimate.weights_bytes,
            batch_invariant: batch_invariant(&config.attention, kind),
            pooling,
        };
        Ok(Self { transformer, cache, device, label, info, profile: Profile::default(), wanted: None, failed: None })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where it computes, e.g. `cpu (flex, 2 threads, AVX2+FMA)`.
    pub fn device(&self) -> &str {
        &self.label
    }

    /// Runs all rows of all segments in one forward pass, and reads what they want, f32: none, `[vocab]` or
    /// `[tokens, vocab]` of logits, row after row. A model that embeds gives hidden states in their place, `[dim]` each.
    pub fn step(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError> {
        self.forward(segments)?;
        self.read(segments)
    }

    /// As [`Model::step`], but leaves what the segments want where it was computed, to be drawn from or read, once. On a
    /// GPU it may still be computing when this returns.
    pub fn forward(&mut self, segments: &[Segment]) -> Result<(), StepError> {
        if let Some(failed) = &self.failed {
            return Err(StepError::Device(failed.clone()));
        }
        segments.iter().try_for_each(|segment| self.check(segment))?;
        self.wanted = None;
        if segments.is_empty() {
            return Ok(());
        }
        let output = if self.info.pooling.is_some() { Output::Hidden } else { Output::Logits };
        self.profile.start();
        self.wanted = self.on_device(|model| {
            let state = State { cache: &mut model.cache, device: &model.device, profile: &mut model.profile };
            model.transformer.forward(segments, output, state)
        })?;
        Ok(())
    }

    /// A token for each draw, from the rows that the segments of the last forward pass wanted logits of, in their order.
    /// Nothing but the tokens, and the log probabilities that are asked for, is read from the device.
    pub fn draw(&mut self, draws: &[Draw]) -> Result<Vec<Result<Picked, SampleError>>, StepError> {
        let wanted = self.wanted.take();
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        let Some(logits) = wanted.filter(|_| self.info.pooling.is_none()) else {
            return Err(StepError::Input("there are no logits to draw from".into()));
        };
        let [rows, vocab] = logits.dims();
        if let Some(draw) = draws.iter().find(|draw| draw.row >= rows) {
            return Err(StepError::Input(format!("a draw from row {} of {rows}", draw.row)));
        }
        let words = self.on_device(|model| {
            let words = ops::draw(logits, draws);
            model.profile.stop(Part::Sampler);
            words.into_data()
        })?;
        let words =
            words.try_into_vec::<u32>().map_err(|e| StepError::Device(format!("draws of another type: {e:?}")))?;
        self.profile.stop(Part::Readback);
        let width = words.len() / draws.len();
        let picked =
            words.chunks_exact(width.max(1)).zip(draws).map(|(words, draw)| words::read(words, draw.sampling, vocab));
        Ok(picked.collect())
    }

    /// What these segments of the last forward pass wanted.
    pub fn read(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError> {
        let wanted = self.wanted.take();
        let data = self.on_device(|_| wanted.map(Tensor::into_data))?;
        let values = match data.map(|data| data.try_into_vec::<f32>()).transpose() {
            Ok(values) => values.unwrap_or_default(),
            Err(e) => return Err(StepError::Device(format!("logits of another type than f32: {e:?}"))),
        };
        let width = self.info.pooling.map_or(self.info.vocab, |pooling| pooling.dimensions);
        let mut rest = &values[..];
        let mut out = Vec::with_capacity(segments.len());
        for (i, segment) in segments.iter().enumerate() {
            let rows = segment.wanted();
            if rows == 0 {
                out.push(None);
                continue;
            }
            let Some((own, after)) = rest.split_at_checked(rows * width) else {
                return Err(StepError::Input("the last step was one of other segments, or was read before".into()));
            };
            rest = after;
            if own.iter().any(|x| !x.is_finite()) {
                return Err(StepError::NotFinite { segment: i });
            }
            out.push(Some(own.to_vec()));
        }
        self.profile.stop(Part::Readback);
        Ok(out)
    }

    /// Work on the device, which panics when it fails. Nothing is asked of it afterwards.
    fn on_device<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, StepError> {
        catch_unwind(AssertUnwindSafe(|| work(self))).map_err(|panic| {
            let what = panic_message(panic.as_ref());
            self.failed = Some(what.clone());
            StepError::Device(what)
        })
    }

    /// From now on, where each step spends its time is measured.
    pub fn profiled(mut self) -> Self {
        self.profile = Profile::on(self.device.clone());
        self
    }

    /// What the parts of the last step took, if that is measured.
    pub fn spent(&self) -> Option<Spent> {
        self.profile.spent()
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
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("an error without a message").to_owned()
}
