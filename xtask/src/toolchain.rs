//! A Rust standard library for `wasm32-wasip2`: the installed one, rustup's, or Debian's in a folder of our own.

mod debian;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::exec::{self, Watch};
use crate::ui::Ui;

pub const TARGET: &str = "wasm32-wasip2";

/// rustup is given this long: the library is 25 MB, and a sealed network may let a connection hang.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// Where the library may come from.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Source {
    /// The target of the Rust toolchain in use, added with `rustup target add` if need be
    Rustup,
    /// Debian's rustc and its wasm32 library, unpacked into the user's cache folder
    Debian,
}

/// What cargo must be told to compile guests.
pub struct Wasm {
    variables: Vec<(&'static str, OsString)>,
}

impl Wasm {
    /// Whether the compiler in use, and with it its clippy, can compile guests.
    pub fn is_native(&self) -> bool {
        self.variables.is_empty()
    }

    pub fn apply(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }
}

/// Finds the standard library, or fetches it from `from` or from the first source that works.
pub fn ensure(ui: &Ui, from: Option<Source>) -> Result<Wasm> {
    let step = ui.step("toolchain");
    let rustc = Rustc::active()?;
    let rustup = || -> Result<Wasm> {
        if !rustc.has_target() {
            step.say("rustup target add");
            let mut add = Command::new("rustup");
            add.args(["target", "add", TARGET]).env("RUSTUP_MAX_RETRIES", "1");
            exec::run(&mut add, Watch { step: &step, on_line: &mut |line| step.say(line), limit: Some(RUSTUP_LIMIT) })?;
        }
        if !rustc.has_target() {
            bail!("rustup added {TARGET}, but not to the toolchain in use ({})", rustc.sysroot.display());
        }
        Ok(Wasm { variables: Vec::new() })
    };
    let (wasm, what) = match from {
        Some(Source::Rustup) => (rustup()?, "of the Rust toolchain in use"),
        Some(Source::Debian) => (debian::ensure(&step, &rustc)?, "from Debian, in the cache folder"),
        None if rustc.has_target() => (rustup()?, "of the Rust toolchain in use"),
        None => match debian::cached(&rustc)? {
            Some(wasm) => (wasm, "from Debian, in the cache folder"),
            None => match rustup() {
                Ok(wasm) => (wasm, "of the Rust toolchain in use"),
                Err(first) => {
                    let wasm = debian::ensure(&step, &rustc).with_context(|| {
                        format!("no Rust standard library for {TARGET} could be had.\nFirst way: {first:#}\nSecond way, Debian's packages")
                    })?;
                    (wasm, "from Debian, in the cache folder")
                }
            },
        },
    };
    step.done(&format!("{TARGET} {what}"));
    Ok(wasm)
}

/// The compiler that cargo would use.
pub struct Rustc {
    sysroot: PathBuf,
    host: String,
}

impl Rustc {
    fn active() -> Result<Self> {
        let rustc = || Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let sysroot = exec::output(rustc().args(["--print", "sysroot"]))?.trim().into();
        let about = exec::output(rustc().arg("-vV"))?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
        Ok(Self { sysroot, host: host.to_owned() })
    }

    fn has_target(&self) -> bool {
        let lib = self.sysroot.join("lib/rustlib").join(TARGET).join("lib");
        let is_std = |name: &OsString| name.to_string_lossy().starts_with("libstd-");
        std::fs::read_dir(lib).is_ok_and(|files| files.flatten().any(|file| is_std(&file.file_name())))
    }

    /// The folder with the linkers that a toolchain carries, if it carries the one that makes components.
    fn linkers(&self) -> Option<PathBuf> {
        let dir = self.sysroot.join("lib/rustlib").join(&self.host).join("bin");
        dir.join("wasm-component-ld").is_file().then_some(dir)
    }
}

/// `PATH` with `first` in front.
fn path_with(first: &[&Path]) -> Result<OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let all = first.iter().map(PathBuf::from).chain(std::env::split_paths(&old));
    Ok(std::env::join_paths(all)?)
}
