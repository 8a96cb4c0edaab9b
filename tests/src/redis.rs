//! A real redis-server of the test's own, and the few commands tests send it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::artefact;

/// A running redis-server, or a place where one was.
pub struct Redis {
    address: SocketAddr,
    child: Option<Child>,
}

impl Redis {
    /// A server on a free port, with nothing in it. Debian's package is redis-server.
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut redis = Self { address: free.expect("there is a free port"), child: None };
        redis.again();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Starts it at the same address, with nothing in it.
    pub fn again(&mut self) {
        let dir = artefact::scratch("redis");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is there (on Debian: apt-get install redis-server)"));
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "redis-server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends as a process ends that is killed.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the server can be killed");
            child.wait().expect("a killed process ends");
        }
    }

    /// Stops it without closing its connections, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.child.as_ref().expect("the server runs").id() as i32;
        // SAFETY: kill takes plain numbers; the process is a child that has not been waited for.
        let sent = unsafe { libc::kill(pid, if frozen { libc::SIGSTOP } else { libc::SIGCONT }) };
        assert_eq!(sent, 0);
    }

    /// The raw first line of the answer, and of a bulk string its bytes.
    pub fn command(&self, words: &[&[u8]]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
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

    /// Names of the keys that fit a pattern.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        // One bulk string with all of them: the protocol's lists are not read here.
        let script = b"return table.concat(redis.call('KEYS', ARGV[1]), '\\n')";
        let found = self.command(&[b"EVAL", script, b"0", pattern.as_bytes()]);
        found.lines().filter(|line| line.starts_with("littoral")).map(String::from).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
