//! The edge's own policy component in a host that speaks WASI only: adapter, policy and provider in one component.

#[path = "wasi_host/tokens.rs"]
mod tokens;

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use littoral_core::key::KeyRecord;
use littoral_tests::{
    edge::wrong,
    node::MODEL,
    wasi_host::{Answer, WasiHost, guest, imports_of, node},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

const SECRET: &str = "what only nodes and edges know";

/// The composed component with one key and these nodes.
fn host(nodes: &str) -> Result<(WasiHost, String)> {
    host_with(nodes, &[])
}

/// The same, with a key whose answers run through these filters.
fn host_with(nodes: &str, filters: &[&str]) -> Result<(WasiHost, String)> {
    set_up(nodes, filters, &[])
}

/// The same, with further settings.
fn set_up(nodes: &str, filters: &[&str], more: &[(&str, &str)]) -> Result<(WasiHost, String)> {
    let (mut record, key) = KeyRecord::create("acme", "ada", &[7; 54]);
    record.filters = filters.iter().map(|name| name.to_string()).collect();
    let keys = serde_json::to_string(&[record])?;
    let models = format!("{MODEL}@r1@2048");
    let environment = [
        ("LITTORAL_NODES", nodes),
        ("LITTORAL_NODE_SECRET", SECRET),
        ("LITTORAL_KEYS", &keys),
        ("LITTORAL_MODELS", &models),
    ];
    Ok((WasiHost::load(&guest("littoral-wasi"), &[&environment, more].concat())?, key))
}

fn request<'a>(method: &str, path: &str, key: Option<&str>, body: &'a str) -> http::Request<&'a str> {
    let mut request = http::Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(body).expect("a test writes proper requests")
}

fn ask(extra: &str) -> String {
    format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"Say hello."}}]{extra}}}"#)
}

/// Status and error object.
async fn refused(answer: Answer) -> Result<(u16, Value)> {
    ensure!(answer.header("content-type") == "application/json");
    ensure!(answer.header("x-request-id").len() == 32, "every answer names its request");
    let status = answer.status;
    let body: Value = serde_json::from_str(&answer.rest().await)?;
    Ok((status, body["error"].clone()))
}

#[test]
fn the_whole_imports_wasi_only_and_the_spin_edition_what_spin_has() -> Result<()> {
    let plain = imports_of(&guest("littoral-wasi"))?;
    assert!(!plain.is_empty() && plain.iter().all(|name| name.starts_with("wasi:")), "{plain:?}");
    let spin = imports_of(&guest("littoral-spin"))?;
    assert!(spin.iter().all(|name| name.starts_with("wasi:") || name.starts_with("spin:")), "{spin:?}");
    assert!(spin.iter().any(|name| name.starts_with("spin:variables/")), "{spin:?}");
    Ok(())
}

/// A component imports what it calls of its world; a layer's import of the next `policy` must be met inside.
#[test]
fn the_layers_compose_to_what_the_edge_is() -> Result<()> {
    let world = ["types", "inference", "facts", "fleet", "crypto"].map(|name| format!("littoral:edge/{name}@0.1.0"));
    for name in ["edge", "layers"] {
        let imports = imports_of(&guest(name))?;
        let unknown = imports.iter().find(|import| import.starts_with("littoral:") && !world.contains(import));
        assert_eq!(unknown, None, "{name} needs more than the world `terminal` gives");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_brings_no_key_is_refused_in_the_api_s_format() -> Result<()> {
    let (host, key) = host("http://127.0.0.1:1")?;
    let body = ask("");
    let answer = host.send(request("POST", "/v1/chat/completions", None, &body)).await?;
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"littoral\"");
    let (status, error) = refused(answer).await?;
    assert_eq!(
        (status, &error["type"], &error["code"]),
        (401, &"authentication_error".into(), &"invalid_api_key".into())
    );

    let (status, _) = refused(host.send(request("GET", "/v1/models", Some(&wrong(&key)), "")).await?).await?;
    assert_eq!(status, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_refuses_here_as_it_does_at_the_edge() -> Result<()> {
    let (host, key) = host("http://127.0.0.1:1")?;
    let cases = [
        ("GET", "/v1/nothing", "", 404, "not_found", Value::Null),
        ("GET", "/v1/chat/completions", "", 405, "method_not_allowed", Value::Null),
        ("POST", "/v1/chat/completions", "{", 400, "invalid_request_error", Value::Null),
        (
            "POST",
            "/chat/completions",
            r#"{"model":"no such","messages":[{"role":"user","content":"x"}]}"#,
            400,
            "model_not_found",
            "model".into(),
        ),
    ];
    for (method, path, body, status, code, param) in cases {
        let (got, error) = refused(host.send(request(method, path, Some(&key), body)).await?).await?;
        assert_eq!((got, &error["code"], &error["param"]), (status, &code.into(), &param), "{method} {path}");
    }
    // No node is there: worth another try.
    let body = ask("");
    let answer = host.send(request("POST", "/v1/chat/completions", Some(&key), &body)).await?;
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(refused(answer).await?.0, 503);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_read_when_wanted_and_bounded() -> Result<()> {
    let (host, key) = host("http://127.0.0.1:1")?;
    // Larger than what comes with the first call: the policy asks for it, and finds the field at fault.
    let large = ask(&format!(r#","stop":{},"padding":"{}""#, "7", "x".repeat(200 << 10)));
    let (status, error) =
        refused(host.send(request("POST", "/v1/chat/completions", Some(&key), &large)).await?).await?;
    assert_eq!((status, &error["param"]), (400, &"stop".into()), "{error}");

    let huge = "x".repeat((8 << 20) + 1);
    let (status, _) = refused(host.send(request("POST", "/v1/chat/completions", Some(&key), &huge)).await?).await?;
    assert_eq!(status, 413);
    // Whom the head alone shows to be refused is told so, whatever the body's size.
    let (status, _) = refused(host.send(request("POST", "/v1/chat/completions", None, &huge)).await?).await?;
    assert_eq!(status, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_health_needs_no_key() -> Result<()> {
    let (host, key) = host("http://127.0.0.1:1")?;
    let answer = host.send(request("GET", "/v1/models", Some(&key), "")).await?;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let list: Value = serde_json::from_str(&answer.rest().await)?;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&"list".into(), &MODEL.into()));
    let mut named = request("GET", "/healthz", None, "");
    named.headers_mut().insert("x-request-id", http::HeaderValue::from_static("mine-1"));
    let answer = host.send(named).await?;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, "mine-1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_set_up_says_so() -> Result<()> {
    let host = WasiHost::load(&guest("littoral-wasi"), &[("LITTORAL_NODES", "http://127.0.0.1:1")])?;
    let (status, error) = refused(host.send(request("GET", "/v1/models", None, "")).await?).await?;
    assert_eq!((status, &error["type"]), (500, &"server_error".into()));
    assert_eq!(host.send(request("GET", "/healthz", None, "")).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_requires_more_than_this_host_does_is_not_half_done() -> Result<()> {
    let asked = Arc::new(AtomicUsize::new(0));
    let nodes = side_door(200, Arc::new(Notify::new()), asked.clone()).await?;
    let (host, key) = host_with(&nodes, &["redact"])?;
    let body = ask("");
    let answer = host.send(request("POST", "/v1/chat/completions", Some(&key), &body)).await?;
    let (status, error) = refused(answer).await?;
    assert_eq!((status, &error["code"]), (501, &"not_implemented".into()));
    assert!(error["message"].as_str().is_some_and(|message| message.contains("filters")), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 0, "no node was asked");
    Ok(())
}

/// A side-door that answers `status`; a 200 streams its second half only once `go` is given.
async fn side_door(status: u16, go: Arc<Notify>, asked: Arc<AtomicUsize>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            asked.fetch_add(1, Ordering::SeqCst);
            let go = go.clone();
            tokio::spawn(async move { half_by_half(socket, status, go).await });
        }
    });
    Ok(format!("http://{address}"))
}

async fn half_by_half(mut socket: TcpStream, status: u16, go: Arc<Notify>) -> Result<()> {
    let mut received = Vec::new();
    while !received.windows(3).any(|end| end == b"}]}" || end == b"ue}") {
        ensure!(socket.read_buf(&mut received).await? > 0, "the request broke off");
    }
    let text = String::from_utf8(received)?;
    let head = text.to_ascii_lowercase();
    let complete = head.starts_with("post /v1/chat/completions ")
        && head.contains(&format!("authorization: bearer {SECRET}"))
        && head.contains("x-request-id: ")
        && text.contains(&format!(r#""model":"{MODEL}""#));
    let status = if complete { status } else { 400 };
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    if status == 200 {
        socket.write_all(b"data: first\n\n").await?;
        go.notified().await;
        socket.write_all(b"data: [DONE]\n\n").await?;
    }
    socket.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_is_there_before_the_last_is_made_and_a_failing_node_is_passed_over() -> Result<()> {
    let (go, full, well) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let nodes = format!(
        "http://127.0.0.1:1, {}, {}/",
        side_door(503, go.clone(), full.clone()).await?,
        side_door(200, go.clone(), well.clone()).await?
    );
    let (host, key) = host(&nodes)?;
    // The order of preference hangs on the conversation: sooner or later one begins with the node that is full.
    for turn in 0..50 {
        let body = format!(
            r#"{{"stream":true,"model":"{MODEL}","messages":[{{"role":"user","content":"Conversation {turn}"}}]}}"#
        );
        let mut answer = host.send(request("POST", "/v1/chat/completions", Some(&key), &body)).await?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
        assert_eq!(answer.header("x-littoral-cache"), "bypass; reason=host");
        assert!(answer.header("x-littoral-node").starts_with("127.0.0.1:"));
        assert_eq!(answer.header("x-request-id").len(), 32);
        let first = tokio::time::timeout(Duration::from_secs(20), answer.next()).await?.context("nothing came")?;
        assert_eq!(first, "data: first\n\n");
        go.notify_one();
        assert_eq!(answer.rest().await, "data: [DONE]\n\n");
        assert_eq!(well.load(Ordering::SeqCst), turn + 1);
        if turn > 1 && full.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    assert!(full.load(Ordering::SeqCst) > 0, "no conversation began with the node that is full");
    Ok(())
}

/// The text of a stream, and that it is framed as clients expect.
fn text_of(stream: &str) -> Result<String> {
    ensure!(stream.ends_with("data: [DONE]\n\n"), "no end: {stream}");
    let mut text = String::new();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data)?;
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_s_answer_streams_through() -> Result<()> {
    let (_node, side_door) = node(SECRET);
    let (host, key) = host(&format!("http://{side_door}"))?;
    let body = ask(r#","temperature":0,"max_tokens":24,"stream":true"#);
    let (mut text, mut tries) = (String::new(), Vec::<usize>::new());
    // What a stall of this process holds up comes in few pieces: some try shows them as they are made.
    while tries.len() < 5 && tries.last().is_none_or(|pieces| *pieces <= 3) {
        let begun = Instant::now();
        let mut answer = host.send(request("POST", "/v1/chat/completions", Some(&key), &body)).await?;
        assert_eq!((answer.status, answer.header("x-littoral-node")), (200, side_door.to_string().as_str()));
        let (mut stream, mut arrivals) = (String::new(), Vec::new());
        while let Some(piece) = answer.next().await {
            arrivals.push(begun.elapsed());
            stream += std::str::from_utf8(&piece)?;
        }
        text = text_of(&stream)?;
        assert!(!text.is_empty());
        let (first, last) = (arrivals[0], arrivals[arrivals.len() - 1]);
        println!("{} pieces, first after {first:?}, last after {last:?}: {text:?}", arrivals.len());
        tries.push(arrivals.len());
    }
    assert!(tries.last().is_some_and(|pieces| *pieces > 3), "{tries:?}");

    let whole = ask(r#","temperature":0,"max_tokens":24"#);
    let answer = host.send(request("POST", "/v1/chat/completions", Some(&key), &whole)).await?;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document: Value = serde_json::from_str(&answer.rest().await)?;
    assert_eq!(document["object"], "chat.completion");
    assert_eq!(document["choices"][0]["message"]["content"], text, "streamed and whole are the same answer");
    Ok(())
}

/// Runs when a `spin` binary is on PATH: it is in no package registry.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_application_runs_under_spin() -> Result<()> {
    if Command::new("spin").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: no `spin` on PATH");
        return Ok(());
    }
    let (_node, side_door) = node(SECRET);
    let (record, key) = KeyRecord::create("acme", "ada", &[7; 54]);
    let listen = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../spin.toml");
    let mut spin = Command::new("spin")
        .args(["up", "--from", manifest, "--listen", &listen.to_string()])
        .env("SPIN_VARIABLE_NODES", format!("http://{side_door}"))
        .env("SPIN_VARIABLE_NODE_SECRET", SECRET)
        .env("SPIN_VARIABLE_KEYS", serde_json::to_string(&[record])?)
        .spawn()?;
    let answer = through_spin(&listen.to_string(), &key).await;
    let _ = spin.kill();
    let _ = spin.wait();
    assert!(!text_of(&answer?)?.is_empty());
    Ok(())
}

/// One streamed answer from a Spin application that has just been started.
async fn through_spin(address: &str, key: &str) -> Result<String> {
    let begun = Instant::now();
    let mut socket = loop {
        match TcpStream::connect(address).await {
            Ok(socket) => break socket,
            Err(error) if begun.elapsed() > Duration::from_secs(60) => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let body = ask(r#","temperature":0,"max_tokens":8,"stream":true"#);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no response head")?;
    ensure!(head.contains(" 200 "), "{answer}");
    Ok(body.to_string())
}
