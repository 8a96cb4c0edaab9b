//! Products are right, and the same in whatever company a row comes.

use std::sync::Arc;

use crate::{Arithmetic, Cpu, Format, Level, Weights, dequantize, linear, linear_experts, pack};

/// Numbers that look random and are the same every time.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// Rows of weights of moderate size: random bytes, with scales put in their places.
    pub fn weights(&mut self, format: Format, rows: usize, cols: usize) -> Vec<u8> {
        let mut bytes = vec![0; rows * format.row_bytes(cols).unwrap()];
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            block.fill_with(|| self.next() as u8);
            let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
            let (a, b) = (self.float() * 0.01, self.float() * 0.01);
            match format {
                Format::F32 => block.copy_from_slice(&self.float().to_le_bytes()),
                Format::F16 => block.copy_from_slice(&half(self.float())),
                Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(self.float()).to_le_bytes()),
                Format::F8E4M3 { .. } => {
                    block[..4].copy_from_slice(&a.to_le_bytes());
                    block[4..].iter_mut().filter(|byte| **byte & 127 == 127).for_each(|byte| *byte ^= 1);
                }
                Format::Mxfp4 => block[0] = 118 + self.below(6) as u8,
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => block[..2].copy_from_slice(&half(a)),
                Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => {
                    block[..2].copy_from_slice(&half(a));
                    block[2..4].copy_from_slice(&half(b));
                }
                Format::Q2K => {
                    block[80..82].copy_from_slice(&half(a));
                    block[82..].copy_from_slice(&half(b));
                }
                Format::Q3K => block[108..].copy_from_slice(&half(a)),
                Format::Q6K => block[208..].copy_from_slice(&half(a)),
            }
        }
        bytes
    }
}

/// Matrices in both of their forms.
pub(crate) struct Matrices {
    format: Format,
    rows: usize,
    cols: usize,
    /// As in a file.
    pub stored: Vec<u8>,
    packed: Vec<u8>,
}

impl Matrices {
    pub fn new(random: &mut Random, format: Format, [count, rows, cols]: [usize; 3]) -> Self {
        let stored = random.weights(format, count * rows, cols);
        let packed = pack(format, rows, cols, &stored);
        Self { format, rows, cols, stored, packed }
    }

    pub fn weights(&self) -> Weights<'_> {
        let Self { format, rows, cols, .. } = *self;
        Weights { format, rows, cols, bytes: &self.packed }
    }

    /// One of them.
    fn one(&self, matrix: usize) -> Weights<'_> {
        let size = self.packed.len() / self.weights().matrices();
        let w = self.weights();
        Weights { bytes: &w.bytes[matrix * size..][..size], ..w }
    }
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(crate) const FORMATS: [Format; 16] = {
    let mut formats = [Format::F8E4M3 { block: 24 }; 16];
    let mut i = 0;
    while i < 15 {
        formats[i] = Format::ALL[i];
        i += 1;
    }
    formats
};

/// A number of columns that the format has.
fn cols(random: &mut Random, format: Format) -> usize {
    let block = if matches!(format, Format::F8E4M3 { .. }) { 1 } else { format.block() };
    let most = if block == 1 { 700 } else { 2600 / block };
    (random.below(most) + 1) * block
}

/// Products in f64, and the sums of their magnitudes.
fn reference(x: &[f32], w: &Matrices) -> Vec<(f64, f64)> {
    let mut values = vec![0.0; w.rows * w.cols];
    dequantize(w.format, w.cols, &w.stored, &mut values);
    let row = |w: &[f32]| {
        let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
    };
    values.chunks_exact(w.cols).map(row).collect()
}

fn cpus() -> Vec<Arc<Cpu>> {
    let levels = Level::ALL.into_iter().filter(|level| *level <= Level::best());
    levels.flat_map(|level| [1, 2, 3].map(|threads| Arc::new(Cpu::new(threads, level)))).collect()
}

#[test]
fn products_are_close_to_the_true_ones() {
    let cpus = cpus();
    let mut random = Random::new(1);
    for format in FORMATS {
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            let (rows, cols) = (random.below(70) + 1, cols(&mut random, format));
            let w = Matrices::new(&mut random, format, [1, rows, cols]);
            let (x, bias) = (random.floats(cols), random.floats(rows));
            let mut y = vec![0.0; rows];
            cpus[0].enter(|| linear(&x, &w.weights(), Some(&bias), arithmetic, &mut y));
            let exact = arithmetic == Arithmetic::Exact || format.codes().is_none();
            // Bytes are off by half a step of 1/127 of the largest activation, which rarely add up.
            let tolerance = if exact { 1e-5 } else { 6e-3 };
            for ((y, (ought, size)), bias) in y.iter().zip(reference(&x, &w)).zip(&bias) {
                let off = (f64::from(*y) - ought - f64::from(*bias)).abs();
                assert!(off <= tolerance * size + 1e-6, "{format} {arithmetic:?} {rows}x{cols}: {off} of {size}");
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_company() {
    let cpus = cpus();
    let mut random = Random::new(2);
    for format in FORMATS {
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            let (rows, cols) = (random.below(150) + 1, cols(&mut random, format));
            let w = Matrices::new(&mut random, format, [1, rows, cols]);
            let (x, bias) = (random.floats(64 * cols), random.floats(rows));
            let mut alone = vec![0.0; 64 * rows];
            for (x, y) in x.chunks_exact(cols).zip(alone.chunks_exact_mut(rows)) {
                cpus[0].enter(|| linear(x, &w.weights(), Some(&bias), arithmetic, y));
            }
            for n in [1, 2, 3, 5, 8, 17, 64] {
                for cpu in &cpus {
                    let first = random.below(65 - n);
                    let mut y = vec![f32::NAN; n * rows];
                    cpu.enter(|| linear(&x[first * cols..][..n * cols], &w.weights(), Some(&bias), arithmetic, &mut y));
                    let same = bits(&y) == bits(&alone[first * rows..][..n * rows]);
                    let (threads, level) = (cpu.pool.threads(), cpu.level());
                    assert!(same, "{format} {arithmetic:?} {rows}x{cols}, {n} rows, {threads} threads, {level:?}");
                }
            }
        }
    }
}

#[test]
fn experts_are_products_of_their_own() {
    let cpus = cpus();
    let mut random = Random::new(3);
    for format in FORMATS {
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            let (rows, cols, n, experts) = (random.below(60) + 1, cols(&mut random, format), 23, 5);
            let w = Matrices::new(&mut random, format, [experts, rows, cols]);
            let x = random.floats(n * cols);
            let chosen: Vec<_> = (0..n).map(|_| random.below(experts) as i32).collect();
            let mut ought = vec![0.0; n * rows];
            for ((x, y), expert) in x.chunks_exact(cols).zip(ought.chunks_exact_mut(rows)).zip(&chosen) {
                cpus[0].enter(|| linear(x, &w.one(*expert as usize), None, arithmetic, y));
            }
            for cpu in &cpus {
                let mut y = vec![f32::NAN; n * rows];
                cpu.enter(|| linear_experts(&x, &w.weights(), &chosen, arithmetic, &mut y));
                assert!(bits(&y) == bits(&ought), "{format} {arithmetic:?} {rows}x{cols} {:?}", cpu.level());
                // All of them for each row, side by side.
                let mut all = vec![f32::NAN; n * experts * rows];
                cpu.enter(|| linear(&x, &w.weights(), None, arithmetic, &mut all));
                for (i, expert) in chosen.iter().enumerate() {
                    let y = &all[(i * experts + *expert as usize) * rows..][..rows];
                    assert!(bits(y) == bits(&ought[i * rows..][..rows]), "{format} {arithmetic:?}, side by side");
                }
            }
        }
    }
}

#[test]
fn nothing_times_something_is_nothing() {
    let w = Matrices::new(&mut Random::new(4), Format::Q4_0, [1, 3, 64]);
    let w = w.weights();
    linear(&[], &w, None, Arithmetic::Fast, &mut []);
    linear_experts(&[], &w, &[], Arithmetic::Exact, &mut []);
    linear(&[0.0; 128], &Weights { rows: 0, bytes: &[], ..w }, None, Arithmetic::Fast, &mut []);
    let mut y = [1.0; 3];
    linear(&[0.0; 64], &w, None, Arithmetic::Fast, &mut y);
    assert_eq!(y, [0.0; 3]);
}

#[test]
fn numbers_that_are_none_are_seen() {
    let w = Matrices::new(&mut Random::new(5), Format::Q8_0, [1, 20, 64]);
    let w = w.weights();
    for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
        for wrong in [f32::NAN, f32::INFINITY] {
            let mut x = vec![0.5; 3 * 64];
            x[64 + 40] = wrong;
            let mut y = vec![0.0; 60];
            linear(&x, &w, None, arithmetic, &mut y);
            assert!(y[..20].iter().chain(&y[40..]).all(|y| y.is_finite()) && y[20..40].iter().all(|y| !y.is_finite()));
        }
    }
}
