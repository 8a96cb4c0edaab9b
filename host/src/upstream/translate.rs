//! Chunks of a `chat.completion.chunk` stream as node events.

use littoral_proto::{
    finish,
    v1::{Delta, Event, Finished, Logprob, Started, ToolCallFragment, TopLogprob, Usage, delta::Part, event::Kind},
};
use serde::{Deserialize, Deserializer};

/// Reads one answer. Pure: data in, events out.
#[derive(Debug)]
pub struct Translator {
    /// Answers that were asked for.
    asked: u32,
    choices: Vec<Choice>,
    usage: Option<Usage>,
    /// Deltas seen, for servers that count nothing.
    deltas: u32,
    /// Position of a choice's first delta.
    first: u32,
    over: bool,
}

#[derive(Debug, Default)]
struct Choice {
    number: u32,
    /// Position of its next delta.
    next: u32,
    /// Calls begun, and the id of the last one, for servers that do not number them.
    calls: u32,
    call_id: String,
    finished: bool,
}

/// Why an answer cannot be read.
#[derive(Debug, PartialEq)]
pub enum Broken {
    /// The server says so itself.
    Said(String),
    /// It is no chat completion.
    Garbage(&'static str),
}

// Names that some servers write beside those of others are fields of their own: as aliases they would be one field twice.

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<ChunkChoice>>,
    usage: Option<ChunkUsage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    index: u32,
    delta: Option<ChunkDelta>,
    /// In an answer that is no stream.
    message: Option<ChunkDelta>,
    logprobs: Option<ChunkLogprobs>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChunkLogprobs {
    content: Option<Vec<ChunkLogprob>>,
}

#[derive(Deserialize)]
struct ChunkLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<ChunkLogprob>,
}

#[derive(Deserialize)]
struct ChunkDelta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<ChunkCall>>,
}

#[derive(Deserialize)]
struct ChunkCall {
    index: Option<u32>,
    id: Option<String>,
    function: Option<ChunkFunction>,
}

#[derive(Deserialize)]
struct ChunkFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct ChunkUsage {
    #[serde(default, deserialize_with = "count")]
    prompt_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    completion_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    prompt_cache_hit_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default, deserialize_with = "count")]
    cached_tokens: Option<u32>,
    #[serde(default, deserialize_with = "count")]
    reasoning_tokens: Option<u32>,
}

/// A count, which some servers write as `7.0`, or as null.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(|count| count as u32))
}

impl From<ChunkLogprob> for Logprob {
    fn from(said: ChunkLogprob) -> Self {
        let bytes = |token: String, bytes: Option<Vec<u8>>| bytes.unwrap_or_else(|| token.into());
        let top = said.top_logprobs.into_iter().map(|top| TopLogprob {
            token_id: 0,
            token: bytes(top.token, top.bytes),
            logprob: top.logprob,
        });
        // Such servers do not say the tokens' ids.
        Self { token_id: 0, top: top.collect(), token: bytes(said.token, said.bytes), logprob: said.logprob }
    }
}

/// The event that stands for a server's having taken the request.
pub fn started(node: &str, seed: u64) -> Event {
    Event { kind: Some(Kind::Started(Started { node: node.into(), seed, ..Started::default() })) }
}

impl Translator {
    /// Of so many answers that go on at this position.
    pub fn at(first: u32, asked: u32) -> Self {
        Self { asked, choices: Vec::new(), usage: None, deltas: 0, first, over: false }
    }

    /// Whether the last event has been given.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether nothing but the end of the stream is missing.
    pub fn has_told_all(&self) -> bool {
        self.usage.is_some() && self.has_finished()
    }

    /// Whether every answer that was asked for has ended.
    pub fn has_finished(&self) -> bool {
        self.choices.len() == self.asked as usize && self.begun_have_finished()
    }

    fn begun_have_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished)
    }

    /// The data of one event; what it means goes to `out`. Nothing after the end means anything.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over {
            return Ok(());
        }
        if data.trim_ascii() == b"[DONE]" {
            return self.end(true, out);
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|_| Broken::Garbage("a chunk that is not JSON"))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let message = error.get("message").unwrap_or(&error).as_str().unwrap_or("the server names no reason");
            return Err(Broken::Said(message.chars().take(300).collect()));
        }
        for choice in chunk.choices.into_iter().flatten() {
            self.choice(choice, out)?;
        }
        if let Some(usage) = chunk.usage {
            let details = usage.prompt_tokens_details.and_then(|d| d.cached_tokens);
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens.unwrap_or(0),
                completion_tokens: usage.completion_tokens.unwrap_or(self.deltas),
                prompt_cache_hit_tokens: usage.prompt_cache_hit_tokens.or(details).unwrap_or(0),
                reasoning_tokens: usage.completion_tokens_details.and_then(|d| d.reasoning_tokens).unwrap_or(0),
            });
        }
        Ok(())
    }

    /// The end of the stream: whole if every choice has finished. One that is `said` may have fewer than were asked for:
    /// some servers give one answer, whatever `n` is.
    pub fn end(&mut self, said: bool, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over {
            return Ok(());
        }
        if !if said { self.begun_have_finished() } else { self.has_finished() } {
            return Err(Broken::Garbage("an answer that ends before its end"));
        }
        self.over = true;
        let counted = Usage { completion_tokens: self.deltas, ..Usage::default() };
        out.push(Event { kind: Some(Kind::Usage(self.usage.take().unwrap_or(counted))) });
        Ok(())
    }

    fn choice(&mut self, said: ChunkChoice, out: &mut Vec<Event>) -> Result<(), Broken> {
        if said.index >= self.asked {
            return Err(Broken::Garbage("an answer that was not asked for"));
        }
        let at = self.choices.iter().position(|choice| choice.number == said.index).unwrap_or_else(|| {
            self.choices.push(Choice { number: said.index, next: self.first, ..Choice::default() });
            self.choices.len() - 1
        });
        let choice = &mut self.choices[at];
        if choice.finished {
            return Ok(());
        }
        let mut parts = Vec::new();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(delta) = said.delta.or(said.message) {
            parts.extend(text(delta.reasoning_content).or_else(|| text(delta.reasoning)).map(Part::Reasoning));
            parts.extend(text(delta.content).map(Part::Text));
            parts.extend(delta.tool_calls.into_iter().flatten().map(|call| Part::ToolCall(choice.call(call))));
        }
        let logprobs = said.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
        let mut logprobs: Vec<_> = logprobs.into_iter().map(Logprob::from).collect();
        if parts.is_empty() && !logprobs.is_empty() {
            // Tokens that are no character yet.
            parts.push(Part::Text(String::new()));
        }
        for part in parts {
            let logprobs = std::mem::take(&mut logprobs);
            let part = Some(part);
            let delta = Delta { choice: said.index, index: choice.next, part, logprobs, ..Delta::default() };
            choice.next += 1;
            self.deltas += 1;
            out.push(Event { kind: Some(Kind::Delta(delta)) });
        }
        // Some servers write an empty reason where others write null.
        if let Some(reason) = said.finish_reason.filter(|reason| !reason.is_empty()) {
            choice.finished = true;
            let known = ["stop", "length", "tool_calls", "content_filter", finish::INSUFFICIENT_SYSTEM_RESOURCE];
            let reason = if known.contains(&reason.as_str()) { reason } else { finish::STOP.into() };
            out.push(Event { kind: Some(Kind::Finished(Finished { choice: said.index, reason })) });
        }
        Ok(())
    }
}

impl Choice {
    /// A fragment of a call. Where the server does not number calls, one begins with a new id, or without any with a name.
    fn call(&mut self, call: ChunkCall) -> ToolCallFragment {
        let (name, arguments) = call.function.map_or((None, None), |f| (f.name, f.arguments));
        let (id, name) = (call.id.unwrap_or_default(), name.unwrap_or_default());
        let begins = if id.is_empty() { !name.is_empty() && self.call_id.is_empty() } else { id != self.call_id };
        let index = call.index.unwrap_or_else(|| if begins { self.calls } else { self.calls.saturating_sub(1) });
        self.calls = self.calls.max(index.saturating_add(1));
        if begins {
            self.call_id.clone_from(&id);
        }
        ToolCallFragment { index, id, name, arguments: arguments.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> Result<Vec<Event>, Broken> {
        let (mut translator, mut out) = (Translator::at(0, 1), Vec::new());
        for chunk in chunks {
            translator.push(chunk.as_bytes(), &mut out)?;
        }
        translator.end(false, &mut out)?;
        Ok(out)
    }

    fn calls(events: &[Event]) -> Vec<(u32, String, String, String)> {
        let call = |event: &Event| match &event.kind {
            Some(Kind::Delta(Delta { part: Some(Part::ToolCall(call)), .. })) => {
                Some((call.index, call.id.clone(), call.name.clone(), call.arguments.clone()))
            }
            _ => None,
        };
        events.iter().filter_map(call).collect()
    }

    fn texts(events: &[Event]) -> Vec<String> {
        let text = |event: &Event| match &event.kind {
            Some(Kind::Delta(Delta { part: Some(Part::Text(text)), .. })) => Some(text.clone()),
            Some(Kind::Delta(Delta { part: Some(Part::Reasoning(text)), .. })) => Some(format!("({text})")),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    }

    fn usage(events: &[Event]) -> Usage {
        match events.last().and_then(|event| event.kind.as_ref()) {
            Some(Kind::Usage(usage)) => *usage,
            other => panic!("not the usage: {other:?}"),
        }
    }

    const HI: &str =
        r#"{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

    #[test]
    fn a_stream_is_read_and_its_usage_wherever_it_stands() {
        let own = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let events = read(&[HI, STOP, own, "[DONE]"]).unwrap();
        assert_eq!(texts(&events), ["Hi"]);
        let expected =
            Usage { prompt_tokens: 5, completion_tokens: 9, prompt_cache_hit_tokens: 4, reasoning_tokens: 0 };
        assert_eq!(usage(&events), expected);
        let thinking = r#"{"choices":[{"delta":{"reasoning_content":"hm","content":null}}],"usage":null}"#;
        assert_eq!(texts(&read(&[thinking, HI, STOP]).unwrap()), ["(hm)", "Hi"]);
        assert_eq!(usage(&read(&[thinking, HI, STOP]).unwrap()).completion_tokens, 2, "counted where nothing is said");
    }

    #[test]
    fn what_follows_the_end_means_nothing() {
        let events = read(&[HI, STOP, HI, "[DONE]", "[DONE]", HI, "garbage"]).unwrap();
        assert_eq!(texts(&events), ["Hi"]);
        assert_eq!(events.iter().filter(|e| matches!(e.kind, Some(Kind::Usage(_)))).count(), 1);
    }

    #[test]
    fn what_is_not_an_answer_is_called_so() {
        for chunks in [&[HI][..], &[HI, "[DONE]"], &["<html>"], &["[DONE]"], &[], &[r#"{"choices":7}"#]] {
            assert!(matches!(read(chunks), Err(Broken::Garbage(_))), "{chunks:?}");
        }
        let said = r#"{"error":{"message":"CUDA out of memory","code":500}}"#;
        assert_eq!(read(&[HI, said]), Err(Broken::Said("CUDA out of memory".into())));
        assert_eq!(read(&[HI, r#"{"error":"boom"}"#]), Err(Broken::Said("boom".into())));
    }

    #[test]
    fn names_of_two_servers_may_stand_side_by_side() {
        let both = |reasoning: &str, other: &str| {
            format!(r#"{{"choices":[{{"delta":{{"reasoning":{reasoning},"reasoning_content":{other}}}}}]}}"#)
        };
        for (reasoning, other, expected) in [
            ("null", "null", &["Hi"][..]),
            (r#""hm""#, r#""hm""#, &["(hm)", "Hi"]),
            (r#""hm""#, "null", &["(hm)", "Hi"]),
            (r#""""#, r#""hm""#, &["(hm)", "Hi"]),
        ] {
            assert_eq!(texts(&read(&[&both(reasoning, other), HI, STOP]).unwrap()), expected);
        }
        let both = r#"{"choices":[{"delta":null,"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
        assert_eq!(texts(&read(&[both]).unwrap()), ["Hi"]);
    }

    #[test]
    fn counts_are_read_however_they_are_written() {
        let own =
            r#"{"choices":null,"usage":{"prompt_tokens":5.0,"completion_tokens":null,"prompt_tokens_details":null}}"#;
        let Usage { prompt_tokens, completion_tokens, .. } = usage(&read(&[HI, STOP, own]).unwrap());
        assert_eq!((prompt_tokens, completion_tokens), (5, 1));
    }

    #[test]
    fn of_many_answers_none_may_be_missing() {
        let choice =
            |index| format!(r#"{{"choices":[{{"index":{index},"delta":{{}},"finish_reason":"stop"}}],"usage":{{}}}}"#);
        let mut translator = Translator::at(0, 2);
        translator.push(choice(0).as_bytes(), &mut Vec::new()).unwrap();
        assert!(!translator.has_told_all() && translator.end(false, &mut Vec::new()).is_err());
        translator.push(choice(1).as_bytes(), &mut Vec::new()).unwrap();
        assert!(translator.has_told_all() && translator.end(false, &mut Vec::new()).is_ok());
        // A server that knows no `n` says that this is all.
        let mut translator = Translator::at(0, 2);
        translator.push(choice(0).as_bytes(), &mut Vec::new()).unwrap();
        assert!(translator.push(b"[DONE]", &mut Vec::new()).is_ok() && translator.is_over());
    }

    #[test]
    fn log_probabilities_are_handed_on() {
        let chunk = r#"{"choices":[{"delta":{"content":"Hi"},"logprobs":{"content":[{"token":"Hi","logprob":-0.5,
            "bytes":[72,105],"top_logprobs":[{"token":"Ho","logprob":-1.5,"bytes":null}]}]}}]}"#;
        let half = r#"{"choices":[{"delta":{"content":""},"logprobs":{"content":[{"token":"?","logprob":-2,"bytes":[228]}]}}]}"#;
        let events = read(&[chunk, half, STOP]).unwrap();
        let said = events.iter().filter_map(|event| match &event.kind {
            Some(Kind::Delta(delta)) => Some(&delta.logprobs[0]),
            _ => None,
        });
        let said: Vec<_> = said.collect();
        assert_eq!((said[0].token.as_slice(), said[0].logprob, said.len()), (&b"Hi"[..], -0.5, 2));
        assert_eq!((said[0].top[0].token.as_slice(), said[0].top[0].logprob), (&b"Ho"[..], -1.5));
        assert_eq!(said[1].token, [228]);
    }

    #[test]
    fn calls_without_numbers_are_told_apart() {
        let call = |id: &str, name: &str| {
            format!(r#"{{{id}"type":"function","function":{{"name":"{name}","arguments":"{{}}"}}}}"#)
        };
        let document = |calls: [String; 2]| {
            let calls = calls.join(",");
            format!(
                r#"{{"choices":[{{"message":{{"content":null,"tool_calls":[{calls}]}},"finish_reason":"tool_calls"}}]}}"#
            )
        };
        for ids in [[r#""id":"c1","#, r#""id":"c2","#], ["", ""]] {
            let events = read(&[&document([call(ids[0], "f"), call(ids[1], "g")])]).unwrap();
            let told: Vec<_> = calls(&events).into_iter().map(|(index, _, name, _)| (index, name)).collect();
            assert_eq!(told, [(0, "f".into()), (1, "g".into())]);
        }
        let fragment = |fields: &str| format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{{{fields}}}]}}}}]}}"#);
        let chunks = [
            r#""id":"c1","function":{"name":"f","arguments":""}"#,
            r#""id":"c1","function":{"arguments":"{"}"#,
            r#""function":{"arguments":"}"}"#,
            r#""id":"c2","function":{"name":"g","arguments":"{}"}"#,
        ]
        .map(fragment);
        let chunks: Vec<_> = chunks.iter().map(String::as_str).chain([STOP]).collect();
        let told: Vec<_> = calls(&read(&chunks).unwrap()).into_iter().map(|(index, ..)| index).collect();
        assert_eq!(told, [0, 0, 0, 1]);
    }

    #[test]
    fn an_empty_reason_ends_nothing() {
        let more = r#"{"choices":[{"index":0,"delta":{"content":" there"},"finish_reason":""}]}"#;
        assert_eq!(texts(&read(&[more, more, STOP]).unwrap()), [" there", " there"]);
        assert!(read(&[more]).is_err());
    }

    #[test]
    fn answers_that_were_not_asked_for_are_refused() {
        let choice = |index| format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"a"}}}}]}}"#);
        for (asked, index, fits) in [(1, 0, true), (1, 1, false), (2, 1, true), (2, 100_000, false)] {
            let result = Translator::at(0, asked).push(choice(index).as_bytes(), &mut Vec::new());
            assert_eq!(result.is_ok(), fits, "{index} of {asked}");
        }
    }

    #[test]
    fn tool_calls_come_in_fragments() {
        let first =
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"f","arguments":""}}]}}]}"#;
        let second = r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#;
        let end = r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#;
        let events = read(&[first, second, end]).unwrap();
        let told = calls(&events);
        assert_eq!((told[0].2.as_str(), told[1].3.as_str(), told.len()), ("f", "{}", 2));
    }
}
