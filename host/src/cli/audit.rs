//! `littoral audit`: whether the audit log is whole, and what stands in it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use littoral_core::{
    audit::{KEY_BYTES, Record},
    calendar,
};

use crate::audit;

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Checks every line: finds any change, gap, line in another place, or cut.
    Verify {
        /// The folder of the log, audit.dir.
        dir: PathBuf,
        /// The log's key; by default beside the folder.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Begins a log with a key that was there before: says that none was in the folder.
    Begin {
        /// The folder of the log, audit.dir.
        dir: PathBuf,
        /// The log's key; by default beside the folder.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Prints the lines that fit, as they are.
    Search(Box<Search>),
}

/// Every condition that is given must hold.
#[derive(Debug, Args)]
pub struct Search {
    dir: PathBuf,
    #[arg(long)]
    request_id: Option<String>,
    #[arg(long)]
    key_id: Option<String>,
    #[arg(long)]
    tenant: Option<String>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long, value_name = "IP")]
    source_ip: Option<String>,
    #[arg(long)]
    model: Option<String>,
    #[arg(long, value_parser = ["allowed", "denied", "failed", "left", "interrupted"])]
    outcome: Option<String>,
    #[arg(long)]
    status: Option<u16>,
    /// Not before this time, as 2026-11-25 or 2026-11-25T02:33:24.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
}

impl Audit {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Verify { dir, key } => {
                let key = read_key(&dir, key)?;
                let audit::Report { files, lines, first_seq, last_seq, open } = audit::verify(&dir, &key)?;
                println!("whole: {lines} lines in {files} files, {first_seq} to {last_seq}, {open} open");
                Ok(())
            }
            Self::Begin { dir, key } => {
                audit::begin(&dir, &read_key(&dir, key)?).with_context(|| format!("the folder {}", dir.display()))
            }
            Self::Search(search) => {
                let mut out = io::stdout().lock();
                fs::read_dir(&search.dir).with_context(|| format!("the audit log in {}", search.dir.display()))?;
                audit::walk(&search.dir, |line, record| {
                    if search.fits(&record) {
                        out.write_all(line)?;
                        out.write_all(b"\n")?;
                    }
                    Ok(())
                })
            }
        }
    }
}

/// A time of UTC as the log writes it: what is left out at the end is 0.
fn time(text: &str) -> Result<String, String> {
    const WHOLE: &str = "0000-00-00T00:00:00.000Z";
    let given = text.strip_suffix('Z').unwrap_or(text);
    let rest = WHOLE.get(given.len()..).filter(|_| [10, 16, 19, 23].contains(&given.len()));
    let whole = rest.map(|rest| format!("{given}{rest}")).filter(|whole| calendar::parse(whole).is_some());
    whole.ok_or_else(|| format!("'{text}' is no time of UTC; write 2026-11-25 or 2026-11-25T02:33:24"))
}

fn read_key(dir: &Path, key: Option<PathBuf>) -> anyhow::Result<[u8; KEY_BYTES]> {
    let path = key.unwrap_or_else(|| audit::default_key(dir));
    audit::read_key(&path).with_context(|| format!("the audit key {}", path.display()))
}

impl Search {
    fn fits(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let outcome = record.outcome.clone().unwrap_or_default();
        // RFC 3339 in one time zone sorts as text.
        let since = self.since.as_deref().is_none_or(|since| record.timestamp.as_str() >= since);
        let until = self.until.as_deref().is_none_or(|until| record.timestamp.as_str() < until);
        same(&self.request_id, &record.request_id)
            && same(&self.key_id, &record.key_id)
            && same(&self.tenant, &record.tenant)
            && same(&self.user, &record.user)
            && same(&self.source_ip, &record.source_ip)
            && same(&self.model, &record.model)
            && same(&self.outcome, &outcome.result)
            && self.status.is_none_or(|status| status == outcome.status)
            && since
            && until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_not() {
        for (text, whole) in [
            ("2026-11-25", "2026-11-25T00:00:00.000Z"),
            ("2026-11-25T02:33", "2026-11-25T02:33:00.000Z"),
            ("2026-11-25T02:33:24Z", "2026-11-25T02:33:24.000Z"),
            ("2026-11-25T02:33:24.123Z", "2026-11-25T02:33:24.123Z"),
        ] {
            assert_eq!(time(text).as_deref(), Ok(whole));
        }
        for bad in
            ["", "yesterday", "2026-13-45", "2026-02-30", "2026-11", "2026-11-25T25:00", "2026-11-25 02:33:24", "äääää"]
        {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
