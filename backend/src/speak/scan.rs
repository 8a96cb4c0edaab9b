//! Marks, found in text that comes in pieces.

/// What stands at the front of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes, then mark number `which`, that ends at `end`.
    Mark { at: usize, end: usize, which: usize },
    /// So many bytes are certainly no part of a mark; what follows may become one.
    Free(usize),
}

/// Looks for the first mark. Of two that begin at one place the longer counts. Empty marks are never found.
pub fn find(text: &str, marks: &[&str]) -> Found {
    let found = marks.iter().enumerate().filter(|(_, mark)| !mark.is_empty());
    let first = found.filter_map(|(which, mark)| Some((text.find(mark)?, std::cmp::Reverse(mark.len()), which))).min();
    let free = text.len() - marks.iter().map(|mark| overlap(text, mark)).max().unwrap_or(0);
    match first {
        // A longer mark that began earlier may still come to be.
        Some((at, std::cmp::Reverse(len), which)) if at <= free => Found::Mark { at, end: at + len, which },
        _ => Found::Free(free),
    }
}

/// Length of the longest end of `text` that is a beginning of `mark`, but not all of it, bytes.
pub fn overlap(text: &str, mark: &str) -> usize {
    let longest = text.len().min(mark.len().saturating_sub(1));
    let fits = |&n: &usize| mark.is_char_boundary(n) && text.as_bytes().ends_with(&mark.as_bytes()[..n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}
