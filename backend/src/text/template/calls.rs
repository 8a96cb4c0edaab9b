//! How a template wants the turns in which the model called tools.
//!
//! Clients send a call's arguments as JSON in a string and its content as null or ''. Templates were written for one of
//! these or for what they stand for; which, is found out by trying, with a call whose words are looked for in what comes out.

use minijinja::{Value, value::ValueKind};
use serde_json::json;

use super::Prompt;

const NAME: &str = "probe_function";
const KEY: &str = "probe_key";
const VALUE: &str = "probe_value";

/// What is done to such turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    arguments: Arguments,
    content: Content,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Arguments {
    #[default]
    AsGiven,
    Text,
    Object,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Content {
    #[default]
    AsGiven,
    Empty,
    Null,
}

impl Calls {
    /// Tries the forms with a template.
    pub fn wanted_by(render: &dyn Fn(&Prompt) -> Option<String>) -> Self {
        let arguments = json!({ KEY: VALUE });
        let [text, object] = [json!(arguments.to_string()), arguments];
        let works = |content: serde_json::Value, arguments: &serde_json::Value| {
            let call = json!({ "name": NAME, "arguments": arguments });
            let messages = json!([
                { "role": "user", "content": "question" },
                {
                    "role": "assistant",
                    "content": content,
                    "tool_calls": [{ "id": "call00000", "type": "function", "function": call }],
                },
                { "role": "tool", "tool_call_id": "call00000", "name": NAME, "content": "result" },
            ]);
            let shown = |out: &String| {
                let words = [NAME, KEY, VALUE].iter().all(|word| out.contains(word));
                words && !out.contains(&format!("\\\"{KEY}")) && !out.contains("None")
            };
            render(&Prompt::new(&messages)).is_some_and(|out| shown(&out))
        };
        let [empty, null] = [json!(""), json!(null)].map(|content| [&text, &object].map(|a| works(content.clone(), a)));
        let content = match (empty.contains(&true), null.contains(&true)) {
            (true, false) => Content::Empty,
            (false, true) => Content::Null,
            _ => Content::AsGiven,
        };
        let arguments = match if content == Content::Null { null } else { empty } {
            [true, false] => Arguments::Text,
            [false, true] => Arguments::Object,
            _ => Arguments::AsGiven,
        };
        Self { arguments, content }
    }

    /// The messages as the template wants them.
    pub fn apply(self, messages: &Value) -> Value {
        if self == Self::default() || messages.kind() != ValueKind::Seq {
            return messages.clone();
        }
        messages.try_iter().into_iter().flatten().map(|message| self.message(message)).collect()
    }

    fn message(self, message: Value) -> Value {
        let calls = field(&message, "tool_calls");
        if calls.kind() != ValueKind::Seq || calls.len() == Some(0) {
            return message;
        }
        with(&message, |key, value| match key {
            "content" if value.is_none() || value.as_str() == Some("") => match self.content {
                Content::AsGiven => value,
                Content::Empty => Value::from(""),
                Content::Null => Value::from(()),
            },
            "tool_calls" => value.try_iter().into_iter().flatten().map(|call| self.call(&call)).collect(),
            _ => value,
        })
    }

    fn call(self, call: &Value) -> Value {
        with(call, |key, function| match key {
            "function" => with(&function, |key, value| if key == "arguments" { self.arguments(value) } else { value }),
            _ => function,
        })
    }

    fn arguments(self, value: Value) -> Value {
        match (self.arguments, value.as_str()) {
            // What is no JSON stays a text: the model may have written it so.
            (Arguments::Object, Some(text)) => serde_json::from_str(text).unwrap_or(value),
            (Arguments::Text, None) => serde_json::to_string(&value).map_or(value, Value::from),
            _ => value,
        }
    }
}

fn field(value: &Value, key: &str) -> Value {
    value.get_attr(key).unwrap_or_default()
}

/// An object with its values changed; anything else as it is.
fn with(object: &Value, change: impl Fn(&str, Value) -> Value) -> Value {
    if object.kind() != ValueKind::Map {
        return object.clone();
    }
    let keys = object.try_iter().into_iter().flatten();
    Value::from_pairs(keys.map(|key| {
        let value = object.get_item(&key).unwrap_or_default();
        let changed = change(key.as_str().unwrap_or_default(), value);
        (key, changed)
    }))
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::*;
    use crate::text::template::ChatTemplate;

    fn wanted(source: &str) -> Calls {
        ChatTemplate::compile(vec![("default".into(), source.into())], Default::default()).unwrap().calls
    }

    const LOOP: &str = "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}";
    const END: &str = "{% endfor %}{% endif %}{% endfor %}";

    #[test]
    fn forms_are_found_by_trying() {
        let text = wanted(&format!("{LOOP}{{{{ m.content ~ c.function.name + c.function.arguments }}}}{END}"));
        assert_eq!(text, Calls { arguments: Arguments::Text, content: Content::Empty });
        let object = wanted(&format!("{LOOP}{{{{ c.function.name }}}}{{{{ c.function.arguments | tojson }}}}{END}"));
        assert_eq!(object, Calls { arguments: Arguments::Object, content: Content::AsGiven });
        let either = wanted(&format!(
            "{LOOP}{{{{ c.function.name }}}}{{% if c.function.arguments is string %}}{{{{ c.function.arguments }}}}{{% else %}}{{{{ c.function.arguments | tojson }}}}{{% endif %}}{END}"
        ));
        assert_eq!(either, Calls::default());
        let null = "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{{ m.tool_calls[0].function.name + m.tool_calls[0].function.arguments }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
        assert_eq!(wanted(null), Calls { arguments: Arguments::Text, content: Content::Null });
        assert_eq!(wanted("{{ messages[0].content }}"), Calls::default());
        assert_eq!(wanted("{{ raise_exception('no') }}"), Calls::default());
    }

    #[test]
    fn turns_are_changed_and_nothing_else_is() {
        let calls = Calls { arguments: Arguments::Object, content: Content::Null };
        let messages = json!([
            { "role": "assistant", "content": "", "tool_calls": [
                { "function": { "name": "f", "arguments": "{\"z\": [1, 2.5], \"a\": \"\"}" } },
                { "function": { "name": "g", "arguments": "{not json" } },
            ] },
            { "role": "assistant", "content": "" },
            { "role": "assistant", "content": "", "tool_calls": null },
        ]);
        let applied = calls.apply(&Value::from(Serde(&messages)));
        assert_eq!(
            serde_json::to_string(&field(&applied.get_item_by_index(0).unwrap(), "tool_calls")).unwrap(),
            r#"[{"function":{"name":"f","arguments":{"z":[1,2.5],"a":""}}},{"function":{"name":"g","arguments":"{not json"}}]"#
        );
        let contents: Vec<String> =
            applied.try_iter().unwrap().map(|m| serde_json::to_string(&field(&m, "content")).unwrap()).collect();
        assert_eq!(contents, ["null", "\"\"", "\"\""]);
        let text = Calls { arguments: Arguments::Text, content: Content::Empty };
        let back = text.apply(&applied);
        let first = field(&back.get_item_by_index(0).unwrap(), "tool_calls").get_item_by_index(0).unwrap();
        assert_eq!(field(&field(&first, "function"), "arguments").as_str(), Some(r#"{"z":[1,2.5],"a":""}"#));
    }
}
