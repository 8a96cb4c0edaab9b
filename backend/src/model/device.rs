//! Where the model computes, picked at run time.

use std::{fmt, str::FromStr};

use burn::tensor::Device;
use littoral_kernels::Level;

use super::{error::Problem, memory};

/// The value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best device this build can reach: a GPU if it was built for one and there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    Wgpu,
    /// One of NVIDIA's cards, by its number.
    Cuda {
        card: usize,
    },
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;
    fn from_str(name: &str) -> Result<Self, UnknownDevice> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu),
            "cuda" => Ok(Self::Cuda { card: 0 }),
            _ => match name.strip_prefix("cuda:").and_then(|card| card.parse().ok()) {
                Some(card) => Ok(Self::Cuda { card }),
                None => Err(UnknownDevice(name.into())),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu => f.write_str("wgpu"),
            Self::Cuda { card } => write!(f, "cuda:{card}"),
        }
    }
}

/// A name that is no device.
#[derive(Debug, thiserror::Error)]
#[error("unknown device '{0}': auto, cpu, wgpu, cuda or cuda:N")]
pub struct UnknownDevice(String);

/// A device that is ready.
pub struct Opened {
    pub device: Device,
    /// Describes it for people.
    pub label: String,
    /// Bytes it has, if it says so.
    pub memory: Option<u64>,
    pub kind: Kind,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code))]
pub enum Kind {
    Cpu,
    Gpu,
}

impl DeviceChoice {
    /// What will compute, without opening what is named.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Cpu => Kind::Cpu,
            Self::Wgpu | Self::Cuda { .. } => Kind::Gpu,
            Self::Auto => best().kind,
        }
    }

    /// Opens the device.
    pub(crate) fn open(self) -> Result<Opened, Problem> {
        match self {
            Self::Cpu => Ok(cpu()),
            Self::Wgpu => wgpu(Accept::Any),
            Self::Cuda { card } => cuda(card, Accept::Any),
            Self::Auto => Ok(best()),
        }
    }
}

/// The best device there is, with why it is no better in its label.
fn best() -> Opened {
    let mut why = Vec::new();
    for (built, open) in [
        (cfg!(feature = "cuda"), &(|| cuda(0, Accept::Cards)) as &dyn Fn() -> Result<Opened, Problem>),
        (cfg!(feature = "wgpu"), &|| wgpu(Accept::Cards)),
    ] {
        match open() {
            Ok(opened) => return opened,
            Err(Problem::Device(what)) if built => why.push(what),
            Err(_) => {}
        }
    }
    let cpu = cpu();
    let why = if why.is_empty() { "this build has no GPU support".to_owned() } else { why.join("; ") };
    Opened { label: format!("{}, picked because {why}", cpu.label), ..cpu }
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
    Opened { device: Device::flex(), label, memory: memory::total(), kind: Kind::Cpu }
}

/// The instructions that the kernels use on this processor.
fn simd() -> &'static str {
    match Level::best() {
        Level::Avx512 => "AVX-512 VNNI",
        Level::Avx2 => "AVX2+FMA",
        Level::Portable => "portable code",
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_: Accept) -> Result<Opened, Problem> {
    Err(not_built("wgpu"))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: Accept) -> Result<Opened, Problem> {
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
fn cuda(card: usize, accept: Accept) -> Result<Opened, Problem> {
    use burn::tensor::DeviceType;
    opened(&format!("cuda:{card}"), DeviceType::Cuda, accept, || Device::cuda(card))
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
        Some(Opened { device, label, memory: None, kind: Kind::Gpu })
    }));
    let none = || Problem::Device(format!("no '{name}' device was found: check the driver, or use `--device cpu`"));
    found.ok().flatten().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["auto", "cpu", "wgpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda { card: 0 });
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(name.parse::<DeviceChoice>().unwrap_err().to_string().contains("cuda:N"), "{name}");
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        let Ok(Opened { label, .. }) = DeviceChoice::Cpu.open() else { panic!("not there") };
        assert!(label.starts_with("cpu (flex, "), "{label}");
    }

    #[test]
    fn what_is_picked_says_why() {
        let opened = best();
        assert!(!opened.label.starts_with("cpu") || opened.label.contains("picked because"), "{}", opened.label);
    }

    #[cfg(not(feature = "wgpu"))]
    #[test]
    fn a_missing_backend_names_the_command() {
        let Err(Problem::Device(what)) = DeviceChoice::Wgpu.open() else { panic!("opened") };
        assert!(what.contains("cargo xtask up --device wgpu"), "{what}");
    }
}
