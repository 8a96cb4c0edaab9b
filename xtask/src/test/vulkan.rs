//! Whether the tests of `wgpu` have a device.

use std::fs;
use std::path::Path;

/// Where Vulkan's loader looks for drivers.
const DRIVERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// What names a driver in their place.
const VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/// What is missing on Linux: elsewhere the system has a device of its own kind.
pub fn missing() -> Option<&'static str> {
    let named = VARIABLES.iter().any(|name| std::env::var_os(name).is_some_and(|files| !files.is_empty()));
    let there = !cfg!(target_os = "linux") || named || DRIVERS.iter().any(|dir| holds_driver(Path::new(dir)));
    (!there).then_some("a Vulkan driver")
}

fn holds_driver(dir: &Path) -> bool {
    let is_driver = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
    fs::read_dir(dir).is_ok_and(|files| files.flatten().any(|file| is_driver(&file.path())))
}
