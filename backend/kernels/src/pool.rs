//! Threads for work of a few microseconds: workers spin for a short while before they sleep, and the caller computes
//! with them.
//!
//! A call is cut into parts that are claimed one by one, so a core that is busy with another program costs at most the
//! part it holds. The caller waits for claimed parts only, never for a worker that is asleep.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    /// Parts of the current job that nobody has claimed.
    unclaimed: Alone<AtomicUsize>,
    /// Parts of the current job that are not done.
    undone: Alone<AtomicUsize>,
    job: UnsafeCell<Job>,
    /// Whether a caller owns the workers.
    busy: AtomicBool,
    stop: AtomicBool,
    /// Whether a part has panicked; the parts after it are skipped.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<Alone<AtomicBool>>,
}

struct Job {
    task: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

// SAFETY: `job` is the only field that is not `Sync`. It is written by the owner of `busy` while no part is undone, and
// read only by the holder of a claimed part, which is undone until after the read. The claim acquires what the store to
// `unclaimed` released.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is followed only while `run`, which borrows the task, waits.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads; 0 counts as 1. The caller is one of them, so `threads - 1` are started, or fewer if
    /// the system refuses.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            unclaimed: Alone(AtomicUsize::new(0)),
            undone: Alone(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { task: &|_: usize| (), parts: 0 }),
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
        if parts <= 1 || self.workers.is_empty() || shared.busy.swap(true, Ordering::Acquire) {
            (0..parts).for_each(task);
            return;
        }
        let task: *const (dyn Fn(usize) + Sync + '_) = &task;
        // SAFETY: only the lifetime changes. The pointer is followed for claimed parts alone, and this call does not
        // return, or unwind, before all are done.
        let task =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: this thread owns `busy`, and no part is undone: nobody reads.
        unsafe { *shared.job.get() = Job { task, parts } };
        shared.undone.0.store(parts, Ordering::Relaxed);
        shared.unclaimed.0.store(parts, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(parts - 1) {
            if asleep.0.load(Ordering::SeqCst) && asleep.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.help();
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
    fn help(&self) {
        let mut left = self.unclaimed.0.load(Ordering::Relaxed);
        while left > 0 {
            if let Err(now) =
                self.unclaimed.0.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed)
            {
                left = now;
                continue;
            }
            if !self.failed.load(Ordering::Relaxed) {
                // SAFETY: see `Sync`: the part just claimed keeps the job in place, and `run` keeps the task alive.
                let (task, part) = unsafe {
                    let job = &*self.job.get();
                    (&*job.task, job.parts - left)
                };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(part))) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    self.failed.store(true, Ordering::Relaxed);
                }
            }
            self.undone.0.fetch_sub(1, Ordering::Release);
            left = self.unclaimed.0.load(Ordering::Relaxed);
        }
    }

    fn work(&self, index: usize) {
        let asleep = &self.asleep[index].0;
        while !self.stop.load(Ordering::SeqCst) {
            self.help();
            if self.awaited(Instant::now() + SPIN) {
                continue;
            }
            asleep.store(true, Ordering::SeqCst);
            if self.unclaimed.0.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Whether there is work before `deadline`.
    fn awaited(&self, deadline: Instant) -> bool {
        loop {
            for _ in 0..32 {
                if self.unclaimed.0.load(Ordering::Relaxed) > 0 {
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
