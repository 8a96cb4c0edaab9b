//! Rules about what is depended on: licences, sources, and one version of what must be one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::exec;

/// Two versions of these in one program are two worlds that cannot talk, and minutes of compiling.
const ONE_VERSION: [&str; 10] =
    ["burn", "cubecl", "http", "hyper", "prost", "tokio", "tonic", "wasmtime", "wgpu", "wit-bindgen"];

/// Licences that an Apache-2.0 work may be built with. MPL-2.0 asks for the changes to its own files alone.
const LICENCES: [&str; 17] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "NCSA",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that name a file instead of a licence, and what the file says.
const READ_BY_HAND: [(&str, &str); 1] = [("cfg_block", "Apache-2.0")];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// What is wrong with the crates of the workspace in `dir`, a line each.
pub fn check(dir: &Path, features: &[&str]) -> Result<Vec<String>> {
    let mut command = exec::cargo(["metadata", "--format-version=1", "--locked"]);
    let text = exec::output(command.args(features).current_dir(dir))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
    let mut findings: Vec<_> = metadata.packages.iter().filter_map(licence).collect();
    findings.extend(metadata.packages.iter().filter_map(source));
    findings.extend(versions(&metadata.packages));
    Ok(findings)
}

fn source(package: &Package) -> Option<String> {
    let source = package.source.as_deref()?;
    (!source.starts_with("registry+"))
        .then(|| format!("{} {} comes from {source}; only the registry will do", package.name, package.version))
}

fn versions(packages: &[Package]) -> Vec<String> {
    let mut all = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in packages.iter().filter(|package| ONE_VERSION.contains(&package.name.as_str())) {
        all.entry(&package.name).or_default().insert(&package.version);
    }
    let twice = all.into_iter().filter(|(_, versions)| versions.len() > 1);
    twice
        .map(|(name, versions)| {
            let list: Vec<_> = versions.into_iter().collect();
            format!(
                "{name} is there in versions {}; `cargo tree --invert {name}` shows who wants which",
                list.join(" and ")
            )
        })
        .collect()
}

fn licence(package: &Package) -> Option<String> {
    let by_hand = READ_BY_HAND.iter().find(|(name, _)| *name == package.name).map(|(_, licence)| *licence);
    let Some(expression) = package.license.as_deref().or(by_hand) else {
        return Some(format!("{} {} names no licence", package.name, package.version));
    };
    match Expression::new(expression).allowed() {
        Ok(true) => None,
        Ok(false) => Some(format!("{} {} is under {expression}", package.name, package.version)),
        Err(error) => {
            Some(format!("{} {}: cannot read its licence '{expression}': {error}", package.name, package.version))
        }
    }
}

/// An SPDX licence expression (SPDX 2.3, annex D), read left to right: OR binds weakest, then AND, then WITH. The old
/// `MIT/Apache-2.0` is an OR.
struct Expression {
    words: Vec<String>,
    at: usize,
}

impl Expression {
    fn new(text: &str) -> Self {
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        Self { words: spaced.split_whitespace().map(str::to_owned).collect(), at: 0 }
    }

    fn allowed(mut self) -> Result<bool> {
        let allowed = self.any()?;
        match self.words.get(self.at) {
            None => Ok(allowed),
            Some(word) => bail!("unexpected '{word}'"),
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at).is_some_and(|next| next == word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<bool> {
        let mut allowed = self.every()?;
        while self.take("OR") {
            allowed |= self.every()?;
        }
        Ok(allowed)
    }

    fn every(&mut self) -> Result<bool> {
        let mut allowed = self.one()?;
        while self.take("AND") {
            allowed &= self.one()?;
        }
        Ok(allowed)
    }

    fn one(&mut self) -> Result<bool> {
        if self.take("(") {
            let allowed = self.any()?;
            if !self.take(")") {
                bail!("a bracket is not closed");
            }
            return Ok(allowed);
        }
        let mut name = self.words.get(self.at).context("a licence is missing")?.clone();
        self.at += 1;
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.words.get(self.at).context("an exception is missing")?);
            self.at += 1;
        }
        Ok(LICENCES.contains(&name.as_str()))
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn licence_expressions_are_understood() {
        let allowed = |text: &str| Expression::new(text).allowed().unwrap();
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("GPL-3.0-only OR MIT"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
        assert!(!allowed("MIT AND GPL-3.0-only"));
        assert!(!allowed("Apache-2.0 WITH Something-else"));
        assert!(Expression::new("(MIT").allowed().is_err());
        assert!(Expression::new("MIT Apache-2.0").allowed().is_err());
    }

    #[test]
    fn two_versions_of_one_engine_are_found() {
        let package = |version: &str, source: Option<&str>| Package {
            name: "wgpu".into(),
            version: version.into(),
            license: Some("MIT".into()),
            source: source.map(str::to_owned),
        };
        let both = [package("29.0.0", None), package("30.0.1", Some("git+https://example.org/wgpu"))];
        assert_eq!(versions(&both).len(), 1);
        assert_eq!(versions(&both[..1]).len(), 0);
        assert!(source(&both[0]).is_none() && source(&both[1]).is_some());
    }
}
