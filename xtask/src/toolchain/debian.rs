//! Debian's Rust compiler and its WebAssembly standard libraries, unpacked beside the system and not into it.
//!
//! For networks where packages come from a mirror and rustup's servers cannot be reached. apt-get's own configuration
//! says where the mirror is and whose signature counts; its state (lists, cache) is a private one, so that the
//! system's stays as it is and nobody needs to be root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Rustc, TARGET, Wasm, path_with};
use crate::exec::{self, Watch};
use crate::place::{self, Draft};
use crate::ui::Step;

/// The first Debian release that carries the standard library for our target.
const SUITE: &str = "forky";
const PACKAGES: [&str; 2] = ["rustc", "libstd-rust-dev-wasm32"];
/// A sources.list entry's options and address, in place of what apt-get is configured with.
const MIRROR: &str = "LITTORAL_DEBIAN_MIRROR";
/// 190 MB of packages, 790 MB unpacked.
const NEEDED: u64 = 1200 << 20;

/// The dynamic loader and library folder of Debian on this machine.
struct Machine {
    libraries: &'static str,
    loader: &'static str,
}

impl Machine {
    fn this() -> Result<Self> {
        match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => Ok(Self { libraries: "x86_64-linux-gnu", loader: "ld-linux-x86-64.so.2" }),
            ("linux", "aarch64") => Ok(Self { libraries: "aarch64-linux-gnu", loader: "ld-linux-aarch64.so.1" }),
            (os, arch) => {
                bail!("there are no Debian packages for {os} on {arch}; `rustup target add {TARGET}` is the way here")
            }
        }
    }
}

fn home() -> Result<PathBuf> {
    Ok(place::cache()?.join("toolchain").join(format!("debian-{SUITE}-{}", std::env::consts::ARCH)))
}

/// What an earlier run unpacked.
pub fn cached(rustc: &Rustc) -> Result<Option<Wasm>> {
    let wrapper = home()?.join("bin/rustc");
    let works = wrapper.is_file() && exec::output(Command::new(&wrapper).arg("-vV")).is_ok();
    works.then(|| environment(&wrapper, rustc)).transpose()
}

/// What an earlier run unpacked, or else fetched now.
pub fn ensure(step: &Step, rustc: &Rustc) -> Result<Wasm> {
    if let Some(wasm) = cached(rustc)? {
        return Ok(wasm);
    }
    let machine = Machine::this()?;
    linkers(rustc)?;
    let home = home()?;
    let draft = Draft::new(home.parent().context("a cache folder has a parent")?)?;
    place::require_space(draft.path(), NEEDED, "Debian's Rust compiler")?;
    let apt = Apt::new(draft.path())?;
    step.say("reading Debian's package lists");
    apt.update(step)?;
    let names = closure(&apt.dependencies()?);
    let debs = draft.path().join("debs");
    fs::create_dir(&debs)?;
    apt.download(step, &names, &debs)?;
    let whole = draft.path().join("whole");
    unpack(step, &debs, &whole.join("root"))?;
    write_wrapper(&machine, &whole, &home)?;
    // A folder that is there and does not work is not worth keeping.
    let _ = fs::remove_dir_all(&home);
    draft.publish(&whole, &home)?;
    cached(rustc)?.with_context(|| format!("Debian's rustc in {} does not run", home.display()))
}

fn environment(wrapper: &Path, rustc: &Rustc) -> Result<Wasm> {
    let linkers = linkers(rustc)?;
    let path = path_with(&[&linkers, &linkers.join("gcc-ld")])?;
    Ok(Wasm {
        variables: vec![
            ("RUSTC", wrapper.into()),
            ("PATH", path),
            ("CARGO_TARGET_WASM32_WASIP2_LINKER", "wasm-component-ld".into()),
        ],
    })
}

fn linkers(rustc: &Rustc) -> Result<PathBuf> {
    rustc.linkers().with_context(|| {
        format!(
            "the Rust toolchain in {} carries no wasm-component-ld; install Rust with rustup, whose toolchains do",
            rustc.sysroot.display()
        )
    })
}

/// apt-get with a state of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        let state = dir.join("apt");
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(sub))?;
        }
        fs::write(state.join("status"), "")?;
        fs::write(state.join("sources.list"), format!("deb {} {SUITE} main\n", mirror()?))?;
        let at = |key: &str, sub: &str| format!("{key}={}", state.join(sub).display());
        let options = [
            at("Dir::Etc::SourceList", "sources.list"),
            "Dir::Etc::SourceParts=/dev/null".into(),
            at("Dir::State::Lists", "lists"),
            at("Dir::State::status", "status"),
            at("Dir::Cache", "cache"),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=2".into(),
        ];
        Ok(Self { options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect() })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).args(arguments).env("LC_ALL", "C");
        command
    }

    fn update(&self, step: &Step) -> Result<()> {
        // Errors of single files are errors here: half a list would resolve to half a compiler.
        let mut update = self.command("apt-get", &["update", "--error-on=any"]);
        let watch = Watch { step, on_line: &mut |line| step.say(line), limit: Some(Duration::from_secs(300)) };
        exec::run(&mut update, watch).with_context(|| {
            format!("the mirror that apt-get is configured with gives no '{SUITE}' suite; {MIRROR}='http://ADDRESS/debian' names another")
        })
    }

    /// Package -> what it depends on, for everything that the compiler could need.
    fn dependencies(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut arguments = vec!["depends", "--recurse", "--important"];
        arguments.extend(PACKAGES);
        Ok(parse_dependencies(&exec::output(&mut self.command("apt-cache", &arguments))?))
    }

    fn download(&self, step: &Step, names: &BTreeSet<String>, into: &Path) -> Result<()> {
        let mut arguments = vec!["download", "--print-uris"];
        arguments.extend(names.iter().map(String::as_str));
        // 'address' file size hash
        let uris = exec::output(&mut self.command("apt-get", &arguments))?;
        let total = uris.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
        arguments.remove(1);
        place::while_growing(into, total, step, || {
            exec::run(
                self.command("apt-get", &arguments).current_dir(into),
                Watch { step, on_line: &mut |_| (), limit: None },
            )
        })
    }
}

/// The address of the first package archive that apt-get is configured with.
fn mirror() -> Result<String> {
    if let Ok(given) = std::env::var(MIRROR) {
        return Ok(given);
    }
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--no-release-info", "--format", "$(REPO_URI)"]);
    let addresses = exec::output(&mut targets)
        .context("Debian's package manager is needed where rustup cannot download; install rustup or apt")?;
    let archive = addresses.lines().find(|address| !address.is_empty() && !address.contains("security"));
    Ok(archive.context("apt-get is configured with no package archive: /etc/apt/sources.list names none")?.to_owned())
}

fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    let mut current = String::new();
    for line in text.lines() {
        if !line.starts_with([' ', '|']) {
            current = line.to_owned();
            all.entry(current.clone()).or_default();
        } else if let Some((_, name)) = line.split_once("Depends: ")
            && !name.starts_with('<')
        {
            all.entry(current.clone()).or_default().push(name.to_owned());
        }
    }
    all
}

/// The packages and the shared libraries they run with. Not the C compiler that Debian's rustc links native programs
/// with: components are linked by the linkers of the toolchain in use.
fn closure(dependencies: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let library = |name: &str| {
        let lib = name.starts_with("lib") || name.starts_with("zlib");
        let unneeded = name.ends_with("-dev") || name.starts_with("libc-");
        lib && (!unneeded || name.starts_with("libstd-rust"))
    };
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = PACKAGES.to_vec();
    while let Some(name) = open.pop() {
        if found.insert(name.to_owned()) {
            open.extend(dependencies.get(name).into_iter().flatten().map(String::as_str).filter(|name| library(name)));
        }
    }
    found
}

fn unpack(step: &Step, debs: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    let mut files: Vec<_> = fs::read_dir(debs)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for (done, file) in files.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        step.progress(done as u64, files.len() as u64, &format!("unpacking {name}"));
        exec::output(Command::new("dpkg-deb").arg("-x").arg(file).arg(root))?;
        fs::remove_file(file)?;
    }
    for unused in ["lib/rustlib/wasm32-unknown-unknown", "lib/rustlib/wasm32-wasip1", "share"] {
        let _ = fs::remove_dir_all(root.join("usr").join(unused));
    }
    Ok(())
}

/// Debian's rustc runs with Debian's own loader and libraries, whatever the system's are.
fn write_wrapper(machine: &Machine, whole: &Path, home: &Path) -> Result<()> {
    let quoted = |path: PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let usr = home.join("root/usr");
    let libraries = usr.join("lib").join(machine.libraries);
    let script = format!(
        "#!/bin/sh\nexec {} --library-path {} {} --sysroot {} \"$@\"\n",
        quoted(libraries.join(machine.loader)),
        quoted(libraries),
        quoted(usr.join("bin/rustc")),
        quoted(usr),
    );
    let wrapper = whole.join("bin/rustc");
    fs::create_dir_all(whole.join("bin"))?;
    fs::write(&wrapper, script)?;
    Ok(fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDS: &str = "\
rustc
  Depends: libc6
  Depends: libstd-rust-dev
  Depends: gcc
  Depends: <libc-dev>
    libc6-dev
libc6
  PreDepends: libgcc-s1
libstd-rust-dev
  Depends: libstd-rust-9.99
libstd-rust-9.99
 |Depends: libllvm99
gcc
  Depends: libbinutils
libstd-rust-dev-wasm32
";

    #[test]
    fn versions_in_package_names_are_resolved_and_compilers_left_out() {
        let names: Vec<_> = closure(&parse_dependencies(DEPENDS)).into_iter().collect();
        let expected = [
            "libc6",
            "libgcc-s1",
            "libllvm99",
            "libstd-rust-9.99",
            "libstd-rust-dev",
            "libstd-rust-dev-wasm32",
            "rustc",
        ];
        assert_eq!(names, expected);
    }
}
