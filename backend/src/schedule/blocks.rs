//! Who owns which block of the KV cache.
//!
//! A sequence gets the blocks for its whole length when it is admitted: what runs never runs out. They are neighbours
//! whenever there is a gap that is wide enough, because a model reads neighbouring blocks without copying them.

use std::collections::BTreeSet;

/// The blocks of the cache, `0..total`: each free or owned by one lease.
#[derive(Debug)]
pub struct Pool {
    free: BTreeSet<u32>,
    total: usize,
}

/// The blocks one sequence owns. Only [`Pool::give_back`] ends it.
#[derive(Debug)]
#[must_use = "a lease that is dropped loses its blocks"]
pub struct Lease(Vec<u32>);

impl Lease {
    /// The block table: block `i` holds the positions from `i` x block size.
    pub fn blocks(&self) -> &[u32] {
        &self.0
    }
}

impl Pool {
    /// `total` blocks, all free.
    pub fn new(total: usize) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Self { free: (0..total).collect(), total: total as usize }
    }

    /// A lease on `count` blocks; None while others hold too many. They come from the narrowest gap that holds them
    /// all, so that wide gaps stay for long sequences; where there is none, they are the first that are free.
    pub fn lease(&mut self, count: usize) -> Option<Lease> {
        if count > self.free.len() {
            return None;
        }
        let gap = self.gaps().filter(|(_, width)| *width >= count).min_by_key(|(_, width)| *width);
        let blocks: Vec<u32> = match gap {
            Some((first, _)) => (first..).take(count).collect(),
            None => self.free.iter().copied().take(count).collect(),
        };
        for block in &blocks {
            self.free.remove(block);
        }
        Some(Lease(blocks))
    }

    /// Runs of neighbouring free blocks: first block and number.
    fn gaps(&self) -> impl Iterator<Item = (u32, usize)> {
        let mut free = self.free.iter().copied().peekable();
        std::iter::from_fn(move || {
            let first = free.next()?;
            let mut width = 1;
            while free.next_if_eq(&(first + width)).is_some() {
                width += 1;
            }
            Some((first, width as usize))
        })
    }

    /// Ends a lease: its blocks are free.
    pub fn give_back(&mut self, lease: Lease) {
        self.free.extend(lease.0);
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub fn used(&self) -> usize {
        self.total - self.free.len()
    }

    pub fn total(&self) -> usize {
        self.total
    }

    #[cfg(test)]
    pub(super) fn free_blocks(&self) -> impl Iterator<Item = u32> {
        self.free.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_one_run_from_the_narrowest_gap_or_else_what_there_is() {
        let mut pool = Pool::new(12);
        let leases: Vec<Lease> = [2, 1, 3, 1, 5].into_iter().map(|n| pool.lease(n).unwrap()).collect();
        let mut leases = leases.into_iter();
        let mut next = || leases.next().unwrap();
        let (two, _one, three, _other, five) = (next(), next(), next(), next(), next());
        pool.give_back(two);
        pool.give_back(three);
        assert_eq!(pool.gaps().collect::<Vec<_>>(), [(0, 2), (3, 3)]);
        let lease = pool.lease(3).unwrap();
        assert_eq!(lease.blocks(), [3, 4, 5]);
        pool.give_back(lease);
        let lease = pool.lease(4).unwrap();
        assert_eq!(lease.blocks(), [0, 1, 3, 4]);
        assert!(pool.lease(2).is_none());
        pool.give_back(lease);
        pool.give_back(five);
        assert_eq!((pool.free(), pool.used()), (10, 2));
    }
}
