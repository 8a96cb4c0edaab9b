//! The log read from any of its lines on, while it is written: what a sink has yet to send.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::file::{files, first_seq};

/// Bytes of lines that are read at once, about.
const BATCH: usize = 64 << 10;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub seq: u64,
    pub text: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Trail {
    dir: PathBuf,
    /// The line that is read next.
    next: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    reader: BufReader<File>,
    /// Number of the line at which the reader is.
    at: u64,
}

impl Trail {
    /// Begins with line `next`.
    pub fn new(dir: &Path, next: u64) -> Self {
        Self { dir: dir.into(), next, open: None }
    }

    /// The line that is read next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Goes on with line `next`.
    pub fn seek(&mut self, next: u64) {
        (self.next, self.open) = (next, None);
    }

    /// The next lines up to `last`; none when all of them were read. Lines whose file is gone are passed over.
    pub fn read(&mut self, last: u64) -> io::Result<Vec<Line>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while self.next <= last && bytes < BATCH {
            let Some(open) = &mut self.open else {
                if !self.enter()? {
                    break;
                }
                continue;
            };
            let mut text = Vec::new();
            open.reader.read_until(b'\n', &mut text)?;
            if text.pop() != Some(b'\n') {
                // Its end: what follows is in another file.
                let read = std::mem::take(&mut self.open).map(|open| open.path);
                if self.file()? == read {
                    break;
                }
                continue;
            }
            // Where the log goes on after a gap, its lines say so.
            let seq = number(&text).unwrap_or(open.at);
            open.at = seq + 1;
            if seq >= self.next {
                self.next = seq + 1;
                bytes += text.len();
                lines.push(Line { seq, text });
            }
        }
        Ok(lines)
    }

    /// The file that holds the next line, or the first one after it.
    fn file(&self) -> io::Result<Option<PathBuf>> {
        let files = files(&self.dir)?;
        let before = files.iter().rfind(|path| first_seq(path).is_some_and(|first| first <= self.next));
        Ok(before.or(files.first()).cloned())
    }

    fn enter(&mut self) -> io::Result<bool> {
        let Some(path) = self.file()? else { return Ok(false) };
        let at = first_seq(&path).unwrap_or(self.next);
        if at > self.next {
            tracing::warn!(from = self.next, to = at - 1, "audit lines were removed before they were sent");
            self.next = at;
        }
        self.open = Some(Open { reader: BufReader::new(File::open(&path)?), path, at });
        Ok(true)
    }
}

/// The number a line says it has.
pub fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use littoral_core::audit::Record;

    use super::*;
    use crate::{audit::Audit, config};

    fn all(trail: &mut Trail, last: u64) -> Vec<u64> {
        let mut read = Vec::new();
        loop {
            let lines = trail.read(last).unwrap();
            if lines.is_empty() {
                return read;
            }
            read.extend(lines.into_iter().map(|line| line.seq));
        }
    }

    #[test]
    fn every_line_is_read_once_across_files_and_no_further_than_asked() {
        let dir = std::env::temp_dir().join(format!("littoral-trail-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let settings = config::Audit { dir: Some(dir.clone()), rotate_bytes: 4096, ..config::Audit::default() };
        let audit = Audit::open(&settings).unwrap().unwrap();
        let mut trail = Trail::new(&dir, 1);
        assert_eq!(all(&mut trail, 0), [0; 0]);
        for i in 0..200 {
            audit.write(&Record { request_id: format!("r{i}"), ..Record::default() }).unwrap();
        }
        assert!(files(&dir).unwrap().len() > 3);
        assert_eq!(all(&mut trail, 150), (1..=150).collect::<Vec<_>>());
        assert_eq!(all(&mut trail, 200), (151..=200).collect::<Vec<_>>());
        assert_eq!(all(&mut trail, 200), [0; 0]);
        trail.seek(77);
        assert_eq!(all(&mut trail, 1000), (77..=200).collect::<Vec<_>>());
        audit.write(&Record::default()).unwrap();
        assert_eq!(all(&mut trail, 1000), [201]);
        // What is gone is passed over.
        fs::remove_file(&files(&dir).unwrap()[0]).unwrap();
        trail.seek(1);
        let left = all(&mut trail, 1000);
        assert_eq!(left, (left[0]..=201).collect::<Vec<_>>());
        assert!(left[0] > 1);
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_file(dir.with_extension("key")).unwrap();
    }
}
