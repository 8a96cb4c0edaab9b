//! A GGUF file's tensors, by the names llama.cpp gives them, as the parts of the transformer.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};

use crate::weights::{
    dequant,
    gguf::{Gguf, GgufError, TensorInfo},
};

use super::{
    EMBEDDING, OUTPUT,
    config::Config,
    embedding::Embedding,
    error::Problem,
    linear::{Layout, Linear},
    rope::Rope,
    transformer::{Layer, Transformer},
};

/// Takes tensors out of a file and counts what is done.
struct Source<'a> {
    file: &'a Gguf,
    left: HashMap<&'a str, &'a TensorInfo>,
    device: &'a Device,
    layout: Layout,
    done: u64,
    all: u64,
    progress: &'a dyn Fn(u64, u64),
}

/// Builds the transformer. Weights become f32; one tensor at a time exists twice.
pub(crate) fn transformer(
    file: &Gguf,
    config: &Config,
    device: &Device,
    layout: Layout,
    progress: &dyn Fn(u64, u64),
) -> Result<Transformer, Problem> {
    let tensors = file.tensors();
    let mut source = Source {
        file,
        left: tensors.iter().map(|t| (t.name.as_str(), t)).collect(),
        device,
        layout,
        done: 0,
        all: tensors.iter().map(|t| file.data(t).len() as u64).sum(),
        progress,
    };
    progress(0, source.all);
    let (dim, ffn, head) = (config.dim, config.ffn_dim, config.head_dim);
    let embedding = source.embedding(EMBEDDING, dim, config.vocab)?;
    let mut layers = Vec::new();
    for i in 0..config.layers {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let mut qkv = source.rotary(&name("attn_q"), dim, config.heads, head)?;
        qkv.extend(source.rotary(&name("attn_k"), dim, config.kv_heads, head)?);
        qkv.extend(source.rows(&name("attn_v"), dim, config.kv_dim())?);
        layers.push(Layer {
            attn_norm: source.vector(&name("attn_norm"), dim)?,
            qkv: Linear::new(&qkv, dim, layout, device),
            attn_output: source.linear(&name("attn_output"), config.heads * head, dim)?,
            ffn_norm: source.vector(&name("ffn_norm"), dim)?,
            ffn_gate: source.linear(&name("ffn_gate"), dim, ffn)?,
            ffn_up: source.linear(&name("ffn_up"), dim, ffn)?,
            ffn_down: source.linear(&name("ffn_down"), ffn, dim)?,
        });
    }
    let output_norm = source.vector("output_norm.weight", dim)?;
    // A file without an output matrix ties it to the embedding.
    let output = if source.left.contains_key(OUTPUT) { OUTPUT } else { EMBEDDING };
    let output = source.linear(output, dim, config.vocab)?;
    if let Some(embedding) = source.left.remove(EMBEDDING) {
        source.count(embedding);
    }
    let factors = match source.left.contains_key("rope_freqs.weight") {
        true => Some(source.floats("rope_freqs.weight", &[head as u64 / 2])?),
        false => None,
    };
    if let Some(name) = source.left.keys().min() {
        return Err(Problem::Unsupported(format!(
            "the tensor '{name}' is no part of the llama architecture as it is run here"
        )));
    }
    let rope = Rope::new(head, config.rope_theta, config.rope_scaling, factors.as_deref());
    Ok(Transformer { config: config.clone(), embedding, layers, output_norm, output, rope })
}

impl<'a> Source<'a> {
    /// The elements of a tensor, which must have these dimensions (innermost first).
    fn floats(&mut self, name: &str, dims: &[u64]) -> Result<Vec<f32>, Problem> {
        let tensor = self.tensor(name, dims)?;
        let data = self.file.data(tensor);
        let mut out = Vec::with_capacity(tensor.elements() as usize);
        dequant::to_f32(tensor.kind, data, &mut out);
        self.left.remove(name);
        self.count(tensor);
        Ok(out)
    }

    /// One more tensor is done.
    fn count(&mut self, tensor: &TensorInfo) {
        self.done += self.file.data(tensor).len() as u64;
        (self.progress)(self.done, self.all);
    }

    /// A tensor that must be there, with these dimensions and a type that can be read.
    fn tensor(&self, name: &str, dims: &[u64]) -> Result<&'a TensorInfo, Problem> {
        let tensor = *self.left.get(name).ok_or_else(|| GgufError::MissingTensor { name: name.into() })?;
        if tensor.dims != dims {
            let what = format!("dimensions {:?}; the metadata say {dims:?}", tensor.dims);
            return Err(GgufError::Tensor { name: name.into(), what }.into());
        }
        if !dequant::is_supported(tensor.kind) {
            return Err(Problem::Unsupported(format!(
                "the tensor '{name}' is {}; {} are read here: fetch the model in one of these",
                tensor.kind,
                dequant::SUPPORTED
            )));
        }
        Ok(tensor)
    }

    /// The embedding, which a tied output matrix reads again.
    fn embedding(&self, name: &str, dim: usize, vocab: usize) -> Result<Embedding, Problem> {
        let tensor = self.tensor(name, &[dim as u64, vocab as u64])?;
        Ok(Embedding::new(tensor.kind, self.file.data(tensor), dim, vocab))
    }

    /// A matrix of `outputs` rows of `inputs` elements.
    fn rows(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Vec<f32>, Problem> {
        self.floats(name, &[inputs as u64, outputs as u64])
    }

    fn vector(&mut self, name: &str, dim: usize) -> Result<Tensor<2>, Problem> {
        Ok(Tensor::from_data(TensorData::new(self.floats(name, &[dim as u64])?, [1, dim]), self.device))
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, Problem> {
        Ok(Linear::new(&self.rows(name, inputs, outputs)?, inputs, self.layout, self.device))
    }

    /// A query or key projection. The file has the two elements of a rotary pair side by side; they are put into the
    /// two halves of their head, where [`Rope`] expects them.
    fn rotary(&mut self, name: &str, inputs: usize, heads: usize, head: usize) -> Result<Vec<f32>, Problem> {
        let paired = self.rows(name, inputs, heads * head)?;
        let mut halves = Vec::with_capacity(paired.len());
        for head_rows in paired.chunks_exact(head * inputs) {
            for side in 0..2 {
                for pair in head_rows.chunks_exact(2 * inputs) {
                    halves.extend_from_slice(&pair[side * inputs..(side + 1) * inputs]);
                }
            }
        }
        Ok(halves)
    }
}
