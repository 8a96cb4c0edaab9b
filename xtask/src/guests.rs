//! Builds every guest component, each in a cargo command of its own, and joins those that are compositions.
//!
//! One command each, because cargo unites the features of packages that it builds together, and a feature too many
//! can be an import too many.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::toolchain::{TARGET, Wasm};
use crate::ui::{Step, Ui};
use crate::{compose, exec, place};

/// A package of the guests' workspace that is a component.
pub struct Component {
    /// The file's name below `target/guests`, without `.wasm`.
    pub name: String,
    package: String,
    library: String,
    features: Vec<String>,
    default_features: bool,
}

impl Component {
    /// Another build of a package, with these features alone.
    pub fn variant(name: &str, package: &str, features: &[&str]) -> Self {
        let features = features.iter().map(|feature| feature.to_string()).collect();
        let library = package.replace('-', "_");
        Self { name: name.into(), package: package.into(), library, features, default_features: false }
    }
}

/// `[package.metadata.littoral]` of a guest.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    component: bool,
    /// Features of the package to build with.
    #[serde(default)]
    features: Vec<String>,
    /// Name of the file, where the package's own will not do.
    name: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    metadata: Option<Sections>,
    targets: Vec<Target>,
}

#[derive(Deserialize, Default)]
struct Sections {
    #[serde(default)]
    littoral: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    crate_types: Vec<String>,
}

/// Builds all components into `target/guests`.
pub fn build(ui: &Ui, wasm: &Wasm) -> Result<()> {
    let step = ui.step("guests");
    let components = list()?;
    let out = place::guests();
    for component in &components {
        step.say(&component.name);
        compile(component, wasm, &step, &out)?;
    }
    let joined = compose::all(&out)?;
    sweep(&out, &components)?;
    step.done(&format!("{} components, {joined} compositions in {}", components.len(), out.display()));
    Ok(())
}

/// Builds one component into `out`.
pub fn compile(component: &Component, wasm: &Wasm, step: &Step, out: &Path) -> Result<()> {
    let target_dir = place::guest_target();
    let mut command = exec::cargo(["build", "--release", "--target", TARGET, "--package", &component.package]);
    command.current_dir(place::root().join("guest")).arg("--target-dir").arg(&target_dir);
    if !component.default_features {
        command.arg("--no-default-features");
    }
    if !component.features.is_empty() {
        command.args(["--features", &component.features.join(",")]);
    }
    wasm.apply(&mut command);
    exec::run_cargo(&mut command, step).with_context(|| format!("the guest '{}' does not build", component.name))?;
    let built = target_dir.join(TARGET).join("release").join(format!("{}.wasm", component.library));
    let bytes = std::fs::read(&built).with_context(|| format!("cargo left no {}", built.display()))?;
    place::write_whole(&out.join(format!("{}.wasm", component.name)), &bytes, 0o644)
}

/// The components that the guests' workspace declares.
pub fn list() -> Result<Vec<Component>> {
    let components = metadata()?.packages.into_iter().map(component).collect::<Result<Vec<_>>>()?;
    Ok(components.into_iter().flatten().collect())
}

/// Names of all packages of the guests' workspace.
pub fn packages() -> Result<Vec<String>> {
    Ok(metadata()?.packages.into_iter().map(|package| package.name).collect())
}

fn metadata() -> Result<Metadata> {
    let mut command = exec::cargo(["metadata", "--format-version=1", "--no-deps"]);
    let text = exec::output(command.current_dir(place::root().join("guest")))?;
    serde_json::from_str(&text).context("cannot read `cargo metadata` of guest/")
}

fn component(package: Package) -> Result<Option<Component>> {
    let Some(section) = package.metadata.unwrap_or_default().littoral else { return Ok(None) };
    let table: Table = serde_json::from_value(section)
        .with_context(|| format!("[package.metadata.littoral] of {} has a wrong key", package.name))?;
    if !table.component {
        return Ok(None);
    }
    let cdylib = package.targets.iter().find(|target| target.crate_types.iter().any(|kind| kind == "cdylib"));
    let Some(cdylib) = cdylib else {
        bail!("{} says it is a component, but has no library with crate-type = [\"cdylib\"]", package.name);
    };
    let short = package.name.trim_start_matches("littoral-").trim_start_matches("guest-");
    Ok(Some(Component {
        name: table.name.unwrap_or_else(|| short.to_owned()),
        library: cdylib.name.replace('-', "_"),
        features: table.features,
        default_features: true,
        package: package.name,
    }))
}

/// Removes components that are no longer declared: the edge serves what it finds.
fn sweep(out: &Path, components: &[Component]) -> Result<()> {
    for entry in std::fs::read_dir(out)?.flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let known = components.iter().any(|c| c.name == name) || compose::COMPOSITIONS.iter().any(|c| c.name == name);
        if path.extension().is_some_and(|extension| extension == "wasm") && !known {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
