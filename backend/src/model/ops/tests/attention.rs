//! Attention over random block tables.

use std::sync::Arc;

use burn::tensor::Device;
use littoral_kernels::{AttentionShape, Keys};
use rand::Rng;

use super::{Expected, F32, Source, assert_within, ints, tensor, values};
use crate::model::ops::{self, PagedAttention, Span};

/// Grouped query heads; as many key heads as query heads, with dimensions that are no multiples of anything.
const GROUPED: AttentionShape = shape(6, 2, 8, 8, 16);
const ODD: AttentionShape = shape(3, 3, 5, 3, 2);
/// One key head for more query heads than a cube takes; its rows are keys and begin with the values.
const LATENT: AttentionShape = shape(9, 1, 12, 8, 4);

const fn shape(heads: usize, kv_heads: usize, k_dim: usize, v_dim: usize, block_tokens: usize) -> AttentionShape {
    AttentionShape { heads, kv_heads, k_dim, v_dim, scale: 0.7, window: None, block_tokens }
}

/// Keys and values of every slot; without values of their own, keys begin with them.
struct Cache {
    k: Vec<f32>,
    k_width: usize,
    v: Option<Vec<f32>>,
    v_width: usize,
}

impl Cache {
    fn new(shape: &AttentionShape, slots: usize, source: &mut Source) -> Self {
        let k_width = shape.kv_heads * shape.k_dim;
        let k = source.floats(slots * k_width);
        if shape.kv_heads == 1 {
            return Self { k, k_width, v: None, v_width: k_width };
        }
        let v_width = shape.kv_heads * shape.v_dim;
        Self { k, k_width, v: Some(source.floats(slots * v_width)), v_width }
    }
}

/// A cache whose blocks belong to sequences at random, and a step.
struct Step {
    shape: AttentionShape,
    /// First position and rows of each sequence.
    sequences: Vec<(usize, usize)>,
}

impl Step {
    fn check(&self, device: &Device, source: &mut Source, rounding: f64) {
        let shape = &self.shape;
        let of = |(start, rows): (usize, usize)| (start + rows).div_ceil(shape.block_tokens);
        let blocks = self.sequences.iter().map(|s| of(*s)).sum::<usize>() + 2;
        let mut free = source.shuffled(blocks);
        let mut row = 0;
        let spans = self.sequences.iter().map(|(start, rows)| {
            let blocks = free.split_off(free.len() - of((*start, *rows)));
            row += rows;
            Span { row: row - rows, rows: *rows, start: *start, blocks }
        });
        let spans: Vec<Span> = spans.collect();
        let (slots, n) = (blocks * shape.block_tokens, row);
        let q = source.floats(n * shape.heads * shape.k_dim);
        let cache = Cache::new(shape, slots, source);

        let q_tensor = tensor(&q, [n, shape.heads, shape.k_dim], device);
        let k_tensor = tensor(&cache.k, [slots, cache.k_width], device);
        let v_tensor = match &cache.v {
            Some(v) => tensor(v, [slots, cache.v_width], device),
            None => k_tensor.clone(),
        };
        let plan = PagedAttention { shape: *shape, keys: Keys::Rows, spans: Arc::new(spans.clone()) };
        let found = ops::attention(q_tensor.clone(), &k_tensor, &v_tensor, plan.clone());
        assert_eq!(found.dims(), [n, shape.heads, shape.v_dim]);

        let rows = spans.iter().flat_map(|span| (0..span.rows).map(move |i| (span, i)));
        let heads = rows.flat_map(|(span, i)| (0..shape.heads).map(move |head| (span, i, head)));
        let expected: Vec<Expected> = heads
            .flat_map(|(span, i, head)| {
                let q = &q[((span.row + i) * shape.heads + head) * shape.k_dim..][..shape.k_dim];
                self.head(span, span.start + i, head, q, &cache)
            })
            .collect();
        assert_within(rounding, &values(found), &expected, &format!("{shape:?} {:?}", self.sequences));
        if cache.v.is_some() && shape.block_tokens == 16 {
            let all = ints(&(0..slots as i32).collect::<Vec<_>>(), device);
            let empty = tensor(&vec![0.0; cache.k.len()], [slots, cache.k_width], device);
            let keys = ops::store(empty, k_tensor, &all, Keys::Turned);
            let plan = PagedAttention { keys: Keys::Turned, ..plan };
            let found = ops::attention(q_tensor, &keys, &v_tensor, plan);
            assert_within(rounding, &values(found), &expected, &format!("{shape:?} {:?}, turned", self.sequences));
        }
    }

    fn head(&self, span: &Span, position: usize, head: usize, q: &[f32], cache: &Cache) -> Vec<Expected> {
        let AttentionShape { heads, kv_heads, k_dim, v_dim, scale, window, block_tokens } = self.shape;
        let kv_head = head / (heads / kv_heads);
        let seen = (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..=position;
        let slot = |t: usize| span.blocks[t / block_tokens] as usize * block_tokens + t % block_tokens;
        let score = |t: usize| {
            let k = &cache.k[slot(t) * cache.k_width + kv_head * k_dim..][..k_dim];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            dot * f64::from(scale)
        };
        let scores: Vec<f64> = seen.clone().map(score).collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let all_v = cache.v.as_ref().unwrap_or(&cache.k);
        let column = |c: usize| {
            let v = |t: usize| f64::from(all_v[slot(t) * cache.v_width + kv_head * v_dim + c]);
            let value: f64 = seen.clone().zip(&weights).map(|(t, weight)| v(t) * weight).sum();
            Expected { value: value / total, size: 1.0 }
        };
        (0..v_dim).map(column).collect()
    }
}

fn windows(shape: AttentionShape, window: usize) -> [AttentionShape; 2] {
    [shape, AttentionShape { window: Some(window), ..shape }]
}

pub fn single_rows(device: &Device) {
    let source = &mut Source::new(9);
    for shape in [GROUPED, ODD, LATENT].into_iter().flat_map(|shape| windows(shape, 5)) {
        Step { shape, sequences: vec![(0, 1), (9, 1), (150, 1), (3, 4)] }.check(device, source, F32);
    }
    // Long enough to be cut into parts, of which a short row leaves some empty.
    let start = source.0.random_range(600..700);
    Step { shape: GROUPED, sequences: vec![(start, 1), (2, 1)] }.check(device, source, F32);
    Step { shape: AttentionShape { window: Some(555), ..LATENT }, sequences: vec![(start, 2)] }
        .check(device, source, F32);
}

pub fn prompts(device: &Device, rounding: f64) {
    let source = &mut Source::new(10);
    for shape in [GROUPED, ODD, LATENT].into_iter().flat_map(|shape| windows(shape, 6)) {
        Step { shape, sequences: vec![(0, 17), (13, 9)] }.check(device, source, rounding);
    }
    // More queries than are scored together.
    Step { shape: AttentionShape { window: Some(50), ..GROUPED }, sequences: vec![(20, 140)] }
        .check(device, source, rounding);
}

pub fn mixed(device: &Device, rounding: f64) {
    let source = &mut Source::new(11);
    for shape in windows(GROUPED, 7) {
        Step { shape, sequences: vec![(30, 1), (4, 12), (0, 2), (7, 1), (0, 10)] }.check(device, source, rounding);
    }
}
