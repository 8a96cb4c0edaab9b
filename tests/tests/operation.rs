//! Starting, refusing to start, and ending: what an operator meets.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use littoral_tests::{
    artefact,
    client::Client,
    edge::Edge,
    eventually,
    instant_node::{Gate, InstantNode, MODEL, Script},
    node::{self, Node},
    process::{Ended, Process, run},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

fn ask(stream: bool) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream})
}

fn refused(section: &'static str, line: &str) -> Ended {
    let setup = Edge::to(&["127.0.0.1:1".parse().unwrap()]).with(section, line);
    Process::refused("edge", setup.command().0)
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    for (section, line, words) in [
        ("edge", "lisen = '127.0.0.1:0'", &["edge.lisen", "edge.listen", "edge.toml"][..]),
        ("egde", "workers = 1", &["egde", "edge"]),
        ("cache", "ttl = 5", &["cache.ttl", "cache.ttl_ms"]),
        ("guest", "polcy = 'edge'", &["guest.polcy", "guest.policy"]),
        ("edge", "workers = 'two'", &["workers", "line"]),
        ("edge", "workers = 0", &["edge.workers"]),
        ("edge", "max_body_bytes = 1000000000", &["edge.max_body_bytes"]),
        ("edge", "listen = 'nowhere:80'", &["listen"]),
        ("cache", "policy = 'sometimes'", &["policy", "sometimes", "deterministic"]),
        ("edge", "workers = ", &["line"]),
        ("guest", "dir = '/nowhere/guests'", &["/nowhere/guests/edge.wasm", "cargo xtask guests"]),
        ("guest", "policy = 'absent'", &["absent.wasm"]),
        ("guest", "policy = 'redact'", &["redact.wasm"]),
        ("guest", "filters = { redact = 'edge' }", &["edge.wasm", "filter"]),
    ] {
        refused(section, line).names(words);
    }
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["serve", "--config", "/nowhere/edge.toml"]);
    Process::refused("edge", command).names(&["/nowhere/edge.toml"]);
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["serve", "--lisen", "127.0.0.1:0"]);
    Process::refused("edge", command).names(&["--lisen", "--listen"]);
}

#[test]
fn a_broken_guest_is_refused() {
    let dir = artefact::scratch("guests");
    let whole = fs::read(artefact::guests().join("edge.wasm")).unwrap();
    for (name, bytes) in [("empty", &b""[..]), ("half", &whole[..whole.len() / 2]), ("text", b"not a component")] {
        let file = dir.join(format!("{name}.wasm"));
        fs::write(&file, bytes).unwrap();
        refused("guest", &format!("policy = '{}'", file.display())).names(&[file.to_str().unwrap()]);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused("edge", &format!("listen = '{address}'")).names(&[&address, "--listen"]);
    refused("edge", &format!("metrics = '{address}'")).names(&[&address, "--metrics"]);
    Process::refused("node", Node::command(&["--listen", &address])).names(&[&address, "--listen"]);
    Process::refused("node", Node::command(&["--metrics", &address])).names(&[&address, "--metrics"]);
}

#[test]
fn two_edges_do_not_share_a_port() {
    let node = InstantNode::start("one", Script::default());
    let first = Edge::to(&[node.address()]).start();
    let address = first.http.to_string();
    refused("edge", &format!("listen = '{address}'")).names(&[&address]);
}

#[tokio::test]
async fn keys_are_made_kept_and_read_without_a_restart() {
    let node = InstantNode::start("one", Script::default());
    let setup = Edge::to(&[node.address()]);
    let file = setup.dir().join("new/keys.json");
    let edge = setup.with("keys", &format!("file = '{}'", file.display())).start();
    // No file, no key: the edge says so and refuses everybody.
    eventually("the warning", SOON, async || edge.process.log().contains("littoral key create")).await;
    edge.client().chat(&ask(false)).await.error(401).await;
    let create = |file: &std::path::Path| {
        let mut command = Command::new(artefact::binary("littoral"));
        command.args(["key", "create", "--tenant", "acme", "--user", "ada", "--keys"]).arg(file);
        run("key", command, SOON)
    };
    let created = create(&file);
    assert!(created.status.success(), "{}", created.said);
    let key = created.said.split_whitespace().find(|word| word.starts_with("lk_")).expect("the key is printed");
    let client = edge.client().with_key(key);
    eventually("the new key", SOON, async || client.chat(&ask(false)).await.status == 200).await;
    assert!(!fs::read_to_string(&file).unwrap().contains(key.rsplit('_').next().unwrap()), "the secret is kept");

    // Damaged while it is in use: what is known stays, and a second key is not lost in the damage.
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    eventually("the complaint", SOON, async || edge.process.log().contains("is not a list of key records")).await;
    client.chat(&ask(false)).await.ok().await;
    let failed = create(&file);
    failed.names(&[file.to_str().unwrap()]);
    fs::write(&file, &good).unwrap();
    let second = create(&file);
    let second = second.said.split_whitespace().find(|word| word.starts_with("lk_")).expect("the key is printed");
    let second = edge.client().with_key(second);
    eventually("the second key", SOON, async || second.chat(&ask(false)).await.status == 200).await;

    // Taken out of the file, a key opens nothing.
    fs::write(&file, "[]").unwrap();
    eventually("the end of the keys", SOON, async || client.chat(&ask(false)).await.status == 401).await;
}

#[test]
fn a_damaged_key_file_is_refused_at_the_start() {
    for content in ["", "{", "{\"id\": 1}", "[{\"id\": \"x\"}]", "\u{1}\u{2}"] {
        let setup = Edge::to(&["127.0.0.1:1".parse().unwrap()]);
        let (command, _) = setup.command();
        let file = setup.dir().join("keys.json");
        fs::write(&file, content).unwrap();
        Process::refused("edge", command).names(&[file.to_str().unwrap(), "key"]);
    }
}

#[test]
fn a_model_that_is_not_whole_is_refused() {
    let dir = artefact::scratch("models");
    let whole = fs::read(artefact::model()).unwrap();
    let mut wrong_version = whole[..1 << 20].to_vec();
    wrong_version[4] = 99;
    let mut absurd_counts = whole[..1 << 20].to_vec();
    absurd_counts[8..24].fill(0xff);
    for (name, bytes) in [
        ("half", &whole[..whole.len() / 2]),
        ("short", &whole[..whole.len() - 1]),
        ("head", &whole[..100]),
        ("empty", &[]),
        ("noise", b"this is not a model, however long one looks at it"),
        ("version", &wrong_version),
        ("counts", &absurd_counts),
    ] {
        let file = dir.join(format!("{name}.gguf"));
        fs::write(&file, bytes).unwrap();
        let began = Instant::now();
        let refused = Process::refused("node", Node::command(&["--model", file.to_str().unwrap()]));
        refused.names(&[file.to_str().unwrap()]);
        println!("{name} after {:?}: {}", began.elapsed(), refused.said.trim());
    }
    Process::refused("node", Node::command(&["--model", "/nowhere/model.gguf"])).names(&["/nowhere/model.gguf"]);
    let folder = dir.to_str().unwrap();
    Process::refused("node", Node::command(&["--model", folder])).names(&[folder]);
}

#[tokio::test]
async fn an_edge_that_is_asked_to_end_lets_streams_end_first() {
    let gate = Gate::default();
    let node = InstantNode::start("one", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let edge = Edge::to(&[node.address()]).start();
    let mut events = edge.client().chat(&ask(true)).await.events();
    events.chunk().await.unwrap();
    let mut idle = edge.client().connect().await.unwrap();
    idle.send(edge.client().request("GET", "/models", littoral_tests::client::empty())).await.unwrap().ok().await;
    edge.process.terminate();
    let refused = async || TcpStream::connect(edge.http).await.is_err();
    eventually("the end of the listener", SOON, refused).await;
    assert!(edge.process.is_alive(), "a stream is open");
    gate.open();
    let transcript = events.transcript().await;
    assert!(transcript.done && transcript.text() == "t2 t3 t4 t5 ", "{transcript:?}");
    let ended = edge.process.wait(SOON);
    assert!(ended.success(), "{ended}: {}", edge.process.log());
    eventually("the node's end of it", SOON, async || node.counts().completed.load(Relaxed) == 1).await;
}

#[tokio::test]
async fn an_edge_waits_for_its_streams_only_so_long() {
    let node = InstantNode::start("one", Script { gate: Some((3, Gate::default())), ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("edge", "drain_timeout_ms = 300").start();
    let mut events = edge.client().chat(&ask(true)).await.events();
    events.chunk().await.unwrap();
    let began = Instant::now();
    edge.process.terminate();
    assert!(edge.process.wait(SOON).success());
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    assert!(!events.transcript().await.done);
    eventually("the node's release", SOON, async || node.open() == 0).await;
}

#[tokio::test]
async fn a_node_that_is_asked_to_end_lets_answers_end_first() {
    let node = Node::start(&[]);
    let other = InstantNode::start("other", Script::default());
    let edge = Edge::to(&[node.grpc, other.address()]).start();
    // Long enough to be met in its middle.
    let body = json!({
        "model": node::MODEL, "stream": true, "max_tokens": 200, "logit_bias": node::endless(),
        "messages": [{"role": "user", "content": "Tell me a tale."}],
    });
    let mut events = edge.client().chat(&body).await.events();
    events.chunk().await.unwrap();
    node.process.terminate();
    let health = Client::new(node.metrics_address());
    let draining = async || !node.process.is_alive() || health.get("/healthz").await.status == 503;
    eventually("the node to drain", SOON, draining).await;
    // Nothing new goes there; the model is known, and its time will come again.
    let refused = edge.client().chat(&body).await;
    assert!(refused.status == 503 || !node.process.is_alive(), "{}", refused.status);
    let transcript = events.transcript().await;
    assert!(transcript.done && transcript.usage()["completion_tokens"] == 200, "{transcript:?}");
    let ended = node.process.wait(SOON);
    assert!(ended.success(), "{ended}: {}", node.process.log());
}

#[test]
fn asked_to_end_at_once_it_ends_at_once() {
    let node = InstantNode::start("one", Script::default());
    for _ in 0..5 {
        let edge = Edge::to(&[node.address()]).start();
        edge.process.terminate();
        let ended = edge.process.wait(SOON);
        assert!(ended.success(), "{ended}: {}", edge.process.log());
    }
}

#[test]
fn how_long_a_warm_edge_takes_to_be_ready() {
    let node = InstantNode::start("one", Script::default());
    let mut times: Vec<_> =
        (0..5).map(|_| Edge::to(&[node.address()]).start().process.ready_after.as_millis()).collect();
    times.sort_unstable();
    println!("ready after exec: {times:?} ms, the median of 5 is {} ms", times[2]);
}
