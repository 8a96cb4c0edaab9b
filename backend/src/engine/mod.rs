//! The engine: one thread that owns the model and runs the scheduler's steps, and one that makes text and events of
//! their tokens while the next step runs.
//!
//! Jobs come in over a channel, events leave by one bounded channel a request. A reader that is slow pauses its own
//! sequence; one that is gone ends it before its next token. What the engine does not do: parse requests, tokenise
//! prompts, wait for sockets.

mod events;
mod job;
mod metrics;
mod sequence;
mod stop;
#[cfg(test)]
mod tests;
mod voice;
mod worker;
mod writer;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use events::{Events, Outlet};
pub use job::{Choice, Constraint, End, Job, Spelling, Task};
pub use metrics::{BATCH, Metrics, SECONDS, SEQUENCES};
pub use sequence::end_of;
pub use stop::StopMatcher;
pub use voice::{Said, Speech, Voice};

use crate::{
    grammar::Masker,
    model::{Model, Segment, Spent, StepError},
    sample::{Draw, Picked, SampleError},
    schedule::{Limits, Refused},
};
use events::Life;
use worker::{Command, Wires, Worker};
use writer::Writer;

/// Requests that are prepared beyond those that run and wait: one of them may belong to a user with a better claim to a
/// place in a full queue.
const PREPARING: usize = 4;

/// What was computed and is not yet text, steps at most: then the engine waits.
const STEPS_BEHIND: usize = 4;

/// What the engine asks of a model. What segments want of a step stays with the model until it is drawn from or read.
pub trait Step: Send + 'static {
    /// Runs all rows of all segments. See [`Model::forward`].
    fn forward(&mut self, segments: &[Segment]) -> Result<(), StepError>;
    /// A token for each draw, from the rows of logits that segments wanted. See [`Model::draw`].
    fn draw(&mut self, draws: &[Draw]) -> Result<Vec<Result<Picked, SampleError>>, StepError>;
    /// What the segments of the last step wanted. See [`Model::read`].
    fn read(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError>;
    /// What the parts of the last step took, where that is measured.
    fn spent(&self) -> Option<Spent> {
        None
    }
}

impl Step for Model {
    fn forward(&mut self, segments: &[Segment]) -> Result<(), StepError> {
        Model::forward(self, segments)
    }

    fn draw(&mut self, draws: &[Draw]) -> Result<Vec<Result<Picked, SampleError>>, StepError> {
        Model::draw(self, draws)
    }

    fn read(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError> {
        Model::read(self, segments)
    }

    fn spent(&self) -> Option<Spent> {
        Model::spent(self)
    }
}

/// A handle on the engine; clones are handles on the same one.
#[derive(Clone)]
pub struct Engine {
    life: Arc<Life>,
    /// One for each request that runs, waits or is being prepared.
    permits: Arc<Semaphore>,
    load: Arc<Load>,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// True once the thread has ended.
    ended: watch::Receiver<bool>,
}

/// What the engine does now, as its thread last said.
#[derive(Debug, Default)]
struct Load {
    running: AtomicUsize,
    waiting: AtomicUsize,
    free_blocks: AtomicUsize,
    cached_blocks: AtomicUsize,
    /// Bits of an f64.
    tokens_per_second: AtomicU64,
    draining: AtomicBool,
    roots: Mutex<Arc<[u64]>>,
}

/// See [`Engine::load`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    pub running: usize,
    pub waiting: usize,
    /// Blocks that no sequence owns.
    pub free_blocks: usize,
    /// Of those, the ones whose content a prompt may begin with.
    pub cached_blocks: usize,
    /// Tokens generated in a second of computing, of late; 0 while nothing runs.
    pub tokens_per_second: f64,
    pub draining: bool,
}

/// The right to submit a job, or several that are one request's. Its place is free when the last of them is done.
#[derive(Debug, Clone)]
pub struct Admission {
    _place: Arc<OwnedSemaphorePermit>,
}

/// Why no job is admitted now; another node, or a later try, can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error(transparent)]
    Full(Refused),
    #[error("the node is shutting down")]
    Draining,
}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(model: impl Step, limits: Limits, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let limits = Limits { slots: limits.slots.max(1), ..limits };
        let (commands, inbox) = mpsc::channel();
        let load = Arc::new(Load::default());
        load.free_blocks.store(limits.blocks, Ordering::Relaxed);
        let (end, ended) = watch::channel(false);
        let (notes, said) = mpsc::sync_channel(STEPS_BEHIND);
        let writer = Writer::new(said, commands.clone(), metrics.clone());
        let masker = Masker::start()?;
        let wires = Wires { inbox, writer: notes, masker, load: load.clone(), metrics: metrics.clone() };
        let worker = Worker::new(model, limits, wires);
        let writer = thread::Builder::new().name("writer".into()).spawn(move || writer.run())?;
        thread::Builder::new().name("engine".into()).spawn(move || {
            worker.run();
            if writer.join().is_err() {
                tracing::error!("the writer's thread panicked");
            }
            end.send_replace(true);
        })?;
        let permits = Arc::new(Semaphore::new(limits.slots + limits.queue + PREPARING));
        Ok(Self { life: Arc::new(Life(commands)), permits, load, limits, metrics, ended })
    }

    /// Asks for the right to submit a job, before any work is spent on it.
    pub fn admit(&self) -> Result<Admission, Busy> {
        if self.load.draining.load(Ordering::Relaxed) {
            return Err(Busy::Draining);
        }
        let full = Refused::QueueFull { slots: self.limits.slots, queue: self.limits.queue };
        let place = self.permits.clone().try_acquire_owned().map_err(|_| Busy::Full(full))?;
        Ok(Admission { _place: Arc::new(place) })
    }

    /// Submits a job; its events follow, the last of them `usage` or `error`.
    pub fn submit(&self, admission: Admission, job: Job) -> Events {
        let (outlet, events) = events::way(self.life.clone(), self.metrics.deliver.clone());
        // A thread that has ended drops the job, and the events say so.
        let _ = self.life.0.send(Command::Run(Box::new(job), outlet, admission));
        events
    }

    pub fn load(&self) -> Snapshot {
        let Load { running, waiting, free_blocks, cached_blocks, tokens_per_second, draining, .. } = &*self.load;
        Snapshot {
            running: running.load(Ordering::Relaxed),
            waiting: waiting.load(Ordering::Relaxed),
            free_blocks: free_blocks.load(Ordering::Relaxed),
            cached_blocks: cached_blocks.load(Ordering::Relaxed),
            tokens_per_second: f64::from_bits(tokens_per_second.load(Ordering::Relaxed)),
            draining: draining.load(Ordering::Relaxed),
        }
    }

    /// Where the prefixes begin that the cache holds, the latest used first: the first 64 bits of the keys of their first
    /// blocks.
    pub fn roots(&self) -> Arc<[u64]> {
        self.load.roots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Admits nothing more, waits until what was admitted is done, at most `patience`, and stops the thread. Requests
    /// that are cut off are told so. True when none was.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.load.draining.store(true, Ordering::Relaxed);
        let all = (self.limits.slots + self.limits.queue + PREPARING) as u32;
        let done = tokio::time::timeout(patience, self.permits.acquire_many(all)).await.is_ok();
        let _ = self.life.0.send(Command::Stop);
        self.ended().await;
        done
    }

    /// Waits until the thread has ended.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the sender is gone, and the thread with it.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
