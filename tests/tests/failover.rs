//! Nodes that die in the middle of an answer: another goes on, and the client sees one answer, whole and once.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures::future::join_all;
use littoral_proto::v1::{Delta, Event, Started, Usage, delta::Part, event::Kind};
use littoral_tests::{
    client::{Answer, Client},
    edge::{Edge, FORGIVING},
    eventually,
    instant_node::{Fault, Gate, InstantNode, MODEL, Script},
    port::Port,
};
use serde_json::{Value, json};
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);
const TOKENS: u32 = 40;

fn script() -> Script {
    Script { tokens: TOKENS, ..Script::default() }
}

fn failing(at: u32, fault: Fault) -> Script {
    Script { fault: Some((at, fault)), ..script() }
}

fn text() -> String {
    (1..=TOKENS).map(|n| format!("t{n} ")).collect()
}

fn ask(user: usize, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    json!({"model": MODEL, "messages": messages, "user_id": format!("user {user}"), "stream": stream})
}

/// The whole answer is there, once, and is paid for once.
async fn whole(answer: Answer, stream: bool) {
    if stream {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
        assert_eq!(transcript.text(), text());
        assert_eq!(transcript.usage()["completion_tokens"], TOKENS);
        assert_eq!(transcript.usage()["prompt_tokens"], 7);
        assert_eq!(transcript.raw.matches("\"finish_reason\":\"stop\"").count(), 1);
    } else {
        let document = answer.ok().await;
        assert_eq!(document["choices"][0]["message"]["content"], text());
        assert_eq!(document["usage"]["completion_tokens"], TOKENS);
    }
}

/// The node that is a user's home.
async fn home(client: &Client, user: usize) -> String {
    let answer = client.chat(&ask(user, false)).await;
    let node = answer.header("x-littoral-node").to_string();
    whole(answer, false).await;
    node
}

#[tokio::test]
async fn another_node_goes_on_wherever_the_first_one_breaks_off() {
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    let edge = Edge::to(&[one.address(), two.address()]).with("fleet", FORGIVING).start();
    let client = edge.client();
    let user = {
        let mut user = 0;
        while home(&client, user).await != "one" {
            user += 1;
        }
        user
    };
    let faults = || {
        [
            Fault::Status(Status::unavailable("as told")),
            Fault::Status(Status::internal("as told")),
            Fault::End,
            Fault::Garbage(delta(7, 99)),
            Fault::Garbage(delta(100, 1)),
        ]
    };
    let mut broken = 0;
    for ignores_resume in [false, true] {
        two.follow(Script { ignores_resume, ..script() });
        for fault in faults() {
            let garbage = matches!(fault, Fault::Garbage(_));
            for at in [1, 2, 20, TOKENS, TOKENS + 1, TOKENS + 2] {
                if garbage && !(2..=20).contains(&at) {
                    continue;
                }
                for stream in [true, false] {
                    one.follow(failing(at, fault.clone()));
                    let answer = client.chat(&ask(user, stream)).await;
                    assert_eq!(answer.header("x-littoral-node"), "one", "{fault:?} at {at}");
                    whole(answer, stream).await;
                    let resumed = two.last_request();
                    let sent = (at - 1).min(TOKENS) as usize;
                    let ids: Vec<u32> = resumed.resume_from.iter().flat_map(|r| r.token_ids.clone()).collect();
                    assert_eq!(ids, (1..=sent as u32).collect::<Vec<_>>(), "{fault:?} at {at}");
                    assert_eq!(resumed.seed, Some(1), "what the first node drew");
                    broken += 1;
                }
            }
        }
    }
    let metrics = edge.metrics().await;
    assert_eq!(metrics.sum("littoral_failovers_total", &[("outcome", "resumed")]), f64::from(broken));
    assert_eq!(metrics.sum("littoral_failovers_total", &[("outcome", "lost")]), 0.0);
}

#[tokio::test]
async fn an_answer_is_of_one_revision_of_its_model() {
    let gate = Gate::default();
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    one.follow(Script { gate: Some((3, gate.clone())), ..script() });
    two.describe(|info| info.models[0].revision = "another".into());
    let edge = Edge::to(&[one.address(), two.address()]).with("cache", "policy = 'off'").start();
    let client = edge.client();
    let health = async || client.get("/healthz").await.json().await["nodes"].clone();
    let left_out = async || health().await[1]["other_revision"] == true;
    eventually("the second node to be left out", SOON, left_out).await;
    let mut streams = Vec::new();
    for user in 0..8 {
        let answer = client.chat(&ask(user, true)).await;
        assert_eq!(answer.header("x-littoral-node"), "one");
        streams.push(answer.events());
    }
    drop(one);
    for events in streams {
        let transcript = events.transcript().await;
        assert!(!transcript.done && transcript.error.is_some(), "{transcript:?}");
    }
    assert_eq!(two.asked(), 0);
    // What begins now is of the other.
    let moved = async || client.chat(&ask(0, false)).await.status == 200;
    eventually("the second node to be asked", SOON, moved).await;
    assert_eq!(client.chat(&ask(0, false)).await.header("x-littoral-node"), "two");
    assert_eq!(health().await[1]["other_revision"], false);
}

fn delta(index: u32, token: u32) -> Event {
    let part = Some(Part::Text("garbage ".into()));
    Event { kind: Some(Kind::Delta(Delta { index, token_ids: vec![token], part, ..Delta::default() })) }
}

#[tokio::test]
async fn nodes_may_die_one_after_the_other() {
    let names = ["one", "two", "three", "four"];
    let nodes: Vec<_> = names.map(|name| InstantNode::start(name, failing(10, Fault::End))).into();
    // Each gets three tokens further than the one before, whichever comes first.
    for (i, node) in nodes.iter().enumerate() {
        node.follow(failing(10 + 8 * i as u32, Fault::End));
    }
    let edge = Edge::to(&nodes.iter().map(InstantNode::address).collect::<Vec<_>>()).start();
    nodes[3].follow(script());
    for user in 0..8 {
        whole(edge.client().chat(&ask(user, true)).await, true).await;
    }
}

#[tokio::test]
async fn when_every_breaker_is_open_those_that_are_well_again_are_found() {
    let gone = || failing(0, Fault::Status(Status::unavailable("gone")));
    let nodes: Vec<_> = (1..=3).map(|n| InstantNode::start(&format!("node {n}"), gone())).collect();
    let addresses: Vec<_> = nodes.iter().map(InstantNode::address).collect();
    let fleet = "breaker_failures = 1\nbreaker_ms = 30000";
    let edge = Edge::to(&addresses).with("fleet", fleet).start();
    let ready = async || edge.metrics().await.get("littoral_nodes_ready") == 3.0;
    eventually("all nodes", SOON, ready).await;
    let client = edge.client();
    client.chat(&ask(0, true)).await.error(503).await;
    assert_eq!(edge.metrics().await.get("littoral_nodes_ejected"), 3.0);
    nodes[1..].iter().for_each(|node| node.follow(script()));
    for user in 0..6 {
        for stream in [true, false] {
            whole(client.chat(&ask(user, stream)).await, stream).await;
        }
    }
}

#[tokio::test]
async fn killed_again_and_again_under_load_and_no_stream_fails() {
    let paced = Script { interval: Duration::from_millis(8), ..script() };
    let ports = [(); 4].map(|()| Port::take());
    let addresses = ports.each_ref().map(Port::address);
    let start = |name: &str, at| InstantNode::start_at(at, name, paced.clone(), 1);
    let mut nodes: Vec<_> = addresses.iter().enumerate().map(|(i, at)| start(&format!("node {i}"), *at)).collect();
    let edge = Edge::to(&addresses).with("edge", "workers = 2").start();
    let client = edge.client();
    let asking = (0..240).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(25 * i as u64)).await;
            let mut body = ask(i, i % 3 != 0);
            body["temperature"] = json!(0);
            body["messages"][0]["content"] = json!(format!("question {i}"));
            whole(client.chat(&body).await, i % 3 != 0).await;
        })
    });
    let asking: Vec<_> = asking.collect();
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let dying = nodes.remove(0);
        let address = dying.address();
        // Dies at the next token of any stream.
        tokio::task::spawn_blocking(move || dying.crash()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        nodes.push(start(&format!("reborn {round}"), address));
    }
    let ended = join_all(asking).await;
    let failed = ended.iter().filter(|ended| ended.is_err()).count();
    let metrics = edge.metrics().await;
    let resumed = metrics.sum("littoral_failovers_total", &[("outcome", "resumed")]);
    println!("8 kills under 240 streams: {resumed} failovers, {failed} failed");
    assert_eq!(failed, 0);
    assert!(resumed >= 8.0, "nothing was killed in the middle: {resumed}");
}

#[tokio::test]
async fn a_node_that_crashes_at_a_token_is_replaced_for_all_its_streams() {
    let gate = Gate::default();
    let dying = Script { gate: Some((20, gate.clone())), fault: Some((20, Fault::Crash)), ..script() };
    let (one, two) = (InstantNode::start("one", dying), InstantNode::start("two", script()));
    let edge = Edge::to(&[one.address(), two.address()]).with("edge", "workers = 2").start();
    let client = edge.client();
    let asking: Vec<_> = (0..32)
        .map(|user| {
            let client = client.clone();
            tokio::spawn(async move { whole(client.chat(&ask(user, user % 2 == 0)).await, user % 2 == 0).await })
        })
        .collect();
    let held = async || one.open() >= 2 && one.open() + two.counts().completed.load(Relaxed) as u32 == 32;
    eventually("the streams of the one that will die", SOON, held).await;
    gate.open();
    for ended in join_all(asking).await {
        ended.unwrap();
    }
    assert_eq!(edge.metrics().await.sum("littoral_failovers_total", &[("outcome", "lost")]), 0.0);
}

#[tokio::test]
async fn what_no_node_should_say_is_contained() {
    let node = InstantNode::start("one", script());
    let edge = Edge::to(&[node.address()]).with("fleet", "breaker_failures = 100000").start();
    let client = edge.client();
    let usage = Event { kind: Some(Kind::Usage(Usage::default())) };
    for first in [delta(0, 1), usage, Event { kind: None }] {
        node.follow(failing(0, Fault::Garbage(first.clone())));
        let error = client.chat(&ask(0, true)).await.error(502).await;
        assert_eq!(error["code"], "internal_error", "{first:?}: {error}");
    }
    // A second start says nothing new.
    let again = Event { kind: Some(Kind::Started(Started { node: "other".into(), ..Started::default() })) };
    node.follow(Script { tokens: TOKENS, ..failing(TOKENS + 1, Fault::Garbage(again)) });
    let transcript = client.chat(&ask(0, true)).await.events().transcript().await;
    assert!(transcript.done, "{transcript:?}");
    node.describe(|info| {
        (info.running, info.queued, info.slots, info.free_blocks) = (u32::MAX, u32::MAX, 0, u64::MAX);
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    node.follow(script());
    whole(client.chat(&ask(0, true)).await, true).await;
    assert!(edge.process.is_alive());
}

#[tokio::test]
async fn a_node_that_fails_again_and_again_is_left_alone_and_comes_back() {
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    let setup = Edge::to(&[one.address(), two.address()]).with("fleet", "breaker_failures = 3");
    let edge = setup.with("fleet", "breaker_ms = 800").with("fleet", "slow_start_ms = 200").start();
    let client = edge.client();
    one.follow(failing(0, Fault::Status(Status::internal("as told"))));
    for user in 0..30 {
        whole(client.chat(&ask(user, true)).await, true).await;
    }
    assert!((3..=6).contains(&one.asked()), "{} requests went to a node that fails", one.asked());
    assert_eq!(edge.metrics().await.get("littoral_nodes_ejected"), 1.0);
    one.follow(script());
    let back = async || {
        for user in 0..8 {
            whole(client.chat(&ask(user, true)).await, true).await;
        }
        one.counts().completed.load(Relaxed) >= 8
    };
    eventually("the node's return", SOON, back).await;
    assert_eq!(edge.metrics().await.get("littoral_nodes_ejected"), 0.0);
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let nodes: Vec<_> = ["one", "two", "three"].map(|n| InstantNode::start(n, failing(0, Fault::End))).into();
    let setup = Edge::to(&nodes.iter().map(InstantNode::address).collect::<Vec<_>>());
    let setup = setup.with("fleet", "breaker_failures = 100000").with("fleet", "retry_reserve = 0");
    let edge = setup.with("fleet", "retry_ratio = 0.5").start();
    const REQUESTS: u64 = 60;
    for user in 0..REQUESTS as usize {
        edge.client().chat(&ask(user, false)).await.error(503).await;
    }
    let asked: u64 = nodes.iter().map(InstantNode::asked).sum();
    assert!(
        (REQUESTS + 20..=REQUESTS + 31).contains(&asked),
        "{asked} tries of {REQUESTS} requests, half of them more"
    );
    assert!(edge.metrics().await.sum("littoral_retries_total", &[("outcome", "over_budget")]) >= 1.0);
}

#[tokio::test]
async fn a_slow_first_token_is_asked_for_twice_and_told_once() {
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    let edge = Edge::to(&[one.address(), two.address()]).with("fleet", "hedge_ms = 1000").start();
    let client = edge.client();
    let user = {
        let mut user = 0;
        while home(&client, user).await != "one" {
            user += 1;
        }
        user
    };
    // A stall of the machine may have hedged one of those.
    let hedges = async || edge.metrics().await.get("littoral_hedges_total");
    let cancelled = || one.counts().cancelled.load(Relaxed);
    let before = (hedges().await, cancelled());
    one.follow(Script { gate: Some((1, Gate::default())), ..script() });
    let began = Instant::now();
    let answer = client.chat(&ask(user, true)).await;
    assert_eq!(answer.header("x-littoral-node"), "two");
    assert_eq!(answer.header("x-littoral-route"), "n2; reason=hedge; tried=n1");
    whole(answer, true).await;
    assert!(began.elapsed() >= Duration::from_millis(1000));
    eventually("the slower one's cancellation", SOON, async || cancelled() == before.1 + 1).await;
    assert_eq!(hedges().await, before.0 + 1.0);
}

#[tokio::test]
async fn a_draining_node_gets_no_new_work_and_ends_what_it_has() {
    let gate = Gate::default();
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    let edge = Edge::to(&[one.address(), two.address()]).start();
    let client = edge.client();
    one.follow(Script { gate: Some((3, gate.clone())), ..script() });
    let asking: Vec<_> = (0..8)
        .map(|user| {
            let client = client.clone();
            tokio::spawn(async move { whole(client.chat(&ask(user, true)).await, true).await })
        })
        .collect();
    let held = async || one.open() >= 1 && u64::from(one.open()) + two.counts().completed.load(Relaxed) == 8;
    eventually("streams at the node", SOON, held).await;
    one.set_serving(false);
    let ready = async || edge.metrics().await.get("littoral_nodes_ready") == 1.0;
    eventually("the edge to hear of it", SOON, ready).await;
    let asked = one.asked();
    for user in 8..24 {
        let answer = client.chat(&ask(user, false)).await;
        assert_eq!(answer.header("x-littoral-node"), "two");
        whole(answer, false).await;
    }
    assert_eq!(one.asked(), asked);
    gate.open();
    for ended in join_all(asking).await {
        ended.unwrap();
    }
    one.set_serving(true);
    eventually("its return", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
}

#[tokio::test]
async fn a_full_fleet_turns_requests_away_before_it_asks() {
    let node = InstantNode::start("one", script());
    node.describe(|info| (info.slots, info.running) = (2, 40));
    let edge = Edge::to(&[node.address()]).with("fleet", "max_queue = 8").start();
    let answer = edge.client().chat(&ask(0, true)).await;
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|s| (1..=60).contains(&s)));
    assert_eq!(answer.error(503).await["code"], "overloaded");
    assert_eq!(node.asked(), 0);
    assert_eq!(edge.metrics().await.get("littoral_shed_total"), 1.0);
    node.describe(|info| info.running = 0);
    eventually("room", SOON, async || edge.client().chat(&ask(0, false)).await.status == 200).await;
}

#[tokio::test]
async fn where_a_request_went_and_why_is_told() {
    let (one, two) = (InstantNode::start("one", script()), InstantNode::start("two", script()));
    let edge = Edge::to(&[one.address(), two.address()]).start();
    let client = edge.client();
    let route = async |user: usize| client.chat(&ask(user, false)).await.header("x-littoral-route").to_string();
    let at = route(0).await;
    assert!(at == "n1; reason=session" || at == "n2; reason=session", "{at}");
    let (home, other, name) = if at.starts_with("n1") { (&one, "n2", "n1") } else { (&two, "n1", "n2") };
    home.follow(failing(0, Fault::End));
    assert_eq!(route(0).await, format!("{other}; reason=fallback; tried={name}"));
    home.follow(script());
    home.describe(|info| (info.slots, info.running) = (1, 50));
    let sent_on = async || route(0).await == format!("{other}; reason=overflow home={name}");
    eventually("the edge to hear that home is full", SOON, sent_on).await;
}

#[tokio::test]
async fn requests_wait_for_the_first_node_where_they_may() {
    let port = Port::take();
    let address = port.address();
    let node = InstantNode::start_at(address, "one", script(), 1);
    let edge = Edge::to(&[address]).with("fleet", "wait_ms = 20000").start();
    let client = edge.client();
    whole(client.chat(&ask(0, true)).await, true).await;
    tokio::task::spawn_blocking(move || node.crash()).await.unwrap();
    let health = Client::new(edge.http);
    eventually("the edge's health to fall", SOON, async || health.get("/healthz").await.status == 503).await;
    let asking = [true, false].map(|stream| {
        let client = client.clone();
        tokio::spawn(async move { whole(client.chat(&ask(1, stream)).await, stream).await })
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _again = InstantNode::start_at(address, "one", script(), 1);
    for ended in join_all(asking).await {
        ended.unwrap();
    }
}
