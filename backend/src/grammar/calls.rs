//! The grammar of a call that must be made: the model's own format around arguments that match the function's schema.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{GrammarError, Spec, bounds, laid_out};
use crate::speak::{Calls, Format};

impl Spec {
    /// One call of one of `functions` (as in `tools[].function`). `token` gives the id of a mark that is a token without
    /// text. None for a format whose calls cannot be held to a grammar.
    ///
    /// # Errors
    /// The schema of a function's arguments would take too long to compile.
    pub fn call(
        format: &Format,
        functions: &[&Value],
        token: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Option<Self>, GrammarError> {
        for function in functions {
            let name = &function["name"];
            let told = |why| GrammarError::Compile(format!("the parameters of {name}: {why}"));
            bounds::check(&function["parameters"]).map_err(told)?;
        }
        Ok(Self::lark(format, functions, token))
    }

    fn lark(format: &Format, functions: &[&Value], token: &dyn Fn(&str) -> Option<u32>) -> Option<Self> {
        let literal = |text: &str| match token(text) {
            Some(id) => format!("<[{id}]>"),
            None => Value::from(text).to_string(),
        };
        let schema = |function: &Value| {
            laid_out(match &function["parameters"] {
                Value::Null => json!({"type": "object"}),
                schema => schema.clone(),
            })
        };
        let (mut rules, mut start) = (String::new(), Vec::new());
        let (before, after) = match format.calls.as_ref()? {
            Calls::Named { section, call, before_name, separator } => {
                for (i, function) in functions.iter().enumerate() {
                    let name = function["name"].as_str()?;
                    // A mark may stand at the end of a text or at its beginning.
                    let head = pieces(before_name, token)
                        .chain([Value::from(name).to_string()])
                        .chain(pieces(separator, token));
                    let head = head.collect::<Vec<_>>().join(" ");
                    writeln!(rules, "f{i}: {head} a{i}\na{i}: %json {}", schema(function)).ok()?;
                    start.push(format!("f{i}"));
                }
                let open = format!("{} {}", literal(&section[0]), literal(&call[0]));
                let close = pieces(&call[1], token).collect::<Vec<_>>().join(" ");
                (open, format!("{close} {}", literal(&section[1])))
            }
            Calls::Tagged { arguments, .. } | Calls::Bare { arguments, .. } => {
                // The arguments are a grammar of their own: references in their schema lead from its root.
                for (i, function) in functions.iter().enumerate() {
                    let open = format!(r#"{{"name": {}, "{arguments}": "#, function["name"]);
                    writeln!(rules, "f{i}: {} a{i} \"}}\"\na{i}: %json {}", Value::from(open), schema(function))
                        .ok()?;
                    start.push(format!("f{i}"));
                }
                match format.calls.as_ref()? {
                    Calls::Tagged { tags, .. } => {
                        (format!("{} \"\\n\"", literal(&tags[0])), format!("\"\\n\" {}", literal(&tags[1])))
                    }
                    _ => (String::new(), String::new()),
                }
            }
            Calls::Elements { .. } => return None,
        };
        Some(Self::Lark(format!("start: {before} ( {} ) {after}\n{rules}", start.join(" | "))))
    }
}

/// A text as literals of a grammar, marks that are tokens of their own apart. Marks look like `<...>`.
fn pieces<'a>(text: &'a str, token: &'a dyn Fn(&str) -> Option<u32>) -> impl Iterator<Item = String> + 'a {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(end) = rest.strip_prefix('<').and_then(|r| r.find('>')) {
            let (mark, after) = rest.split_at(end + 2);
            if let Some(id) = token(mark) {
                rest = after;
                return Some(format!("<[{id}]>"));
            }
        }
        let next = rest.char_indices().skip(1).find(|(_, c)| *c == '<').map_or(rest.len(), |(at, _)| at);
        let (plain, after) = rest.split_at(next);
        rest = after;
        Some(Value::from(plain).to_string())
    })
}
