//! Which kernel multiplies, and how its work is cut. Both arithmetics of a [`Matrix`] are exact here: weights become
//! f32, products and sums are f32.
//!
//! A few rows are limited by the bandwidth of memory, which the weights' own bytes spare. Many rows are limited by
//! arithmetic: for those the matrix is unpacked and burn's product used, which knows the device's matrix units (and may
//! round to their types, such as tf32).

use burn::{
    backend::ops::FloatTensorOps,
    tensor::{DType, FloatDType, Shape},
};
use burn_cubecl::{CubeBackend, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::Matrix,
    cubes, empty, flat,
    fold::Units,
    linear::{self, SizesLaunch, Tile},
    per_unit,
    unpack::{EIGHT, Packed},
};

/// With that many rows, the device's own matrix product is worth unpacking the matrix for.
const MANY: usize = 32;
/// Elements of a matrix that are unpacked at a time.
const UNPACKED: usize = 1 << 26;
/// Rows of activations that share a cube, at most.
const ROWS: usize = 8;
/// Units of a cube, at most.
const UNITS: usize = 128;
/// Cubes a device should have at least.
const CUBES: usize = 512;

impl Matrix {
    fn packed(&self) -> Packed {
        Packed::new(self.format, self.cols)
    }

    /// Eights of a row.
    fn eights(&self) -> usize {
        self.cols.div_ceil(EIGHT)
    }

    fn sizes(&self, n: usize) -> SizesLaunch {
        SizesLaunch::new(n, self.rows, self.cols, self.eights())
    }

    /// How a cube works on `rows` rows.
    fn tile(&self, client: &Client, rows: usize) -> Tile {
        let mut outputs = (ROWS / rows).min(4);
        while outputs > 1 && self.rows / outputs < CUBES {
            outputs /= 2;
        }
        let units = Units::new(client, self.eights().div_ceil(4), UNITS);
        Tile { packed: self.packed(), outputs, rows, units }
    }

    /// Matrices of this kind that the words hold.
    fn stacked(&self, weight: &CubeTensor) -> usize {
        let bytes = self.format.row_bytes(self.cols).map_or(0, |row| row * self.rows);
        (weight.meta.num_elements() * 4) / bytes.max(1)
    }
}

/// See [`Kernels::linear`](super::super::Kernels::linear).
pub fn linear(x: CubeTensor, weight: CubeTensor, matrix: Matrix) -> CubeTensor {
    // A stack is a taller matrix.
    let matrix = Matrix { rows: matrix.stacked(&weight) * matrix.rows, ..matrix };
    let x = whole_eights(x);
    let [n, _] = x.meta.shape().dims();
    if n >= MANY {
        return unpacked(x, weight, matrix);
    }
    let y = empty(&x, [n, matrix.rows]);
    if n == 0 {
        return y;
    }
    let tile = matrix.tile(&x.client, n.next_power_of_two().min(ROWS));
    let count = matrix.rows.div_ceil(tile.outputs) * n.div_ceil(tile.rows);
    // SAFETY: `x` and `y` have `n` rows, of whole eights and of outputs; the words hold the matrix.
    unsafe {
        linear::linear::launch_unchecked(
            &y.client,
            cubes(&y.client, count),
            tile.units.cube_dim(),
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            matrix.sizes(n),
            tile,
        );
    }
    y
}

/// Many rows: the matrix, or a part of it at a time, as plain numbers, and burn's product.
fn unpacked(x: CubeTensor, weight: CubeTensor, matrix: Matrix) -> CubeTensor {
    let width = matrix.eights() * EIGHT;
    let together = (UNPACKED / width).max(1);
    let product = |first: usize| {
        let rows = together.min(matrix.rows - first);
        let plain = empty(&x, [rows, width]);
        let (count, dim) = per_unit(&x.client, rows * matrix.eights());
        // SAFETY: the words hold the rows from `first` on, and `plain` has as many.
        unsafe {
            linear::unpack_rows::launch_unchecked(
                &x.client,
                count,
                dim,
                weight.clone().into_buffer_arg(),
                first,
                plain.clone().into_buffer_arg(),
                matrix.sizes(rows),
                matrix.packed(),
            );
        }
        CubeBackend::float_matmul(x.clone(), CubeBackend::float_swap_dims(plain, 0, 1))
    };
    let mut products: Vec<_> = (0..matrix.rows).step_by(together).map(product).collect();
    if products.len() == 1 { products.remove(0) } else { CubeBackend::float_cat(products, 1) }
}

/// See [`Kernels::linear_experts`](super::super::Kernels::linear_experts).
pub fn linear_experts(x: CubeTensor, weight: CubeTensor, experts: CubeTensor, matrix: Matrix) -> CubeTensor {
    let x = whole_eights(x);
    let [n, _] = x.meta.shape().dims();
    let y = empty(&x, [n, matrix.rows]);
    if n == 0 {
        return y;
    }
    // Rows share a cube where a matrix has several of them on average.
    let each = n / matrix.stacked(&weight).max(1);
    let rows = if each < 2 { 1 } else { each.next_power_of_two().min(ROWS) };
    let tile = matrix.tile(&x.client, rows);
    let count = matrix.rows.div_ceil(tile.outputs) * n.div_ceil(tile.rows);
    let order = order(&experts, n);
    // SAFETY: as in `linear`; `experts` and `order` have an entry for every row, and the words every expert's matrix.
    unsafe {
        linear::linear_experts::launch_unchecked(
            &y.client,
            cubes(&y.client, count),
            tile.units.cube_dim(),
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            experts.into_buffer_arg(),
            order.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            matrix.sizes(n),
            tile,
        );
    }
    y
}

/// The rows in the order of their experts.
fn order(experts: &CubeTensor, n: usize) -> CubeTensor {
    let (client, device) = (experts.client.clone(), experts.device.clone());
    let order = empty_device_contiguous_dtype(client, device, Shape::new([n]), DType::U32);
    let (count, dim) = per_unit(&order.client, n);
    // SAFETY: both have `n` entries.
    unsafe {
        linear::order::launch_unchecked(
            &order.client,
            count,
            dim,
            experts.clone().into_buffer_arg(),
            order.clone().into_buffer_arg(),
            n,
        );
    }
    order
}

/// See [`Kernels::embed`](super::super::Kernels::embed).
pub fn embed(weight: CubeTensor, ids: CubeTensor, matrix: Matrix) -> CubeTensor {
    let [n] = ids.meta.shape().dims();
    let width = matrix.eights() * EIGHT;
    let out = empty(&weight, [n, width]);
    if n > 0 {
        let (count, dim) = per_unit(&out.client, n * matrix.eights());
        // SAFETY: `out` has a row of whole eights for each of the `n` ids; the kernel keeps them within the matrix.
        unsafe {
            linear::embed::launch_unchecked(
                &out.client,
                count,
                dim,
                weight.into_buffer_arg(),
                ids.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                matrix.sizes(n),
                matrix.packed(),
            );
        }
    }
    if width == matrix.cols {
        return out;
    }
    CubeBackend::float_slice(out, &[(0..n).into(), (0..matrix.cols).into()])
}

/// Rows of whole eights, which the kernels read: zeros fill them up.
fn whole_eights(x: CubeTensor) -> CubeTensor {
    let [n, cols] = x.meta.shape().dims();
    let missing = cols.next_multiple_of(EIGHT) - cols;
    if missing == 0 {
        return flat(x);
    }
    let zeros = CubeBackend::float_zeros(Shape::new([n, missing]), &x.device, FloatDType::F32);
    flat(CubeBackend::float_cat(vec![x, zeros], 1))
}
