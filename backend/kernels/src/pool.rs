//! Threads for work of a few microseconds: workers spin for a short while before they sleep, and the caller computes
//! with them.
//!
//! A call is cut into parts. A thread without any takes half of what another has left and does them in order, so that it
//! reads memory in order, and a core that is busy with another program costs at most the part it holds. The caller waits
//! for parts that were begun only, never for a worker that is asleep.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker without work looks for some before it sleeps: longer than what lies between two kernels of a step.
const SPIN: Duration = Duration::from_micros(50);

/// A number of threads, the caller's included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A value alone on its cache lines.
#[repr(align(128))]
struct Alone<T>(T);

struct Shared {
    /// Parts of the current job that nobody has claimed, by thread; the caller is the first.
    ranges: Vec<Alone<AtomicU64>>,
    /// Parts of the current job that are not done.
    undone: Alone<AtomicUsize>,
    /// Jobs begun.
    jobs: Alone<AtomicUsize>,
    job: UnsafeCell<Job>,
    /// Whether a caller owns the workers.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Whether a part has panicked; the parts after it are skipped.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<Alone<AtomicBool>>,
}

type Job = *const (dyn Fn(usize) + Sync);

/// Parts `begin..end`, in one word.
#[derive(Clone, Copy)]
struct Parts {
    begin: u32,
    end: u32,
}

impl Parts {
    fn pack(self) -> u64 {
        u64::from(self.begin) << 32 | u64::from(self.end)
    }

    fn unpack(word: u64) -> Self {
        Self { begin: (word >> 32) as u32, end: word as u32 }
    }

    fn left(self) -> u32 {
        self.end.saturating_sub(self.begin)
    }
}

// SAFETY: `job` is the only field that is not `Sync`. It is written by the owner of `busy` while no part is undone, and
// read only by the holder of a claimed part, which is undone until after the read. The claim acquires what the store to
// `ranges` released.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only while `run`, which borrows the task, waits.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads; 0 counts as 1. The caller is one of them, so `threads - 1` are started, or fewer if
    /// the system refuses.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            ranges: (0..threads.max(1)).map(|_| Alone(AtomicU64::new(0))).collect(),
            undone: Alone(AtomicUsize::new(0)),
            jobs: Alone(AtomicUsize::new(0)),
            job: UnsafeCell::new(&|_: usize| ()),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: (1..threads).map(|_| Alone(AtomicBool::new(false))).collect(),
        });
        let start = |index: usize| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("kernels-{index}")).spawn(move || shared.work(index)).ok()
        };
        let workers = (0..threads.saturating_sub(1)).map_while(start).collect();
        Self { shared, workers }
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` with each number below `parts`, on any thread and in any order, and returns when all are done. A
    /// call from within a task, or while another thread's call runs, does its parts one after the other on its own
    /// thread.
    ///
    /// # Panics
    /// With the panic of a part, if one panics. Parts that had not begun by then are skipped.
    pub fn run(&self, parts: usize, task: impl Fn(usize) + Sync) {
        let shared = &*self.shared;
        let countable = u32::try_from(parts).is_ok();
        if parts <= 1 || self.workers.is_empty() || !countable || shared.busy.swap(true, Ordering::Acquire) {
            (0..parts).for_each(task);
            return;
        }
        let task: *const (dyn Fn(usize) + Sync + '_) = &task;
        // SAFETY: only the lifetime changes. The pointer is followed for claimed parts alone, and this call does not
        // return, or unwind, before all are done.
        let task = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(task) };
        // SAFETY: this thread owns `busy`, and no part is undone: nobody reads.
        unsafe { *shared.job.get() = task };
        shared.undone.0.store(parts, Ordering::Relaxed);
        // A range is written by its own thread alone; the others cut pieces off.
        shared.ranges[0].0.store(Parts { begin: 0, end: parts as u32 }.pack(), Ordering::Release);
        shared.jobs.0.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(parts - 1) {
            if asleep.0.load(Ordering::SeqCst) && asleep.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.help(0);
        let mut waits = 0u32;
        while shared.undone.0.load(Ordering::Acquire) != 0 {
            waits += 1;
            if waits.is_multiple_of(1024) { thread::yield_now() } else { spin_loop() }
        }
        let panic = if shared.failed.swap(false, Ordering::Relaxed) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
        } else {
            None
        };
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks; it has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Does parts of the current job until none is unclaimed.
    fn help(&self, thread: usize) {
        let mut done = 0;
        while let Some(part) = self.claim(thread).or_else(|| self.take_over(thread)) {
            if !self.failed.load(Ordering::Relaxed) {
                // SAFETY: see `Sync`: the part just claimed keeps the job in place, and `run` keeps the task alive.
                let task = unsafe { &**self.job.get() };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(part))) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            done += 1;
        }
        if done > 0 {
            self.undone.0.fetch_sub(done, Ordering::Release);
        }
    }

    /// Claims the first part of a thread's own range.
    fn claim(&self, thread: usize) -> Option<usize> {
        let range = &self.ranges[thread].0;
        let mut now = range.load(Ordering::Relaxed);
        loop {
            let parts = Parts::unpack(now);
            if parts.left() == 0 {
                return None;
            }
            let rest = Parts { begin: parts.begin + 1, ..parts };
            match range.compare_exchange_weak(now, rest.pack(), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(parts.begin as usize),
                Err(other) => now = other,
            }
        }
    }

    /// Claims the second half of what another thread has left: its first part for now, the rest as a range of its own.
    fn take_over(&self, thread: usize) -> Option<usize> {
        let others = (1..self.ranges.len()).map(|step| (thread + step) % self.ranges.len());
        for other in others {
            let range = &self.ranges[other].0;
            let mut now = range.load(Ordering::Relaxed);
            loop {
                let parts = Parts::unpack(now);
                if parts.left() == 0 {
                    break;
                }
                let half = parts.end - parts.left().div_ceil(2);
                let rest = Parts { end: half, ..parts };
                match range.compare_exchange_weak(now, rest.pack(), Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => {
                        let own = Parts { begin: half + 1, end: parts.end };
                        self.ranges[thread].0.store(own.pack(), Ordering::Release);
                        return Some(half as usize);
                    }
                    Err(other) => now = other,
                }
            }
        }
        None
    }

    fn work(&self, index: usize) {
        let asleep = &self.asleep[index].0;
        let mut seen = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let jobs = self.jobs.0.load(Ordering::Acquire);
            if jobs != seen {
                seen = jobs;
                self.help(index + 1);
            }
            if self.awaited(seen, Instant::now() + SPIN) {
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            if self.jobs.0.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Whether there is another job than those `seen` before `deadline`.
    fn awaited(&self, seen: usize, deadline: Instant) -> bool {
        loop {
            for _ in 0..32 {
                if self.jobs.0.load(Ordering::Relaxed) != seen {
                    return true;
                }
                spin_loop();
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }
}

/// Calls `task` with each number below `parts` on the threads that kernels use; see [`Pool::run`].
pub fn run(parts: usize, task: impl Fn(usize) + Sync) {
    crate::Cpu::with(|cpu| cpu.pool.run(parts, task));
}
