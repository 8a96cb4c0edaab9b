//! Scheduling: which tokens run in the next step, and who owns which block. Pure: no tensors, no clock, no I/O.
//!
//! Requests wait in one bounded queue, first come first served. A request gets a slot when one is idle and the blocks
//! for its whole length are free. Each step runs one row for every sequence that generates, then prompt rows up
//! to a budget, shared between the prompts being read so that a short one is not held up by a long one.

mod blocks;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use blocks::{Lease, Pool};

/// Names a request; the caller chooses it and never uses it twice.
pub type Id = u64;

/// What the scheduler may hand out.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that run at once; at least 1.
    pub slots: usize,
    /// Requests that wait at most.
    pub queue: usize,
    /// Rows (tokens) of one step at most; twice the slots if that is more, so that prompts always advance.
    pub rows: usize,
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Tokens a block holds.
    pub block_tokens: usize,
    /// Longest prompt plus completion of the model, tokens.
    pub context: usize,
}

impl Limits {
    /// Longest prompt plus completion, tokens: what the model's context and the whole cache allow.
    pub fn room(&self) -> usize {
        self.context.min(self.blocks.saturating_mul(self.block_tokens))
    }

    fn rows(&self) -> usize {
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

/// Where a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    Running,
    Waiting,
}

/// Tokens of one sequence to run in a step: positions `start .. start + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub id: Id,
    pub start: usize,
    pub count: usize,
    /// The last known token is among them: its logits give the next one.
    pub last: bool,
}

#[derive(Debug)]
struct Waiting {
    id: Id,
    prompt: usize,
    /// Blocks for prompt and answer.
    blocks: usize,
}

#[derive(Debug)]
struct Running {
    id: Id,
    lease: Lease,
    /// Tokens known: prompt and generated.
    known: usize,
    /// Tokens whose keys and values are in the cache.
    fed: usize,
}

impl Running {
    fn due(&self) -> usize {
        self.known - self.fed
    }
}

/// The state: who waits, who runs, who owns which block.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: Pool,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
}

impl Scheduler {
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { slots: limits.slots.max(1), ..limits };
        Self { limits, pool: Pool::new(limits.blocks), waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Takes a request of `prompt` tokens that may generate `max_new` more (fewer where the room ends).
    pub fn submit(&mut self, id: Id, prompt: usize, max_new: usize) -> Result<Placed, Refused> {
        let room = self.limits.room();
        if prompt == 0 || prompt >= room {
            return Err(Refused::TooLong { tokens: prompt, room });
        }
        let blocks = prompt.saturating_add(max_new).min(room).div_ceil(self.limits.block_tokens);
        let request = Waiting { id, prompt, blocks };
        if self.waiting.is_empty() {
            let Err(request) = self.start(request) else { return Ok(Placed::Running) };
            return self.enqueue(request);
        }
        self.enqueue(request)
    }

    fn enqueue(&mut self, request: Waiting) -> Result<Placed, Refused> {
        if self.waiting.len() >= self.limits.queue {
            return Err(Refused::QueueFull { slots: self.limits.slots, queue: self.limits.queue });
        }
        self.waiting.push_back(request);
        Ok(Placed::Waiting)
    }

    /// Gives idle slots to those who wait longest; says who got one.
    pub fn admit(&mut self) -> Vec<Id> {
        let mut admitted = Vec::new();
        while let Some(request) = self.waiting.pop_front() {
            let id = request.id;
            if let Err(request) = self.start(request) {
                self.waiting.push_front(request);
                break;
            }
            admitted.push(id);
        }
        admitted
    }

    fn start(&mut self, request: Waiting) -> Result<(), Waiting> {
        if self.running.len() >= self.limits.slots {
            return Err(request);
        }
        let Some(lease) = self.pool.lease(request.blocks) else { return Err(request) };
        self.running.push(Running { id: request.id, lease, known: request.prompt, fed: 0 });
        Ok(())
    }

    /// The rows of the next step, of those sequences that are `ready` for another token.
    /// Generating sequences come first, then prompts from the one with the least left to read.
    pub fn plan(&self, ready: impl Fn(Id) -> bool) -> Vec<Rows> {
        let mut able: Vec<usize> = (0..self.running.len()).filter(|&i| ready(self.running[i].id)).collect();
        able.sort_by_key(|&i| self.running[i].due());
        let (mut budget, mut left) = (self.limits.rows(), able.len());
        let mut plan = Vec::with_capacity(able.len());
        for i in able {
            let sequence = &self.running[i];
            let share = budget.div_ceil(left);
            let count = sequence.due().min(share);
            (budget, left) = (budget - count, left - 1);
            if count == 0 {
                continue;
            }
            let end = sequence.fed + count;
            plan.push(Rows { id: sequence.id, start: sequence.fed, count, last: end == sequence.known });
        }
        plan
    }

    /// Records that `rows` ran, and whether they gave the sequence one more token.
    pub fn advance(&mut self, rows: &Rows, sampled: bool) {
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id == rows.id) {
            sequence.fed = rows.start + rows.count;
            sequence.known += usize::from(sampled);
        }
    }

    /// Ends a request, wherever it is: finished, failed or cancelled. Its slot and blocks are free at once.
    pub fn remove(&mut self, id: Id) {
        self.waiting.retain(|w| w.id != id);
        if let Some(at) = self.running.iter().position(|s| s.id == id) {
            self.pool.give_back(self.running.remove(at).lease);
        }
    }

    /// The block table of a running sequence, for its whole length; empty for others.
    pub fn blocks(&self, id: Id) -> &[u32] {
        self.running.iter().find(|s| s.id == id).map_or(&[], |s| s.lease.blocks())
    }

    pub fn is_running(&self, id: Id) -> bool {
        self.running.iter().any(|s| s.id == id)
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The blocks, for what is measured of them.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
