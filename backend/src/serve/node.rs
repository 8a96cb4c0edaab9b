//! The node as both doors see it: a request goes in, a stream of events comes out.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use littoral_api::error::code;
use littoral_core::chat::{ChatRequest, LEAST_REPETITION_PENALTY, MAX_N, ResponseFormat, Thinking};
use littoral_proto::v1::{self, Error, GenerateRequest, NodeInfo, Speculation};
use tokio::sync::Semaphore;

use super::{Settings, texts::Desk};
use crate::{
    engine::{Choice, Constraint, Engine, Events, Job, Metrics, Speech, Spelling, Task, Voice, end_of},
    grammar::{Grammars, Spec},
    model::{ModelInfo, Servable},
    sample::Sampling,
    schedule::{Key, Prefix},
    speak::{Format, Parser},
    speculate::Eagerness,
    text::{ChatTemplate, Detokenizer, Prompt, Tokenizer},
};

/// The API's bounds, which edges hold requests to, for those that come without one: with more a logit may be no number any
/// more.
const MOST_BIAS: f64 = 100.0;
const MOST_PENALTY: f64 = 2.0;

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
    /// Of a model that converses.
    pub template: Option<ChatTemplate>,
    /// How the model writes reasoning and calls; None for one that does neither.
    pub format: Option<&'static Format>,
    /// Tokens without text of their own that the format looks for, and how they are written.
    pub marks: Arc<[(u32, String)]>,
    pub grammars: Grammars,
    /// Whether tokens are drafted.
    pub speculate: bool,
    pub engine: Engine,
    pub(super) desk: Desk,
    /// Inputs of which vectors are made at once.
    pub(super) embedding: Semaphore,
}

impl Node {
    /// Starts the engine of a loaded model.
    pub fn start(loaded: Servable, settings: Settings, metrics: Metrics) -> std::io::Result<Arc<Self>> {
        let Servable { model, tokenizer, template } = loaded;
        let (info, device) = (model.info().clone(), model.device().to_string());
        let engine = Engine::start(model, settings.limits(&info), Arc::new(metrics))?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Settings { node: name, model, speculate, .. } = settings;
        let format = template.as_ref().and_then(|template| Format::of(&template.source()));
        let marks = marks(format, &tokenizer);
        let words = tokenizer.clone();
        let vocabulary = move || (0..words.vocab() as u32).map(|id| words.bytes(id).to_vec()).collect();
        let embedding = Semaphore::new(engine.limits().slots);
        let grammars = Grammars::new(vocabulary, tokenizer.ends().into());
        Ok(Arc::new(Self {
            name,
            model,
            created,
            device,
            info,
            tokenizer,
            template,
            format,
            marks,
            grammars,
            speculate,
            engine,
            desk: Desk::default(),
            embedding,
        }))
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
        let speculate = self.eagerness(request.speculation).map_err(invalid)?;
        let chat = ChatRequest::canonical(&request.request)
            .map_err(|e| invalid(format!("the request is not canonical chat JSON: {e}")))?;
        let prompt = self.prompt(&chat).map_err(invalid)?;
        let room = self.engine.limits().room();
        if prompt.len() >= room {
            return Err(error(code::CONTEXT_LENGTH_EXCEEDED, too_long(prompt.len(), room, &self.info), false));
        }
        let scope = Key::scope(&request.tenant, chat.user_id.as_deref());
        // Who names no user in the request is the user of its key.
        let user = chat.user_id.as_deref().or(Some(request.user.as_str()).filter(|user| !user.is_empty()));
        let asker = Key::scope(&request.tenant, user);
        let prefix = Prefix::of(scope, &prompt, self.engine.limits().block_tokens).asked_by(asker);
        let max_tokens = chat.max_tokens.map_or(room, |n| n as usize).clamp(1, room - prompt.len());
        self.fits(&chat, prompt.len(), max_tokens)?;
        let sampling = self.sampling(&chat, request.seed).map_err(invalid)?;
        let resumed = self.resumed(request.resume_from, sampling.n)?;
        let ends = self.tokenizer.ends();
        let constraint = self.constraint(&chat, &prompt).map_err(invalid)?;
        let choices = (0..).zip(resumed).map(|(index, Resumed { tokens: resumed, text })| {
            let spelling = Speller {
                detokenizer: Detokenizer::new(self.tokenizer.clone()),
                tokenizer: self.tokenizer.clone(),
                marks: self.marks.clone(),
            };
            let mut voice = Voice::new(index, Box::new(spelling), chat.stop.clone(), self.speech(&chat, &prompt));
            let mut sent = resumed.iter().zip(1..).map(|(id, count)| (*id, end_of(*id, count, max_tokens, ends)));
            match text {
                None => sent.for_each(|(id, end)| voice.replay(id, end)),
                Some(text) if voice.replay_text(&text, &mut sent) => {}
                Some(_) => return Err(unspeakable()),
            }
            let mut constraint =
                constraint.as_ref().map(|c| self.grammars.get(&c.0).map(|grammar| Constraint { grammar, after: c.1 }));
            if let Some(Ok(constraint)) = &mut constraint {
                let accepted = resumed.iter().try_for_each(|id| constraint.accept(*id).map(drop));
                accepted.map_err(|e| invalid(e.to_string()))?;
            }
            let constraint = constraint.transpose().map_err(|e| invalid(e.to_string()))?;
            Ok(Choice { index, resumed, voice, constraint })
        });
        let task = Task::Answer(choices.collect::<Result<_, Error>>()?);
        Ok(Job {
            request_id: request.request_id,
            node: self.name.clone(),
            max_tokens,
            task,
            prompt,
            prefix,
            sampling: Arc::new(sampling.how),
            speculate,
            ends: ends.into(),
            received,
            deadline: (request.deadline_ms > 0)
                .then(|| received.checked_add(Duration::from_millis(request.deadline_ms)))
                .flatten(),
        })
    }

    /// Whether tokens are drafted: as the request says, else as the node was started.
    fn eagerness(&self, asked: i32) -> Result<Option<Eagerness>, String> {
        match Speculation::try_from(asked) {
            Ok(Speculation::Auto) => Ok(self.speculate.then_some(Eagerness::WhenRight)),
            Ok(Speculation::On) => Ok(Some(Eagerness::Always)),
            Ok(Speculation::Off) => Ok(None),
            Err(_) => Err(format!("'speculation' is 0 (auto), 1 (on) or 2 (off), not {asked}")),
        }
    }

    /// The conversation as the model reads it.
    pub(super) fn prompt(&self, chat: &ChatRequest) -> Result<Vec<u32>, String> {
        let Some(template) = &self.template else {
            return Err(format!("the model '{}' makes vectors of texts and holds no conversations", self.model));
        };
        let tools = if chat.tool_choice.is_none() { &[] } else { chat.tools.as_slice() };
        if !tools.is_empty() && self.format.is_none_or(|f| f.calls.is_none()) {
            return Err(format!("the model '{}' knows no tools", self.model));
        }
        let mut prompt = Prompt::new(&chat.messages);
        if !tools.is_empty() {
            prompt = prompt.tools(&tools);
        }
        if let Some(thinking) = chat.thinking.map(|t| t == Thinking::ENABLED) {
            // DeepSeek's templates and Qwen's ask by different names.
            prompt = prompt.variable("thinking", &thinking).variable("enable_thinking", &thinking);
        }
        template.encode_prompt(&self.tokenizer, &prompt).map_err(|e| e.to_string())
    }

    /// What takes the model's answer apart, if its format has parts.
    fn speech(&self, chat: &ChatRequest, prompt: &[u32]) -> Option<Speech> {
        let format = self.format?;
        let thinking = self.opened(prompt).is_some();
        // An answer that has a form is that from its first character to its last.
        let none = chat.tool_choice.is_none()
            || !chat.response_format.is_text() && chat.tool_choice.required(&chat.tools).is_none();
        let tools = if none { &[] } else { chat.tools.as_slice() };
        let name = |tool: &serde_json::Value| tool["function"]["name"].as_str().map(str::to_owned);
        let functions = tools.iter().filter_map(name).collect();
        Some(Speech { parser: Parser::new(format, thinking, functions), nonce: rand::random() })
    }

    /// The grammar of the answer, and the token after which it begins to hold.
    fn constraint(&self, chat: &ChatRequest, prompt: &[u32]) -> Result<Option<(Spec, Option<u32>)>, String> {
        let spec = match (chat.tool_choice.required(&chat.tools), &chat.response_format) {
            (Some(functions), _) => {
                let token = |mark: &str| self.marks.iter().find(|(_, text)| text == mark).map(|(id, _)| *id);
                let spec = self.format.map(|format| Spec::call(format, &functions, &token)).transpose();
                let spec = spec.map_err(|e| e.to_string())?.flatten();
                spec.ok_or_else(|| format!("the model '{}' cannot be made to call a tool", self.model))?
            }
            (None, ResponseFormat::Text) => return Ok(None),
            (None, ResponseFormat::JsonObject) => Spec::JsonObject,
            (None, ResponseFormat::JsonSchema { json_schema }) => {
                Spec::json_schema(&json_schema.schema).map_err(|e| e.to_string())?
            }
            (None, ResponseFormat::Regex { regex }) => Spec::Regex(regex.clone()),
        };
        let Some((_, close)) = self.opened(prompt) else { return Ok(Some((spec, None))) };
        match self.tokenizer.encode(close).as_slice() {
            // A tokenizer may put its first token before the mark.
            [.., id] if self.tokenizer.bytes(*id) == close.as_bytes() || self.tokenizer.bytes(*id).is_empty() => {
                Ok(Some((spec, Some(*id))))
            }
            _ => Err(format!("the model '{}' cannot hold an answer to a form after it has reasoned", self.model)),
        }
    }

    /// The marks of the reasoning that the prompt has opened.
    fn opened(&self, prompt: &[u32]) -> Option<(&'static str, &'static str)> {
        let format = self.format?;
        let mark = |id: &u32| self.marks.iter().find(|(mark, _)| mark == id).map(|(_, text)| text.clone());
        let last = &prompt[prompt.len().saturating_sub(8)..];
        let tail: String = last.iter().map(|id| mark(id).unwrap_or_else(|| self.tokenizer.decode(&[*id]))).collect();
        let [open, close] = format.think.as_ref().filter(|_| format.opens_reasoning(&tail))?;
        Some((open, close))
    }

    /// Several answers need places, and of a length that was asked for must fit in the KV cache, together.
    fn fits(&self, chat: &ChatRequest, prompt: usize, max_tokens: usize) -> Result<(), Error> {
        let (limits, n) = (self.engine.limits(), chat.sampling.n as usize);
        let places = limits.slots + limits.queue;
        if n > places {
            let message = format!("this node takes {places} answers at once, running and waiting: please lower 'n'");
            return Err(error(code::INVALID_REQUEST, message, false));
        }
        let needed = n.saturating_mul((prompt + max_tokens).div_ceil(limits.block_tokens));
        if n == 1 || chat.max_tokens.is_none() || needed <= limits.blocks {
            return Ok(());
        }
        let message = format!(
            "{n} answers of {max_tokens} tokens after a prompt of {prompt} do not fit in the {} tokens of this node's KV \
             cache: please lower 'n' or 'max_tokens'",
            limits.blocks * limits.block_tokens
        );
        Err(error(code::CONTEXT_LENGTH_EXCEEDED, message, false))
    }

    fn sampling(&self, chat: &ChatRequest, seed: Option<u64>) -> Result<Wanted, String> {
        let asked = &chat.sampling;
        if asked.n > MAX_N {
            return Err(format!("'n' must be 1..{MAX_N}, not {}", asked.n));
        }
        if asked.repetition_penalty < LEAST_REPETITION_PENALTY {
            return Err(format!("'repetition_penalty' must be {LEAST_REPETITION_PENALTY} or more"));
        }
        let mut logit_bias = Vec::with_capacity(asked.logit_bias.len());
        for (id, bias) in &asked.logit_bias {
            let known = id.parse::<u32>().ok().filter(|id| (*id as usize) < self.info.vocab);
            let unknown = || format!("logit_bias names token {id}; the vocabulary has {} tokens", self.info.vocab);
            if !(-MOST_BIAS..=MOST_BIAS).contains(bias) {
                return Err(format!("'logit_bias' of token {id} must be -{MOST_BIAS}..{MOST_BIAS}, not {bias}"));
            }
            logit_bias.push((known.ok_or_else(unknown)?, *bias as f32));
        }
        for (name, penalty) in [
            ("repetition_penalty", asked.repetition_penalty),
            ("frequency_penalty", asked.frequency_penalty),
            ("presence_penalty", asked.presence_penalty),
        ] {
            if penalty.abs() > MOST_PENALTY {
                return Err(format!("'{name}' must be {MOST_PENALTY} or less, not {penalty}"));
            }
        }
        let how = Sampling {
            seed: seed.or(chat.seed).unwrap_or_else(rand::random),
            temperature: chat.temperature,
            top_k: asked.top_k as usize,
            top_p: chat.top_p,
            min_p: asked.min_p,
            repetition_penalty: asked.repetition_penalty as f32,
            frequency_penalty: asked.frequency_penalty as f32,
            presence_penalty: asked.presence_penalty as f32,
            logit_bias,
            logprobs: asked.logprobs.then_some(asked.top_logprobs as usize),
        };
        Ok(Wanted { n: asked.n.max(1), how })
    }

    /// What was sent before, per choice.
    fn resumed(&self, resume: Vec<v1::Resume>, n: u32) -> Result<Vec<Resumed>, Error> {
        let invalid = |message: String| error(code::INVALID_REQUEST, message, false);
        let mut choices = vec![Resumed::default(); n as usize];
        for part in resume {
            let number = part.choice;
            let choice = choices.get_mut(number as usize);
            let choice = choice.ok_or_else(|| invalid(format!("resume_from names choice {number}; there are {n}")))?;
            let only_tokens = part.text.is_empty() && choice.text.is_none();
            if only_tokens {
                choice.tokens.extend(part.token_ids);
                continue;
            }
            if !choice.tokens.is_empty() || !part.token_ids.is_empty() {
                return Err(invalid(format!(
                    "resume_from gives both text and tokens of choice {number}, or two texts"
                )));
            }
            choice.tokens = self.tokenizer.encode_bare(&part.text);
            // Another tokenizer may have spelled what this one cannot, and nobody may write control tokens.
            if self.tokenizer.decode(&choice.tokens) != part.text {
                return Err(unspeakable());
            }
            choice.text = Some(part.text);
        }
        match choices.iter().flat_map(|choice| &choice.tokens).find(|id| **id as usize >= self.info.vocab) {
            Some(id) => {
                Err(invalid(format!("resume_from has token {id}; the vocabulary has {} tokens", self.info.vocab)))
            }
            None => Ok(choices),
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
                embedding_dimensions: self.info.pooling.map_or(0, |pooling| pooling.dimensions as u32),
            }],
            running: load.running as u32,
            queued: load.waiting as u32,
            slots: self.engine.limits().slots as u32,
            free_blocks: load.free_blocks as u64,
            draining: load.draining,
            blocks: self.engine.limits().blocks as u64,
            cached_blocks: load.cached_blocks as u64,
            tokens_per_second: load.tokens_per_second,
            prefix_roots: self.engine.roots().to_vec(),
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

/// Of text that this node could not have said as text.
fn unspeakable() -> Error {
    let message = "this node's model would not say the text that the answer is to go on after as it was said";
    error(code::CANNOT_RESUME, message, true)
}

fn too_long(prompt: usize, room: usize, info: &ModelInfo) -> String {
    let why = if room < info.context_length { "this node's KV cache holds" } else { "the model's context holds" };
    format!("the prompt has {prompt} tokens; {why} {room}, prompt and answer together: please shorten the messages")
}

/// How many answers are wanted, and how their tokens are drawn.
struct Wanted {
    n: u32,
    how: Sampling,
}

/// What the client has of a choice.
#[derive(Debug, Clone, Default)]
struct Resumed {
    tokens: Vec<u32>,
    /// What the tokens were read from, where another kind of server made it.
    text: Option<String>,
}

/// The format's marks that are tokens without text.
fn marks(format: Option<&'static Format>, tokenizer: &Tokenizer) -> Arc<[(u32, String)]> {
    // Marks that are control tokens leave no text behind by which they could be found.
    let token = |mark: &str| {
        let id = tokenizer.special(mark).filter(|id| tokenizer.bytes(*id).is_empty())?;
        Some((id, mark.to_owned()))
    };
    format.map(Format::marks).unwrap_or_default().into_iter().filter_map(token).collect()
}

/// The tokenizer's part in one answer.
struct Speller {
    detokenizer: Detokenizer,
    tokenizer: Arc<Tokenizer>,
    marks: Arc<[(u32, String)]>,
}

impl Spelling for Speller {
    fn push(&mut self, id: u32) -> Option<String> {
        match self.marks.iter().find(|(mark, _)| *mark == id) {
            Some((_, text)) => Some(self.detokenizer.finish().unwrap_or_default() + text),
            None => self.detokenizer.push(id),
        }
    }

    fn finish(&mut self) -> Option<String> {
        self.detokenizer.finish()
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.bytes(id).to_vec()
    }
}
