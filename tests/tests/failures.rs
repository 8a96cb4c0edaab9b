//! Nodes that are full, slow, broken or gone: what the client is told, and that others take over.

use std::time::Duration;

use littoral_proto::v1;
use littoral_tests::{
    client::{Answer, Client},
    edge::{Edge, FORGIVING},
    eventually,
    instant_node::{Fault, Gate, InstantNode, MODEL, Script},
    node::{self, Node},
    port::Port,
};
use serde_json::{Value, json};
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);

/// `user` chooses the node: a session keeps its own.
fn ask(user: usize, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    json!({"model": MODEL, "messages": messages, "user_id": format!("user {user}"), "stream": stream})
}

fn failing(at: u32, fault: Fault) -> Script {
    Script { fault: Some((at, fault)), ..Script::default() }
}

fn node_error(code: &str, retryable: bool) -> Fault {
    Fault::Error(v1::Error { code: code.into(), message: format!("as told: {code}"), retryable })
}

/// The error of an answer that asks to come back later.
async fn come_back(answer: Answer) -> Value {
    let after = answer.header("retry-after").to_string();
    let error = answer.error(503).await;
    assert!(after.parse::<u32>().is_ok_and(|seconds| (1..=60).contains(&seconds)), "retry-after: {after:?}, {error}");
    error
}

async fn complete(client: &Client, body: &Value) -> String {
    let answer = client.chat(body).await;
    let node = answer.header("x-littoral-node").to_string();
    let text = match body["stream"] == true {
        true => {
            let transcript = answer.events().transcript().await;
            assert!(transcript.done, "{transcript:?}");
            transcript.text()
        }
        false => answer.ok().await["choices"][0]["message"]["content"].as_str().unwrap().into(),
    };
    assert_eq!(text, "t1 t2 t3 t4 t5 ");
    node
}

#[tokio::test]
async fn a_session_keeps_its_node_and_another_takes_over_when_that_fails() {
    let (one, two) = (InstantNode::start("one", Script::default()), InstantNode::start("two", Script::default()));
    let edge = Edge::to(&[one.address(), two.address()]).with("fleet", FORGIVING).start();
    let client = edge.client();
    let mut homes = Vec::new();
    for user in 0..16 {
        let home = complete(&client, &ask(user, user % 2 == 0)).await;
        assert_eq!(complete(&client, &ask(user, user % 2 == 1)).await, home, "user {user}");
        homes.push(home);
    }
    assert!(homes.iter().any(|home| home == "one") && homes.iter().any(|home| home == "two"), "{homes:?}");
    for fault in [
        Fault::Status(Status::unavailable("as told")),
        Fault::Status(Status::internal("as told")),
        node_error("overloaded", true),
        node_error("internal_error", true),
        Fault::End,
    ] {
        let asked = one.asked();
        one.follow(failing(0, fault.clone()));
        for user in 0..16 {
            assert_eq!(complete(&client, &ask(user, user % 2 == 0)).await, "two", "{fault:?}");
        }
        assert!(one.asked() > asked, "the first choice was not asked");
    }
    // What another node would answer the same is not asked of it.
    one.follow(failing(0, node_error("invalid_request_error", false)));
    two.follow(failing(0, node_error("context_length_exceeded", false)));
    let asked = one.asked() + two.asked();
    for user in 0..4 {
        let error = client.chat(&ask(user, true)).await.error(400).await;
        assert!(error["message"].as_str().unwrap().starts_with("as told: "), "{error}");
    }
    assert_eq!(one.asked() + two.asked() - asked, 4);
    one.follow(Script::default());
    two.follow(Script::default());
    for (user, home) in homes.iter().enumerate() {
        assert_eq!(&complete(&client, &ask(user, true)).await, home, "the session comes home");
    }
}

#[tokio::test]
async fn a_fleet_that_is_full_asks_to_come_back() {
    let (one, two) = (InstantNode::start("one", Script::default()), InstantNode::start("two", Script::default()));
    let edge = Edge::to(&[one.address(), two.address()]).start();
    for fault in [node_error("overloaded", true), Fault::Status(Status::resource_exhausted("as told"))] {
        one.follow(failing(0, fault.clone()));
        two.follow(failing(0, fault));
        for stream in [false, true] {
            assert_eq!(come_back(edge.client().chat(&ask(0, stream)).await).await["code"], "overloaded");
        }
    }
}

#[tokio::test]
async fn a_real_node_that_is_full_says_so() {
    let node = Node::start(&["--slots", "1", "--queue", "0"]);
    let edge = Edge::to(&[node.grpc]).start();
    let ask = |tokens| {
        let messages = json!([{"role": "user", "content": "Write a long story about a whale."}]);
        let endless = node::endless();
        json!({"model": node::MODEL, "messages": messages, "max_tokens": tokens, "stream": true, "logit_bias": endless})
    };
    let mut first = edge.client().chat(&ask(1500)).await.events();
    first.chunk().await.unwrap();
    let error = come_back(edge.client().chat(&ask(5)).await).await;
    assert_eq!(error["code"], "overloaded");
    drop(first);
    eventually("room", SOON, async || node.describe().await.running == 0).await;
    assert!(edge.client().chat(&ask(5)).await.events().transcript().await.done);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_in_an_error_event() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    let faults = [
        (Fault::Status(Status::unavailable("as told")), "service_unavailable", 503),
        (Fault::Status(Status::internal("as told")), "internal_error", 500),
        (node_error("internal_error", true), "internal_error", 500),
        (node_error("overloaded", true), "overloaded", 503),
        (Fault::End, "service_unavailable", 503),
    ];
    for (fault, code, status) in faults {
        for at in [1, 3, 6] {
            node.follow(failing(at, fault.clone()));
            let transcript = edge.client().chat(&ask(0, true)).await.events().transcript().await;
            assert!(!transcript.done, "{fault:?}: {}", transcript.raw);
            assert_eq!(transcript.broken, None, "the body ends at its end");
            let error = transcript.error.as_ref().unwrap_or_else(|| panic!("no error event: {}", transcript.raw));
            assert_eq!(error["code"], code, "{fault:?}: {error}");
            assert_eq!(error["type"], "server_error");
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
            assert!(!transcript.raw.contains("\"finish_reason\":\"stop\""), "{}", transcript.raw);
            assert_eq!(transcript.text().split_whitespace().count(), (at as usize - 1).min(5));
            // As a document the same failure has a status of its own.
            assert_eq!(edge.client().chat(&ask(0, false)).await.error(status).await["code"], code, "{fault:?}");
        }
    }
    node.follow(Script::default());
    complete(&edge.client(), &ask(0, true)).await;
}

#[tokio::test]
async fn a_node_that_dies_is_told_and_missed_and_welcomed_back() {
    let gate = Gate::default();
    let script = Script { gate: Some((3, gate)), ..Script::default() };
    let port = Port::take();
    let address = port.address();
    let dying = InstantNode::start_at(address, "one", script.clone(), 1);
    let edge = Edge::to(&[address]).start();
    let client = edge.client();

    let mut streaming = client.chat(&ask(0, true)).await.events();
    streaming.chunk().await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.chat(&ask(1, false)).await }
    });
    dying.follow(Script { gate: Some((0, Gate::default())), ..script });
    let unborn = tokio::spawn({
        let client = client.clone();
        async move { client.chat(&ask(2, true)).await }
    });
    eventually("three generations", SOON, async || dying.open() == 3).await;
    tokio::task::spawn_blocking(move || dying.crash()).await.unwrap();

    let transcript = tokio::time::timeout(SOON, streaming.transcript()).await.expect("a dead node is noticed");
    assert!(!transcript.done && transcript.broken.is_none(), "{transcript:?}");
    assert!(transcript.error.is_some(), "{transcript:?}");
    come_back(waiting.await.unwrap()).await;
    come_back(unborn.await.unwrap()).await;
    for stream in [false, true] {
        come_back(client.chat(&ask(3, stream)).await).await;
    }
    let health = Client::new(edge.http);
    eventually("the edge's health to fall", SOON, async || health.get("/healthz").await.status == 503).await;
    // The model is still known: it is gone for now, and has not ceased to exist.
    assert_eq!(come_back(client.chat(&ask(4, true)).await).await["code"], "service_unavailable");
    assert_eq!(edge.metrics().await.get("littoral_nodes_ready"), 0.0);

    let _again = InstantNode::start_at(address, "one", Script::default(), 1);
    eventually("the node's return", SOON, async || health.get("/healthz").await.status == 200).await;
    complete(&client, &ask(5, true)).await;
}

#[tokio::test]
async fn a_real_node_is_killed_in_the_middle_of_a_word() {
    let node = Node::start(&[]);
    let edge = Edge::to(&[node.grpc]).start();
    let messages = json!([{"role": "user", "content": "Tell me a tale."}]);
    let endless = node::endless();
    let body =
        json!({"model": node::MODEL, "stream": true, "max_tokens": 500, "messages": messages, "logit_bias": endless});
    let mut events = edge.client().chat(&body).await.events();
    for _ in 0..3 {
        events.chunk().await.unwrap();
    }
    node.process.kill();
    let transcript = tokio::time::timeout(SOON, events.transcript()).await.expect("a killed node is noticed");
    assert!(!transcript.done && transcript.error.is_some() && transcript.broken.is_none(), "{transcript:?}");
    come_back(edge.client().chat(&body).await).await;
}

#[tokio::test]
async fn a_real_node_that_stands_still_is_given_up_and_another_goes_on() {
    let (one, two) = (Node::start(&["--node", "one"]), Node::start(&["--node", "two"]));
    let edge = Edge::to(&[one.grpc, two.grpc]).with("cache", "policy = 'off'").start();
    let body = |stream: bool| {
        let messages = json!([{"role": "user", "content": "Tell me a tale."}]);
        let endless = node::endless();
        json!({"model": node::MODEL, "stream": stream, "max_tokens": 400, "messages": messages, "temperature": 0,
            "logit_bias": endless})
    };
    let tale = edge.client().chat(&body(false)).await.ok().await["choices"][0]["message"]["content"].clone();
    let answer = edge.client().chat(&body(true)).await;
    let home = if answer.header("x-littoral-node") == "one" { &one } else { &two };
    let mut events = answer.events();
    let mut text = String::new();
    while text.len() < 20 {
        let chunk = events.chunk().await.unwrap();
        text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    home.process.pause(true);
    // Nothing closes the connection: what tells is that nobody answers on it.
    let rest = tokio::time::timeout(3 * SOON, events.transcript()).await.expect("it is noticed");
    assert!(rest.done, "{rest:?}");
    assert_eq!(text + &rest.text(), tale.as_str().unwrap());
    let alone = async || edge.metrics().await.get("littoral_nodes_ready") == 1.0;
    eventually("the node to be left alone", SOON, alone).await;
}

#[tokio::test]
async fn an_edge_before_its_nodes_asks_to_come_back() {
    let port = Port::take();
    let address = port.address();
    let edge = Edge::to(&[address]).start();
    come_back(edge.client().chat(&ask(0, true)).await).await;
    edge.client().without_key().chat(&ask(0, true)).await.error(401).await;
    assert_eq!(edge.client().get("/models").await.ok().await["data"], json!([]));
    let _node = InstantNode::start_at(address, "one", Script::default(), 1);
    eventually("the node", SOON, async || edge.client().chat(&ask(0, false)).await.status == 200).await;
    complete(&edge.client(), &ask(0, true)).await;
    let mut other = ask(0, true);
    other["model"] = json!("nobody");
    edge.client().chat(&other).await.error(400).await;
}

#[tokio::test]
async fn a_node_that_speaks_something_else_is_no_node() {
    let http = InstantNode::start("one", Script::default());
    // An edge's own door is HTTP, and no node.
    let other = Edge::to(&[http.address()]).start();
    let edge = Edge::to(&[other.http]).start();
    come_back(edge.client().chat(&ask(0, true)).await).await;
    assert!(edge.process.is_alive());
}

#[tokio::test]
async fn a_deadline_holds_before_and_within_an_answer() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).with("edge", "deadline_ms = 2000").start();
    let held = |at| Script { gate: Some((at, Gate::default())), ..Script::default() };
    node.follow(held(0));
    for stream in [false, true] {
        let error = edge.client().chat(&ask(0, stream)).await.error(504).await;
        assert_eq!(error["code"], "deadline_exceeded");
    }
    assert!((1..=2000).contains(&node.last_request().deadline_ms), "{}", node.last_request().deadline_ms);
    node.follow(held(3));
    edge.client().chat(&ask(0, false)).await.error(504).await;
    let transcript = edge.client().chat(&ask(0, true)).await.events().transcript().await;
    assert_eq!(transcript.error.as_ref().map(|error| &error["code"]), Some(&json!("deadline_exceeded")));
    assert!(!transcript.done && transcript.broken.is_none(), "{transcript:?}");
    assert_eq!(transcript.text(), "t1 t2 ");
    eventually("the node's release", SOON, async || node.open() == 0).await;
}

#[tokio::test]
async fn a_request_reaches_the_node_as_the_guests_wrote_it() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    let body = json!({
        "model": MODEL, "stream": true, "seed": 42, "max_completion_tokens": 9, "store": true,
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    });
    assert!(edge.client().chat(&body).await.events().transcript().await.done);
    let got = node.last_request();
    assert_eq!((got.model.as_str(), got.tenant.as_str(), got.seed), (MODEL, "acme", Some(42)));
    assert!(got.resume_from.is_empty() && got.session.len() == 32 && got.request_id.len() == 32, "{got:?}");
    let canonical = r#"{"model":"instant","messages":[{"role":"system","content":"a\nb"}],"max_tokens":9,"temperature":1.0,"top_p":1.0,"seed":42,"stream":true}"#;
    assert_eq!(std::str::from_utf8(&got.request).unwrap(), canonical);
}
