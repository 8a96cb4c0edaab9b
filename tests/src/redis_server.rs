//! Real Redis servers, Debian's `redis-server`: one, or a cluster.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::artefact;

/// A running server. It ends when dropped.
pub struct Redis {
    port: u16,
    dir: PathBuf,
    arguments: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl Redis {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// A server that keeps every write, so that it may be killed and started again.
    pub fn lasting() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
    }

    fn with(arguments: &[&str]) -> Self {
        let port = free_port();
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let redis = Self { port, dir: artefact::scratch("redis"), arguments, child: Mutex::default() };
        redis.start_again();
        redis
    }

    /// Starts the server where it was.
    pub fn start_again(&self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&self.dir);
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("redis-server (`apt-get install redis-server`): {e}"));
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let began = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "redis-server does not listen at {}", self.address());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Ends it without a warning.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it, so that it takes connections and answers nothing, or lets it go on.
    pub fn pause(&self, stopped: bool) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child.as_ref() {
            let signal = if stopped { libc::SIGSTOP } else { libc::SIGCONT };
            // SAFETY: kill touches no memory; the child has not been waited for, so the id is still its own.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.pause(false);
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the system gives a port");
    listener.local_addr().expect("a bound listener has an address").port()
}
