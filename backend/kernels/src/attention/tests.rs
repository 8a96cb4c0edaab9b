//! Attention is right, and the same however a sequence is cut up, wherever its blocks lie, and whatever holds its numbers.

use std::sync::Arc;

use half::f16;

use super::{AttentionShape, Keys, Segment, Store, attention};
use crate::linear::tests::{Random, bits};
use crate::{Cpu, Level, Numbers, NumbersMut};

/// A sequence of keys, values and queries.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    length: usize,
}

const SHAPES: [AttentionShape; 6] = {
    let base =
        AttentionShape { heads: 9, kv_heads: 3, k_dim: 64, v_dim: 64, scale: 0.125, window: None, block_tokens: 16 };
    [
        base,
        AttentionShape { window: Some(37), block_tokens: 7, ..base },
        AttentionShape { window: Some(300), heads: 4, kv_heads: 4, k_dim: 20, v_dim: 10, ..base },
        AttentionShape { heads: 16, kv_heads: 1, k_dim: 576, v_dim: 512, scale: 0.04, ..base },
        AttentionShape { heads: 8, kv_heads: 2, k_dim: 33, v_dim: 40, window: Some(1), ..base },
        AttentionShape { heads: 1, kv_heads: 1, k_dim: 1, v_dim: 1, block_tokens: 1, scale: 3.0, ..base },
    ]
};

/// Its keys and values are numbers of f16.
fn sequence(random: &mut Random, shape: &AttentionShape, length: usize) -> Sequence {
    let mut kept = |count| halves(&random.floats(count)).into_iter().map(f16::to_f32).collect();
    let (k, v) = (kept(length * shape.kv_heads * shape.k_dim), kept(length * shape.kv_heads * shape.v_dim));
    Sequence { q: random.floats(length * shape.heads * shape.k_dim), k, v, length }
}

fn halves(floats: &[f32]) -> Vec<f16> {
    floats.iter().map(|x| f16::from_f32(*x)).collect()
}

/// Keys and values of sequences in blocks at random places of a store that is NaN elsewhere.
struct Scattered {
    k: Vec<f32>,
    v: Vec<f32>,
    tables: Vec<Vec<i32>>,
}

impl Scattered {
    fn new(random: &mut Random, shape: &AttentionShape, sequences: &[Sequence]) -> Self {
        let tokens = shape.block_tokens;
        let counts: Vec<_> = sequences.iter().map(|sequence| sequence.length.div_ceil(tokens)).collect();
        let mut free: Vec<_> = (0..counts.iter().sum::<usize>() as i32 + 3).collect();
        let slots = free.len() * tokens;
        let (k_row, v_row) = (shape.kv_heads * shape.k_dim, shape.kv_heads * shape.v_dim);
        let (mut k, mut v) = (vec![f32::NAN; slots * k_row], vec![f32::NAN; slots * v_row]);
        let mut tables = Vec::new();
        for (sequence, count) in sequences.iter().zip(counts) {
            let table: Vec<_> = (0..count).map(|_| free.swap_remove(random.below(free.len()))).collect();
            for position in 0..sequence.length {
                let slot = table[position / tokens] as usize * tokens + position % tokens;
                k[slot * k_row..][..k_row].copy_from_slice(&sequence.k[position * k_row..][..k_row]);
                v[slot * v_row..][..v_row].copy_from_slice(&sequence.v[position * v_row..][..v_row]);
            }
            tables.push(table);
        }
        Self { k, v, tables }
    }

    fn store(&self, shape: &AttentionShape) -> Store<'_> {
        let (k_stride, v_stride) = (shape.kv_heads * shape.k_dim, shape.kv_heads * shape.v_dim);
        Store { keys: Keys::Rows, k: Numbers::F32(&self.k), k_stride, v: Numbers::F32(&self.v), v_stride }
    }

    /// The keys turned.
    fn turned(&self, shape: &AttentionShape) -> Vec<f32> {
        let width = shape.kv_heads * shape.k_dim;
        let mut turned = vec![f32::NAN; self.k.len().next_multiple_of(width * 16)];
        for (i, k) in self.k.iter().enumerate() {
            let (slot, element) = (i / width, i % width);
            turned[(slot / 16 * width + element) * 16 + slot % 16] = *k;
        }
        turned
    }
}

/// The output of one row in f64.
fn reference(
    shape: &AttentionShape,
    sequence: &Sequence,
    position: usize,
    head: usize,
    sinks: Option<&[f32]>,
) -> Vec<f64> {
    let kv_head = head / (shape.heads / shape.kv_heads);
    let q = &sequence.q[(position * shape.heads + head) * shape.k_dim..][..shape.k_dim];
    let seen = (position + 1).saturating_sub(shape.window.unwrap_or(usize::MAX))..position + 1;
    let score = |t: usize| {
        let k = &sequence.k[(t * shape.kv_heads + kv_head) * shape.k_dim..][..shape.k_dim];
        q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * f64::from(shape.scale)
    };
    let weights: Vec<_> = seen.clone().map(|t| score(t).exp()).collect();
    let total = weights.iter().sum::<f64>() + sinks.map_or(0.0, |sinks| f64::from(sinks[head]).exp());
    let element = |i: usize| {
        let value = |t: usize| f64::from(sequence.v[(t * shape.kv_heads + kv_head) * shape.v_dim + i]);
        seen.clone().zip(&weights).map(|(t, weight)| weight * value(t)).sum::<f64>() / total
    };
    (0..shape.v_dim).map(element).collect()
}

fn cpus() -> Vec<Arc<Cpu>> {
    let levels = Level::ALL.into_iter().filter(|level| *level <= Level::best());
    levels.flat_map(|level| [1, 2, 3].map(|threads| Arc::new(Cpu::new(threads, level)))).collect()
}

#[test]
fn rows_are_right_in_any_company() {
    let cpus = cpus();
    let mut random = Random::new(7);
    for (i, shape) in SHAPES.iter().enumerate() {
        let lengths = if shape.k_dim > 500 { [300, 20, 1] } else { [600, 257, 1] };
        let sequences = lengths.map(|length| sequence(&mut random, shape, length));
        let sinks = (i % 2 == 1).then(|| random.floats(shape.heads));
        let row = shape.heads * shape.v_dim;
        let scattered = Scattered::new(&mut random, shape, &sequences);
        // All rows one by one, which are compared with the truth here and there.
        let alone: Vec<Vec<f32>> = sequences
            .iter()
            .zip(&scattered.tables)
            .map(|(sequence, blocks)| {
                let mut out = vec![f32::NAN; sequence.length * row];
                for (start, out) in out.chunks_exact_mut(row).enumerate() {
                    let q = &sequence.q[start * shape.heads * shape.k_dim..][..shape.heads * shape.k_dim];
                    let segment = Segment { first_row: 0, rows: 1, start, blocks };
                    cpus[0].enter(|| attention(q, &scattered.store(shape), &[segment], shape, sinks.as_deref(), out));
                }
                out
            })
            .collect();
        for (sequence, alone) in sequences.iter().zip(&alone) {
            for position in (0..sequence.length).step_by(61) {
                for head in 0..shape.heads {
                    let ought = reference(shape, sequence, position, head, sinks.as_deref());
                    let is = &alone[position * row + head * shape.v_dim..][..shape.v_dim];
                    for (is, ought) in is.iter().zip(ought) {
                        assert!((f64::from(*is) - ought).abs() < 2e-5, "{shape:?} at {position}: {is} for {ought}");
                    }
                }
            }
        }
        for cpu in &cpus {
            // The same in chunks of random length, all sequences at once, from other places.
            let scattered = Scattered::new(&mut random, shape, &sequences);
            let turned = scattered.turned(shape);
            let (k, v, turned_halves) = (halves(&scattered.k), halves(&scattered.v), halves(&turned));
            let rows = scattered.store(shape);
            let rows_halves = Store { k: Numbers::F16(&k), v: Numbers::F16(&v), ..rows };
            let turned = Store { keys: Keys::Turned, k: Numbers::F32(&turned), ..rows };
            let turned_halves = Store { keys: Keys::Turned, k: Numbers::F16(&turned_halves), ..rows_halves };
            let stores =
                [("rows", rows), ("rows of f16", rows_halves), ("turned", turned), ("turned f16", turned_halves)];
            // Each of them in turn; keys are turned in whole sixteens only.
            let mut stores = stores[..if shape.block_tokens == 16 { 4 } else { 2 }].iter().cycle();
            let mut done = [0; 3];
            while done.iter().zip(&sequences).any(|(done, sequence)| *done < sequence.length) {
                let (mut q, mut segments, mut ought) = (Vec::new(), Vec::new(), Vec::new());
                let mut rows = 0;
                for (i, sequence) in sequences.iter().enumerate() {
                    let count = (sequence.length - done[i]).min([1, 2, 30, 400][random.below(4)]);
                    let width = shape.heads * shape.k_dim;
                    q.extend_from_slice(&sequence.q[done[i] * width..][..count * width]);
                    ought.extend_from_slice(&alone[i][done[i] * row..][..count * row]);
                    segments.push(Segment {
                        first_row: rows,
                        rows: count,
                        start: done[i],
                        blocks: &scattered.tables[i],
                    });
                    rows += count;
                    done[i] += count;
                }
                let mut out = vec![f32::NAN; rows * row];
                let (what, store) = stores.next().unwrap();
                cpu.enter(|| attention(&q, store, &segments, shape, sinks.as_deref(), &mut out));
                let (threads, level) = (cpu.pool.threads(), cpu.level());
                let same = bits(&out) == bits(&ought);
                assert!(same, "{shape:?} up to {done:?}, {what}, {threads} threads, {level:?}");
            }
        }
    }
}

#[test]
fn keys_and_values_may_be_the_same_numbers() {
    let shape = SHAPES[3];
    let mut random = Random::new(8);
    let sequence = sequence(&mut random, &shape, 40);
    let v: Vec<_> = sequence.k.chunks_exact(576).flat_map(|k| k[..512].to_vec()).collect();
    let blocks = [0, 1, 2];
    let segment = [Segment { first_row: 0, rows: 40, start: 0, blocks: &blocks }];
    let (mut shared, mut apart) = (vec![0.0; 40 * 16 * 512], vec![0.0; 40 * 16 * 512]);
    let k = Numbers::F32(&sequence.k);
    let store = Store { keys: Keys::Rows, k, k_stride: 576, v: k, v_stride: 576 };
    attention(&sequence.q, &store, &segment, &shape, None, &mut shared);
    attention(&sequence.q, &Store { v: Numbers::F32(&v), v_stride: 512, ..store }, &segment, &shape, None, &mut apart);
    assert!(bits(&shared) == bits(&apart));
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = AttentionShape { scale: 1e4, ..SHAPES[0] };
    let mut random = Random::new(9);
    let sequence = sequence(&mut random, &shape, 300);
    let scattered = Scattered::new(&mut random, &shape, std::slice::from_ref(&sequence));
    let segment = [Segment { first_row: 0, rows: 300, start: 0, blocks: &scattered.tables[0] }];
    let mut out = vec![f32::NAN; 300 * 9 * 64];
    attention(&sequence.q, &scattered.store(&shape), &segment, &shape, Some(&[1e30; 9]), &mut out);
    assert!(out.iter().all(|out| *out == 0.0));
    attention(&sequence.q, &scattered.store(&shape), &segment, &shape, None, &mut out);
    assert!(out.iter().all(|out| out.is_finite()) && out.iter().any(|out| *out != 0.0));
}

#[test]
fn what_is_written_is_rounded_and_lies_where_it_is_read() {
    let mut random = Random::new(10);
    let (slots, width) = ([17, 3, 40, 16], 37);
    let mut rows = random.floats(slots.len() * width);
    // Of all sizes, and some that f16 cannot hold.
    rows.iter_mut().enumerate().for_each(|(i, x)| *x *= 2f32.powi(i as i32 % 50 - 30));
    let odd =
        [0.0, -0.0, 65504.0, 65519.9, 65520.0, -1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e-8, 2.9e-8, 1e-45];
    rows[..odd.len()].copy_from_slice(&odd);
    let rounded = |x: f32| f16::from_f32(if x.is_nan() { x } else { x.clamp(-65504.0, 65504.0) });
    let same = |is: f16, ought: f16| is.to_bits() == ought.to_bits() || is.is_nan() && ought.is_nan();
    for cpu in cpus() {
        for keys in [Keys::Rows, Keys::Turned] {
            let place = |i: usize| {
                let (slot, element) = (slots[i / width] as usize, i % width);
                match keys {
                    Keys::Rows => slot * width + element,
                    Keys::Turned => (slot / 16 * width + element) * 16 + slot % 16,
                }
            };
            let (mut floats, mut kept) = (vec![7.0; 48 * width], vec![f16::from_f32(7.0); 48 * width]);
            cpu.enter(|| keys.write(NumbersMut::F32(&mut floats), width, &slots, &rows));
            cpu.enter(|| keys.write(NumbersMut::F16(&mut kept), width, &slots, &rows));
            for (i, x) in rows.iter().enumerate() {
                assert_eq!(floats[place(i)].to_bits(), x.to_bits(), "{keys:?} {i}");
                assert!(same(kept[place(i)], rounded(*x)), "{keys:?}: {} for {x}, {:?}", kept[place(i)], cpu.level());
            }
            let others =
                |left: usize| assert_eq!(left, (48 - slots.len()) * width, "{keys:?}: what else is there stays");
            others(floats.iter().filter(|x| **x == 7.0).count());
            others(kept.iter().filter(|x| x.to_f32() == 7.0).count());
        }
    }
}
