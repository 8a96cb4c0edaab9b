//! The commands, one module each, and what they share.

pub mod generate;
pub mod inspect;
pub mod serve;

use std::{io::IsTerminal, path::Path, sync::OnceLock};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use littoral_node::model::{BLOCK_TOKENS, DeviceChoice, Loaded, load_gguf};

/// Loads a model, with a progress bar on a terminal.
fn load(path: &Path, device: DeviceChoice, kv_tokens: usize) -> anyhow::Result<(Loaded, usize)> {
    let target = || match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = || {
        ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    let bar = OnceLock::new();
    let progress = |done: u64, all: u64| {
        let bar: &ProgressBar = bar.get_or_init(|| {
            ProgressBar::with_draw_target(Some(all), target()).with_style(style()).with_message("loading")
        });
        bar.set_position(done);
    };
    let blocks = kv_tokens.div_ceil(BLOCK_TOKENS).max(1);
    let loaded = load_gguf(path, &device, blocks, &progress).context("the model cannot be loaded")?;
    if let Some(bar) = bar.get() {
        bar.finish_and_clear();
    }
    Ok((loaded, blocks))
}

/// The model's name for clients: the file's name in lower case, words joined by `-`, without extension and quantisation.
fn model_name(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().to_lowercase()).unwrap_or_default();
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
        ];
        for (path, name) in table {
            assert_eq!(model_name(Path::new(path)), name);
        }
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!((count(134_515_008).as_str(), count(12).as_str()), ("134.5M", "12"));
        assert_eq!((bytes(3 << 30).as_str(), bytes(1536).as_str()), ("3.0 GiB", "1.5 KiB"));
    }
}
