//! Intended times, and a clock that keeps them: the runtime's own timer counts milliseconds.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Times at equal distances.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    interval: Duration,
    count: u32,
}

impl Pace {
    /// `rate` times a second from `began` on.
    pub fn new(began: Instant, rate: f64) -> Self {
        Self { began, interval: Duration::from_secs_f64(1.0 / rate), count: 0 }
    }

    /// The next time, which may be past.
    pub fn next(&mut self) -> Instant {
        let due = self.began + self.interval * self.count;
        self.count += 1;
        due
    }
}

/// Waits for a time, to some microseconds; returns at once when it is past.
pub async fn until(due: Instant) -> io::Result<()> {
    let left = due.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(());
    }
    // SAFETY: the descriptor is owned by what registers it, and nobody else ever gets it.
    let timer = unsafe { AsyncFd::register_with_interest(timer(left)?, Interest::READABLE)? };
    timer.readable().await?.retain_ready();
    Ok(())
}

/// A descriptor that becomes readable after `left`.
fn timer(left: Duration) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let value = libc::timespec { tv_sec: left.as_secs() as libc::time_t, tv_nsec: left.subsec_nanos().into() };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    // SAFETY: `once` outlives the call, and no old value is asked for.
    match unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) } {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_thousand_a_second_are_a_millisecond_apart() {
        let began = Instant::now();
        let mut pace = Pace::new(began, 1000.0);
        let times: Vec<_> = (0..3).map(|_| (pace.next() - began).as_micros()).collect();
        assert_eq!(times, [0, 1000, 2000]);
    }

    #[tokio::test]
    async fn the_clock_keeps_times_the_runtime_cannot() {
        let began = Instant::now();
        for _ in 0..20 {
            until(Instant::now() + Duration::from_micros(100)).await.unwrap();
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(2), "{took:?}");
    }
}
