//! `POST /chat/completions`: events as `chat.completion.chunk`s, or collected into one `chat.completion`.
//!
//! What clients rely on: LF framing and `data:` lines only; `choices` in every chunk; the role in the first delta of a
//! choice; `usage` in the finish chunk whether asked for or not; `[DONE]` after success and never after an error.

mod document;
mod logprobs;
#[cfg(test)]
mod tests;

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use littoral_proto::v1::{Delta, Event, ToolCallFragment, Usage, delta::Part, event::Kind};

use crate::{DONE, error};
use document::Choice;
pub use document::join;
use logprobs::Logprobs;

/// What every chunk of an answer repeats.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// `chatcmpl-...`
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The name the client asked for.
    pub model: String,
    /// Names what made the answer: model revision and node build.
    pub fingerprint: String,
    /// Chunks, or one document.
    pub stream: bool,
    /// Whether a trailing chunk with the usage was asked for.
    pub include_usage: bool,
}

/// Renders the events of one answer, in order.
#[derive(Debug)]
pub struct Renderer {
    head: Head,
    /// A chunk up to the index of its choice.
    before: Vec<u8>,
    /// A chunk from the end of its delta, when it is not the last of its choice.
    after: &'static str,
    choices: Vec<Choice>,
    usage: Usage,
    failure: Option<(u16, Bytes)>,
    complete: bool,
}

impl Renderer {
    pub fn new(head: Head) -> Self {
        let before = if head.stream { chunk_start(&head) } else { Vec::new() };
        let after = if head.include_usage { AFTER_WITH_USAGE } else { AFTER };
        Self { head, before, after, choices: vec![], usage: Usage::default(), failure: None, complete: false }
    }

    /// Takes one event in. In a stream, what the client gets for it is appended to `out`, which may be nothing; for a
    /// document `out` is left alone. Events after the last one are ignored.
    pub fn push(&mut self, event: &Event, out: &mut BytesMut) {
        if self.complete {
            return;
        }
        match &event.kind {
            None | Some(Kind::Started(_)) => {}
            Some(Kind::Delta(delta)) if self.head.stream => self.chunk(delta, out),
            Some(Kind::Delta(delta)) => self.collect(delta),
            Some(Kind::Finished(finished)) => self.choice(finished.choice).reason = Some(finished.reason.clone()),
            Some(Kind::Usage(usage)) => self.end(usage, out),
            Some(Kind::Error(e)) => {
                let (status, body) = error::of_node(e);
                if self.head.stream {
                    out.put_slice(b"data: ");
                    out.put_slice(&body);
                    out.put_slice(b"\n\n");
                }
                self.failure = Some((status, body));
                self.complete = true;
            }
        }
    }

    /// Whether the last event has come: usage or an error.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Status and body of the answer as one document. An answer that has no last event is a server error.
    pub fn document(&self) -> (u16, Bytes) {
        if let Some((status, body)) = &self.failure {
            return (*status, body.clone());
        }
        if !self.complete {
            let message = "the node ended the answer before its end; please try again";
            return (500, error::body(500, error::code::INTERNAL, message, None));
        }
        (200, join(&self.head, &document::ending(&self.choices, &self.usage)))
    }

    /// What [`join`] makes a document of, with any head; none of an answer that is not complete, or failed.
    pub fn ending(&self) -> Option<Bytes> {
        let succeeded = self.complete && self.failure.is_none();
        succeeded.then(|| document::ending(&self.choices, &self.usage).into())
    }

    fn choice(&mut self, index: u32) -> &mut Choice {
        let at = self.choices.iter().position(|c| c.index == index).unwrap_or_else(|| {
            self.choices.push(Choice { index, ..Choice::default() });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }

    fn collect(&mut self, delta: &Delta) {
        let choice = self.choice(delta.choice);
        if !delta.logprobs.is_empty() {
            choice.logprobs.get_or_insert_default().extend(&delta.logprobs);
        }
        match &delta.part {
            None => {}
            Some(Part::Text(text)) => choice.content.push_str(text),
            Some(Part::Reasoning(text)) => choice.reasoning.push_str(text),
            Some(Part::ToolCall(fragment)) => choice.tool_call(fragment),
        }
    }

    /// One chunk for a delta; none for a delta whose text is still held back and that has nothing else to say.
    fn chunk(&mut self, delta: &Delta, out: &mut BytesMut) {
        let silent = match &delta.part {
            None => true,
            Some(Part::Text(text) | Part::Reasoning(text)) => text.is_empty(),
            Some(Part::ToolCall(_)) => false,
        };
        if silent && delta.logprobs.is_empty() {
            return;
        }
        let role = if std::mem::replace(&mut self.choice(delta.choice).opened, true) { "" } else { ROLE };
        out.reserve(self.before.len() + self.after.len() + 128);
        out.put_slice(&self.before);
        number(out, delta.choice);
        out.put_slice(b",\"delta\":{");
        out.put_slice(role.as_bytes());
        match &delta.part {
            None => field(out, "\"content\":", ""),
            Some(Part::Text(text)) => field(out, "\"content\":", text),
            Some(Part::Reasoning(text)) => field(out, "\"reasoning_content\":", text),
            Some(Part::ToolCall(fragment)) => tool_call(out, fragment),
        }
        if delta.logprobs.is_empty() {
            return out.put_slice(self.after.as_bytes());
        }
        let mut logprobs = Logprobs::default();
        logprobs.extend(&delta.logprobs);
        out.put_slice(b"},\"logprobs\":");
        serde_json::to_writer(out.writer(), &logprobs).expect("a buffer in memory takes every write");
        out.put_slice(self.after.strip_prefix(NO_LOGPROBS).unwrap_or(self.after).as_bytes());
    }

    /// The finish chunk of each choice, the last one with the usage; then what ends the stream.
    fn end(&mut self, usage: &Usage, out: &mut BytesMut) {
        self.usage = *usage;
        self.complete = true;
        if !self.head.stream {
            return;
        }
        let usage = serde_json::to_vec(&document::Usage::from(usage)).expect("numbers always serialise");
        let last = self.choices.len().saturating_sub(1);
        for (i, choice) in self.choices.iter().enumerate() {
            out.put_slice(&self.before);
            number(out, choice.index);
            out.put_slice(b",\"delta\":{");
            out.put_slice(if choice.opened { b"" } else { ROLE.as_bytes() });
            out.put_slice(b"\"content\":\"\"},\"logprobs\":null,\"finish_reason\":");
            text(out, choice.reason.as_deref().unwrap_or(littoral_proto::finish::STOP));
            out.put_slice(b"}],\"usage\":");
            out.put_slice(if i == last { &usage } else { b"null" });
            out.put_slice(b"}\n\n");
        }
        if self.head.include_usage {
            let head = self.before.strip_suffix(CHOICE_START.as_bytes()).unwrap_or(&self.before);
            out.put_slice(head);
            out.put_slice(b",\"choices\":[],\"usage\":");
            out.put_slice(&usage);
            out.put_slice(b"}\n\n");
        }
        out.put_slice(DONE);
    }
}

const ROLE: &str = "\"role\":\"assistant\",";
const CHOICE_START: &str = ",\"choices\":[{\"index\":";
/// What the end of a chunk begins with.
const NO_LOGPROBS: &str = "},\"logprobs\":null";
const AFTER: &str = "},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
/// A client that asks for usage is promised the field in every chunk.
const AFTER_WITH_USAGE: &str = "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";

fn chunk_start(head: &Head) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(256);
    out.put_slice(b"data: {\"id\":");
    text(&mut out, &head.id);
    out.put_slice(b",\"object\":\"chat.completion.chunk\",\"created\":");
    number(&mut out, head.created);
    out.put_slice(b",\"model\":");
    text(&mut out, &head.model);
    out.put_slice(b",\"system_fingerprint\":");
    text(&mut out, &head.fingerprint);
    out.put_slice(CHOICE_START.as_bytes());
    out.to_vec()
}

/// Fragments after a call's first carry neither id, type nor name: a `null` there breaks SDK helpers.
fn tool_call(out: &mut BytesMut, fragment: &ToolCallFragment) {
    out.put_slice(b"\"tool_calls\":[{\"index\":");
    number(out, fragment.index);
    if !fragment.id.is_empty() {
        field(out, ",\"id\":", &fragment.id);
        out.put_slice(b",\"type\":\"function\"");
    }
    out.put_slice(b",\"function\":{");
    if !fragment.name.is_empty() {
        field(out, "\"name\":", &fragment.name);
        out.put_u8(b',');
    }
    field(out, "\"arguments\":", &fragment.arguments);
    out.put_slice(b"}}]");
}

fn field(out: &mut BytesMut, name: &str, value: &str) {
    out.put_slice(name.as_bytes());
    text(out, value);
}

/// `value` as a JSON string.
fn text(out: &mut BytesMut, value: &str) {
    serde_json::to_writer(out.writer(), value).expect("a buffer in memory takes every write");
}

fn number(out: &mut BytesMut, value: impl std::fmt::Display) {
    write!(out.writer(), "{value}").expect("a buffer in memory takes every write");
}
