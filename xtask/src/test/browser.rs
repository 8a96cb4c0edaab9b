//! The playground in a real browser, before an edge and a node that are started for it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Count;
use super::programs::{self, Stand};
use crate::place;
use crate::ui::Ui;

const CHROMIUM: &str = "/usr/bin/chromium";

pub fn browser(ui: &Ui, count: &mut Count) -> Result<()> {
    let step = ui.step("browser");
    let folder = place::root().join("tests/playground");
    if programs::left_out(&step, missing(), "nodejs npm chromium")? {
        step.done("left out");
        return Ok(());
    }
    step.say("npm ci");
    programs::npm_ci(&folder)?;
    let stand = Stand::start(&step, "browser", ui)?;
    let shots = stand.state.join("shots");
    let mut node = Command::new("node");
    node.arg("test.mjs").current_dir(&folder);
    node.env("BASE_URL", stand.url()?).env("API_KEY", &stand.key);
    node.env("NODE_PID", stand.pair.node.id().to_string()).env("SHOTS", &shots);
    let found = programs::counted(&mut node, &step, count, &mut |line| step.say(line))?;
    stand.pair.stop(&step);
    step.done(&format!("{} passed; pictures in {}", found.passed, shots.display()));
    Ok(())
}

fn missing() -> Option<&'static str> {
    if !Path::new(CHROMIUM).exists() && std::env::var_os("CHROMIUM").is_none() {
        return Some("Chromium");
    }
    ["node", "npm"].into_iter().find(|program| !programs::runs(program))
}
