//! Reading an audit log: whether it is whole, and what stands in it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::Context;
use littoral_core::audit::{Chain, GENESIS, KEY_BYTES, Record, Seal, event};
use serde::{Deserialize, Serialize};

use super::file::{files, first_seq};

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 1 << 20;

/// Which lines must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub first_seq: u64,
    pub last_seq: u64,
    pub last_seal: Seal,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    first_seq: u64,
    last_seq: u64,
    last_seal: String,
    mac: String,
}

impl Head {
    pub const NAME: &str = "head";

    fn mac(&self, chain: &Chain) -> String {
        let text = format!("head {} {} {}", self.first_seq, self.last_seq, littoral_core::key::hex(&self.last_seal));
        chain.digest(text.as_bytes())
    }

    /// As it stands in the file, always of one length.
    pub fn sealed(&self, chain: &Chain) -> Vec<u8> {
        let (first_seq, last_seq, last_seal) =
            (self.first_seq, self.last_seq, littoral_core::key::hex(&self.last_seal));
        let sealed = Sealed { first_seq, last_seq, last_seal, mac: self.mac(chain) };
        let text = serde_json::to_string(&sealed).expect("strings and numbers always serialise");
        format!("{text:<255}\n").into_bytes()
    }

    /// The last line that a head says is on disk, unchecked; none where the text is no head.
    pub fn said(text: &[u8]) -> Option<u64> {
        serde_json::from_slice(text).ok().map(|sealed: Sealed| sealed.last_seq)
    }

    /// The head of the log in `dir`; none when it was never written.
    pub fn read(dir: &Path, key: &[u8; KEY_BYTES]) -> anyhow::Result<Option<Self>> {
        let text = match fs::read(dir.join(Self::NAME)) {
            Ok(text) if !text.is_empty() => text,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = "the log's head was tampered with, or sealed with another key";
        let sealed: Sealed = serde_json::from_slice(&text).context(damaged)?;
        let last_seal = unhex(&sealed.last_seal).context(damaged)?;
        let head = Self { first_seq: sealed.first_seq, last_seq: sealed.last_seq, last_seal };
        let mac = head.mac(&Chain::new(key, 0, GENESIS));
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(mac.as_bytes(), sealed.mac.as_bytes());
        anyhow::ensure!(same.is_ok(), damaged);
        Ok(Some(head))
    }
}

fn unhex(text: &str) -> Option<Seal> {
    let digits = text.as_bytes();
    let byte = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok();
    (digits.len() == 64).then(|| (0..32).map(byte).collect::<Option<Vec<_>>>())??.try_into().ok()
}

/// The key in a file, 64 hex digits.
pub fn read_key(path: &Path) -> anyhow::Result<[u8; KEY_BYTES]> {
    let text = fs::read_to_string(path)?;
    unhex(text.trim()).with_context(|| format!("{} does not hold 64 hex digits", path.display()))
}

/// What a log that is whole holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub files: usize,
    pub lines: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// Begin marks without their line: requests under way, or interrupted ones of an edge that has not started again.
    pub open: usize,
}

/// Checks every line of the log in `dir`. The error says which file and line is wrong, and how.
pub fn verify(dir: &Path, key: &[u8; KEY_BYTES]) -> anyhow::Result<Report> {
    let head = Head::read(dir, key)?.with_context(|| {
        format!("there is no log in {}, or some of it was taken away: its head is gone", dir.display())
    })?;
    let mut report = Report::default();
    let mut open = std::collections::BTreeSet::new();
    let mut chain = Chain::new(key, 0, GENESIS);
    for path in files(dir)? {
        let named = |line: u64| format!("{}, line {line}", path.display());
        if report.files == 0 && first_seq(&path) != Some(1) {
            let mut first = Vec::new();
            BufReader::new(File::open(&path)?).read_until(b'\n', &mut first)?;
            chain.begin_at(first.trim_ascii_end()).with_context(|| named(1))?;
        }
        anyhow::ensure!(first_seq(&path) == Some(chain.seq + 1), "{}: line {} is expected", named(1), chain.seq + 1);
        report.files += 1;
        report.first_seq = if report.lines == 0 { chain.seq + 1 } else { report.first_seq };
        let mut number = 0;
        lines(&path, |line| {
            number += 1;
            let seq = chain.seq + 1;
            let record = chain.check(line).with_context(|| named(number))?;
            match (record.event_type.as_str(), record.begin) {
                (event::BEGIN, begin) => drop(open.insert(begin.unwrap_or(seq))),
                (_, Some(begin)) => drop(open.remove(&begin)),
                _ => {}
            }
            report.lines += 1;
            Ok(())
        })?;
    }
    let (last, first) = (chain.seq, report.first_seq);
    anyhow::ensure!(last >= head.last_seq, "the log was cut: it ends with line {last}, and had {}", head.last_seq);
    anyhow::ensure!(
        report.lines == 0 || first <= head.first_seq,
        "the log was cut: it begins with line {first}, and kept those from {}",
        head.first_seq
    );
    report.last_seq = chain.seq;
    report.open = open.len();
    Ok(report)
}

/// Shows every record of the log in `dir`, in order, without checking them. Lines that are none are passed over.
pub fn walk(dir: &Path, mut take: impl FnMut(&[u8], Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for path in files(dir)? {
        lines(&path, |line| match serde_json::from_slice::<Record>(line) {
            Ok(record) => take(line, record),
            Err(_) => Ok(()),
        })?;
    }
    Ok(())
}

fn lines(path: &Path, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    use std::io::Read;
    let mut reader = BufReader::new(File::open(path).with_context(|| path.display().to_string())?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match line.strip_suffix(b"\n") {
            Some(line) => take(line)?,
            None => anyhow::bail!("{}: the last line was cut short", path.display()),
        }
    }
}
