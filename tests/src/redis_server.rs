//! Real Redis servers, Debian's `redis-server`, and the few commands tests send them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    artefact,
    certificates::{Authority, Signed},
    port::Port,
};

/// A running server, or a place where one was. It ends when dropped.
pub struct Redis {
    port: Port,
    /// Of its TLS.
    tls: Option<Port>,
    /// Of its talk with the rest of a cluster.
    _bus: Option<Port>,
    dir: PathBuf,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        // What joins need not wait for others that may.
        Self::with(&["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"])
    }

    /// A server that keeps every write, so that it may be killed and started again.
    pub fn lasting() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server that may join a cluster, and is soon given up by the others when it is gone.
    pub fn of_cluster() -> Self {
        let bus = Port::take();
        let number = bus.number().to_string();
        let mut redis = Self::with(
            &[
                &["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"][..],
                &["--repl-diskless-sync-delay", "0", "--cluster-node-timeout", "1000", "--cluster-port", &number],
            ]
            .concat(),
        );
        redis._bus = Some(bus);
        redis
    }

    /// A server that keeps nothing on disk and speaks TLS too, at a port of its own.
    pub fn with_tls(signed: &Signed) -> Self {
        Self::speaking_tls(signed, &["--save", "", "--appendonly", "no"])
    }

    /// A cluster of one server, which speaks TLS too.
    pub fn cluster_with_tls(signed: &Signed, authority: &Authority) -> Self {
        let bus = Port::take();
        let (number, authority) = (bus.number().to_string(), authority.file().display().to_string());
        let cluster = ["--save", "", "--cluster-enabled", "yes", "--cluster-port", &number];
        let tls = ["--tls-cluster", "yes", "--tls-ca-cert-file", &authority];
        let mut redis = Self::speaking_tls(signed, &[&cluster[..], &tls].concat());
        redis._bus = Some(bus);
        assert_eq!(redis.command(&[b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383"]), "+OK");
        redis.wait_for(b"CLUSTER", b"INFO", "cluster_state:ok");
        redis
    }

    fn speaking_tls(signed: &Signed, arguments: &[&str]) -> Self {
        let (certificate, key) = (signed.certificate.display().to_string(), signed.key.display().to_string());
        let port = Port::take();
        let tls = port.number().to_string();
        let speaking = ["--tls-port", &tls, "--tls-auth-clients", "no", "--tls-cert-file", &certificate];
        let mut redis = Self::with(&[arguments, &speaking, &["--tls-key-file", &key]].concat());
        redis.tls = Some(port);
        redis
    }

    /// A replica of this server, once it has all of it.
    pub fn replica(&self) -> Self {
        let port = self.port.number().to_string();
        let replica = Self::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port]);
        replica.wait_for(b"INFO", b"replication", "master_link_status:up");
        self.wait_for(b"INFO", b"replication", "state=online");
        replica
    }

    fn wait_for(&self, command: &[u8], section: &[u8], word: &str) {
        let began = Instant::now();
        while !self.command(&[command, section]).contains(word) {
            assert!(began.elapsed() < Duration::from_secs(20), "{word}: not at {}", self.address());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let (port, dir) = (Port::take(), artefact::scratch("redis"));
        let redis = Self { port, tls: None, _bus: None, dir, arguments, child: Mutex::default() };
        redis.start_again();
        redis
    }

    /// Starts the server where it was, with what it kept.
    pub fn start_again(&self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.number().to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&self.dir);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("redis-server (`apt-get install redis-server`): {e}"));
        *self.child() = Some(child);
        let began = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "redis-server does not listen at {}", self.address());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Host and port of its TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls.as_ref().expect("the server was started with TLS").address()
    }

    /// Ends it without a warning.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it, so that it takes connections and answers nothing, or lets it go on.
    pub fn pause(&self, stopped: bool) {
        if let Some(child) = self.child().as_ref() {
            let signal = if stopped { libc::SIGSTOP } else { libc::SIGCONT };
            // SAFETY: kill touches no memory; the child has not been waited for, so the id is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// The raw first line of the answer to a command, and of a bulk string its bytes.
    pub fn command(&self, words: &[&[u8]]) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("the server listens");
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).expect("the server reads");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("the server answers");
        let line = line.trim_end().to_string();
        let Some(length) = line.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()) else { return line };
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk).expect("the server sends what it says");
        String::from_utf8_lossy(&bulk).into_owned()
    }

    /// Hears every command that is carried out from now on, those of scripts too, as `MONITOR` shows them.
    pub fn monitor(&self) -> mpsc::Receiver<String> {
        let mut stream = TcpStream::connect(self.address()).expect("the server listens");
        stream.write_all(b"MONITOR\r\n").expect("the server reads");
        let mut lines = BufReader::new(stream).lines();
        lines.next().expect("the server answers").expect("the server answers");
        let (say, heard) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        heard
    }

    /// Names of the keys that fit a pattern.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        // One bulk string with all of them: the protocol's lists are not read here.
        let script = b"return table.concat(redis.call('KEYS', ARGV[1]), '\\n')";
        let found = self.command(&[b"EVAL", script, b"0", pattern.as_bytes()]);
        found.lines().filter(|line| line.starts_with("littoral")).map(String::from).collect()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.pause(false);
        self.kill();
    }
}
