//! Instruction sets: one meaning, several ways to compute it. All give the same bits, because each names the order of
//! its operations and fuses the same multiplications with the same additions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod portable;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

pub(crate) use lanes::Lanes;

/// Rows of weights that are multiplied side by side: the lanes of a panel.
pub(crate) const LANES: usize = 16;

/// Elements of an f32 product that are summed up before they are added to the rest.
pub(crate) const CHAIN: usize = 64;

/// Elements of a quantised activation that share a scale.
pub(crate) const BLOCK: usize = 32;

/// An instruction set, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target of the build has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The best one of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(detect)
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Portable
}

/// Code without intrinsics that is compiled once for each instruction set.
pub(crate) trait Work {
    type Out;

    /// `#[inline(always)]` in every implementation, as is what it calls in loops.
    fn run<S: Simd>(self) -> Self::Out;
}

/// Runs `work` compiled for `level`, which this machine has.
pub(crate) fn run<W: Work>(level: Level, work: W) -> W::Out {
    match checked(level) {
        // SAFETY: the machine has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::enter(work) },
        // SAFETY: the machine has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::enter(work) },
        _ => work.run::<portable::Portable>(),
    }
}

fn checked(level: Level) -> Level {
    assert!(level <= Level::best(), "{level:?} on a machine that has {:?} at best", Level::best());
    level
}

/// What an instruction set does its own way inside of [`Work`].
pub(crate) trait Simd {
    type Lanes: Lanes;

    /// Rows of activations that are multiplied side by side at most, 8 or 4.
    const ROWS: usize;

    /// Lanes of sums that registers hold beside what is added to them.
    const SUMS: usize;

    /// Words from byte `at` of sixteen rows, one of each row side by side: as many columns as there are. Of the last
    /// word there may be some bytes only; the others become zero.
    fn columns(rows: &Rows, at: usize, columns: &mut [[u32; LANES]]);

    /// The block in steps of a 127th of the largest magnitude, to the nearest, halves to even.
    fn quantise(x: &[f32; BLOCK]) -> Quantised;
}

/// A block of activations as bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quantised {
    pub scale: f32,
    pub bytes: [[i8; 4]; BLOCK / 4],
    /// Of the bytes of each half.
    pub sums: [i32; 2],
}

/// The size of a step, and how many make one, for blocks with a largest magnitude of `largest`; none if the block is
/// zero, or so close to it that steps would be no normal numbers. One that is not finite gets steps of NaN, so that
/// what comes of it is seen.
#[inline(always)]
fn steps(largest: f32) -> Result<(f32, f32), Quantised> {
    let nothing = |scale| Quantised { scale, bytes: [[0; 4]; BLOCK / 4], sums: [0; 2] };
    match largest {
        ..1e-35 => Err(nothing(0.0)),
        1e-35..=f32::MAX => Ok((largest / 127.0, 127.0 / largest)),
        _ => Err(nothing(f32::NAN)),
    }
}

/// The bytes of sixteen rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// All of the same length.
    pub lanes: [&'a [u8]; LANES],
}

impl Rows<'_> {
    /// Where byte `at` of each lane is, and how many words there are from there on.
    #[inline(always)]
    pub fn from(&self, at: usize) -> ([*const u8; LANES], usize) {
        let length = self.lanes[0].len();
        let mut starts = [std::ptr::null(); LANES];
        for (start, lane) in starts.iter_mut().zip(&self.lanes) {
            assert!(lane.len() == length && at <= length, "byte {at} of {} and {length}", lane.len());
            *start = lane.as_ptr().wrapping_add(at);
        }
        (starts, (length - at) / 4)
    }
}

/// How many rows of activations go together at most.
pub(crate) struct MostRows {
    /// Side by side in a tile of integers, or of floats.
    pub ints: usize,
    pub floats: usize,
}

pub(crate) fn most_rows(level: Level) -> MostRows {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::MOST_ROWS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::MOST_ROWS,
        _ => portable::MOST_ROWS,
    }
}

/// Room for any tile.
pub(crate) const TILE: usize = 8;

/// A tile of quantised activations; its `n` rows stand side by side.
#[derive(Clone, Copy)]
pub(crate) struct IntRows<'a> {
    /// `[cols / 4][n]`
    pub bytes: &'a [[i8; 4]],
    /// `[cols / 32][n]`
    pub scale: &'a [f32],
    /// What the offset of the codes adds to a product, negated: `[cols / group][n]`, as `sum`.
    pub offset: &'a [i32],
    /// Sums of the activations of a group.
    pub sum: &'a [f32],
}

/// Codes of a panel, a tile of quantised activations, and what turns their product into numbers.
#[derive(Clone, Copy)]
pub(crate) struct IntTile<'a> {
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// The largest code.
    pub largest: u8,
    /// Four codes of a row in each lane: `[cols / 4][LANES]`.
    pub codes: &'a [[u32; LANES]],
    /// `[cols / group][LANES]`
    pub scale: &'a [[f32; LANES]],
    /// As `scale`; none if the format has no minima.
    pub min: Option<&'a [[f32; LANES]]>,
    pub x: IntRows<'a>,
}

impl IntTile<'_> {
    /// Panics if the parts do not fit each other.
    fn check(&self, n: usize) {
        let groups = self.scale.len();
        assert!(self.group == 16 || self.group == 32, "groups of {}", self.group);
        assert_eq!(self.codes.len() * 4, groups * self.group);
        assert_eq!(self.x.bytes.len(), self.codes.len() * n);
        assert_eq!(self.x.scale.len() * 32, groups * self.group * n);
        assert_eq!((self.x.offset.len(), self.x.sum.len()), (groups * n, groups * n));
        assert!(self.min.is_none_or(|min| min.len() == groups));
    }
}

/// Adds products to `acc`, `[n][LANES]`. For each lane and activation, group after group:
/// `acc = fma(dot, scale * x.scale, acc)`, then, where there are minima, `acc = fma(min, x.sum, acc)`.
pub(crate) fn int_tile(level: Level, tile: &IntTile, acc: &mut [[f32; LANES]]) {
    tile.check(acc.len());
    match checked(level) {
        // SAFETY: the machine has the instructions, and every length is checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::int_tile(tile, acc) },
        // SAFETY: the machine has the instructions, and every length is checked.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::int_tile(tile, acc) },
        _ => portable::int_tile(tile, acc),
    }
}

/// A panel of floats, and a tile of activations.
#[derive(Clone, Copy)]
pub(crate) struct FloatTile<'a> {
    /// `[k][LANES]`
    pub w: &'a [[f32; LANES]],
    /// `[k][n]`
    pub x: &'a [f32],
}

/// Adds `w` times `x` to `acc`, `[n][LANES]`. The products of each [`CHAIN`] of `k` are summed up from zero, in order
/// and fused, and the sum is added.
pub(crate) fn float_tile(level: Level, tile: &FloatTile, acc: &mut [[f32; LANES]]) {
    assert_eq!(tile.x.len(), tile.w.len() * acc.len());
    match checked(level) {
        // SAFETY: the machine has the instructions, and the lengths fit.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::float_tile(tile, acc) },
        // SAFETY: the machine has the instructions, and the lengths fit.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::float_tile(tile, acc) },
        _ => portable::float_tile(tile.w, tile.x, acc),
    }
}

/// Memory that comes at once, bytes.
pub(crate) const LINE: usize = 64;

/// Asks for the memory at `at`, which may be anywhere, before it is read.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    // SAFETY: every x86-64 has the instruction, and it reads nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Evaluates `$body` with the number of rows of `$acc` as the constant `$N`, and `$acc` as an array of so many.
macro_rules! by_rows {
    ($acc:ident, $N:ident => $body:expr, $($n:literal)*) => {
        match $acc.len() {
            0 => (),
            $($n => {
                const $N: usize = $n;
                let $acc: &mut [_; $N] = $acc.as_mut_array().expect("so many rows");
                $body
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(crate) use by_rows;
