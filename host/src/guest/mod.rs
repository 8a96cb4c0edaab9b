//! Guests: WebAssembly components that decide. This room knows wasmtime and nothing of HTTP.
//!
//! A [`Worker`] belongs to one thread and runs one decision at a time, to its end: the call is synchronous, so no more
//! instances are ever inside a call than there are workers. Tokens flow without any instance, but for filters.

mod bindings;
mod convert;
mod engine;
mod filter;
mod limits;
mod state;
mod wasi;
mod worker;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context, anyhow};
use littoral_core::Knowledge;
use serde::Deserialize;
use wasmtime::{Engine, component::Linker};

pub use filter::FilteredEvents;
pub use worker::Worker;

use bindings::policy::TerminalPre;
use filter::Filters;
use state::State;

/// The section `guest` of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestConfig {
    /// Folder of the components.
    pub dir: PathBuf,
    /// The policy component: a name in `dir`, or a path to a `.wasm` file.
    pub policy: String,
    pub isolation: Isolation,
    /// Decisions an instance makes before it is replaced.
    pub reuse_cap: u32,
    /// Longest that a decision is remembered for the same credential, route and body, milliseconds, when the policy
    /// asks for it; 0 = never.
    pub memo_ms: u64,
    /// Linear memory of one instance, MiB.
    pub memory_mib: u32,
    /// Token filters: name -> component (a name in `dir`, or a path).
    pub filters: BTreeMap<String, String>,
    /// Streams that may run through a filter at once.
    pub filter_instances: u32,
    /// Where compiled components are kept; empty keeps none.
    pub artifacts: PathBuf,
}

/// Whether an instance makes more than one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// One request at a time, the instance kept for the next until its cap or a trap.
    Reuse,
    /// A new instance for every decision: for components that tenants share and nobody vouches for.
    Fresh,
}

impl Default for GuestConfig {
    fn default() -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        Self {
            dir: "target/guests".into(),
            policy: "edge".into(),
            isolation: Isolation::Reuse,
            reuse_cap: 100_000,
            memo_ms: 0,
            memory_mib: 64,
            filters: BTreeMap::new(),
            filter_instances: 256,
            artifacts: cache.map(|dir| dir.join("littoral/components")).unwrap_or_default(),
        }
    }
}

impl GuestConfig {
    fn memory_bytes(&self) -> usize {
        self.memory_mib as usize * (1 << 20)
    }

    /// The file of a component given by name or by path.
    fn file(&self, component: &str) -> PathBuf {
        if component.ends_with(".wasm") { component.into() } else { self.dir.join(format!("{component}.wasm")) }
    }

    fn artifacts(&self) -> Option<&Path> {
        Some(self.artifacts.as_path()).filter(|dir| !dir.as_os_str().is_empty())
    }
}

/// Why a guest gave no outcome. The host answers; the instance is gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GuestError {
    /// It trapped, or ran out of memory.
    #[error("a policy guest failed: {0}")]
    Trap(String),
    /// It used up its CPU time.
    #[error("a policy guest took too long: {0}")]
    Deadline(String),
    /// Every filter instance is busy.
    #[error("all {0} token filter instances are busy")]
    FiltersBusy(u32),
    /// A plan names a filter that is not configured.
    #[error("the plan names a token filter that is not configured: {0}")]
    UnknownFilter(String),
}

/// The compiled guests, shared by all workers.
pub struct Guests {
    config: GuestConfig,
    engine: Engine,
    policy: TerminalPre<State>,
    knowledge: Arc<dyn Knowledge + Send + Sync>,
    filters: Option<Filters>,
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Guests {
    /// Compiles (or finds compiled) the policy and the filters, and links them to the host; `workers` threads will
    /// hold one policy instance each.
    pub fn load(
        config: &GuestConfig,
        workers: usize,
        knowledge: Arc<dyn Knowledge + Send + Sync>,
    ) -> anyhow::Result<Arc<Self>> {
        // Twice as many places as can be taken: a place is cleaned before it is given out again.
        let engine = engine::engine(config, false, 2 * workers.max(4) as u32)?;
        let path = config.file(&config.policy);
        let component = engine::load(&engine, &path, config.artifacts())?;
        let mut linker = Linker::<State>::new(&engine);
        wasi::add_to_linker(&mut linker, &component).map_err(|e| anyhow!(e))?;
        bindings::policy::Terminal::add_to_linker::<State, wasmtime::component::HasSelf<State>>(&mut linker, |s| s)
            .map_err(|e| anyhow!(e))?;
        let policy =
            linker.instantiate_pre(&component).and_then(TerminalPre::new).map_err(|e| anyhow!(e)).with_context(
                || format!("{} is not a policy component (world littoral:edge/terminal)", path.display()),
            )?;
        let filters = if config.filters.is_empty() { None } else { Some(Filters::load(config)?) };
        let guests = Arc::new(Self {
            config: config.clone(),
            engine,
            policy,
            knowledge,
            filters,
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        engine::tick(guests.engine.clone(), Arc::downgrade(&guests))?;
        if let Some(filters) = &guests.filters {
            engine::tick(filters.engine().clone(), Arc::downgrade(&guests))?;
        }
        Ok(guests)
    }

    /// What one thread needs to run guests.
    pub fn worker(self: &Arc<Self>) -> Worker {
        Worker::new(self.clone())
    }

    /// Policy instances that exist now: at most one per worker.
    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    /// The most policy instances that ever existed at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Filter instances that exist now: one per stream that runs through a filter.
    pub fn live_filters(&self) -> usize {
        self.filters.as_ref().map_or(0, Filters::live)
    }
}
