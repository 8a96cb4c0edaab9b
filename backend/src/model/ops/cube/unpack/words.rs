//! Bytes of a buffer of little-endian words.

use cubecl::prelude::*;

use super::{EIGHT, Packed, Row, number::f16};

/// A byte of the weights.
#[derive(CubeType, Clone, Copy)]
pub struct Place {
    pub word: usize,
    /// Byte of the word, 0 to 3.
    pub byte: usize,
}

/// The block of an eight, and which eight of the block it is.
#[cube]
pub fn block_of(row: &Row, eight: usize, #[comptime] packed: Packed) -> (Place, usize) {
    let eights = comptime!(packed.eights());
    let block = comptime!(packed.format.block());
    let blocks = row.cols.div_ceil(block);
    let at = place(row.index * blocks + eight / eights, comptime!(packed.format.block_bytes()));
    (at, eight % eights)
}

/// Where the `index`th block begins. Bytes are not counted as such: there may be more than 2^32.
#[cube]
pub fn place(index: usize, #[comptime] bytes: usize) -> Place {
    let rest = index * comptime!(bytes % 4);
    Place { word: index * comptime!(bytes / 4) + rest / 4, byte: rest % 4 }
}

/// Where an eight of a row of 16-bit numbers begins.
#[cube]
pub fn halves_of(row: &Row, eight: usize) -> Place {
    let rest = row.index * (row.cols % 2);
    Place { word: row.index * (row.cols / 2) + rest / 2 + eight * comptime!(EIGHT / 2), byte: rest % 2 * 2 }
}

/// The word `skip` words and `byte` bytes after a place.
#[cube]
pub fn word(words: &[u32], at: &Place, skip: usize, #[comptime] byte: usize, #[comptime] packed: Packed) -> u32 {
    let index = at.word + skip + comptime!(byte / 4);
    if comptime!(packed.aligned && byte.is_multiple_of(4)) {
        plain(words, index, packed)
    } else {
        let byte = at.byte + comptime!(byte % 4);
        let index = index + byte / 4;
        let shift = u32::cast_from(byte % 4 * 8);
        let last = words.len() - 1;
        // The next word has nothing to give to an aligned one, and may not exist.
        let next = words[min(index + 1, last)];
        (plain(words, index, packed) >> shift) | ((next << 1) << (31 - shift))
    }
}

/// A word of the buffer; its last one instead of those after the end.
#[cube]
pub fn plain(words: &[u32], index: usize, #[comptime] packed: Packed) -> u32 {
    if comptime!(packed.inside) { words[index] } else { words[min(index, words.len() - 1)] }
}

/// The byte `skip` bytes after a place.
#[cube]
pub fn byte(words: &[u32], at: &Place, skip: usize) -> u32 {
    let byte = at.byte + skip;
    (words[at.word + byte / 4] >> u32::cast_from(byte % 4 * 8)) & 0xff
}

/// The binary16 `byte` bytes after a place; both are even.
#[cube]
pub fn half(words: &[u32], at: &Place, #[comptime] byte: usize) -> f32 {
    let byte = at.byte + byte;
    f16((words[at.word + byte / 4] >> u32::cast_from(byte % 4 * 8)) & 0xffff)
}
