//! `cargo xtask bench access`: what it costs to know who asks, to count, and to write it down.
//!
//! One edge a row, each with one worker, before the same instant node; rounds alternate between them. CPU is what the
//! edge's process alone took, a figure beside that of a key without limits.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{machine, median, table::Table};
use crate::{
    build, exec, guests, place, toolchain,
    ui::Ui,
    up::child::{Child, Ready},
};

const READY: Duration = Duration::from_secs(60);
/// How long edges take to hear of a new key, and Redis to be there.
const SETTLED: Duration = Duration::from_millis(1500);
const REDIS_PORT: &str = "7977";
/// Limits that nobody reaches.
const RATES: [&str; 6] =
    ["--requests-per-minute", "1000000000", "--tokens-per-minute", "10000000000", "--concurrency", "100000"];
const BUDGET: [&str; 2] = ["--budget", "4000000000000000/total"];

#[derive(clap::Args)]
pub struct Options {
    /// Rounds that alternate between what is compared
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// One row.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    rates: bool,
    budget: bool,
    /// Ask with a token that was issued to the key.
    token: bool,
    redis: bool,
    /// Lines of the section `audit`.
    audit: Option<&'static str>,
}

const PLAIN: Variant =
    Variant { name: "an API key", rates: false, budget: false, token: false, redis: false, audit: None };
/// The others are compared with the first.
const VARIANTS: [Variant; 7] = [
    PLAIN,
    Variant { name: "… a JWT that comes again", token: true, ..PLAIN },
    Variant { name: "… rates and slots in memory", rates: true, ..PLAIN },
    Variant { name: "… and a budget in a file", rates: true, budget: true, ..PLAIN },
    Variant { name: "… the same in Redis", rates: true, budget: true, redis: true, ..PLAIN },
    Variant { name: "… an audit log", audit: Some(""), ..PLAIN },
    Variant { name: "… that answers wait for", audit: Some("strict = true"), ..PLAIN },
];

/// A running edge and the credential it is asked with.
struct Edge {
    child: Child,
    ready: Ready,
    credential: String,
}

#[derive(Deserialize)]
struct Report {
    requests: u64,
    requests_per_s: f64,
    errors: u64,
    first_error: String,
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        let wasm = toolchain::ensure(ui, None)?;
        guests::build(ui, &wasm)?;
        build::benchmarks(ui)?;
    }
    let dir = place::state().join("bench-access");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let mut redis = Command::new("redis-server");
    redis.args(["--port", REDIS_PORT, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let _redis =
        Child::start("redis", &mut redis, &dir).context("redis-server is needed (apt-get install redis-server)")?;
    let mut node = Command::new(place::binary("instant-node"));
    node.args(["--listen", "127.0.0.1:0", "--tokens", "50"]);
    let mut node = Child::start("instant-node", &mut node, &dir)?;
    let at_node = node.await_ready(READY)?.get("grpc")?.to_owned();
    std::thread::sleep(SETTLED);
    let edges = VARIANTS.iter().enumerate().map(|(i, variant)| {
        let own = dir.join(i.to_string());
        start(variant, &own, &at_node).with_context(|| variant.name.to_owned())
    });
    let edges = edges.collect::<Result<Vec<_>>>()?;
    std::thread::sleep(SETTLED);
    let mut measured = vec![Vec::new(); VARIANTS.len()];
    for round in 0..options.rounds.max(1) {
        let step = ui.step("access");
        for (variant, (edge, samples)) in VARIANTS.iter().zip(edges.iter().zip(&mut measured)) {
            step.say(&format!("round {}: {}", round + 1, variant.name));
            samples.push(edge.measure(options.seconds).with_context(|| variant.name.to_owned())?);
        }
        step.done(&format!("round {}", round + 1));
    }
    let mut table = Table::new(["asked with", "CPU us a request", "more", "requests/s at 8"]);
    let cpu = |samples: &[(f64, f64)]| median(samples.iter().map(|(cpu, _)| *cpu));
    let base = cpu(&measured[0]);
    for (variant, samples) in VARIANTS.iter().zip(&measured) {
        let rate = median(samples.iter().map(|(_, rate)| *rate));
        let own = cpu(samples);
        table.row([variant.name.into(), format!("{own:.1}"), format!("{:+.1}", own - base), format!("{rate:.0}")]);
    }
    println!("{}\n\n{table}", machine::describe());
    Ok(())
}

fn start(variant: &Variant, dir: &PathBuf, node: &str) -> Result<Edge> {
    fs::create_dir_all(dir)?;
    let at = |name: &str| dir.join(name).display().to_string();
    let store = if variant.redis { format!("redis://127.0.0.1:{REDIS_PORT}") } else { at("littoral.db") };
    let audit = variant.audit.map(|more| format!("[audit]\ndir = '{}'\n{more}\n", at("audit"))).unwrap_or_default();
    let config = format!(
        "[edge]\nlisten = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\nworkers = 1\n\
         [guest]\ndir = '{}'\n[cache]\npolicy = 'off'\n[keys]\nfile = '{}'\n[store]\nurl = '{store}'\n\
         [token]\nissuer = 'https://bench.example'\nsecret_file = '{}'\n\
         [price.\"*\"]\nprompt = 1000\ncompletion = 1000\n{audit}[[node]]\naddress = '{node}'\n",
        place::guests().display(),
        at("keys.json"),
        at("secret"),
    );
    let file = dir.join("edge.toml");
    fs::write(&file, config)?;
    let mut create = Command::new(place::binary("littoral"));
    create.args(["key", "create", "--tenant", "bench", "--user", "load", "--store", &store]);
    create.args(RATES.iter().filter(|_| variant.rates)).args(BUDGET.iter().filter(|_| variant.budget));
    let mut credential = exec::output(&mut create)?.trim().to_owned();
    let mut serve = Command::new(place::binary("littoral"));
    serve.arg("serve").arg("--config").arg(&file).env("LITTORAL_LOG", "warn");
    let mut child = Child::start("edge", &mut serve, dir)?;
    let ready = child.await_ready(READY)?;
    if variant.token {
        let id = credential.split('_').nth(1).unwrap_or_default().to_owned();
        let mut mint = Command::new(place::binary("littoral"));
        mint.args(["token", "create", &id, "--store", &store, "--config"]).arg(&file);
        credential = exec::output(&mut mint)?.trim().to_owned();
    }
    Ok(Edge { child, ready, credential })
}

impl Edge {
    /// CPU microseconds a request, and requests a second.
    fn measure(&self, seconds: f64) -> Result<(f64, f64)> {
        let mut load = Command::new(place::binary("load"));
        load.args(["--to", self.ready.get("http")?, "--key", &self.credential, "--connections", "8"]);
        load.args(["--seconds", &seconds.to_string()]);
        let before = machine::cpu_seconds(self.child.id())?;
        let printed = exec::output(&mut load)?;
        let spent = machine::cpu_seconds(self.child.id())? - before;
        let report: Report = serde_json::from_str(&printed).context("the load generator printed something else")?;
        if report.errors > 0 || report.requests == 0 {
            bail!("{} requests, {} errors, the first: {}", report.requests, report.errors, report.first_error);
        }
        Ok((spent * 1e6 / report.requests as f64, report.requests_per_s))
    }
}
