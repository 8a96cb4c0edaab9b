//! How fast the machine reads memory: a loop that adds up a buffer no cache holds.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::bench::median;

/// All threads together.
const BYTES: usize = 512 << 20;
const PASSES: usize = 5;
const WORD: usize = size_of::<u64>();

/// (threads, bytes a second) for one thread and for each further one up to `threads`.
pub fn measure(threads: usize) -> Vec<(usize, f64)> {
    let buffer: Vec<u64> = (0..BYTES / WORD).map(|i| i as u64).collect();
    (1..=threads).map(|threads| (threads, median((0..PASSES).map(|_| read(&buffer, threads))))).collect()
}

/// Bytes a second of one pass over the buffer, each thread over its own part.
fn read(buffer: &[u64], threads: usize) -> f64 {
    let start = Barrier::new(threads + 1);
    let began = thread::scope(|scope| {
        for part in buffer.chunks(buffer.len().div_ceil(threads)) {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                black_box(sum(part));
            });
        }
        start.wait();
        Instant::now()
    });
    (buffer.len() * WORD) as f64 / began.elapsed().as_secs_f64()
}

/// Several sums at once, so that memory and not the adder is waited for.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 16];
    for chunk in words.chunks_exact(sums.len()) {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}
