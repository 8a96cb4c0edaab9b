//! DeepSeek V4's attention and hyper-connections out of a checkpoint.

use super::{
    super::{
        attention::{CompressedAttention, Compressor, Summaries, SummaryIndexer},
        config::{Compressed, CompressedLayer, Compression, Config, HyperConfig},
        error::Problem,
        hyper::Hyper,
    },
    ones,
    source::Source,
};

pub fn attention(
    source: &mut Source,
    prefix: &str,
    layer: usize,
    config: &Config,
    compressed: &Compressed,
) -> Result<CompressedAttention, Problem> {
    let Compressed { heads, head_dim, q_rank, groups, output_rank, .. } = *compressed;
    let kind = compressed.layers[layer];
    let dim = config.dim;
    let summaries = match kind.compression() {
        None => None,
        Some(compression) => Some(Summaries {
            compressor: compressor(source, prefix, config, compressed, compression, head_dim, [1, 2])?,
            indexer: match kind {
                CompressedLayer::Sparse(_) => {
                    let at = format!("{prefix}indexer.");
                    let (indexer, width) = (&compressed.indexer, compressed.indexer.head_dim);
                    Some(SummaryIndexer {
                        compressor: compressor(source, &at, config, compressed, compression, width, [3, 4])?,
                        q: source.linear(&at, &[("wq_b", indexer.heads * width)], q_rank, false)?,
                        weights: source.linear(&at, &[("weights_proj", indexer.heads)], dim, false)?,
                        heads: indexer.heads,
                        top: indexer.top,
                    })
                }
                _ => None,
            },
        }),
    };
    let group = format!("{prefix}wo_a.weight");
    Ok(CompressedAttention {
        eps: config.norm_eps,
        first: source.linear(prefix, &[("wq_a", q_rank), ("wkv", head_dim)], dim, false)?,
        q_norm: source.vector(&format!("{prefix}q_norm.weight"), q_rank)?,
        q: source.linear(prefix, &[("wq_b", heads * head_dim)], q_rank, false)?,
        ones: ones(head_dim, source.device),
        kv_norm: source.vector(&format!("{prefix}kv_norm.weight"), head_dim)?,
        sinks: source.vector(&format!("{prefix}attn_sink"), heads)?,
        groups: source.split(&group, groups, output_rank, heads / groups * head_dim)?,
        output: source.linear(prefix, &[("wo_b", dim)], groups * output_rank, false)?,
        summaries,
        config: compressed.clone(),
    })
}

fn compressor(
    source: &mut Source,
    prefix: &str,
    config: &Config,
    compressed: &Compressed,
    compression: Compression,
    dim: usize,
    planes: [usize; 2],
) -> Result<Compressor, Problem> {
    let width = compression.width(dim);
    let at = format!("{prefix}compressor.");
    Ok(Compressor {
        project: source.linear(&at, &[("wkv", width), ("wgate", width)], config.dim, false)?,
        places: source.table_of_floats(&format!("{at}ape"), [compression.rate, width])?,
        norm: source.vector(&format!("{at}norm.weight"), dim)?,
        eps: config.norm_eps,
        rope_dim: compressed.rope_dim,
        compression,
        dim,
        planes,
    })
}

/// The tensors `<at><name>fn`, `base` and `scale`. Those of the head only weigh the streams; those of a layer also say how
/// they mix, and have a scale for each of the three parts.
pub fn hyper(source: &mut Source, at: &str, name: &str, config: &Config, hyper: HyperConfig) -> Result<Hyper, Problem> {
    let n = hyper.streams;
    let parts: &[usize] = if at.is_empty() { &[n] } else { &[n, n, n * n] };
    let rows = parts.iter().sum();
    let scales = source.floats(&format!("{at}{name}scale"), &[parts.len()])?;
    let scale: Vec<f32> = parts.iter().zip(scales).flat_map(|(n, scale)| vec![scale; *n]).collect();
    Ok(Hyper {
        config: hyper,
        eps: config.norm_eps,
        ones: ones(n * config.dim, source.device),
        project: source.exact(&format!("{at}{name}fn"), rows, n * config.dim)?,
        scale: source.row(scale),
        base: source.vector(&format!("{at}{name}base"), rows)?.unsqueeze(),
    })
}
