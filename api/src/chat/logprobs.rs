//! Log probabilities as clients read them.

use littoral_proto::v1;
use serde::Serialize;

/// `choices[].logprobs`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Logprobs {
    pub content: Vec<Token>,
}

#[derive(Debug, Serialize)]
pub(super) struct Token {
    #[serde(flatten)]
    one: One,
    top_logprobs: Vec<One>,
}

#[derive(Debug, Serialize)]
struct One {
    /// Bytes that are no UTF-8 are U+FFFD here.
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

fn one(bytes: &[u8], logprob: f32) -> One {
    // JSON has no infinities; OpenAI writes -9999 for a token that cannot be.
    One { token: String::from_utf8_lossy(bytes).into_owned(), logprob: logprob.max(-9999.0), bytes: bytes.to_vec() }
}

impl Logprobs {
    pub fn extend(&mut self, tokens: &[v1::Logprob]) {
        self.content.extend(tokens.iter().map(|t| Token {
            one: one(&t.token, t.logprob),
            top_logprobs: t.top.iter().map(|top| one(&top.token, top.logprob)).collect(),
        }));
    }
}
