//! Templates as model makers write them.

use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let names = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    ChatTemplate::compile(vec![(DEFAULT.into(), source.into())], names.into()).unwrap()
}

fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
    template(source).render(messages)
}

fn message(role: &str, content: &str) -> Message {
    serde_json::from_value(json!({ "role": role, "content": content })).unwrap()
}

/// Renders with one user message and the variables of an object.
fn with(source: &str, variables: serde_json::Value) -> String {
    let mut prompt = Prompt::new(&json!([{ "role": "user", "content": "hi" }]));
    for (name, value) in variables.as_object().into_iter().flatten() {
        prompt = prompt.variable(name, value);
    }
    template(source).render_prompt(&prompt).unwrap()
}

#[test]
fn templates_written_for_python_run() {
    let hi = [message("user", "  Hi there ")];
    assert_eq!(render("{{ bos_token }}{{ messages[0]['content'].strip() }}", &hi).unwrap(), "<s>Hi there");
    assert_eq!(render("{% for m in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}", &hi).unwrap(), "x\n");
    assert_eq!(render("{{ messages[0] | tojson }}", &hi).unwrap(), r#"{"role": "user", "content": "  Hi there "}"#);
    assert_eq!(render("{{ strftime_now('%Y') | length }}", &hi).unwrap(), "4");
    assert_eq!(render("{% if tools is not none %}tools{% endif %}{{ add_generation_prompt }}", &hi).unwrap(), "True");
    assert_eq!(render("{% for m in messages %}{% break %}{% endfor %}", &hi).unwrap(), "");
    assert_eq!(render("{% generation %}{{ pad_token }}x{% endgeneration %}", &hi).unwrap(), "x");
}

#[test]
fn a_refusal_carries_the_templates_words() {
    let refused = render("{{ raise_exception('roles must alternate') }}", &[message("user", "x")]);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the model's chat template refused the conversation: roles must alternate"
    );
}

/// What the templates of DeepSeek, Qwen and Llama use of Jinja2. The expected texts are Jinja2's.
#[test]
fn constructs_of_known_templates_render_as_in_jinja2() {
    let table = [
        (
            "{% set ns = namespace(a=false, b='') %}{% for m in messages %}{% set ns.b = ns.b + '\\n\\n' + m['content'] %}{% endfor %}{{ ns.b }}",
            "\n\nhi",
        ),
        (
            "{{ 'a</think>b</think>c'.split('</think>', 1)[1] }}|{{ 'a</think>b'.split('</think>')[-1] }}|{{ 'x'.split('y')|last }}",
            "b</think>c|b|x",
        ),
        ("{{ '\\n\\nx\\n'.lstrip('\\n') }}|{{ '\\nx\\n\\n'.rstrip('\\n') }}|{{ ' x '.strip() }}", "x\n|\nx|x"),
        ("{% if '</think>' in 'a</think>' and 'a'.startswith('a') and not 'a'.endswith('b') %}y{% endif %}", "y"),
        (
            "{{ thinking is defined }}{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ thinking }}",
            "FalseFalse",
        ),
        ("{{ messages[0].get('content', '') }}{{ messages[0].get('x') }}{{ messages[0].get('x', 'd') }}", "hiNoned"),
        ("{% for i in range(2, -1, -1) %}{{ i }}{{ loop.last }}{{ loop.index0 }}{% endfor %}", "2False01False10True2"),
        ("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}{{ messages[1:] | length }}", "user0"),
        (
            "{% for k, v in {'b': 1, 'a': [true, none]}.items() %}{{ k }}={{ v | tojson }};{% endfor %}",
            "b=1;a=[true, null];",
        ),
        ("{% macro f(x) -%}<{{ x }}>{%- endmacro %}{{ f('a') }}{{- f(1) -}} {{ f(x=2) }}", "<a><1><2>"),
        (
            "{{ {'a': 1} is mapping }}{{ 'a' is string }}{{ [1] is iterable }}{{ none is none }}{{ [] is sequence }}",
            "TrueTrueTrueTrueTrue",
        ),
        ("{{ ('a' if false) }}{{ 'b' if true else 'c' }}{{ x | default('d') }}{{ 1 if x is defined }}", "bd"),
        (
            "{{ [1, 2, 3] | map('string') | join('-') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
            "1-2-31",
        ),
        ("{{ 'abc'[1:] }}{{ 'abc'[-1] }}{{ 'a' ~ 1 }}{{ 'ab' | upper }}{{ '%' }}{{ 3 // 2 }}{{ 7 % 4 }}", "bcca1AB%13"),
        (
            "{%- set x = 'é' -%}{{ x | tojson }}{{ x | tojson(ensure_ascii=True) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
            "\"é\"\"\\u00e9\"{\"a\":2,\"b\":1}",
        ),
        (
            "{{ {'a': '<中>', 'b': [], 'c': {'d': [1, 2]}} | tojson(indent=2) }}",
            "{\n  \"a\": \"<中>\",\n  \"b\": [],\n  \"c\": {\n    \"d\": [\n      1,\n      2\n    ]\n  }\n}",
        ),
    ];
    for (source, expected) in table {
        assert_eq!(with(source, json!({})), expected, "{source}");
    }
}

#[test]
fn variables_tools_and_the_open_end_reach_the_template() {
    let source = "{{ thinking }}{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% if add_generation_prompt %}>{% endif %}";
    assert_eq!(with(source, json!({ "thinking": true })), "True>");
    let tools: minijinja::Value =
        serde_json::from_str(r#"[{"type": "function", "function": {"name": "f", "a": 1}}]"#).unwrap();
    let prompt = Prompt::new(&json!([])).tools(&tools).add_generation_prompt(false);
    assert_eq!(
        template(source).render_prompt(&prompt).unwrap(),
        r#"{"type": "function", "function": {"name": "f", "a": 1}}"#
    );
    let two = vec![(DEFAULT.into(), "plain".into()), (TOOL_USE.into(), "with tools".into())];
    let two = ChatTemplate::compile(two, BTreeMap::new()).unwrap();
    assert_eq!(two.render_prompt(&prompt).unwrap(), "with tools");
    assert_eq!(two.render_prompt(&prompt.clone().tools(&())).unwrap(), "plain");
    // How the model calls may be told by that one alone.
    let two = vec![(DEFAULT.into(), "</think>".into()), (TOOL_USE.into(), "<tool_call>".into())];
    let two = ChatTemplate::compile(two, BTreeMap::new()).unwrap();
    assert!(crate::speak::Format::of(&two.source()).is_some_and(|format| format.calls.is_some()));
}
