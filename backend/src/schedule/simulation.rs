//! A long random life of the scheduler: everything that can happen, and what must hold after each step.

use std::collections::BTreeMap;

use super::*;

const LIMITS: Limits =
    Limits { slots: 6, queue: 10, rows: 24, blocks: 48, block_tokens: 4, context: 120, replay: Replay::Prefill };
const TENANTS: usize = 4;
const STEPS: usize = 1_000_000;

/// Numbers that look random (PCG-like, Knuth's multiplier).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A request as the world outside knows it.
struct Request {
    tenant: usize,
    tokens: Vec<u32>,
    /// Of its tokens, those that were asked, not generated.
    prompt: usize,
    fed: usize,
    end: usize,
    running: bool,
    /// The step since which it waits.
    since: usize,
    slow: bool,
}

/// What the cache holds: the tenant and token written last to each place.
type Content = Vec<Option<(usize, u32)>>;

#[derive(Default)]
struct Counts {
    finished: usize,
    cancelled: usize,
    refused: usize,
    displaced: usize,
    preempted: usize,
    cached: usize,
    drafted: usize,
    rejected: usize,
    /// Generated tokens that were computed one by one again.
    replayed: usize,
    longest_wait: usize,
}

struct World {
    random: Random,
    scheduler: Scheduler,
    requests: BTreeMap<Id, Request>,
    content: Content,
    next: Id,
    counts: Counts,
}

impl World {
    fn new(replay: Replay) -> Self {
        Self {
            random: Random(0x9E37_79B9_7F4A_7C15),
            scheduler: Scheduler::new(Limits { replay, ..LIMITS }),
            requests: BTreeMap::new(),
            content: vec![None; LIMITS.blocks * LIMITS.block_tokens],
            next: 0,
            counts: Counts::default(),
        }
    }

    /// A prompt that begins like others of its tenant, and like those of other tenants.
    fn arrive(&mut self, step: usize) {
        let tenant = self.random.below(TENANTS);
        let (shared, own) = (self.random.below(40), 1 + self.random.below(90));
        let mut tokens: Vec<u32> = (0..shared as u32).collect();
        tokens.extend((0..own).map(|_| self.random.below(7) as u32));
        let prefix = Prefix::of(Key::scope(&tenant.to_string(), None), &tokens, LIMITS.block_tokens);
        // Some were begun elsewhere.
        let prompt = if self.random.one_in(4) { 1 + self.random.below(tokens.len()) } else { tokens.len() };
        self.next += 1;
        match self.scheduler.submit(self.next, Beginning { known: tokens.len(), prompt, prefix }) {
            Err(Refused::TooLong { .. }) => assert!(tokens.len() >= LIMITS.room()),
            Err(Refused::QueueFull { .. }) => self.counts.refused += 1,
            Ok(displaced) => {
                let end = (tokens.len() + 1 + self.random.below(40)).min(LIMITS.room());
                // Readers are behind in the second half only: until then, how long one waits is the scheduler's doing alone.
                let slow = step > STEPS / 2 && self.random.one_in(20);
                let request = Request { tenant, tokens, prompt, fed: 0, end, running: false, since: step, slow };
                self.requests.insert(self.next, request);
                if let Some(id) = displaced {
                    let gone = self.requests.remove(&id).expect("one that waits is displaced");
                    assert!(!gone.running && gone.fed == 0, "one that has run is displaced");
                    self.counts.displaced += 1;
                }
            }
        }
    }

    fn cancel(&mut self) {
        let Some(id) = self.requests.keys().nth(self.random.below(self.requests.len().max(1))).copied() else { return };
        self.scheduler.remove(id);
        self.requests.remove(&id);
        self.counts.cancelled += 1;
    }

    fn step(&mut self, step: usize, draining: bool) {
        let salt = self.random.below(1000) as u64;
        let slow =
            |id: Id| self.requests.get(&id).is_some_and(|r| r.slow) && !draining && !(id + salt).is_multiple_of(4);
        let ask = |id: Id| Ask { ready: !slow(id), drafts: (id + salt) as usize % 4 };
        let plan = self.scheduler.plan(1 + salt as usize % 20, ask);
        for id in &plan.preempted {
            let request = self.requests.get_mut(id).unwrap();
            (request.running, request.fed, request.since) = (false, 0, step);
            self.counts.preempted += 1;
        }
        for admitted in plan.admitted.iter().filter(|a| self.scheduler.is_running(a.id)) {
            let request = self.requests.get_mut(&admitted.id).unwrap();
            assert!(!request.running && admitted.cached < request.tokens.len());
            (request.running, request.fed) = (true, admitted.cached);
            self.counts.cached += admitted.cached;
            let wait = step - request.since;
            if step <= STEPS / 2 {
                self.counts.longest_wait = self.counts.longest_wait.max(wait);
            }
            self.holds(admitted.id);
        }
        assert!(plan.rows.iter().map(|r| r.count).sum::<usize>() <= LIMITS.rows());
        for rows in &plan.rows {
            self.run(rows);
        }
    }

    /// What the cache holds for a sequence is what the sequence wrote, or one of its tenant that began alike.
    fn holds(&self, id: Id) {
        let request = &self.requests[&id];
        let blocks = self.scheduler.blocks(id);
        for (position, token) in request.tokens[..request.fed].iter().enumerate() {
            let at =
                blocks[position / LIMITS.block_tokens] as usize * LIMITS.block_tokens + position % LIMITS.block_tokens;
            assert_eq!(self.content[at], Some((request.tenant, *token)), "position {position} of {id}");
        }
    }

    fn run(&mut self, rows: &Rows) {
        let blocks = self.scheduler.blocks(rows.id).to_vec();
        let request = self.requests.get_mut(&rows.id).unwrap();
        assert!(request.running);
        assert_eq!(rows.start, request.fed);
        if self.scheduler.limits.replay == Replay::Decode {
            let read = rows.count - rows.drafts;
            assert!(read == 1 || rows.start + read <= request.prompt, "generated tokens are read {read} at once");
            self.counts.replayed += usize::from(!rows.last && rows.start >= request.prompt);
        }
        assert_eq!(rows.last, rows.start + rows.count - rows.drafts == request.tokens.len());
        // Drafts are tokens nobody knows yet: 99.
        let drafts = std::iter::repeat_n(99, rows.drafts);
        let fed = request.tokens[rows.start..].iter().copied().chain(drafts).take(rows.count);
        for (position, token) in (rows.start..).zip(fed) {
            let block = blocks[position / LIMITS.block_tokens];
            assert_eq!(self.scheduler.pool.owners(block), 1, "a shared block is written");
            let at = block as usize * LIMITS.block_tokens + position % LIMITS.block_tokens;
            self.content[at] = Some((request.tenant, token));
        }
        let right = if rows.drafts == 0 { 0 } else { self.random.below(rows.drafts + 1) };
        self.counts.drafted += right;
        self.counts.rejected += rows.drafts - right;
        request.fed += rows.count - rows.drafts + right;
        if rows.last {
            request.tokens.extend(std::iter::repeat_n(99, right));
            request.tokens.push(self.random.below(7) as u32);
        }
        self.scheduler.advance(rows, rows.count - rows.drafts + right, &request.tokens);
        let over = request.tokens.len() >= request.end;
        if over || self.random.one_in(50) {
            self.holds(rows.id);
        }
        if over {
            self.scheduler.remove(rows.id);
            self.requests.remove(&rows.id);
            self.counts.finished += 1;
        }
    }

    /// Every block's owners are the tables it stands in; limits hold; nobody is lost.
    fn audit(&self) {
        self.scheduler.pool.audit();
        let mut owners = vec![0; LIMITS.blocks];
        for sequence in self.scheduler.slots.iter().flatten() {
            sequence.blocks.iter().for_each(|b| owners[*b as usize] += 1);
            assert_eq!(
                self.scheduler.slot_of.get(&sequence.id).map(|s| self.scheduler.slots[*s].is_some()),
                Some(true)
            );
        }
        for (block, count) in (0u32..).zip(&owners) {
            assert_eq!(self.scheduler.pool.owners(block), *count, "owners of block {block}");
        }
        assert!(self.scheduler.running() <= LIMITS.slots);
        assert!(self.scheduler.queue.fresh() <= LIMITS.queue + LIMITS.slots);
        assert_eq!(self.scheduler.running() + self.scheduler.waiting(), self.requests.len(), "a request is lost");
        let running = self.requests.iter().filter(|(_, r)| r.running).map(|(id, _)| *id);
        assert!(running.eq(self.requests.keys().copied().filter(|id| self.scheduler.is_running(*id))));
        assert!(self.scheduler.reading.values().all(|id| self.scheduler.is_running(*id)), "who reads is gone");
    }
}

#[test]
fn a_million_steps_lose_leak_and_mix_up_nothing_and_serve_everyone() {
    let counts = live(World::new(Replay::Prefill));
    assert_eq!(counts.replayed, 0);
}

#[test]
fn nor_do_a_million_steps_that_feed_what_was_generated_one_by_one() {
    let counts = live(World::new(Replay::Decode));
    assert!(counts.replayed > 500, "{} tokens were fed again", counts.replayed);
}

fn live(mut world: World) -> Counts {
    for step in 0..STEPS {
        let draining = step > STEPS - 2_000;
        if !draining && world.random.one_in(9) {
            world.arrive(step);
        }
        if world.random.one_in(150) {
            world.cancel();
        }
        world.step(step, draining);
        if step % 16 == 0 {
            world.audit();
        }
    }
    world.audit();
    let c = &world.counts;
    assert!(world.requests.is_empty(), "{} requests were never served", world.requests.len());
    assert_eq!(world.scheduler.pool.used(), 0);
    assert!(world.scheduler.queue.len() == 0 && world.scheduler.reading.is_empty());
    for (what, count) in [
        ("finished", c.finished),
        ("cancelled", c.cancelled),
        ("refused", c.refused),
        ("displaced", c.displaced),
        ("preempted", c.preempted),
        ("cached", c.cached),
        ("drafted", c.drafted),
        ("rejected", c.rejected),
    ] {
        assert!(count > 500, "{what} {count} times only");
    }
    assert!(c.longest_wait < 1_000, "someone waited {} steps", c.longest_wait);
    world.counts
}
