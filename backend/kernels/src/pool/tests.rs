//! Every part once, whoever calls and whatever goes wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use super::Pool;

/// How often each part is done.
fn counted(pool: &Pool, parts: usize) -> Vec<usize> {
    let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
    pool.run(parts, |part| _ = counts[part].fetch_add(1, Ordering::Relaxed));
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn parts_are_done_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for round in 0..2000 {
            let parts = round % 23;
            assert_eq!(counted(&pool, parts), vec![1; parts], "{threads} threads");
        }
    }
}

#[test]
fn workers_that_sleep_are_woken() {
    let pool = Pool::new(2);
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(2));
        // Two parts that meet can only be done by two threads.
        let meeting = Barrier::new(2);
        pool.run(2, |_| _ = meeting.wait());
    }
}

#[test]
fn a_panic_of_a_part_is_the_callers() {
    let pool = Pool::new(3);
    for wrong in 0..8 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, |part| assert!(part != wrong, "part {part} went wrong"));
        }));
        let message = caught.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(*message, format!("part {wrong} went wrong"));
        assert_eq!(counted(&pool, 50), vec![1; 50]);
    }
}

#[test]
fn a_panic_of_a_worker_is_the_callers_too() {
    let pool = Pool::new(2);
    let caller = thread::current().id();
    let meeting = Barrier::new(2);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        pool.run(2, |_| {
            meeting.wait();
            assert_eq!(thread::current().id(), caller);
        });
    }));
    assert!(caught.is_err());
    assert_eq!(counted(&pool, 50), vec![1; 50]);
}

#[test]
fn a_part_may_call_again() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    pool.run(10, |outer| {
        pool.run(10, |inner| _ = sum.fetch_add(outer * 10 + inner, Ordering::Relaxed));
    });
    assert_eq!(sum.into_inner(), (0..100).sum());
}

#[test]
fn threads_may_call_at_once() {
    let pool = Pool::new(3);
    let done = Mutex::new(0);
    thread::scope(|scope| {
        for caller in 0..4 {
            let (pool, done) = (&pool, &done);
            scope.spawn(move || {
                for round in 0..500 {
                    let parts = (round + caller) % 9;
                    assert_eq!(counted(pool, parts), vec![1; parts]);
                }
                *done.lock().unwrap() += 1;
            });
        }
    });
    assert_eq!(done.into_inner().unwrap(), 4);
}
