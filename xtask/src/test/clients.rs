//! The clients people have, before an edge and a node that are started for them: openai-python, openai-node, LangChain,
//! and curl over HTTP/1.1 and HTTP/2. Each program says which checks it skipped, and why.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use littoral_models::folder::sha256;

use super::Count;
use super::programs::{self, Stand};
use crate::ui::Ui;
use crate::{exec, place};

/// What this API offers beyond the core, so that a check of it may not fail.
const EXPECT: &str = "deepseek_fields,request_id,developer_role";

pub fn clients(ui: &Ui, count: &mut Count) -> Result<()> {
    let step = ui.step("clients");
    let folder = place::root().join("tests/clients");
    let missing = ["python3", "node", "npm", "curl", "bash"].into_iter().find(|program| !programs::runs(program));
    if programs::left_out(&step, missing, "python3-venv nodejs npm curl")? {
        step.done("left out");
        return Ok(());
    }
    step.say("Python packages");
    let python = venv(&folder.join("requirements.txt"))?.join("bin/python");
    step.say("npm ci");
    programs::npm_ci(&folder)?;
    let stand = Stand::start(&step, "clients", ui)?;
    let curl = |options: &str| {
        let mut curl = with(Command::new("bash"), "curl.sh");
        curl.env("CURL_OPTS", options);
        curl
    };
    let python = |script: &str| with(Command::new(&python), script);
    let mut total = Count::default();
    let mut failed = Vec::new();
    let all = [
        ("openai-python", python("openai_py.py")),
        ("openai-node", with(Command::new("node"), "openai_node.mjs")),
        ("langchain", python("langchain_py.py")),
        ("curl HTTP/1.1", curl("")),
        ("curl HTTP/2", curl("--http2-prior-knowledge")),
    ];
    for (name, mut program) in all {
        program.current_dir(&folder).env("BASE_URL", format!("{}/v1", stand.url()?)).env("API_KEY", &stand.key);
        program.env("MODEL", &stand.pair.model).env("EXPECT", EXPECT).env("PYTHONUNBUFFERED", "1");
        let mut on_line = |line: &str| {
            if line.starts_with("skip ") || line.starts_with("FAIL ") {
                println!("  {name}: {line}");
            } else {
                step.say(&format!("{name}: {line}"));
            }
        };
        match programs::counted(&mut program, &step, count, &mut on_line) {
            Ok(found) => total.add(&found),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    stand.pair.stop(&step);
    if !failed.is_empty() {
        bail!("{}", failed.join("\n\n"));
    }
    step.done(&format!("{} passed, {} skipped", total.passed, total.ignored));
    Ok(())
}

fn with(mut program: Command, script: &str) -> Command {
    program.arg(script);
    program
}

/// The virtual environment of these requirements, in the user's cache: built aside, and renamed once it is whole.
fn venv(requirements: &Path) -> Result<PathBuf> {
    let sum = sha256(requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let parent = place::cache()?.join("clients-venv");
    let home = parent.join(&sum[..16]);
    if home.is_dir() {
        return Ok(home);
    }
    let draft = place::Draft::new(&parent)?;
    let inside = draft.path().join("venv");
    let made = exec::output(Command::new("python3").args(["-m", "venv"]).arg(&inside));
    made.context("Python makes no virtual environment (on Debian: apt-get install python3-venv)")?;
    // `python -m pip`: scripts in bin name the folder they were made in, which is not where they will be.
    let mut pip = Command::new(inside.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements);
    exec::output(&mut pip)?;
    draft.publish(&inside, &home)?;
    Ok(home)
}
