//! The node as both doors see it: a request goes in, a stream of events comes out.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use littoral_api::error::code;
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{self, Error, GenerateRequest, NodeInfo};

use super::Settings;
use crate::{
    engine::{Engine, Events, Job, Metrics, Spelling},
    model::{Chat, ModelInfo},
    sample::Sampler,
    text::{ChatTemplate, Detokenizer, Tokenizer},
};

/// A loaded model behind its engine.
pub struct Node {
    /// How this node is called in `started`, in logs and in the fleet.
    pub name: String,
    /// The name clients ask for.
    pub model: String,
    /// When the model was loaded, Unix seconds.
    pub created: u64,
    pub device: String,
    pub info: ModelInfo,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    pub engine: Engine,
}

impl Node {
    /// Starts the engine of a loaded model.
    pub fn start(loaded: Chat, settings: Settings, metrics: Metrics) -> std::io::Result<Arc<Self>> {
        let Chat { model, tokenizer, template } = loaded;
        let (info, device) = (model.info().clone(), model.device().to_string());
        let engine = Engine::start(model, settings.limits(info.context_length), Arc::new(metrics))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Settings { node: name, model, .. } = settings;
        Ok(Arc::new(Self { name, model, created, device, info, tokenizer, template, engine }))
    }

    /// Answers one request. Never fails: what goes wrong is the stream's only, or last, event.
    pub async fn generate(self: &Arc<Self>, request: GenerateRequest) -> Events {
        let received = Instant::now();
        let request_id = request.request_id.clone();
        match self.open(request, received).await {
            Ok(events) => events,
            Err(error) => {
                self.engine.metrics().outcome(&error.code);
                tracing::info!(request_id, outcome = error.code, message = error.message, "refused");
                Events::failed(error)
            }
        }
    }

    async fn open(self: &Arc<Self>, request: GenerateRequest, received: Instant) -> Result<Events, Error> {
        if request.model != self.model {
            let message = format!("this node serves '{}', not '{}'", self.model, request.model);
            return Err(error(code::MODEL_NOT_FOUND, message, true));
        }
        let admission = self.engine.admit().map_err(|busy| error(code::OVERLOADED, busy.to_string(), true))?;
        // Templates and tokenizers take their time over long prompts. The admission goes along, so that a client that
        // gives up does not make room for more of this work than the node admits.
        let node = self.clone();
        let prepared = tokio::task::spawn_blocking(move || (node.prepare(request, received), admission)).await;
        let (job, admission) =
            prepared.map_err(|e| error(code::INTERNAL, format!("the prompt was not read: {e}"), true))?;
        Ok(self.engine.submit(admission, job?))
    }

    /// The request as a job: parsed, templated, tokenised, checked against the context.
    fn prepare(&self, request: GenerateRequest, received: Instant) -> Result<Job, Error> {
        let invalid = |message: String| error(code::INVALID_REQUEST, message, false);
        let chat = ChatRequest::canonical(&request.request)
            .map_err(|e| invalid(format!("the request is not canonical chat JSON: {e}")))?;
        let prompt = self.template.encode(&self.tokenizer, &chat.messages).map_err(|e| invalid(e.to_string()))?;
        let room = self.engine.limits().room();
        if prompt.len() >= room {
            return Err(error(code::CONTEXT_LENGTH_EXCEEDED, too_long(prompt.len(), room, &self.info), false));
        }
        let resumed = self.resumed(request.resume_from).map_err(invalid)?;
        let detokenizer = Detokenizer::new(self.tokenizer.clone());
        Ok(Job {
            request_id: request.request_id,
            node: self.name.clone(),
            max_tokens: chat.max_tokens.map_or(room, |n| n as usize).clamp(1, room - prompt.len()),
            prompt,
            resumed,
            sampler: Sampler {
                temperature: chat.temperature,
                top_p: chat.top_p,
                seed: request.seed.or(chat.seed).unwrap_or_else(rand::random),
                choice: 0,
            },
            stops: chat.stop,
            spelling: Box::new(Speller { detokenizer, tokenizer: self.tokenizer.clone() }),
            received,
            deadline: (request.deadline_ms > 0)
                .then(|| received.checked_add(Duration::from_millis(request.deadline_ms)))
                .flatten(),
        })
    }

    /// The tokens of choice 0 that were sent before.
    fn resumed(&self, resume: Vec<v1::Resume>) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        for part in resume {
            if part.choice != 0 {
                return Err(format!("resume_from names choice {}; there is one choice, 0", part.choice));
            }
            tokens.extend(part.token_ids);
        }
        match tokens.iter().find(|id| **id as usize >= self.info.vocab) {
            Some(id) => Err(format!("resume_from has token {id}; the vocabulary has {} tokens", self.info.vocab)),
            None => Ok(tokens),
        }
    }

    /// What the node is and how much it has to do.
    pub fn describe(&self) -> NodeInfo {
        let load = self.engine.load();
        NodeInfo {
            node: self.name.clone(),
            device: self.device.clone(),
            models: vec![v1::Model {
                name: self.model.clone(),
                revision: self.info.revision.clone(),
                context_length: self.engine.limits().room() as u32,
                created: self.created,
            }],
            running: load.running as u32,
            queued: load.waiting as u32,
            slots: self.engine.limits().slots as u32,
            free_blocks: load.free_blocks as u64,
            draining: load.draining,
        }
    }

    /// `system_fingerprint` of answers: what could change them.
    pub fn fingerprint(&self) -> String {
        let revision = &self.info.revision;
        format!("fp_{}", revision.get(..12).unwrap_or(revision))
    }
}

fn error(code: &str, message: impl Into<String>, retryable: bool) -> Error {
    Error { code: code.into(), message: message.into(), retryable }
}

fn too_long(prompt: usize, room: usize, info: &ModelInfo) -> String {
    let why = if room < info.context_length { "this node's KV cache holds" } else { "the model's context holds" };
    format!("the prompt has {prompt} tokens; {why} {room}, prompt and answer together: please shorten the messages")
}

/// The tokenizer's part in one answer.
struct Speller {
    detokenizer: Detokenizer,
    tokenizer: Arc<Tokenizer>,
}

impl Spelling for Speller {
    fn push(&mut self, id: u32) -> Option<String> {
        self.detokenizer.push(id)
    }

    fn finish(&mut self) -> Option<String> {
        self.detokenizer.finish()
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.is_end(id)
    }
}
