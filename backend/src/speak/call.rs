//! A call written as a JSON object, `{"name": ..., "arguments": {...}}`, read while it comes.

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
    named: bool,
    /// Arguments that came before the name.
    early: String,
    /// All that was read, for one that turns out to be no call.
    raw: String,
    broken: bool,
}

impl Object {
    pub fn new(arguments: &str) -> Self {
        Self {
            place: Place::Before,
            depth: 0,
            string: false,
            escape: false,
            key: String::new(),
            value: String::new(),
            arguments: arguments.into(),
            named: false,
            early: String::new(),
            raw: String::new(),
            broken: false,
        }
    }

    /// Takes a character in.
    pub fn push(&mut self, c: char, out: &mut Vec<Read>) {
        self.raw.push(c);
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
            Place::Value => self.value(c, out),
            _ if c.is_whitespace() => {}
            _ => self.broken = true,
        }
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
            let Ok(name) = serde_json::from_str::<String>(&value) else {
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
            self.argue(&json, out);
        }
    }

    /// The object is complete.
    pub fn is_over(&self) -> bool {
        self.place == Place::After
    }

    /// It is complete and no call, or no object at all.
    pub fn is_no_call(&self) -> bool {
        !self.named && (self.broken || self.is_over())
    }

    pub fn is_named(&self) -> bool {
        self.named
    }

    pub fn raw(&self) -> &str {
        &self.raw
    }
}
