//! Writes a checkpoint of random bf16 numbers at the shape of a known model, to measure speed where its weights are not at
//! hand: `cargo run --release -p littoral-node --example random -- PRESET FOLDER`.
//!
//! Prints one line of JSON: parameters, those that a token meets, bytes kept a token.

mod preset;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use half::bf16;
use preset::{PRESETS, Preset, TensorShape};
use serde_json::{Map, json};

/// Bytes of tensors in a shard, unless one tensor has more.
const SHARD: usize = 4 << 30;
/// Numbers made at once.
const CHUNK: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (name, folder) = (arguments.next(), arguments.next());
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    let usage = format!("usage: random PRESET FOLDER; presets: {}", names.join(", "));
    let preset = PRESETS.iter().find(|preset| Some(preset.name) == name.as_deref()).ok_or(usage.clone())?;
    write(preset, Path::new(&folder.ok_or(usage)?))?;
    println!("{}", preset.summary());
    Ok(())
}

fn write(preset: &Preset, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    fs::create_dir_all(folder)?;
    let config = preset.config();
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
    let shards = shards(preset.tensors());
    let mut places = Map::new();
    let mut numbers = Numbers { state: 1 };
    for (i, tensors) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        places.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        shard(&folder.join(name), tensors, &mut numbers)?;
    }
    let index = json!({ "metadata": {}, "weight_map": places });
    fs::write(folder.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    Ok(())
}

fn shards(tensors: Vec<TensorShape>) -> Vec<Vec<TensorShape>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + tensor.bytes() > SHARD {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.bytes();
        shards.last_mut().expect("there is one").push(tensor);
    }
    shards
}

/// The format: length of the header, header in JSON, tensors one after the other.
fn shard(path: &Path, tensors: &[TensorShape], numbers: &mut Numbers) -> Result<(), Box<dyn std::error::Error>> {
    let mut header = Map::new();
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes();
        let entry = json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end] });
        header.insert(tensor.name.clone(), entry);
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut bytes = Vec::with_capacity(2 * CHUNK);
    for tensor in tensors {
        let mut left = tensor.elements();
        while left > 0 {
            let n = left.min(CHUNK);
            bytes.clear();
            match tensor.spread {
                Some(spread) => numbers.fill(n, spread, &mut bytes),
                None => bytes.extend(bf16::ONE.to_le_bytes().repeat(n)),
            }
            out.write_all(&bytes)?;
            left -= n;
        }
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}

/// Marsaglia's xorshift64*; four numbers a step.
struct Numbers {
    state: u64,
}

impl Numbers {
    /// Appends `n` numbers, evenly spread over `-spread..spread`.
    fn fill(&mut self, n: usize, spread: f32, bytes: &mut Vec<u8>) {
        let scale = spread / 32768.0;
        let end = bytes.len() + 2 * n;
        while bytes.len() < end {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let bits = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D);
            for i in 0..4 {
                let sample = f32::from((bits >> (16 * i)) as u16 as i16);
                bytes.extend(bf16::from_f32(sample * scale).to_le_bytes());
            }
        }
        bytes.truncate(end);
    }
}
