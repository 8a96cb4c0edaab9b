//! Multi-head latent attention out of a checkpoint.

use littoral_kernels::{Format, dequantize};

use super::{
    super::{
        attention::{Form, Indexer, LatentAttention},
        config::Latent,
        error::Problem,
        linear::Weight,
        ops::Matrix,
    },
    source::{Source, Stored},
};

pub fn attention(source: &mut Source, prefix: &str, dim: usize, latent: &Latent) -> Result<LatentAttention, Problem> {
    let Latent { heads, kv_rank, nope, rope_dim, value, bias, .. } = *latent;
    let q_rows = heads * latent.query();
    let kv = ("kv_a_proj_with_mqa", kv_rank + rope_dim);
    let (first, q) = match latent.q_rank {
        None => {
            // Without a latent vector the queries' projection has no bias.
            let first = source.linear(prefix, &[("q_proj", q_rows)], dim, false)?;
            (first.beside(source.linear(prefix, &[kv], dim, bias)?), None)
        }
        Some(rank) => {
            let first = source.linear(prefix, &[("q_a_proj", rank), kv], dim, bias)?;
            let norm = source.vector(&format!("{prefix}q_a_layernorm.weight"), rank)?;
            (first, Some((norm, source.linear(prefix, &[("q_b_proj", q_rows)], rank, false)?)))
        }
    };
    let kv_b = source.stored(&format!("{prefix}kv_b_proj.weight"), heads * (nope + value), kv_rank)?;
    // Heads one after the other, and in each the rows of its key before those of its value.
    let of_heads = |from: usize, len: usize| {
        let rows = |head: usize| head * (nope + value) + from..head * (nope + value) + from + len;
        (0..heads).flat_map(|head| kv_b.rows(rows(head))).copied().collect::<Vec<u8>>()
    };
    let (keys, values) = (of_heads(0, nope), of_heads(nope, value));
    let arithmetic = source.precision.arithmetic;
    let matrix = |format, rows, cols| Matrix { format, rows, cols, arithmetic };
    let indexer = match &latent.indexer {
        None => None,
        Some(config) => Some(indexer(source, &format!("{prefix}indexer."), dim, latent, config.clone())?),
    };
    let (plain, transposed) = transposed(&kv_b, &keys, nope, kv_rank);
    Ok(LatentAttention {
        first,
        q,
        kv_norm: source.vector(&format!("{prefix}kv_a_layernorm.weight"), kv_rank)?,
        keys: Weight::new(&keys, matrix(kv_b.format, heads * nope, kv_rank), source.device),
        absorb: Weight::new(&transposed, matrix(plain, kv_rank, nope), source.device),
        values: Weight::new(&values, matrix(kv_b.format, value, kv_rank), source.device),
        output: source.linear(prefix, &[("o_proj", dim)], heads * value, bias)?,
        indexer,
        form: Form::default(),
        config: latent.clone(),
    })
}

/// Matrices of `rows` rows one below the other, each transposed; in the numbers they are stored as, or in f32 where
/// those come in blocks along a row.
fn transposed(stored: &Stored, bytes: &[u8], rows: usize, cols: usize) -> (Format, Vec<u8>) {
    let (format, width, plain) = match stored.format {
        format @ (Format::F16 | Format::BF16) => (format, 2, None),
        format => {
            let mut numbers = vec![0.0; bytes.len() / format.row_bytes(cols).unwrap_or(1) * cols];
            dequantize(format, cols, bytes, &mut numbers);
            (Format::F32, 4, Some(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
        }
    };
    let bytes = plain.as_deref().unwrap_or(bytes);
    let mut out = Vec::with_capacity(bytes.len());
    for matrix in bytes.chunks_exact(rows * cols * width) {
        for col in 0..cols {
            for row in 0..rows {
                out.extend_from_slice(&matrix[(row * cols + col) * width..][..width]);
            }
        }
    }
    (format, out)
}

fn indexer(
    source: &mut Source,
    prefix: &str,
    dim: usize,
    latent: &Latent,
    config: super::super::config::IndexerConfig,
) -> Result<Indexer, Problem> {
    let rank = latent.q_rank.unwrap_or(dim);
    let mut norm = |name: &str| source.vector(&format!("{prefix}k_norm.{name}"), config.head_dim);
    let norm = (norm("weight")?.unsqueeze(), norm("bias")?.unsqueeze());
    Ok(Indexer {
        q: source.linear(prefix, &[("wq_b", config.heads * config.head_dim)], rank, false)?,
        key: source.linear(prefix, &[("wk", config.head_dim)], dim, false)?,
        weights: source.linear(prefix, &[("weights_proj", config.heads)], dim, false)?,
        norm,
        config,
    })
}
