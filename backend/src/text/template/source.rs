//! Where a model's chat templates are kept.

use std::path::PathBuf;

use serde_json::Value;

use super::{DEFAULT, TOOL_USE};
use crate::weights::{CHAT_TEMPLATE, Checkpoint, FileError, TOKENIZER_CONFIG, TextFiles, TextSource};

/// Templates by name, and the file they are from.
pub struct Source {
    pub path: PathBuf,
    pub templates: Vec<(String, String)>,
}

/// The templates of a model; None if it has none.
pub fn of(checkpoint: &Checkpoint) -> Result<Option<Source>, FileError> {
    match checkpoint.text() {
        TextSource::Folder(files) => of_folder(files),
        TextSource::Gguf(file) => {
            let text = |key: &str| file.get(key).and_then(|v| v.as_str()).map(str::to_owned);
            let Some(template) = text("tokenizer.chat_template") else { return Ok(None) };
            let mut templates = vec![(DEFAULT.into(), template)];
            templates.extend(text("tokenizer.chat_template.tool_use").map(|t| (TOOL_USE.into(), t)));
            Ok(Some(Source { path: checkpoint.path().into(), templates }))
        }
    }
}

fn of_folder(files: &TextFiles) -> Result<Option<Source>, FileError> {
    if let Some(bytes) = files.read(CHAT_TEMPLATE)? {
        let path = files.path(CHAT_TEMPLATE);
        let text = String::from_utf8(bytes).map_err(|_| FileError::damaged(&path, "it is not UTF-8"))?;
        return Ok(Some(Source { path, templates: vec![(DEFAULT.into(), text)] }));
    }
    let path = files.path(TOKENIZER_CONFIG);
    let templates = match files.config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => vec![(DEFAULT.to_owned(), text.clone())],
        Some(Value::Array(list)) => {
            let pair = |one: &Value| Some((one["name"].as_str()?.to_owned(), one["template"].as_str()?.to_owned()));
            list.iter().filter_map(pair).collect()
        }
        Some(other) => return Err(FileError::damaged(&path, format!("'chat_template' is {other}; expected a text"))),
    };
    if templates.iter().all(|(name, _)| name != DEFAULT) {
        let what = format!("'chat_template' is a list without a template named '{DEFAULT}'");
        return Err(FileError::damaged(&path, what));
    }
    Ok(Some(Source { path, templates }))
}

/// The template without `{% generation %}` and `{% endgeneration %}`: they mark the model's own text for training, a tag of
/// transformers alone. What they enclose stays, and so do their marks for white space.
pub fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(begin) = rest.find("{%") {
        let Some(length) = rest[begin..].find("%}") else { break };
        let (before, tag) = (&rest[..begin], &rest[begin + 2..begin + length]);
        let word = tag.trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace());
        let instead = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(before);
        out.push_str("{%");
        match instead {
            Some(instead) => out.push_str(&tag.replace(word, instead)),
            None => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[begin + length + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_for_training_go_and_nothing_else_does() {
        let template = "a {%- generation -%} b {% endgeneration +%}{% if generation %}{{ '{% x %}' }}{% endif %} {%";
        assert_eq!(
            without_generation_marks(template),
            "a {%- if true -%} b {% endif +%}{% if generation %}{{ '{% x %}' }}{% endif %} {%"
        );
    }
}
