//! The answer as one `chat.completion` document.

use bytes::Bytes;
use littoral_proto::{finish, v1};
use serde::Serialize;

use super::{Head, logprobs::Logprobs};

/// What has come of one choice.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub index: u32,
    /// Whether a chunk with the role was sent.
    pub opened: bool,
    pub content: String,
    pub reasoning: String,
    pub tool_calls: Vec<ToolCall>,
    pub logprobs: Option<Logprobs>,
    pub reason: Option<String>,
}

impl Choice {
    pub fn tool_call(&mut self, fragment: &v1::ToolCallFragment) {
        let at = self.tool_calls.iter().position(|c| c.index == fragment.index).unwrap_or_else(|| {
            self.tool_calls.push(ToolCall { index: fragment.index, r#type: "function", ..ToolCall::default() });
            self.tool_calls.len() - 1
        });
        let call = &mut self.tool_calls[at];
        call.id.push_str(&fragment.id);
        call.function.name.push_str(&fragment.name);
        call.function.arguments.push_str(&fragment.arguments);
    }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ToolCall {
    index: u32,
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Debug, Default, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

/// Token counts under the names of DeepSeek and of OpenAI.
#[derive(Serialize)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_cache_hit_tokens: u32,
    prompt_cache_miss_tokens: u32,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl From<&v1::Usage> for Usage {
    fn from(usage: &v1::Usage) -> Self {
        let hit = usage.prompt_cache_hit_tokens.min(usage.prompt_tokens);
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_cache_hit_tokens: hit,
            prompt_cache_miss_tokens: usage.prompt_tokens - hit,
            prompt_tokens_details: PromptDetails { cached_tokens: hit },
            completion_tokens_details: CompletionDetails { reasoning_tokens: usage.reasoning_tokens },
        }
    }
}

#[derive(Serialize)]
struct Beginning<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
}

#[derive(Serialize)]
struct Ending<'a> {
    choices: Vec<Rendered<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Rendered<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<&'a Logprobs>,
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tool_calls: &'a [ToolCall],
}

/// What of a document does not depend on its head, an object by itself.
pub(super) fn ending(choices: &[Choice], usage: &v1::Usage) -> Vec<u8> {
    let choices = choices.iter().map(|choice| Rendered {
        index: choice.index,
        message: Message {
            role: "assistant",
            content: &choice.content,
            reasoning_content: &choice.reasoning,
            tool_calls: &choice.tool_calls,
        },
        logprobs: choice.logprobs.as_ref(),
        finish_reason: choice.reason.as_deref().unwrap_or(finish::STOP),
    });
    let ending = Ending { choices: choices.collect(), usage: usage.into() };
    serde_json::to_vec(&ending).expect("strings and numbers always serialise")
}

/// The document of a head and an ending.
pub fn join(head: &Head, ending: &[u8]) -> Bytes {
    let beginning = Beginning {
        id: &head.id,
        object: "chat.completion",
        created: head.created,
        model: &head.model,
        system_fingerprint: &head.fingerprint,
    };
    let mut document = Vec::with_capacity(256 + ending.len());
    serde_json::to_writer(&mut document, &beginning).expect("a buffer in memory takes every write");
    // Two objects become one.
    document.pop();
    document.push(b',');
    document.extend_from_slice(&ending[1..]);
    document.into()
}
