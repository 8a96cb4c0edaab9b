//! A thousand streams at once: none waits for another, and no guest lives while tokens flow.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures::future::join_all;
use littoral_tests::{
    client::{Client, Connection, Protocol},
    edge::Edge,
    eventually,
    instant_node::{Gate, InstantNode, MODEL, Script},
    sse::Events,
};
use serde_json::{Value, json};

const STREAMS: usize = 1000;
const TOKENS: u32 = 20;
const WORKERS: u32 = 2;
const SOON: Duration = Duration::from_secs(30);

fn ask(i: usize) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": format!("number {i}")}], "stream": true})
}

/// Opens streams, half of them on HTTP/1.1 connections of their own, half on ten of HTTP/2, and reads a token of each.
async fn open(client: &Client, count: usize) -> Vec<Events> {
    let h2c = client.over(Protocol::H2c);
    let shared = join_all((0..10).map(|_| h2c.connect())).await;
    let streams = (0..count).map(|i| {
        let mut connection = match shared[i / 2 % 10].as_ref() {
            Ok(Connection::H2c(sender)) if i % 2 == 0 => Some(Connection::H2c(sender.clone())),
            _ => None,
        };
        let h2c = &h2c;
        async move {
            let answer = match &mut connection {
                Some(connection) => connection.send(h2c.chat_request(&ask(i))).await,
                None => client.try_send(client.chat_request(&ask(i))).await,
            };
            let mut events = answer.unwrap_or_else(|e| panic!("stream {i}: {e:?}")).events();
            let first = events.chunk().await.unwrap_or_else(|| panic!("stream {i} ended at once"));
            assert_eq!(first["choices"][0]["delta"]["content"], "t1 ");
            events
        }
    });
    join_all(streams).await
}

#[tokio::test]
async fn a_thousand_streams_and_no_more_guests_than_workers() {
    let gate = Gate::default();
    let script = Script { tokens: TOKENS, interval: Duration::from_millis(5), ..Script::default() };
    let node = InstantNode::start("instant", Script { gate: Some((3, gate.clone())), ..script });
    let edge = Edge::to(&[node.address()]).with("edge", &format!("workers = {WORKERS}")).start();
    let client = edge.client();

    // One request first, so that what is measured is the streams and not the first use of things.
    client.get("/models").await.ok().await;
    let before = edge.process.resident();
    let began = Instant::now();
    let streams = open(&client, STREAMS).await;
    println!("{STREAMS} streams open after {:?}", began.elapsed());

    assert_eq!(node.open() as usize, STREAMS);
    let metrics = edge.metrics().await;
    assert_eq!(metrics.get("littoral_open_streams") as usize, STREAMS);
    let instances = metrics.get("littoral_guest_instances");
    assert!(instances <= f64::from(WORKERS), "{instances} guest instances live beside {STREAMS} streams");
    assert!(instances >= 1.0, "an instance is kept for reuse");
    let connections = node.counts().connections.load(Relaxed);
    // One a worker, and those of the look at the fleet.
    assert!(connections <= WORKERS + 2, "{connections} connections to the node");
    let each = (edge.process.resident().saturating_sub(before)) / STREAMS as u64;
    println!("resident: {} MiB, {} KiB a stream", edge.process.resident() >> 20, each >> 10);
    assert!(each < 256 << 10, "{each} bytes a stream");

    // Others are decided meanwhile.
    for _ in 0..20 {
        client.get("/models").await.ok().await;
        client.without_key().chat(&ask(0)).await.error(401).await;
    }

    gate.open();
    let began = Instant::now();
    let expected: String = (1..=TOKENS).map(|n| format!("t{n} ")).collect();
    for transcript in join_all(streams.into_iter().map(Events::transcript)).await {
        assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
        assert_eq!(format!("t1 {}", transcript.text()), expected);
        assert_eq!(transcript.usage()["completion_tokens"], TOKENS);
    }
    println!("all complete {:?} after the gate was opened", began.elapsed());
    // A request is counted right after its stream is.
    let ended = async || {
        let metrics = edge.metrics().await;
        let answered = metrics.sum("littoral_requests_total", &[("route", "chat"), ("status", "200")]);
        metrics.get("littoral_open_streams") == 0.0 && node.open() == 0 && answered as usize == STREAMS
    };
    eventually("the streams' end", SOON, ended).await;
    let metrics = edge.metrics().await;
    assert_eq!(metrics.sum("littoral_tokens_total", &[("kind", "completion")]), f64::from(STREAMS as u32 * TOKENS));
    assert_eq!(metrics.get("littoral_guest_traps_total"), 0.0);
    assert_eq!(node.counts().cancelled.load(Relaxed), 0);
}

#[tokio::test]
async fn streams_whose_clients_left_are_given_back() {
    let script = Script { tokens: TOKENS, gate: Some((3, Gate::default())), ..Script::default() };
    let node = InstantNode::start("instant", script);
    let edge = Edge::to(&[node.address()]).start();
    let streams = open(&edge.client(), 200).await;
    assert_eq!(node.open(), 200);
    let began = Instant::now();
    drop(streams);
    eventually("the cancellations", SOON, async || node.open() == 0).await;
    println!("200 cancelled within {:?}", began.elapsed());
    assert_eq!(node.counts().cancelled.load(Relaxed), 200);
    let gone = async || {
        let metrics = edge.metrics().await;
        let left = || metrics.sum("littoral_requests_total", &[("status", "499")]);
        metrics.get("littoral_open_streams") == 0.0 && metrics.get("littoral_connections") == 0.0 && left() == 200.0
    };
    eventually("the connections' end", SOON, gone).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_its_own_stream_only() {
    let text = "x".repeat(1000);
    let node = InstantNode::start("instant", Script { tokens: 100_000, text, ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("edge", "workers = 1").start();
    let client = edge.client();
    let mut slow = client.chat(&ask(0)).await.events();
    slow.chunk().await.unwrap();
    // 100 MB would be on their way; the edge may hold what its windows allow.
    let before = edge.process.resident();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = edge.process.resident().saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB are held for a client that does not read", grown >> 20);
    node.follow(Script::default());
    for i in 1..20 {
        let transcript = client.chat(&ask(i)).await.events().transcript().await;
        assert_eq!(transcript.text(), "t1 t2 t3 t4 t5 ");
    }
    eventually("the end of the others", SOON, async || node.open() == 1).await;
    drop(slow);
    eventually("the cancellation", SOON, async || node.open() == 0).await;
}
