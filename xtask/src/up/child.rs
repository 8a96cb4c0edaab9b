//! A process that `up` started: its ready line, its log, its end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of the log that are shown when a process ends by itself.
const LAST_WORDS: usize = 15;

/// `ready grpc=127.0.0.1:7000 metrics=…`: what a process says on its standard output once it can be used.
#[derive(Debug, PartialEq)]
pub struct Ready(Vec<(String, String)>);

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        let pairs = line.strip_prefix("ready ")?.split_whitespace().filter_map(|word| word.split_once('='));
        Some(Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    /// The value of `name=`.
    pub fn get(&self, name: &str) -> Result<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the ready line names no {name}"))
    }
}

/// A process in a group of its own, so that the terminal's Ctrl-C reaches only `up`, which ends its children in order.
pub struct Child {
    pub name: &'static str,
    process: std::process::Child,
    log: PathBuf,
    ready: mpsc::Receiver<Ready>,
}

impl Child {
    /// Starts `command`; what it writes goes to `NAME.log` in `dir`.
    pub fn start(name: &'static str, command: &mut Command, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        Self::start_logging(name, command, dir.join(format!("{name}.log")))
    }

    /// Starts `command`; what it writes goes to `log`, which may be a device.
    pub fn start_logging(name: &'static str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file.try_clone()?).process_group(0);
        // Captured at every store that wasmtime drops.
        command.env_remove("RUST_BACKTRACE");
        // What is meant for other edges and nodes would win over the configuration that `up` writes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"LITTORAL_")) {
            command.env_remove(name);
        }
        die_with_parent(command);
        let program = command.get_program().to_owned();
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot start {}; `cargo xtask build` builds it", program.display()))?;
        let (send, ready) = mpsc::channel();
        let out = process.stdout.take().context("a piped child has a standard output")?;
        thread::spawn(move || read_lines(out, file, &send));
        Ok(Self { name, process, log, ready })
    }

    /// The ready line, if it comes within `wait`; an error if the process ends first.
    pub fn ready(&mut self, wait: Duration) -> Result<Option<Ready>> {
        if let Ok(ready) = self.ready.recv_timeout(wait) {
            return Ok(Some(ready));
        }
        match self.died() {
            Some(status) => bail!("the {} did not start ({status}); its last lines:\n{}", self.name, self.last_words()),
            None => {
                // A closed standard output makes the receive return at once.
                thread::sleep(Duration::from_millis(10));
                Ok(None)
            }
        }
    }

    /// The ready line; an error if the process ends first, or does not say it within `most`.
    pub fn await_ready(&mut self, most: Duration) -> Result<Ready> {
        let began = Instant::now();
        while began.elapsed() < most {
            if let Some(ready) = self.ready(Duration::from_millis(50))? {
                return Ok(ready);
            }
        }
        bail!("the {} was not ready after {} s\n{}", self.name, most.as_secs(), self.last_words())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn died(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = self.log().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail: Vec<_> = lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|l| format!("    {l}")).collect();
        format!("{}\n    (all of it: {})", tail.join("\n"), self.log.display())
    }

    /// Asks it to end (SIGTERM), waits up to `patience`, then ends it.
    pub fn stop(&mut self, patience: Duration) {
        let asked = Instant::now();
        // SAFETY: kill has no memory effects; the child is not yet waited for, so its id is still its own.
        if self.died().is_none() && unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGTERM) } == 0 {
            while self.died().is_none() && asked.elapsed() < patience {
                thread::sleep(Duration::from_millis(20));
            }
        }
        self.kill();
    }

    /// Ends it without a word (SIGKILL).
    pub fn kill(&mut self) {
        if self.died().is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(2));
    }
}

fn read_lines(out: impl std::io::Read, mut log: File, send: &mpsc::Sender<Ready>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let _ = writeln!(log, "{line}");
        if let Some(ready) = Ready::parse(&line) {
            let _ = send.send(ready);
        }
    }
}

/// When `up` is killed, its children are asked to end. The request is tied to the thread that starts them: the main one.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs to a folder of its own, named after the test: tests run side by side.
    fn shell(test: &str, script: &str) -> Result<Child> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let dir = std::env::temp_dir().join(format!("littoral-{test}-{}", std::process::id()));
        Child::start("shell", &mut command, &dir)
    }

    #[test]
    fn a_ready_line_is_heard() -> Result<()> {
        let mut child = shell("ready", "echo hello; echo 'ready grpc=127.0.0.1:7000 metrics=m'; exec sleep 60")?;
        let ready = child.ready(Duration::from_secs(10))?.context("no ready line")?;
        assert_eq!(ready.get("grpc")?, "127.0.0.1:7000");
        assert!(ready.get("http").is_err());
        child.stop(Duration::from_secs(5));
        assert!(child.died().is_some());
        Ok(())
    }

    #[test]
    fn who_dies_before_ready_is_quoted() -> Result<()> {
        let mut child = shell("broken", "echo 'the model is broken' >&2; exit 3")?;
        let error = loop {
            match child.ready(Duration::from_millis(50)) {
                Err(error) => break error.to_string(),
                Ok(ready) => assert_eq!(ready, None),
            }
        };
        assert!(error.contains("the model is broken") && error.contains("shell"), "{error}");
        Ok(())
    }
}
