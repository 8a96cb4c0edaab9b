//! The guests' allocator. What a decision allocates is gone when it ends, so memory is handed out from one end of a chunk
//! and the chunk is empty again when the last of it was given back: a few instructions in place of a search.
//!
//! What lives longer keeps one chunk from being emptied and no other. What is large, or finds no chunk, goes to the
//! system's allocator, and bounds are those of linear memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, UnsafeCell},
};

/// Bytes of a chunk.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 4;
/// Larger ones are the system's, bytes.
const LARGEST: usize = CHUNK / 4;

/// See the module. It is for one thread.
pub struct Arena {
    memory: UnsafeCell<Chunks>,
    /// The chunk memory is taken from, and how much of it is taken, bytes.
    current: Cell<usize>,
    taken: Cell<usize>,
    /// Allocations in each chunk.
    live: [Cell<usize>; CHUNKS],
}

#[repr(align(16))]
struct Chunks(
    // Only ever reached through pointers.
    #[allow(dead_code)] [u8; CHUNKS * CHUNK],
);

impl Arena {
    pub const fn empty() -> Self {
        Self {
            memory: UnsafeCell::new(Chunks([0; CHUNKS * CHUNK])),
            current: Cell::new(0),
            taken: Cell::new(0),
            live: [const { Cell::new(0) }; CHUNKS],
        }
    }

    fn base(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    /// Where in the chunks a pointer is; none if it is the system's.
    fn place(&self, pointer: *mut u8) -> Option<usize> {
        let at = (pointer as usize).wrapping_sub(self.base() as usize);
        (at < CHUNKS * CHUNK).then_some(at)
    }

    /// Takes from the current chunk, if it has room.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let start = (self.taken.get() + layout.align() - 1) & !(layout.align() - 1);
        let end = start + layout.size();
        if end > CHUNK {
            return None;
        }
        let chunk = self.current.get();
        self.taken.set(end);
        self.live[chunk].set(self.live[chunk].get() + 1);
        // SAFETY: `start` is within the chunk, and the chunk within the memory.
        Some(unsafe { self.base().add(chunk * CHUNK + start) })
    }

    /// Takes from a chunk that is empty, or from the system.
    #[cold]
    #[inline(never)]
    fn take_elsewhere(&self, layout: Layout) -> *mut u8 {
        // An empty chunk has room for all that is taken from chunks.
        if fits(layout)
            && let Some(empty) = self.live.iter().position(|live| live.get() == 0)
        {
            self.current.set(empty);
            self.taken.set(0);
            if let Some(pointer) = self.take(layout) {
                return pointer;
            }
        }
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }
}

/// Whether it is taken from chunks; what is aligned to more than they are is not.
fn fits(layout: Layout) -> bool {
    layout.size() <= LARGEST && layout.align() <= align_of::<Chunks>()
}

// SAFETY: what `take` gives is within the chunks, aligned, and given to nobody else until its chunk has no allocation
// left; the rest is System's.
unsafe impl GlobalAlloc for Arena {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fits(layout)
            && let Some(pointer) = self.take(layout)
        {
            return pointer;
        }
        self.take_elsewhere(layout)
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(at) = self.place(pointer) else {
            // SAFETY: what is not in the chunks was System's.
            return unsafe { System.dealloc(pointer, layout) };
        };
        let chunk = at / CHUNK;
        let left = self.live[chunk].get() - 1;
        self.live[chunk].set(left);
        if chunk == self.current.get() && left == 0 {
            self.taken.set(0);
        }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(at) = self.place(pointer) else {
            // SAFETY: what is not in the chunks was System's.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        let start = at % CHUNK;
        // The last one that was taken grows where it is.
        let is_last = at / CHUNK == self.current.get() && start + layout.size() == self.taken.get();
        if is_last && start + size <= CHUNK {
            self.taken.set(start + size);
            return pointer;
        }
        if size <= layout.size() {
            return pointer;
        }
        // SAFETY: the caller promises that `size` is a size for this alignment; both places hold what is copied, and the
        // old one is not used again.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(pointer, layout.size());
                self.dealloc(pointer, layout);
            }
            new
        }
    }
}

/// The arena of a component, and how the host takes memory of it for what it hands in.
#[cfg(target_family = "wasm")]
mod component {
    use std::alloc::{Layout, alloc, realloc};

    use super::Arena;

    // SAFETY: a component has one thread.
    unsafe impl Sync for Arena {}

    #[global_allocator]
    static MEMORY: Arena = Arena::empty();

    /// Instead of wasi-libc's, which takes of its own.
    ///
    /// # Safety
    /// Of the canonical ABI: `old` is null, or was given for `old_size` bytes at this alignment.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn cabi_realloc(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
        // SAFETY: alignments of the canonical ABI are powers of two up to 8, and sizes fit the memory.
        let layout = |size| unsafe { Layout::from_size_align_unchecked(size, align) };
        // SAFETY: sizes are not zero here, and the old place is the caller's to give.
        let new = match (old_size, size) {
            (0, 0) => return align as *mut u8,
            (0, _) => unsafe { alloc(layout(size)) },
            _ => unsafe { realloc(old, layout(old_size), size) },
        };
        if new.is_null() {
            core::arch::wasm32::unreachable();
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn what_is_given_back_is_given_out_again() {
        let arena = Box::new(Arena::empty());
        let (a, b) = unsafe { (arena.alloc(layout(100)), arena.alloc(layout(7))) };
        assert!(a as usize + 100 <= b as usize && b as usize % 8 == 0);
        unsafe {
            arena.dealloc(a, layout(100));
            assert!(arena.alloc(layout(8)) > b, "one of the chunk is in use");
            arena.dealloc(b, layout(7));
            arena.dealloc(b.add(8), layout(8));
            assert_eq!(arena.alloc(layout(1)), a, "none is");
        }
    }

    #[test]
    fn the_last_one_grows_where_it_is_and_others_move() {
        let arena = Box::new(Arena::empty());
        unsafe {
            let a = arena.alloc(layout(16));
            a.write_bytes(7, 16);
            let grown = arena.realloc(a, layout(16), 4000);
            assert_eq!(grown, a);
            let b = arena.alloc(layout(16));
            let moved = arena.realloc(grown, layout(4000), 5000);
            assert!(moved > b && *moved == 7 && *moved.add(15) == 7);
            // Beyond what chunks are for.
            let large = arena.realloc(moved, layout(5000), 2 * CHUNK);
            assert!(arena.place(large).is_none() && *large.add(15) == 7);
            arena.dealloc(large, layout(2 * CHUNK));
            arena.dealloc(b, layout(16));
            assert_eq!(arena.live.each_ref().map(Cell::get), [0; CHUNKS]);
        }
    }

    #[test]
    fn what_stays_keeps_one_chunk_and_no_other() {
        let arena = Box::new(Arena::empty());
        unsafe {
            let stays = arena.alloc(layout(32));
            // Each round leaves its chunk empty, but for the one that stays.
            for _ in 0..10 * CHUNKS * CHUNK / 1000 {
                let some = arena.alloc(layout(1000));
                assert!(arena.place(some).is_some());
                arena.dealloc(some, layout(1000));
            }
            assert_eq!(arena.live.each_ref().map(Cell::get).iter().sum::<usize>(), 1);
            arena.dealloc(stays, layout(32));
        }
    }

    #[test]
    fn without_a_chunk_memory_is_the_systems() {
        let arena = Box::new(Arena::empty());
        let (size, mut taken) = (LARGEST, Vec::new());
        while taken.len() < 2 * CHUNKS * CHUNK / size {
            let pointer = unsafe { arena.alloc(layout(size)) };
            unsafe { pointer.write_bytes(taken.len() as u8, size) };
            taken.push(pointer);
        }
        assert!(arena.place(taken[0]).is_some() && arena.place(taken[taken.len() - 1]).is_none());
        for (i, pointer) in taken.iter().enumerate() {
            assert!(unsafe { **pointer } == i as u8 && unsafe { *pointer.add(size - 1) } == i as u8);
            unsafe { arena.dealloc(*pointer, layout(size)) };
        }
    }
}
