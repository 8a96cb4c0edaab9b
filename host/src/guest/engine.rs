//! The wasmtime engine and compiled components, kept on disk between starts.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Weak,
    thread,
};

use anyhow::{Context, anyhow};
use littoral_core::key::hex;
use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Component};

use super::{GuestConfig, limits::TICK};

/// Address space of a policy's memory, of which it may use what the configuration allows: all that 32 bits can name, so
/// that no access needs a check of its own.
const RESERVATION: u64 = 4 << 30;

/// An engine with epoch interruption and pooled, copy-on-write instances.
///
/// `concurrent` turns on component-model concurrency, which filters need and synchronous policies are faster without.
pub fn engine(config: &GuestConfig, concurrent: bool, instances: u32) -> anyhow::Result<Engine> {
    let least = config.memory_bytes() as u64;
    let make = |reservation| Engine::new(&settings(config, concurrent, instances, reservation));
    let engine = if concurrent {
        make(least)
    } else {
        make(RESERVATION).or_else(|error| {
            tracing::warn!(%error, "address space is short here: each memory access of a guest is checked, which takes time");
            make(least)
        })
    };
    engine.map_err(|e| anyhow!(e).context("the WebAssembly engine cannot be set up"))
}

fn settings(config: &GuestConfig, concurrent: bool, instances: u32, reservation: u64) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    // A composed component holds one core instance and one memory for each of its parts, and some for adapters.
    pool.total_component_instances(instances)
        .total_core_instances(instances * 16)
        .total_memories(instances * 8)
        .total_tables(instances * 16)
        .max_core_instances_per_component(64)
        .max_memories_per_component(8)
        .max_tables_per_component(32)
        .table_elements(20_000)
        .max_memory_size(config.memory_bytes())
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10);
    if concurrent {
        pool.total_stacks(instances * 2);
    }
    let mut settings = Config::new();
    settings
        .wasm_component_model(true)
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(reservation)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    if concurrent {
        settings.wasm_component_model_async(true);
    } else {
        settings.concurrency_support(false);
    }
    settings
}

/// Advances the engine's epoch until nobody holds what `alive` points to.
pub fn tick<T: Send + Sync + 'static>(engine: Engine, alive: Weak<T>) -> anyhow::Result<()> {
    let run = move || {
        while alive.strong_count() > 0 {
            thread::sleep(TICK);
            engine.increment_epoch();
        }
    };
    thread::Builder::new().name("guest-epoch".into()).spawn(run)?;
    Ok(())
}

/// Loads a component, compiled before if this very file was compiled by this very engine.
pub fn load(engine: &Engine, path: &Path, cache: Option<&Path>) -> anyhow::Result<Component> {
    let wasm = fs::read(path).with_context(|| {
        format!("the guest component {} cannot be read; `cargo xtask guests` builds it", path.display())
    })?;
    let Some(kept) = cache.map(|dir| dir.join(artifact_name(engine, &wasm))) else {
        return compile(engine, path, &wasm);
    };
    if kept.exists() {
        // SAFETY: the folder is readable and writable by this user alone (created with mode 0700), the name binds the
        // file to the source's SHA-256 and the engine's settings, and it was renamed into place only when whole.
        match unsafe { Component::deserialize_file(engine, &kept) } {
            Ok(component) => return Ok(component),
            Err(error) => {
                tracing::warn!(path = %kept.display(), %error, "a compiled component was refused and is made anew")
            }
        }
    }
    let component = compile(engine, path, &wasm)?;
    if let Err(error) = keep(&component, &kept) {
        tracing::warn!(path = %kept.display(), %error, "the compiled component could not be kept; the next start compiles again");
    }
    Ok(component)
}

fn compile(engine: &Engine, path: &Path, wasm: &[u8]) -> anyhow::Result<Component> {
    Component::new(engine, wasm)
        .map_err(|e| anyhow!(e).context(format!("{} is not a component this host can run", path.display())))
}

fn artifact_name(engine: &Engine, wasm: &[u8]) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    format!("{}-{:016x}.cwasm", &hex(&Sha256::digest(wasm))[..32], settings.finish()).into()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn keep(component: &Component, path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().context("the artifact has no folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Others may be keeping the same.
    let part = path.with_extension(format!("{:016x}.part", rand::random::<u64>()));
    let bytes = component.serialize().map_err(|e| anyhow!(e))?;
    let written = write(&part, &bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    Ok(written?)
}
