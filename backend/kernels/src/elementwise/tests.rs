//! Against f64, and the same bits on every instruction set, in any company.

use std::sync::Arc;

use crate::linear::tests::{Random, bits};
use crate::{Cpu, Level, Pairing, Rotation, rms_norm, rotate, softmax_weights, swiglu};

/// Runs `compute` on every instruction set with one thread and with three, and checks that all give the same.
fn everywhere(compute: impl Fn() -> Vec<f32>) -> Vec<f32> {
    let levels = Level::ALL.into_iter().filter(|level| *level <= Level::best());
    let mut results = levels.flat_map(|level| {
        let compute = &compute;
        [1, 3].map(move |threads| Arc::new(Cpu::new(threads, level)).enter(compute))
    });
    let first = results.next().unwrap();
    results.for_each(|other| assert!(bits(&other) == bits(&first)));
    first
}

fn close(is: &[f32], ought: impl IntoIterator<Item = f64>) {
    let mut ought = ought.into_iter();
    for is in is {
        let ought = ought.next().unwrap();
        assert!((f64::from(*is) - ought).abs() <= ought.abs() * 2e-6 + 1e-30, "{is} for {ought}");
    }
    assert!(ought.next().is_none());
}

#[test]
fn rows_are_normalised() {
    let mut random = Random::new(31);
    for (rows, cols) in [(1, 1), (3, 15), (2, 16), (5, 576), (70, 300)] {
        let (x, weight) = (random.floats(rows * cols), random.floats(cols));
        let y = everywhere(|| {
            let mut y = vec![f32::NAN; x.len()];
            rms_norm(&x, &weight, 1e-3, &mut y);
            y
        });
        close(
            &y,
            x.chunks_exact(cols).flat_map(|x| {
                let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
                let scale = 1.0 / (mean + f64::from(1e-3f32)).sqrt();
                x.iter()
                    .zip(&weight)
                    .map(move |(x, weight)| f64::from(*x) * scale * f64::from(*weight))
                    .collect::<Vec<_>>()
            }),
        );
        let mut alone = vec![f32::NAN; cols];
        rms_norm(&x[(rows - 1) * cols..], &weight, 1e-3, &mut alone);
        assert!(bits(&alone) == bits(&y[(rows - 1) * cols..]));
    }
    rms_norm(&[], &[1.0], 1e-3, &mut []);
}

#[test]
fn gates_open_and_close() {
    let mut random = Random::new(32);
    for (rows, f, limit) in [(1, 1, None), (3, 40, Some(2.0)), (30, 1000, None), (2, 7, Some(0.5))] {
        let x: Vec<_> = random.floats(rows * 2 * f).iter().map(|x| x * 12.0).collect();
        let y = everywhere(|| {
            let mut y = vec![f32::NAN; rows * f];
            swiglu(&x, f, limit, &mut y);
            y
        });
        let most = limit.map_or(f64::INFINITY, f64::from);
        close(
            &y,
            x.chunks_exact(2 * f).flat_map(|x| {
                let (gate, up) = x.split_at(f);
                gate.iter().zip(up).map(move |(gate, up)| {
                    let (gate, up) = (f64::from(*gate).min(most), f64::from(*up).clamp(-most, most));
                    gate / (1.0 + (-gate).exp()) * up
                })
            }),
        );
    }
    let mut y = [1.0; 4];
    swiglu(&[-1000.0, 1000.0, f32::NAN, f32::INFINITY, 1.0, 2.0, 1.0, 2.0], 4, Some(10.0), &mut y);
    assert_eq!((y[0], y[1], y[3]), (0.0, 10.0 / (1.0 + (-10f32).exp()) * 2.0, y[1]));
    assert!(y[2].is_nan());
}

#[test]
fn pairs_turn() {
    let mut random = Random::new(33);
    for (rows, heads, dim, start, half) in
        [(1, 1, 2, 0, 1), (3, 9, 64, 0, 32), (40, 16, 192, 128, 32), (2, 2, 10, 3, 2)]
    {
        for pairing in [Pairing::Halves, Pairing::Interleaved] {
            let x = random.floats(rows * heads * dim);
            let angles: Vec<_> = random.floats(rows * half).iter().map(|angle| angle * 3.0).collect();
            let cos: Vec<_> = angles.iter().map(|angle| angle.cos()).collect();
            let sin: Vec<_> = angles.iter().map(|angle| angle.sin()).collect();
            let rotation = Rotation { heads, dim, start, pairing, cos: &cos, sin: &sin };
            let y = everywhere(|| {
                let mut y = x.clone();
                rotate(&mut y, &rotation);
                y
            });
            let mut ought = x.clone();
            for (i, head) in ought.chunks_exact_mut(dim).enumerate() {
                for pair in 0..half {
                    let (a, b) = match pairing {
                        Pairing::Halves => (start + pair, start + pair + half),
                        Pairing::Interleaved => (start + 2 * pair, start + 2 * pair + 1),
                    };
                    let (cos, sin) = (cos[i / heads * half + pair], sin[i / heads * half + pair]);
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
            assert!(bits(&y) == bits(&ought), "{pairing:?} {dim} from {start}");
        }
    }
    let rotation = Rotation { heads: 1, dim: 4, start: 0, pairing: Pairing::Halves, cos: &[], sin: &[] };
    rotate(&mut [], &rotation);
}

#[test]
fn weights_of_a_softmax() {
    let x: Vec<f32> = Random::new(35).floats(1001).iter().map(|x| x * 20.0).collect();
    for scale in [0.5, 1.0, 3.0] {
        let y = everywhere(|| {
            let mut y = vec![f32::NAN; x.len()];
            softmax_weights(&x, 20.0, scale, &mut y);
            y
        });
        // The difference is rounded once, and again when it is scaled.
        for (y, x) in y.iter().zip(&x) {
            let exponent = (f64::from(*x) - 20.0) * f64::from(scale);
            assert!(
                (f64::from(*y) / exponent.exp() - 1.0).abs() < 2e-6 + exponent.abs() * 2e-7
                    || *y == 0.0 && exponent < -87.0
            );
        }
    }
}
