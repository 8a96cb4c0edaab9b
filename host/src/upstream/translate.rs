//! Chunks of a `chat.completion.chunk` stream as node events.

use littoral_proto::{
    finish,
    v1::{Delta, Event, Finished, Started, ToolCallFragment, Usage, delta::Part, event::Kind},
};
use serde::Deserialize;

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

#[derive(Debug)]
struct Choice {
    number: u32,
    /// Position of its next delta.
    next: u32,
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

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    usage: Option<ChunkUsage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    index: u32,
    /// `message` in an answer that is no stream.
    #[serde(default, alias = "message")]
    delta: Option<ChunkDelta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChunkDelta {
    content: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ChunkCall>>,
}

#[derive(Deserialize)]
struct ChunkCall {
    #[serde(default)]
    index: u32,
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
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
    prompt_cache_hit_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
    reasoning_tokens: Option<u32>,
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

    /// Whether every answer that was begun has ended.
    pub fn has_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.iter().all(|choice| choice.finished)
    }

    /// The data of one event; what it means goes to `out`. Nothing after the end means anything.
    pub fn push(&mut self, data: &[u8], out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over {
            return Ok(());
        }
        if data.trim_ascii() == b"[DONE]" {
            return self.end(out);
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|_| Broken::Garbage("a chunk that is not JSON"))?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(|m| m.as_str()).unwrap_or("the server names no reason");
            return Err(Broken::Said(message.chars().take(300).collect()));
        }
        for choice in chunk.choices {
            self.choice(choice, out)?;
        }
        if let Some(usage) = chunk.usage {
            let details = usage.prompt_tokens_details.and_then(|d| d.cached_tokens);
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                prompt_cache_hit_tokens: usage.prompt_cache_hit_tokens.or(details).unwrap_or(0),
                reasoning_tokens: usage.completion_tokens_details.and_then(|d| d.reasoning_tokens).unwrap_or(0),
            });
        }
        Ok(())
    }

    /// The end of the stream, with or without `[DONE]`: whole if every choice has finished.
    pub fn end(&mut self, out: &mut Vec<Event>) -> Result<(), Broken> {
        if self.over {
            return Ok(());
        }
        if !self.has_finished() {
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
            self.choices.push(Choice { number: said.index, next: self.first, finished: false });
            self.choices.len() - 1
        });
        let choice = &mut self.choices[at];
        if choice.finished {
            return Ok(());
        }
        let mut parts = Vec::new();
        if let Some(delta) = said.delta {
            let text = |text: Option<String>| text.filter(|text| !text.is_empty());
            parts.extend(text(delta.reasoning_content).map(Part::Reasoning));
            parts.extend(text(delta.content).map(Part::Text));
            for call in delta.tool_calls.into_iter().flatten() {
                let (name, arguments) = call.function.map_or((None, None), |f| (f.name, f.arguments));
                parts.push(Part::ToolCall(ToolCallFragment {
                    index: call.index,
                    id: call.id.unwrap_or_default(),
                    name: name.unwrap_or_default(),
                    arguments: arguments.unwrap_or_default(),
                }));
            }
        }
        for part in parts {
            let delta = Delta { choice: said.index, index: choice.next, part: Some(part), ..Delta::default() };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> Result<Vec<Event>, Broken> {
        let (mut translator, mut out) = (Translator::at(0, 1), Vec::new());
        for chunk in chunks {
            translator.push(chunk.as_bytes(), &mut out)?;
        }
        translator.end(&mut out)?;
        Ok(out)
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
        let calls: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.kind {
                Some(Kind::Delta(Delta { part: Some(Part::ToolCall(call)), .. })) => Some(call.clone()),
                _ => None,
            })
            .collect();
        assert_eq!((calls[0].name.as_str(), calls[1].arguments.as_str(), calls.len()), ("f", "{}", 2));
    }
}
