//! Signatures that were found good: a token that comes again costs a digest in place of a signature.
//!
//! Only that the signature holds is remembered. Whether the token has expired or was revoked is decided every time.

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;

use super::verify;

/// Tokens that are remembered.
const MOST: u64 = 100_000;

/// See the module.
pub struct Remembered(Cache<[u8; 32], ()>);

impl Default for Remembered {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Remembered {
    /// Whether the holder of `key` signed `message`.
    pub fn verify(&self, algorithm: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let mut digest = Context::new(&SHA256);
        for part in [algorithm.as_bytes(), key, message, signature] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let Ok(name) = <[u8; 32]>::try_from(digest.finish().as_ref()) else { return false };
        if self.0.contains_key(&name) {
            return true;
        }
        let good = verify::verify(algorithm, key, message, signature);
        if good {
            self.0.insert(name, ());
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn what_is_remembered_is_exactly_what_was_verified() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let (key, signature) = (pair.public_key().as_ref(), pair.sign(b"message"));
        let remembered = Remembered::default();
        for _ in 0..2 {
            assert!(remembered.verify("EdDSA", key, b"message", signature.as_ref()));
            // The same bytes, cut elsewhere or called otherwise, are another question.
            assert!(!remembered.verify("EdDS", key, b"message", signature.as_ref()));
            assert!(!remembered.verify("EdDSA", key, b"messag", signature.as_ref()));
            assert!(!remembered.verify("EdDSA", key, b"message", &signature.as_ref()[1..]));
            assert!(!remembered.verify("EdDSA", &[0; 32], b"message", signature.as_ref()));
        }
    }
}
