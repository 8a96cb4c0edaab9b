//! What a model will need, from its files' headers alone.

use std::collections::{BTreeMap, BTreeSet};

use littoral_kernels::Format;

use crate::weights::{Checkpoint, Kind};

use super::{cache::KvDtype, config::Config, error::Problem, load};

/// What a model will need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    pub architecture: String,
    pub parameters: u64,
    /// Bytes of the tensors as they are stored, by the name of their elements' kind; what is left out is not among them.
    pub stored: BTreeMap<String, u64>,
    /// Bytes of the weights in memory.
    pub weights_bytes: u64,
    pub kv_cache_dtype: KvDtype,
    pub kv_bytes_per_token: u64,
    pub context_length: usize,
    /// Tensors that predict tokens further ahead and are left out.
    pub skipped: usize,
    /// Keys of the configuration that say nothing this node knows.
    pub unread: Vec<String>,
}

impl Estimate {
    /// `quantize` is the format that plain matrices will be brought into.
    pub fn of(
        checkpoint: &Checkpoint,
        config: &Config,
        quantize: Option<Format>,
        kv_cache_dtype: KvDtype,
    ) -> Result<Self, Problem> {
        let skipped: BTreeSet<&str> = load::skipped(config, checkpoint).into_iter().collect();
        let mut estimate = Self {
            architecture: config.architecture.clone(),
            parameters: 0,
            stored: BTreeMap::new(),
            weights_bytes: 0,
            kv_cache_dtype,
            kv_bytes_per_token: config.kv_bytes_per_token(kv_cache_dtype),
            context_length: config.context_length,
            skipped: skipped.len(),
            unread: config.unread.clone(),
        };
        for tensor in checkpoint.table().filter(|tensor| !skipped.contains(tensor.name)) {
            let (name, elements) = (tensor.name, tensor.shape.iter().product::<usize>());
            let bytes = tensor.bytes as u64;
            *estimate.stored.entry(tensor.kind.to_string()).or_default() += bytes;
            // Packed FP4 has two parameters a byte; scales and tables are none.
            estimate.parameters += match tensor.kind {
                Kind::F8E8M0 | Kind::I32 | Kind::I64 => 0,
                Kind::I8 | Kind::U8 => 2 * bytes,
                _ if name.ends_with("_scale_inv") => 0,
                _ => elements as u64,
            };
            let plain = matches!(tensor.kind, Kind::F32 | Kind::F16 | Kind::BF16) && tensor.shape.len() >= 2;
            let cols = tensor.shape.last().copied().unwrap_or(0);
            let row = quantize.filter(|_| plain).and_then(|format| format.row_bytes(cols));
            estimate.weights_bytes += match row {
                Some(row) => (elements / cols.max(1) * row) as u64,
                None => bytes,
            };
        }
        Ok(estimate)
    }

    /// Refuses a model that needs more than `there` bytes of a device, and says what would fit.
    pub fn fits(&self, there: u64, device: &str, config: &Config, kv_blocks: usize) -> Result<(), Problem> {
        let block = config.kv_bytes_per_block(self.kv_cache_dtype);
        let cache = block.saturating_mul(kv_blocks as u64);
        let needed = self.weights_bytes.saturating_add(cache);
        if needed <= there {
            return Ok(());
        }
        let mib = |bytes: u64| bytes >> 20;
        let cure = match there.checked_sub(self.weights_bytes) {
            Some(left) if left >= block => {
                format!("a cache of {} tokens fits", left / block * super::BLOCK_TOKENS as u64)
            }
            _ => format!(
                "{} with 4-bit weights would be {} MiB; docs/large-models.md tells how to serve what no device holds",
                self.architecture,
                mib(self.parameters / 32 * 18)
            ),
        };
        Err(Problem::Device(format!(
            "{device}: the model needs {} MiB ({} MiB of it for a cache of {kv_blocks} blocks) and there are {} MiB: {cure}",
            mib(needed),
            mib(cache),
            mib(there),
        )))
    }
}
