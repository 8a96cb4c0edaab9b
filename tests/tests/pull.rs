//! `littoral models pull` from a hub: whole, cut off and resumed, tampered with, not there.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use littoral_tests::{
    artefact,
    process::{Ended, run},
};

/// SHA-256 of a file of 2 MiB that begins with `GGUF` and goes on in zeros: `(printf GGUF; head -c 2097148 /dev/zero) | sha256sum`.
const SUM: &str = "7694aea06df79cf4f936922bb49b0627ad7b325060ba7d1626fb6bb20eacd94b";
const SIZE: usize = 2 << 20;

/// A hub with one file under many names; the name says how it behaves.
struct Hub {
    address: SocketAddr,
    /// Bytes of the file that were sent, all answers together.
    sent: Arc<AtomicUsize>,
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self { address: listener.local_addr().unwrap(), sent: Arc::default() };
        let (sent, cuts) = (hub.sent.clone(), Arc::new(AtomicUsize::new(0)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (sent, cuts) = (sent.clone(), cuts.clone());
                thread::spawn(move || answer(stream, &sent, &cuts));
            }
        });
        hub
    }

    fn pull(&self, cache: &Path, model: &str) -> Ended {
        let mut command = Command::new(artefact::binary("littoral"));
        command.args(["models", "pull", model]).env("XDG_CACHE_HOME", cache).env("HOME", cache);
        command.env("HF_HOME", cache.join("hub")).env("HF_ENDPOINT", format!("http://{}", self.address));
        run("pull", command, Duration::from_secs(60))
    }
}

/// One request, one answer, as the hub gives it: ranges, the file's sum as its entity tag, the commit in a header.
fn answer(mut stream: TcpStream, sent: &AtomicUsize, cuts: &AtomicUsize) {
    let mut head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = head.next().unwrap_or_default();
    let range = head
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_string));
    if request.contains("missing") {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    }
    let tag = if request.contains("tampered") { "0".repeat(64) } else { SUM.to_string() };
    let (from, to) = range.as_deref().and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let (from, to) = (from.parse().unwrap_or(0), to.parse().unwrap_or(SIZE - 1));
    let mut file = vec![0; SIZE];
    file[..4].copy_from_slice(b"GGUF");
    let mut part = &file[from..=to];
    let _ = write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nx-repo-commit: c1\r\netag: \"{tag}\"\r\ncontent-range: bytes {from}-{to}/{SIZE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        part.len()
    );
    // The first time somebody wants it all, half of it is sent.
    if request.contains("cut") && part.len() > 1 && cuts.fetch_add(1, Relaxed) == 0 {
        part = &part[..SIZE / 2];
    }
    // Before they are sent: who has them finds them counted.
    if part.len() > 1 {
        sent.fetch_add(part.len(), Relaxed);
    }
    let _ = stream.write_all(part);
}

fn cache() -> PathBuf {
    artefact::scratch("pull")
}

#[test]
fn a_pull_that_was_cut_off_goes_on_where_it_stopped() {
    let (hub, cache) = (Hub::start(), cache());
    let file = cache.join("littoral/models/m.gguf");
    let cut = hub.pull(&cache, "owner/cut/m.gguf");
    assert_eq!(cut.status.code(), Some(1), "{}", cut.said);
    cut.names(&["owner/cut/m.gguf", "goes on"]);
    assert!(!file.exists(), "half a file has no name");
    let whole = hub.pull(&cache, "owner/cut/m.gguf");
    assert!(whole.status.success(), "{}", whole.said);
    assert_eq!(fs::read(&file).unwrap().len(), SIZE);
    let sent = hub.sent.load(Relaxed);
    assert!(sent <= SIZE + SIZE / 8, "{sent} bytes were sent of {SIZE}: what had arrived was sent again");
    let again = hub.pull(&cache, "owner/cut/m.gguf");
    assert!(again.status.success() && hub.sent.load(Relaxed) == sent, "what is here is not pulled again");
}

#[test]
fn a_file_with_another_sum_is_deleted_and_one_that_is_not_there_is_named() {
    let (hub, cache) = (Hub::start(), cache());
    let tampered = hub.pull(&cache, "owner/tampered/m.gguf");
    assert_eq!(tampered.status.code(), Some(1), "{}", tampered.said);
    tampered.names(&["owner/tampered/m.gguf", "SHA-256"]);
    assert!(!cache.join("littoral/models/m.gguf").exists());
    let missing = hub.pull(&cache, "owner/missing/n.gguf");
    assert_eq!(missing.status.code(), Some(1), "{}", missing.said);
    missing.names(&["owner/missing/n.gguf", "404"]);
}
