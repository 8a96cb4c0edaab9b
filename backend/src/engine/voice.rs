//! One answer as the client sees it: tokens become text, reasoning and calls, and text ends at a stop string.

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
    /// Text that the client has and that is still held back here.
    ahead: String,
    /// What the last token that was sent before says after its first delta.
    owed: Vec<Delta>,
    /// A call was sent.
    called: bool,
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
        Self {
            choice,
            spelling,
            stop: StopMatcher::new(stops),
            speech,
            tokens: 0,
            reasoning: 0,
            ahead: String::new(),
            owed: Vec::new(),
            called: false,
            end: None,
        }
    }

    /// Builds up again what the client already has, without saying it; of the last token it may have the first delta alone.
    pub fn replay(&mut self, id: u32, end: Option<&'static str>) {
        self.owed = self.say(Said { picked: Picked { id, logprobs: None }, end }).split_off(1);
    }

    /// What is to be sent before the next token, and may have been before: the deltas of the last replayed token after
    /// its first, which alone carries its id.
    pub fn owed(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.owed)
    }

    /// The same for `text` that another server said, whose tokens these are, with what ends the answer at each. False
    /// when it would not all be text here.
    pub fn replay_text(&mut self, text: &str, tokens: impl Iterator<Item = (u32, Option<&'static str>)>) -> bool {
        let mut said = String::new();
        for (id, end) in tokens {
            for delta in self.say(Said { picked: Picked { id, logprobs: None }, end }) {
                match delta.part {
                    Some(Part::Text(text)) => said.push_str(&text),
                    Some(Part::Reasoning(_) | Part::ToolCall(_)) => return false,
                    None => {}
                }
            }
            if self.end.is_some() {
                break;
            }
        }
        let Some(held) = text.strip_prefix(&said) else { return false };
        self.ahead = held.into();
        self.end.is_some() || self.speech.as_ref().is_none_or(|speech| speech.parser.is_content())
    }

    /// Takes the next token in: what is sent for it, at least one delta.
    pub fn say(&mut self, said: Said) -> Vec<Delta> {
        let Said { picked, end } = said;
        let index = self.tokens;
        self.tokens += 1;
        self.reasoning += u32::from(self.speech.as_ref().is_some_and(|s| s.parser.is_reasoning()));
        let mut text = String::new();
        if end != Some(finish::STOP) {
            text.extend(self.spelling.push(picked.id));
        }
        if end.is_some() {
            text.extend(self.spelling.finish());
        }
        let told = self.told_apart(text, end.is_some());
        let (told, stopped) = self.cut(told, end.is_some());
        self.end = if stopped { Some(finish::STOP) } else { end };
        let mut parts = self.parts(told).into_iter();
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

    /// Text, reasoning and calls. At the end of the answer, also what the parser held back.
    fn told_apart(&mut self, text: String, over: bool) -> Vec<speak::Part> {
        let Some(speech) = &mut self.speech else { return vec![speak::Part::Text(text)] };
        let mut parts = Vec::new();
        speech.parser.push(&text, &mut parts);
        if over {
            speech.parser.finish(&mut parts);
        }
        parts
    }

    /// What of it may be sent: all up to the first stop string in the answer's text, less what may become one. Whether that
    /// came. Reasoning and calls are not looked at: a stop string in them would end an answer before it began, or a call
    /// within its arguments.
    fn cut(&mut self, parts: Vec<speak::Part>, over: bool) -> (Vec<speak::Part>, bool) {
        let (mut sent, mut stopped) = (Vec::with_capacity(parts.len()), false);
        for part in parts {
            let mut text = String::new();
            let other = match part {
                speak::Part::Text(piece) => {
                    stopped = self.stop.push(&piece, &mut text);
                    None
                }
                other => {
                    self.stop.flush(&mut text);
                    Some(other)
                }
            };
            sent.extend((!text.is_empty()).then_some(speak::Part::Text(text)));
            sent.extend(other);
            if stopped {
                return (sent, true);
            }
        }
        let mut text = String::new();
        // A stop string of white space is not waited for until other text follows.
        let space = self.speech.as_ref().map_or("", |speech| speech.parser.space());
        if self.stop.would_stop(space) {
            stopped = self.stop.push(space, &mut text);
        } else if over {
            self.stop.flush(&mut text);
        }
        sent.extend((!text.is_empty()).then_some(speak::Part::Text(text)));
        (sent, stopped)
    }

    /// The parts as they are sent, without what the client has of them.
    fn parts(&mut self, told: Vec<speak::Part>) -> Vec<Part> {
        let mut parts = self.sent(told);
        for part in &mut parts {
            if self.ahead.is_empty() {
                break;
            }
            match part {
                Part::Text(text) if text.starts_with(&self.ahead) => {
                    text.drain(..std::mem::take(&mut self.ahead).len());
                }
                Part::Text(text) if self.ahead.starts_with(text.as_str()) => {
                    self.ahead.drain(..std::mem::take(text).len());
                }
                // What was held back has become the beginning of a stop string or of a call.
                _ => self.ahead.clear(),
            }
        }
        parts
    }

    fn sent(&mut self, told: Vec<speak::Part>) -> Vec<Part> {
        let nonce = self.speech.as_ref().map_or(0, |speech| speech.nonce);
        self.called |= told.iter().any(|part| matches!(part, speak::Part::Call { .. }));
        let whole = |speech: &Speech| speech.parser.has_called();
        if self.end == Some(finish::STOP) && self.called && self.speech.as_ref().is_some_and(whole) {
            self.end = Some(finish::TOOL_CALLS);
        }
        let fragment = |index, id, name, arguments| Part::ToolCall(ToolCallFragment { index, id, name, arguments });
        let sent = told.into_iter().map(|part| match part {
            speak::Part::Text(text) => Part::Text(text),
            speak::Part::Reasoning(text) => Part::Reasoning(text),
            speak::Part::Call { index, name } => {
                fragment(index, format!("call_{nonce:016x}_{index}"), name, String::new())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speak::Format;

    /// Token `n` is the n-th word.
    struct Words(&'static [&'static str]);

    impl Spelling for Words {
        fn push(&mut self, id: u32) -> Option<String> {
            self.0.get(id as usize).map(|word| word.to_string())
        }
        fn finish(&mut self) -> Option<String> {
            None
        }
        fn bytes(&self, id: u32) -> Vec<u8> {
            self.0.get(id as usize).map(|word| word.as_bytes().to_vec()).unwrap_or_default()
        }
    }

    /// Another server said the first `sent` words as they stand; what is said of the rest. None when the words would be
    /// said otherwise here.
    fn rest(words: &'static [&'static str], sent: usize, stops: &[&str], speech: Option<Speech>) -> Option<String> {
        let stops = stops.iter().map(|stop| stop.to_string()).collect();
        let mut voice = Voice::new(0, Box::new(Words(words)), stops, speech);
        let tokens = (0..sent as u32).map(|id| (id, None));
        if !voice.replay_text(&words[..sent].concat(), tokens) {
            return None;
        }
        let mut said = String::new();
        for id in sent..words.len() {
            if voice.end().is_some() {
                break;
            }
            let end = (id + 1 == words.len()).then_some(finish::LENGTH);
            for delta in voice.say(Said { picked: Picked { id: id as u32, logprobs: None }, end }) {
                match delta.part {
                    Some(Part::Text(text)) => said.push_str(&text),
                    Some(Part::ToolCall(call)) if !call.name.is_empty() => said.push_str(&format!("[{}]", call.name)),
                    _ => {}
                }
            }
        }
        Some(said)
    }

    fn speech(thinking: bool) -> Option<Speech> {
        let format = Format::of("<tool_call>").unwrap();
        Some(Speech { parser: Parser::new(format, thinking, ["f".to_string()].into()), nonce: 0 })
    }

    #[test]
    fn what_the_client_has_is_not_said_again_though_it_was_held_back() {
        // A stop string that may have begun, and that comes or does not.
        assert_eq!(rest(&["on", "e E", "Nx"], 2, &["END"], None).unwrap(), "Nx");
        assert_eq!(rest(&["on", "e E", "ND", " two"], 2, &["END"], None).unwrap(), "");
        assert_eq!(rest(&["a", "a", "a", "c"], 2, &["aab"], None).unwrap(), "ac");
        // Blanks that may be the last, and a mark that may have begun.
        assert_eq!(rest(&["one ", "two"], 1, &[], speech(false)).unwrap(), "two");
        assert_eq!(rest(&["one ", "\n", "two"], 1, &[], speech(false)).unwrap(), "\ntwo");
        assert_eq!(rest(&["1 <", " 2"], 1, &[], speech(false)).unwrap(), " 2");
        let call = &["See <", "tool_call>", r#"{"name": "f", "arguments": {}}"#, "</tool_call>"];
        assert_eq!(rest(call, 1, &[], speech(false)).unwrap(), "[f]");
    }

    #[test]
    fn what_a_token_says_after_its_first_delta_is_owed_to_who_goes_on_after_it() {
        let words: &[&str] = &["hm", "</think>one <", "tool_call>", r#"{"name": "f", "arguments": {}}</tool_call>"#];
        let new = || Voice::new(0, Box::new(Words(words)), Vec::new(), speech(true));
        let mut whole = new();
        let mut lengths = Vec::new();
        for id in 0..words.len() as u32 {
            let said = whole.say(Said { picked: Picked { id, logprobs: None }, end: None });
            let mut other = new();
            (0..=id).for_each(|id| other.replay(id, None));
            assert_eq!((other.owed(), other.owed()), (said[1..].to_vec(), Vec::new()), "{}", words[id as usize]);
            lengths.push(said.len());
        }
        assert!(lengths.iter().any(|length| *length > 1), "{lengths:?}");
    }

    /// All that is said of the words, calls as `[name](arguments)` and reasoning in braces; and how it ends, the end of the
    /// words being the model's.
    fn whole(words: &'static [&'static str], stops: &[&str], speech: Option<Speech>) -> (String, &'static str) {
        let stops = stops.iter().map(|stop| stop.to_string()).collect();
        let mut voice = Voice::new(0, Box::new(Words(words)), stops, speech);
        let mut said = String::new();
        for id in 0..=words.len() {
            let end = (id == words.len()).then_some(finish::STOP);
            for delta in voice.say(Said { picked: Picked { id: id as u32, logprobs: None }, end }) {
                match delta.part {
                    Some(Part::Text(text)) => said.push_str(&text),
                    Some(Part::Reasoning(text)) => said.push_str(&format!("{{{text}}}")),
                    Some(Part::ToolCall(call)) if !call.name.is_empty() => said.push_str(&format!("[{}]", call.name)),
                    Some(Part::ToolCall(call)) => said.push_str(&format!("({})", call.arguments)),
                    None => {}
                }
            }
            if let Some(end) = voice.end() {
                return (said, end);
            }
        }
        unreachable!("the last word is the end")
    }

    #[test]
    fn stop_strings_end_the_text_and_neither_reasoning_nor_calls() {
        let stops = ["\n", "345"];
        let said = |words, thinking| whole(words, &stops, speech(thinking));
        let call =
            &["Ok", "<tool_call>\n", r#"{"name": "f", "arguments": "#, r#"{"x": 12345}}"#, "\n</tool_call>", "\na"];
        assert_eq!(said(&call[..5], false), (r#"Ok[f]({"x": 12345})"#.into(), "tool_calls"));
        // White space that leads to a call is none of the text; that in the text need not wait for what follows.
        assert_eq!(said(call, false), (r#"Ok[f]({"x": 12345})a"#.into(), "tool_calls"));
        assert_eq!(said(&["one", "\n", "two"], false), ("one".into(), "stop"));
        assert_eq!(said(&["one 34", "5 two", "<tool_call>"], false), ("one ".into(), "stop"));
        assert_eq!(said(&["hm\n345", "</think>\n\none", "\n", "two"], true), ("{hm\n345}one".into(), "stop"));
        assert_eq!(said(&["one 3", "<tool_call>", r#"{"name": "f"}"#], false), ("one 3[f]({})".into(), "tool_calls"));
        assert_eq!(whole(&["one", "\n", "two"], &["\n"], None), ("one".into(), "stop"));
    }

    #[test]
    fn only_a_call_that_is_whole_is_how_an_answer_ends() {
        let cut = &["<tool_call>", r#"{"name": "f", "arguments": {"x": 12"#];
        assert_eq!(whole(cut, &[], speech(false)), (r#"[f]({"x": 12)"#.into(), "stop"));
        let open = &["<tool_call>", r#"{"name": "f", "arguments": {"x": 12}"#, "\n</tool_call>"];
        assert_eq!(whole(open, &[], speech(false)).1, "tool_calls");
        assert_eq!(whole(&["Ok <tool_call>", "none"], &[], speech(false)), ("Ok <tool_call>none".into(), "stop"));
    }

    #[test]
    fn what_would_not_be_text_here_is_not_gone_on_with() {
        assert_eq!(rest(&["one ", "two"], 1, &[], speech(true)), None, "it would be reasoning");
        assert_eq!(rest(&["<think>hm", "</think>one"], 1, &[], speech(false)), None);
        let call = &["See <tool_call>{", r#""name": "f", "arguments": {}}"#, "</tool_call>"];
        assert_eq!(rest(call, 1, &[], speech(false)), None, "a call has begun");
    }
}
