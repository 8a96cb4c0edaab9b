//! Blocks of 256 weights in groups whose scales are themselves integers below a scale.

use super::{Blocks, Raw, Unpacked};
use crate::simd::Lanes;

/// Bits `from..from + count` of each lane.
#[inline(always)]
fn bits<L: Lanes>(word: L, from: u32, count: u32) -> L {
    word.shr(from).and(L::splat((1 << count) - 1))
}

/// Eight scales and minima of six bits each in twelve bytes, after a scale for each, as Q4_K and Q5_K have them.
#[inline(always)]
fn eight_groups<L: Lanes>(raw: Raw, out: &mut Unpacked) {
    let both: L = raw.word(0);
    let (d, dmin) = (both.half(), both.shr(16).half());
    let (scales, mins, rest): (L, L, L) = (raw.word(4), raw.word(8), raw.word(12));
    for j in 0..4 {
        let byte = j as u32 * 8;
        // The first four are six bits of a byte, whose two upper ones belong to the last four.
        let upper = |word: L| bits(word, byte + 6, 2).shl(4);
        for (group, scale, min) in [
            (j, bits(scales, byte, 6), bits(mins, byte, 6)),
            (j + 4, bits(rest, byte, 4).or(upper(scales)), bits(rest, byte + 4, 4).or(upper(mins))),
        ] {
            out.scale(group, scale.float().mul_float(d));
            out.min(group, min.float().mul_float(dmin).xor(L::splat(1 << 31)));
        }
    }
}

pub(crate) struct Q2K;

impl Blocks for Q2K {
    const BLOCK: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 3;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        let both: L = raw.word(80);
        let (d, dmin) = (both.half(), both.shr(16).half());
        for j in 0..16 {
            let (scales, byte) = (raw.word::<L>(j / 4 * 4), j as u32 % 4 * 8);
            out.scale(j, bits(scales, byte, 4).float().mul_float(d));
            out.min(j, bits(scales, byte + 4, 4).float().mul_float(dmin).xor(L::splat(1 << 31)));
        }
        for half in 0..2 {
            for i in 0..8 {
                let word: L = raw.word(16 + half * 32 + i * 4);
                for run in 0..4 {
                    let codes = word.shr(run as u32 * 2).and(L::splat(0x0303_0303));
                    out.codes(half * 32 + run * 8 + i, codes);
                }
            }
        }
    }
}

pub(crate) struct Q3K;

impl Blocks for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const OFFSET: u8 = 4;
    const LARGEST: u8 = 7;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        let d = raw.word::<L>(108).half();
        // Sixteen six-bit scales: four low bits in eight bytes, two high bits in the next four.
        let (low, high) = ([raw.word::<L>(96), raw.word(100)], raw.word::<L>(104));
        for j in 0..16 {
            let byte = j as u32 % 4 * 8;
            let scale = bits(low[j / 4 % 2], byte + j as u32 / 8 * 4, 4);
            let scale = scale.or(bits(high, byte + j as u32 / 4 * 2, 2).shl(4));
            out.scale(j, scale.sub(L::splat(32)).float().mul_float(d));
        }
        for i in 0..8 {
            let mask: L = raw.word(i * 4);
            for half in 0..2 {
                let word: L = raw.word(32 + half * 32 + i * 4);
                for run in 0..4 {
                    let third = mask.shr((half * 4 + run) as u32).and(L::splat(0x0101_0101)).shl(2);
                    let codes = word.shr(run as u32 * 2).and(L::splat(0x0303_0303)).or(third);
                    out.codes(half * 32 + run * 8 + i, codes);
                }
            }
        }
    }
}

pub(crate) struct Q4K;

impl Blocks for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 15;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        eight_groups::<L>(raw, out);
        let low = L::splat(0x0f0f_0f0f);
        for pair in 0..4 {
            for i in 0..8 {
                let word: L = raw.word(16 + pair * 32 + i * 4);
                out.codes(pair * 16 + i, word.and(low));
                out.codes(pair * 16 + 8 + i, word.shr(4).and(low));
            }
        }
    }
}

pub(crate) struct Q5K;

impl Blocks for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const LARGEST: u8 = 31;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        eight_groups::<L>(raw, out);
        let (low, lowest) = (L::splat(0x0f0f_0f0f), L::splat(0x0101_0101));
        for i in 0..8 {
            let high: L = raw.word(16 + i * 4);
            for pair in 0..4 {
                let word: L = raw.word(48 + pair * 32 + i * 4);
                let fifth = |run: usize| high.shr(run as u32).and(lowest).shl(4);
                out.codes(pair * 16 + i, word.and(low).or(fifth(pair * 2)));
                out.codes(pair * 16 + 8 + i, word.shr(4).and(low).or(fifth(pair * 2 + 1)));
            }
        }
    }
}

pub(crate) struct Q6K;

impl Blocks for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const LARGEST: u8 = 63;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn unpack<L: Lanes>(raw: Raw, out: &mut Unpacked) {
        let d = raw.word::<L>(208).half();
        for j in 0..16 {
            // A signed byte.
            let scale = bits(raw.word::<L>(192 + j / 4 * 4), j as u32 % 4 * 8, 8);
            let scale = scale.xor(L::splat(128)).sub(L::splat(128));
            out.scale(j, scale.float().mul_float(d));
        }
        for half in 0..2 {
            for i in 0..8 {
                // Four runs of 32 share 64 bytes of nibbles and 32 bytes of upper bits.
                let low = [raw.word::<L>(half * 64 + i * 4), raw.word(half * 64 + 32 + i * 4)];
                let high: L = raw.word(128 + half * 32 + i * 4);
                for run in 0..4 {
                    let nibbles = low[run % 2].shr(run as u32 / 2 * 4).and(L::splat(0x0f0f_0f0f));
                    let upper = high.shr(run as u32 * 2).and(L::splat(0x0303_0303)).shl(4);
                    out.codes(half * 32 + run * 8 + i, nibbles.or(upper));
                }
            }
        }
    }
}
