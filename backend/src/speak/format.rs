//! The formats, read from their files.

use std::sync::LazyLock;

use serde::Deserialize;

/// How a family of models writes reasoning and calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    pub name: String,
    /// A chat template that holds one of these, all of its strings, belongs to this format.
    detect: Vec<Vec<String>>,
    /// What opens and closes reasoning.
    pub think: Option<[String; 2]>,
    pub calls: Option<Calls>,
    /// Recorded answers; the tests' affair.
    #[serde(default)]
    #[allow(dead_code)]
    pub(super) cases: Vec<Case>,
}

/// How calls are written.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Calls {
    /// A section of calls; in each, the function's name, a separator, and the arguments as JSON.
    Named { section: [String; 2], call: [String; 2], before_name: String, separator: String },
    /// A section of calls whose arguments are elements of their own: V3.2's DSML.
    Elements { section: [String; 2], call: [String; 2], argument: [String; 2] },
    /// An object with the keys `name` and `arguments` between two tags.
    Tagged { tags: [String; 2], arguments: String },
    /// The answer is nothing but objects with `name` and `arguments`; a tag may come first.
    Bare { tag: String, arguments: String },
}

/// What a model said and what it meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), allow(dead_code))]
pub(super) struct Case {
    pub said: String,
    /// The prompt has opened the reasoning.
    #[serde(default)]
    pub thinking: bool,
    #[serde(default)]
    pub reasoning: String,
    #[serde(default)]
    pub content: String,
    /// Name and arguments.
    #[serde(default)]
    pub calls: Vec<(String, String)>,
}

/// The files, the more particular first.
const FILES: [&str; 6] = [
    include_str!("formats/deepseek-v3.2.json"),
    include_str!("formats/deepseek-v3.1.json"),
    include_str!("formats/deepseek-v3.json"),
    include_str!("formats/hermes.json"),
    include_str!("formats/llama3.json"),
    include_str!("formats/think.json"),
];

static FORMATS: LazyLock<Vec<Format>> = LazyLock::new(|| {
    FILES.iter().map(|f| serde_json::from_str(f).expect("the formats are part of the program")).collect()
});

impl Format {
    /// The format of a chat template; None for one that knows neither reasoning nor calls.
    pub fn of(template: &str) -> Option<&'static Self> {
        let holds = |marks: &Vec<String>| marks.iter().all(|mark| template.contains(mark));
        FORMATS.iter().find(|format| format.detect.iter().any(holds))
    }

    #[cfg(test)]
    pub(super) fn all() -> &'static [Self] {
        &FORMATS
    }

    /// Whether a prompt that ends with `tail` has opened the reasoning.
    pub fn opens_reasoning(&self, tail: &str) -> bool {
        self.think.as_ref().is_some_and(|[open, _]| tail.trim_end().ends_with(open))
    }

    /// Texts that a model writes as one token each where its vocabulary has such: they are looked for in what it says.
    pub fn marks(&self) -> Vec<&str> {
        let think = self.think.iter().flatten();
        let calls: Vec<&String> = match &self.calls {
            None => Vec::new(),
            Some(Calls::Named { section, call, before_name, separator }) => {
                section.iter().chain(call).chain([before_name, separator]).collect()
            }
            Some(Calls::Elements { section, call, argument }) => section.iter().chain(call).chain(argument).collect(),
            Some(Calls::Tagged { tags, .. }) => tags.iter().collect(),
            Some(Calls::Bare { tag, .. }) => vec![tag],
        };
        think.chain(calls).map(String::as_str).collect()
    }
}
