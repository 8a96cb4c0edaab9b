//! Where things are: the checkout, its target folder, the user's cache.

use std::path::{Path, PathBuf};

pub use littoral_models::folder::{Draft, cache, require_space, while_growing, write_whole};

/// The checkout's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target folder for the workspace: `CARGO_TARGET_DIR`, or `target` in the checkout.
pub fn target() -> PathBuf {
    given_target().unwrap_or_else(|| root().join("target"))
}

/// Cargo's target folder for the guests' workspace.
pub fn guest_target() -> PathBuf {
    given_target().map_or_else(|| root().join("guest/target"), |dir| dir.join("guest"))
}

fn given_target() -> Option<PathBuf> {
    let dir = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty())?;
    Some(std::env::current_dir().unwrap_or_default().join(dir))
}

/// Finished guest components: what an edge's `[guest] dir` names.
pub fn guests() -> PathBuf {
    target().join("guests")
}

/// A binary of the workspace, as built.
pub fn binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// An example of the workspace, as built.
pub fn example(name: &str) -> PathBuf {
    target().join("release/examples").join(name)
}

/// State of `cargo xtask up`: the key, the edge's configuration, logs.
pub fn state() -> PathBuf {
    root().join(".littoral")
}
