//! A call written as a JSON object, `{"name": ..., "arguments": {...}}`, read while it comes.

use std::sync::Arc;

/// Where the next character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Key,
    Colon,
    Value,
    After,
}

/// What a character brought to light.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Name(String),
    Arguments(String),
}

/// Reads one object.
#[derive(Debug)]
pub struct Object {
    place: Place,
    /// Depth of braces and brackets within a value.
    depth: u32,
    string: bool,
    escape: bool,
    key: String,
    value: String,
    /// The key that holds the arguments.
    arguments: String,
    /// The functions that may be named; None where any may.
    functions: Option<Arc<[String]>>,
    named: bool,
    /// Arguments that came before the name.
    early: String,
    /// All that was read, for one that turns out to be no call.
    raw: String,
    broken: bool,
}

impl Object {
    pub fn new(arguments: &str, functions: Option<Arc<[String]>>) -> Self {
        Self {
            place: Place::Before,
            depth: 0,
            string: false,
            escape: false,
            key: String::new(),
            value: String::new(),
            arguments: arguments.into(),
            functions,
            named: false,
            early: String::new(),
            raw: String::new(),
            broken: false,
        }
    }

    /// Takes a character in; false for one that is none of the object, which ends before it.
    pub fn push(&mut self, c: char, out: &mut Vec<Read>) -> bool {
        match self.place {
            Place::Before if c == '{' => self.place = Place::Key,
            Place::Key if self.string => self.key(c),
            Place::Key if c == '"' => {
                self.key.clear();
                self.string = true;
            }
            Place::Key if c == '}' => self.place = Place::After,
            Place::Key if c == ',' => {}
            Place::Colon if c == ':' => {
                self.value.clear();
                self.place = Place::Value;
            }
            Place::Value if self.is_foreign(c) => {
                self.settle(out);
                self.broken = true;
            }
            Place::Value => self.value(c, out),
            _ if c.is_whitespace() => {}
            _ => self.broken = true,
        }
        if !self.broken {
            self.raw.push(c);
        }
        !self.broken
    }

    /// Whether a character cannot be part of a value: a tag in place of a brace, or anything but a comma or a brace after
    /// the value's end.
    fn is_foreign(&self, c: char) -> bool {
        let over = self.depth == 0 && self.value.ends_with(['}', ']', '"']);
        !self.string && (c == '<' || over && !matches!(c, ',' | '}') && !c.is_whitespace())
    }

    fn key(&mut self, c: char) {
        if c == '"' && !self.escape {
            (self.string, self.place) = (false, Place::Colon);
            return;
        }
        self.escape = c == '\\' && !self.escape;
        self.key.push(c);
    }

    fn value(&mut self, c: char, out: &mut Vec<Read>) {
        if self.string {
            self.string = c != '"' || self.escape;
            self.escape = c == '\\' && !self.escape;
            return self.keep(c, out);
        }
        match c {
            ',' | '}' if self.depth == 0 => {
                self.settle(out);
                self.place = if c == '}' { Place::After } else { Place::Key };
            }
            c if c.is_whitespace() && self.depth == 0 => {}
            '"' => {
                self.string = true;
                self.keep(c, out);
            }
            '{' | '[' => {
                self.depth += 1;
                self.keep(c, out);
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                self.keep(c, out);
            }
            c => self.keep(c, out),
        }
    }

    /// Part of a value. Arguments that are an object go on at once.
    fn keep(&mut self, c: char, out: &mut Vec<Read>) {
        self.value.push(c);
        if self.key == self.arguments && self.value.starts_with('{') {
            self.argue(c.encode_utf8(&mut [0; 4]), out);
        }
    }

    fn argue(&mut self, json: &str, out: &mut Vec<Read>) {
        match (self.named, out.last_mut()) {
            (false, _) => self.early.push_str(json),
            (true, Some(Read::Arguments(last))) => last.push_str(json),
            (true, _) => out.push(Read::Arguments(json.into())),
        }
    }

    /// The end of a value.
    fn settle(&mut self, out: &mut Vec<Read>) {
        let value = std::mem::take(&mut self.value);
        if self.key == "name" && !self.named {
            let known = |name: &String| self.functions.as_ref().is_none_or(|functions| functions.contains(name));
            let Some(name) = serde_json::from_str::<String>(&value).ok().filter(known) else {
                self.broken = true;
                return;
            };
            self.named = true;
            out.push(Read::Name(name));
            let early = std::mem::take(&mut self.early);
            if !early.is_empty() {
                self.argue(&early, out);
            }
        } else if self.key == self.arguments && !value.starts_with('{') {
            // Some models write the object as a string.
            let json = serde_json::from_str::<String>(&value).unwrap_or(value);
            if !matches!(json.trim(), "" | "null") {
                self.argue(&json, out);
            }
        }
    }

    /// The object is complete, or what came next is none of it.
    pub fn is_over(&self) -> bool {
        self.broken || self.place == Place::After
    }

    /// It has said whose call it is.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// All of it so far, as it was written.
    pub fn raw(&self) -> &str {
        &self.raw
    }
}
