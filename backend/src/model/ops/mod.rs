//! Operations that burn lacks, as extensions of its backends: one trait, one body for the CPU (`flex`), one for GPUs
//! (`cube`). What is here reads weights in their own bytes, or is run so often that one kernel instead of five shows.
//!
//! On the CPU a row's result depends, to the bit, on that row alone: not on how many rows come with it.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
mod flex;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use half::{f16, vec::HalfBitsVecExt};
use littoral_kernels::{Arithmetic, AttentionShape, Format, Keys, Pairing, pack};

use super::cache::KvDtype;
use crate::sample::Draw;

/// A matrix, or a stack of them, as it lies in memory: `rows` outputs of `cols` inputs each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub cols: usize,
    pub arithmetic: Arithmetic,
}

/// Which elements of a head are rotated, and how they pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotated {
    /// First rotated element of a head; as many follow as the rotation is wide.
    pub start: usize,
    pub pairing: Pairing,
}

/// Queries of one sequence and where its keys lie.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// First row of the step's rows, and their number.
    pub row: usize,
    pub rows: usize,
    /// Position of the first row.
    pub start: usize,
    /// Block table.
    pub blocks: Vec<i32>,
}

impl Span {
    /// Positions to attend to: the past ones and the new.
    pub fn len(&self) -> usize {
        self.start + self.rows
    }
}

/// Attention of the rows of some sequences over a paged cache.
#[derive(Debug, Clone)]
pub struct PagedAttention {
    pub shape: AttentionShape,
    /// How keys were stored.
    pub keys: Keys,
    pub spans: Arc<Vec<Span>>,
}

#[backend_extension(Flex, Cube: cfg(any(feature = "wgpu", feature = "cuda")))]
pub trait Kernels: Backend {
    /// `[n, cols]` to `[n, outputs]`: each row times the matrix, or times all of a stack, whose outputs stand side by
    /// side.
    fn linear(x: FloatTensor<Self>, weight: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self>;

    /// As `linear`, with the matrix of the stack that `experts`, `[n]`, names for each row.
    fn linear_experts(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        experts: IntTensor<Self>,
        matrix: Matrix,
    ) -> FloatTensor<Self>;

    /// The matrix's rows of these ids, `[n]`, as `[n, cols]`.
    fn embed(weight: IntTensor<Self>, ids: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self>;

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension; `weight` is `[cols]`.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// `[n, 2 f]`, gates before ups, to `silu(gate) * up`, `[n, f]`. A limit bounds gates from above and ups on both
    /// sides first.
    fn swiglu(gate_up: FloatTensor<Self>, limit: Option<f32>) -> FloatTensor<Self>;

    /// Rotates pairs of elements of `[n, heads, dim]`; `cos` and `sin` are `[n, width / 2]`.
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        rotated: Rotated,
    ) -> FloatTensor<Self>;

    /// Writes `rows`, `[n, width]`, over the rows `slots`, `[n]`, of `cache`, in place where nobody else holds it. How
    /// they lie is for keys that only [`Kernels::attention`] reads; a GPU keeps rows whatever `keys` says. On the CPU a
    /// cache may be of f16, which the rows are rounded to.
    fn store(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        slots: IntTensor<Self>,
        keys: Keys,
    ) -> FloatTensor<Self>;

    /// `softmax(q k^T scale) v` over a paged cache. `q` is `[n, heads, k_dim]`; `k` and `v` have a row per slot, `v` may
    /// be `k`, whose rows then begin with the values, and both may be of f16 on the CPU; the result is
    /// `[n, heads, v_dim]`.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: PagedAttention,
    ) -> FloatTensor<Self>;

    /// A token for each draw, from its row of `logits`, `[n, vocab]`: `[draws, width]` words, as [`words`](crate::sample::words)
    /// says.
    fn draw(logits: FloatTensor<Self>, draws: &[Draw<'_>]) -> IntTensor<Self>;
}

/// Matrices, row after row, as a tensor that the device's kernels read: packed bytes on the CPU, little-endian words on a
/// GPU, whose shading language may have no bytes.
pub fn upload(bytes: &[u8], matrix: &Matrix, device: &Device) -> Tensor<1, Int> {
    if is_cpu(device) {
        let packed = pack(matrix.format, matrix.rows, matrix.cols, bytes);
        let n = packed.len();
        return Tensor::from_data(TensorData::from_bytes_vec(packed, [n], DType::U8), (device, DType::U8));
    }
    let (whole, rest) = bytes.as_chunks();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    let words: Vec<u32> = whole.iter().chain(&last).map(|word| u32::from_le_bytes(*word)).collect();
    let n = words.len();
    Tensor::from_data(TensorData::new(words, [n]), (device, DType::U32))
}

/// Zeros. On the CPU their pages are taken from the system when they are first written.
pub fn zeros(shape: [usize; 2], dtype: KvDtype, device: &Device) -> Tensor<2> {
    let (count, kind) = (shape[0] * shape[1], DType::from(dtype));
    if is_cpu(device) {
        // Burn's own would copy what the system has cleared.
        let data = match dtype {
            KvDtype::F32 => TensorData::new(vec![0.0f32; count], shape),
            KvDtype::F16 => TensorData::new(vec![0u16; count].reinterpret_into::<f16>(), shape),
        };
        return Tensor::from_data(data, (device, kind));
    }
    Tensor::zeros(shape, (device, kind))
}

/// Whether this is the CPU backend.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

/// See [`Kernels::linear`].
pub fn linear(x: Tensor<2>, weight: &Tensor<1, Int>, matrix: Matrix) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), weight.clone().into_dispatch(), matrix))
}

/// See [`Kernels::linear_experts`].
pub fn linear_experts(x: Tensor<2>, weight: &Tensor<1, Int>, experts: Tensor<1, Int>, matrix: Matrix) -> Tensor<2> {
    let (x, weight) = (x.into_dispatch(), weight.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_experts(x, weight, experts.into_dispatch(), matrix))
}

/// See [`Kernels::embed`].
pub fn embed(weight: &Tensor<1, Int>, ids: Tensor<1, Int>, matrix: Matrix) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::embed(weight.clone().into_dispatch(), ids.into_dispatch(), matrix))
}

/// See [`Kernels::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: &Tensor<1>, eps: f32) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.clone().into_dispatch(), eps))
}

/// See [`Kernels::swiglu`].
pub fn swiglu(gate_up: Tensor<2>, limit: Option<f32>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::swiglu(gate_up.into_dispatch(), limit))
}

/// See [`Kernels::rotate`].
pub fn rotate(x: Tensor<3>, cos: &Tensor<2>, sin: &Tensor<2>, rotated: Rotated) -> Tensor<3> {
    let (cos, sin) = (cos.clone().into_dispatch(), sin.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::rotate(x.into_dispatch(), cos, sin, rotated))
}

/// See [`Kernels::store`].
pub fn store(cache: Tensor<2>, rows: Tensor<2>, slots: &Tensor<1, Int>, keys: Keys) -> Tensor<2> {
    let (cache, rows) = (cache.into_dispatch(), rows.into_dispatch());
    Tensor::from_dispatch(Dispatch::store(cache, rows, slots.clone().into_dispatch(), keys))
}

/// See [`Kernels::attention`].
pub fn attention(q: Tensor<3>, k: &Tensor<2>, v: &Tensor<2>, plan: PagedAttention) -> Tensor<3> {
    let (k, v) = (k.clone().into_dispatch(), v.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::attention(q.into_dispatch(), k, v, plan))
}

/// See [`Kernels::draw`].
pub fn draw(logits: Tensor<2>, draws: &[Draw]) -> Tensor<2, Int> {
    Tensor::from_dispatch(Dispatch::draw(logits.into_dispatch(), draws))
}
