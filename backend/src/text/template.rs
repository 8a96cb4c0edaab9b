//! The chat template: messages to the prompt the model was trained on.
//!
//! Templates are Jinja2 written for Python; [`minijinja`] runs them, with the functions that model makers rely on
//! (`raise_exception`, `strftime_now`, `tojson` as Python writes it, Python's string methods).

use std::time::{SystemTime, UNIX_EPOCH};

use littoral_core::chat::Message;
use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use crate::{model::Problem, weights::gguf::Gguf};

use super::{Tokenizer, special};

const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

/// Why a conversation cannot be put into the model's form: the template refused it.
#[derive(Debug, thiserror::Error)]
#[error("the model's chat template refused the conversation: {0}")]
pub struct TemplateError(pub String);

impl ChatTemplate {
    /// Compiles the template of a file.
    pub(crate) fn of(file: &Gguf, tokenizer: &Tokenizer) -> Result<Self, Problem> {
        let Some(source) = file.get("tokenizer.chat_template") else {
            return Err(Problem::Unsupported(
                "the file has no chat template ('tokenizer.chat_template'): take an instruction-tuned model".into(),
            ));
        };
        let source = source.as_str().unwrap_or_default().to_owned();
        let compiled = Self::compile(source, tokenizer.bos_text.clone(), tokenizer.eos_text.clone());
        compiled.map_err(|e| Problem::Unsupported(format!("the file's chat template cannot be read: {e:#}")))
    }

    fn compile(source: String, bos: String, eos: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // As transformers sets Jinja2 up.
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| super::clock::format(&format, unix_now()));
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, source.clone())?;
        Ok(Self { environment, source, bos, eos })
    }

    /// The prompt's text, ready for the model's answer.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.run(Value::from(Serde(messages)), &[], None)
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The ids of the prompt, ready for the model's answer. Control tokens spelled out in a message are plain text:
    /// only the template opens and closes turns.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, TemplateError> {
        self.encode_with(tokenizer, messages, &[], None)
    }

    /// As [`Self::encode`], with tools, and whether the model is to reason, for templates that know of them.
    pub fn encode_with(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: &[serde_json::Value],
        thinking: Option<bool>,
    ) -> Result<Vec<u32>, TemplateError> {
        let mut messages = serde_json::to_value(messages).map_err(|e| TemplateError(e.to_string()))?;
        let mut texts = Vec::new();
        collect(&messages, &mut texts);
        let shield = special::shield_for(texts.iter().map(String::as_str));
        shield_all(&mut messages, &|text| tokenizer.specials().shielded(text, shield).into_owned());
        let text = self.run(Value::from(Serde(&messages)), tools, thinking)?;
        Ok(tokenizer.encode_shielded(&text, Some(shield)))
    }

    fn run(
        &self,
        messages: Value,
        tools: &[serde_json::Value],
        thinking: Option<bool>,
    ) -> Result<String, TemplateError> {
        let refused = |e: Error| TemplateError(e.detail().map_or_else(|| e.to_string(), str::to_owned));
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let none = Value::from(());
        template
            .render(context! {
                messages,
                add_generation_prompt => true,
                bos_token => self.bos.clone(),
                eos_token => self.eos.clone(),
                tools => if tools.is_empty() { none.clone() } else { Value::from(Serde(tools)) },
                thinking => thinking.map_or(Value::UNDEFINED, Value::from),
                enable_thinking => thinking.map_or(Value::UNDEFINED, Value::from),
                documents => none,
            })
            .map_err(refused)
    }
}

/// All strings of a JSON value.
fn collect(value: &serde_json::Value, texts: &mut Vec<String>) {
    match value {
        serde_json::Value::String(s) => texts.push(s.clone()),
        serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, texts)),
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                texts.push(key.clone());
                collect(value, texts);
            }
        }
        _ => {}
    }
}

/// Shields all strings of a JSON value, keys included.
fn shield_all(value: &mut serde_json::Value, shield: &dyn Fn(&str) -> String) {
    match value {
        serde_json::Value::String(s) => *s = shield(s),
        serde_json::Value::Array(list) => list.iter_mut().for_each(|v| shield_all(v, shield)),
        serde_json::Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                shield_all(&mut value, shield);
                map.insert(shield(&key), value);
            }
        }
        _ => {}
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// JSON as Python's `json.dumps(x, ensure_ascii=False)` writes it; `indent` is a number of spaces.
fn tojson(value: &Value, kwargs: minijinja::value::Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let mut out = Vec::new();
    let wrote = match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    wrote.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        ChatTemplate::compile(source.into(), "<s>".into(), "</s>".into()).unwrap().render(messages)
    }

    fn message(role: &str, content: &str) -> Message {
        serde_json::from_value(serde_json::json!({ "role": role, "content": content })).unwrap()
    }

    #[test]
    fn templates_written_for_python_run() {
        let hi = [message("user", "  Hi there ")];
        assert_eq!(render("{{ bos_token }}{{ messages[0]['content'].strip() }}", &hi).unwrap(), "<s>Hi there");
        assert_eq!(
            render("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}", &hi).unwrap(),
            "x\n"
        );
        assert_eq!(render("{{ messages[0] | tojson }}", &hi).unwrap(), r#"{"role": "user", "content": "  Hi there "}"#);
        assert_eq!(render("{{ {'a': '<中>'} | tojson(indent=2) }}", &hi).unwrap(), "{\n  \"a\": \"<中>\"\n}");
        assert_eq!(render("{{ strftime_now('%Y') | length }}", &hi).unwrap(), "4");
        assert_eq!(
            render("{% if tools is not none %}tools{% endif %}{{ add_generation_prompt }}", &hi).unwrap(),
            "True"
        );
        assert_eq!(render("{% for m in messages %}{% break %}{% endfor %}", &hi).unwrap(), "");
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let refused = render("{{ raise_exception('roles must alternate') }}", &[message("user", "x")]);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the model's chat template refused the conversation: roles must alternate"
        );
    }
}
