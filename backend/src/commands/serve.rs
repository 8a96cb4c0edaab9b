//! `littoral-node serve`.

use std::{fs, io::Write};

use anyhow::{Context, bail};
use littoral_node::{
    model::{self, BLOCK_TOKENS, Estimate},
    serve::{Addresses, Doors, Secret, Server, Settings},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{bytes, count, load, locate, model_name};
use crate::cli::{Serve, Speculate};

pub fn run(options: Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(options));
    // A prompt that is still being tokenised for nobody is not waited for.
    runtime.shutdown_background();
    served
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (model, compute) = (options.model.clone(), options.compute);
    let path = tokio::task::spawn_blocking(move || locate(&model)).await??;
    let (from, asked) = (path.clone(), compute.options(1));
    let estimate = tokio::task::spawn_blocking(move || model::estimate(&from, &asked)).await?;
    let estimate = estimate.context("the model cannot be served")?;
    super::announce(&estimate);
    let http = match &options.http {
        None => None,
        Some(address) => Some((address.as_str(), secret(&options)?)),
    };
    let doors = Doors::bind(&options.listen, &options.metrics, http).await?;
    let addresses = doors.addresses()?;
    let tokens = options.kv_tokens.unwrap_or_else(|| kv_tokens(&estimate, options.slots.into()));
    let from = path.clone();
    let (loaded, kv_blocks) = tokio::task::spawn_blocking(move || load(&from, compute, tokens)).await??;
    let mut served = loaded.servable(&path)?;
    if options.profile {
        served.model = served.model.profiled();
    }
    let settings = Settings {
        node: options.node.clone().unwrap_or_else(|| addresses.grpc.to_string()),
        model: options.name.clone().unwrap_or_else(|| model_name(&path)),
        slots: options.slots.into(),
        queue: options.queue.into(),
        rows: options.step_tokens,
        kv_blocks,
        speculate: options.speculate == Speculate::Auto,
    };
    let server = Server::start(doors, served, settings.clone())?;
    announce(&server, &settings, &addresses)?;
    let asked = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!(seconds = options.drain_timeout.as_secs_f64(), "draining");
    };
    match server.run(asked, options.drain_timeout).await {
        true => Ok(()),
        false => bail!("the engine stopped; the log above says why"),
    }
}

/// One line for people, one for programs: `ready grpc=ADDR metrics=ADDR http=ADDR|-`.
fn announce(server: &Server, settings: &Settings, addresses: &Addresses) -> std::io::Result<()> {
    let node = server.node();
    let kv = settings.kv_blocks as u64;
    eprintln!(
        "{} ({} parameters, {} in memory) on {}; {} slots, {} KV cache of {} tokens in {}",
        node.model,
        count(node.info.parameters),
        bytes(node.info.weights_bytes),
        node.device,
        settings.slots,
        node.info.kv_cache_dtype,
        kv * BLOCK_TOKENS as u64,
        bytes(kv * node.info.kv_bytes_per_block),
    );
    let http = addresses.http.map_or("-".into(), |a| a.to_string());
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready grpc={} metrics={} http={http}", addresses.grpc, addresses.metrics)?;
    out.flush()
}

/// The side-door's secret, from its file or the environment.
fn secret(options: &Serve) -> anyhow::Result<Secret> {
    let text = match (&options.http_secret_file, &options.http_secret) {
        (Some(path), _) => fs::read_to_string(path).with_context(|| format!("the secret file {}", path.display()))?,
        (None, Some(secret)) => secret.clone(),
        (None, None) => bail!(
            "--http opens a door that needs a secret: name its file with --http-secret-file or set LITTORAL_NODE_HTTP_SECRET"
        ),
    };
    Secret::new(&text).context("the side-door's secret is empty")
}

/// As many tokens as all slots can need, at most an eighth of the memory that is free after the weights, at least one
/// context.
fn kv_tokens(estimate: &Estimate, slots: usize) -> usize {
    let wanted = estimate.context_length.saturating_mul(slots);
    let Some(free) = available_memory() else { return wanted };
    let budget = free.saturating_sub(estimate.weights_bytes) / 8;
    let affordable = budget / estimate.kv_bytes_per_token.max(1);
    wanted.min(usize::try_from(affordable).unwrap_or(usize::MAX)).max(estimate.context_length)
}

/// `MemAvailable`, bytes; None where the system does not say.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
