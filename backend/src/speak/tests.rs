//! The recorded cases of every format: whole, and cut at every byte.

use super::{format::Case, *};

#[derive(Debug, Default, PartialEq)]
struct Meant {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

fn parser(format: &'static Format, thinking: bool, functions: &[&str]) -> Parser {
    Parser::new(format, thinking, functions.iter().map(|name| name.to_string()).collect())
}

fn parse(format: &'static Format, case: &Case, pieces: &[&str]) -> Meant {
    let functions: Vec<&str> = case.calls.iter().map(|(name, _)| name.as_str()).chain(["other"]).collect();
    let mut parser = parser(format, case.thinking, &functions);
    let mut parts = Vec::new();
    for piece in pieces {
        // A list of its own for each piece, as each goes to the client on its own.
        let mut out = Vec::new();
        parser.push(piece, &mut out);
        parts.extend(out);
    }
    parser.finish(&mut parts);
    let mut meant = Meant::default();
    for part in parts {
        match part {
            Part::Text(text) => meant.content.push_str(&text),
            Part::Reasoning(text) => meant.reasoning.push_str(&text),
            Part::Call { index, name } => {
                assert_eq!(index as usize, meant.calls.len());
                meant.calls.push((name, String::new()));
            }
            Part::Arguments { index, json } => {
                assert_eq!(index as usize, meant.calls.len() - 1, "one call after the other");
                meant.calls[index as usize].1.push_str(&json);
            }
        }
    }
    meant
}

#[test]
fn every_case_means_the_same_whole_and_cut_at_every_byte() {
    for format in Format::all() {
        assert!(!format.cases.is_empty());
        for case in &format.cases {
            let expected =
                Meant { reasoning: case.reasoning.clone(), content: case.content.clone(), calls: case.calls.clone() };
            let said = case.said.as_str();
            let told = |pieces: &[&str]| parse(format, case, pieces);
            assert_eq!(told(&[said]), expected, "{}: {said}", format.name);
            for cut in (0..said.len()).filter(|cut| said.is_char_boundary(*cut)) {
                assert_eq!(told(&[&said[..cut], &said[cut..]]), expected, "{} cut at {cut}: {said}", format.name);
            }
            let mut characters = Vec::new();
            let mut rest = said;
            while let Some(c) = rest.chars().next() {
                let (one, others) = rest.split_at(c.len_utf8());
                characters.push(one);
                rest = others;
            }
            assert_eq!(told(&characters), expected, "{} by characters: {said}", format.name);
            for (name, arguments) in &case.calls {
                assert!(!name.is_empty());
                serde_json::from_str::<serde_json::Value>(arguments).expect("arguments are JSON");
            }
        }
    }
}

#[test]
fn arguments_stream_while_they_come() {
    let hermes = Format::all().iter().find(|f| f.name == "hermes").unwrap();
    let mut parser = parser(hermes, false, &["f"]);
    let mut out = Vec::new();
    parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"long", &mut out);
    let json = "{\"x\": \"long".to_string();
    assert_eq!(out, [Part::Call { index: 0, name: "f".into() }, Part::Arguments { index: 0, json }]);
}

#[test]
fn reasoning_opens_at_the_beginning_alone_however_the_text_is_cut() {
    let hermes = Format::all().iter().find(|f| f.name == "hermes").unwrap();
    let said = "See <think>here</think>.";
    for size in 1..=said.len() {
        let (mut parser, mut out) = (parser(hermes, false, &["f"]), Vec::new());
        for piece in said.as_bytes().chunks(size) {
            parser.push(std::str::from_utf8(piece).unwrap(), &mut out);
        }
        parser.finish(&mut out);
        assert_eq!(out, [Part::Text(said.into())], "cut every {size}");
    }
}

#[test]
fn an_object_that_is_no_call_is_said_as_it_was_written() {
    let bare = Format::all().iter().find(|f| f.name == "llama3").unwrap();
    let said = " { so it goes } on";
    for size in 1..=said.len() {
        let (mut parser, mut out) = (parser(bare, false, &["f"]), Vec::new());
        for piece in said.as_bytes().chunks(size) {
            parser.push(std::str::from_utf8(piece).unwrap(), &mut out);
        }
        parser.finish(&mut out);
        let text: String =
            out.iter().map(|part| if let Part::Text(text) = part { text.as_str() } else { "?" }).collect();
        assert_eq!(text, said, "cut every {size}");
    }
}

#[test]
fn without_tools_nothing_is_taken_for_a_call() {
    let hermes = Format::all().iter().find(|f| f.name == "hermes").unwrap();
    let mut parser = parser(hermes, false, &[]);
    let (mut out, said) = (Vec::new(), "See <tool_call>{}</tool_call>.");
    parser.push(said, &mut out);
    parser.finish(&mut out);
    assert_eq!(out, [Part::Text(said.into())]);
}

#[test]
fn a_template_is_recognised_by_its_marks() {
    let name = |template: &str| Format::of(template).map(|f| f.name.as_str());
    assert_eq!(name("{{ messages }}"), None);
    assert_eq!(name("... <tool_call> ... </think>"), Some("hermes"));
    assert_eq!(name("'<｜tool▁calls▁begin｜>' + '\\n' + '```json' + '</think>'"), Some("deepseek-v3"));
    assert_eq!(name("if thinking '<｜tool▁calls▁begin｜>' '<｜tool▁sep｜>'"), Some("deepseek-v3.1"));
    assert_eq!(name("<|python_tag|>"), Some("llama3"));
    assert_eq!(name("{% if '</think>' in content %}"), Some("think"));
}
