//! llama.cpp through `llama-cpp-python`, in a Python environment of its own below the user's cache folder. Nothing but
//! this benchmark uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{BATCH, PREFILL, Plan, Round};
use crate::bench::machine;
use crate::exec::{self, Watch};
use crate::place;
use crate::ui::Ui;

/// What is compared with; built once from the source that pip gets.
pub const VERSION: &str = "llama-cpp-python 0.3.36";
const REQUIREMENT: &str = "llama-cpp-python==0.3.36";
const SCRIPT: &str = include_str!("peer.py");

/// One round, in a process of its own.
pub fn round(python: &Path, plan: &Plan) -> Result<Round> {
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(plan.model).arg(machine::cores().to_string());
    command.args([list(&PREFILL), list(&BATCH), plan.tokens.to_string(), "1".into()]);
    let printed = exec::output(&mut command)?;
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).context("the script printed something else")
}

/// The environment's Python, made at the first use; an error says why it cannot be had. A marker beside it says that the build came to its end.
pub fn install(ui: &Ui) -> Result<PathBuf> {
    let dir = place::cache()?.join("bench-venv");
    let (python, whole) = (dir.join("bin/python"), dir.join("complete"));
    if fs::read_to_string(&whole).is_ok_and(|what| what == REQUIREMENT) {
        return Ok(python);
    }
    let step = ui.step("llama.cpp");
    step.say("a Python environment");
    exec::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
    let mut pip = Command::new("nice");
    pip.arg(&python).args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-v", REQUIREMENT]);
    exec::run(&mut pip, Watch { step: &step, on_line: &mut |line| step.say(line), limit: None })?;
    fs::write(&whole, REQUIREMENT)?;
    step.done("built from source");
    Ok(python)
}
