//! Measures decode and prefill speed of a model on this machine (medians; the best step shows an idle machine):
//! `cargo run --release -p littoral-node --example speed -- MODEL`.

use std::{path::PathBuf, time::Instant};

use littoral_node::model::{BLOCK_TOKENS, DeviceChoice, KvDtype, Logits, Model, Options, Segment};

const PREFILL: [usize; 3] = [32, 128, 512];
const BATCHES: [usize; 4] = [1, 2, 4, 8];
const STEPS: usize = 24;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: speed MODEL [DEVICE] [PAST] [QUANTIZE] [KV-CACHE-DTYPE]")?);
    let device: DeviceChoice = args.next().as_deref().unwrap_or("cpu").parse()?;
    let past: usize = args.next().as_deref().unwrap_or("128").parse()?;
    let quantize = args.next().as_deref().unwrap_or("none").parse()?;
    let kv_cache_dtype = match args.next().as_deref().unwrap_or("auto") {
        "auto" => None,
        "f32" => Some(KvDtype::F32),
        "f16" => Some(KvDtype::F16),
        other => return Err(format!("unknown type of a KV cache '{other}': auto, f32 or f16").into()),
    };
    let per_sequence = (past + STEPS + 1).div_ceil(BLOCK_TOKENS);
    let blocks = (per_sequence * 8).max(1024 / BLOCK_TOKENS);
    let begin = Instant::now();
    let options = Options { device, quantize, kv_cache_dtype, kv_blocks: blocks, ..Options::default() };
    let mut model = Model::load(&path, options, &|_, _| {})?;
    let seconds = begin.elapsed().as_secs_f32();
    let info = model.info();
    println!("{} on {}, {} KV cache, loaded in {seconds:.2} s", info.name, model.device(), info.kv_cache_dtype);
    let vocab = model.info().vocab as u32;
    let token = |i: usize| (i as u32 * 7919 + 13) % vocab;

    for n in PREFILL {
        let tokens: Vec<u32> = (0..n).map(token).collect();
        let table: Vec<u32> = (0..n.div_ceil(BLOCK_TOKENS) as u32).collect();
        let mut best = f32::INFINITY;
        for _ in 0..3 {
            let begin = Instant::now();
            model.step(&[Segment { tokens: &tokens, start: 0, blocks: &table, logits: Logits::Last }])?;
            best = best.min(begin.elapsed().as_secs_f32());
        }
        println!("prefill of {n}: {best:.3} s, {:.0} tokens/s", n as f32 / best);
    }
    // Each sequence twice: blocks that are neighbours, blocks that are not.
    for scattered in [false, true] {
        for batch in BATCHES {
            let tables: Vec<Vec<u32>> = (0..batch)
                .map(|s| {
                    let block = |i: usize| if scattered { i * batch + s } else { s * per_sequence + i };
                    (0..per_sequence).map(|i| block(i) as u32).collect()
                })
                .collect();
            let mut seconds = Vec::with_capacity(STEPS);
            for step in 0..STEPS {
                let tokens = [token(step)];
                let segments: Vec<Segment> = tables
                    .iter()
                    .map(|blocks| Segment { tokens: &tokens, start: past + step, blocks, logits: Logits::Last })
                    .collect();
                let begin = Instant::now();
                model.step(&segments)?;
                seconds.push(begin.elapsed().as_secs_f32());
            }
            seconds.sort_by(f32::total_cmp);
            let rate = |seconds: f32| batch as f32 / seconds;
            let kind = if scattered { "scattered" } else { "neighbouring" };
            let (median, best) = (rate(seconds[STEPS / 2]), rate(seconds[0]));
            println!(
                "decode, batch {batch}, {past} tokens past, {kind} blocks: {median:.1} tokens/s, best step {best:.1}"
            );
        }
    }
    Ok(())
}
