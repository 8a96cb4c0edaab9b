//! `build` and `test` must compile the same engines: one dependency with one feature more in tests, deep enough, and
//! cargo builds burn or wasmtime twice.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::build::{BINARIES, Device, PRODUCT};
use crate::exec;

#[derive(Deserialize)]
struct Graph {
    units: Vec<Unit>,
}

#[derive(Deserialize)]
struct Unit {
    pkg_id: String,
    features: Vec<String>,
}

/// A crate from the registry, as one compilation of it.
type Compilation = (String, Vec<String>);

/// Crates that the product compiles in another way for `cargo test` than for `cargo build`, a line each.
pub fn check() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for device in [Device::Cpu, Device::Wgpu] {
        let build = compilations("build", &[&BINARIES[..], device.features()].concat())?;
        findings.extend(twice(&build, &compilations("test", device.features())?));
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

fn twice(build: &BTreeSet<Compilation>, test: &BTreeSet<Compilation>) -> Vec<String> {
    let only = build.difference(test);
    only.map(|(package, features)| {
        format!(
            "{package} with features [{}] is compiled for `build` alone: a [dev-dependencies] entry gives `test` others",
            features.join(", ")
        )
    })
    .collect()
}

fn compilations(command: &str, arguments: &[&str]) -> Result<BTreeSet<Compilation>> {
    let mut cargo = exec::cargo([command, "--release", "--unit-graph", "-Zunstable-options"]);
    // The graph is how cargo plans a build; showing it is not a stable option.
    cargo.args(PRODUCT).args(arguments).env("RUSTC_BOOTSTRAP", "1");
    let graph: Graph = serde_json::from_str(&exec::output(&mut cargo)?).context("cannot read cargo's unit graph")?;
    let foreign = graph.units.into_iter().filter(|unit| unit.pkg_id.starts_with("registry+"));
    Ok(foreign.map(|unit| (unit.pkg_id.rsplit('#').next().unwrap_or_default().to_owned(), unit.features)).collect())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_feature_that_only_tests_ask_for_is_found() {
        let unit = |name: &str, features: &[&str]| (name.to_owned(), features.iter().map(|f| f.to_string()).collect());
        let build = BTreeSet::from([unit("fastrand@2", &["std"]), unit("burn@0.22", &["std"])]);
        let test = BTreeSet::from([unit("fastrand@2", &["default", "std"]), unit("burn@0.22", &["std"])]);
        let findings = twice(&build, &test);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("fastrand@2"), "{findings:?}");
    }
}
