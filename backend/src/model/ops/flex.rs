//! The operations on the CPU: slices of burn's tensors handed to the kernels.

use std::sync::OnceLock;

use burn::{
    backend::{
        Flex,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape},
};
use burn_flex::{FlexTensor, Layout};
use littoral_kernels::{self as kernels, Keys, Numbers, NumbersMut};

use super::{Kernels, Matrix, PagedAttention, Rotated, Span};
use crate::sample::{Draw, SampleError, words};

/// A tensor whose elements lie one after the other.
fn flat(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32")
}

/// What a cache holds.
fn numbers(tensor: &FlexTensor) -> Numbers<'_> {
    match tensor.dtype() {
        DType::F16 => Numbers::F16(tensor.as_slice().expect("contiguous f16")),
        _ => Numbers::F32(floats(tensor)),
    }
}

fn ints(tensor: &FlexTensor) -> &[i32] {
    tensor.as_slice().expect("contiguous i32")
}

fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice().expect("contiguous bytes")
}

/// A new tensor that `fill` writes.
fn make(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    let shape = shape.into();
    let mut out = vec![0.0; shape.num_elements()];
    fill(&mut out);
    FlexTensor::new(burn::tensor::Bytes::from_elems(out), Layout::contiguous(shape), DType::F32)
}

fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

impl Matrix {
    fn weights<'a>(&self, bytes: &'a [u8]) -> kernels::Weights<'a> {
        kernels::Weights { format: self.format, rows: self.rows, cols: self.cols, bytes }
    }
}

impl Span {
    fn segment(&self) -> kernels::Segment<'_> {
        let Self { row, rows, start, ref blocks } = *self;
        kernels::Segment { first_row: row, rows, start, blocks }
    }
}

impl Kernels for Flex {
    fn linear(x: FloatTensor<Self>, weight: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self> {
        let x = flat(x);
        let [n, _] = dims(&x);
        let weights = matrix.weights(bytes(&weight));
        make([n, weights.outputs()], |y| kernels::linear(floats(&x), &weights, None, matrix.arithmetic, y))
    }

    fn linear_experts(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        experts: IntTensor<Self>,
        matrix: Matrix,
    ) -> FloatTensor<Self> {
        let (x, experts) = (flat(x), flat(experts));
        let [n, _] = dims(&x);
        make([n, matrix.rows], |y| {
            let weights = matrix.weights(bytes(&weight));
            kernels::linear_experts(floats(&x), &weights, ints(&experts), matrix.arithmetic, y);
        })
    }

    fn embed(weight: IntTensor<Self>, ids: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self> {
        let ids = flat(ids);
        let [n] = dims(&ids);
        make([n, matrix.cols], |out| kernels::embed(&matrix.weights(bytes(&weight)), ints(&ids), out))
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let x = flat(x);
        make(x.layout().shape().clone(), |y| kernels::rms_norm(floats(&x), floats(&weight), eps, y))
    }

    fn swiglu(gate_up: FloatTensor<Self>, limit: Option<f32>) -> FloatTensor<Self> {
        let gate_up = flat(gate_up);
        let [n, both] = dims(&gate_up);
        make([n, both / 2], |y| kernels::swiglu(floats(&gate_up), both / 2, limit, y))
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        Rotated { start, pairing }: Rotated,
    ) -> FloatTensor<Self> {
        let mut x = flat(x);
        let [n, heads, dim] = dims(&x);
        let (cos, sin) = (flat(cos), flat(sin));
        let rotation = kernels::Rotation { heads, dim, start, pairing, cos: floats(&cos), sin: floats(&sin) };
        let range = x.layout().contiguous_offsets().expect("contiguous");
        // In place where this is the only holder; else a copy.
        if x.is_unique() {
            let out = &mut x.storage_mut::<f32>()[range.0..range.1];
            kernels::rotate(out, &rotation);
            return x;
        }
        make([n, heads, dim], |out| {
            out.copy_from_slice(floats(&x));
            kernels::rotate(out, &rotation);
        })
    }

    fn store(
        cache: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        slots: IntTensor<Self>,
        keys: Keys,
    ) -> FloatTensor<Self> {
        let (mut cache, rows, slots) = (flat(cache), flat(rows), flat(slots));
        let [_, width] = dims(&cache);
        let out = match cache.dtype() {
            DType::F16 => NumbersMut::F16(cache.storage_mut()),
            _ => NumbersMut::F32(cache.storage_mut()),
        };
        keys.write(out, width, ints(&slots), floats(&rows));
        cache
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: PagedAttention,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (flat(q), flat(k), flat(v));
        let [rows, heads, _] = dims(&q);
        let ([_, k_stride], [_, v_stride]) = (dims(&k), dims(&v));
        let segments: Vec<_> = plan.spans.iter().map(Span::segment).collect();
        make([rows, heads, plan.shape.v_dim], |out| {
            let store = kernels::Store { keys: plan.keys, k: numbers(&k), k_stride, v: numbers(&v), v_stride };
            kernels::attention(floats(&q), &store, &segments, &plan.shape, None, out);
        })
    }
    fn draw(logits: FloatTensor<Self>, draws: &[Draw<'_>]) -> IntTensor<Self> {
        let logits = flat(logits);
        let [_, vocab] = dims(&logits);
        let width = words::width(draws, vocab);
        let rows = floats(&logits);
        let picked: Vec<OnceLock<_>> = draws.iter().map(|_| OnceLock::new()).collect();
        kernels::pool::run(draws.len(), |i| {
            picked[i].get_or_init(|| draws[i].pick(&rows[draws[i].row * vocab..][..vocab]));
        });
        let mut out = vec![0u32; draws.len() * width];
        for (picked, words) in picked.iter().zip(out.chunks_exact_mut(width)) {
            words::write(picked.get().unwrap_or(&Err(SampleError::Empty)), words);
        }
        let shape = Shape::new([draws.len(), width]);
        FlexTensor::new(burn::tensor::Bytes::from_elems(out), Layout::contiguous(shape), DType::U32)
    }
}
