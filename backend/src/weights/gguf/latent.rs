//! The projection from the latent vector to keys and values, in the two pieces that llama.cpp keeps it in.
//!
//! Hugging Face's `kv_b_proj.weight` is `[heads * (nope + value), rank]`: of each head the rows of its key, then those of its
//! value. llama.cpp keeps `attn_k_b`, `[heads, rank, nope]`, with the keys' rows turned into columns, and `attn_v_b`,
//! `[heads, value, rank]`.

use littoral_kernels::dequantize;

use crate::weights::{Kind, Tensor};

/// What the two pieces make together.
pub struct Joined {
    pub kind: Kind,
    pub shape: [usize; 2],
}

/// Kind and shape of the whole; None if the pieces do not fit together or are of kinds that are not computed with. The numbers
/// stay what they are if both are F16 or BF16, and become F32 otherwise: blocks along a row cannot be turned.
pub fn joined(keys: (Kind, &[usize]), values: (Kind, &[usize])) -> Option<Joined> {
    let ([heads, rank, nope], [also_heads, value, also_rank]) = (keys.1, values.1) else { return None };
    let formats = [keys.0.format()?, values.0.format()?];
    let blocks = [(formats[0], *nope), (formats[1], *rank)];
    let whole = blocks.iter().all(|(format, cols)| format.row_bytes(*cols).is_some());
    if heads != also_heads || rank != also_rank || !whole {
        return None;
    }
    let half = keys.0 == values.0 && matches!(keys.0, Kind::F16 | Kind::BF16);
    Some(Joined { kind: if half { keys.0 } else { Kind::F32 }, shape: [heads * (nope + value), *rank] })
}

/// The bytes of the whole, of pieces that [`joined`] found to fit.
pub fn join(keys: &Tensor, values: &Tensor) -> Vec<u8> {
    match keys.kind {
        Kind::F16 | Kind::BF16 if keys.kind == values.kind => {
            interleave::<2>(&keys.shape, keys.bytes.as_chunks().0, values.bytes.as_chunks().0)
        }
        _ => interleave::<4>(&keys.shape, &floats(keys), &floats(values)),
    }
}

/// Of each head its key, turned, then its value. Elements are `N` bytes.
fn interleave<const N: usize>(shape: &[usize], keys: &[[u8; N]], values: &[[u8; N]]) -> Vec<u8> {
    let [heads, rank, nope] = *shape else { return Vec::new() };
    let mut out = Vec::with_capacity((keys.len() + values.len()) * N);
    let per_head = values.len().checked_div(heads).unwrap_or(0);
    for (key, value) in keys.chunks_exact((rank * nope).max(1)).zip(values.chunks_exact(per_head.max(1))) {
        for row in 0..nope {
            out.extend((0..rank).flat_map(|col| key[col * nope + row]));
        }
        out.extend(value.iter().flatten());
    }
    out
}

fn floats(tensor: &Tensor) -> Vec<[u8; 4]> {
    let Some(format) = tensor.kind.format() else { return Vec::new() };
    let mut out = vec![0.0; tensor.elements()];
    dequantize(format, tensor.shape.last().copied().unwrap_or(1), &tensor.bytes, &mut out);
    out.into_iter().map(f32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::weights::gguf::TensorType;

    fn tensor(kind: Kind, shape: &[usize], bytes: Vec<u8>) -> Tensor<'static> {
        Tensor { name: String::new(), kind, shape: shape.into(), bytes: Cow::Owned(bytes) }
    }

    #[test]
    fn pieces_become_rows_of_keys_and_values() {
        // Two heads, rank 3, keys of 2, values of 1; element = 100 * head + 10 * row + column of the whole.
        let keys: Vec<f32> = vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 100.0, 110.0, 101.0, 111.0, 102.0, 112.0];
        let values: Vec<f32> = vec![20.0, 21.0, 22.0, 120.0, 121.0, 122.0];
        let expected: Vec<f32> =
            (0..2).flat_map(|h| (0..9).map(move |i| (100 * h + i / 3 * 10 + i % 3) as f32)).collect();
        let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let keys32 = tensor(Kind::F32, &[2, 3, 2], bytes(&keys));
        let values32 = tensor(Kind::F32, &[2, 1, 3], bytes(&values));
        assert_eq!(join(&keys32, &values32), bytes(&expected));
        let whole = joined((Kind::F32, &[2, 3, 2]), (Kind::F32, &[2, 1, 3])).unwrap();
        assert_eq!((whole.kind, whole.shape), (Kind::F32, [6, 3]));
        // bf16 keeps its bytes; mixed kinds become f32.
        let brain = |x: &[f32]| x.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<u8>>();
        let (keys16, values16) =
            (tensor(Kind::BF16, &[2, 3, 2], brain(&keys)), tensor(Kind::BF16, &[2, 1, 3], brain(&values)));
        assert_eq!(join(&keys16, &values16), brain(&expected));
        assert_eq!(join(&keys16, &values32), bytes(&expected));
    }

    #[test]
    fn pieces_that_do_not_fit_are_not_joined() {
        let f32 = |shape: &'static [usize]| (Kind::F32, shape);
        assert!(joined(f32(&[2, 3, 2]), f32(&[3, 1, 3])).is_none());
        assert!(joined(f32(&[2, 3, 2]), f32(&[2, 1, 4])).is_none());
        assert!(joined(f32(&[6, 2]), f32(&[2, 1, 3])).is_none());
        assert!(joined((Kind::I8, &[2, 3, 2]), f32(&[2, 1, 3])).is_none());
        let blocks = Kind::Quantized(TensorType::Q8_0);
        assert!(joined((blocks, &[2, 32, 31]), (blocks, &[2, 1, 32])).is_none());
        assert_eq!(
            joined((blocks, &[2, 32, 64]), (blocks, &[2, 1, 32])).map(|j| (j.kind, j.shape)),
            Some((Kind::F32, [130, 32]))
        );
    }
}
