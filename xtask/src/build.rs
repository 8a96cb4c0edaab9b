//! The two binaries, in one cargo command, with the features that every other command builds with.
//!
//! Two sets of features are in use: the quick one, for the CPU alone (`up`, `build`, `test --quick`, `bench`), and that
//! of the whole `test` (and of CI), with the GPUs of `wgpu`. Within a set everything is compiled once.

use anyhow::Result;
use clap::ValueEnum;

use crate::exec;
use crate::ui::Ui;

/// The product: everything but these commands. `build`, `test` and `clippy` select the same packages, so that cargo
/// resolves the same features and the engines (wasmtime, burn) are compiled once.
pub const PRODUCT: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// What of them a user runs.
pub const BINARIES: [&str; 4] = ["--bin", "littoral", "--bin", "littoral-node"];

/// What the node can compute on.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Device {
    /// Plain Rust on the CPU: the quick build
    Cpu,
    /// Any GPU that Vulkan, Metal or DX12 reaches
    Wgpu,
    /// NVIDIA's GPUs
    Cuda,
}

impl Device {
    /// The name that `littoral-node --device` knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// What cargo must be told to build the node for it.
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &[],
            Self::Wgpu => &["--features", "littoral-node/wgpu"],
            Self::Cuda => &["--features", "littoral-node/cuda"],
        }
    }
}

/// Builds `littoral`, `littoral-node` and what a benchmark puts before, behind and beside them, for the CPU.
pub fn benchmarks(ui: &Ui) -> Result<()> {
    let step = ui.step("build");
    exec::run_cargo(exec::cargo(["build", "--release"]).args(PRODUCT).arg("--bins"), &step)?;
    step.done("the product, a plain proxy, an instant node and the load generators");
    Ok(())
}

/// Builds the program that measures the scheduler alone.
pub fn scheduler(ui: &Ui) -> Result<()> {
    let step = ui.step("build");
    let mut command = exec::cargo(["build", "--release"]);
    exec::run_cargo(command.args(PRODUCT).args(["--example", "schedule"]), &step)?;
    step.done("the scheduler's example");
    Ok(())
}

/// Builds `littoral` and `littoral-node`.
pub fn binaries(ui: &Ui, device: Device) -> Result<()> {
    let step = ui.step("build");
    let mut command = exec::cargo(["build", "--release"]);
    command.args(PRODUCT).args(BINARIES).args(device.features());
    exec::run_cargo(&mut command, &step)?;
    step.done(&format!("littoral and littoral-node for {}", device.name()));
    Ok(())
}
