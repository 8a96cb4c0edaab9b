//! Runs other programs: their progress goes to a step, their last words into the error.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::place;
use crate::ui::Step;

/// Lines of a failed program's output that its error carries.
const LAST_WORDS: usize = 120;

/// A program's output, line by line, as it comes. Carriage returns end a line too: progress bars use them.
pub struct Watch<'a> {
    pub step: &'a Step<'a>,
    pub on_line: &'a mut dyn FnMut(&str),
    pub limit: Option<Duration>,
}

/// `cargo` as it was called, in the checkout's root, its colours off and its progress on.
pub fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(place::root());
    command.env("CARGO_TERM_COLOR", "never");
    command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "120");
    command
}

/// Runs a cargo command to its end, showing cargo's own count of units as the step's progress.
pub fn run_cargo(command: &mut Command, step: &Step) -> Result<()> {
    run(command, Watch { step, on_line: &mut |_| (), limit: None })
}

/// Runs a command to its end; the error of one that fails carries the end of its output.
pub fn run(command: &mut Command, watch: Watch) -> Result<()> {
    let shown = show(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| missing(e, &shown))?;
    let (status, tail) = follow(child, watch).with_context(|| format!("while running {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})\n{}", Vec::from(tail).join("\n"));
    }
    Ok(())
}

/// Runs a command and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let out = command.stdin(Stdio::null()).output().map_err(|e| missing(e, &shown))?;
    if !out.status.success() {
        bail!("{shown} failed ({})\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn missing(error: std::io::Error, shown: &str) -> anyhow::Error {
    let why = if error.kind() == ErrorKind::NotFound { "is it installed, and on PATH?" } else { "" };
    anyhow!(error).context(format!("cannot start {shown}: {why}"))
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words[0] = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let line = words.join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("`{}…`", &line[..end]),
        None => format!("`{line}`"),
    }
}

fn follow(mut child: Child, watch: Watch) -> Result<(ExitStatus, VecDeque<String>)> {
    let (send, lines) = mpsc::channel();
    for pipe in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
        let send = send.clone();
        thread::spawn(move || split_lines(pipe, &send));
    }
    drop(send);
    let started = Instant::now();
    let mut tail = VecDeque::new();
    loop {
        match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => match parse_progress(&line) {
                Some((done, total, what)) => watch.step.progress(done, total, what),
                None => {
                    (watch.on_line)(&line);
                    if !line.is_empty() && !is_chatter(&line) {
                        tail.push_back(line);
                    }
                    if tail.len() > LAST_WORDS {
                        tail.pop_front();
                    }
                }
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok((child.wait()?, tail)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if watch.limit.is_some_and(|limit| started.elapsed() > limit) {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("stopped after {} s\n{}", started.elapsed().as_secs(), Vec::from(tail).join("\n"));
                }
            }
        }
    }
}

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn split_lines(pipe: Box<dyn Read + Send>, send: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    let flush = |line: &mut Vec<u8>| send.send(String::from_utf8_lossy(&std::mem::take(line)).into_owned()).is_ok();
    for byte in BufReader::new(pipe).bytes() {
        match byte {
            Ok(b'\n' | b'\r') if !flush(&mut line) => return,
            Ok(b'\n' | b'\r') => (),
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    if !line.is_empty() {
        flush(&mut line);
    }
}

/// Cargo's word on each crate that goes well.
fn is_chatter(line: &str) -> bool {
    const WORDS: [&str; 5] = ["Compiling ", "Checking ", "Downloading ", "Downloaded ", "Blocking "];
    line.starts_with("  ") && WORDS.iter().any(|word| line.trim_start().starts_with(word))
}

/// Cargo's `Building [====>   ] 12/345: serde, libc` as (12, 345, "serde, libc").
fn parse_progress(line: &str) -> Option<(u64, u64, &str)> {
    let (head, rest) = line.split_once(']')?;
    if !head.trim_start().starts_with("Building [") {
        return None;
    }
    let (counts, what) = rest.split_once(':').unwrap_or((rest, ""));
    let (done, total) = counts.trim().split_once('/')?;
    Some((done.parse().ok()?, total.parse().ok()?, what.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_progress_is_read() {
        let line = "    Building [=======>                 ] 45/123: serde, tokio(build)";
        assert_eq!(parse_progress(line), Some((45, 123, "serde, tokio(build)")));
        assert_eq!(parse_progress("   Compiling serde v1.0.0"), None);
    }

    #[test]
    fn a_failed_program_is_quoted() {
        let ui = crate::ui::Ui::new();
        let step = ui.step("test");
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo why >&2; exit 3"]);
        let error = run(&mut command, Watch { step: &step, on_line: &mut |_| (), limit: None }).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        step.done("");
    }
}
