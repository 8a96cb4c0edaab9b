//! Chunks, turns, the queue, shared prefixes, preemption: one situation each.

use std::collections::BTreeSet;

use super::*;

const LIMITS: Limits =
    Limits { slots: 4, queue: 6, rows: 24, blocks: 40, block_tokens: 4, context: 100, replay: Replay::Prefill };
const ALL: Ask = Ask { ready: true, drafts: 0 };

/// A scheduler and the tokens of its sequences. The tokens of `user` begin with its name's length, so that users differ.
struct Bench {
    scheduler: Scheduler,
    tokens: HashMap<Id, Vec<u32>>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits), tokens: HashMap::new() }
    }

    fn submit(&mut self, id: Id, user: &str, tokens: &[u32]) -> Result<Option<Id>, Refused> {
        let prefix = Prefix::of(Key::scope(user, None), tokens, self.scheduler.limits.block_tokens);
        self.tokens.insert(id, tokens.to_vec());
        self.scheduler.submit(id, Beginning { known: tokens.len(), prompt: tokens.len(), prefix })
    }

    /// A prompt like no other's.
    fn own(&mut self, id: Id, user: &str, count: usize) -> Result<Option<Id>, Refused> {
        let tokens: Vec<u32> = (0..count as u32).map(|i| id as u32 * 1000 + i).collect();
        self.submit(id, user, &tokens)
    }

    /// Runs a step in which every sequence that reaches its end gets a token; drafts are all wrong.
    fn step_with(&mut self, prompt_rows: usize, ask: impl Fn(Id) -> Ask) -> Plan {
        let plan = self.scheduler.plan(prompt_rows, ask);
        for rows in &plan.rows {
            let tokens = self.tokens.get_mut(&rows.id).unwrap();
            tokens.extend(rows.last.then_some(7));
            self.scheduler.advance(rows, rows.count - rows.drafts, tokens);
        }
        plan
    }

    fn step(&mut self) -> Plan {
        self.step_with(100, |_| ALL)
    }

    fn rows(&mut self) -> Vec<(Id, usize, usize, bool)> {
        self.step().rows.iter().map(|r| (r.id, r.start, r.count, r.last)).collect()
    }

    fn admitted(&mut self) -> Vec<Id> {
        self.step().admitted.iter().map(|a| a.id).collect()
    }
}

#[test]
fn a_prompt_is_read_in_chunks_and_then_gives_one_token_a_step() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 50).unwrap();
    assert_eq!(bench.rows(), [(1, 0, 24, false)]);
    assert_eq!(bench.scheduler.blocks(1).len(), 13);
    assert_eq!(bench.rows(), [(1, 24, 24, false)]);
    assert_eq!(bench.rows(), [(1, 48, 2, true)]);
    assert_eq!(bench.rows(), [(1, 50, 1, true)]);
}

#[test]
fn generating_comes_first_and_prompts_share_what_is_left() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 3).unwrap();
    bench.step();
    bench.own(2, "u", 40).unwrap();
    bench.own(3, "u", 5).unwrap();
    // One row for the sequence that generates, the short prompt whole, the rest of the 24 rows for the long one.
    assert_eq!(bench.rows(), [(1, 3, 1, true), (3, 0, 5, true), (2, 0, 18, false)]);
}

#[test]
fn prompts_take_no_more_beside_others_than_they_are_allowed() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 3).unwrap();
    bench.step();
    bench.own(2, "u", 40).unwrap();
    let plan = bench.step_with(5, |_| ALL);
    assert_eq!(plan.rows.iter().map(|r| (r.id, r.count)).collect::<Vec<_>>(), [(1, 1), (2, 5)]);
    bench.scheduler.remove(1);
    assert_eq!(bench.step_with(5, |_| ALL).rows[0].count, 24, "alone there is nobody to hold up");
}

#[test]
fn who_is_not_ready_is_passed_over_and_goes_on_later() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 2).unwrap();
    bench.own(2, "u", 2).unwrap();
    let only = |bench: &mut Bench, id: Id| {
        let plan = bench.step_with(100, |i| Ask { ready: i == id, drafts: 0 });
        plan.rows.iter().map(|r| r.id).collect::<Vec<_>>()
    };
    assert_eq!(only(&mut bench, 2), [2]);
    assert_eq!(only(&mut bench, 1), [1]);
}

#[test]
fn a_reader_that_is_behind_gives_its_slot_to_who_waits_and_gets_one_back() {
    let mut bench = Bench::new(Limits { slots: 1, ..LIMITS });
    bench.own(1, "u", 9).unwrap();
    bench.step();
    bench.own(2, "u", 2).unwrap();
    assert!(bench.step().admitted.is_empty());
    let plan = bench.step_with(100, |id| Ask { ready: id != 1, drafts: 0 });
    assert_eq!((plan.preempted, plan.admitted[0].id), (vec![1], 2));
    bench.step_with(100, |id| Ask { ready: id != 1, drafts: 0 });
    bench.scheduler.remove(2);
    assert!(bench.step_with(100, |id| Ask { ready: id != 1, drafts: 0 }).rows.is_empty());
    let plan = bench.step();
    assert_eq!(plan.admitted, [Admitted { id: 1, cached: 8 }], "what it computed is still there");
}

#[test]
fn the_queue_is_bounded_and_first_come_first_served_for_one_user() {
    let mut bench = Bench::new(LIMITS);
    for id in 0..10 {
        assert_eq!(bench.own(id, "u", 4), Ok(None));
    }
    assert_eq!(bench.own(10, "u", 4), Err(Refused::QueueFull { slots: 4, queue: 6 }));
    assert_eq!(bench.admitted(), [0, 1, 2, 3]);
    bench.scheduler.remove(5);
    bench.scheduler.remove(2);
    assert_eq!(bench.admitted(), [4]);
    bench.scheduler.remove(0);
    assert_eq!(bench.admitted(), [6]);
}

#[test]
fn a_full_queue_takes_another_user_in_and_turns_the_newest_of_the_greedy_one_away() {
    let mut bench = Bench::new(LIMITS);
    for id in 0..10 {
        bench.own(id, "greedy", 4).unwrap();
    }
    assert_eq!(bench.own(10, "modest", 4), Ok(Some(9)));
    assert_eq!(bench.own(11, "greedy", 4), Err(Refused::QueueFull { slots: 4, queue: 6 }));
    assert!(bench.admitted().contains(&10));
}

#[test]
fn a_user_without_a_slot_takes_one_from_whoever_holds_most() {
    let mut bench = Bench::new(LIMITS);
    for id in 0..8 {
        bench.own(id, "greedy", 6).unwrap();
    }
    bench.step();
    bench.own(20, "a", 6).unwrap();
    bench.own(21, "b", 6).unwrap();
    let plan = bench.step();
    assert_eq!(plan.preempted, [3, 2], "the newest go first");
    assert_eq!(plan.admitted.iter().map(|a| a.id).collect::<Vec<_>>(), [20, 21]);
    bench.own(22, "c", 6).unwrap();
    assert_eq!(bench.step().preempted, [1]);
    bench.own(23, "d", 6).unwrap();
    assert!(bench.step().preempted.is_empty(), "everyone holds one slot");
    bench.scheduler.remove(20);
    assert_eq!(bench.admitted(), [23], "who holds none comes before who holds one");
}

#[test]
fn a_prompt_that_begins_like_another_of_its_scope_computes_the_rest_alone() {
    let mut bench = Bench::new(LIMITS);
    let tokens: Vec<u32> = (0..18).collect();
    bench.submit(1, "a", &tokens).unwrap();
    bench.step();
    let mut longer = tokens.clone();
    longer.extend([90, 91, 92]);
    bench.submit(2, "a", &longer).unwrap();
    bench.submit(3, "b", &longer).unwrap();
    let plan = bench.step();
    assert_eq!(plan.admitted, [Admitted { id: 3, cached: 0 }, Admitted { id: 2, cached: 16 }]);
    assert_eq!(bench.scheduler.blocks(2)[..4], bench.scheduler.blocks(1)[..4]);
    assert!(bench.scheduler.blocks(3).iter().all(|b| !bench.scheduler.blocks(2).contains(b)), "no sharing of scopes");
    // The whole prompt is known: its last block is computed all the same, for its logits.
    bench.submit(4, "a", &tokens[..16]).unwrap();
    assert_eq!(bench.step().admitted, [Admitted { id: 4, cached: 12 }]);
}

#[test]
fn what_an_answer_computed_serves_the_next_turn_and_the_oldest_is_forgotten_first() {
    let mut bench = Bench::new(Limits { slots: 1, blocks: 8, ..LIMITS });
    bench.own(1, "u", 5).unwrap();
    (0..8).for_each(|_| drop(bench.step()));
    let turn = bench.tokens[&1].clone();
    assert_eq!(turn.len(), 13);
    bench.scheduler.remove(1);
    let mut next = turn.clone();
    next.extend([1, 2]);
    bench.submit(2, "u", &next).unwrap();
    assert_eq!(bench.step().admitted, [Admitted { id: 2, cached: 12 }]);
    bench.scheduler.remove(2);
    bench.own(3, "u", 30).unwrap();
    bench.step();
    bench.scheduler.remove(3);
    bench.submit(4, "u", &turn).unwrap();
    assert_eq!(bench.step().admitted, [Admitted { id: 4, cached: 0 }]);
}

#[test]
fn of_two_that_begin_alike_the_second_waits_for_what_the_first_computes() {
    let mut bench = Bench::new(LIMITS);
    let tokens: Vec<u32> = (0..40).collect();
    bench.submit(1, "u", &tokens).unwrap();
    bench.submit(2, "u", &tokens).unwrap();
    bench.own(3, "v", 2).unwrap();
    assert_eq!(bench.admitted(), [1, 3], "and holds up nobody of another user");
    assert!(bench.admitted().is_empty());
    assert_eq!(bench.step().admitted, [Admitted { id: 2, cached: 36 }]);
    // The first goes before it is done: the second computes it itself.
    bench.own(5, "w", 40).unwrap();
    bench.scheduler.remove(3);
    bench.step();
    let same = bench.tokens[&5].clone();
    bench.submit(6, "w", &same).unwrap();
    assert!(bench.admitted().is_empty());
    bench.scheduler.remove(5);
    assert_eq!(bench.admitted(), [6]);
}

#[test]
fn when_blocks_run_out_the_newest_of_whoever_holds_most_waits_and_comes_back() {
    let mut bench = Bench::new(Limits { blocks: 10, ..LIMITS });
    bench.own(1, "u", 15).unwrap();
    bench.own(2, "u", 13).unwrap();
    let mut preempted = Vec::new();
    for _ in 0..40 {
        let plan = bench.step();
        preempted.extend(plan.preempted);
        bench.scheduler.pool.audit();
        if bench.tokens[&1].len() >= 40 && bench.scheduler.is_running(1) {
            bench.scheduler.remove(1);
        }
    }
    assert_eq!(preempted, [2]);
    assert!(bench.tokens[&1].len() >= 40);
    assert!(bench.scheduler.is_running(2) && bench.tokens[&2].len() > 20);
}

#[test]
fn a_request_waits_for_its_blocks_and_is_not_overtaken() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 96).unwrap();
    bench.own(2, "u", 80).unwrap();
    bench.own(3, "u", 4).unwrap();
    assert_eq!(bench.admitted(), [1]);
    assert!(bench.admitted().is_empty());
    bench.scheduler.remove(1);
    assert_eq!(bench.admitted(), [2, 3]);
}

#[test]
fn drafts_get_blocks_that_are_free_and_take_none_away() {
    let mut bench = Bench::new(Limits { blocks: 4, slots: 2, ..LIMITS });
    bench.own(9, "u", 5).unwrap();
    bench.step();
    bench.scheduler.remove(9);
    assert_eq!(bench.scheduler.pool().kept(), 1);
    bench.own(1, "u", 3).unwrap();
    bench.own(2, "u", 2).unwrap();
    bench.step();
    let plan = bench.step_with(100, |_| Ask { ready: true, drafts: 6 });
    let rows: Vec<_> = plan.rows.iter().map(|r| (r.id, r.count, r.drafts)).collect();
    // 1 has filled its block and gets the free one for four drafts; 2 has one place left in its own.
    assert_eq!(rows, [(1, 5, 4), (2, 2, 1)]);
    assert_eq!((bench.scheduler.pool().used(), bench.scheduler.pool().kept()), (3, 1));
}

#[test]
fn a_prompt_that_leaves_no_room_is_refused_with_the_numbers() {
    let mut bench = Bench::new(LIMITS);
    assert_eq!(bench.own(1, "u", 100), Err(Refused::TooLong { tokens: 100, room: 100 }));
    assert_eq!(bench.own(1, "u", 99), Ok(None));
    let mut small = Bench::new(Limits { blocks: 2, ..LIMITS });
    assert_eq!(small.own(1, "u", 8), Err(Refused::TooLong { tokens: 8, room: 8 }));
    assert_eq!(small.own(1, "u", 0), Err(Refused::TooLong { tokens: 0, room: 8 }));
}

#[test]
fn two_sequences_take_turns_token_by_token() {
    let mut bench = Bench::new(LIMITS);
    bench.own(1, "u", 2).unwrap();
    bench.own(2, "u", 2).unwrap();
    for _ in 0..5 {
        let ids: BTreeSet<Id> = bench.step().rows.iter().map(|r| r.id).collect();
        assert_eq!(ids, [1, 2].into());
    }
}

#[test]
fn what_was_generated_elsewhere_is_fed_one_token_a_step_where_that_makes_a_difference() {
    let resumed = |replay: Replay| {
        let mut bench = Bench::new(Limits { replay, ..LIMITS });
        let tokens: Vec<u32> = (0..14).collect();
        let prefix = Prefix::of(Key::scope("u", None), &tokens, 4);
        bench.tokens.insert(1, tokens);
        bench.scheduler.submit(1, Beginning { known: 14, prompt: 10, prefix }).unwrap();
        bench.own(2, "v", 3).unwrap();
        bench
    };
    let mut whole = resumed(Replay::Prefill);
    assert_eq!(whole.rows(), [(2, 0, 3, true), (1, 0, 14, true)]);
    let mut bench = resumed(Replay::Decode);
    assert_eq!(bench.rows(), [(2, 0, 3, true), (1, 0, 10, false)]);
    for fed in 10..14 {
        // Beside others, without drafts, and with logits only after the last.
        let plan = bench.step_with(100, |id| Ask { ready: true, drafts: if id == 1 { 3 } else { 0 } });
        let own = plan.rows.iter().find(|r| r.id == 1).unwrap();
        let expected = if fed < 13 { (fed, 1, false, 0) } else { (fed, 4, true, 3) };
        assert_eq!((own.start, own.count, own.last, own.drafts), expected);
        assert!(plan.rows.iter().any(|r| r.id == 2 && r.last));
    }
    assert_eq!(bench.tokens[&1].len(), 15);
}

#[test]
fn who_lost_a_slot_computes_its_answer_again_as_it_did_at_first() {
    let mut bench = Bench::new(Limits { slots: 1, blocks: 6, replay: Replay::Decode, ..LIMITS });
    bench.own(1, "u", 6).unwrap();
    (0..7).for_each(|_| drop(bench.step()));
    assert_eq!(bench.tokens[&1].len(), 13);
    // Another takes its slot, and all the blocks.
    bench.own(2, "v", 23).unwrap();
    assert_eq!(bench.step_with(100, |id| Ask { ready: id != 1, drafts: 0 }).preempted, [1]);
    bench.scheduler.remove(2);
    let again: Vec<_> = (0..8).flat_map(|_| bench.rows()).map(|(_, start, count, last)| (start, count, last)).collect();
    let one_by_one = (6..13).map(|start| (start, 1, start == 12));
    assert_eq!(again, std::iter::once((0, 6, false)).chain(one_by_one).collect::<Vec<_>>());
}
