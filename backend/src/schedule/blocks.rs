//! Who owns which block of the KV cache, and which blocks hold something that can be used again.
//!
//! A block is free, owned by one or more sequences, or kept: nobody owns it, but what it holds is known by its key, and
//! a sequence that begins alike takes it over. Kept blocks are given away when nothing else is free, the one that lay
//! unused longest first. A block with more than one owner is full and never written again.

use std::collections::{BTreeMap, BTreeSet};

use super::prefix::{ByKey, Key};

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    owners: u32,
    /// Names the content, once it is complete.
    key: Option<Key>,
    /// When it was kept; its place in `kept`.
    since: u64,
}

/// The blocks of the cache, `0..total`.
#[derive(Debug)]
pub struct Pool {
    blocks: Vec<Block>,
    free: BTreeSet<u32>,
    /// By the time they were kept.
    kept: BTreeMap<u64, u32>,
    by_key: ByKey<u32>,
    time: u64,
    evicted: u64,
}

impl Pool {
    /// `total` blocks, all free.
    pub fn new(total: usize) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); total as usize],
            free: (0..total).collect(),
            kept: BTreeMap::new(),
            by_key: ByKey::default(),
            time: 0,
            evicted: 0,
        }
    }

    /// A block to write to, its owner one sequence; None while every block has an owner. The neighbour of `after` if it
    /// is free, because models read neighbouring blocks faster.
    pub fn take(&mut self, after: Option<u32>) -> Option<u32> {
        if let Some(block) = self.take_free(after) {
            return Some(block);
        }
        let (_, block) = self.kept.pop_first()?;
        self.evicted += 1;
        if let Some(key) = self.blocks[block as usize].key.take() {
            self.by_key.remove(&key);
        }
        self.blocks[block as usize].owners = 1;
        Some(block)
    }

    /// As [`Self::take`], but nothing that is kept is given away.
    pub fn take_free(&mut self, after: Option<u32>) -> Option<u32> {
        let neighbour = after.map(|b| b + 1).filter(|b| self.free.contains(b));
        let block = neighbour.or_else(|| self.free.first().copied())?;
        self.free.remove(&block);
        self.blocks[block as usize].owners = 1;
        Some(block)
    }

    /// How many of these keys, from the first on, are known; and how many of those blocks nobody owns now.
    pub fn find(&self, keys: &[Key]) -> (usize, usize) {
        let known = keys.iter().map_while(|key| self.by_key.get(key));
        known.fold((0, 0), |(all, kept), block| (all + 1, kept + usize::from(self.blocks[*block as usize].owners == 0)))
    }

    /// Another owner for the block of this key; None when it is not known.
    pub fn share(&mut self, key: &Key) -> Option<u32> {
        let number = *self.by_key.get(key)?;
        let block = &mut self.blocks[number as usize];
        if block.owners == 0 {
            self.kept.remove(&block.since);
        }
        block.owners += 1;
        Some(number)
    }

    /// The block is full: from now on it is found by `key`, unless another block with this content is already.
    pub fn seal(&mut self, block: u32, key: Key) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.by_key.entry(key) {
            place.insert(block);
            self.blocks[block as usize].key = Some(key);
        }
    }

    /// One owner less. A block that no one owns any more is kept if its content has a key, free otherwise.
    pub fn release(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        debug_assert!(block.owners > 0, "block {number} is released by someone who does not own it");
        block.owners = block.owners.saturating_sub(1);
        if block.owners > 0 {
            return;
        }
        if block.key.is_none() {
            self.free.insert(number);
            return;
        }
        self.time += 1;
        block.since = self.time;
        self.kept.insert(self.time, number);
    }

    /// Blocks that can be taken: free or kept.
    pub fn available(&self) -> usize {
        self.free.len() + self.kept.len()
    }

    /// Blocks with an owner.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Blocks without an owner whose content is known.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Kept blocks that were given away since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    #[cfg(test)]
    pub(super) fn owners(&self, block: u32) -> u32 {
        self.blocks[block as usize].owners
    }

    /// Checks that every block is in one state only and is found by its own key.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        let mut keyed = 0;
        for (number, block) in (0u32..).zip(&self.blocks) {
            let kept = self.kept.get(&block.since) == Some(&number);
            let states = [block.owners > 0, self.free.contains(&number), kept && block.owners == 0];
            assert_eq!(states.iter().filter(|s| **s).count(), 1, "block {number}: {block:?}");
            assert!(!self.free.contains(&number) || block.key.is_none(), "a free block has a key");
            if let Some(key) = block.key {
                assert_eq!(self.by_key.get(&key), Some(&number));
                keyed += 1;
            }
        }
        assert_eq!(keyed, self.by_key.len(), "a key without its block");
        assert_eq!(self.free.len() + self.kept.len() + self.used(), self.total());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key::scope("t", None).next(&[n])
    }

    #[test]
    fn neighbours_are_preferred() {
        let mut pool = Pool::new(6);
        let a = pool.take(None).unwrap();
        let b = pool.take(None).unwrap();
        assert_eq!((a, b, pool.take(Some(b)), pool.take(Some(a))), (0, 1, Some(2), Some(3)));
        pool.audit();
    }

    #[test]
    fn what_was_sealed_is_found_shared_and_kept_until_the_last_owner_goes() {
        let mut pool = Pool::new(3);
        let block = pool.take(None).unwrap();
        assert_eq!(pool.share(&key(1)), None);
        pool.seal(block, key(1));
        assert_eq!(pool.share(&key(1)), Some(block));
        assert_eq!(pool.owners(block), 2);
        pool.release(block);
        assert_eq!((pool.used(), pool.kept(), pool.find(&[key(1), key(2)])), (1, 0, (1, 0)));
        pool.release(block);
        assert_eq!((pool.used(), pool.kept(), pool.available()), (0, 1, 3));
        assert_eq!(pool.find(&[key(1)]), (1, 1));
        assert_eq!(pool.share(&key(1)), Some(block));
        pool.audit();
    }

    #[test]
    fn two_blocks_of_one_content_have_one_key() {
        let mut pool = Pool::new(2);
        let (a, b) = (pool.take(None).unwrap(), pool.take(None).unwrap());
        pool.seal(a, key(1));
        pool.seal(b, key(1));
        pool.release(b);
        assert_eq!(pool.kept(), 0);
        pool.release(a);
        assert_eq!(pool.kept(), 1);
        pool.audit();
    }

    #[test]
    fn the_oldest_kept_block_goes_first_and_its_key_with_it() {
        let mut pool = Pool::new(2);
        for n in [1, 2] {
            let block = pool.take(None).unwrap();
            pool.seal(block, key(n));
        }
        pool.release(1);
        pool.release(0);
        assert_eq!(pool.take(None), Some(1));
        assert_eq!((pool.find(&[key(2)]), pool.find(&[key(1)]), pool.evicted()), ((0, 0), (1, 1), 1));
        assert_eq!(pool.take(None), Some(0));
        assert_eq!(pool.take(None), None);
        pool.audit();
    }
}
