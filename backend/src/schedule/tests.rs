//! Chunks, turns, the queue and its blocks; then a long random life.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const LIMITS: Limits = Limits { slots: 4, queue: 6, rows: 24, blocks: 40, block_tokens: 4, context: 100 };

/// Runs one step in which every planned sequence that reaches its end gets a token.
fn step(scheduler: &mut Scheduler) -> Vec<Rows> {
    let plan = scheduler.plan(|_| true);
    plan.iter().for_each(|rows| scheduler.advance(rows, rows.last));
    plan
}

fn rows(id: Id, start: usize, count: usize, last: bool) -> Rows {
    Rows { id, start, count, last }
}

#[test]
fn a_prompt_is_read_in_chunks_and_then_gives_one_token_a_step() {
    let mut scheduler = Scheduler::new(LIMITS);
    assert_eq!(scheduler.submit(1, 50, 10), Ok(Placed::Running));
    assert_eq!(scheduler.blocks(1).len(), 15);
    assert_eq!(step(&mut scheduler), [rows(1, 0, 24, false)]);
    assert_eq!(step(&mut scheduler), [rows(1, 24, 24, false)]);
    assert_eq!(step(&mut scheduler), [rows(1, 48, 2, true)]);
    assert_eq!(step(&mut scheduler), [rows(1, 50, 1, true)]);
}

#[test]
fn generating_comes_first_and_prompts_share_what_is_left() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(1, 3, 20).unwrap();
    step(&mut scheduler);
    scheduler.submit(2, 40, 5).unwrap();
    scheduler.submit(3, 5, 5).unwrap();
    // One row for the sequence that generates, the short prompt whole, the rest of the 24 rows for the long one.
    assert_eq!(step(&mut scheduler), [rows(1, 3, 1, true), rows(3, 0, 5, true), rows(2, 0, 18, false)]);
}

#[test]
fn two_sequences_take_turns_token_by_token() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(1, 2, 9).unwrap();
    scheduler.submit(2, 2, 9).unwrap();
    for _ in 0..5 {
        let ids: BTreeSet<Id> = step(&mut scheduler).iter().map(|r| r.id).collect();
        assert_eq!(ids, [1, 2].into());
    }
}

#[test]
fn who_is_not_ready_is_passed_over_and_goes_on_later() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(1, 2, 9).unwrap();
    scheduler.submit(2, 2, 9).unwrap();
    assert_eq!(scheduler.plan(|id| id != 1), [rows(2, 0, 2, true)]);
    assert_eq!(scheduler.plan(|id| id == 1), [rows(1, 0, 2, true)]);
}

#[test]
fn the_queue_is_bounded_and_first_come_first_served() {
    let mut scheduler = Scheduler::new(LIMITS);
    for id in 0..4 {
        assert_eq!(scheduler.submit(id, 4, 4), Ok(Placed::Running));
    }
    for id in 4..10 {
        assert_eq!(scheduler.submit(id, 4, 4), Ok(Placed::Waiting));
    }
    assert_eq!(scheduler.submit(10, 4, 4), Err(Refused::QueueFull { slots: 4, queue: 6 }));
    scheduler.remove(5);
    scheduler.remove(2);
    assert_eq!(scheduler.admit(), [4]);
    scheduler.remove(0);
    assert_eq!(scheduler.admit(), [6]);
}

#[test]
fn a_request_waits_until_there_are_blocks_for_its_whole_length() {
    let mut scheduler = Scheduler::new(LIMITS);
    // 25 of 40 blocks.
    scheduler.submit(1, 4, 96).unwrap();
    assert_eq!(scheduler.submit(2, 4, 60), Ok(Placed::Waiting));
    // Who comes later does not overtake, or a large request would never run.
    assert_eq!(scheduler.submit(3, 4, 4), Ok(Placed::Waiting));
    assert!(scheduler.admit().is_empty());
    scheduler.remove(1);
    assert_eq!(scheduler.admit(), [2, 3]);
}

#[test]
fn a_prompt_that_leaves_no_room_is_refused_with_the_numbers() {
    let mut scheduler = Scheduler::new(LIMITS);
    assert_eq!(scheduler.submit(1, 100, 1), Err(Refused::TooLong { tokens: 100, room: 100 }));
    assert_eq!(scheduler.submit(1, 99, usize::MAX), Ok(Placed::Running));
    let mut small = Scheduler::new(Limits { blocks: 2, ..LIMITS });
    assert_eq!(small.submit(1, 8, 1), Err(Refused::TooLong { tokens: 8, room: 8 }));
    assert_eq!(small.submit(1, 0, 1), Err(Refused::TooLong { tokens: 0, room: 8 }));
}

/// A request as the simulation knows it.
struct Model {
    prompt: usize,
    max_new: usize,
    generated: usize,
    fed: usize,
}

/// Every block is free or in exactly one table; limits hold; tables cover what was fed.
fn check(scheduler: &Scheduler, requests: &BTreeMap<Id, Model>) {
    let mut seen = BTreeSet::new();
    let owned = scheduler.running.iter().flat_map(|s| s.lease.blocks().iter().copied());
    for block in scheduler.pool.free_blocks().chain(owned) {
        assert!(seen.insert(block), "block {block} has two owners");
    }
    assert_eq!(seen.len(), LIMITS.blocks, "a block is lost");
    assert!(scheduler.running() <= LIMITS.slots && scheduler.waiting() <= LIMITS.queue);
    for sequence in &scheduler.running {
        assert!(sequence.lease.blocks().len() * LIMITS.block_tokens >= requests[&sequence.id].fed);
    }
}

#[test]
fn in_a_long_random_life_no_block_is_lost_or_shared_and_everyone_is_served() {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut scheduler = Scheduler::new(LIMITS);
    let mut requests: BTreeMap<Id, Model> = BTreeMap::new();
    let (mut next, mut finished, mut cancelled, mut refused) = (0, 0, 0, 0);
    for round in 0..60_000 {
        let draining = round > 59_000;
        match random(6) {
            0 | 1 if !draining => {
                let (prompt, max_new) = (1 + random(110), 1 + random(60));
                next += 1;
                match scheduler.submit(next, prompt, max_new) {
                    Err(_) => refused += 1,
                    Ok(_) => {
                        let max_new = max_new.min(LIMITS.room() - prompt);
                        requests.insert(next, Model { prompt, max_new, generated: 0, fed: 0 });
                    }
                }
            }
            2 if random(8) == 0 && !requests.is_empty() => {
                let id = *requests.keys().nth(random(requests.len())).unwrap();
                scheduler.remove(id);
                requests.remove(&id);
                cancelled += 1;
            }
            _ => {
                scheduler.admit();
                let lazy = random(5) as Id;
                let plan = scheduler.plan(|id| id % 5 != lazy);
                assert!(plan.iter().map(|r| r.count).sum::<usize>() <= LIMITS.rows);
                for rows in plan {
                    let request = requests.get_mut(&rows.id).unwrap();
                    assert_eq!(rows.start, request.fed);
                    assert_eq!(rows.last, rows.start + rows.count == request.prompt + request.generated);
                    request.fed += rows.count;
                    request.generated += usize::from(rows.last);
                    assert!(scheduler.blocks(rows.id).len() * LIMITS.block_tokens >= request.fed);
                    scheduler.advance(&rows, rows.last);
                    if request.generated == request.max_new {
                        scheduler.remove(rows.id);
                        requests.remove(&rows.id);
                        finished += 1;
                    }
                }
            }
        }
        check(&scheduler, &requests);
    }
    assert!(requests.is_empty(), "{} requests were never served", requests.len());
    assert!(finished > 1000 && cancelled > 100 && refused > 100, "{finished} {cancelled} {refused}");
    assert_eq!(scheduler.pool().free(), LIMITS.blocks);
}
