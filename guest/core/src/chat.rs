//! The chat request: the client's JSON, checked and put into one canonical form.
//!
//! Parsed once, here. Edge, cache and node work with the canonical form; a node parses it with [`ChatRequest::canonical`].

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

use crate::{
    Call, Denial, Outcome, Rendering, Want,
    denial::{internal, invalid},
    dialect,
    key::hex,
};

mod ask;

pub use ask::{ResponseFormat, Thinking, ToolChoice};

/// At most this many stop strings (DeepSeek's limit).
const MAX_STOP: usize = 16;
/// Longest stop string, bytes.
const MAX_STOP_BYTES: usize = 1024;
/// Answers to one request at most.
pub const MAX_N: u32 = 16;
/// A logit divided by less may be no number any more.
pub const LEAST_REPETITION_PENALTY: f64 = 0.01;
/// Most likely tokens to name beside each (OpenAI's and DeepSeek's limit).
const MAX_TOP_LOGPROBS: u32 = 20;
/// Tokens that may have a bias (OpenAI's limit).
const MAX_BIASES: usize = 1024;
/// DeepSeek's largest `max_tokens`.
const MAX_TOKENS: u32 = 393_216;
/// Longest `user_id` and `session_id`, bytes (DeepSeek's limit for the former).
const MAX_USER_ID: usize = 512;

/// The canonical request. Serialised in the order of its fields, with defaults written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    /// None: as many as the context holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0..=2; 0 is greedy.
    pub temperature: f64,
    /// 0..=1
    pub top_p: f64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(flatten)]
    pub sampling: Sampling,
    /// Functions the model may call, as the client described them; their schemas keep the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    #[serde(default, skip_serializing_if = "ToolChoice::is_auto")]
    pub tool_choice: ToolChoice,
    /// What form the answer must have; text has any.
    #[serde(default, skip_serializing_if = "ResponseFormat::is_text")]
    pub response_format: ResponseFormat,
    /// Whether the model is to reason before it answers, where it can do either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

/// What few requests ask of the sampler. Only what differs from the default is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Answers wanted, 1..=16.
    #[serde(skip_serializing_if = "is_one")]
    pub n: u32,
    /// Draw from so many of the likeliest tokens; 0 from all.
    #[serde(skip_serializing_if = "is_zero")]
    pub top_k: u32,
    /// Draw from tokens that are at least so likely, as a share of the likeliest one's probability, 0..=1.
    #[serde(skip_serializing_if = "is_none")]
    pub min_p: f64,
    /// Over 0, up to 2; 1 is none.
    #[serde(skip_serializing_if = "is_unit")]
    pub repetition_penalty: f64,
    /// -2..=2
    #[serde(skip_serializing_if = "is_none")]
    pub frequency_penalty: f64,
    /// -2..=2
    #[serde(skip_serializing_if = "is_none")]
    pub presence_penalty: f64,
    /// By token id, -100..=100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<String, f64>,
    /// Whether log probabilities are wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub logprobs: bool,
    /// Those of so many of the likeliest tokens beside each, 0..=20.
    #[serde(skip_serializing_if = "is_zero")]
    pub top_logprobs: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            n: 1,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            logprobs: false,
            top_logprobs: 0,
        }
    }
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn is_none(x: &f64) -> bool {
    *x == 0.0
}

fn is_unit(x: &f64) -> bool {
    *x == 1.0
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StreamOptions {
    #[serde(default)]
    pub include_usage: bool,
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    pub content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Value>,
}

impl ChatRequest {
    /// Reads and checks a client's body.
    pub fn from_client(body: &[u8]) -> Result<Self, Denial> {
        Self::with_session(body).map(|(request, _)| request)
    }

    /// Reads and checks a client's body; beside it its `session_id`, which names the conversation for its place in the
    /// fleet only and is no part of the canonical form.
    fn with_session(body: &[u8]) -> Result<(Self, Option<String>), Denial> {
        // A list would be taken for the fields in their order.
        if body.trim_ascii_start().first() == Some(&b'[') {
            return Err(invalid(None, "the body is a JSON list, and no chat request"));
        }
        let mut raw: Raw = serde_json::from_slice(body).map_err(|e| explain(body, &e))?;
        let session_id = raw.session_id.take().filter(|id| !id.is_empty());
        if session_id.as_ref().is_some_and(|id| id.len() > MAX_USER_ID) {
            return Err(invalid(Some("session_id"), format!("'session_id' may have up to {MAX_USER_ID} bytes")));
        }
        Ok((raw.check()?, session_id))
    }

    /// Reads the canonical form.
    pub fn canonical(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The canonical form as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a chat request has no map with keys that are not strings")
    }

    /// The canonical form of what changes the answer, and nothing that only changes how it is written. `canonical` is this
    /// request's own; as a rule the one is the beginning of the other.
    pub(crate) fn substance<'a>(&self, canonical: &'a [u8]) -> Cow<'a, [u8]> {
        let Sampling { top_k, min_p, .. } = self.sampling;
        let draws = self.seed.is_some() || self.top_p != 1.0 || top_k != 0 || min_p != 0.0;
        // Greedy: nothing is drawn.
        let greedy = self.temperature == 0.0;
        if !(greedy && draws) {
            let written: &[u8] = match (self.stream, self.stream_options) {
                (false, None) => return canonical.into(),
                (true, None) => br#","stream":true}"#,
                (false, Some(_)) => br#","stream_options":{"include_usage":true}}"#,
                (true, Some(_)) => br#","stream":true,"stream_options":{"include_usage":true}}"#,
            };
            if let Some(beginning) = canonical.strip_suffix(written) {
                return [beginning, b"}"].concat().into();
            }
        }
        let mut substance = Self { stream: false, stream_options: None, ..self.clone() };
        if greedy {
            (substance.seed, substance.top_p) = (None, 1.0);
            (substance.sampling.top_k, substance.sampling.min_p) = (0, 0.0);
        }
        substance.to_bytes().into()
    }

    /// Routing key: the conversation or the user if named, else the conversation's beginning, which later turns repeat.
    fn session(&self, tenant: &str, named: Option<&str>) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(tenant.as_bytes());
        hash.update(&[0]);
        if let Some(named) = named.or(self.user_id.as_deref()) {
            hash.update(named.as_bytes());
        } else {
            hash.update(self.model.as_bytes());
            let first_user = self.messages.iter().position(|m| m.role == "user").unwrap_or(0);
            for message in self.messages.iter().take(first_user + 1) {
                for part in [&message.role, &message.content] {
                    hash.update(&[0]);
                    hash.update(part.as_bytes());
                }
            }
        }
        hex(&hash.finalize().as_bytes()[..16])
    }
}

/// Sees to it that the draft holds the canonical request; the layer that comes first pays.
pub fn draft(call: &mut Call) -> Result<(), Outcome> {
    if call.draft.rendering.is_none() { read(call).map(drop) } else { Ok(()) }
}

/// The request, from the draft where an earlier layer left it, else from the body and into the draft.
pub fn read(call: &mut Call) -> Result<ChatRequest, Outcome> {
    if call.draft.rendering.is_some() {
        return ChatRequest::canonical(&call.draft.request)
            .map_err(|e| internal(format!("a policy layer left a draft that is not canonical: {e}")).into());
    }
    let Some(body) = call.body.as_deref() else {
        return Err(Outcome::Need(vec![Want::Body]));
    };
    let (request, session_id) = ChatRequest::with_session(body)?;
    call.draft.request = request.to_bytes();
    call.draft.session = request.session(call.draft.tenant(), session_id.as_deref());
    call.draft.seed = request.seed;
    call.draft.rendering = Some(Rendering {
        dialect: dialect::CHAT.into(),
        model: request.model.clone(),
        stream: request.stream,
        include_usage: request.stream_options.is_some_and(|o| o.include_usage),
    });
    Ok(request)
}

/// What clients send: everything optional, `null` where SDKs write it.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct Raw {
    model: Option<String>,
    messages: Option<Vec<RawMessage>>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    n: Option<u32>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    logit_bias: Option<BTreeMap<String, f64>>,
    stop: Option<Stop>,
    /// Signed as clients send it, or unsigned as the canonical form writes it.
    seed: Option<i128>,
    user_id: Option<String>,
    session_id: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<ToolChoice>,
    response_format: Option<ResponseFormat>,
    thinking: Option<Thinking>,
}

#[derive(Deserialize)]
#[serde(expecting = "a message, with a role and a content")]
struct RawMessage {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    reasoning_content: Option<String>,
    tool_call_id: Option<String>,
    tool_calls: Option<Value>,
    prefix: Option<bool>,
}

enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// By hand: serde's own way for either of two copies the text twice.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of text parts")
            }

            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.into()))
            }

            fn visit_string<E>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Content, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(expecting = "a part, with a type and a text")]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Raw {
    fn check(self) -> Result<ChatRequest, Denial> {
        let sampling = self.sampling()?;
        let (tools, tool_choice) = ask::tools(self.tools, self.tool_choice)?;
        let response_format = ask::response_format(self.response_format)?;
        let model = self.model.filter(|m| !m.is_empty()).ok_or_else(|| invalid(Some("model"), "'model' is missing"))?;
        let raw = self
            .messages
            .filter(|m| !m.is_empty())
            .ok_or_else(|| invalid(Some("messages"), "'messages' is missing or empty"))?;
        let messages = raw.into_iter().enumerate().map(|(i, m)| m.check(i)).collect::<Result<_, _>>()?;
        let max_tokens = match self.max_completion_tokens.or(self.max_tokens) {
            None => None,
            Some(n) => Some(u32::try_from(n).ok().filter(|n| (1..=MAX_TOKENS).contains(n)).ok_or_else(|| {
                invalid(Some("max_tokens"), format!("'max_tokens' must be 1..{MAX_TOKENS}, not {n}"))
            })?),
        };
        let stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(s)) => vec![s],
            Some(Stop::Many(list)) => list,
        };
        if stop.len() > MAX_STOP || stop.iter().any(String::is_empty) {
            return Err(invalid(Some("stop"), format!("'stop' takes up to {MAX_STOP} strings, none of them empty")));
        }
        if let Some(long) = stop.iter().map(String::len).find(|n| *n > MAX_STOP_BYTES) {
            let message = format!("a string of 'stop' has {long} bytes; {MAX_STOP_BYTES} are the most");
            return Err(invalid(Some("stop"), message));
        }
        if self.user_id.as_ref().is_some_and(|u| u.len() > MAX_USER_ID) {
            return Err(invalid(Some("user_id"), format!("'user_id' may have up to {MAX_USER_ID} bytes")));
        }
        Ok(ChatRequest {
            model,
            messages,
            max_tokens,
            temperature: within("temperature", self.temperature, 0.0, 2.0, 1.0)?,
            top_p: within("top_p", self.top_p, 0.0, 1.0, 1.0)?,
            stop,
            seed: self.seed.map(seed).transpose()?,
            sampling,
            tools,
            tool_choice,
            response_format,
            thinking: self.thinking,
            user_id: self.user_id,
            stream: self.stream.unwrap_or(false),
            stream_options: self.stream_options.filter(|o| o.include_usage),
        })
    }

    fn sampling(&self) -> Result<Sampling, Denial> {
        let range = |name: &str, value: Option<i64>, low: u32, high: u32, default: u32| match value {
            None => Ok(default),
            Some(n) => u32::try_from(n)
                .ok()
                .filter(|n| (low..=high).contains(n))
                .ok_or_else(|| invalid(Some(name), format!("'{name}' must be {low}..{high}, not {n}"))),
        };
        let logprobs = self.logprobs.unwrap_or(false);
        let top_logprobs = range("top_logprobs", self.top_logprobs.map(i64::from), 0, MAX_TOP_LOGPROBS, 0)?;
        if top_logprobs > 0 && !logprobs {
            return Err(invalid(Some("top_logprobs"), "'top_logprobs' needs 'logprobs': true"));
        }
        let logit_bias = self.logit_bias.clone().unwrap_or_default();
        if logit_bias.len() > MAX_BIASES {
            return Err(invalid(Some("logit_bias"), format!("'logit_bias' may name up to {MAX_BIASES} tokens")));
        }
        for (id, bias) in &logit_bias {
            if id.parse::<u32>().is_err() {
                return Err(invalid(Some("logit_bias"), format!("'logit_bias' names '{id}', which is no token id")));
            }
            within("logit_bias", Some(*bias), -100.0, 100.0, 0.0)?;
        }
        Ok(Sampling {
            n: range("n", self.n.map(i64::from), 1, MAX_N, 1)?,
            // -1 is how some clients say all.
            top_k: range("top_k", self.top_k.filter(|k| *k != -1), 0, u32::MAX, 0)?,
            min_p: within("min_p", self.min_p, 0.0, 1.0, 0.0)?,
            repetition_penalty: within(
                "repetition_penalty",
                self.repetition_penalty,
                LEAST_REPETITION_PENALTY,
                2.0,
                1.0,
            )?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)?,
            logit_bias,
            logprobs,
            top_logprobs,
        })
    }
}

impl RawMessage {
    fn check(self, i: usize) -> Result<Message, Denial> {
        let role = match self.role.as_str() {
            "developer" => "system".to_string(),
            "system" | "user" | "assistant" | "tool" => self.role,
            other => {
                let message = format!("messages[{i}].role '{other}' is none of system, user, assistant, tool");
                return Err(invalid(Some("messages"), message));
            }
        };
        if self.prefix == Some(true) {
            return Err(invalid(Some("messages"), format!("messages[{i}].prefix cannot be had from this server yet")));
        }
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => join(parts, i)?,
            None if role == "assistant" => String::new(),
            None => return Err(invalid(Some("messages"), format!("messages[{i}].content is missing"))),
        };
        let Self { name, reasoning_content, tool_call_id, tool_calls, .. } = self;
        if let Some(calls) = tool_calls.as_ref().filter(|calls| !calls.is_null()) {
            let is_call = |call: &Value| call["function"]["name"].is_string();
            if !calls.as_array().is_some_and(|calls| calls.iter().all(is_call)) {
                let message = format!("messages[{i}].tool_calls must be a list of calls, each with a function's name");
                return Err(invalid(Some("messages"), message));
            }
        }
        let tool_calls = tool_calls.map(ask::calls);
        Ok(Message { role, content, name, reasoning_content, tool_call_id, tool_calls })
    }
}

fn join(parts: Vec<Part>, i: usize) -> Result<String, Denial> {
    let texts = parts.into_iter().map(|p| match (p.kind.as_str(), p.text) {
        ("text", Some(text)) => Ok(text),
        ("text", None) => Err(invalid(
            Some("messages"),
            format!("messages[{i}].content has a part of type 'text' without its 'text'"),
        )),
        (kind, _) => Err(invalid(
            Some("messages"),
            format!("messages[{i}].content has a part of type '{kind}'; only text is understood"),
        )),
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// Any 64-bit integer; a negative one as its two's complement.
fn seed(n: i128) -> Result<u64, Denial> {
    let bits = u64::try_from(n).or_else(|_| i64::try_from(n).map(i64::cast_unsigned));
    bits.map_err(|_| invalid(Some("seed"), format!("'seed' must be a 64-bit integer, not {n}")))
}

fn within(name: &str, value: Option<f64>, low: f64, high: f64, default: f64) -> Result<f64, Denial> {
    match value {
        None => Ok(default),
        // `+ 0.0` turns -0.0 into 0.0: one canonical zero.
        Some(v) if (low..=high).contains(&v) => Ok(v + 0.0),
        Some(v) => Err(invalid(Some(name), format!("'{name}' must be {low}..{high}, not {v}"))),
    }
}

/// The denial for JSON that does not fit, naming the field at fault. Only refused requests pay for the second look.
fn explain(body: &[u8], error: &serde_json::Error) -> Denial {
    if let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(body) {
        for (name, value) in &fields {
            let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
            if let Err(e) = serde_json::from_value::<Raw>(alone) {
                // The names of types here say nothing to a client.
                let types =
                    [("i128", "an integer"), ("i64", "an integer"), ("u32", "a whole number"), ("f64", "a number")];
                let said = types.iter().fold(e.to_string(), |said, (ours, theirs)| {
                    said.replace(&format!("expected {ours}"), &format!("expected {theirs}"))
                });
                return invalid(Some(name), format!("'{name}' is not what was expected: {said}"));
            }
        }
    }
    invalid(None, format!("the body is not a JSON chat request: {error}"))
}
