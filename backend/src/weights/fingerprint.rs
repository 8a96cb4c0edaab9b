//! What tells one model's files from another's.

use sha2::{Digest, Sha256};

/// Pieces of a tensor that are looked at, and their length in bytes.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 4096;
/// Pieces of all tensors together, unless there are more tensors than this.
const MOST_PIECES: usize = 16_384;

/// SHA-256 over headers and small files as they are, and over evenly spread pieces of every tensor. It reads some 64 MiB,
/// however large the model is, and a piece a tensor of models with more than [`MOST_PIECES`] of them.
pub(super) struct Fingerprint {
    hash: Sha256,
    pieces: usize,
}

impl Fingerprint {
    pub fn new(tensors: usize) -> Self {
        Self { hash: Sha256::new(), pieces: (MOST_PIECES / tensors.max(1)).clamp(1, PIECES) }
    }

    /// Bytes that count as a whole.
    pub fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    /// A tensor's bytes.
    pub fn add_pieces(&mut self, bytes: &[u8]) {
        if bytes.len() <= self.pieces * PIECE_BYTES {
            return self.add(bytes);
        }
        let last = bytes.len() - PIECE_BYTES;
        for piece in 0..self.pieces {
            let start = last / (self.pieces - 1).max(1) * piece;
            self.add(&bytes[start..start + PIECE_BYTES]);
        }
    }

    /// Lower-case hex.
    pub fn hex(self) -> String {
        littoral_core::key::hex(&self.hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(tensors: usize, bytes: &[u8]) -> String {
        let mut print = Fingerprint::new(tensors);
        print.add_pieces(bytes);
        print.hex()
    }

    #[test]
    fn beginning_and_end_of_a_tensor_count_and_equal_ones_agree() {
        let bytes = vec![3; 1 << 20];
        for tensors in [0, 1, 1000, 16_384] {
            assert_eq!(print(tensors, &bytes), print(tensors, &bytes));
            let changed = |at: usize| {
                let mut bytes = bytes.clone();
                bytes[at] = 4;
                print(tensors, &bytes)
            };
            assert_ne!(changed(0), print(tensors, &bytes));
            if tensors < 8192 {
                assert_ne!(changed(bytes.len() - PIECE_BYTES), print(tensors, &bytes), "{tensors}");
            }
        }
        let small = [7; 100];
        assert_ne!(print(100_000, &small), print(100_000, &small[1..]));
    }
}
