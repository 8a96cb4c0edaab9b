//! Who gets a slot, and who loses one.

use super::{Admitted, Ask, Beginning, Id, Plan, Refused, Running, Scheduler, queue::Waiting};

/// Whether a request can start now.
enum Fit {
    Now,
    /// A running sequence computes what this one begins with: later there is less to do.
    Later,
    /// Not while so many blocks are owned.
    Blocks,
}

impl Scheduler {
    /// Takes a request. A full queue takes it too if another user has more requests there: the newest of those is
    /// displaced, and its id returned.
    pub fn submit(&mut self, id: Id, beginning: Beginning) -> Result<Option<Id>, Refused> {
        let Beginning { known, prompt, prefix } = beginning;
        let room = self.limits.room();
        if known == 0 || known >= room {
            return Err(Refused::TooLong { tokens: known, room });
        }
        let idle = self.limits.slots - self.running();
        let mut displaced = None;
        if self.queue.fresh() >= self.limits.queue + idle {
            let full = Refused::QueueFull { slots: self.limits.slots, queue: self.limits.queue };
            let victim = self.queue.displaced_by(prefix.asker()).ok_or(full)?;
            self.queue.remove(victim);
            displaced = Some(victim);
        }
        self.arrivals += 1;
        self.queue.push(Waiting { id, arrival: self.arrivals, known, prompt, prefix, begun: false });
        Ok(displaced)
    }

    /// Those whose readers have caught up are in line again, where they were.
    pub(super) fn resume(&mut self, ask: &impl Fn(Id) -> Ask) {
        for request in self.paused.extract_if(.., |w| ask(w.id).ready) {
            self.queue.push(request);
        }
    }

    /// Gives slots to those whose turn it is.
    pub(super) fn admit(&mut self, plan: &mut Plan, ask: &impl Fn(Id) -> Ask) {
        let mut passed = Vec::new();
        while let Some(user) = self.queue.turn(&passed) {
            let Some(head) = self.queue.front(user) else { break };
            let idle = self.running() < self.limits.slots;
            match if idle { self.fit(head) } else { Fit::Blocks } {
                Fit::Later => passed.push(user),
                Fit::Now => {
                    let Some(request) = self.queue.pop(user) else { break };
                    let ask = ask(request.id);
                    plan.admitted.push(self.start(request, ask));
                }
                Fit::Blocks => match self.yielding_to(self.queue.running(user)) {
                    Some(slot) => self.preempt(slot, plan),
                    // Who is next waits for blocks and is not overtaken, or a large request would never run.
                    None => break,
                },
            }
        }
    }

    fn fit(&self, request: &Waiting) -> Fit {
        let keys = self.reusable(request);
        let (known, kept) = self.pool.find(keys);
        let reader = keys.get(known).and_then(|key| self.slot_of.get(self.reading.get(key)?));
        if reader.and_then(|slot| self.slots[*slot].as_ref()).is_some_and(|s| s.ask.ready) {
            return Fit::Later;
        }
        let fresh = request.known.div_ceil(self.limits.block_tokens) - known;
        // Those who run get their next block first.
        let available = self.pool.available() - kept;
        if available >= fresh + self.running() { Fit::Now } else { Fit::Blocks }
    }

    /// The keys of the blocks a request need not compute; never all of it: the last token's logits are wanted.
    fn reusable<'a>(&self, request: &'a Waiting) -> &'a [super::Key] {
        let keys = request.prefix.keys();
        &keys[..keys.len().min((request.known - 1) / self.limits.block_tokens)]
    }

    fn start(&mut self, request: Waiting, ask: Ask) -> Admitted {
        let mut blocks = Vec::with_capacity(request.known.div_ceil(self.limits.block_tokens) + 4);
        let keys = self.reusable(&request);
        blocks.extend(keys.iter().map_while(|key| self.pool.share(key)));
        let sealed = blocks.len();
        if let Some(root) = keys.first().filter(|_| sealed > 0) {
            self.roots.used(*root);
        }
        for key in &keys[sealed..] {
            self.reading.entry(*key).or_insert(request.id);
        }
        while blocks.len() * self.limits.block_tokens < request.known {
            let Some(block) = self.pool.take(blocks.last().copied()) else { break };
            blocks.push(block);
        }
        let Waiting { id, arrival, known, prompt, prefix, .. } = request;
        let fed = sealed * self.limits.block_tokens;
        self.queue.started(prefix.asker());
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(Running { id, arrival, prefix, blocks, known, prompt, fed, sealed, ask });
        self.slot_of.insert(id, slot);
        Admitted { id, cached: fed }
    }

    /// The slot that is given up for a user who holds `running`: one whose reader is behind, or the newest of the user
    /// who holds most, if that leaves it as many as the other then has.
    fn yielding_to(&self, running: usize) -> Option<usize> {
        if let Some((slot, _)) = self.occupied().find(|(_, s)| !s.ask.ready) {
            return Some(slot);
        }
        let (user, most) = self.queue.greediest()?;
        let newest = self.occupied().filter(|(_, s)| s.user() == user).max_by_key(|(_, s)| s.arrival);
        newest.filter(|_| most >= running + 2).map(|(slot, _)| slot)
    }

    /// The slot that is given up when blocks run out: as above, but never the only one.
    pub(super) fn victim(&self) -> Option<usize> {
        if self.running() < 2 {
            return None;
        }
        let idle = |s: &Running| !s.ask.ready;
        let order = |s: &Running| (idle(s), self.queue.running(s.user()), s.arrival);
        self.occupied().max_by_key(|(_, s)| order(s)).map(|(slot, _)| slot)
    }

    /// Takes a slot away. What the sequence has computed is kept as long as there are blocks for it.
    pub(super) fn preempt(&mut self, slot: usize, plan: &mut Plan) {
        let Some(sequence) = self.vacate(slot) else { return };
        let Running { id, arrival, known, prompt, prefix, ask, .. } = sequence;
        plan.rows.retain(|rows| rows.id != id);
        let admitted = plan.admitted.len();
        plan.admitted.retain(|a| a.id != id);
        if plan.admitted.len() == admitted {
            plan.preempted.push(id);
        }
        let request = Waiting { id, arrival, known, prompt, prefix, begun: true };
        if ask.ready { self.queue.push(request) } else { self.paused.push(request) }
    }

    /// Preempts a running sequence from outside: a step with it failed for want of memory.
    pub fn yield_slot(&mut self, id: Id) {
        if let Some(slot) = self.slot_of.get(&id).copied() {
            self.preempt(slot, &mut Plan::default());
        }
    }

    pub(super) fn vacate(&mut self, slot: usize) -> Option<Running> {
        let sequence = self.slots[slot].take()?;
        self.slot_of.remove(&sequence.id);
        self.queue.stopped(sequence.user());
        // From the end: what comes later in a text is forgotten first.
        sequence.blocks.iter().rev().for_each(|block| self.pool.release(*block));
        for key in &sequence.prefix.keys()[sequence.sealed.min(sequence.prefix.keys().len())..] {
            if self.reading.get(key) == Some(&sequence.id) {
                self.reading.remove(key);
            }
        }
        Some(sequence)
    }
}
