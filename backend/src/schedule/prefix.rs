//! Names of blocks by what they hold: a block's key follows from its scope and every token from the first to its last.

use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};

/// 128 bits of SHA-256, so that nobody can craft a prompt whose blocks are found under the key of another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u128);

impl Key {
    /// The root of a scope. Nothing is shared between two scopes: a tenant, and within it a user where one is named.
    pub fn scope(tenant: &str, user: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        for part in [Some(tenant), user] {
            // Lengths keep ("a", "bc") and ("ab", "c") apart; a user without a name is not one whose name is empty.
            hash.update(part.map_or(u64::MAX, |p| p.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        Self::of(hash)
    }

    /// The key of the block of `tokens` that follows the block of this key.
    pub fn next(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.to_le_bytes());
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        Self::of(hash)
    }

    /// Its first 64 bits.
    pub fn short(self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn of(hash: Sha256) -> Self {
        let digest = hash.finalize();
        Self(digest[..16].iter().fold(0, |n, b| n << 8 | u128::from(*b)))
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Keys are digests: they need no hashing again.
#[derive(Debug, Default, Clone, Copy)]
pub struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0 << 8 | u64::from(*b));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// A map from keys.
pub type ByKey<T> = std::collections::HashMap<Key, T, BuildHasherDefault<Taken>>;

/// The keys of a sequence's full blocks, from the first on. They grow with the sequence.
#[derive(Debug, Clone)]
pub struct Prefix {
    scope: Key,
    asker: Key,
    keys: Vec<Key>,
}

impl Prefix {
    /// The keys of all full blocks of `tokens`; its scope asks for it, as long as nobody else is named.
    pub fn of(scope: Key, tokens: &[u32], block_tokens: usize) -> Self {
        let mut prefix = Self { scope, asker: scope, keys: Vec::with_capacity(tokens.len() / block_tokens) };
        prefix.extend(tokens, block_tokens);
        prefix
    }

    /// Adds the keys of the blocks that `tokens`, the whole sequence, has filled since.
    pub fn extend(&mut self, tokens: &[u32], block_tokens: usize) {
        for block in tokens.chunks_exact(block_tokens).skip(self.keys.len()) {
            self.keys.push(self.keys.last().unwrap_or(&self.scope).next(block));
        }
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The same, asked for by another than its scope: one of several users who share a prefix.
    pub fn asked_by(self, asker: Key) -> Self {
        Self { asker, ..self }
    }

    /// Who asks: slots are shared evenly between askers.
    pub fn asker(&self) -> Key {
        self.asker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_differ_by_tenant_and_user() {
        let scopes = [
            Key::scope("a", None),
            Key::scope("a", Some("")),
            Key::scope("a", Some("b")),
            Key::scope("ab", None),
            Key::scope("", Some("ab")),
        ];
        for (i, a) in scopes.iter().enumerate() {
            assert!(scopes[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn a_key_depends_on_every_token_before_it_and_on_the_scope() {
        let scope = Key::scope("t", None);
        let whole = Prefix::of(scope, &[1, 2, 3, 4, 5, 6, 7], 2);
        assert_eq!(whole.keys().len(), 3);
        let other = Prefix::of(scope, &[9, 2, 3, 4, 5, 6], 2);
        assert!(whole.keys().iter().zip(other.keys()).all(|(a, b)| a != b));
        let tail = Prefix::of(scope, &[1, 2, 3, 4, 0, 6], 2);
        assert_eq!((whole.keys()[1], whole.keys()[2] == tail.keys()[2]), (tail.keys()[1], false));
        assert!(Prefix::of(Key::scope("u", None), &[1, 2], 2).keys()[0] != whole.keys()[0]);
    }

    #[test]
    fn growing_gives_what_the_whole_gives() {
        let tokens: Vec<u32> = (0..50).collect();
        let mut grown = Prefix::of(Key::scope("t", None), &tokens[..7], 4);
        for end in 8..=50 {
            grown.extend(&tokens[..end], 4);
        }
        assert_eq!(grown.keys(), Prefix::of(Key::scope("t", None), &tokens, 4).keys());
    }
}
