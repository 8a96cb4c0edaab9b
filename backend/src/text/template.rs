//! The chat template: messages to the prompt the model was trained on.
//!
//! Templates are Jinja2 written for Python; [`minijinja`] runs them, with the functions that model makers rely on
//! (`raise_exception`, `strftime_now`, `tojson` as Python writes it, Python's string methods).

mod calls;
mod source;
#[cfg(test)]
mod tests;
mod tojson;

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use littoral_core::chat::Message;
use minijinja::{
    Environment, Error, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Serde, ValueKind},
};
use serde::Serialize;

use super::{Tokenizer, special};
use crate::weights::{Checkpoint, FileError};
use calls::Calls;

/// The template's own name, and that of another for conversations with tools, which some models have.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The special tokens it may write, by name.
    names: BTreeMap<String, String>,
    /// How it wants tool calls.
    calls: Calls,
}

/// A conversation to be put into the model's form.
#[derive(Debug, Clone)]
pub struct Prompt {
    messages: Value,
    tools: Value,
    add_generation_prompt: bool,
    variables: BTreeMap<String, Value>,
}

/// Why a conversation cannot be put into the model's form: the template refused it.
#[derive(Debug, thiserror::Error)]
#[error("the model's chat template refused the conversation: {0}")]
pub struct TemplateError(pub String);

impl Prompt {
    /// Of messages as the API has them: a list of objects with `role`, `content` and perhaps `tool_calls`, `tool_call_id`,
    /// `reasoning_content`, ... The order of keys is kept. It ends where the model's answer begins.
    pub fn new(messages: &impl Serialize) -> Self {
        Self {
            messages: Value::from(Serde(messages)),
            tools: Value::from(()),
            add_generation_prompt: true,
            variables: BTreeMap::new(),
        }
    }

    /// With the tools the model may call: a list of `{"type": "function", "function": {..}}`.
    pub fn tools(mut self, tools: &impl Serialize) -> Self {
        self.tools = Value::from(Serde(tools));
        self
    }

    /// With one more variable for the template, e.g. `thinking`.
    pub fn variable(mut self, name: impl Into<String>, value: &impl Serialize) -> Self {
        self.variables.insert(name.into(), Value::from(Serde(value)));
        self
    }

    /// Whether the model's own turn is opened at the end.
    pub fn add_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }
}

impl ChatTemplate {
    /// A model's template: of a folder, `chat_template.jinja` or else what `tokenizer_config.json` says; of a GGUF file,
    /// what its metadata say. None if there is none.
    pub fn open(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<Self>, FileError> {
        let Some(source) = source::of(checkpoint)? else { return Ok(None) };
        let compiled = Self::compile(source.templates, tokenizer.names().clone());
        let damaged = |e: Error| FileError::damaged(&source.path, format!("the chat template cannot be read: {e:#}"));
        compiled.map(Some).map_err(damaged)
    }

    /// From templates and their names, of which one is [`DEFAULT`].
    fn compile(templates: Vec<(String, String)>, names: BTreeMap<String, String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As transformers sets Jinja2 up.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| super::clock::format(&format, unix_now()));
        environment.add_filter("tojson", tojson::tojson);
        for (name, text) in templates {
            environment.add_template_owned(name, source::without_generation_marks(&text))?;
        }
        let mut compiled = Self { environment, names, calls: Calls::default() };
        compiled.calls = Calls::wanted_by(&|prompt| compiled.run(prompt).ok());
        Ok(compiled)
    }

    /// What it is written in: the templates that are taken, with tools and without, one after the other.
    pub fn source(&self) -> String {
        let source = |name| Some(self.environment.get_template(name).ok()?.source().to_owned());
        [DEFAULT, TOOL_USE].into_iter().filter_map(source).collect::<Vec<_>>().join("\n")
    }

    /// The prompt's text, ready for the model's answer.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.render_prompt(&Prompt::new(&messages))
    }

    /// The ids of the prompt, ready for the model's answer. Control tokens spelled out in a message are plain text:
    /// only the template opens and closes turns.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        self.encode_prompt(tokenizer, &Prompt::new(&messages))
    }

    /// As [`Self::render`], with tools, variables and all.
    pub fn render_prompt(&self, prompt: &Prompt) -> Result<String, TemplateError> {
        self.run(&Prompt { messages: self.calls.apply(&prompt.messages), ..prompt.clone() })
    }

    /// As [`Self::encode`], with tools, variables and all.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, prompt: &Prompt) -> Result<Vec<u32>, TemplateError> {
        let mut texts = Vec::new();
        let mut prompt = Prompt { messages: self.calls.apply(&prompt.messages), ..prompt.clone() };
        let mut parts: Vec<&mut Value> = vec![&mut prompt.messages, &mut prompt.tools];
        parts.extend(prompt.variables.values_mut());
        parts.iter().for_each(|part| collect(part, &mut texts));
        let shield = special::shield_for(texts.iter().map(String::as_str));
        for part in parts {
            *part = map_strings(part, &|text| tokenizer.shielded(text, shield));
        }
        Ok(tokenizer.encode_chat(&self.run(&prompt)?, shield))
    }

    fn run(&self, prompt: &Prompt) -> Result<String, TemplateError> {
        let refused = |e: Error| TemplateError(e.detail().map_or_else(|| e.to_string(), str::to_owned));
        let with_tools = prompt.tools.is_true();
        let tool_use = with_tools.then(|| self.environment.get_template(TOOL_USE).ok()).flatten();
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(refused)?,
        };
        let mut context = prompt.variables.clone();
        context.extend(self.names.iter().map(|(name, text)| (name.clone(), Value::from(text))));
        context.insert("messages".into(), prompt.messages.clone());
        context.insert("tools".into(), prompt.tools.clone());
        context.insert("documents".into(), Value::from(()));
        context.insert("add_generation_prompt".into(), Value::from(prompt.add_generation_prompt));
        template.render(context).map_err(refused)
    }
}

/// All strings of a value, keys included.
fn collect(value: &Value, texts: &mut Vec<String>) {
    match value.kind() {
        ValueKind::String => texts.extend(value.as_str().map(str::to_owned)),
        ValueKind::Seq => value.try_iter().into_iter().flatten().for_each(|v| collect(&v, texts)),
        ValueKind::Map => {
            for key in value.try_iter().into_iter().flatten() {
                collect(&key, texts);
                collect(&value.get_item(&key).unwrap_or_default(), texts);
            }
        }
        _ => {}
    }
}

/// The value with all its strings changed, keys included.
fn map_strings(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => value.as_str().map_or_else(|| value.clone(), |s| Value::from(change(s))),
        ValueKind::Seq => value.try_iter().into_iter().flatten().map(|v| map_strings(&v, change)).collect(),
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let pair = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                (map_strings(&key, change), map_strings(&item, change))
            };
            Value::from_pairs(keys.map(pair))
        }
        _ => value.clone(),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
