//! `littoral audit`: whether the audit log is whole, and what stands in it.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use littoral_core::audit::Record;

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
    /// allowed, denied, failed, left or interrupted.
    #[arg(long)]
    outcome: Option<String>,
    #[arg(long)]
    status: Option<u16>,
    /// Not before this time, as 2026-11-25 or 2026-11-25T02:33:24.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Audit {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Verify { dir, key } => {
                let path = key.unwrap_or_else(|| audit::default_key(&dir));
                let key = audit::read_key(&path).with_context(|| format!("the audit key {}", path.display()))?;
                let audit::Report { files, lines, first_seq, last_seq, open } = audit::verify(&dir, &key)?;
                println!("whole: {lines} lines in {files} files, {first_seq} to {last_seq}, {open} open");
                Ok(())
            }
            Self::Search(search) => {
                let mut out = io::stdout().lock();
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
