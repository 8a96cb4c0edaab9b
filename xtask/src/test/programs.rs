//! What stages share that run programs of other languages before an edge and a node that are started for them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Count;
use crate::build::Device;
use crate::exec::{self, Watch};
use crate::ui::Step;
use crate::up::pair::{Pair, Plan};
use crate::{model, place};

/// An edge and a node on ports of the system's choice, with a key and a folder of their own.
pub struct Stand {
    pub pair: Pair,
    pub key: String,
    pub state: PathBuf,
}

impl Stand {
    /// State and logs go to `name` in the target folder.
    pub fn start(step: &Step, name: &str, ui: &crate::ui::Ui) -> Result<Self> {
        let model = model::ensure(ui)?;
        let state = place::target().join(name);
        let plan =
            Plan { model: &model, device: Device::Cpu, listen: SocketAddr::from(([127, 0, 0, 1], 0)), state: &state };
        let key = plan.key()?;
        let pair = plan.start(step, &key, &|| false)?.context("not interrupted, and not started")?;
        Ok(Self { pair, key, state })
    }

    /// `http://` and the edge's address.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}", self.pair.at_edge.get("http")?))
    }
}

/// Whether the stage is to be left out because of what is missing: an error where CI runs, a word elsewhere.
pub fn left_out(step: &Step, missing: Option<&str>, packages: &str) -> Result<bool> {
    let Some(missing) = missing else { return Ok(false) };
    if std::env::var_os("CI").is_some() {
        bail!("{missing} is not there, and CI leaves no test out");
    }
    step.say(&format!("left out: {missing} is not there (on Debian: apt-get install {packages})"));
    Ok(true)
}

/// Whether a program starts and tells its version.
pub fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Runs a program whose closing line counts its checks; gives that count, and adds it to `count`, even when it fails.
/// `on_other` sees all its other lines.
pub fn counted(program: &mut Command, step: &Step, count: &mut Count, on_other: &mut dyn FnMut(&str)) -> Result<Count> {
    let mut found = None;
    let mut on_line = |line: &str| match parse(line) {
        Some(counted) => found = Some(counted),
        None => on_other(line),
    };
    let result = exec::run(program, Watch { step, on_line: &mut on_line, limit: None });
    if let Some(found) = &found {
        count.add(found);
    }
    result?;
    found.context("the program ended without its closing line `N passed, M failed, K skipped`")
}

/// `npm ci`, unless what the lock file names is installed already.
pub fn npm_ci(folder: &Path) -> Result<()> {
    let stamp = folder.join("node_modules/.littoral-lock");
    let lock = folder.join("package-lock.json");
    let lock = fs::read(&lock).with_context(|| format!("{} is missing", lock.display()))?;
    if fs::read(&stamp).is_ok_and(|old| old == lock) {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
    exec::output(&mut npm)?;
    place::write_whole(&stamp, &lock, 0o644)
}

/// `12 passed, 0 failed, 1 skipped; …`
fn parse(line: &str) -> Option<Count> {
    let mut count = Count::default();
    for part in line.split(';').next()?.split(", ") {
        let (number, what) = part.split_once(' ')?;
        let number = number.parse().ok()?;
        match what {
            "passed" => count.passed = number,
            "failed" => count.failed = number,
            "skipped" => count.ignored = number,
            _ => return None,
        }
    }
    Some(count)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_closing_line_is_read() {
        let count = parse("12 passed, 0 failed, 1 skipped; screenshots in /tmp").unwrap();
        assert_eq!(count, Count { passed: 12, failed: 0, ignored: 1 });
        assert!(parse("ok     the page opens (0.4 s)").is_none());
    }
}
