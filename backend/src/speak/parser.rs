//! Takes one answer apart.

use std::sync::Arc;

use serde::de::IgnoredAny;

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
    /// What may be called; where that is nothing, no calls are looked for.
    functions: Arc<[String]>,
    state: State,
    buffer: String,
    /// The mark that opened calls and what followed it, until a function is named: without one it is all text.
    mark: String,
    /// White space that is said only if something follows.
    space: String,
    /// Nothing of this stretch of reasoning or text was said yet: leading white space is none of it.
    fresh: bool,
    /// Whether something was said as text.
    spoken: bool,
    calls: u32,
    /// Of the last call, so far.
    arguments: String,
}

impl Parser {
    /// `thinking`: the prompt has opened the reasoning. `functions`: the names of those that may be called; none where no
    /// calls are to be looked for.
    pub fn new(format: &'static Format, thinking: bool, functions: Arc<[String]>) -> Self {
        Self {
            format,
            functions,
            state: if thinking { State::Reasoning } else { State::Content },
            buffer: String::new(),
            mark: String::new(),
            space: String::new(),
            fresh: thinking,
            spoken: false,
            calls: 0,
            arguments: String::new(),
        }
    }

    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Whether what comes next is text, unless it turns out to be a mark.
    pub fn is_content(&self) -> bool {
        matches!(self.state, State::Content)
    }

    /// Whether calls were made, the last of them with arguments that are whole.
    pub fn has_called(&self) -> bool {
        self.calls > 0 && serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok()
    }

    /// White space at the text's end so far: said before any other text that follows.
    pub fn space(&self) -> &str {
        if self.spoken && self.is_content() { &self.space } else { "" }
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
            State::Content => self.text(&rest, out),
            State::Reasoning => self.reason(&rest, out),
            State::Arguments => self.argue(rest, out),
            State::Section | State::Name if !self.mark.is_empty() => {
                self.mark.push_str(&rest);
                self.no_call(out);
            }
            State::Object(object) if !object.is_named() => {
                self.mark.push_str(object.raw());
                self.no_call(out);
            }
            _ => {}
        }
        let space = self.space().to_owned();
        self.space.clear();
        self.say(space, out);
    }

    /// What seemed to be calls is text, said as it was written.
    fn no_call(&mut self, out: &mut Vec<Part>) {
        (self.state, self.fresh) = (State::Content, false);
        let mark = std::mem::take(&mut self.mark);
        self.text(&mark, out);
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
                let (text, found) = self.until(&[&call[0], &section[1]]);
                let open = !self.mark.is_empty();
                if open {
                    let mark = found.map_or("", |which| [call[0].as_str(), &section[1]][which]);
                    self.mark.extend([&text, mark]);
                }
                match found {
                    Some(0) => self.state = State::Name,
                    Some(_) if open => self.no_call(out),
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
                    self.without_arguments(out);
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
        let calls = self.format.calls.as_ref().filter(|_| !self.functions.is_empty());
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
            self.state = self.opened(arguments);
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
                self.mark = open.into();
                self.state = self.opened(arguments);
            }
            (Some(_), _) => {
                self.mark = open.into();
                self.state = State::Section;
            }
        }
        true
    }

    /// An object that may be a call. Without tags around it, it is one only if it names what may be called.
    fn opened(&self, arguments: &str) -> State {
        let bare = matches!(self.format.calls, Some(Calls::Bare { .. }));
        State::Object(Object::new(arguments, bare.then(|| self.functions.clone())))
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
            if object.is_over() || !object.push(c, &mut read) {
                break;
            }
            taken += c.len_utf8();
        }
        let (over, named) = (object.is_over(), object.is_named());
        if over && !named {
            self.mark.push_str(object.raw());
        }
        self.buffer.drain(..taken);
        for part in read {
            match part {
                Read::Name(name) => self.call(name, out),
                Read::Arguments(json) => self.argue(json, out),
            }
        }
        if over && named {
            self.without_arguments(out);
            self.state = State::Closing;
        } else if over {
            // Nothing after it is taken for a call where marks are not needed.
            self.no_call(out);
        }
        over
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
                    self.state = self.opened(arguments);
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
        self.space.clear();
        self.mark.clear();
        self.arguments.clear();
        out.push(Part::Call { index: self.calls, name });
        self.calls += 1;
    }

    /// A call is over: where it gave no arguments, it has none.
    fn without_arguments(&mut self, out: &mut Vec<Part>) {
        if self.arguments.trim().is_empty() {
            self.argue("{}".into(), out);
        }
    }

    fn argue(&mut self, text: String, out: &mut Vec<Part>) {
        let index = self.calls.saturating_sub(1);
        self.arguments.push_str(&text);
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
