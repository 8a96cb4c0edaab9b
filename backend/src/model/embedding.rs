//! The token embedding. It is only ever read a few rows at a time, so it stays as the file has it.

use burn::tensor::{Device, Tensor, TensorData};

use crate::weights::{dequant, gguf::TensorType};

/// Rows of a quantised matrix, unpacked when they are looked up.
pub struct Embedding {
    kind: TensorType,
    data: Vec<u8>,
    dim: usize,
    row_bytes: usize,
}

impl Embedding {
    /// `data` holds `vocab` rows of `dim` elements, in whole blocks per row.
    pub fn new(kind: TensorType, data: &[u8], dim: usize, vocab: usize) -> Self {
        Self { kind, data: data.to_vec(), dim, row_bytes: data.len() / vocab }
    }

    /// The rows of these ids, `[ids, dim]`. The ids are of the vocabulary.
    pub fn of(&self, ids: impl Iterator<Item = u32>, device: &Device) -> Tensor<2> {
        let mut rows = Vec::new();
        for id in ids {
            let start = id as usize * self.row_bytes;
            dequant::to_f32(self.kind, &self.data[start..start + self.row_bytes], &mut rows);
        }
        let n = rows.len() / self.dim;
        Tensor::from_data(TensorData::new(rows, [n, self.dim]), device)
    }
}
