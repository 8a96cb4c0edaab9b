//! Processes under test: started, heard, signalled, ended; and no log of any of them may tell of a panic.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, Once, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::artefact;

/// Loading a model on a busy machine takes its time.
const READY: Duration = Duration::from_secs(120);
/// Lines of a log that a failure shows.
const LAST_WORDS: usize = 30;

/// A process that said it is ready.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: u32,
    log: PathBuf,
    ready: Vec<(String, String)>,
    /// From exec to the ready line.
    pub ready_after: Duration,
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Standard output and standard error.
    pub said: String,
}

impl Process {
    /// Starts `command` and waits for its line `ready name=value ...`.
    pub fn start(name: &str, command: Command) -> Self {
        match Self::try_start(name, command) {
            Ok(process) => process,
            Err(ended) => panic!("{name} ended before it was ready: {}\n{}", ended.status, tail(&ended.said)),
        }
    }

    fn try_start(name: &str, command: Command) -> Result<Self, Ended> {
        let log = artefact::scratch(name).join("log");
        let began = Instant::now();
        let (mut child, heard) = spawn(command, &log).unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        loop {
            match heard.recv_timeout(READY.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    let Some(words) = line.strip_prefix("ready ") else { continue };
                    let pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
                    let ready = pairs.map(|(name, value)| (name.into(), value.into())).collect();
                    let (pid, ready_after) = (child.id(), began.elapsed());
                    return Ok(Self { name: name.into(), child: Mutex::new(child), pid, log, ready, ready_after });
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    panic!("{name} is not ready after {READY:?}\n{}", tail(&read(&log)));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = child.wait().expect("a child can be waited for");
                    forget(child.id());
                    return Err(Ended { status, said: read(&log) });
                }
            }
        }
    }

    /// Runs a command that is expected to end before it is ready; fails the test when it becomes ready.
    pub fn refused(name: &str, command: Command) -> Ended {
        match Self::try_start(name, command) {
            Err(ended) => ended,
            Ok(process) => panic!("{name} started, and should not have\n{}", tail(&process.log())),
        }
    }

    /// The address behind `name=` in the ready line.
    pub fn address(&self, name: &str) -> SocketAddr {
        let found = self.ready.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.parse().ok());
        found.unwrap_or_else(|| panic!("{}: no address {name} in its ready line {:?}", self.name, self.ready))
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() << 10
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// The first line of its log that is JSON and has this value in a field, its own or of its `fields`.
    pub fn logged(&self, field: &str, value: &str) -> Option<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut flat = lines.map(|mut line| if line["fields"].is_object() { line["fields"].take() } else { line });
        flat.find(|line| line[field] == value)
    }

    /// Asks it to end (SIGTERM) and does not wait.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Ends it without a warning (SIGKILL).
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(10));
    }

    /// Has it stand still (SIGSTOP), or go on (SIGCONT).
    pub fn pause(&self, stopped: bool) {
        self.signal(if stopped { libc::SIGSTOP } else { libc::SIGCONT });
    }

    fn signal(&self, signal: libc::c_int) {
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None)) {
            // SAFETY: kill touches no memory; the child has not been waited for, so the id is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// Its end; fails the test when it takes longer than `limit`.
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                forget(self.pid);
                return status;
            }
            assert!(began.elapsed() < limit, "{} has not ended within {limit:?}\n{}", self.name, tail(&self.log()));
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        let alone = matches!(child.try_wait(), Ok(None));
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        forget(self.pid);
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- {} ({}) said last:\n{}", self.name, if alone { "alive" } else { "ended" }, tail(&log));
        } else {
            assert!(!panicked(&log), "{} panicked:\n{}", self.name, tail(&log));
        }
    }
}

impl Ended {
    /// Fails unless it ended with an error of its own (no signal, no panic) and named everything in `words`.
    pub fn names(&self, words: &[&str]) {
        assert!(self.status.code().is_some_and(|code| code != 0 && code != 101), "{}\n{}", self.status, self.said);
        assert_eq!(self.status.signal(), None, "{}", self.said);
        for word in words {
            assert!(self.said.contains(word), "'{word}' is not in what it said:\n{}", self.said);
        }
        assert!(self.said.lines().count() <= 12, "more than a person reads:\n{}", self.said);
        for line in self.said.lines().filter(|line| !line.starts_with('{')) {
            let parts: Vec<_> = line.split(": ").filter(|part| part.len() > 15).collect();
            let twice = parts.iter().enumerate().find(|(i, part)| parts[..*i].contains(part));
            assert_eq!(twice, None, "said twice: {line}");
        }
    }
}

/// Runs a command to its end and returns what it said; fails the test after `limit`.
pub fn run(name: &str, command: Command, limit: Duration) -> Ended {
    let log = artefact::scratch(name).join("log");
    let (mut child, heard) = spawn(command, &log).unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
    let began = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            forget(child.id());
            // The reader of its standard output hangs up behind the last line.
            while heard.recv_timeout(Duration::from_secs(10)).is_ok() {}
            return Ended { status, said: read(&log) };
        }
        if began.elapsed() > limit {
            let _ = child.kill();
            panic!("{name} has not ended within {limit:?}\n{}", tail(&read(&log)));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn read(log: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|line| format!("    {line}\n")).collect()
}

fn panicked(log: &str) -> bool {
    log.contains("panicked at")
}

/// What this test process started.
struct Started {
    /// None once it has been waited for.
    pid: Option<u32>,
    log: PathBuf,
}

static STARTED: Mutex<Vec<Started>> = Mutex::new(Vec::new());
static FAILED: AtomicBool = AtomicBool::new(false);

fn forget(pid: u32) {
    let mut all = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter_mut().filter(|started| started.pid == Some(pid)).for_each(|started| started.pid = None);
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as this process: a child's wish to die with its parent is tied to the
/// thread that made it, and tests have a thread each.
fn spawn(mut command: Command, log: &PathBuf) -> io::Result<(Child, mpsc::Receiver<String>)> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    prepare();
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file.try_clone()?).env_remove("RUST_BACKTRACE");
    // What the tests are told by the environment is not for the processes under test, which read some of the same names.
    let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("LITTORAL_") && !set.contains(&name) {
            command.env_remove(name);
        }
    }
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (send, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || jobs.iter().for_each(|(mut command, answer)| drop(answer.send(command.spawn()))));
        Mutex::new(send)
    });
    let (answer, spawned) = mpsc::channel();
    let sent = spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    sent.expect("the spawning thread never ends");
    let mut child = spawned.recv().expect("the spawning thread answers")?;
    let started = Started { pid: Some(child.id()), log: log.clone() };
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).push(started);
    let (send, heard) = mpsc::channel();
    let stdout = child.stdout.take().expect("standard output is piped");
    thread::spawn(move || listen(stdout, file, &send));
    Ok((child, heard))
}

fn listen(stdout: ChildStdout, mut log: File, heard: &mpsc::Sender<String>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        // In one write: its log, which goes to the same file, shall not come between a line and its end.
        let _ = log.write_all(format!("{line}\n").as_bytes());
        let _ = heard.send(line);
    }
}

/// Once in each test process: notes failures, and looks at every log when the process ends.
fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            FAILED.store(true, Relaxed);
            report(info);
        }));
        // SAFETY: registers a function that takes nothing, never unwinds, and lives as long as the program.
        unsafe { libc::atexit(at_exit) };
    });
}

/// Ends what still runs, which statics would not, and turns success into failure if a log tells of a panic.
extern "C" fn at_exit() {
    let all = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in all.iter().filter_map(|started| started.pid) {
        // SAFETY: kill and waitpid touch no memory of ours; the child was not waited for, so the id is still its own.
        unsafe {
            libc::kill(pid as libc::pid_t, libc::SIGKILL);
            libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0);
        }
    }
    let broken: Vec<_> = all.iter().filter(|started| panicked(&read(&started.log))).collect();
    for started in &broken {
        eprintln!("a process under test panicked ({}):\n{}", started.log.display(), tail(&read(&started.log)));
    }
    if !broken.is_empty() {
        // SAFETY: ends the process at once; nothing of ours is to be run after this.
        unsafe { libc::_exit(101) };
    }
    if FAILED.load(Relaxed) {
        eprintln!("logs of the processes under test: {}", artefact::scratch_root().display());
    } else {
        let _ = fs::remove_dir_all(artefact::scratch_root());
    }
}
