//! Where the prefixes begin that the cache holds, the latest used first: what a node says of its cache in its load report.

use std::collections::BTreeMap;

use super::{
    Pool,
    prefix::{ByKey, Key},
};

/// Roots that are told at most.
pub const ROOTS: usize = 128;

/// The first blocks of prefixes, by their last use.
#[derive(Debug, Default)]
pub struct Roots {
    uses: u64,
    last: ByKey<u64>,
    order: BTreeMap<u64, Key>,
}

impl Roots {
    /// A sequence computed this block, or began with it.
    pub fn used(&mut self, key: Key) {
        self.uses += 1;
        if let Some(before) = self.last.insert(key, self.uses) {
            self.order.remove(&before);
        }
        self.order.insert(self.uses, key);
        if self.order.len() > ROOTS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
    }

    /// Changes whenever [`Self::held`] may have.
    pub fn version(&self, pool: &Pool) -> (u64, u64) {
        (self.uses, pool.evicted())
    }

    /// Those that the pool still holds, the latest used first, each as the first 64 bits of its key.
    pub fn held(&self, pool: &Pool) -> Vec<u64> {
        let held = |key: &&Key| pool.find(std::slice::from_ref(*key)).0 == 1;
        self.order.values().rev().filter(held).map(|key| key.short()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key::scope("t", None).next(&[n])
    }

    #[test]
    fn the_latest_used_comes_first_and_what_is_given_away_is_gone() {
        let (mut roots, mut pool) = (Roots::default(), Pool::new(3));
        for n in 0..3 {
            let block = pool.take(None).unwrap();
            pool.seal(block, key(n));
            roots.used(key(n));
            pool.release(block);
        }
        roots.used(key(0));
        assert_eq!(roots.held(&pool), [0, 2, 1].map(|n| key(n).short()));
        let version = roots.version(&pool);
        pool.take(None);
        assert_eq!(roots.held(&pool), [2, 1].map(|n| key(n).short()));
        assert_ne!(roots.version(&pool), version);
    }

    #[test]
    fn they_are_bounded() {
        let (mut roots, mut pool) = (Roots::default(), Pool::new(2 * ROOTS));
        for n in 0..2 * ROOTS as u32 {
            let block = pool.take(None).unwrap();
            pool.seal(block, key(n));
            roots.used(key(n));
        }
        let held = roots.held(&pool);
        assert_eq!((held.len(), held[0]), (ROOTS, key(2 * ROOTS as u32 - 1).short()));
        assert_eq!(roots.last.len(), ROOTS);
    }
}
