//! Where the things under test are. What is missing fails the test and names the command that makes it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// A binary of the workspace; `LITTORAL_BIN_DIR` says where else to look than where cargo builds.
pub fn binary(name: &str) -> PathBuf {
    let dir = set("LITTORAL_BIN_DIR").unwrap_or_else(|| target().join("release"));
    there(dir.join(name), "cargo xtask build")
}

/// The folder of the guest components; `LITTORAL_GUESTS` names another.
pub fn guests() -> PathBuf {
    let dir = set("LITTORAL_GUESTS").unwrap_or_else(|| target().join("guests"));
    there(dir.join("edge.wasm"), "cargo xtask guests");
    dir
}

/// The default model; `LITTORAL_TEST_MODEL` names another.
pub fn model() -> PathBuf {
    let cached = || {
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(cache.join("littoral/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let path = set("LITTORAL_TEST_MODEL").or_else(cached).expect("HOME is not set, so there is no model to find");
    there(path, "cargo xtask model")
}

/// A new folder of this test process. It goes with the process when every test passed.
pub fn scratch(name: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = scratch_root().join(format!("{count:03}-{name}"));
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}

/// The parent of all [`scratch`] folders.
pub fn scratch_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = env::temp_dir().join(format!("littoral-tests-{}", std::process::id()));
        // Of a process that had this number before.
        let _ = fs::remove_dir_all(&root);
        root
    })
}

/// The workspace's target folder: where tests run from.
fn target() -> PathBuf {
    let test = env::current_exe().expect("a test knows where it runs from");
    test.ancestors().nth(3).expect("cargo runs tests in target/release/deps").to_path_buf()
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn there(path: PathBuf, command: &str) -> PathBuf {
    assert!(path.exists(), "{} is not there; `{command}` makes it", path.display());
    path
}
