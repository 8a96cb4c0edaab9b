//! One slice written by several threads.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that is handed out in pieces. That no two pieces overlap is for the code to see to, since threads
/// write columns of a matrix that lie between each other.
pub(crate) struct Cells<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: as a `&mut [T]` that is cut up: each piece has one user.
unsafe impl<T: Send> Sync for Cells<'_, T> {}

impl<'a, T> Cells<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// A piece.
    ///
    /// # Safety
    /// While it lives, nobody else has a piece with one of its elements.
    ///
    /// # Panics
    /// If the slice ends before `range` does.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that pieces do not overlap")]
    #[inline(always)]
    pub unsafe fn piece(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        // SAFETY: the range lies in the slice, which is borrowed for as long as `self`, and is this user's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
