//! Takes one answer apart.

use super::{
    Part,
    call::{Object, Read},
    format::{Calls, Format},
    scan::{Found, find},
};

#[derive(Debug)]
enum State {
    Reasoning,
    Content,
    /// Between the calls of a section.
    Section,
    /// The name of a function.
    Name,
    /// Arguments that are JSON.
    Arguments,
    /// Between the arguments of a call that are elements; whether one came already.
    Elements {
        some: bool,
    },
    /// The name and type of an argument that is an element.
    Head {
        some: bool,
    },
    /// The value of one; whether it is a string.
    Value {
        string: bool,
    },
    Object(Object),
    /// After an object, until its closing tag or the next one.
    Closing,
}

/// Takes text in as it comes and says what it is.
#[derive(Debug)]
pub struct Parser {
    format: &'static Format,
    /// Whether calls are looked for: not when the request names no tools.
    tools: bool,
    state: State,
    buffer: String,
    /// White space that is said only if something follows.
    space: String,
    /// Nothing of this stretch of reasoning or text was said yet: leading white space is none of it.
    fresh: bool,
    /// Whether something was said as text.
    spoken: bool,
    calls: u32,
}

impl Parser {
    /// `thinking`: the prompt has opened the reasoning.
    pub fn new(format: &'static Format, thinking: bool, tools: bool) -> Self {
        let state = if thinking { State::Reasoning } else { State::Content };
        let (buffer, space) = (String::new(), String::new());
        Self { format, tools, state, buffer, space, fresh: thinking, spoken: false, calls: 0 }
    }

    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Whether what comes next is text, unless it turns out to be a mark.
    pub fn is_content(&self) -> bool {
        matches!(self.state, State::Content)
    }

    /// Calls that have begun.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Takes more text in.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.buffer.push_str(text);
        while self.step(out) {}
    }

    /// The answer is over: what may have become a mark is text after all.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        let rest = std::mem::take(&mut self.buffer);
        match &self.state {
            State::Content if !rest.is_empty() || !self.fresh => {
                self.text(&rest, out);
                let space = std::mem::take(&mut self.space);
                if self.spoken && !space.is_empty() {
                    out.push(Part::Text(space));
                }
            }
            State::Reasoning => self.reason(&rest, out),
            State::Arguments => self.argue(rest, out),
            // Without a mark before it, an object that never said whose call it is was the answer's text.
            State::Object(object) if !object.is_named() && matches!(self.format.calls, Some(Calls::Bare { .. })) => {
                let raw = std::mem::take(&mut self.space) + object.raw();
                self.say(raw, out);
            }
            _ => {}
        }
    }

    /// One transition; false when more text is needed.
    fn step(&mut self, out: &mut Vec<Part>) -> bool {
        let format = self.format;
        match &mut self.state {
            State::Reasoning => {
                let close = format.think.as_ref().map_or("", |[_, close]| close);
                match self.until(&[close]) {
                    (text, None) => {
                        self.reason(&text, out);
                        false
                    }
                    (text, Some(_)) => {
                        self.reason(&text, out);
                        self.enter(State::Content);
                        true
                    }
                }
            }
            State::Content => self.content(out),
            State::Section => {
                let Some(Calls::Named { section, call, .. } | Calls::Elements { section, call, .. }) = &format.calls
                else {
                    return false;
                };
                match self.until(&[&call[0], &section[1]]).1 {
                    Some(0) => self.state = State::Name,
                    Some(_) => self.enter(State::Content),
                    None => return false,
                }
                true
            }
            State::Name => self.name(out),
            State::Arguments => {
                let Some(Calls::Named { call, .. }) = &format.calls else { return false };
                let (json, over) = self.until(&[&call[1]]);
                self.argue(json, out);
                if over.is_some() {
                    self.state = State::Section;
                }
                over.is_some()
            }
            State::Elements { some } => {
                let some = *some;
                let Some(Calls::Elements { call, argument, .. }) = &format.calls else { return false };
                match self.until(&[&argument[0], &call[1]]).1 {
                    Some(0) => self.state = State::Head { some },
                    Some(_) => {
                        self.argue(if some { "}" } else { "{}" }.into(), out);
                        self.state = State::Section;
                    }
                    None => return false,
                }
                true
            }
            State::Head { some } => {
                let some = *some;
                // name" string="true">
                let Some(end) = self.buffer.find('>') else { return false };
                let head: String = self.buffer.drain(..=end).collect();
                let name = head.split('"').next().unwrap_or_default();
                let string = !head.contains("string=\"false\"");
                let key = serde_json::Value::from(name);
                let quote = if string { "\"" } else { "" };
                self.argue(format!("{}{key}: {quote}", if some { ", " } else { "{" }), out);
                self.state = State::Value { string };
                true
            }
            State::Value { string } => {
                let string = *string;
                let Some(Calls::Elements { argument, .. }) = &format.calls else { return false };
                let (value, over) = self.until(&[&argument[1]]);
                self.argue(if string { escaped(&value) } else { value }, out);
                if over.is_some() {
                    if string {
                        self.argue("\"".into(), out);
                    }
                    self.state = State::Elements { some: true };
                }
                over.is_some()
            }
            State::Object(_) => self.object(out),
            State::Closing => self.closing(),
        }
    }

    /// Text, up to what opens reasoning or calls.
    fn content(&mut self, out: &mut Vec<Part>) -> bool {
        let think = self.format.think.as_ref().filter(|_| !self.spoken).map_or("", |[open, _]| open);
        let calls = self.format.calls.as_ref().filter(|_| self.tools);
        let open = match calls {
            None => "",
            Some(Calls::Named { section, .. } | Calls::Elements { section, .. }) => &section[0],
            Some(Calls::Tagged { tags, .. }) => &tags[0],
            Some(Calls::Bare { tag, .. }) => tag,
        };
        if let Some(Calls::Bare { arguments, .. }) = calls
            && !self.spoken
            && self.buffer.trim_start().starts_with('{')
        {
            let blank: String = self.buffer.drain(..self.buffer.len() - self.buffer.trim_start().len()).collect();
            if !self.fresh {
                self.space.push_str(&blank);
            }
            self.state = State::Object(Object::new(arguments));
            return true;
        }
        let (mut text, found) = self.until(&[think, open]);
        if found == Some(0) && !text.trim().is_empty() {
            // Only what an answer begins with opens reasoning, also where all of it comes at once.
            text.push_str(think);
            self.text(&text, out);
            return true;
        }
        self.text(&text, out);
        match (found, calls) {
            (None, _) => return false,
            (Some(0), _) => self.enter(State::Reasoning),
            (Some(_), Some(Calls::Tagged { arguments, .. } | Calls::Bare { arguments, .. })) => {
                self.space.clear();
                self.state = State::Object(Object::new(arguments));
            }
            (Some(_), _) => {
                self.space.clear();
                self.state = State::Section;
            }
        }
        true
    }

    fn name(&mut self, out: &mut Vec<Part>) -> bool {
        let (before, end) = match &self.format.calls {
            Some(Calls::Named { before_name, separator, .. }) => (before_name.as_str(), separator.as_str()),
            _ => ("", "\">"),
        };
        let Some(at) = self.buffer.find(end) else { return false };
        let text = self.buffer[..at].trim();
        let name = text.strip_prefix(before).unwrap_or(text).trim().to_owned();
        self.buffer.drain(..at + end.len());
        self.call(name, out);
        self.state = match &self.format.calls {
            Some(Calls::Named { .. }) => State::Arguments,
            _ => State::Elements { some: false },
        };
        true
    }

    fn object(&mut self, out: &mut Vec<Part>) -> bool {
        let State::Object(object) = &mut self.state else { return false };
        let (mut taken, mut read) = (0, Vec::new());
        for c in self.buffer.chars() {
            if object.is_over() || object.is_no_call() {
                break;
            }
            object.push(c, &mut read);
            taken += c.len_utf8();
        }
        let (over, no_call) = (object.is_over(), object.is_no_call());
        let raw = if no_call { object.raw().to_owned() } else { String::new() };
        self.buffer.drain(..taken);
        for part in read {
            match part {
                Read::Name(name) => {
                    self.space.clear();
                    self.call(name, out);
                }
                Read::Arguments(json) => self.argue(json, out),
            }
        }
        if no_call {
            // Said as it was written; nothing after it is taken for a call.
            let said = std::mem::take(&mut self.space) + &raw;
            self.say(said, out);
            (self.state, self.fresh) = (State::Content, false);
        } else if over {
            self.state = State::Closing;
        }
        over || no_call
    }

    fn closing(&mut self) -> bool {
        match &self.format.calls {
            Some(Calls::Tagged { tags, .. }) => {
                let over = self.until(&[&tags[1]]).1.is_some();
                if over {
                    self.enter(State::Content);
                }
                over
            }
            Some(Calls::Bare { arguments, .. }) => {
                let skipped = self.buffer.find(|c: char| !c.is_whitespace() && c != ';');
                self.buffer.drain(..skipped.unwrap_or(self.buffer.len()));
                if self.buffer.starts_with('{') {
                    self.state = State::Object(Object::new(arguments));
                } else if !self.buffer.is_empty() {
                    self.enter(State::Content);
                    self.spoken = true;
                }
                !self.buffer.is_empty()
            }
            _ => false,
        }
    }

    /// Takes the text before the first mark out of the buffer, and the mark; or what is certainly no part of one.
    fn until(&mut self, marks: &[&str]) -> (String, Option<usize>) {
        match find(&self.buffer, marks) {
            Found::Free(free) => (self.buffer.drain(..free).collect(), None),
            Found::Mark { at, end, which } => {
                let text = self.buffer[..at].to_owned();
                self.buffer.drain(..end);
                (text, Some(which))
            }
        }
    }

    fn enter(&mut self, state: State) {
        self.space.clear();
        (self.state, self.fresh) = (state, true);
    }

    /// Holds white space at both ends back.
    fn trimmed(&mut self, text: &str) -> String {
        let text = if self.fresh { text.trim_start() } else { text };
        if text.is_empty() {
            return String::new();
        }
        let mut said = std::mem::take(&mut self.space);
        said.push_str(text);
        self.space = said.split_off(said.trim_end().len());
        self.fresh &= said.is_empty();
        said
    }

    fn reason(&mut self, text: &str, out: &mut Vec<Part>) {
        let text = self.trimmed(text);
        match out.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Reasoning(last)) => last.push_str(&text),
            _ => out.push(Part::Reasoning(text)),
        }
    }

    fn text(&mut self, text: &str, out: &mut Vec<Part>) {
        let text = self.trimmed(text);
        self.say(text, out);
    }

    fn say(&mut self, text: String, out: &mut Vec<Part>) {
        self.spoken |= !text.is_empty();
        match out.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(last)) => last.push_str(&text),
            _ => out.push(Part::Text(text)),
        }
    }

    fn call(&mut self, name: String, out: &mut Vec<Part>) {
        out.push(Part::Call { index: self.calls, name });
        self.calls += 1;
    }

    fn argue(&mut self, text: String, out: &mut Vec<Part>) {
        let index = self.calls.saturating_sub(1);
        match out.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Arguments { index: i, json }) if *i == index => json.push_str(&text),
            _ => out.push(Part::Arguments { index, json: text }),
        }
    }
}

/// The text as it stands within a JSON string.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
