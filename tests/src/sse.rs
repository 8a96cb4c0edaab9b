//! Server-sent events as a strict client reads them.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// A streamed answer being read.
pub struct Events {
    body: Incoming,
    /// What came and was not yet read as an event.
    rest: Vec<u8>,
    /// Everything that came.
    pub raw: Vec<u8>,
    /// Why the body ended other than at its end.
    pub broken: Option<String>,
}

/// A whole streamed answer.
#[derive(Debug)]
pub struct Transcript {
    /// Every chunk, in order, the one with `usage` alone included.
    pub chunks: Vec<Value>,
    /// `data: [DONE]` came, and nothing after it.
    pub done: bool,
    /// The error event that ended the stream.
    pub error: Option<Value>,
    pub raw: String,
    /// Why the body ended other than at its end.
    pub broken: Option<String>,
}

impl Events {
    pub fn new(body: Incoming) -> Self {
        Self { body, rest: Vec::new(), raw: Vec::new(), broken: None }
    }

    /// The data of the next event; none at the end of the body. Comments are passed over.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.rest.drain(..end + 2).collect();
                let event = std::str::from_utf8(&event[..end]).expect("events are UTF-8");
                if event.starts_with(':') {
                    continue;
                }
                let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("not a data line: {event:?}"));
                assert!(!data.contains(['\n', '\r']), "more than one line in an event: {event:?}");
                return Some(data.into());
            }
            let frame = self.frame().await?;
            self.raw.extend_from_slice(&frame);
            self.rest.extend_from_slice(&frame);
        }
    }

    /// The next chunk; none at `[DONE]` or the end of the body.
    pub async fn chunk(&mut self) -> Option<Value> {
        let data = self.next().await.filter(|data| data != "[DONE]")?;
        Some(serde_json::from_str(&data).unwrap_or_else(|e| panic!("not JSON ({e}): {data}")))
    }

    /// Reads to the end.
    pub async fn transcript(mut self) -> Transcript {
        let (mut chunks, mut done, mut error) = (Vec::new(), false, None);
        while let Some(data) = self.next().await {
            assert!(!done && error.is_none(), "an event after the last one: {data}");
            if data == "[DONE]" {
                done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(&data).unwrap_or_else(|e| panic!("not JSON ({e}): {data}"));
            match chunk.get("error") {
                Some(said) => error = Some(said.clone()),
                None => chunks.push(chunk),
            }
        }
        assert!(self.broken.is_some() || self.rest.is_empty(), "half an event at the end: {:?}", self.rest);
        let raw = String::from_utf8(self.raw).expect("answers are UTF-8");
        Transcript { chunks, done, error, raw, broken: self.broken }
    }

    async fn frame(&mut self) -> Option<Bytes> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(data),
                    Err(_) => continue,
                },
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return None;
                }
            }
        }
    }
}

impl Transcript {
    /// The text of the first choice.
    pub fn text(&self) -> String {
        self.chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
    }

    pub fn finish_reason(&self) -> &str {
        self.chunks.iter().find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).unwrap_or_default()
    }

    /// The usage in the finish chunk.
    pub fn usage(&self) -> &Value {
        let finish = self.chunks.iter().find(|chunk| chunk["choices"][0]["finish_reason"].is_string());
        finish.map_or(&Value::Null, |chunk| &chunk["usage"])
    }
}
