//! What 8-bit activations cost: how far the fast arithmetic's distribution of next tokens is from the exact one's.

use std::path::PathBuf;

use littoral_node::model::{Arithmetic, BLOCK_TOKENS, DeviceChoice, Logits, Model, Options, Segment, load};

/// Nats a token, on average.
const MOST: f64 = 0.01;
const TOKENS: usize = 2000;
const CHUNK: usize = 250;

fn model_path() -> PathBuf {
    let path = std::env::var_os("LITTORAL_TEST_MODEL").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
        cache.unwrap_or_else(home).join("littoral/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    });
    assert!(path.exists(), "the test model is not at {}: fetch it with `cargo xtask model`", path.display());
    path
}

fn options(arithmetic: Arithmetic) -> Options {
    let kv_blocks = TOKENS.div_ceil(BLOCK_TOKENS);
    Options { device: DeviceChoice::Cpu, arithmetic, kv_blocks, ..Options::default() }
}

fn step(model: &mut Model, tokens: &[u32], start: usize) -> Vec<f32> {
    let blocks: Vec<u32> = (0..TOKENS.div_ceil(BLOCK_TOKENS) as u32).collect();
    model.step(&[Segment { tokens, start, blocks: &blocks, logits: Logits::All }]).unwrap().remove(0).unwrap()
}

/// Log probabilities.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    logits.iter().map(|x| f64::from(x - highest) - sum.ln()).collect()
}

#[test]
fn fast_stays_close_to_exact() {
    let exact = load(&model_path(), options(Arithmetic::Exact), &|_, _| {}).unwrap();
    let ids = exact.tokenizer.unwrap().encode(include_str!("../golden/text.txt"));
    assert!(ids.len() >= TOKENS, "the text has {} tokens", ids.len());
    let mut exact = exact.model;
    let mut fast = Model::load(&model_path(), options(Arithmetic::Fast), &|_, _| {}).unwrap();
    let vocab = exact.info().vocab;
    let (mut sum, mut agree) = (0.0, 0);
    for (i, tokens) in ids[..TOKENS].chunks(CHUNK).enumerate() {
        let (p, q) = (step(&mut exact, tokens, i * CHUNK), step(&mut fast, tokens, i * CHUNK));
        for (p, q) in p.chunks_exact(vocab).zip(q.chunks_exact(vocab)) {
            let (p, q) = (log_softmax(p), log_softmax(q));
            sum += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            let best = |x: &[f64]| (0..x.len()).max_by(|a, b| x[*a].total_cmp(&x[*b]));
            agree += usize::from(best(&p) == best(&q));
        }
    }
    let mean = sum / TOKENS as f64;
    println!("mean KL of fast to exact: {mean:.5} nats; the likeliest token agrees in {agree} of {TOKENS}");
    // Zero would mean that both computed the same way.
    assert!(mean > 0.0 && mean <= MOST, "{mean}");
}
