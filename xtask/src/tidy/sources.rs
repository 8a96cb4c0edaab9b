//! Rules about single source files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Past this a file is more than one thing.
const MAX_LINES: usize = 700;

/// Folders without sources of ours.
const SKIPPED: [&str; 5] = ["target", "node_modules", ".git", ".littoral", ".venv"];

/// Rooms of pure decisions, and the words that would open a window in them. A word that ends in `::` counts with
/// anything behind it.
const PURE: [(&str, &[&str]); 2] = [
    (
        "guest/core/src/",
        &["std::{fs,net,time,thread,process,env,io}", "wit_bindgen", "wasmtime", "tokio", "rand", "libc"],
    ),
    ("backend/src/schedule", &["std::{fs,net,time,thread,process,env,io}", "burn", "tokio", "rand", "libc"]),
];

/// A Rust file: path from the root, and content.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// Every Rust file below `root`.
pub fn read_all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                sources.push(Source { path: path.strip_prefix(root)?.to_string_lossy().into_owned(), text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

/// What is wrong with these files, a line each.
pub fn check(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .flat_map(|source| [opening(source), length(source)].into_iter().flatten().chain(impure(source)))
        .collect()
}

fn opening(source: &Source) -> Option<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let good = first.strip_prefix("//!").is_some_and(|words| !words.trim().is_empty());
    (!good).then(|| format!("{}:1: does not open with `//!` and what the module is for", source.path))
}

fn length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > MAX_LINES).then(|| format!("{}: {lines} lines; more than {MAX_LINES} are two rooms", source.path))
}

fn impure(source: &Source) -> Vec<String> {
    let Some((_, words)) = PURE.iter().find(|(room, _)| source.path.starts_with(room)) else { return Vec::new() };
    let forbidden: Vec<String> = words.iter().flat_map(|word| expand(word)).collect();
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for path in paths(code) {
            if forbidden.iter().any(|word| path == *word || path.starts_with(&format!("{word}::"))) {
                findings.push(format!("{}:{}: `{path}` in a room of pure decisions", source.path, number + 1));
            }
        }
    }
    findings
}

/// `a::{b,c}` as `a::b` and `a::c`.
fn expand(word: &str) -> Vec<String> {
    match word.split_once('{') {
        None => vec![word.to_owned()],
        Some((head, list)) => {
            list.trim_end_matches('}').split(',').map(|item| format!("{head}{}", item.trim())).collect()
        }
    }
}

/// The paths that a line of code names, with one level of braces taken apart.
fn paths(code: &str) -> Vec<String> {
    let in_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(in_path) {
        let tail = &rest[start..];
        let end = tail.find(|c| !in_path(c)).unwrap_or(tail.len());
        let (path, after) = tail.split_at(end);
        match after.strip_prefix('{').filter(|_| path.ends_with("::")) {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(|item| format!("{path}{}", item.trim())));
            }
            None if path.contains("::") => found.push(path.trim_start_matches(':').to_owned()),
            None => (),
        }
        rest = after;
    }
    found
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.into(), text: text.into() }])
    }

    #[test]
    fn a_module_opens_with_its_purpose() {
        assert!(findings("host/src/a.rs", "//! Doors.\nfn a() {}\n").is_empty());
        assert_eq!(findings("host/src/a.rs", "//!\nfn a() {}\n").len(), 1);
        assert_eq!(findings("host/src/a.rs", "use a;\n").len(), 1);
    }

    #[test]
    fn pure_rooms_have_no_windows() {
        let core = |line: &str| findings("guest/core/src/a.rs", &format!("//! A.\n{line}\n")).len();
        assert_eq!(core("use std::time::Instant;"), 1);
        assert_eq!(core("use std::{collections::HashMap, fs};"), 1);
        assert_eq!(core("    let now = ::std::time::SystemTime::now();"), 1);
        assert_eq!(core("use tokio::sync::mpsc;"), 1);
        assert_eq!(core("use std::ops::ControlFlow; // not std::fs"), 0);
        assert_eq!(core("let at = operand::timely;"), 0);
        assert_eq!(findings("backend/src/schedule/mod.rs", "//! S.\nuse burn::tensor::Tensor;\n").len(), 1);
        assert!(findings("backend/src/serve/mod.rs", "//! S.\nuse tokio::net;\n").is_empty());
    }
}
