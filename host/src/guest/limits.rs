//! What a guest may use: CPU time of its thread, and linear memory.

use std::time::Duration;

use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};

use super::GuestConfig;

/// How often running guests are looked at.
pub const TICK: Duration = Duration::from_millis(5);
/// CPU time of a decision, and what each MiB of body adds to it.
const CPU: Duration = Duration::from_millis(20);
const CPU_PER_MIB: Duration = Duration::from_millis(15);

/// A guest used up its CPU time.
#[derive(Debug, thiserror::Error)]
#[error("the guest used more than {} ms of CPU time", .0.as_millis())]
pub struct Overrun(pub Duration);

/// The CPU time one call may still use, measured on the thread that runs it: a busy machine cuts nobody off.
///
/// The clock, a system call, is first read at the first tick a call sees, which few do: what it used before, at most the
/// time between two ticks, comes on top of what is granted.
#[derive(Default, Clone, Copy)]
pub struct CpuBudget {
    granted: Duration,
    until: Option<Duration>,
}

impl CpuBudget {
    /// A budget for a call whose body has `body` bytes.
    pub fn new(body: usize) -> Self {
        Self { granted: CPU + CPU_PER_MIB * body.div_ceil(1 << 20) as u32, until: None }
    }

    fn tick(&mut self) -> Result<(), Overrun> {
        let now = thread_cpu_time();
        let until = *self.until.get_or_insert(now + self.granted);
        if now > until { Err(Overrun(self.granted)) } else { Ok(()) }
    }
}

/// Ends a synchronous call at the first tick after its budget is used up.
pub fn bound_cpu<T: 'static>(store: &mut Store<T>, budget: impl Fn(&mut T) -> &mut CpuBudget + Send + Sync + 'static) {
    store.epoch_deadline_callback(move |mut context| {
        budget(context.data_mut()).tick()?;
        Ok(UpdateDeadline::Continue(1))
    });
}

/// Linear memory of one instance; a guest that asks for more is told no, and aborts.
pub fn memory(config: &GuestConfig) -> StoreLimits {
    StoreLimitsBuilder::new().memory_size(config.memory_bytes()).memories(8).tables(32).instances(64).build()
}

/// CPU time this thread has used (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec; the clock exists on every Linux and macOS.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
