//! `cargo xtask bench engine`: how fast a node reads prompts and writes answers, beside llama.cpp with the same file
//! and as many threads, and how much of the machine's memory bandwidth that takes.
//!
//! Decoding reads every weight once a step, so that on a CPU the bandwidth is the limit: bytes of weights a step, times
//! steps a second, against what a plain loop reads.

mod bandwidth;
mod peer;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{machine, table::Table};
use crate::ui::Ui;
use crate::up::child::Child;
use crate::{build, exec, model, place};

const PREFILL: [u32; 2] = [128, 512];
const BATCH: [u32; 3] = [1, 4, 8];
const READY: Duration = Duration::from_secs(300);
const GB: f64 = 1e9;

#[derive(clap::Args)]
pub struct Options {
    /// A short run that shows that everything works
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// A GGUF file, instead of the default model
    #[arg(long, value_name = "PATH.gguf")]
    model: Option<PathBuf>,
    /// Leave llama.cpp out; its first use builds it, which takes minutes
    #[arg(long)]
    no_peer: bool,
    /// Measure what is built already
    #[arg(long)]
    no_build: bool,
}

/// What an engine did: prefill in the order of [`PREFILL`], decode in that of [`BATCH`].
#[derive(Debug, Deserialize)]
struct Report {
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
}

#[derive(Debug, Deserialize)]
struct Prefill {
    prompt_tokens: u32,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Decode {
    batch: u32,
    /// All sequences together.
    tokens_per_s: f64,
}

/// One engine's row.
struct Engine {
    name: String,
    /// Bytes of weights that a step reads.
    weights: f64,
    report: Result<Report>,
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    if !options.no_build {
        build::benchmarks(ui)?;
    }
    let model = options.model.as_deref().map_or_else(|| model::ensure(ui), model::given)?;
    let (rounds, tokens) = if options.quick { (1, 16) } else { (options.rounds.max(1), 64) };
    let bandwidth = {
        let step = ui.step("memory");
        let measured = bandwidth::measure(machine::cores());
        step.done("read bandwidth");
        measured
    };
    let mut engines = vec![own(ui, &model, rounds, tokens)?];
    if !options.no_peer {
        engines.push(peer(ui, &model, rounds, tokens)?);
    }
    println!("{}\n", machine::describe());
    print(&engines, &bandwidth, rounds);
    Ok(())
}

/// A node as it is served, asked through its gRPC.
fn own(ui: &Ui, model: &std::path::Path, rounds: u32, tokens: u32) -> Result<Engine> {
    let step = ui.step("littoral");
    let mut serve = Command::new(place::binary("littoral-node"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--device", "cpu"]);
    serve.arg("--model").arg(model);
    let dir = place::state().join("bench");
    let mut node = Child::start("bench-node", &mut serve, &dir)?;
    let began = Instant::now();
    let ready = loop {
        match node.ready(Duration::from_millis(50))? {
            Some(ready) => break ready,
            None if began.elapsed() > READY => bail!("the node was not ready in time\n{}", node.last_words()),
            None => {}
        }
    };
    step.say("prefill and decode");
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut load = Command::new(place::binary("node-load"));
    load.args(["--to", ready.get("grpc")?, "--rounds", &rounds.to_string(), "--tokens", &tokens.to_string()]);
    load.args(["--prefill", &list(&PREFILL), "--batch", &list(&BATCH)]);
    let report = serde_json::from_str(&exec::output(&mut load)?).context("node-load printed something else")?;
    node.stop(Duration::from_secs(5));
    step.done("prefill and decode");
    Ok(Engine { name: "littoral-node, f32 weights".into(), weights: unpacked_bytes(model)?, report: Ok(report) })
}

/// llama.cpp, if it can be had: why not is a row too.
fn peer(ui: &Ui, model: &std::path::Path, rounds: u32, tokens: u32) -> Result<Engine> {
    let report = peer::measure(ui, model, rounds, tokens);
    let weights = std::fs::metadata(model)?.len() as f64;
    Ok(Engine { name: format!("llama.cpp ({}), weights as in the file", peer::VERSION), weights, report })
}

/// What the weights take in memory, as `littoral-node inspect` says: `weights  513.1 MiB in memory`.
fn unpacked_bytes(model: &std::path::Path) -> Result<f64> {
    let said = exec::output(Command::new(place::binary("littoral-node")).arg("inspect").arg(model))?;
    let line = said.lines().find_map(|line| line.strip_prefix("weights "));
    let mut words = line.unwrap_or_default().split_whitespace();
    let number = words.next().and_then(|word| word.parse::<f64>().ok());
    let unit = words.next().and_then(|unit| ["B", "KiB", "MiB", "GiB"].iter().position(|known| *known == unit));
    match (number, unit) {
        (Some(number), Some(power)) => Ok(number * 1024_f64.powi(power as i32)),
        _ => bail!("`littoral-node inspect` does not say what the weights take:\n{said}"),
    }
}

fn print(engines: &[Engine], bandwidth: &[(usize, f64)], rounds: u32) {
    println!("As many threads as cores ({}) for both, {rounds} rounds, medians.\n", machine::cores());
    println!("### Memory read bandwidth\n");
    let mut table = Table::new(["threads", "GB/s"]);
    for (threads, bytes) in bandwidth {
        table.row([threads.to_string(), format!("{:.1}", bytes / GB)]);
    }
    println!("{table}");
    println!("### Tokens a second\n");
    let mut table =
        Table::new(["engine", "prefill of 128", "of 512", "decode, batch 1", "batch 4", "batch 8", "MB a step"]);
    for Engine { name, weights, report } in engines {
        let weights = format!("{:.0}", weights / 1e6);
        match report {
            Err(error) => {
                let none = || "-".to_owned();
                table.row([format!("{name}: {error:#}"), none(), none(), none(), none(), none(), weights]);
            }
            Ok(report) => {
                let prefill = |i: usize| report.prefill.get(i).map_or("-".into(), |p| rate(p.prompt_tokens, p.seconds));
                let decode = |i: usize| report.decode.get(i).map_or("-".into(), |d| format!("{:.1}", d.tokens_per_s));
                let name = name.clone();
                table.row([name, prefill(0), prefill(1), decode(0), decode(1), decode(2), weights]);
            }
        }
    }
    println!("{table}");
    let best = bandwidth.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
    println!("### Weights read while decoding, and the share of the bandwidth\n");
    let mut table = Table::new(["engine", "batch 1", "batch 4", "batch 8"]);
    for Engine { name, weights, report } in engines {
        let Ok(report) = report else { continue };
        let share = |i: usize| {
            let Some(decode) = report.decode.get(i) else { return "-".to_owned() };
            let read = decode.tokens_per_s / f64::from(decode.batch) * weights;
            format!("{:.1} GB/s, {:.0} %", read / GB, 100.0 * read / best)
        };
        table.row([name.clone(), share(0), share(1), share(2)]);
    }
    println!("{table}");
}

fn rate(tokens: u32, seconds: f64) -> String {
    format!("{:.0}", f64::from(tokens) / seconds)
}
