//! The engine's thread: commands in, steps, events out.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Instant,
};

use littoral_api::error::code;
use littoral_proto::v1::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::{End, Job, Load, Metrics, Outlet, Step, sequence::Sequence};
use crate::{
    model::{Logits, Segment, StepError},
    sample::Scratch,
    schedule::{Id, Limits, Refused, Rows, Scheduler},
};

/// After so many steps in a row in which the device failed, the model is given up: the thread ends, and others can
/// take over. A single failure may be the fault of what was asked.
const GIVE_UP: u32 = 3;

/// What reaches the thread.
pub enum Command {
    Run(Box<Job>, Outlet, OwnedSemaphorePermit),
    /// A reader has made room, or has gone.
    Wake,
    /// End the thread, and with an error what still runs.
    Stop,
}

pub(super) struct Worker<M> {
    model: M,
    scheduler: Scheduler,
    sequences: BTreeMap<Id, Sequence>,
    inbox: Receiver<Command>,
    load: Arc<Load>,
    metrics: Arc<Metrics>,
    scratch: Scratch,
    next_id: Id,
    /// Steps in a row in which the device failed.
    failures: u32,
}

impl<M: Step> Worker<M> {
    pub fn new(model: M, limits: Limits, inbox: Receiver<Command>, load: Arc<Load>, metrics: Arc<Metrics>) -> Self {
        metrics.blocks.set(limits.blocks as f64);
        let scheduler = Scheduler::new(limits);
        let (sequences, scratch) = (BTreeMap::new(), Vec::new());
        Self { model, scheduler, sequences, inbox, load, metrics, scratch, next_id: 0, failures: 0 }
    }

    /// Runs until it is told to stop, nobody is left who could ask for anything, or the device is given up.
    pub fn run(mut self) {
        let mut idle = true;
        while self.failures < GIVE_UP && self.listen(idle) {
            self.sweep();
            for id in self.scheduler.admit() {
                self.start(id);
            }
            let plan = self.scheduler.plan(|id| self.sequences.get(&id).is_some_and(|s| s.outlet.has_room()));
            idle = plan.is_empty();
            if !idle {
                self.step(&plan);
            }
            self.publish();
        }
        let gone: Vec<Id> = self.sequences.keys().copied().collect();
        for id in gone {
            self.fail(id, code::OVERLOADED, "the node is stopping; another node can go on", true);
        }
        self.publish();
    }

    /// Takes in what has come; with nothing to do, waits for it, until the nearest deadline at most. False to stop.
    fn listen(&mut self, idle: bool) -> bool {
        if idle {
            let nearest = self.sequences.values().filter_map(|s| s.deadline).min();
            let received = match nearest {
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(command) => {
                    if !self.take(command) {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    if !self.take(command) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) -> bool {
        match command {
            Command::Run(job, outlet, permit) => self.submit(*job, outlet, permit),
            Command::Wake => {}
            Command::Stop => return false,
        }
        true
    }

    fn submit(&mut self, job: Job, outlet: Outlet, permit: OwnedSemaphorePermit) {
        self.next_id += 1;
        let id = self.next_id;
        let sequence = Sequence::new(id, job, outlet, permit);
        let (known, left) = (sequence.tokens.len(), sequence.left());
        let ended = sequence.end();
        self.sequences.insert(id, sequence);
        if let Some(end) = ended {
            // The stream broke between its last token and its end.
            self.start(id);
            return self.end(id, end);
        }
        match self.scheduler.submit(id, known, left) {
            Ok(crate::schedule::Placed::Running) => self.start(id),
            Ok(crate::schedule::Placed::Waiting) => {}
            Err(refused @ Refused::QueueFull { .. }) => self.fail(id, code::OVERLOADED, refused.to_string(), true),
            Err(refused @ Refused::TooLong { .. }) => {
                self.fail(id, code::CONTEXT_LENGTH_EXCEEDED, refused.to_string(), false);
            }
        }
    }

    /// The request has its slot.
    fn start(&mut self, id: Id) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let now = Instant::now();
        sequence.started = Some(now);
        sequence.send_started();
        self.metrics.queue.record(now - sequence.received);
        self.metrics.prompt_tokens.increment(sequence.prompt_tokens().into());
    }

    /// Ends what nobody reads any more, and what is past its deadline.
    fn sweep(&mut self) {
        let now = Instant::now();
        let gone: Vec<Id> = self.sequences.values().filter(|s| s.outlet.is_closed()).map(|s| s.id).collect();
        for id in gone {
            self.end(id, End::Cancelled);
        }
        let late: Vec<Id> =
            self.sequences.values().filter(|s| s.deadline.is_some_and(|d| d <= now)).map(|s| s.id).collect();
        for id in late {
            self.fail(id, code::DEADLINE_EXCEEDED, "the answer was not complete at the request's deadline", false);
        }
    }

    fn step(&mut self, plan: &[Rows]) {
        let began = Instant::now();
        let segments: Vec<Segment> = plan
            .iter()
            .filter_map(|rows| {
                let tokens = self.sequences.get(&rows.id)?.tokens.get(rows.start..rows.start + rows.count)?;
                Some(Segment {
                    tokens,
                    start: rows.start,
                    blocks: self.scheduler.blocks(rows.id),
                    logits: if rows.last { Logits::Last } else { Logits::None },
                })
            })
            .collect();
        let model = &mut self.model;
        let result = catch_unwind(AssertUnwindSafe(|| model.step(&segments))).unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(StepError::Device(what.unwrap_or("a panic").into()))
        });
        let result = result.and_then(|logits| match logits.len() == plan.len() {
            true => Ok(logits),
            false => Err(StepError::Device(format!("{} answers to {} segments", logits.len(), plan.len()))),
        });
        self.metrics.step.record(began.elapsed());
        self.metrics.batch.record(plan.len() as f64);
        match result {
            Ok(logits) => {
                self.failures = 0;
                plan.iter().zip(logits).for_each(|(rows, logits)| self.take_in(rows, logits));
            }
            Err(error) => {
                self.failures = if matches!(error, StepError::Device(_)) { self.failures + 1 } else { 0 };
                tracing::error!(%error, sequences = plan.len(), "a step failed");
                for rows in plan {
                    self.fail(rows.id, code::INTERNAL, error.to_string(), true);
                }
            }
        }
    }

    /// One sequence's part of a step that ran.
    fn take_in(&mut self, rows: &Rows, logits: Option<Vec<f32>>) {
        self.scheduler.advance(rows, rows.last);
        let Some(sequence) = self.sequences.get_mut(&rows.id).filter(|_| rows.last) else { return };
        let Some(logits) = logits else {
            return self.fail(rows.id, code::INTERNAL, "the model gave no logits", true);
        };
        match sequence.extend(&logits, &mut self.scratch) {
            Err(error) => self.fail(rows.id, code::INTERNAL, error.to_string(), true),
            Ok(end) => {
                let now = Instant::now();
                match sequence.last_token.replace(now) {
                    Some(last) => self.metrics.inter_token.record(now - last),
                    None => {
                        sequence.first_token = Some(now);
                        self.metrics.time_to_first_token.record(now - sequence.received);
                    }
                }
                self.metrics.completion_tokens.increment(1);
                if let Some(end) = end {
                    self.end(rows.id, end);
                }
            }
        }
    }

    fn fail(&mut self, id: Id, code: &'static str, message: impl Into<String>, retryable: bool) {
        if let Some(sequence) = self.sequences.get(&id) {
            sequence.send_error(Error { code: code.into(), message: message.into(), retryable });
        }
        self.end(id, End::Failed(code));
    }

    /// Ends a sequence: its slot and blocks are free, its last events sent, one line logged.
    fn end(&mut self, id: Id, end: End) {
        self.scheduler.remove(id);
        let Some(sequence) = self.sequences.remove(&id) else { return };
        if let End::Finished(reason) = end {
            sequence.send_end(reason);
        }
        self.metrics.outcome(end.name());
        let since = |at: Option<Instant>| at.map(|at| (at - sequence.received).as_millis() as u64);
        tracing::info!(
            request_id = sequence.request_id,
            outcome = end.name(),
            prompt_tokens = sequence.prompt_tokens(),
            completion_tokens = sequence.completion_tokens(),
            queue_ms = since(sequence.started),
            first_token_ms = since(sequence.first_token),
            total_ms = since(Some(Instant::now())),
            "answered"
        );
    }

    fn publish(&self) {
        let (scheduler, load) = (&self.scheduler, &self.load);
        load.running.store(scheduler.running(), Ordering::Relaxed);
        load.waiting.store(scheduler.waiting(), Ordering::Relaxed);
        load.free_blocks.store(scheduler.pool().free(), Ordering::Relaxed);
        self.metrics.running.set(scheduler.running() as f64);
        self.metrics.waiting.set(scheduler.waiting() as f64);
        self.metrics.blocks_used.set(scheduler.pool().used() as f64);
    }
}
