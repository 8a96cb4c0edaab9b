//! The operations on a GPU: CubeCL kernels for every runtime of burn.

mod attention;
mod draw;
mod fold;
mod linear;
mod products;
mod small;
mod unpack;

use burn::{
    backend::tensor::{FloatTensor, IntTensor},
    tensor::{DType, Element, Shape},
};
use burn_cubecl::{
    CubeBackend, kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor,
};
use cubecl::{calculate_cube_count_elemwise, prelude::*};
use littoral_kernels::{Keys, Pairing};

use super::{Kernels, Matrix, PagedAttention, Rotated};
use crate::sample::Draw;
use fold::Units;

/// A tensor whose elements lie one after the other.
fn flat(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// A new tensor of f32 on the device of another.
fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.into(), DType::F32)
}

/// Numbers as a tensor on the device of another.
fn upload<T: Element + CubeElement>(like: &CubeTensor, numbers: &[T]) -> CubeTensor {
    let handle = like.client.create_from_slice(T::as_bytes(numbers));
    let shape = Shape::new([numbers.len()]);
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), shape, handle, <T as Element>::dtype())
}

/// As many cubes, or some more where one dimension of the device does not hold them.
fn cubes(client: &Client, count: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, count, CubeDim::new_single())
}

/// Cubes of units for that many pieces of work.
fn per_unit(client: &Client, work: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, work);
    (calculate_cube_count_elemwise(client, work, dim), dim)
}

/// The most elements, up to four, that make up all these lengths.
fn vector_of(lengths: &[usize]) -> usize {
    if lengths.iter().all(|length| length.is_multiple_of(4)) { 4 } else { 1 }
}

impl Kernels for CubeBackend {
    fn linear(x: FloatTensor<Self>, weight: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self> {
        products::linear(x, weight, matrix)
    }

    fn linear_experts(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        experts: IntTensor<Self>,
        matrix: Matrix,
    ) -> FloatTensor<Self> {
        products::linear_experts(x, weight, flat(experts), matrix)
    }

    fn embed(weight: IntTensor<Self>, ids: IntTensor<Self>, matrix: Matrix) -> FloatTensor<Self> {
        products::embed(weight, flat(ids), matrix)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let (x, weight) = (flat(x), flat(weight));
        let cols = weight.meta.num_elements();
        let y = empty(&x, x.meta.shape().clone());
        let rows = x.meta.num_elements() / cols;
        if rows == 0 {
            return y;
        }
        let vector = vector_of(&[cols]);
        let units = Units::new(&x.client, cols / vector, 256);
        // SAFETY: `x` and `y` have `rows` rows as long as `weight`.
        unsafe {
            small::rms_norm::launch_unchecked(
                &y.client,
                cubes(&y.client, rows),
                units.cube_dim(),
                vector,
                x.into_buffer_arg(),
                weight.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                rows,
                eps,
                units,
            );
        }
        y
    }

    fn swiglu(gate_up: FloatTensor<Self>, limit: Option<f32>) -> FloatTensor<Self> {
        let gate_up = flat(gate_up);
        let [n, both] = gate_up.meta.shape().dims();
        let y = empty(&gate_up, [n, both / 2]);
        if y.meta.num_elements() == 0 {
            return y;
        }
        let (count, dim) = per_unit(&y.client, y.meta.num_elements());
        // SAFETY: a row of `gate_up` is twice as long as one of `y`, and there are as many.
        unsafe {
            small::swiglu::launch_unchecked(
                &y.client,
                count,
                dim,
                gate_up.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                both / 2,
                limit.unwrap_or_default(),
                limit.is_some(),
            );
        }
        y
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        Rotated { start, pairing }: Rotated,
    ) -> FloatTensor<Self> {
        // A copy may have gaps between its rows.
        let (x, cos, sin) = (flat(owned(flat(x))), flat(cos), flat(sin));
        let [n, heads, dim] = x.meta.shape().dims();
        let [_, pairs] = cos.meta.shape().dims();
        assert!(start + 2 * pairs <= dim, "elements {start} and {} on are in no head of {dim}", 2 * pairs);
        let work = n * heads * pairs;
        if work == 0 {
            return x;
        }
        let (count, cube) = per_unit(&x.client, work);
        // SAFETY: the pairs of a head are inside it; `cos` and `sin` have a row of `pairs` for each of the `n`.
        unsafe {
            small::rotate::launch_unchecked(
                &x.client,
                count,
                cube,
                x.clone().into_buffer_arg(),
                cos.into_buffer_arg(),
                sin.into_buffer_arg(),
                n,
                small::PairsLaunch::new(heads, dim, start, pairs),
                pairing == Pairing::Interleaved,
            );
        }
        x
    }

    fn store(cache: FloatTensor<Self>, rows: FloatTensor<Self>, slots: IntTensor<Self>, _: Keys) -> FloatTensor<Self> {
        let (cache, rows, slots) = (owned(cache), flat(rows), flat(slots));
        let [n, width] = rows.meta.shape().dims();
        let stride = cache.meta.strides()[0];
        if n * width == 0 {
            return cache;
        }
        let vector = vector_of(&[width, stride]);
        let (count, dim) = per_unit(&cache.client, n * width / vector);
        // SAFETY: slots are rows of the cache, `stride` apart, and those of `rows` fit in.
        unsafe {
            small::store::launch_unchecked(
                &cache.client,
                count,
                dim,
                vector,
                cache.clone().into_buffer_arg(),
                rows.into_buffer_arg(),
                slots.into_buffer_arg(),
                width / vector,
                stride / vector,
            );
        }
        cache
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: PagedAttention,
    ) -> FloatTensor<Self> {
        attention::attention(q, k, v, &plan)
    }

    fn draw(logits: FloatTensor<Self>, draws: &[Draw<'_>]) -> IntTensor<Self> {
        draw::draw(logits, draws)
    }
}

/// A tensor that may be written in place: this one if nobody else holds it, else a copy.
fn owned(tensor: CubeTensor) -> CubeTensor {
    if tensor.can_mut() && tensor.is_nonoverlapping() { tensor } else { tensor.copy() }
}
