//! What a node does with texts besides answering them: token ids and back, vectors.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use littoral_api::error::code;
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{
    DetokenizeRequest, DetokenizeResponse, EmbedInput, EmbedRequest, EmbedResponse, Embedding, Error, TokenizeRequest,
    TokenizeResponse, embed_input, event::Kind, tokenize_request::Input,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout_at,
};
use tonic::Status;

use super::node::Node;
use crate::{
    engine::{Admission, Job, Task},
    model::Pooling,
    sample::Sampling,
    schedule::{Key, Prefix},
};

/// Longest text of a request, all its inputs together, bytes.
const MOST_BYTES: usize = 4 << 20;
/// Token ids of a request at most.
const MOST_TOKENS: usize = 1 << 20;
/// Inputs of a request at most.
const MOST_INPUTS: usize = 2048;
/// Requests whose texts are tokenised at once: each takes a thread for as long.
const AT_ONCE: usize = 8;

/// Why a call is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    Invalid(String),
    #[error("this node serves '{there}', not '{asked}'")]
    OtherModel { there: String, asked: String },
    /// The model is not made for it.
    #[error("{0}")]
    Unfit(String),
    #[error("{0}; please try again, or another node")]
    Busy(String),
    #[error("the deadline of the request has passed")]
    Late,
    #[error("{0}")]
    Failed(String),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Invalid(_) => Self::invalid_argument(message),
            Refused::OtherModel { .. } => Self::not_found(message),
            Refused::Unfit(_) => Self::failed_precondition(message),
            Refused::Busy(_) => Self::resource_exhausted(message),
            Refused::Late => Self::deadline_exceeded(message),
            Refused::Failed(_) => Self::unavailable(message),
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        match error.code.as_str() {
            code::INVALID_REQUEST | code::CONTEXT_LENGTH_EXCEEDED => Self::Invalid(error.message),
            code::OVERLOADED => Self::Busy(error.message),
            code::DEADLINE_EXCEEDED => Self::Late,
            _ => Self::Failed(error.message),
        }
    }
}

/// Room for requests that tokenise.
pub struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Desk {
    /// A place, if one is free.
    fn place(&self) -> Result<Place, Refused> {
        let busy = |_| Refused::Busy(format!("{AT_ONCE} texts are being tokenised already"));
        self.0.clone().try_acquire_owned().map(|held| Place { _held: held }).map_err(busy)
    }

    /// A place, when one is free: for requests that are admitted, and so not without number.
    async fn turn(&self) -> Result<Place, Refused> {
        let held = self.0.clone().acquire_owned().await.map_err(|_| Refused::Failed("the node is stopping".into()))?;
        Ok(Place { _held: held })
    }
}

struct Place {
    _held: OwnedSemaphorePermit,
}

impl Place {
    /// Runs `work` on a thread where it holds up nobody. The place is taken until it is done, also when the caller has
    /// gone meanwhile.
    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(self);
            result
        });
        done.await.map_err(|e| Refused::Failed(format!("the text was not read: {e}")))
    }
}

impl Node {
    /// Token ids of a text or of a conversation.
    pub async fn tokenize(self: &Arc<Self>, request: TokenizeRequest) -> Result<TokenizeResponse, Refused> {
        self.serves(&request.model)?;
        let input = request.input.ok_or_else(|| Refused::Invalid("a 'text' or a 'request' is wanted".into()))?;
        let bytes = match &input {
            Input::Text(text) => text.len(),
            Input::Request(request) => request.len(),
        };
        short_enough(bytes)?;
        let node = self.clone();
        let ids = self.desk.place()?.run(move || match input {
            Input::Text(text) => Ok(node.tokenizer.encode_whole(&text)),
            Input::Request(request) => {
                let chat = ChatRequest::canonical(&request)
                    .map_err(|e| format!("the request is not canonical chat JSON: {e}"))?;
                node.prompt(&chat)
            }
        });
        let token_ids = ids.await?.map_err(Refused::Invalid)?;
        Ok(TokenizeResponse { token_ids, context_length: self.engine.limits().room() as u32 })
    }

    /// The text of token ids.
    pub async fn detokenize(self: &Arc<Self>, request: DetokenizeRequest) -> Result<DetokenizeResponse, Refused> {
        self.serves(&request.model)?;
        self.known(&request.token_ids)?;
        let node = self.clone();
        let text = self.desk.place()?.run(move || node.tokenizer.decode(&request.token_ids)).await?;
        Ok(DetokenizeResponse { text })
    }

    /// Vectors of texts. Inputs of all requests run beside each other, as many as the node has slots; dropping the future
    /// cancels its own.
    pub async fn embed(self: &Arc<Self>, request: EmbedRequest) -> Result<EmbedResponse, Refused> {
        let received = Instant::now();
        self.serves(&request.model)?;
        let pooling = self.info.pooling.ok_or_else(|| {
            Refused::Unfit(format!(
                "'{}' generates text and makes no vectors: ask a node of an embedding model",
                self.model
            ))
        })?;
        let dimensions = dimensions(&pooling, request.dimensions)?;
        let admission = self.engine.admit().map_err(|busy| {
            self.engine.metrics().outcome(code::OVERLOADED);
            Refused::Busy(busy.to_string())
        })?;
        let inputs = self.texts(request.inputs).await?;
        let after = Duration::from_millis(request.deadline_ms);
        let asker = Asker {
            scope: Key::scope(&request.tenant, Some(request.user.as_str()).filter(|user| !user.is_empty())),
            request_id: request.request_id,
            admission,
            received,
            deadline: (!after.is_zero()).then(|| received.checked_add(after)).flatten(),
        };
        let vectors = stream::iter(inputs).map(|ids| self.vector(ids, &asker)).buffered(self.engine.limits().slots);
        let mut response = EmbedResponse::default();
        for (hidden, (tokens, cached)) in vectors.try_collect::<Vec<_>>().await? {
            response.prompt_tokens += tokens;
            response.prompt_cache_hit_tokens += cached;
            response.embeddings.push(Embedding { values: pooling.finish(hidden, dimensions) });
        }
        Ok(response)
    }

    /// The inputs as token ids, each checked.
    async fn texts(self: &Arc<Self>, inputs: Vec<EmbedInput>) -> Result<Vec<Vec<u32>>, Refused> {
        if inputs.is_empty() || inputs.len() > MOST_INPUTS {
            return Err(Refused::Invalid(format!("1 to {MOST_INPUTS} inputs are taken, not {}", inputs.len())));
        }
        let bytes = |input: &EmbedInput| match &input.kind {
            Some(embed_input::Kind::Text(text)) => text.len(),
            Some(embed_input::Kind::Tokens(tokens)) => 4 * tokens.ids.len(),
            None => 0,
        };
        short_enough(inputs.iter().map(bytes).sum())?;
        let node = self.clone();
        let ids = move |input: EmbedInput| match input.kind {
            Some(embed_input::Kind::Text(text)) => Ok(node.tokenizer.encode_whole(&text)),
            Some(embed_input::Kind::Tokens(tokens)) => node.known(&tokens.ids).map(|()| tokens.ids),
            None => Ok(Vec::new()),
        };
        let work = move || inputs.into_iter().map(ids).collect::<Result<Vec<_>, _>>();
        let all = self.desk.turn().await?.run(work).await??;
        let room = self.engine.limits().room();
        for (i, ids) in all.iter().enumerate() {
            if ids.is_empty() {
                return Err(Refused::Invalid(format!("input {i} is empty: there is nothing to make a vector of")));
            }
            if ids.len() >= room {
                let n = ids.len();
                return Err(Refused::Invalid(format!("input {i} has {n} tokens; this node takes fewer than {room}")));
            }
        }
        Ok(all)
    }

    /// The vector of one input as the model gives it, and its tokens: all, and those found in the cache.
    async fn vector(&self, prompt: Vec<u32>, asker: &Asker) -> Result<(Vec<f32>, (u32, u32)), Refused> {
        let turn = self.embedding.acquire();
        let turn = match asker.deadline {
            Some(at) => timeout_at(at.into(), turn).await.map_err(|_| Refused::Late)?,
            None => turn.await,
        };
        let _turn = turn.map_err(|_| Refused::Failed("the node is stopping".into()))?;
        let (vector, made) = oneshot::channel();
        let mut events = self.engine.submit(
            asker.admission.clone(),
            Job {
                request_id: asker.request_id.clone(),
                node: self.name.clone(),
                prefix: Prefix::of(asker.scope, &prompt, self.engine.limits().block_tokens),
                prompt,
                task: Task::Embed(vector),
                max_tokens: 1,
                sampling: Arc::new(Sampling::default()),
                speculate: None,
                ends: [].into(),
                received: asker.received,
                deadline: asker.deadline,
            },
        );
        while let Some(event) = events.next().await {
            match event.kind {
                Some(Kind::Usage(usage)) => {
                    let vector = made.await.map_err(|_| Refused::Failed("the model gave no vector".into()))?;
                    return Ok((vector, (usage.prompt_tokens, usage.prompt_cache_hit_tokens)));
                }
                Some(Kind::Error(error)) => return Err(error.into()),
                _ => {}
            }
        }
        Err(Refused::Failed("the engine has stopped".into()))
    }

    fn serves(&self, asked: &str) -> Result<(), Refused> {
        if asked == self.model {
            return Ok(());
        }
        Err(Refused::OtherModel { there: self.model.clone(), asked: asked.into() })
    }

    fn known(&self, ids: &[u32]) -> Result<(), Refused> {
        if ids.len() > MOST_TOKENS {
            return Err(Refused::Invalid(format!(
                "{} token ids are more than the {MOST_TOKENS} that are taken",
                ids.len()
            )));
        }
        match ids.iter().find(|id| **id as usize >= self.info.vocab) {
            Some(id) => Err(Refused::Invalid(format!("token {id} is none of the vocabulary's {}", self.info.vocab))),
            None => Ok(()),
        }
    }
}

/// Who wants vectors, and how long.
struct Asker {
    scope: Key,
    request_id: String,
    /// One for all inputs: a request that has begun is not refused in its middle.
    admission: Admission,
    received: Instant,
    deadline: Option<Instant>,
}

fn short_enough(bytes: usize) -> Result<(), Refused> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(Refused::Invalid(format!("{bytes} bytes are more than the {} MiB that one call takes", MOST_BYTES >> 20)))
}

/// Elements of each vector: as many as were asked for.
fn dimensions(pooling: &Pooling, asked: u32) -> Result<usize, Refused> {
    match asked as usize {
        0 => Ok(pooling.dimensions),
        asked if asked <= pooling.dimensions => Ok(asked),
        asked => {
            Err(Refused::Invalid(format!("'dimensions' is {asked}; the model's vectors have {}", pooling.dimensions)))
        }
    }
}
