//! Policies and filters in a serving edge: hostile ones are cut off, foreign ones stand in, and no token escapes a filter.

use std::time::Duration;

use futures::future::join_all;
use littoral_tests::{
    client::Client,
    edge::{Edge, Setup},
    eventually,
    instant_node::{Gate, InstantNode, MODEL, Script},
};
use serde_json::{Value, json};

fn ask(stream: bool) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "stream": stream})
}

fn redacting(node: &InstantNode) -> Setup {
    Edge::to(&[node.address()]).with("guest", "filters = { redact = 'redact' }")
}

async fn text(client: &Client, stream: bool) -> (String, String) {
    let answer = client.chat(&ask(stream)).await;
    let cache = answer.header("x-littoral-cache").split(';').next().unwrap_or_default().to_string();
    let text = match stream {
        true => {
            let transcript = answer.events().transcript().await;
            assert!(transcript.done, "{transcript:?}");
            transcript.text()
        }
        false => answer.ok().await["choices"][0]["message"]["content"].as_str().unwrap().into(),
    };
    (text, cache)
}

#[tokio::test]
async fn a_hostile_policy_is_cut_off_while_others_are_answered() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).with("guest", "policy = 'hostile'").with("edge", "workers = 2").start();
    let client = edge.client();
    let told = async |what: &str| client.with_header("x-hostile", what).chat(&ask(false)).await;
    told("nothing").await.error(418).await;
    for (what, status, code) in [
        ("trap", 500, "internal_error"),
        ("spin", 504, "deadline_exceeded"),
        ("hoard", 500, "internal_error"),
        ("undecided", 500, "internal_error"),
    ] {
        let error = told(what).await.error(status).await;
        assert_eq!(error["code"], code, "{what}: {error}");
        assert!(!error.to_string().contains("wasm"), "{what}: what happened inside is for the log: {error}");
        told("nothing").await.error(418).await;
    }
    // All at once, over and over: who behaves is answered.
    let rounds = (0..40).map(|i| {
        let what = ["trap", "spin", "nothing", "hoard", "nothing", "undecided"][i % 6];
        async move { (what, told(what).await.status) }
    });
    for (what, status) in join_all(rounds).await {
        let expected = match what {
            "nothing" => 418,
            "spin" => 504,
            _ => 500,
        };
        assert_eq!(status, expected, "{what}");
    }
    let metrics = edge.metrics().await;
    assert!(metrics.get("littoral_guest_traps_total") >= 20.0);
    assert!(metrics.get("littoral_guest_instances") <= 2.0);
    assert!(edge.process.resident() < 400 << 20, "{} MiB", edge.process.resident() >> 20);
}

#[tokio::test]
async fn a_policy_made_of_layers_serves_and_a_foreign_layer_has_its_say() {
    let node = InstantNode::start("one", Script::default());
    for policy in ["edge", "layers", "curfew-layers"] {
        let edge = Edge::to(&[node.address()]).with("guest", &format!("policy = '{policy}'")).start();
        let client = edge.client();
        assert_eq!(text(&client, true).await, ("t1 t2 t3 t4 t5 ".into(), "miss".into()), "{policy}");
        assert_eq!(text(&client, false).await, ("t1 t2 t3 t4 t5 ".into(), "hit".into()), "{policy}");
        client.without_key().chat(&ask(true)).await.error(401).await;
        let large = json!({"model": MODEL, "messages": [{"role": "user", "content": "x".repeat(200_000)}]});
        client.chat(&large).await.ok().await;
        let late = client.with_header("x-curfew", "1").chat(&ask(true)).await;
        if policy == "curfew-layers" {
            assert_eq!(late.error(403).await["code"], "curfew");
        } else {
            assert_eq!(late.status, 200);
        }
    }
}

#[tokio::test]
async fn a_fresh_instance_a_request_when_asked_for() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).with("guest", "isolation = 'fresh'").start();
    for _ in 0..5 {
        text(&edge.client(), true).await;
    }
    assert_eq!(edge.metrics().await.get("littoral_guest_instances"), 0.0);
}

#[tokio::test]
async fn what_a_filter_hides_is_hidden_on_every_way() {
    let node = InstantNode::start("one", Script { text: "{}a ".into(), tokens: 12, ..Script::default() });
    let edge = redacting(&node).start();
    let (plain, redacted) = (edge.client(), edge.client().with_key(&edge.keys.redacted));
    let clear: String = (1..=12).map(|n| format!("{n}a ")).collect();
    let hidden: String = clear.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    let cold = redacted.with_header("cache-control", "no-store");
    for stream in [false, true] {
        assert_eq!(text(&cold, stream).await, (hidden.clone(), "bypass".into()), "generated, stream: {stream}");
    }
    // What is kept is what the node sent: one tenant's keys share it, and each sees it through its own filters.
    assert_eq!(text(&redacted, true).await, (hidden.clone(), "miss".into()));
    for stream in [false, true] {
        assert_eq!(text(&plain, stream).await, (clear.clone(), "hit".into()));
        assert_eq!(text(&redacted, stream).await, (hidden.clone(), "hit".into()));
    }
    assert_eq!(node.asked(), 3);
    let done = async || edge.metrics().await.get("littoral_filter_instances") == 0.0;
    eventually("the filters' end", Duration::from_secs(20), done).await;
}

#[tokio::test]
async fn a_filter_that_is_not_there_lets_nothing_through() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    let redacted = edge.client().with_key(&edge.keys.redacted);
    for stream in [false, true] {
        let error = redacted.chat(&ask(stream)).await.error(500).await;
        assert!(error["message"].as_str().unwrap().contains("filter"), "{error}");
    }
    assert_eq!(text(&edge.client(), true).await.0, "t1 t2 t3 t4 t5 ");
    eventually("the node's release", Duration::from_secs(20), async || node.open() == 0).await;
}

#[tokio::test]
async fn filters_are_capped_and_given_back() {
    let gate = Gate::default();
    let node = InstantNode::start("one", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let edge = redacting(&node).with("guest", "filter_instances = 3").start();
    let redacted = edge.client().with_key(&edge.keys.redacted).with_header("cache-control", "no-store");
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut events = redacted.chat(&ask(true)).await.events();
        events.chunk().await.unwrap();
        streams.push(events);
    }
    let busy = redacted.chat(&ask(true)).await;
    assert_eq!(busy.header("retry-after"), "1");
    busy.error(503).await;
    assert_eq!(edge.metrics().await.get("littoral_filter_instances"), 3.0);
    // One leaves: its filter ends with it, and its generation.
    streams.pop();
    eventually("the node's release", Duration::from_secs(20), async || node.open() == 2).await;
    let room = async || edge.metrics().await.get("littoral_filter_instances") == 2.0;
    eventually("the filter's end", Duration::from_secs(20), room).await;
    gate.open();
    for events in streams {
        let transcript = events.transcript().await;
        assert!(transcript.done && !transcript.text().contains(|c: char| c.is_ascii_digit()), "{transcript:?}");
    }
    assert_eq!(text(&redacted, true).await.0, "t# t# t# t# t# ");
}

#[tokio::test]
async fn a_filter_that_hangs_ends_its_own_stream_with_an_error() {
    let node = InstantNode::start("one", Script::default());
    // The file of keys names the filter `redact`; here it is one that never comes back.
    let edge = Edge::to(&[node.address()]).with("guest", "filters = { redact = 'stuck' }").start();
    let (plain, stuck) = (edge.client(), edge.client().with_key(&edge.keys.redacted));
    let others = async {
        for _ in 0..10 {
            assert_eq!(text(&plain, true).await.0, "t1 t2 t3 t4 t5 ");
        }
    };
    let cut = async {
        let answer =
            tokio::time::timeout(Duration::from_secs(20), stuck.chat(&ask(true))).await.expect("it is cut off");
        if answer.status == 200 {
            let transcript = answer.events().transcript().await;
            assert!(!transcript.done && transcript.error.is_some(), "{transcript:?}");
        } else {
            answer.error(500).await;
        }
    };
    tokio::join!(others, cut);
}
