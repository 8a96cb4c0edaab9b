//! Scheduling: which tokens run in the next step, and who owns which block. Pure: no tensors, no clock, no I/O.
//!
//! Each step runs one row (and its drafts) for every sequence that generates, then prompt rows up to a budget, shared
//! between the prompts being read so that a short one is not held up by a long one. Blocks are taken as sequences grow.
//! What a sequence has computed is found again by what it holds ([`prefix`]), by itself after a preemption and by others
//! of its scope. What must be computed again of an answer is either read like a prompt or, where a row's result depends on
//! how many are computed at once, fed one token a step as it was at first ([`Replay`]). Slots are shared evenly between users ([`queue`]): a user without one takes it from whoever holds most.

mod admit;
mod blocks;
mod pace;
mod prefix;
mod queue;
mod roots;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use blocks::Pool;
pub use pace::Pace;
pub use prefix::{Key, Prefix};

use prefix::ByKey;
use queue::{Queue, Waiting};
use roots::Roots;

/// Names a request; the caller chooses it and never uses it twice.
pub type Id = u64;

/// What the scheduler may hand out.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that run at once; at least 1.
    pub slots: usize,
    /// Requests that wait for their first slot at most.
    pub queue: usize,
    /// Rows (tokens) of one step at most; twice the slots if that is more, so that prompts always advance.
    pub rows: usize,
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Tokens a block holds.
    pub block_tokens: usize,
    /// Longest prompt plus completion of the model, tokens.
    pub context: usize,
    pub replay: Replay,
}

/// How generated tokens are computed again: those another node sent already, and those of a sequence that lost its slot
/// and whose blocks were given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replay {
    /// With the prompt, many a step. For models whose rows come out the same in any company.
    #[default]
    Prefill,
    /// One a step, beside the rows of others: in the form, and with the result, of the first time.
    Decode,
}

/// What a sequence begins with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// Tokens known: prompt and generated.
    pub known: usize,
    /// Of those, the prompt's.
    pub prompt: usize,
    /// Names what the known tokens start with, and who asks.
    pub prefix: Prefix,
}

impl Limits {
    /// Longest prompt plus completion, tokens: what the model's context and the whole cache allow.
    pub fn room(&self) -> usize {
        self.context.min(self.blocks.saturating_mul(self.block_tokens))
    }

    /// Rows of one step at most.
    pub fn rows(&self) -> usize {
        self.rows.max(2 * self.slots)
    }
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("all {slots} slots are taken and {queue} requests wait already")]
    QueueFull { slots: usize, queue: usize },
    #[error("{tokens} tokens leave no room for an answer within {room}")]
    TooLong { tokens: usize, room: usize },
}

/// What the caller knows of a sequence before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Another token is wanted now. A sequence whose reader is behind gives its slot to others who wait.
    pub ready: bool,
    /// Tokens the caller would have tried beyond the next one.
    pub drafts: usize,
}

/// Tokens of one sequence to run in a step: positions `start .. start + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub id: Id,
    slot: usize,
    pub start: usize,
    pub count: usize,
    /// The last known token is among them: its logits give the next one.
    pub last: bool,
    /// Of `count`, those after the last known token.
    pub drafts: usize,
}

/// A sequence that got a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub id: Id,
    /// Tokens whose keys and values were there already.
    pub cached: usize,
}

/// What happens in the next step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub admitted: Vec<Admitted>,
    /// Sequences that lost their slot and wait for another.
    pub preempted: Vec<Id>,
    pub rows: Vec<Rows>,
}

#[derive(Debug)]
struct Running {
    id: Id,
    arrival: u64,
    prefix: Prefix,
    /// Block `i` holds the positions from `i` x block size.
    blocks: Vec<u32>,
    /// Tokens known: prompt and generated.
    known: usize,
    /// Tokens of the prompt.
    prompt: usize,
    /// Tokens whose keys and values are in the cache.
    fed: usize,
    /// Blocks that others may find.
    sealed: usize,
    ask: Ask,
}

impl Running {
    /// Tokens that the next step may run at once, drafts aside.
    fn due(&self, replay: Replay) -> usize {
        match replay {
            Replay::Decode if self.fed >= self.prompt => 1,
            Replay::Decode => self.prompt.min(self.known) - self.fed,
            Replay::Prefill => self.known - self.fed,
        }
    }

    /// Whether `count` tokens from those that are due on include the last one known.
    fn ends_with(&self, count: usize) -> bool {
        self.fed + count == self.known
    }

    fn user(&self) -> Key {
        self.prefix.asker()
    }
}

/// The state: who waits, who runs, who owns which block.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: Pool,
    queue: Queue,
    /// Sequences that lost their slot because their reader was behind.
    paused: Vec<Waiting>,
    slots: Vec<Option<Running>>,
    slot_of: HashMap<Id, usize>,
    /// Blocks that a running sequence is about to fill: who begins alike waits for them instead of computing them too.
    reading: ByKey<Id>,
    roots: Roots,
    arrivals: u64,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { slots: limits.slots.max(1), ..limits };
        Self {
            pool: Pool::new(limits.blocks),
            queue: Queue::default(),
            paused: Vec::new(),
            slots: (0..limits.slots).map(|_| None).collect(),
            slot_of: HashMap::new(),
            reading: ByKey::default(),
            roots: Roots::default(),
            arrivals: 0,
            limits,
        }
    }

    /// The next step, with up to `prompt_rows` prompt rows if others generate in it. `ask` tells of a sequence what the
    /// caller knows.
    pub fn plan(&mut self, prompt_rows: usize, ask: impl Fn(Id) -> Ask) -> Plan {
        let mut plan = Plan::default();
        for sequence in self.slots.iter_mut().flatten() {
            sequence.ask = ask(sequence.id);
        }
        self.resume(&ask);
        self.admit(&mut plan, &ask);
        self.generate(&mut plan);
        self.read(&mut plan, prompt_rows);
        plan
    }

    /// A row for everyone who generates, oldest first, and drafts where they cost nobody anything.
    fn generate(&mut self, plan: &mut Plan) {
        let replay = self.limits.replay;
        let generates = |s: &Running| s.ask.ready && s.due(replay) == 1;
        let reads = self.slots.iter().flatten().any(|s| s.ask.ready && s.due(replay) > 1);
        let mut order: Vec<(u64, usize)> =
            self.occupied().filter(|(_, s)| generates(s)).map(|(i, s)| (s.arrival, i)).collect();
        order.sort_unstable();
        let mut spare = (self.limits.rows() / if reads { 2 } else { 1 }).saturating_sub(order.len());
        for (_, slot) in order {
            // A sequence that came before may have taken this one's blocks.
            let next = self.slots[slot].as_ref().map(|s| (s.id, s.fed, s.ends_with(1)));
            let Some((id, start, last)) = next else { continue };
            if self.grow(slot, start + 1, plan) {
                plan.rows.push(Rows { id, slot, start, count: 1, last, drafts: 0 });
            }
        }
        for rows in plan.rows.iter_mut().filter(|rows| rows.last) {
            let Some(sequence) = self.slots[rows.slot].as_mut() else { continue };
            let wanted = sequence.ask.drafts.min(spare);
            let places = |s: &Running| s.blocks.len() * self.limits.block_tokens - (rows.start + 1);
            while places(sequence) < wanted {
                // Drafts take no kept block away: they are a guess.
                let Some(block) = self.pool.take_free(sequence.blocks.last().copied()) else { break };
                sequence.blocks.push(block);
            }
            rows.drafts = wanted.min(places(sequence));
            rows.count += rows.drafts;
            spare -= rows.drafts;
        }
    }

    /// Gives a sequence blocks for its first `tokens`; preempts others for them, or it itself: then false.
    fn grow(&mut self, slot: usize, tokens: usize, plan: &mut Plan) -> bool {
        loop {
            let Some(sequence) = self.slots[slot].as_mut() else { return false };
            if sequence.blocks.len() * self.limits.block_tokens >= tokens {
                return true;
            }
            match self.pool.take(sequence.blocks.last().copied()) {
                Some(block) => sequence.blocks.push(block),
                None => {
                    let victim = self.victim().unwrap_or(slot);
                    self.preempt(victim, plan);
                }
            }
        }
    }

    /// Rows for the prompts being read, from the one with the least left.
    fn read(&mut self, plan: &mut Plan, prompt_rows: usize) {
        let taken: usize = plan.rows.iter().map(|r| r.count).sum();
        let mut budget = self.limits.rows().saturating_sub(taken);
        if taken > 0 {
            budget = budget.min(prompt_rows.max(1));
        }
        let replay = self.limits.replay;
        let due = self.occupied().filter(|(_, s)| s.ask.ready).map(|(i, s)| (s.due(replay), s.arrival, i));
        let mut order: Vec<(usize, u64, usize)> = due.filter(|(due, ..)| *due > 1).collect();
        if budget < order.len() {
            // Not a row for everyone: the oldest first, so that a long prompt is not passed over for ever.
            order.sort_unstable_by_key(|(_, arrival, _)| *arrival);
        } else {
            order.sort_unstable();
        }
        let mut left = order.len();
        for (due, _, slot) in order {
            let Some(sequence) = &self.slots[slot] else { continue };
            let count = due.min(budget.div_ceil(left));
            (budget, left) = (budget - count, left - 1);
            if count > 0 {
                let (id, start, last) = (sequence.id, sequence.fed, sequence.ends_with(count));
                plan.rows.push(Rows { id, slot, start, count, last, drafts: 0 });
            }
        }
    }

    /// Records that `rows` ran and that the keys and values of the first `kept` of them are right. `tokens` are all that
    /// are known of the sequence now.
    pub fn advance(&mut self, rows: &Rows, kept: usize, tokens: &[u32]) {
        let Some(sequence) = self.slots[rows.slot].as_mut().filter(|s| s.id == rows.id) else { return };
        sequence.fed = rows.start + kept.min(rows.count);
        sequence.known = tokens.len().max(sequence.fed);
        sequence.prefix.extend(&tokens[..sequence.fed.min(tokens.len())], self.limits.block_tokens);
        let full = (sequence.fed / self.limits.block_tokens).min(sequence.prefix.keys().len());
        for i in sequence.sealed..full {
            let key = sequence.prefix.keys()[i];
            self.pool.seal(sequence.blocks[i], key);
            if i == 0 {
                self.roots.used(key);
            }
            if self.reading.get(&key) == Some(&rows.id) {
                self.reading.remove(&key);
            }
        }
        sequence.sealed = full.max(sequence.sealed);
    }

    /// Ends a request, wherever it is: finished, failed or cancelled. Its slot and blocks are free at once.
    pub fn remove(&mut self, id: Id) {
        if let Some(slot) = self.slot_of.get(&id).copied() {
            self.vacate(slot);
        } else if self.queue.remove(id).is_none() {
            self.paused.retain(|w| w.id != id);
        }
    }

    /// The block table of a running sequence, for what it has computed and what it computes next; empty for others.
    pub fn blocks(&self, id: Id) -> &[u32] {
        self.slot_of.get(&id).and_then(|slot| self.slots[*slot].as_ref()).map_or(&[], |s| &s.blocks)
    }

    pub fn is_running(&self, id: Id) -> bool {
        self.slot_of.contains_key(&id)
    }

    pub fn running(&self) -> usize {
        self.slot_of.len()
    }

    /// Requests without a slot.
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.paused.len()
    }

    /// Where the prefixes begin that the cache holds: see [`Roots::held`]. None while they are those of `known`, which is
    /// then brought up to date.
    pub fn roots(&self, known: &mut (u64, u64)) -> Option<Vec<u64>> {
        let version = self.roots.version(&self.pool);
        (std::mem::replace(known, version) != version).then(|| self.roots.held(&self.pool))
    }

    /// The blocks, for what is measured of them.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn occupied(&self) -> impl Iterator<Item = (usize, &Running)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)))
    }
}
