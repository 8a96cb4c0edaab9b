//! What a request asks beyond text: tools, the form of the answer, reasoning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Denial, denial::invalid};

/// Tools of one request at most (OpenAI's and DeepSeek's limit).
const MAX_TOOLS: usize = 128;
/// Longest name of a function, bytes (OpenAI's and DeepSeek's limit).
const MAX_NAME: usize = 64;
/// Longest schema or regular expression, bytes.
const MAX_GRAMMAR: usize = 128 << 10;

/// Fields in their canonical order.
const TOOL: [&str; 2] = ["type", "function"];
const FUNCTION: [&str; 4] = ["name", "description", "parameters", "strict"];
const CALL: [&str; 3] = ["id", "type", "function"];
const CALLED: [&str; 2] = ["name", "arguments"];

/// Whether tools are called.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(untagged, expecting = "none, auto, required, or an object that names a function")]
pub enum ToolChoice {
    #[default]
    #[serde(skip)]
    Auto,
    Mode(Mode),
    Function {
        r#type: FunctionType,
        function: Named,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    None,
    Auto,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionType {
    Function,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
}

impl ToolChoice {
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// No tool may be called.
    pub fn is_none(&self) -> bool {
        *self == Self::Mode(Mode::None)
    }

    /// The functions of which one must be called: None where none need be.
    pub fn required<'a>(&'a self, tools: &'a [Value]) -> Option<Vec<&'a Value>> {
        let function = |tool: &'a Value| tool.get("function");
        match self {
            Self::Auto | Self::Mode(Mode::None | Mode::Auto) => None,
            Self::Mode(Mode::Required) => Some(tools.iter().filter_map(function).collect()),
            Self::Function { function: Named { name }, .. } => {
                Some(tools.iter().filter_map(function).filter(|f| f["name"] == name.as_str()).collect())
            }
        }
    }
}

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    JsonSchema {
        json_schema: Schema,
    },
    /// A regular expression that the whole answer matches.
    Regex {
        regex: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub schema: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl ResponseFormat {
    pub fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// DeepSeek's switch between its thinking and its other mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thinking {
    r#type: Switch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    Enabled,
    Disabled,
}

impl Thinking {
    pub const ENABLED: Self = Self { r#type: Switch::Enabled };
}

/// The tools, checked, and whether they are called.
pub fn tools(tools: Option<Vec<Value>>, choice: Option<ToolChoice>) -> Result<(Vec<Value>, ToolChoice), Denial> {
    let tools = tools.unwrap_or_default();
    let denied = |message: String| Err(invalid(Some("tools"), message));
    if tools.len() > MAX_TOOLS {
        return denied(format!("'tools' may hold up to {MAX_TOOLS} tools, not {}", tools.len()));
    }
    let name = |tool: &Value| tool["function"]["name"].as_str().map(str::to_owned);
    for (i, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" {
            return denied(format!("tools[{i}].type must be 'function'"));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !name(tool).is_some_and(|n| (1..=MAX_NAME).contains(&n.len()) && n.bytes().all(fits)) {
            return denied(format!("tools[{i}].function.name must be 1..{MAX_NAME} of the characters a-z A-Z 0-9 _ -"));
        }
        if !matches!(tool["function"]["parameters"], Value::Null | Value::Object(_)) {
            return denied(format!("tools[{i}].function.parameters must be a JSON schema"));
        }
    }
    let tools: Vec<_> = tools.into_iter().map(|tool| described(tool, &TOOL, &FUNCTION)).collect();
    let choice = match choice.unwrap_or_default() {
        ToolChoice::Mode(Mode::Auto) => ToolChoice::Auto,
        ToolChoice::Mode(Mode::None) if tools.is_empty() => ToolChoice::Auto,
        choice => choice,
    };
    if let Some(required) = choice.required(&tools)
        && required.is_empty()
    {
        return Err(invalid(Some("tool_choice"), "'tool_choice' asks for a tool that 'tools' does not hold"));
    }
    Ok((tools, choice))
}

/// The calls of a message, each in one order.
pub fn calls(calls: Value) -> Value {
    match calls {
        Value::Array(calls) => calls.into_iter().map(|call| described(call, &CALL, &CALLED)).collect(),
        other => other,
    }
}

/// What names a function, and the function in it, with their fields in one order, which is that of models' templates: how
/// a client orders them does not matter. In the schemas below it does: an answer has the order of its schema.
fn described(mut outer: Value, order: &[&str], of_function: &[&str]) -> Value {
    if let Some(function) = outer.get_mut("function") {
        *function = ordered(function.take(), of_function);
    }
    ordered(outer, order)
}

/// These fields first, and the others by their names.
fn ordered(object: Value, first: &[&str]) -> Value {
    let Value::Object(fields) = object else { return object };
    let mut fields: Vec<_> = fields.into_iter().collect();
    let place = |name: &str| first.iter().position(|known| *known == name).unwrap_or(first.len());
    fields.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    Value::Object(fields.into_iter().collect())
}

/// The form of the answer, checked.
pub fn response_format(format: Option<ResponseFormat>) -> Result<ResponseFormat, Denial> {
    let format = format.unwrap_or_default();
    let size = match &format {
        ResponseFormat::Text | ResponseFormat::JsonObject => 0,
        ResponseFormat::JsonSchema { json_schema } => json_schema.schema.to_string().len(),
        ResponseFormat::Regex { regex } => regex.len(),
    };
    if size > MAX_GRAMMAR {
        let message = format!("'response_format' has {size} bytes; {MAX_GRAMMAR} are the most");
        return Err(invalid(Some("response_format"), message));
    }
    Ok(format)
}
