//! The house rules that a program can check: how sources open and how long they get, which rooms stay pure, what is
//! depended on, and that no guest goes untested.

mod crates;
mod sources;
mod units;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::compose::{self, Composition};
use crate::ui::Ui;
use crate::{exec, guests, place};
use sources::Source;

/// Checks everything, prints each finding, and fails if there is one.
pub fn check(ui: &Ui) -> Result<()> {
    let step = ui.step("tidy");
    let sources = sources::read_all(place::root())?;
    let mut findings = sources::check(&sources);
    findings.extend(crates::check(place::root(), &["--all-features"])?);
    findings.extend(crates::check(&place::root().join("guest"), &[])?);
    findings.extend(crates::check(&place::root().join("fuzz"), &[])?);
    findings.extend(units::check()?);
    step.say("fuzz targets");
    compiles(&place::root().join("fuzz"))?;
    let names: Vec<_> = guests::list()?.into_iter().map(|component| component.name).collect();
    findings.extend(untested(&names, compose::COMPOSITIONS, &sources));
    if !findings.is_empty() {
        bail!("{} house rules are broken:\n  {}", findings.len(), findings.join("\n  "));
    }
    step.done(&format!("{} sources, crates, licences", sources.len()));
    Ok(())
}

/// Fails when what nothing else builds no longer compiles.
fn compiles(dir: &Path) -> Result<()> {
    let mut check = exec::cargo(["check", "--quiet", "--locked", "--release"]);
    exec::output(check.current_dir(dir)).map(drop).context("the fuzz targets do not compile")
}

/// Components that no test names, neither themselves nor a composition they are part of: nobody runs them.
fn untested(components: &[String], compositions: &[Composition], sources: &[Source]) -> Vec<String> {
    let in_tests = |source: &&Source| source.path.starts_with("tests/") || source.path.starts_with("host/tests/");
    let tests: String = sources.iter().filter(in_tests).map(|source| source.text.as_str()).collect();
    let named = |name: &str| tests.contains(&format!("\"{name}\"")) || tests.contains(&format!("{name}.wasm"));
    let in_named = |name: &str| compositions.iter().any(|whole| named(whole.name) && whole.parts.contains(&name));
    let alone = components.iter().map(String::as_str).filter(|name| !named(name) && !in_named(name));
    let whole = compositions.iter().map(|whole| whole.name).filter(|name| !named(name));
    alone
        .chain(whole)
        .map(|name| format!("the guest component '{name}' has no test: no file in tests/ says \"{name}\""))
        .collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_component_needs_a_test_that_names_it_or_its_composition() {
        let sources = [Source { path: "tests/tests/guests.rs".into(), text: "load(\"auth\"); run(\"whole\")".into() }];
        let components = ["auth".into(), "cache".into(), "router".into()];
        let composition = |name| Composition { name, parts: &["router"] };
        let missing = untested(&components, &[composition("whole"), composition("other")], &sources);
        assert_eq!(missing.len(), 2);
        assert!(missing[0].contains("'cache'") && missing[1].contains("'other'"));
    }
}
