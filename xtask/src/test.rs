//! `cargo xtask test`: stage after stage, each timed, ended by the first that fails.
//!
//! Binaries and tests are built with `wgpu`, once for both, and the tests of GPUs run on whatever Vulkan finds: a card, or
//! Mesa's rasteriser on the CPU. Clippy reads the code of the CPU alone, which spares it the GPU's crates; so does `--quick`,
//! which shares its build with `up`.

mod browser;
mod clients;
mod programs;
mod vulkan;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::build::{self, Device, PRODUCT};
use crate::exec::{self, Watch};
use crate::ui::{Step, Ui};
use crate::{guests, model, place, tidy, tokenizers, toolchain};

#[derive(clap::Args)]
pub struct Options {
    /// Leave out what takes minutes: GPUs, and the tests that start processes and load the model
    #[arg(long)]
    quick: bool,
    /// Only these stages, in this order
    #[arg(value_enum)]
    stages: Vec<Stage>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Stage {
    Fmt,
    Tidy,
    Guests,
    Model,
    Build,
    Clippy,
    /// The pure decisions, the guests' workspace and these commands
    Unit,
    /// The product's crates, guests in the real host, real processes with the real model
    Tests,
    /// The playground in a real browser
    Browser,
    /// openai-python, openai-node, LangChain and curl
    Clients,
}

const ALL: [Stage; 10] = {
    use Stage::*;
    [Fmt, Tidy, Guests, Model, Build, Clippy, Unit, Tests, Browser, Clients]
};
/// What `--quick` leaves out, beside the tests that load the model.
const SLOW: [Stage; 3] = [Stage::Model, Stage::Browser, Stage::Clients];

/// Compiling and running tests takes less, or something hangs.
const HANGS: Duration = Duration::from_secs(45 * 60);

/// What cargo's test runner counted.
#[derive(Debug, Default, PartialEq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Adds a line like `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        for word in counts.split(['.', ';']) {
            let mut words = word.split_whitespace();
            let (Some(number), Some(kind)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => (),
            }
        }
    }
}

/// Runs the stages and prints how long each took.
pub fn test(ui: &Ui, options: &Options) -> Result<()> {
    let started = Instant::now();
    let stages = match (&options.stages[..], options.quick) {
        ([], true) => ALL.into_iter().filter(|stage| !SLOW.contains(stage)).collect(),
        ([], false) => ALL.to_vec(),
        (some, _) => some.to_vec(),
    };
    let mut count = Count::default();
    let mut table = Vec::new();
    let result = stages.iter().try_for_each(|stage| {
        let name = stage.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let began = Instant::now();
        let result = run(ui, *stage, options.quick, &mut count).with_context(|| format!("the stage '{name}' failed"));
        table.push((name, began.elapsed().as_secs_f64(), result.is_ok()));
        result
    });
    println!("\n  stage        seconds");
    for (name, seconds, good) in &table {
        println!("  {name:10} {seconds:>9.1}{}", if *good { "" } else { "  failed" });
    }
    println!("  {:10} {:>9.1}\n", "all", started.elapsed().as_secs_f64());
    if count != Count::default() {
        println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.ignored);
    }
    result
}

fn run(ui: &Ui, stage: Stage, quick: bool, count: &mut Count) -> Result<()> {
    match stage {
        Stage::Fmt => fmt(ui),
        Stage::Tidy => tidy::check(ui),
        Stage::Guests => guests::build(ui, &toolchain::ensure(ui, None)?),
        Stage::Model => model::ensure(ui).and_then(|_| tokenizers::ensure(ui)),
        Stage::Build => build::binaries(ui, device(quick)),
        Stage::Clippy => clippy(ui),
        Stage::Unit => unit(ui, count),
        Stage::Tests => tests(ui, quick, count),
        Stage::Browser => browser::browser(ui, count),
        Stage::Clients => clients::clients(ui, count),
    }
}

/// What binaries and tests are built for.
fn device(quick: bool) -> Device {
    if quick { Device::Cpu } else { Device::Wgpu }
}

fn fmt(ui: &Ui) -> Result<()> {
    let step = ui.step("fmt");
    for workspace in [place::root().to_owned(), place::root().join("guest")] {
        let mut command = exec::cargo(["fmt", "--all", "--check", "--", "--color=never"]);
        exec::run_cargo(command.current_dir(workspace), &step).context("`cargo fmt --all` mends this")?;
    }
    step.done("both workspaces");
    Ok(())
}

fn clippy(ui: &Ui) -> Result<()> {
    let native = toolchain::ensure(ui, None)?.is_native();
    let step = ui.step("clippy");
    let deny = ["--", "-D", "warnings"];
    for packages in [&PRODUCT[..], &["--package", "xtask"]] {
        let mut command = exec::cargo(["clippy", "--release", "--all-targets"]);
        exec::run_cargo(command.args(packages).args(deny), &step)?;
    }
    // Guests one at a time, for their features' sake. Where their compiler is not ours, ours lints them as native code.
    for package in guests::packages()? {
        let mut command = exec::cargo(["clippy", "--release", "--package", &package, "--target-dir"]);
        command.arg(place::guest_target()).current_dir(place::root().join("guest"));
        if native {
            command.args(["--target", toolchain::TARGET]);
        }
        exec::run_cargo(command.args(deny), &step)?;
    }
    step.done("no warnings");
    Ok(())
}

fn unit(ui: &Ui, count: &mut Count) -> Result<()> {
    let step = ui.step("unit");
    for package in ["littoral-core", "littoral-abi", "littoral-provider"] {
        let mut guest = exec::cargo(["test", "--release", "--package", package, "--target-dir"]);
        guest.arg(place::guest_target()).current_dir(place::root().join("guest"));
        counted(&mut guest, &step, count)?;
    }
    counted(&mut exec::cargo(["test", "--release", "--package", "xtask"]), &step, count)?;
    step.done(&format!("{} passed", count.passed));
    Ok(())
}

fn tests(ui: &Ui, quick: bool, count: &mut Count) -> Result<()> {
    let step = ui.step("tests");
    let before = count.passed;
    let mut command = exec::cargo(["test", "--release"]);
    command.args(PRODUCT).args(device(quick).features());
    if quick {
        command.args(["--lib", "--bins"]);
    } else if programs::left_out(&step, vulkan::missing(), "mesa-vulkan-drivers")? {
        command.args(["--", "--skip", "wgpu::"]);
    }
    counted(&mut command, &step, count)?;
    step.done(&format!("{} passed", count.passed - before));
    Ok(())
}

fn counted(command: &mut std::process::Command, step: &Step, count: &mut Count) -> Result<()> {
    let mut on_line = |line: &str| {
        count.read(line);
        if line.starts_with("test ") {
            step.say(line);
        }
    };
    exec::run(command, Watch { step, on_line: &mut on_line, limit: Some(HANGS) })
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn test_results_add_up() {
        let mut count = Count::default();
        count.read("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s");
        count.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        count.read("test passes::by::name ... ok");
        assert_eq!(count, Count { passed: 14, failed: 1, ignored: 1 });
    }
}
