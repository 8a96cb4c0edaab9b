//! Where the model computes, picked at run time.

use std::{fmt, str::FromStr};

use burn::tensor::Device;

use super::{error::Problem, memory};

/// The value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best device this build can reach: a GPU if it was built for one and there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    Wgpu,
    Cuda,
}

/// The names of `--device`, in the order of the variants.
const NAMES: [(DeviceChoice, &str); 4] = [
    (DeviceChoice::Auto, "auto"),
    (DeviceChoice::Cpu, "cpu"),
    (DeviceChoice::Wgpu, "wgpu"),
    (DeviceChoice::Cuda, "cuda"),
];

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;
    fn from_str(name: &str) -> Result<Self, UnknownDevice> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(choice, _)| *choice).ok_or_else(|| UnknownDevice(name.into()))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(choice, _)| choice == self).map_or("", |(_, name)| name))
    }
}

/// A name that is no device.
#[derive(Debug, thiserror::Error)]
#[error("unknown device '{0}': auto, cpu, wgpu or cuda")]
pub struct UnknownDevice(String);

/// A device that is ready.
pub struct Opened {
    pub device: Device,
    /// Describes it for people.
    pub label: String,
    /// Bytes it has, if it says so.
    pub memory: Option<u64>,
}

impl DeviceChoice {
    /// Opens the device.
    pub(crate) fn open(self) -> Result<Opened, Problem> {
        match self {
            Self::Cpu => Ok(cpu()),
            Self::Wgpu => wgpu(Accept::Any),
            Self::Cuda => cuda(Accept::Any),
            Self::Auto => Ok(cuda(Accept::Cards).or_else(|_| wgpu(Accept::Cards)).unwrap_or_else(|_| cpu())),
        }
    }
}

/// Which devices of a backend will do.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))]
enum Accept {
    /// Also a rasteriser that computes on the CPU: slow, but what was asked for.
    Any,
    Cards,
}

fn cpu() -> Opened {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let plural = if threads == 1 { "" } else { "s" };
    memory::keep_freed();
    let label = format!("cpu (flex, {threads} thread{plural}, {})", simd());
    Opened { device: Device::flex(), label, memory: memory::total() }
}

/// The widest vector instructions the matrix kernels find on this processor.
fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") { "AVX2+FMA" } else { "SSE2" };
    #[cfg(target_arch = "aarch64")]
    return "NEON";
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return "scalar";
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_: Accept) -> Result<Opened, Problem> {
    Err(not_built("wgpu"))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: Accept) -> Result<Opened, Problem> {
    Err(not_built("cuda"))
}

#[cfg(not(all(feature = "wgpu", feature = "cuda")))]
fn not_built(name: &str) -> Problem {
    Problem::Device(format!(
        "this node was built without '{name}': build and start it with `cargo xtask up --device {name}`"
    ))
}

#[cfg(feature = "wgpu")]
fn wgpu(accept: Accept) -> Result<Opened, Problem> {
    use burn::tensor::{DeviceKind, DeviceType};
    opened("wgpu", DeviceType::Wgpu, accept, || Device::wgpu(DeviceKind::DefaultDevice))
}

#[cfg(feature = "cuda")]
fn cuda(accept: Accept) -> Result<Opened, Problem> {
    use burn::tensor::DeviceType;
    opened("cuda", DeviceType::Cuda, accept, || Device::cuda(0))
}

/// Opens a GPU and asks its name. Drivers that are missing make the libraries below panic: that is an error here.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn opened(
    name: &str,
    kind: burn::tensor::DeviceType,
    accept: Accept,
    open: impl FnOnce() -> Device,
) -> Result<Opened, Problem> {
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        if Device::enumerate(kind).is_empty() {
            return None;
        }
        let device = open();
        let identity = device.identity();
        if accept == Accept::Cards && identity.as_ref().is_none_or(|id| id.physical.is_none()) {
            return None;
        }
        let label = identity.map_or_else(|| name.to_owned(), |id| format!("{name} ({})", id.name));
        Some(Opened { device, label, memory: None })
    }));
    let none = || Problem::Device(format!("no '{name}' device was found: check the driver, or use `--device cpu`"));
    found.ok().flatten().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (choice, name) in NAMES {
            assert_eq!(name.parse::<DeviceChoice>().unwrap(), choice);
            assert_eq!(choice.to_string(), name);
        }
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().to_string().contains("auto, cpu, wgpu or cuda"));
    }

    #[test]
    fn the_cpu_is_always_there() {
        let Ok(Opened { label, .. }) = DeviceChoice::Cpu.open() else { panic!("not there") };
        assert!(label.starts_with("cpu (flex, "), "{label}");
    }

    #[cfg(not(feature = "wgpu"))]
    #[test]
    fn a_missing_backend_names_the_command() {
        let Err(Problem::Device(what)) = DeviceChoice::Wgpu.open() else { panic!("opened") };
        assert!(what.contains("cargo xtask up --device wgpu"), "{what}");
    }
}
