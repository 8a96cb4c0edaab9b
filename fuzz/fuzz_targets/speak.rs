//! What a model says, taken apart while it streams: however it is cut, the same comes out.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../backend/src/speak/mod.rs"]
mod speak;

use speak::{Format, Parser, Part};

/// What the chat template of each format is recognised by.
const TEMPLATES: [&str; 6] = [
    "｜DSML｜",
    "thinking <｜tool▁calls▁begin｜> <｜tool▁sep｜>",
    "<｜tool▁calls▁begin｜> ```json",
    "<tool_call>",
    "<|python_tag|>",
    "</think>",
];

/// Neighbours of one kind joined, as a reader sees them.
fn joined(parts: Vec<Part>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    for part in parts {
        match (out.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(more)) | (Some(Part::Reasoning(before)), Part::Reasoning(more)) => {
                before.push_str(&more);
            }
            (Some(Part::Arguments { index, json }), Part::Arguments { index: same, json: more }) if *index == same => {
                json.push_str(&more);
            }
            (_, part) => out.push(part),
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let [choice, step, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let template = TEMPLATES[usize::from(*choice >> 2) % TEMPLATES.len()];
    let format = Format::of(template).expect("each template has its format");
    let thinking = choice & 1 != 0;
    let functions: Arc<[String]> = if choice & 2 != 0 { ["f".to_owned()].into() } else { [].into() };
    let said = |size: usize| {
        let (mut parser, mut out) = (Parser::new(format, thinking, functions.clone()), Vec::new());
        let (mut begin, mut end) = (0, 0);
        while begin < text.len() {
            end = (end + size).min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            parser.push(&text[begin..end], &mut out);
            begin = end;
        }
        parser.finish(&mut out);
        let called = parser.has_called();
        assert!(!called || !functions.is_empty());
        (joined(out), called)
    };
    assert_eq!(said(text.len().max(1)), said(usize::from(*step % 8) + 1));
});
