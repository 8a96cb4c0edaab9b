//! Requests that ask the same at the same time share one generation. The node counts what it was asked.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures::future::join_all;
use littoral_tests::{
    client::Answer,
    edge::Edge,
    eventually,
    instant_node::{Fault, Gate, InstantNode, MODEL, Script},
};
use serde_json::{Value, json};
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);
const TEXT: &str = "t1 t2 t3 t4 t5 ";

fn ask(prompt: &str, stream: bool) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": stream})
}

fn verdict(answer: &Answer) -> String {
    answer.header("x-littoral-cache").split(';').next().unwrap_or_default().to_string()
}

/// The text, and what the header said.
async fn read(answer: Answer) -> (String, String) {
    let said = verdict(&answer);
    assert_eq!(answer.header("x-littoral-node"), "instant");
    let streams = answer.header("content-type").starts_with("text/event-stream");
    let text = if streams {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done, "{transcript:?}");
        assert_eq!(transcript.usage()["total_tokens"], 12);
        transcript.text()
    } else {
        answer.ok().await["choices"][0]["message"]["content"].as_str().unwrap().into()
    };
    (text, said)
}

fn held(at: u32) -> (InstantNode, Gate) {
    let gate = Gate::default();
    let script = Script { gate: Some((at, gate.clone())), ..Script::default() };
    (InstantNode::start("instant", script), gate)
}

#[tokio::test]
async fn a_hundred_identical_requests_are_one_generation() {
    for at in [0, 3] {
        let (node, gate) = held(at);
        let edge = Edge::to(&[node.address()]).with("edge", "workers = 2").start();
        let client = edge.client();
        let asking = (0..100).map(|i| {
            let client = client.clone();
            tokio::spawn(async move { read(client.chat(&ask("same", i % 2 == 0)).await).await })
        });
        let asking: Vec<_> = asking.collect();
        let all_there = async || edge.metrics().await.get("littoral_cache_coalesced_total") == 99.0;
        eventually("all the others to join", SOON, all_there).await;
        // Who asks something else, or for another tenant, has a generation of its own.
        gate.open();
        let answers: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|(text, _)| text == TEXT));
        assert_eq!(answers.iter().filter(|(_, said)| said == "miss").count(), 1);
        assert_eq!(answers.iter().filter(|(_, said)| said == "coalesced").count(), 99);
        assert_eq!(node.asked(), 1);
        assert_eq!(read(client.chat(&ask("same", true)).await).await, (TEXT.into(), "hit".into()));
        let metrics = edge.metrics().await;
        assert_eq!(metrics.sum("littoral_tokens_total", &[("kind", "completion")]), 5.0, "settled once");
        assert_eq!(metrics.sum("littoral_requests_total", &[("route", "chat"), ("cache", "coalesced")]), 99.0);
    }
}

#[tokio::test]
async fn another_question_tenant_or_wish_is_not_shared() {
    let (node, gate) = held(3);
    let edge = Edge::to(&[node.address()]).start();
    let acme = edge.client();
    let globex = acme.with_key(&edge.keys.globex);
    let fresh = acme.with_header("cache-control", "no-cache");
    let aged = acme.with_header("cache-control", "max-age=0");
    let mut sampled = ask("a", true);
    sampled["temperature"] = json!(0.9);
    let answers = [
        acme.chat(&ask("a", true)).await,
        acme.chat(&ask("b", true)).await,
        globex.chat(&ask("a", true)).await,
        fresh.chat(&ask("a", true)).await,
        aged.chat(&ask("a", true)).await,
        acme.chat(&sampled).await,
        acme.chat(&sampled).await,
    ];
    assert_eq!(answers.each_ref().map(verdict), ["miss", "miss", "miss", "bypass", "miss", "bypass", "bypass"]);
    assert_eq!(node.asked(), 7);
    gate.open();
    for answer in answers {
        assert_eq!(read(answer).await.0, TEXT);
    }
}

#[tokio::test]
async fn the_leader_may_leave_and_the_last_one_ends_it() {
    let (node, gate) = held(3);
    let edge = Edge::to(&[node.address()]).with("edge", "workers = 2").start();
    let client = edge.client();
    let mut leader = client.chat(&ask("same", true)).await.events();
    leader.chunk().await.unwrap();
    let follower = client.chat(&ask("same", true)).await;
    assert_eq!(verdict(&follower), "coalesced");
    drop(leader);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((node.open(), node.counts().cancelled.load(Relaxed)), (1, 0), "one still listens");
    gate.open();
    assert_eq!(read(follower).await.0, TEXT);
    assert_eq!(read(client.chat(&ask("same", false)).await).await, (TEXT.into(), "hit".into()));
    let metrics = edge.metrics().await;
    assert_eq!(metrics.sum("littoral_tokens_total", &[("kind", "completion")]), 5.0);

    let gate = Gate::default();
    node.follow(Script { gate: Some((3, gate)), ..Script::default() });
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut events = client.chat(&ask("another", true)).await.events();
        events.chunk().await.unwrap();
        all.push(events);
    }
    eventually("one generation for all", SOON, async || node.open() == 1).await;
    drop(all);
    eventually("the cancellation", SOON, async || node.counts().cancelled.load(Relaxed) == 1).await;
    node.follow(Script::default());
    assert_eq!(read(client.chat(&ask("another", true)).await).await, (TEXT.into(), "miss".into()));
}

#[tokio::test]
async fn what_fails_fails_for_all_who_waited_and_for_nobody_after() {
    let (node, gate) = held(0);
    let edge = Edge::to(&[node.address()]).with("edge", "workers = 2").start();
    let client = edge.client();
    let fault = Some((0, Fault::Status(Status::resource_exhausted("as told"))));
    node.follow(Script { gate: Some((0, gate.clone())), fault, ..Script::default() });
    let asking: Vec<_> = (0..10)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.chat(&ask("same", i % 2 == 0)).await })
        })
        .collect();
    let all_there = async || edge.metrics().await.get("littoral_cache_coalesced_total") == 9.0;
    eventually("all the others to join", SOON, all_there).await;
    gate.open();
    for answer in join_all(asking).await {
        let answer = answer.unwrap();
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!(answer.error(503).await["code"], "overloaded");
    }
    node.follow(Script::default());
    assert_eq!(read(client.chat(&ask("same", true)).await).await, (TEXT.into(), "miss".into()));
}

#[tokio::test]
async fn a_key_or_a_route_may_have_rules_of_its_own() {
    let node = InstantNode::start("instant", Script::default());
    let setup =
        Edge::to(&[node.address()]).with("cache", "policy = 'off'").with("cache", "routes.chat.policy = 'always'");
    let edge = setup.start();
    let mut sampled = ask("a", false);
    sampled["temperature"] = json!(0.9);
    let said = async |key: &str| read(edge.client().with_key(key).chat(&sampled).await).await.1;
    assert_eq!(said(&edge.keys.acme).await, "miss");
    assert_eq!(said(&edge.keys.acme).await, "hit");
    for _ in 0..2 {
        assert_eq!(said(&edge.keys.uncached).await, "bypass", "this key's rules are its own");
    }
}
