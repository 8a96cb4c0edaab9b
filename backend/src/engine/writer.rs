//! The second thread: while the model computes the next step, it turns the tokens of the last one into text and events.
//!
//! What the client gets is decided here: where a stop string cuts an answer, tokens that were computed after it are
//! dropped, and the engine is told.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Instant,
};

use littoral_proto::{
    finish,
    v1::{Error, Finished, Started, Usage, event::Kind},
};

use super::{
    Admission, End, Metrics, Outlet,
    voice::{Said, Voice},
    worker::Command,
};

/// Names a request within the engine.
pub type RequestId = u64;

/// What the engine's thread says, in order.
pub enum Note {
    Open(RequestId, Box<Open>),
    /// The request has its first slot; so many prompt tokens were found in the prefix cache.
    Started {
        request: RequestId,
        cached: u32,
    },
    /// The tokens of one step: request, position among its choices.
    Tokens(Vec<(RequestId, usize, Said)>),
    Failed {
        request: RequestId,
        code: &'static str,
        error: Error,
    },
    /// The prompt's vector is given out.
    Embedded(RequestId),
    Cancelled(RequestId),
}

/// A request whose events are still to be sent.
pub struct Open {
    pub request_id: String,
    pub node: String,
    pub seed: u64,
    pub prompt_tokens: u32,
    pub outlet: Arc<Outlet>,
    pub voices: Vec<Voice>,
    pub received: Instant,
    /// Given back when the last event is sent: another request may come in.
    pub admission: Admission,
}

struct Request {
    open: Open,
    cached: u32,
    started: Option<Instant>,
    first_token: Option<Instant>,
    /// Of each answer.
    last_token: Vec<Option<Instant>>,
}

pub struct Writer {
    requests: HashMap<RequestId, Request>,
    notes: Receiver<Note>,
    engine: Sender<Command>,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub fn new(notes: Receiver<Note>, engine: Sender<Command>, metrics: Arc<Metrics>) -> Self {
        Self { requests: HashMap::new(), notes, engine, metrics }
    }

    /// Runs until the engine's thread has ended and all it said is done.
    pub fn run(mut self) {
        while let Ok(note) = self.notes.recv() {
            match note {
                Note::Open(id, open) => {
                    let last_token = vec![None; open.voices.len()];
                    let request = Request { open: *open, cached: 0, started: None, first_token: None, last_token };
                    self.requests.insert(id, request);
                }
                Note::Started { request, cached } => self.started(request, cached),
                Note::Tokens(said) => {
                    let began = Instant::now();
                    said.into_iter().for_each(|(request, at, said)| self.token(request, at, said));
                    self.metrics.write.record(began.elapsed());
                }
                Note::Failed { request, code, error } => {
                    if let Some(Request { open, .. }) = self.requests.get(&request) {
                        open.outlet.send(Kind::Error(error));
                    }
                    self.close(request, End::Failed(code));
                }
                Note::Embedded(request) => self.complete(request, finish::STOP),
                Note::Cancelled(request) => self.close(request, End::Cancelled),
            }
        }
    }

    fn started(&mut self, id: RequestId, cached: u32) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let now = Instant::now();
        (request.started, request.cached) = (Some(now), cached);
        let open = &mut request.open;
        open.outlet.send(Kind::Started(Started {
            node: open.node.clone(),
            prompt_tokens: open.prompt_tokens,
            cached_tokens: cached,
            seed: open.seed,
        }));
        self.metrics.queue.record(now - open.received);
        self.metrics.prompt_tokens.increment(open.prompt_tokens.into());
        self.metrics.prompt_cache_hits.increment(cached.into());
        // What a stream that broke may not have brought of its last token, and of its end.
        let owed = open.voices.iter_mut().flat_map(Voice::owed);
        owed.for_each(|delta| open.outlet.send(Kind::Delta(delta)));
        let over = open.voices.iter().filter_map(|v| Some((v.choice(), v.end()?)));
        over.for_each(|(choice, reason)| open.outlet.send(Kind::Finished(Finished { choice, reason: reason.into() })));
        self.settle(id);
    }

    fn token(&mut self, id: RequestId, at: usize, said: Said) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Some(voice) = request.open.voices.get_mut(at).filter(|v| v.end().is_none()) else { return };
        let (choice, early) = (voice.choice(), said.end.is_none());
        let deltas = voice.say(said);
        let end = voice.end();
        deltas.into_iter().for_each(|delta| request.open.outlet.send(Kind::Delta(delta)));
        let now = Instant::now();
        if let Some(last) = request.last_token[at].replace(now) {
            self.metrics.inter_token.record(now - last);
        }
        if request.first_token.is_none() {
            request.first_token = Some(now);
            self.metrics.time_to_first_token.record(now - request.open.received);
        }
        self.metrics.completion_tokens.increment(1);
        if let Some(reason) = end {
            request.open.outlet.send(Kind::Finished(Finished { choice, reason: reason.into() }));
            if early {
                // A stop string: the engine does not know yet. One that has ended needs not know.
                let _ = self.engine.send(Command::Stopped(id, at));
            }
            self.settle(id);
        }
    }

    /// Ends the request if all its answers have.
    fn settle(&mut self, id: RequestId) {
        let Some(request) = self.requests.get(&id) else { return };
        let open = &request.open;
        let Some(reason) =
            open.voices.iter().map(Voice::end).collect::<Option<Vec<_>>>().and_then(|r| r.first().copied())
        else {
            return;
        };
        self.complete(id, reason);
    }

    /// All that was asked is done: what it took, and no more.
    fn complete(&mut self, id: RequestId, reason: &'static str) {
        let Some(request) = self.requests.get(&id) else { return };
        let open = &request.open;
        open.outlet.send(Kind::Usage(Usage {
            prompt_tokens: open.prompt_tokens,
            completion_tokens: open.voices.iter().map(Voice::tokens).sum(),
            prompt_cache_hit_tokens: request.cached,
            reasoning_tokens: open.voices.iter().map(Voice::reasoning).sum(),
        }));
        self.close(id, End::Finished(reason));
    }

    /// The request is over: one line logged, its place free.
    fn close(&mut self, id: RequestId, end: End) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.metrics.outcome(end.name());
        let open = request.open;
        let since = |at: Option<Instant>| at.map(|at| (at - open.received).as_millis() as u64);
        tracing::info!(
            request_id = open.request_id,
            outcome = end.name(),
            prompt_tokens = open.prompt_tokens,
            cached_tokens = request.cached,
            completion_tokens = open.voices.iter().map(Voice::tokens).sum::<u32>(),
            queue_ms = since(request.started),
            first_token_ms = since(request.first_token),
            total_ms = since(Some(Instant::now())),
            "answered"
        );
        drop(open.admission);
    }
}
