//! Instruction sets against each other where sums of products do not reach: quantised blocks, lanes, columns.

use super::{BLOCK, LANES, Lanes, Level, Quantised, Rows, Simd, Work, run};
use crate::linear::tests::Random;

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|level| *level <= Level::best())
}

struct Quantise<'a>(&'a [f32; BLOCK]);

impl Work for Quantise<'_> {
    type Out = Quantised;

    #[inline(always)]
    fn run<S: Simd>(self) -> Quantised {
        S::quantise(self.0)
    }
}

#[test]
fn blocks_are_quantised_to_the_nearest_step() {
    let mut random = Random::new(21);
    for size in [1e-30, 0.37, 1.0, 1e30] {
        for _ in 0..200 {
            let x: [f32; BLOCK] = std::array::from_fn(|_| random.float() * size);
            let ought = run(Level::Portable, Quantise(&x));
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            assert_eq!(ought.scale, largest / 127.0);
            for (x, q) in x.iter().zip(ought.bytes.as_flattened()) {
                assert!((x - f32::from(*q) * ought.scale).abs() <= ought.scale * 0.5001);
            }
            for (bytes, sum) in ought.bytes.as_flattened().chunks(16).zip(ought.sums) {
                assert_eq!(bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>(), sum);
            }
            levels().for_each(|level| assert_eq!(run(level, Quantise(&x)), ought, "{level:?}"));
        }
    }
}

#[test]
fn blocks_that_have_no_steps_are_zero_or_nan() {
    for level in levels() {
        for small in [0.0, -0.0, 1e-40] {
            let q = run(level, Quantise(&[small; BLOCK]));
            assert_eq!((q.scale, q.bytes, q.sums), (0.0, [[0; 4]; 8], [0; 2]));
        }
        let mut x = [1.0; BLOCK];
        for wrong in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            x[7] = wrong;
            let q = run(level, Quantise(&x));
            assert!(q.scale.is_nan() && q.bytes == [[0; 4]; 8], "{level:?} {wrong}");
        }
        assert!(run(level, Quantise(&[f32::MAX; BLOCK])).scale.is_finite());
        // Halves go to the even step.
        x = [0.0; BLOCK];
        (x[0], x[1], x[2], x[17]) = (127.0, 0.5, 1.5, -2.5);
        let q = run(level, Quantise(&x));
        assert_eq!((q.scale, q.bytes[0], q.bytes[4], q.sums), (1.0, [127, 0, 2, 0], [0, -2, 0, 0], [129, -2]));
    }
}

/// Everything that lanes can do, to words of all kinds.
struct Everything<'a>(&'a [[u32; LANES]; 2]);

impl Work for Everything<'_> {
    type Out = Vec<[u32; LANES]>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Out {
        let (a, b) = (S::Lanes::load(&self.0[0]), S::Lanes::load(&self.0[1]));
        let low = a.and(S::Lanes::splat(0x0f0f_0f0f));
        let (x, y) = (low.float(), b.and(S::Lanes::splat(0x7fff)).float());
        let bytes: &[u8; 4 * LANES] = bytemuck::cast_ref(&self.0[0]);
        let results = [
            a.half(),
            a.and(b),
            a.or(b),
            a.xor(b),
            a.add(b),
            a.sub(b),
            a.max(b),
            a.shl(0),
            a.shl(5),
            a.shl(32),
            a.shr(0),
            a.shr(9),
            a.shr(32),
            low.lookup(&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 255]),
            a.float(),
            x.mul_float(y),
            x.add_float(y),
            x.sub_float(y),
            S::Lanes::words(bytes),
            S::Lanes::lower(bytes.first_chunk().unwrap()),
            S::Lanes::bytes(bytes.last_chunk().unwrap()),
            a.dot(low, b),
            x.fused(y, x),
            S::Lanes::widened(bytemuck::cast_slice(bytes).first_chunk().unwrap()),
        ];
        let mut out = vec![[0; LANES]; results.len()];
        out.iter_mut().zip(results).for_each(|(out, result)| result.store(out));
        out.extend([a, b, x, y].map(|floats| floats.narrowed().map(u32::from)));
        out
    }
}

/// Which of the results are binary16 made wider, whose NaN may be any.
const WIDENED: [usize; 2] = [0, 23];

#[test]
fn lanes_agree() {
    let mut random = Random::new(22);
    for round in 0..5000u32 {
        let mut words = [[0; LANES]; 2];
        words.as_flattened_mut().iter_mut().for_each(|word| *word = random.next() as u32);
        // Every binary16.
        for (lane, word) in words[0].iter_mut().enumerate() {
            *word = *word & !0xffff | (round * 16 + lane as u32) & 0xffff;
        }
        let ought = run(Level::Portable, Everything(&words));
        for lane in 0..LANES {
            let value = half::f16::from_bits(words[0][lane] as u16).to_f32();
            let is = f32::from_bits(ought[0][lane]);
            assert!(is == value || is.is_nan() && value.is_nan(), "{is} for {value}");
        }
        for level in levels() {
            for (i, (is, ought)) in run(level, Everything(&words)).iter().zip(&ought).enumerate() {
                let same = |(is, ought): (&u32, &u32)| {
                    let nan = f32::from_bits(*is).is_nan() && f32::from_bits(*ought).is_nan();
                    is == ought || WIDENED.contains(&i) && nan
                };
                assert!(is.iter().zip(ought).all(same), "{level:?} {i}: {is:x?} for {ought:x?}");
            }
        }
    }
}

struct Columns<'a>(Rows<'a>, usize, usize);

impl Work for Columns<'_> {
    type Out = Vec<[u32; LANES]>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Self::Out {
        let mut columns = vec![[u32::MAX; LANES]; self.2];
        S::columns(&self.0, self.1, &mut columns);
        columns
    }
}

#[test]
fn columns_are_words_of_rows() {
    for length in 1..90 {
        let bytes: Vec<u8> = (0..LANES * length).map(|i| (i * 7 + i / 256) as u8).collect();
        let lanes = std::array::from_fn(|lane| &bytes[lane * length..][..length]);
        for at in [0, 1, 2, 7, length / 2, length - 1].into_iter().filter(|at| *at < length) {
            let words = (length - at).div_ceil(4);
            for count in [1, words / 2, words].into_iter().filter(|count| (1..=words).contains(count)) {
                for level in levels() {
                    let columns = run(level, Columns(Rows { lanes }, at, count));
                    for (i, column) in columns.iter().enumerate() {
                        for (lane, word) in column.iter().enumerate() {
                            let mut ought = [0; 4];
                            let rest = &lanes[lane][at + i * 4..];
                            let some = rest.len().min(4);
                            ought[..some].copy_from_slice(&rest[..some]);
                            assert_eq!(
                                *word,
                                u32::from_le_bytes(ought),
                                "{level:?}, {count} words from {at} of {length}"
                            );
                        }
                    }
                }
            }
        }
    }
}
