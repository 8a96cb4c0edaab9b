//! Where kernels run: a pool of threads and an instruction set.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::thread;

use crate::Level;
use crate::pool::Pool;

/// Threads and an instruction set. [`Cpu::host`] is what kernels use unless [`Cpu::enter`] says otherwise.
pub struct Cpu {
    pub pool: Pool,
    level: Level,
}

/// The process's threads run already, so their number stays.
#[derive(Debug, PartialEq, Eq)]
pub struct AlreadyStarted {
    pub threads: usize,
}

impl std::fmt::Display for AlreadyStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the kernels compute on {} threads already; set their number before the first call", self.threads)
    }
}

impl std::error::Error for AlreadyStarted {}

static HOST: OnceLock<Cpu> = OnceLock::new();

thread_local! {
    static ENTERED: RefCell<Option<Arc<Cpu>>> = const { RefCell::new(None) };
}

impl Cpu {
    /// `threads` threads (the caller's included, at least one) with `level`, or the best below it that this machine has.
    pub fn new(threads: usize, level: Level) -> Self {
        Self { pool: Pool::new(threads), level: level.min(Level::best()) }
    }

    /// The process's own: as many threads as the process may use cores, and the best instructions the machine has.
    pub fn host() -> &'static Self {
        HOST.get_or_init(|| Self::new(thread::available_parallelism().map_or(1, usize::from), Level::best()))
    }

    /// Sets the number of threads of [`Cpu::host`]. It goes before everything that computes.
    pub fn set_threads(threads: usize) -> Result<(), AlreadyStarted> {
        let mut fresh = false;
        let host = HOST.get_or_init(|| {
            fresh = true;
            Self::new(threads, Level::best())
        });
        if fresh { Ok(()) } else { Err(AlreadyStarted { threads: host.pool.threads() }) }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `body` so that the kernels it calls on this thread use `self`.
    pub fn enter<T>(self: &Arc<Self>, body: impl FnOnce() -> T) -> T {
        struct Leave(Option<Arc<Cpu>>);
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.set(self.0.take());
            }
        }
        let _leave = Leave(ENTERED.replace(Some(self.clone())));
        body()
    }

    /// Calls `body` with the [`Cpu`] of this thread.
    pub(crate) fn with<T>(body: impl FnOnce(&Self) -> T) -> T {
        match ENTERED.with_borrow(Clone::clone) {
            Some(entered) => body(&entered),
            None => body(Self::host()),
        }
    }
}
