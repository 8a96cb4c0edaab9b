//! `cargo xtask up`: from a checkout to two running processes and a line to paste.

pub mod child;
pub mod pair;
mod served;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::build::{self, Device};
use crate::ui::Ui;
use crate::{guests, model, place, toolchain};
use pair::{Pair, Plan};

#[derive(clap::Args)]
pub struct Options {
    /// A folder in the layout of Hugging Face, or a GGUF file, instead of the default model
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// What the node computes on
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Where clients reach the edge
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Run what is built already
    #[arg(long)]
    no_build: bool,
}

/// Sets everything up, runs it until Ctrl-C, which ends well, or until a process dies, which does not.
pub fn up(ui: &Ui, options: Options) -> Result<ExitCode> {
    let started = Instant::now();
    require_free(options.listen)?;
    let given = options.model.as_deref().map(model::given).transpose()?;
    let model = prepare(ui, &options, given)?;
    let plan = Plan { model: &model, device: options.device, listen: options.listen, state: &place::state() };
    let key = plan.key()?;

    let (interrupt, interrupted) = mpsc::channel();
    ctrlc::set_handler(move || _ = interrupt.send(())).context("cannot listen for Ctrl-C")?;
    let step = ui.step("start");
    let Some(mut pair) = plan.start(&step, &key, &|| interrupted.try_recv().is_ok())? else {
        step.done("interrupted");
        return Ok(ExitCode::SUCCESS);
    };
    step.done(&format!("ready {:.1} s after the command", started.elapsed().as_secs_f64()));
    print!("{}", Summary { plan: &plan, pair: &pair, key: &key });
    while interrupted.recv_timeout(Duration::from_millis(200)).is_err() {
        pair.check()?;
    }
    let step = ui.step("stop");
    pair.stop(&step);
    step.done("drained");
    Ok(ExitCode::SUCCESS)
}

/// Toolchain, guests, binaries and model; side by side where one waits for the network and the other for the CPU.
fn prepare(ui: &Ui, options: &Options, given: Option<PathBuf>) -> Result<PathBuf> {
    if options.no_build {
        return given.map_or_else(|| model::ensure(ui), Ok);
    }
    thread::scope(|scope| {
        let model = scope.spawn(|| given.map_or_else(|| model::ensure(ui), Ok));
        let guests = scope.spawn(|| guests::build(ui, &toolchain::ensure(ui, None)?));
        let built = build::binaries(ui, options.device);
        let guests = guests.join().map_err(|_| anyhow!("the thread that builds guests panicked"))?;
        let model = model.join().map_err(|_| anyhow!("the thread that fetches the model panicked"))?;
        built.and(guests).and(model)
    })
}

fn require_free(listen: SocketAddr) -> Result<()> {
    let Err(error) = TcpListener::bind(listen) else { return Ok(()) };
    let other = (listen.port()..).skip(1).take(100).map(|port| SocketAddr::new(listen.ip(), port));
    let free = other.into_iter().find(|address| TcpListener::bind(address).is_ok());
    let hint = free.map_or("choose another with --listen ADDRESS:PORT".to_owned(), |a| format!("try --listen {a}"));
    Err(error).with_context(|| format!("cannot listen on {listen}; {hint}"))
}

struct Summary<'a> {
    plan: &'a Plan<'a>,
    pair: &'a Pair,
    key: &'a str,
}

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plan, pair: Pair { at_edge, at_node, model, .. }, key } = self;
        let at = |ready: &child::Ready, what: &str| ready.get(what).unwrap_or("-").to_owned();
        let (edge, device, state) = (at(at_edge, "http"), plan.device.name(), shorter(plan.state));
        write!(
            out,
            r#"
  Littoral is running.

    edge     http://{edge}   (a chat is at /)
    node     grpc://{}   {model} on {device}
    metrics  http://{}/metrics and http://{}/metrics
    key      {key}
    logs     {state}/edge.log and {state}/node.log

  Ask it something:

    curl -N http://{edge}/v1/chat/completions \
      -H 'Authorization: Bearer {key}' \
      -H 'Content-Type: application/json' \
      -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "What is a tide?"}}]}}'

  Ctrl-C lets running answers finish and stops both.
"#,
            at(at_node, "grpc"),
            at(at_edge, "metrics"),
            at(at_node, "metrics"),
        )
    }
}

/// As seen from the current folder, when it lies below.
fn shorter(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_deref().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}
