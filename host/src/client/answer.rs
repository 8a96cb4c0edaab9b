//! An answer as it arrives: server-sent events become pieces of text and, at the end, what is known of the whole.

use std::{
    io::{BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Longest line of a stream that is accepted, bytes.
const MAX_LINE: u64 = 16 << 20;

/// What arrives.
#[derive(Debug)]
pub enum Piece {
    Text(String),
    Reasoning(String),
    /// The last piece.
    End(Box<Answer>),
}

/// A whole answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Answer {
    pub model: String,
    pub content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning_content: String,
    pub finish_reason: Option<String>,
    pub usage: Usage,
    pub node: Option<String>,
    pub cache: Option<String>,
    pub request_id: Option<String>,
    /// From the request to the first text, milliseconds.
    pub ttft_ms: f64,
    /// Completion tokens after the first, over the time from the first text to the last.
    pub tokens_per_second: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
}

impl Answer {
    /// One line for people: tokens, TTFT, speed, node, cache.
    pub fn summary(&self) -> String {
        let mut parts =
            vec![format!("{} tokens", self.usage.completion_tokens), format!("TTFT {:.0} ms", self.ttft_ms)];
        parts.extend(self.tokens_per_second.map(|rate| format!("{rate:.1} tokens/s")));
        parts.extend(self.node.as_ref().map(|node| format!("node {node}")));
        parts.extend(self.cache.as_ref().map(|cache| format!("cache {cache}")));
        parts.join(" · ")
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: String,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    message: String,
}

/// Reads the events of one stream.
pub struct Events<R> {
    lines: BufReader<R>,
    answer: Answer,
    sent: Instant,
    /// When the first and the last text came.
    spoken: Option<(Instant, Instant)>,
}

impl<R: Read> Events<R> {
    /// `answer` holds what the head of the response told; `sent` is when the request left.
    pub fn new(stream: R, answer: Answer, sent: Instant) -> Self {
        Self { lines: BufReader::new(stream), answer, sent, spoken: None }
    }

    /// The next piece; none when the stream ends without its end.
    pub fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.lines.by_ref().take(MAX_LINE).read_line(&mut line).context("the answer broke off")?;
            if n == 0 {
                return Ok(None);
            }
            // Comments keep the connection alive; other fields than `data` have no meaning here.
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                return Ok(Some(Piece::End(Box::new(self.finish()))));
            }
            let chunk: Chunk = serde_json::from_str(data).context("an event of the answer is not what was expected")?;
            if let Some(failure) = chunk.error {
                bail!("the answer failed: {}", failure.message);
            }
            if let Some(piece) = self.take(chunk) {
                return Ok(Some(piece));
            }
        }
    }

    fn take(&mut self, chunk: Chunk) -> Option<Piece> {
        self.answer.model = chunk.model;
        self.answer.usage = chunk.usage.unwrap_or(self.answer.usage);
        let choice = chunk.choices.into_iter().next()?;
        self.answer.finish_reason = choice.finish_reason.or(self.answer.finish_reason.take());
        let text = |text: Option<String>| text.filter(|t| !t.is_empty());
        let piece = match (text(choice.delta.content), text(choice.delta.reasoning_content)) {
            (Some(content), _) => {
                self.answer.content.push_str(&content);
                Piece::Text(content)
            }
            (None, Some(reasoning)) => {
                self.answer.reasoning_content.push_str(&reasoning);
                Piece::Reasoning(reasoning)
            }
            (None, None) => return None,
        };
        let now = Instant::now();
        self.spoken = Some((self.spoken.map_or(now, |(first, _)| first), now));
        Some(piece)
    }

    fn finish(&mut self) -> Answer {
        let mut answer = std::mem::take(&mut self.answer);
        if let Some((first, last)) = self.spoken {
            let spent = last - first;
            answer.ttft_ms = (first - self.sent).as_secs_f64() * 1000.0;
            answer.tokens_per_second = (spent > Duration::ZERO && answer.usage.completion_tokens > 1)
                .then(|| f64::from(answer.usage.completion_tokens - 1) / spent.as_secs_f64());
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &str) -> anyhow::Result<(String, Option<Answer>)> {
        let mut events = Events::new(stream.as_bytes(), Answer::default(), Instant::now());
        let mut text = String::new();
        while let Some(piece) = events.next()? {
            match piece {
                Piece::Text(t) | Piece::Reasoning(t) => text.push_str(&t),
                Piece::End(answer) => return Ok((text, Some(*answer))),
            }
        }
        Ok((text, None))
    }

    #[test]
    fn text_usage_and_end() {
        let stream = concat!(
            ": keep-alive\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"你\"}}]}\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"好\"}}]}\n\n",
            "data: {\"model\":\"m\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n",
            "data: [DONE]\n\n",
        );
        let (text, answer) = read(stream).unwrap();
        let answer = answer.unwrap();
        assert_eq!((text.as_str(), answer.content.as_str()), ("你好", "你好"));
        assert_eq!(answer.usage, Usage { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 });
        assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    }

    #[test]
    fn an_error_event_and_a_cut_stream_are_told_apart() {
        let error = read("data: {\"error\":{\"message\":\"worker died\"}}\n\n").unwrap_err();
        assert!(error.to_string().contains("worker died"));
        assert!(read("data: {\"choices\":[]}\n\n").unwrap().1.is_none());
        assert!(read("data: {oops\n\n").is_err());
    }
}
