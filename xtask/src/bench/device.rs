//! `cargo xtask bench device`: one command for a machine with a GPU. The architectures are tested on it against their
//! references; then models of the real shapes, of random numbers, are written and timed, and what a token reads is held
//! against the card's bandwidth.

mod speed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use super::{machine, table::Table};
use crate::build::{Device, PRODUCT};
use crate::exec::{self, Watch};
use crate::place;
use crate::ui::{Step, Ui};
use speed::Speed;

/// Tokens that stand before those that are written.
const PAST: u64 = 512;
const GB: f64 = 1e9;

#[derive(clap::Args)]
pub struct Options {
    /// What to compute on
    #[arg(long, value_enum, default_value_t = Device::Wgpu)]
    device: Device,
    /// The card's memory bandwidth, from its data sheet: what a token reads is given as a share of it
    #[arg(long, value_name = "N")]
    bandwidth_gbs: Option<f64>,
    /// Only the tests and a model of no real shape: shows that everything works
    #[arg(long)]
    quick: bool,
    /// Only these models
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Shape::Qwen, Shape::Llama, Shape::V2Lite])]
    models: Vec<Shape>,
    /// Leave the tests out
    #[arg(long)]
    no_test: bool,
    /// Where models are written, one after the other; each is removed once it is timed [default: target/bench-device]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A model whose shape is taken.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Shape {
    /// Of no real model: a megabyte
    #[value(name = "tiny")]
    Tiny,
    /// DeepSeek-R1-Distill-Qwen-1.5B: 3.6 GB
    #[value(name = "r1-distill-qwen-1.5b")]
    Qwen,
    /// DeepSeek-R1-Distill-Llama-8B: 16.1 GB
    #[value(name = "r1-distill-llama-8b")]
    Llama,
    /// DeepSeek-V2-Lite: 31.4 GB
    #[value(name = "deepseek-v2-lite")]
    V2Lite,
}

impl Shape {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What matrices are brought into when they are loaded.
struct Format {
    name: &'static str,
    /// The value of `--quantize`.
    quantize: &'static str,
    /// Of a parameter; in 4 bits a block of 32 has a scale of two bytes.
    bytes: f64,
}

const FORMATS: [Format; 2] = [
    Format { name: "bf16", quantize: "none", bytes: 2.0 },
    Format { name: "int4", quantize: "int4", bytes: 18.0 / 32.0 },
];

/// What the example `random` says of a model that it has written.
#[derive(Deserialize)]
struct Written {
    parameters: f64,
    /// Parameters that one token meets.
    met: f64,
    /// Bytes kept a token.
    kv_bytes: f64,
}

impl Written {
    /// Bytes that one token reads after `past` others: the weights it meets, and what is kept of those.
    fn read(&self, format: &Format, past: u64) -> f64 {
        self.met * format.bytes + self.kv_bytes * past as f64
    }
}

/// A model in a format, timed or failed.
struct Row {
    shape: Shape,
    format: &'static Format,
    /// Bytes that a token reads.
    read: f64,
    /// Bytes of its weights.
    weights: f64,
    speed: Result<Speed>,
}

impl Row {
    /// Which it is and why it could not be timed.
    fn failure(&self) -> Option<String> {
        let error = self.speed.as_ref().err()?;
        Some(format!("{}, {}: {error:#}", self.shape.name(), self.format.name))
    }
}

pub fn bench(ui: &Ui, options: &Options) -> Result<()> {
    let step = ui.step("build");
    exec::run_cargo(&mut node(options.device, "build", &["--example", "random", "--example", "speed"]), &step)?;
    step.done(&format!("what writes models, and what times them on {}", options.device.name()));
    if !options.no_test {
        test(ui, options.device)?;
    }
    let shapes = if options.quick { &[Shape::Tiny][..] } else { &options.models };
    let dir = options.dir.clone().unwrap_or_else(|| place::target().join("bench-device"));
    let mut rows = Vec::new();
    for shape in shapes {
        let folder = dir.join(format!("random-{}", shape.name()));
        let timed = rows_of(ui, options.device, *shape, &folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        rows.extend(timed?);
    }
    println!("{}\n\n{}", machine::describe(), table(&rows, options.bandwidth_gbs));
    let failed: Vec<_> = rows.iter().filter_map(Row::failure).collect();
    ensure!(failed.is_empty(), "not every model could be timed\n{}", failed.join("\n"));
    Ok(())
}

/// Cargo for some targets of the node: it compiles what they need, and that as the whole product does.
fn node<'a>(device: Device, command: &'a str, targets: &[&'a str]) -> Command {
    let mut cargo = exec::cargo([command, "--release"]);
    // The kernels have an example of the same name.
    cargo.args(PRODUCT).args(["--exclude", "littoral-kernels"]).args(device.features()).args(targets);
    cargo
}

/// The architectures against their references. Tests of a GPU are in modules of its name.
fn test(ui: &Ui, device: Device) -> Result<()> {
    let step = ui.step("tests");
    let mut command = node(device, "test", &["--test", "architectures", "--"]);
    if device != Device::Cpu {
        command.arg(format!("{}::", device.name()));
    }
    let mut passed = 0;
    let mut on_line = |line: &str| {
        step.say(line);
        passed += usize::from(line.starts_with("test ") && line.ends_with("... ok"));
    };
    exec::run(&mut command, Watch { step: &step, on_line: &mut on_line, limit: None })?;
    ensure!(passed > 0, "there is no test for {}", device.name());
    step.done(&format!("{passed} passed"));
    Ok(())
}

/// Writes a model and times it in every format.
fn rows_of(ui: &Ui, device: Device, shape: Shape, folder: &Path) -> Result<Vec<Row>> {
    let step = ui.step("write");
    step.say(&shape.name());
    let mut random = Command::new(place::binary("examples/random"));
    let said = exec::output(random.arg(shape.name()).arg(folder))?;
    let written: Written = serde_json::from_str(&said).context("the example `random` printed something else")?;
    step.done(&format!("{}, {:.1} GB", shape.name(), 2.0 * written.parameters / GB));
    let mut rows = Vec::new();
    for format in &FORMATS {
        let step = ui.step("time");
        let speed = time(&step, device, folder, format);
        if speed.is_ok() {
            step.done(&format!("{}, {}", shape.name(), format.name));
        }
        let (read, weights) = (written.read(format, PAST), written.parameters * format.bytes);
        rows.push(Row { shape, format, read, weights, speed });
    }
    Ok(rows)
}

fn time(step: &Step, device: Device, folder: &Path, format: &Format) -> Result<Speed> {
    step.say("the example `speed`");
    let mut command = Command::new(place::binary("examples/speed"));
    command.arg(folder).args([device.name(), &PAST.to_string(), format.quantize]);
    let said = exec::output(&mut command)?;
    Speed::read(&said).with_context(|| format!("`speed` said something else:\n{said}"))
}

fn table(rows: &[Row], bandwidth_gbs: Option<f64>) -> Table {
    let mut table = Table::new([
        "model",
        "weights",
        "GB",
        "device",
        "prefill of 512",
        "decode, batch 1",
        "batch 8",
        "MB a token",
        "GB/s, batch 1",
        "of the card's",
    ]);
    for Row { shape, format, read, weights, speed } in rows {
        let (name, kind, gb) = (shape.name(), format.name.to_owned(), format!("{:.1}", weights / GB));
        let mb = format!("{:.0}", read / 1e6);
        match speed {
            Err(_) => {
                let none = || "-".to_owned();
                table.row([name, kind, gb, "failed".into(), none(), none(), none(), mb, none(), none()]);
            }
            Ok(Speed { device, prefill, decode_1, decode_8 }) => {
                let rate = read * decode_1 / GB;
                let share = bandwidth_gbs.map_or("-".into(), |card| format!("{:.0} %", 100.0 * rate / card));
                let [one, eight] = [decode_1, decode_8].map(|rate| format!("{rate:.1}"));
                table.row([
                    name,
                    kind,
                    gb,
                    device.clone(),
                    format!("{prefill:.0}"),
                    one,
                    eight,
                    mb,
                    format!("{rate:.1}"),
                    share,
                ]);
            }
        }
    }
    table
}

#[cfg(test)]
mod unit_tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_tokens_bytes_and_their_share_of_the_bandwidth() {
        let written = Written { parameters: 2e9, met: 1e9, kv_bytes: 1e5 };
        let [bf16, int4] = &FORMATS;
        assert_eq!(written.read(bf16, 1000), 2e9 + 1e8);
        assert_eq!(written.read(int4, 0), 0.5625e9);
        let speed = Speed { device: "card".into(), prefill: 1000.0, decode_1: 100.0, decode_8: 400.0 };
        let good = Row { shape: Shape::Qwen, format: bf16, read: 2e9, weights: 4e9, speed: Ok(speed) };
        let bad = Row { shape: Shape::V2Lite, format: int4, read: 1e9, weights: 1e9, speed: Err(anyhow!("no room")) };
        let failures = [good.failure(), bad.failure()];
        assert_eq!(failures, [None, Some("deepseek-v2-lite, int4: no room".into())]);
        let text = table(&[good, bad], Some(1000.0)).to_string();
        assert!(text.contains("200.0 |") && text.contains("20 %") && text.contains("failed"), "{text}");
    }
}
