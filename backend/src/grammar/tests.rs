//! Grammars over a vocabulary of single bytes and a few words.

use super::*;
use crate::speak::Format;

const END: u32 = 256;

/// Every byte, then the end, then some words.
fn vocabulary() -> Vec<Vec<u8>> {
    let words = ["", "{\"", "\":", "true", "<tool_call>", "</tool_call>", ""];
    (0..=255u8).map(|b| vec![b]).chain(words.iter().map(|w| w.as_bytes().to_vec())).collect()
}

fn grammars() -> Grammars {
    Grammars::new(vocabulary, [END].into())
}

/// Whether the grammar lets this text through byte by byte, and may end after it.
fn takes(grammar: &mut Grammar, text: &str) -> Result<bool, usize> {
    for (at, byte) in text.bytes().enumerate() {
        if !grammar.mask().unwrap().is_allowed(u32::from(byte)) {
            return Err(at);
        }
        grammar.accept(u32::from(byte)).unwrap();
    }
    Ok(grammar.mask().unwrap().is_allowed(END))
}

#[test]
fn only_what_matches_may_be_said_and_the_end_comes_when_it_is_complete() {
    let grammars = grammars();
    let table = [
        (Spec::JsonObject, "{\"a\": [1, {}]}", Ok(true)),
        (Spec::JsonObject, "[1]", Err(0)),
        (Spec::JsonObject, "{\"a\"", Ok(false)),
        (Spec::JsonSchema(r#"{"type":"integer"}"#.into()), "-12", Ok(true)),
        (Spec::JsonSchema(r#"{"type":"integer"}"#.into()), "1.5", Err(1)),
        (Spec::JsonSchema(r#"{"enum":["red","blue"]}"#.into()), "\"green\"", Err(1)),
        (Spec::Regex("[0-9]{2}-[a-c]+".into()), "12-abc", Ok(true)),
        (Spec::Regex("[0-9]{2}-[a-c]+".into()), "12-d", Err(3)),
    ];
    for (spec, text, expected) in table {
        assert_eq!(takes(&mut grammars.get(&spec).unwrap(), text), expected, "{spec:?} {text}");
    }
}

#[test]
fn a_token_of_several_bytes_is_allowed_where_all_of_it_fits() {
    let mut grammar = grammars().get(&Spec::JsonObject).unwrap();
    assert!(grammar.mask().unwrap().is_allowed(257));
    assert!(!grammar.mask().unwrap().is_allowed(259));
    grammar.accept(257).unwrap();
    assert!(!grammar.mask().unwrap().is_allowed(END));
}

#[test]
fn white_space_in_json_is_what_people_lay_values_out_with() {
    let grammars = grammars();
    let value = serde_json::json!({"a": [1, {"b": {"c": [true, null], "d": {}}}], "e": "\n\n\n"});
    let schema = Spec::json_schema(&serde_json::json!({"properties": {"a": {"type": "array"}}})).unwrap();
    let anything = Spec::json_schema(&Value::Bool(true)).unwrap();
    for spec in [Spec::JsonObject, schema, anything] {
        let takes = |text: &str| takes(&mut grammars.get(&spec).unwrap(), text);
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let wide = pretty.replace("  ", "    ").replace('\n', "\r\n");
        for text in [&value.to_string(), &pretty, &wide, &pretty.replace("  ", "\t"), r#"{ "a" : [ 1, 2 ] }"#] {
            assert_eq!(takes(text), Ok(true), "{spec:?} {text}");
        }
        for text in ["\n\n{}", "{\n\n\"a\": []}", "{\"a\": \n\n[]}", &format!("{{{}}}", " ".repeat(33))] {
            assert!(takes(text).is_err(), "{spec:?} {text:?}");
        }
    }
}

#[test]
fn what_cannot_be_compiled_is_an_error_and_quickly() {
    let grammars = grammars();
    let began = std::time::Instant::now();
    for spec in [
        Spec::Regex("(".into()),
        Spec::Regex(r"(a)\1".into()),
        Spec::JsonSchema(r#"{"type":"nonsense"}"#.into()),
        Spec::JsonSchema(r##"{"$ref":"#/nowhere"}"##.into()),
        Spec::JsonSchema("not json".into()),
        Spec::Lark("start: missing".into()),
    ] {
        let error = grammars.get(&spec).err();
        assert!(matches!(error, Some(GrammarError::Compile(_))), "{spec:?}: {error:?}");
        assert!(error.unwrap().to_string().len() < 400);
    }
    // What grows without end when it is written out is not written out.
    let nested = grammars.get(&Spec::Regex("((((a{1,500}){1,500}){1,500}){1,500})b".into()));
    assert!(nested.is_err() || takes(&mut nested.unwrap(), "aaab").is_ok());
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn why_it_cannot_be_compiled_is_said_in_a_line() {
    let grammars = grammars();
    let why = |spec: Spec| grammars.get(&spec).err().unwrap().to_string();
    let unclosed = why(Spec::Regex("(".into()));
    assert!(unclosed.contains("unclosed group") && !unclosed.contains('\n'), "{unclosed}");
    assert!(why(Spec::JsonSchema(r##"{"$ref":"#"}"##.into())).ends_with("no answer matches it"));
    let one_of = serde_json::json!({"oneOf": [{"type": "object"}, {"type": "object"}]});
    assert!(why(Spec::json_schema(&one_of).unwrap()).contains("please write 'anyOf'"));
    let joined: Vec<_> = (0..200).map(|i| serde_json::json!({"pattern": format!(".*a{i}b.*")})).collect();
    let schema = serde_json::json!({"type": "string", "allOf": joined});
    assert!(Spec::json_schema(&schema).unwrap_err().to_string().contains("'allOf'"));
    let function = serde_json::json!({"name": "dive", "parameters": {"properties": {"depth": schema}}});
    let call = Spec::call(Format::of("<tool_call>").unwrap(), &[&function], &|_| None);
    assert!(call.unwrap_err().to_string().contains("the parameters of \"dive\""));
}

#[test]
fn a_known_grammar_begins_anew_each_time_and_the_oldest_is_forgotten() {
    let grammars = grammars();
    let spec = Spec::Regex("ab".into());
    assert_eq!(takes(&mut grammars.get(&spec).unwrap(), "ab"), Ok(true));
    assert_eq!(takes(&mut grammars.get(&spec).unwrap(), "ab"), Ok(true));
    for i in 0..2 * KEPT {
        grammars.get(&Spec::Regex(format!("x{i}"))).unwrap();
    }
    assert_eq!(grammars.kept.lock().unwrap().len(), KEPT);
}

#[test]
fn masks_come_from_their_own_thread() {
    let masker = Masker::start().unwrap();
    let allowed = |masks: &Masks, id: u8| masks.after_drafts(0).unwrap()[usize::from(id) / 32] >> (id % 32) & 1 == 1;
    let masks = masker.begin(grammars().get(&Spec::Regex("abc?".into())).unwrap()).wait().unwrap();
    assert!(allowed(&masks, b'a') && !allowed(&masks, b'b'));
    // Right for a while: masks are there as long as the grammar lets the drafts through, and the grammar is where it was.
    let pending = masker.next(masks, u32::from(b'a'));
    let drafts = [b'b', b'x', b'c'].map(u32::from);
    let mut masks = masker.ahead(pending, drafts.into()).wait().unwrap();
    assert!(allowed(&masks, b'b') && !allowed(&masks, b'x'));
    assert!(masks.pass() && allowed(&masks, b'c') && !allowed(&masks, b'b'));
    assert!(!masks.pass(), "nothing comes after a draft that is not allowed");
    let masks = masker.next(masks, u32::from(b'c')).wait().unwrap();
    assert!(masks.after_drafts(0).unwrap()[END as usize / 32] >> (END % 32) & 1 == 1 && !allowed(&masks, b'c'));
    assert!(matches!(masker.next(masks, u32::from(b'x')).wait(), Err(GrammarError::Step(_))));
}

#[test]
fn a_call_that_must_be_made_is_written_in_the_models_own_format() {
    let weather = serde_json::json!({"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}});
    let now = serde_json::json!({"name": "now"});
    let functions = [&weather, &now];
    let hermes = Format::of("<tool_call>").unwrap();
    let spec = Spec::call(hermes, &functions, &|_| None).unwrap().unwrap();
    let grammars = grammars();
    let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    assert_eq!(takes(&mut grammars.get(&spec).unwrap(), call), Ok(true));
    assert!(takes(&mut grammars.get(&spec).unwrap(), &call.replace("weather", "other")).is_err());
    let trip = serde_json::json!({"name": "trip", "parameters": {
        "type": "object", "properties": {"to": {"$ref": "#/$defs/place"}}, "required": ["to"],
        "$defs": {"place": {"enum": ["Oslo"]}},
    }});
    let spec = Spec::call(hermes, &[&trip], &|_| None).unwrap().unwrap();
    let call = call.replace("weather", "trip").replace("city", "to");
    assert_eq!(takes(&mut grammars.get(&spec).unwrap(), &call), Ok(true));
    // References lead from the root of the parameters, whatever stands around them.
    for (parameters, arguments) in [
        (serde_json::json!({"$ref": "#/$defs/all", "$defs": {"all": {"const": {"to": 1}}}}), r#"{"to":1}"#),
        (
            serde_json::json!({"type": "object", "properties": {"a": {"const": 7}, "b": {"$ref": "#/properties/a"}}, "required": ["a", "b"]}),
            r#"{"a": 7, "b": 7}"#,
        ),
        (
            serde_json::json!({"type": "object", "properties": {"v": {"const": 1}, "next": {"$ref": "#"}}, "required": ["v"], "additionalProperties": false}),
            r#"{"v": 1, "next": {"v": 1}}"#,
        ),
    ] {
        let function = serde_json::json!({"name": "f", "parameters": parameters});
        for (format, key, open, close) in
            [("<tool_call>", "arguments", "<tool_call>\n", "\n</tool_call>"), ("<|python_tag|>", "parameters", "", "")]
        {
            let spec = Spec::call(Format::of(format).unwrap(), &[&function], &|_| None).unwrap().unwrap();
            let call = format!(r#"{open}{{"name": "f", "{key}": {arguments}}}{close}"#);
            assert_eq!(takes(&mut grammars.get(&spec).unwrap(), &call), Ok(true), "{call}");
        }
    }
    let deepseek = Format::of("<｜tool▁calls▁begin｜>```json").unwrap();
    let spec = Spec::call(deepseek, &[&weather], &|mark| (mark == "<｜tool▁sep｜>").then_some(262)).unwrap().unwrap();
    let mut grammar = grammars.get(&spec).unwrap();
    assert_eq!(takes(&mut grammar, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"), Ok(false));
    assert!(grammar.mask().unwrap().is_allowed(262));
    grammar.accept(262).unwrap();
    let rest = "weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    assert_eq!(takes(&mut grammar, rest), Ok(true));
    assert_eq!(Spec::call(Format::of("｜DSML｜").unwrap(), &[&weather], &|_| None), Ok(None));
}
