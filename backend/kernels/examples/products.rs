//! How fast the kernels are: the matrices of SmolLM2-135M with few and many rows, and attention.
//!
//!     cargo run --release -p littoral-kernels --example products -- [threads] [level]
//!
//! Figures are medians of rounds in which everything is measured in turn.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use littoral_kernels::{
    Arithmetic, AttentionShape, Cpu, Format, Keys, Level, Numbers, Segment, Store, Weights, attention, linear, pack,
    rms_norm, swiglu,
};

const LAYERS: usize = 30;

/// Rows and columns of a layer's matrices: q, k, v, o, gate and up as one, down.
const LAYER: [(usize, usize); 6] = [(576, 576), (192, 576), (192, 576), (576, 576), (3072, 576), (576, 1536)];

const HEAD: (usize, usize) = (49152, 576);

struct Matrix {
    format: Format,
    rows: usize,
    cols: usize,
    packed: Vec<u8>,
}

impl Matrix {
    /// Bytes without meaning, but with finite scales.
    fn new(format: Format, (rows, cols): (usize, usize)) -> Self {
        let cols = cols.next_multiple_of(format.block().min(256));
        let size = rows * format.row_bytes(cols).expect("whole blocks");
        let bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8 & 0x77 | 0x10).collect();
        Self { format, rows, cols, packed: pack(format, rows, cols, &bytes) }
    }

    fn weights(&self) -> Weights<'_> {
        Weights { format: self.format, rows: self.rows, cols: self.cols, bytes: &self.packed }
    }
}

/// A model's matrices, each layer's its own, as in memory.
struct Model {
    layers: Vec<Matrix>,
    head: Matrix,
}

impl Model {
    fn new(layers: Format, head: Format) -> Self {
        let matrices = (0..LAYERS).flat_map(|_| LAYER.map(|size| Matrix::new(layers, size)));
        Self { layers: matrices.collect(), head: Matrix::new(head, HEAD) }
    }

    /// All products of a step of `n` rows, `heads` of which get logits.
    fn step(&self, n: usize, heads: usize, arithmetic: Arithmetic, x: &[f32], y: &mut [f32]) {
        for matrix in &self.layers {
            let (x, y) = (&x[..n * matrix.cols], &mut y[..n * matrix.rows]);
            linear(x, &matrix.weights(), None, arithmetic, y);
        }
        let (x, y) = (&x[..heads * self.head.cols], &mut y[..heads * self.head.rows]);
        linear(x, &self.head.weights(), None, arithmetic, y);
    }

    fn size(&self) -> (usize, usize, usize) {
        let bytes: usize = self.layers.iter().map(|matrix| matrix.packed.len()).sum();
        let products: usize = self.layers.iter().map(|matrix| matrix.rows * matrix.cols).sum();
        (bytes + self.head.packed.len(), products, self.head.rows * self.head.cols)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn time(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// Medians of `rounds` rounds over `cases`.
fn measure<T>(rounds: usize, cases: &[T], mut body: impl FnMut(&T)) -> Vec<Duration> {
    let mut times: Vec<_> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (case, times) in cases.iter().zip(&mut times) {
            times.push(time(|| body(case)));
        }
    }
    times.into_iter().map(median).collect()
}

fn products(title: &str, model: &Model, arithmetic: Arithmetic, counts: &[usize]) {
    let x: Vec<f32> = (0..512 * 1536).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut y = vec![0.0; 512 * 49152 / 8];
    let (bytes, layers, head) = model.size();
    let longest = counts.iter().max().copied().unwrap_or(0);
    // Prompts get logits for one row, steps for each.
    let heads = |n: usize| if n > 64 { 1 } else { n };
    let rounds = if longest > 64 { 5 } else { 15 };
    let times = measure(rounds, counts, |n| model.step(*n, heads(*n), arithmetic, &x, black_box(&mut y)));
    for (n, time) in counts.iter().zip(times) {
        let seconds = time.as_secs_f64();
        let macs = (layers * n + head * heads(*n)) as f64 / seconds / 1e9;
        let rate = *n as f64 / seconds;
        let gb = bytes as f64 / seconds / 1e9;
        println!(
            "{title:<22} n {n:>3}  {:>9.3} ms  {gb:>6.1} GB/s  {macs:>7.1} GMAC/s  {rate:>7.0} tokens/s",
            seconds * 1e3
        );
    }
}

/// What the memory gives: as many bytes as a model has, read and added up.
fn memory() {
    let bytes: Vec<u64> = (0..12_000_000).collect();
    let parts: Vec<&[u64]> = bytes.chunks(1 << 16).collect();
    let read = |_: &()| {
        littoral_kernels::pool::run(parts.len(), |part| {
            let mut sums = [0u64; 32];
            for words in parts[part].as_chunks::<32>().0 {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
            }
            black_box(sums);
        });
    };
    let time = measure(15, &[()], read)[0].as_secs_f64();
    println!("{} MB are read at {:.1} GB/s", bytes.len() * 8 / 1_000_000, bytes.len() as f64 * 8.0 / time / 1e9);
}

fn attentions() {
    let shapes = [
        (
            "9 heads over 3, 64",
            AttentionShape {
                heads: 9,
                kv_heads: 3,
                k_dim: 64,
                v_dim: 64,
                scale: 0.125,
                window: None,
                block_tokens: 16,
            },
        ),
        (
            "16 heads over 1, 576",
            AttentionShape {
                heads: 16,
                kv_heads: 1,
                k_dim: 576,
                v_dim: 512,
                scale: 0.04,
                window: None,
                block_tokens: 16,
            },
        ),
    ];
    for (name, shape) in shapes {
        let blocks: Vec<i32> = (0..4096 / 16).rev().collect();
        let width = shape.kv_heads * shape.k_dim;
        let k = vec![0.1; 4096 * width];
        let store =
            Store { keys: Keys::Rows, k: Numbers::F32(&k), k_stride: width, v: Numbers::F32(&k), v_stride: width };
        let cases = [(1, 100), (1, 1000), (1, 4000), (8, 1000), (512, 0), (512, 1000)];
        let times = measure(9, &cases, |(rows, start)| {
            let q = vec![0.1; rows * shape.heads * shape.k_dim];
            let mut out = vec![0.0; rows * shape.heads * shape.v_dim];
            let segment = Segment { first_row: 0, rows: *rows, start: *start, blocks: &blocks };
            attention(&q, &store, &[segment], &shape, None, black_box(&mut out));
        });
        for ((rows, start), time) in cases.iter().zip(times) {
            let seen: usize = (0..*rows).map(|row| start + row + 1).sum();
            let macs = (seen * shape.heads * (shape.k_dim + shape.v_dim)) as f64 / time.as_secs_f64() / 1e9;
            println!(
                "attention {name:<21} {rows:>3} rows at {start:>4}  {:>9.1} us  {macs:>6.1} GMAC/s",
                time.as_secs_f64() * 1e6
            );
        }
    }
}

/// The attention of a step of SmolLM2-135M: one row of each of some sequences, in all layers.
fn steps() {
    let shape =
        AttentionShape { heads: 9, kv_heads: 3, k_dim: 64, v_dim: 64, scale: 0.125, window: None, block_tokens: 16 };
    const WIDTH: usize = 3 * 64;
    const TOKENS: usize = 1040;
    let cases = [(1, 128), (1, 1000), (2, 1000), (8, 128), (8, 512), (8, 1000)];
    let tables: Vec<Vec<i32>> =
        (0..8).map(|sequence| (0..TOKENS as i32 / 16).map(|block| block * 8 + sequence).collect()).collect();
    let numbers = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
    let q: Vec<f32> = (0..8 * 9 * 64).map(numbers).collect();
    let mut out = vec![0.0; q.len()];
    let floats: Vec<f32> = (0..8 * TOKENS * WIDTH).map(numbers).collect();
    let halves: Vec<f16> = floats.iter().map(|x| f16::from_f32(*x)).collect();
    let (floats, halves) = (vec![floats; 2 * LAYERS], vec![halves; 2 * LAYERS]);
    let plane = |kind: &str, i: usize| match kind {
        "f32" => Numbers::F32(&floats[i]),
        _ => Numbers::F16(&halves[i]),
    };
    let all: Vec<_> = cases.iter().flat_map(|case| [("f32", *case), ("f16", *case)]).collect();
    let times = measure(15, &all, |(kind, (sequences, past))| {
        let segments: Vec<_> = (0..*sequences)
            .map(|row| Segment { first_row: row, rows: 1, start: *past, blocks: &tables[row] })
            .collect();
        for layer in 0..LAYERS {
            let (k, v) = (plane(kind, 2 * layer), plane(kind, 2 * layer + 1));
            let store = Store { keys: Keys::Turned, k, k_stride: WIDTH, v, v_stride: WIDTH };
            let n = sequences * 9 * 64;
            attention(&q[..n], &store, &segments, &shape, None, black_box(&mut out[..n]));
        }
    });
    for ((kind, (sequences, past)), time) in all.iter().zip(times) {
        let bytes = if *kind == "f32" { 4 } else { 2 } * 2 * LAYERS * WIDTH * sequences * (past + 1);
        println!(
            "attention of a step, {kind}, {sequences} rows at {past:>4}  {:>9.1} us  {:>6.1} GB/s",
            time.as_secs_f64() * 1e6,
            bytes as f64 / time.as_secs_f64() / 1e9
        );
    }
}

fn small() {
    let (x, weight) = (vec![0.5; 512 * 3072], vec![1.0; 576]);
    let mut y = vec![0.0; 512 * 1536];
    let time = measure(99, &[1, 512], |n| rms_norm(&x[..n * 576], &weight, 1e-5, black_box(&mut y[..n * 576])));
    println!("rms_norm of 576: 1 row {:?}, 512 rows {:?}", time[0], time[1]);
    let time = measure(99, &[1, 512], |n| swiglu(&x[..n * 3072], 1536, None, black_box(&mut y[..n * 1536])));
    println!("swiglu of 1536: 1 row {:?}, 512 rows {:?}", time[0], time[1]);
    let time = measure(999, &[2, 8], |parts| littoral_kernels::pool::run(*parts, |part| _ = black_box(part)));
    println!("two empty parts {:?}, eight {:?}", time[0], time[1]);
}

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|threads| threads.parse().ok()).unwrap_or_else(|| Cpu::host().pool.threads());
    let level = args.next().map_or(Level::best(), |name| {
        let found = Level::ALL.into_iter().find(|level| format!("{level:?}").eq_ignore_ascii_case(&name));
        found.unwrap_or_else(|| panic!("'{name}' is none of {:?}", Level::ALL))
    });
    let only = args.next();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let cpu = Arc::new(Cpu::new(threads, level));
    println!("{} threads, {:?}", cpu.pool.threads(), cpu.level());
    cpu.enter(|| {
        if wanted("memory") || wanted("q4_1") {
            memory();
        }
        if wanted("q4_1") {
            let model = Model::new(Format::Q4_1, Format::Q8_0);
            products("Q4_1, head Q8_0", &model, Arithmetic::Fast, &[1, 2, 4, 8, 64, 512]);
        }
        if wanted("formats") {
            for format in Format::ALL {
                products(&format.to_string(), &Model::new(format, format), Arithmetic::Fast, &[1, 64]);
            }
            products("Q4_1 exact", &Model::new(Format::Q4_1, Format::Q8_0), Arithmetic::Exact, &[1, 64]);
        }
        if wanted("attention") {
            attentions();
            steps();
        }
        if wanted("small") {
            small();
        }
    });
}
