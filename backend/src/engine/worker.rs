//! The engine's thread: commands in, steps, events out.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    },
    time::Instant,
};

use littoral_api::error::code;
use littoral_proto::v1::Error;

use super::{
    Admission, Job, Load, Metrics, Outlet, Step, Task,
    sequence::{DrawError, Parts, Sequence},
    voice::Said,
    writer::{Note, Open, RequestId},
};
use crate::{
    grammar::Masker,
    model::{Logits, Segment, StepError, panic_message},
    sample::{Picked, SampleError, Sampler},
    schedule::{Ask, Beginning, Id, Limits, Pace, Plan, Prefix, Refused, Rows, Scheduler},
};

/// After so many steps in a row in which the device failed, the model is given up: the thread ends, and others can
/// take over. A single failure may be the fault of what was asked.
const GIVE_UP: u32 = 3;

/// What reaches the thread.
pub enum Command {
    Run(Box<Job>, Outlet, Admission),
    /// A reader has made room, or has gone.
    Wake,
    /// A stop string ended this choice of a request.
    Stopped(RequestId, usize),
    /// End the thread, and with an error what still runs.
    Stop,
}

/// A request of which something still runs or waits.
struct Request {
    outlet: Arc<Outlet>,
    /// The sequences of its choices.
    open: Vec<Id>,
    prompt: usize,
    deadline: Option<Instant>,
    started: bool,
}

/// What a step brought a sequence.
enum Outcome {
    /// Its rows are in the cache.
    Nothing,
    Vector(Vec<f32>),
    /// Tokens after the last known one and behind drafts.
    Drawn(Vec<Result<Picked, SampleError>>),
    /// Nothing could be drawn.
    Refused(DrawError),
}

/// The engine's own thread.
pub(super) struct Worker<M> {
    model: M,
    scheduler: Scheduler,
    pace: Pace,
    requests: BTreeMap<RequestId, Request>,
    sequences: HashMap<Id, Sequence>,
    inbox: Receiver<Command>,
    writer: SyncSender<Note>,
    masker: Masker,
    load: Arc<Load>,
    metrics: Arc<Metrics>,
    next_id: u64,
    /// Version of the roots that were told last.
    roots: (u64, u64),
    /// Tokens a second of the steps of late.
    speed: f64,
    /// Steps in a row in which the device failed.
    failures: u32,
}

/// What connects the thread with the world.
pub(super) struct Wires {
    pub inbox: Receiver<Command>,
    pub writer: SyncSender<Note>,
    pub masker: Masker,
    pub load: Arc<Load>,
    pub metrics: Arc<Metrics>,
}

impl<M: Step> Worker<M> {
    pub fn new(model: M, limits: Limits, wires: Wires) -> Self {
        let Wires { inbox, writer, masker, load, metrics } = wires;
        metrics.blocks.set(limits.blocks as f64);
        Self {
            model,
            scheduler: Scheduler::new(limits),
            pace: Pace::default(),
            requests: BTreeMap::new(),
            sequences: HashMap::new(),
            inbox,
            writer,
            masker,
            load,
            metrics,
            next_id: 0,
            roots: (0, 0),
            speed: 0.0,
            failures: 0,
        }
    }

    /// Runs until it is told to stop, nobody is left who could ask for anything, or the device is given up.
    pub fn run(mut self) {
        let mut idle = true;
        while self.failures < GIVE_UP && self.listen(idle) {
            self.sweep();
            let plan = self.plan();
            idle = plan.rows.is_empty() && plan.preempted.is_empty();
            if !plan.rows.is_empty() {
                self.step(&plan.rows);
            }
            self.publish();
        }
        let gone: Vec<RequestId> = self.requests.keys().copied().collect();
        for id in gone {
            self.fail(id, code::OVERLOADED, "the node is stopping; another node can go on", true);
        }
        self.publish();
    }

    /// Takes in what has come; with nothing to do, waits for it, until the nearest deadline at most. False to stop.
    fn listen(&mut self, idle: bool) -> bool {
        if idle {
            let nearest = self.requests.values().filter_map(|r| r.deadline).min();
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
            Command::Run(job, outlet, admission) => self.submit(*job, outlet, admission),
            Command::Wake => {}
            Command::Stopped(request, at) => {
                if let Some(id) = self.sequence_of(request, at) {
                    self.over(id);
                }
            }
            Command::Stop => return false,
        }
        true
    }

    fn submit(&mut self, job: Job, outlet: Outlet, admission: Admission) {
        self.next_id += 1;
        let request = self.next_id;
        let outlet = Arc::new(outlet);
        let Job { request_id, node, prompt, prefix, task, max_tokens, sampling, speculate, ends, received, deadline } =
            job;
        let (choices, vector) = match task {
            Task::Answer(choices) => (choices, None),
            Task::Embed(vector) => (Vec::new(), Some(vector)),
        };
        let mut voices = Vec::with_capacity(choices.len());
        let mut sequences = Vec::with_capacity(choices.len().max(1));
        if vector.is_some() {
            let (sampler, tokens) = (Sampler::new(sampling.clone(), 0, &[]), prompt.clone());
            let (constraint, speculate, ends) = (None, None, ends.clone());
            let parts = Parts { request, at: 0, tokens, sampler, constraint, speculate, max_tokens: 0, ends, vector };
            sequences.push(Sequence::new(parts, &self.masker));
        }
        for (at, choice) in choices.into_iter().enumerate() {
            if choice.voice.end().is_none() {
                let mut sampler = Sampler::new(sampling.clone(), choice.index, &prompt);
                choice.resumed.iter().for_each(|id| sampler.accept(*id));
                let tokens = [prompt.as_slice(), &choice.resumed].concat();
                let (constraint, ends) = (choice.constraint, ends.clone());
                let vector = None;
                let parts = Parts { request, at, tokens, sampler, constraint, speculate, max_tokens, ends, vector };
                sequences.push(Sequence::new(parts, &self.masker));
            }
            voices.push(choice.voice);
        }
        let (prompt_tokens, seed) = (prompt.len() as u32, sampling.seed);
        let open = Open { request_id, node, seed, prompt_tokens, outlet: outlet.clone(), voices, received, admission };
        self.note(Note::Open(request, Box::new(open)));
        if sequences.is_empty() {
            // The stream broke between its last token and its end.
            return self.note(Note::Started { request, cached: 0 });
        }
        let open = Vec::with_capacity(sequences.len());
        self.requests.insert(request, Request { outlet, open, prompt: prompt.len(), deadline, started: false });
        for sequence in sequences {
            if !self.enqueue(sequence, &prefix) {
                break;
            }
        }
    }

    /// Puts one choice in line; false when its request has failed over it.
    fn enqueue(&mut self, sequence: Sequence, prefix: &Prefix) -> bool {
        self.next_id += 1;
        let (id, request) = (self.next_id, sequence.request);
        let mut prefix = prefix.clone();
        prefix.extend(&sequence.tokens, self.scheduler.limits().block_tokens);
        let known = sequence.tokens.len();
        let prompt = self.requests.get(&request).map_or(known, |r| r.prompt);
        match self.scheduler.submit(id, Beginning { known, prompt, prefix }) {
            Ok(displaced) => {
                self.sequences.insert(id, sequence);
                self.requests.entry(request).and_modify(|r| r.open.push(id));
                if let Some(loser) = displaced.and_then(|id| self.sequences.get(&id)).map(|s| s.request) {
                    let message = "another user's request took this one's place in the queue; please try again";
                    self.fail(loser, code::OVERLOADED, message, true);
                }
                true
            }
            Err(refused @ Refused::QueueFull { .. }) => {
                self.fail(request, code::OVERLOADED, refused.to_string(), true);
                false
            }
            Err(refused @ Refused::TooLong { .. }) => {
                self.fail(request, code::CONTEXT_LENGTH_EXCEEDED, refused.to_string(), false);
                false
            }
        }
    }

    /// The next step, and what it says of who got and who lost a slot.
    fn plan(&mut self) -> Plan {
        let began = Instant::now();
        let prompt_rows = self.pace.prompt_rows(self.scheduler.limits().rows());
        let drafts: HashMap<Id, usize> = self
            .sequences
            .iter_mut()
            .filter(|(id, _)| self.scheduler.is_running(**id))
            .map(|(id, sequence)| (*id, sequence.draft()))
            .filter(|(_, drafts)| *drafts > 0)
            .collect();
        let (sequences, requests) = (&self.sequences, &self.requests);
        let ready = |id| {
            let request = sequences.get(&id).and_then(|s: &Sequence| requests.get(&s.request));
            request.is_some_and(|r| r.outlet.has_room())
        };
        let plan = self
            .scheduler
            .plan(prompt_rows, |id| Ask { ready: ready(id), drafts: drafts.get(&id).copied().unwrap_or(0) });
        for admitted in &plan.admitted {
            let Some(id) = self.sequences.get(&admitted.id).map(|s| s.request) else { continue };
            let Some(request) = self.requests.get_mut(&id).filter(|r| !r.started) else { continue };
            request.started = true;
            let cached = admitted.cached.min(request.prompt) as u32;
            self.note(Note::Started { request: id, cached });
        }
        self.metrics.preemptions.increment(plan.preempted.len() as u64);
        if !plan.rows.is_empty() {
            self.metrics.schedule.record(began.elapsed());
        }
        plan
    }

    /// Ends what nobody reads any more, and what is past its deadline.
    fn sweep(&mut self) {
        let now = Instant::now();
        let gone: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| r.outlet.is_closed()).map(|(id, _)| *id).collect();
        for request in gone {
            self.drop_request(request);
            self.note(Note::Cancelled(request));
        }
        let late = self.requests.iter().filter(|(_, r)| r.deadline.is_some_and(|d| d <= now));
        for request in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.fail(request, code::DEADLINE_EXCEEDED, "the answer was not complete at the request's deadline", false);
        }
    }

    fn step(&mut self, plan: &[Rows]) {
        let began = Instant::now();
        let result = self.compute(plan);
        let took = began.elapsed();
        self.metrics.step.record(took);
        self.metrics.batch.record(plan.len() as f64);
        if let Some(spent) = self.model.spent() {
            self.metrics.parts.iter().zip(spent).for_each(|(part, spent)| part.record(spent));
        }
        match result {
            Ok(outcomes) => {
                self.failures = 0;
                let reading: usize = plan.iter().filter(|r| r.count > 1 && r.drafts == 0).map(|r| r.count).sum();
                let writing = plan.iter().filter(|r| r.count == 1 || r.drafts > 0).count();
                self.pace.observe(writing, reading, took.as_secs_f64());
                let mut said = Vec::with_capacity(plan.len());
                plan.iter().zip(outcomes).for_each(|(rows, outcome)| self.take_in(rows, outcome, &mut said));
                let speed = said.len() as f64 / took.as_secs_f64().max(1e-9);
                self.speed = if self.speed == 0.0 { speed } else { 0.9 * self.speed + 0.1 * speed };
                if !said.is_empty() {
                    self.note(Note::Tokens(said));
                }
            }
            Err(error) => self.failed(plan, &error),
        }
    }

    /// Has the model run a step and draw from what it computed; what came of each of the plan's rows.
    fn compute(&mut self, plan: &[Rows]) -> Result<Vec<Outcome>, StepError> {
        let Self { model, sequences, scheduler, masker, .. } = self;
        for rows in plan.iter().filter(|rows| rows.drafts > 0) {
            if let Some(sequence) = sequences.get_mut(&rows.id) {
                sequence.look_ahead(rows.drafts, masker);
            }
        }
        let inputs: Vec<Vec<u32>> = plan
            .iter()
            .filter_map(|rows| sequences.get(&rows.id)?.input(rows.start, rows.count, rows.drafts))
            .collect();
        let segments = plan.iter().zip(&inputs).map(|(rows, tokens)| Segment {
            tokens,
            start: rows.start,
            blocks: scheduler.blocks(rows.id),
            logits: match (rows.last, rows.drafts) {
                (false, _) => Logits::None,
                (true, 0) => Logits::Last,
                (true, _) => Logits::All,
            },
        });
        let segments: Vec<Segment> = segments.collect();
        if segments.len() != plan.len() {
            return Err(StepError::Input("a sequence has lost its tokens".into()));
        }
        guarded(|| model.forward(&segments))?;
        let forwarded = Instant::now();
        if plan.iter().any(|rows| sequences.get(&rows.id).is_some_and(|sequence| sequence.vector.is_some())) {
            let read = guarded(|| model.read(&segments))?;
            return Ok(read.into_iter().map(|vector| vector.map_or(Outcome::Nothing, Outcome::Vector)).collect());
        }
        // How many draws each sequence has.
        let prepared = plan.iter().map(|rows| match sequences.get_mut(&rows.id).filter(|_| rows.last) {
            None => Ok(0),
            Some(sequence) => sequence.prepare(rows.drafts),
        });
        let prepared: Vec<Result<usize, DrawError>> = prepared.collect();
        let mut draws = Vec::with_capacity(plan.len());
        let mut row = 0;
        for ((rows, segment), prepared) in plan.iter().zip(&segments).zip(&prepared) {
            row += segment.wanted();
            if let (Ok(1..), Some(sequence)) = (prepared, sequences.get(&rows.id)) {
                draws.extend(sequence.draws(row - rows.drafts - 1));
            }
        }
        let mut picked = guarded(|| model.draw(&draws))?;
        if picked.len() != draws.len() {
            return Err(StepError::Device(format!("{} tokens of {} draws", picked.len(), draws.len())));
        }
        self.metrics.sample.record(forwarded.elapsed());
        let outcomes = prepared.into_iter().map(|prepared| match prepared {
            Ok(0) => Outcome::Nothing,
            Ok(count) => Outcome::Drawn(picked.drain(..count).collect()),
            Err(error) => Outcome::Refused(error),
        });
        Ok(outcomes.collect())
    }

    /// A step failed. Its own error goes to a request that is known to be at fault; when that is not known, the newer
    /// half of the step waits for another slot, so that what the device cannot do for many is tried for fewer.
    fn failed(&mut self, plan: &[Rows], error: &StepError) {
        tracing::error!(%error, sequences = plan.len(), "a step failed");
        match error {
            StepError::NotFinite { segment } if *segment < plan.len() => {
                self.fail_sequence(plan[*segment].id, error.to_string());
            }
            _ if plan.len() > 1 => {
                let mut ids: Vec<Id> = plan.iter().map(|rows| rows.id).collect();
                ids.sort_unstable();
                for id in &ids[ids.len().div_ceil(2)..] {
                    self.scheduler.yield_slot(*id);
                    self.metrics.preemptions.increment(1);
                }
                // Nobody takes the slots until fewer have been tried.
                let fewer: Vec<Rows> = plan.iter().filter(|rows| self.scheduler.is_running(rows.id)).copied().collect();
                self.step(&fewer);
            }
            _ => {
                self.failures = if matches!(error, StepError::Device(_)) { self.failures + 1 } else { 0 };
                for rows in plan {
                    self.fail_sequence(rows.id, error.to_string());
                }
            }
        }
    }

    /// One sequence's part of a step that ran.
    fn take_in(&mut self, rows: &Rows, outcome: Outcome, said: &mut Vec<(RequestId, usize, Said)>) {
        let Some(sequence) = self.sequences.get_mut(&rows.id) else { return };
        if !rows.last {
            return self.scheduler.advance(rows, rows.count, &sequence.tokens);
        }
        let drawn = match outcome {
            Outcome::Nothing => return self.fail_sequence(rows.id, "the model computed nothing".into()),
            Outcome::Vector(vector) => {
                let (request, wants) = (sequence.request, sequence.vector.take());
                self.scheduler.advance(rows, rows.count, &sequence.tokens);
                self.over(rows.id);
                if let Some(wants) = wants {
                    // Whoever has gone needs no vector.
                    let _ = wants.send(vector);
                }
                return self.note(Note::Embedded(request));
            }
            Outcome::Refused(error) => Err(error),
            Outcome::Drawn(picked) => sequence.extend(picked.into_iter(), rows.drafts, &self.masker),
        };
        match drawn {
            Err(DrawError::Sample(error)) => self.fail_sequence(rows.id, error.to_string()),
            Err(DrawError::Grammar(error)) => {
                let request = sequence.request;
                self.fail(request, code::INVALID_REQUEST, error.to_string(), false);
            }
            Ok(tokens) => {
                self.metrics.drafted.increment(rows.drafts as u64);
                self.metrics.accepted.increment(tokens.len() as u64 - 1);
                let kept = rows.count - rows.drafts + tokens.len() - 1;
                self.scheduler.advance(rows, kept, &sequence.tokens);
                let over = tokens.last().is_some_and(|t| t.end.is_some());
                said.extend(tokens.into_iter().map(|token| (sequence.request, sequence.at, token)));
                if over {
                    self.over(rows.id);
                }
            }
        }
    }

    fn sequence_of(&self, request: RequestId, at: usize) -> Option<Id> {
        let open = &self.requests.get(&request)?.open;
        open.iter().copied().find(|id| self.sequences.get(id).is_some_and(|s| s.at == at))
    }

    /// A sequence came to its end: its slot and blocks are free.
    fn over(&mut self, id: Id) {
        self.scheduler.remove(id);
        let Some(sequence) = self.sequences.remove(&id) else { return };
        let Some(request) = self.requests.get_mut(&sequence.request) else { return };
        request.open.retain(|open| *open != id);
        if request.open.is_empty() {
            self.requests.remove(&sequence.request);
        }
    }

    /// Frees all that a request holds.
    fn drop_request(&mut self, request: RequestId) {
        for id in self.requests.remove(&request).map(|r| r.open).unwrap_or_default() {
            self.scheduler.remove(id);
            self.sequences.remove(&id);
        }
    }

    fn fail_sequence(&mut self, id: Id, message: String) {
        if let Some(request) = self.sequences.get(&id).map(|s| s.request) {
            self.fail(request, code::INTERNAL, message, true);
        }
    }

    fn fail(&mut self, request: RequestId, code: &'static str, message: impl Into<String>, retryable: bool) {
        self.drop_request(request);
        let error = Error { code: code.into(), message: message.into(), retryable };
        self.note(Note::Failed { request, code, error });
    }

    /// Tells the writer. It waits while the writer is some steps behind.
    fn note(&mut self, note: Note) {
        if self.writer.send(note).is_err() {
            tracing::error!("the writer's thread has ended");
            self.failures = GIVE_UP;
        }
    }

    fn publish(&mut self) {
        if let Some(roots) = self.scheduler.roots(&mut self.roots) {
            *self.load.roots.lock().unwrap_or_else(PoisonError::into_inner) = roots.into();
        }
        let (scheduler, load) = (&self.scheduler, &self.load);
        load.running.store(scheduler.running(), Ordering::Relaxed);
        load.waiting.store(scheduler.waiting(), Ordering::Relaxed);
        load.free_blocks.store(scheduler.pool().available(), Ordering::Relaxed);
        load.cached_blocks.store(scheduler.pool().kept(), Ordering::Relaxed);
        let speed = if scheduler.running() > 0 { self.speed } else { 0.0 };
        load.tokens_per_second.store(speed.to_bits(), Ordering::Relaxed);
        self.metrics.running.set(scheduler.running() as f64);
        self.metrics.waiting.set(scheduler.waiting() as f64);
        self.metrics.blocks_used.set(scheduler.pool().used() as f64);
        self.metrics.blocks_kept.set(scheduler.pool().kept() as f64);
    }
}

/// The model's work; a panic is a failure of the device.
fn guarded<T>(work: impl FnOnce() -> Result<T, StepError>) -> Result<T, StepError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(StepError::Device(panic_message(panic.as_ref()))))
}
