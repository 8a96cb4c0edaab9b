//! Norms, gates, rotations, writes to the cache.

use burn::tensor::Device;
use littoral_kernels::{Keys, Pairing};

use super::{Expected, Source, assert_close, ints, tensor, values};
use crate::model::ops::{self, Rotated};

pub fn norms(device: &Device) {
    let source = &mut Source::new(5);
    for (rows, cols) in [(1, 1), (5, 7), (3, 64), (2, 1500)] {
        let (x, weight) = (source.floats(rows * cols), source.floats(cols));
        let y = ops::rms_norm(tensor(&x, [1, rows, cols], device), &tensor(&weight, [cols], device), 1e-3);
        assert_eq!(y.dims(), [1, rows, cols]);
        let expected: Vec<Expected> = x
            .chunks_exact(cols)
            .flat_map(|x| {
                let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                let scale = (squares / cols as f64 + f64::from(1e-3f32)).sqrt().recip();
                x.iter().zip(&weight).map(move |(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
            })
            .map(|value| Expected { value, size: value.abs() })
            .collect();
        assert_close(&values(y), &expected, &format!("norm of {rows} x {cols}"));
    }
}

pub fn gates(device: &Device) {
    let source = &mut Source::new(6);
    for limit in [None, Some(2.5f32)] {
        let (n, f) = (3, 37);
        let x: Vec<f32> = source.floats(n * 2 * f).iter().map(|x| x * 9.0).collect();
        let y = ops::swiglu(tensor(&x, [n, 2 * f], device), limit);
        let expected: Vec<Expected> = x
            .chunks_exact(2 * f)
            .flat_map(|x| x[..f].iter().zip(&x[f..]))
            .map(|(gate, up)| {
                let limit = limit.unwrap_or(f32::INFINITY);
                let (gate, up) = (f64::from(gate.min(limit)), f64::from(up.clamp(-limit, limit)));
                let value = gate / (1.0 + (-gate).exp()) * up;
                Expected { value, size: value.abs() }
            })
            .collect();
        assert_close(&values(y), &expected, &format!("gates within {limit:?}"));
    }
}

pub fn rotations(device: &Device) {
    let source = &mut Source::new(7);
    let (n, heads, dim) = (3, 2, 14);
    for (start, pairs) in [(0, 7), (4, 5), (2, 3)] {
        for pairing in [Pairing::Halves, Pairing::Interleaved] {
            let x = source.floats(n * heads * dim);
            let (cos, sin) = (source.floats(n * pairs), source.floats(n * pairs));
            let mut expected: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for (i, head) in expected.chunks_exact_mut(dim).enumerate() {
                for pair in 0..pairs {
                    let (a, b) = match pairing {
                        Pairing::Halves => (start + pair, start + pairs + pair),
                        Pairing::Interleaved => (start + 2 * pair, start + 2 * pair + 1),
                    };
                    let at = i / heads * pairs + pair;
                    let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                }
            }
            let expected: Vec<_> = expected.into_iter().map(|value| Expected { value, size: 1.0 }).collect();
            let (cos, sin) = (tensor(&cos, [n, pairs], device), tensor(&sin, [n, pairs], device));
            let what = format!("{pairs} pairs from {start} on, {pairing:?}");
            let held = tensor(&x, [n, heads, dim], device);
            let rotated = Rotated { start, pairing };
            assert_close(&values(ops::rotate(held.clone(), &cos, &sin, rotated)), &expected, &what);
            assert_eq!(values(held.clone()), x, "{what}: what somebody else holds stays");
            assert_close(&values(ops::rotate(held, &cos, &sin, rotated)), &expected, &what);
        }
    }
}

pub fn stores(device: &Device) {
    let source = &mut Source::new(8);
    for width in [1, 6, 16] {
        let (cache, rows) = (source.floats(9 * width), source.floats(3 * width));
        let slots = [7, 0, 4];
        let mut expected = cache.clone();
        for (slot, row) in slots.iter().zip(rows.chunks_exact(width)) {
            expected[*slot as usize * width..][..width].copy_from_slice(row);
        }
        let held = tensor(&cache, [9, width], device);
        let (rows, slots) = (tensor(&rows, [3, width], device), ints(&slots, device));
        assert_eq!(values(ops::store(held.clone(), rows.clone(), &slots, Keys::Rows)), expected, "rows of {width}");
        assert_eq!(values(held.clone()), cache, "rows of {width}: what somebody else holds stays");
        assert_eq!(values(ops::store(held, rows, &slots, Keys::Rows)), expected, "rows of {width}, in place");
    }
}
