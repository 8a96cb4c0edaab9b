//! What a kept answer costs through the whole edge: from its own memory, and from Redis every time, beside nginx serving
//! as many bytes. Prints the figures (`--nocapture`); the bounds are those of a noisy machine.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use littoral_tests::{
    artefact,
    edge::{Edge, Setup},
    instant_node::{InstantNode, MODEL, Script},
    load::{Load, Report},
    port::Port,
    redis_server::Redis,
};

fn load(address: SocketAddr, key: Option<&str>, rate: Option<f64>, connections: usize) -> Report {
    let load = Load {
        address,
        key: key.map(String::from),
        model: MODEL.into(),
        stream: false,
        message: 400,
        connections,
        time: Duration::from_secs(4),
        rate,
    };
    // A thread and runtime of its own, as a client has.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(load.run()).unwrap()
}

/// The figures at 1,000 requests/s, and of a closed loop.
fn measure(name: &str, address: SocketAddr, key: Option<&str>) -> (Report, Report) {
    // The first answers make what is kept.
    load(address, key, Some(50.0), 4);
    let mut open = load(address, key, Some(1000.0), 64);
    for _ in 0..2 {
        // A stall of the machine holds up what was due meanwhile, and may be over.
        if open.p50_us >= 5_000 {
            open = load(address, key, Some(1000.0), 64);
        }
    }
    let closed = load(address, key, None, 32);
    println!(
        "{name}: at 1000/s p50 {:.2} ms, p99 {:.2} ms; closed loop at 32: {:.0} requests/s, p99 {:.2} ms",
        f64::from(open.p50_us) / 1000.0,
        f64::from(open.p99_us) / 1000.0,
        closed.requests_per_s,
        f64::from(closed.p99_us) / 1000.0
    );
    assert_eq!((open.errors, closed.errors), (0, 0), "{name}: {} {}", open.first_error, closed.first_error);
    // A stall of the machine costs its own time and no more.
    assert!(open.requests > 1000, "{name}: {open:?}");
    (open, closed)
}

fn kept(setup: Setup) -> Edge {
    setup.with("cache", "policy = 'always'").start()
}

/// nginx with one answer of a thousand bytes.
struct Nginx {
    process: Child,
    _port: Port,
}

impl Nginx {
    fn start(body: usize) -> Option<(Self, SocketAddr)> {
        let dir = artefact::scratch("nginx");
        let port = Port::take();
        let address = port.address();
        let conf = format!(
            "daemon off; worker_processes 2; pid {0}/pid; error_log {0}/error.log;
             events {{ worker_connections 1024; }}
             http {{ access_log off; keepalive_requests 100000000;
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
             server {{ listen {address}; location / {{ default_type application/json; return 200 '{1}'; }} }} }}",
            dir.display(),
            "x".repeat(body)
        );
        std::fs::write(dir.join("nginx.conf"), conf).ok()?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(&dir);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let nginx = Self { process, _port: port };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(5) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some((nginx, address))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM: the master ends its workers.
        // SAFETY: kill takes plain numbers; the process is a child that has not been waited for.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGTERM) };
        let _ = self.process.wait();
    }
}

#[test]
fn a_kept_answer_is_quick() {
    let script = Script { tokens: 100, text: "0123456789".into(), ..Script::default() };
    let node = InstantNode::start("one", script);
    let edge = kept(Edge::to(&[node.address()]));
    let (own, edge_closed) = measure("the edge's own memory", edge.http, Some(&edge.keys.acme));
    assert_eq!(node.asked(), 1, "everything else came from the cache");

    let remembering = kept(Edge::to(&[node.address()]).with("guest", "memo_ms = 60000"));
    let (_, memo_closed) = measure("… decisions remembered", remembering.http, Some(&remembering.keys.acme));

    let redis = Redis::start();
    // No memory of its own: every answer comes from Redis.
    let setup = Edge::to(&[node.address()]).with("cache", "max_bytes = 0");
    let shared = kept(setup.with("store", &format!("answers = '{}'", redis.url())));
    let (from_redis, _) = measure("from Redis every time", shared.http, Some(&shared.keys.acme));

    if let Some((_nginx, address)) = Nginx::start(1200) {
        let (nginx, closed) = measure("nginx, as many bytes", address, None);
        println!(
            "requests/s of nginx's: {:.2}, decisions remembered {:.2}; p99 at 1000/s of nginx's: {:.2}",
            edge_closed.requests_per_s / closed.requests_per_s,
            memo_closed.requests_per_s / closed.requests_per_s,
            f64::from(own.p99_us) / f64::from(nginx.p99_us.max(1))
        );
    }
    // A bound that a stall of the machine does not break, and a lost wake-up or a wait for a timeout does.
    assert!(own.p50_us < 5_000 && from_redis.p50_us < 10_000, "{own:?} {from_redis:?}");
}
