//! One answer as the client sees it: tokens become text, and text ends at a stop string.

use littoral_proto::{
    finish,
    v1::{self, Delta, ToolCallFragment, delta::Part},
};

use super::{job::Spelling, stop::StopMatcher};
use crate::{
    sample::Picked,
    speak::{self, Parser},
};

/// The text of one choice in the making.
pub struct Voice {
    choice: u32,
    spelling: Box<dyn Spelling>,
    stop: StopMatcher,
    speech: Option<Speech>,
    /// Tokens so far, those that were sent before included.
    tokens: u32,
    /// Of those, the ones of reasoning.
    reasoning: u32,
    end: Option<&'static str>,
}

/// An answer whose reasoning and calls are told apart.
pub struct Speech {
    pub parser: Parser,
    /// Makes the ids of this answer's calls its own.
    pub nonce: u64,
}

/// What the sampler says of a token.
#[derive(Debug, Clone)]
pub struct Said {
    pub picked: Picked,
    /// Set on the last token: `stop` for one that ends the text and is no part of it, or `length`.
    pub end: Option<&'static str>,
}

impl Voice {
    pub fn new(choice: u32, spelling: Box<dyn Spelling>, stops: Vec<String>, speech: Option<Speech>) -> Self {
        Self { choice, spelling, stop: StopMatcher::new(stops), speech, tokens: 0, reasoning: 0, end: None }
    }

    /// Builds up again what the client already has, without saying it.
    pub fn replay(&mut self, id: u32, end: Option<&'static str>) {
        let picked = Picked { id, logprobs: None };
        self.say(Said { picked, end });
    }

    /// Takes the next token in: what is sent for it, at least one delta.
    pub fn say(&mut self, said: Said) -> Vec<Delta> {
        let Said { picked, end } = said;
        let index = self.tokens;
        self.tokens += 1;
        self.reasoning += u32::from(self.speech.as_ref().is_some_and(|s| s.parser.is_reasoning()));
        let mut text = String::new();
        let mut stopped = false;
        if end != Some(finish::STOP) {
            stopped = self.spelling.push(picked.id).is_some_and(|piece| self.stop.push(&piece, &mut text));
        }
        if end.is_some() && !stopped {
            stopped = self.spelling.finish().is_some_and(|piece| self.stop.push(&piece, &mut text));
            if !stopped {
                self.stop.flush(&mut text);
            }
        }
        self.end = if stopped { Some(finish::STOP) } else { end };
        let mut parts = self.parts(text).into_iter();
        let first = Delta {
            choice: self.choice,
            index,
            token_ids: vec![picked.id],
            part: Some(parts.next().unwrap_or(Part::Text(String::new()))),
            logprobs: self.logprobs(&picked),
        };
        let more = |part| Delta { choice: self.choice, index, part: Some(part), ..Delta::default() };
        std::iter::once(first).chain(parts.map(more)).collect()
    }

    /// The text's parts. At the end of the answer, also what the parser held back.
    fn parts(&mut self, text: String) -> Vec<Part> {
        let Some(speech) = &mut self.speech else { return vec![Part::Text(text)] };
        let mut parts = Vec::new();
        speech.parser.push(&text, &mut parts);
        if self.end.is_some() {
            speech.parser.finish(&mut parts);
        }
        if self.end == Some(finish::STOP) && speech.parser.calls() > 0 {
            self.end = Some(finish::TOOL_CALLS);
        }
        let fragment = |index, id, name, arguments| Part::ToolCall(ToolCallFragment { index, id, name, arguments });
        let sent = parts.into_iter().map(|part| match part {
            speak::Part::Text(text) => Part::Text(text),
            speak::Part::Reasoning(text) => Part::Reasoning(text),
            speak::Part::Call { index, name } => {
                fragment(index, format!("call_{:016x}_{index}", speech.nonce), name, String::new())
            }
            speak::Part::Arguments { index, json } => fragment(index, String::new(), String::new(), json),
        });
        sent.collect()
    }

    fn logprobs(&self, picked: &Picked) -> Vec<v1::Logprob> {
        let one = picked.logprobs.iter().map(|of| v1::Logprob {
            token_id: picked.id,
            token: self.spelling.bytes(picked.id),
            logprob: of.logprob,
            top: of
                .top
                .iter()
                .map(|t| v1::TopLogprob { token_id: t.id, token: self.spelling.bytes(t.id), logprob: t.logprob })
                .collect(),
        });
        one.collect()
    }

    /// Tokens of reasoning.
    pub fn reasoning(&self) -> u32 {
        self.reasoning
    }

    /// How the answer ended, if it did.
    pub fn end(&self) -> Option<&'static str> {
        self.end
    }

    pub fn choice(&self) -> u32 {
        self.choice
    }

    /// Tokens of the answer, those that were sent before included.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }
}
