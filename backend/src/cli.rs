//! The command line.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use littoral_node::model::{self, DeviceChoice, KvDtype, Options, Quantize};
use tracing_subscriber::EnvFilter;

/// An inference node of Littoral: a language model behind gRPC.
#[derive(Debug, Parser)]
#[command(name = "littoral-node", version)]
pub struct Cli {
    /// How log lines are written to stderr; RUST_LOG chooses which.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model to edges.
    Serve(Serve),
    /// Answer one prompt on the terminal.
    Generate(Generate),
    /// Say what a model file holds and what it will need.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The model: a Hugging Face folder, a GGUF file, or OWNER/NAME of a model hub.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// The model's name for clients [default: the file's name without its quantisation].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// This node's name in answers and logs [default: the address it listens on].
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// gRPC, for edges.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7433")]
    pub listen: String,
    /// Prometheus metrics and /healthz.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7434")]
    pub metrics: String,
    /// The side-door, POST /v1/chat/completions for hosts without gRPC; needs a secret [default: closed].
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// File with the side-door's secret.
    #[arg(long, value_name = "FILE", requires = "http")]
    pub http_secret_file: Option<PathBuf>,
    /// The side-door's secret itself.
    #[arg(long, env = "LITTORAL_NODE_HTTP_SECRET", hide_env_values = true, hide = true)]
    pub http_secret: Option<String>,
    #[command(flatten)]
    pub compute: Compute,
    /// Requests generated at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub slots: u16,
    /// Requests that wait for a slot at most; more are refused as overloaded.
    #[arg(long, default_value_t = 64)]
    pub queue: u16,
    /// Tokens the KV cache holds, over all slots [default: what every slot can need, an eighth of the free memory at most].
    #[arg(long, value_name = "N")]
    pub kv_tokens: Option<usize>,
    /// Tokens one step computes at most: more reads prompts faster and lets running answers wait longer.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub step_tokens: usize,
    /// Draft tokens where the text repeats itself: answers stay the same and come faster.
    #[arg(long, value_enum, default_value = "auto")]
    pub speculate: Speculate,
    /// Measure where each step spends its time: `littoral_node_part_seconds` in the metrics. A GPU is slower meanwhile.
    #[arg(long)]
    pub profile: bool,
    /// After SIGINT or SIGTERM, seconds that running answers get to end.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub drain_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Speculate {
    /// As long as drafts are right often enough.
    Auto,
    Off,
}

#[derive(Debug, Args)]
pub struct Generate {
    /// The model: a Hugging Face folder, a GGUF file, or OWNER/NAME of a model hub.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// What the user says.
    #[arg(long, required_unless_present = "tokens")]
    pub prompt: Option<String>,
    /// Token ids in place of a prompt, separated by commas; no chat template, no tokenizer.
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "system"])]
    pub tokens: Vec<u32>,
    /// What the system says first.
    #[arg(long)]
    pub system: Option<String>,
    /// Longest answer, tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: u32,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Seed of the sampling [default: drawn].
    #[arg(long)]
    pub seed: Option<i64>,
    /// The likeliest tokens of every step, with their log probabilities, as many as this.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5",
          value_parser = clap::value_parser!(u16).range(0..=100))]
    pub logprobs: Option<u16>,
    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,
    /// Write the logits of the prompt, f32 [positions, vocab], to this safetensors file.
    #[arg(long, value_name = "FILE")]
    pub dump_logits: Option<PathBuf>,
    /// A text before which the answer ends; may be given several times.
    #[arg(long)]
    pub stop: Vec<String>,
    #[command(flatten)]
    pub compute: Compute,
}

/// Where and how to compute.
#[derive(Debug, Clone, Copy, Args)]
pub struct Compute {
    /// Where to compute: auto, cpu, wgpu or cuda; cuda:1 is the second card.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// How quantised weights meet activations on the CPU: exact takes them as they are, fast rounds them to 8 bits.
    #[arg(long, value_enum, default_value = "fast")]
    pub arithmetic: Arithmetic,
    /// What matrices that are stored as plain numbers are brought into: none, int8 or int4.
    #[arg(long, default_value = "none")]
    pub quantize: Quantize,
    /// What keys and values are kept as: f32, or f16 in half the memory; auto is f16 where arithmetic is fast on the CPU.
    #[arg(long, value_enum, default_value = "auto")]
    pub kv_cache_dtype: KvCacheDtype,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KvCacheDtype {
    Auto,
    F32,
    F16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Arithmetic {
    Exact,
    Fast,
}

impl Compute {
    /// How to load a model with a cache of some blocks.
    pub fn options(self, kv_blocks: usize) -> Options {
        let arithmetic = match self.arithmetic {
            Arithmetic::Exact => model::Arithmetic::Exact,
            Arithmetic::Fast => model::Arithmetic::Fast,
        };
        let kv_cache_dtype = match self.kv_cache_dtype {
            KvCacheDtype::Auto => None,
            KvCacheDtype::F32 => Some(KvDtype::F32),
            KvCacheDtype::F16 => Some(KvDtype::F16),
        };
        let Self { device, quantize, .. } = self;
        Options { device, arithmetic, quantize, kv_cache_dtype, kv_blocks, ..Options::default() }
    }
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// The model: a Hugging Face folder, a GGUF file, or OWNER/NAME of a model hub.
    pub model: PathBuf,
    /// List every tensor as well.
    #[arg(long)]
    pub tensors: bool,
    /// Print one JSON document instead of lines.
    #[arg(long)]
    pub json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

impl LogFormat {
    /// Logs to stderr from here on.
    pub fn start(self) {
        let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
        let colours = std::io::stderr().is_terminal();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
        match self {
            Self::Text => log.init(),
            Self::Json => log.json().init(),
        }
    }
}
