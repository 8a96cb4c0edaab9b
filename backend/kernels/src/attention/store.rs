//! How keys and values lie in a store, and how they get there.

use crate::Cpu;
use crate::number::{Number, Numbers, NumbersMut};
use crate::simd::{self, LANES, Lanes, Simd, Work};

/// How keys lie in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Slot after slot, as values do: element `d` of head `g` of slot `s` is at `s * k_stride + g * k_dim + d`.
    Rows,
    /// In sixteens of slots, element after element, as they are multiplied with: the same element is at
    /// `(s / 16 * k_stride + g * k_dim + d) * 16 + s % 16`. Blocks are whole sixteens.
    Turned,
}

impl Keys {
    /// Writes rows of `width` elements, the keys (or values) of all heads of a slot each, over those of `slots`.
    ///
    /// # Panics
    /// If there are not as many rows as slots, or the store does not have a slot, or the whole sixteen that it belongs to.
    pub fn write(self, store: NumbersMut, width: usize, slots: &[i32], rows: &[f32]) {
        assert_eq!(rows.len(), slots.len() * width, "keys: rows of {width} for {} slots", slots.len());
        if rows.is_empty() {
            return;
        }
        Cpu::with(|cpu| match store {
            NumbersMut::F32(store) => simd::run(cpu.level(), Write { keys: self, store, width, slots, rows }),
            NumbersMut::F16(store) => simd::run(cpu.level(), Write { keys: self, store, width, slots, rows }),
        });
    }
}

/// Keys and values of all sequences, of one kind. Head `g` of slot `s` has its value at `s * v_stride + g * v_dim`. Both
/// may be the same numbers.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    pub keys: Keys,
    pub k: Numbers<'a>,
    pub k_stride: usize,
    pub v: Numbers<'a>,
    pub v_stride: usize,
}

/// A [`Store`] whose kind of numbers is known.
pub(super) struct Slots<'a, T> {
    pub keys: Keys,
    pub k: &'a [T],
    pub k_stride: usize,
    pub v: &'a [T],
    pub v_stride: usize,
}

struct Write<'a, T> {
    keys: Keys,
    store: &'a mut [T],
    width: usize,
    slots: &'a [i32],
    rows: &'a [f32],
}

impl<T: Number> Work for Write<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { keys, store, width, slots, rows } = self;
        let mut kept = vec![T::default(); width.next_multiple_of(LANES)];
        for (slot, row) in slots.iter().zip(rows.chunks_exact(width)) {
            let (sixteens, rest) = row.as_chunks();
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            for (kept, x) in kept.as_chunks_mut().0.iter_mut().zip(sixteens.iter().chain([&last])) {
                T::write(S::Lanes::load(bytemuck::cast_ref(x)), kept);
            }
            let slot = usize::try_from(*slot).expect("a slot of the store");
            match keys {
                Keys::Rows => store[slot * width..][..width].copy_from_slice(&kept[..width]),
                Keys::Turned => {
                    let sixteen = &mut store[slot / LANES * LANES * width..][..LANES * width];
                    sixteen[slot % LANES..].iter_mut().step_by(LANES).zip(&kept).for_each(|(to, x)| *to = *x);
                }
            }
        }
    }
}
