//! The commands, one module each, and what they share.

pub mod generate;
pub mod inspect;
pub mod serve;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use littoral_node::{
    model::{self, BLOCK_TOKENS, Estimate, Loaded},
    weights,
};

use crate::cli::Compute;

/// The files of a model: the path itself, or where the hub's model was fetched to, with a progress bar on a terminal.
fn locate(model: &Path) -> anyhow::Result<PathBuf> {
    let bar = Bar::new("fetching");
    let path = weights::locate(model, &|done, all| bar.at(done, all)).context("the model cannot be had")?;
    bar.done();
    Ok(path)
}

/// Loads a model, with a progress bar on a terminal. The cache holds `kv_tokens` tokens, in blocks whose number is given
/// too.
fn load(path: &Path, compute: Compute, kv_tokens: usize) -> anyhow::Result<(Loaded, usize)> {
    let bar = Bar::new("loading");
    let blocks = kv_tokens.div_ceil(BLOCK_TOKENS).max(1);
    let options = compute.options(blocks);
    let loaded = model::load(path, options, &|done, all| bar.at(done, all)).context("the model cannot be loaded")?;
    bar.done();
    Ok((loaded, blocks))
}

/// What a model will need, told to people before it is loaded.
fn announce(estimate: &Estimate) {
    let stored: Vec<_> = estimate.stored.iter().map(|(kind, n)| format!("{kind} {}", bytes(*n))).collect();
    eprintln!(
        "{}: {} parameters, {} of weights ({}), {} of KV cache a token in {}",
        estimate.architecture,
        count(estimate.parameters),
        bytes(estimate.weights_bytes),
        stored.join(", "),
        bytes(estimate.kv_bytes_per_token),
        estimate.kv_cache_dtype,
    );
    if estimate.skipped > 0 {
        eprintln!("{} tensors of multi-token prediction are left out: they are not used here", estimate.skipped);
    }
    if !estimate.unread.is_empty() {
        eprintln!("config keys that are not known here: {}", estimate.unread.join(", "));
    }
}

/// A progress bar that appears with the first bytes, on a terminal only.
struct Bar {
    message: &'static str,
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    fn new(message: &'static str) -> Self {
        Self { message, bar: OnceLock::new() }
    }

    fn at(&self, done: u64, all: u64) {
        let new = || {
            let target = match std::io::stderr().is_terminal() {
                true => ProgressDrawTarget::stderr(),
                false => ProgressDrawTarget::hidden(),
            };
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(all), target).with_style(style).with_message(self.message)
        };
        let bar = self.bar.get_or_init(new);
        bar.set_length(all);
        bar.set_position(done);
    }

    fn done(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// The model's name for clients: the folder's or file's in lower case, words joined by `-`, without extension and
/// quantisation.
fn model_name(path: &Path) -> String {
    let stem = weights::name(path).to_lowercase();
    let mut words: Vec<&str> = stem.split(['-', '.', ' ']).filter(|w| !w.is_empty()).collect();
    while words.len() > 1 && words.last().is_some_and(|w| is_quantisation(w)) {
        words.pop();
    }
    words.join("-").replace('_', "-")
}

/// `q4_1`, `q8_0`, `q4_k_m`, `iq3_xs`, `f16`, `bf16` ...
fn is_quantisation(word: &str) -> bool {
    let digits = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    matches!(word, "f16" | "f32" | "bf16" | "fp16" | "fp32" | "gguf")
        || word.strip_prefix("iq").or(word.strip_prefix('q')).is_some_and(digits)
}

/// `n` with a unit of 1000: 134.5M.
fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.1}B", n as f64 / 1e9),
        1_000_000.. => format!("{:.1}M", n as f64 / 1e6),
        1_000.. => format!("{:.1}K", n as f64 / 1e3),
        _ => n.to_string(),
    }
}

/// Bytes with a unit of 1024: 512.0 MiB.
fn bytes(n: u64) -> String {
    match n {
        0x4000_0000.. => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        0x10_0000.. => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} KiB", n as f64 / f64::from(1 << 10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_without_quantisation() {
        let table = [
            ("/m/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
            ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "smollm2-135m-instruct"),
            ("tiny_llama.f16.gguf", "tiny-llama"),
            ("Qwen2.5-7B.IQ3_XS.gguf", "qwen2-5-7b"),
            ("q8_0.gguf", "q8-0"),
            ("/m/DeepSeek-V3-Q4_K_M-00001-of-00009.gguf", "deepseek-v3"),
        ];
        for (path, name) in table {
            assert_eq!(model_name(Path::new(path)), name);
        }
        // A folder has no extension.
        let folder = std::env::temp_dir().join("DeepSeek-V3.1");
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(model_name(&folder), "deepseek-v3-1");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!((count(134_515_008).as_str(), count(12).as_str()), ("134.5M", "12"));
        assert_eq!((bytes(3 << 30).as_str(), bytes(1536).as_str()), ("3.0 GiB", "1.5 KiB"));
    }
}
