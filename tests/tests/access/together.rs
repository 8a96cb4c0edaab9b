//! Limits, revocation and audit where generations are shared, continued elsewhere, or decided from memory.

use std::{path::Path, process::Command, time::Duration};

use futures::future::join_all;
use littoral_tests::{
    artefact,
    client::{Answer, Client},
    edge::{Edge, Setup},
    eventually,
    instant_node::{Fault, Gate, InstantNode, Script},
    process,
    redis_server::Redis,
};
use serde_json::{Value, json};

use super::{SOON, ask};

const PRICE: &str = "completion = 1_000_000";

fn priced(nodes: &[&InstantNode]) -> Setup {
    let nodes: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    Edge::to(&nodes).with("price.\"*\"", PRICE)
}

fn audited(setup: Setup) -> (Edge, std::path::PathBuf) {
    let dir = setup.dir().join("audit");
    let line = format!("dir = '{}'", dir.display());
    (setup.with("audit", &line).start(), dir)
}

/// The same question for everybody, answered by five tokens.
fn same(stream: bool) -> Value {
    ask(json!({"temperature": 0, "max_tokens": 5, "stream": stream}))
}

fn lines(dir: &Path) -> Vec<Value> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let text: String = logs.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &Value| line["event_type"] == "request").collect()
}

/// The audit line of a request, once it is there.
async fn line(dir: &Path, id: &str) -> Value {
    let found = || lines(dir).into_iter().find(|line| line["request_id"] == id);
    eventually("the audit line", SOON, async || found().is_some()).await;
    found().unwrap()
}

fn policy(line: &Value, name: &str) -> String {
    let pairs = line["auth"]["policy"].as_array().cloned().unwrap_or_default();
    let found = pairs.iter().find(|pair| pair[0] == name);
    found.and_then(|pair| pair[1].as_str()).unwrap_or_default().into()
}

fn verified(dir: &Path) {
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["audit", "verify"]).arg(dir);
    let ended = process::run("audit", command, SOON);
    assert!(ended.status.success(), "{}", ended.said);
}

fn named(client: &Client, id: &str) -> Client {
    client.with_header("x-request-id", id)
}

fn verdict(answer: &Answer) -> String {
    answer.header("x-littoral-cache").split(';').next().unwrap_or_default().into()
}

#[tokio::test]
async fn who_joins_or_hits_pays_a_request_and_no_tokens() {
    let gate = Gate::default();
    let node = InstantNode::start("n", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let (edge, dir) = audited(priced(&[&node]));
    // Enough for one answer; and nothing at all.
    let leader = edge.client_with(&["--budget", "5/total", "--requests-per-minute", "100"]).await;
    let poor = edge.client_with(&["--budget", "0/total", "--requests-per-minute", "100"]).await;
    poor.chat(&same(false)).await.error(402).await;
    let mut first = named(&leader, "leads").chat(&same(true)).await.events();
    first.chunk().await.unwrap();
    let joined = (0..30).map(|i| {
        let client = named(if i % 2 == 0 { &poor } else { &leader }, &format!("joins-{i}"));
        tokio::spawn(async move {
            let answer = client.chat(&same(i % 3 == 0)).await;
            assert_eq!((answer.status, verdict(&answer)), (200, "coalesced".to_string()));
            assert_eq!(answer.header("x-ratelimit-limit-requests"), "100");
            if i % 3 == 0 { assert!(answer.events().transcript().await.done) } else { drop(answer.ok().await) }
        })
    });
    let joined: Vec<_> = joined.collect();
    let there = async || edge.metrics().await.get("littoral_cache_coalesced_total") == 30.0;
    eventually("all of them", SOON, there).await;
    gate.open();
    assert!(first.transcript().await.done);
    for one in join_all(joined).await {
        one.unwrap();
    }
    assert_eq!(node.asked(), 1);
    let hit = named(&poor, "hits").chat(&same(false)).await;
    assert_eq!(verdict(&hit), "hit");
    hit.ok().await;
    // The leader's budget is spent to the last unit, and by itself alone.
    let other = ask(json!({"temperature": 0, "max_tokens": 5, "messages": [{"role": "user", "content": "more"}]}));
    leader.chat(&other).await.error(402).await;
    for (id, said) in [("leads", "miss"), ("joins-0", "coalesced"), ("joins-1", "coalesced"), ("hits", "hit")] {
        let line = line(&dir, id).await;
        assert_eq!((policy(&line, "cache"), &line["tokens"]["completion"]), (said.into(), &json!(5)), "{line}");
    }
    verified(&dir);
}

#[tokio::test]
async fn a_leader_that_leaves_is_charged_and_recorded_when_its_generation_ends() {
    let gate = Gate::default();
    let node = InstantNode::start("n", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let (edge, dir) = audited(priced(&[&node]));
    let leader = edge.client_with(&["--budget", "8/total"]).await;
    let poor = edge.client_with(&["--budget", "0/total"]).await;
    let mut first = named(&leader, "left").chat(&same(true)).await.events();
    first.chunk().await.unwrap();
    let mut follower = poor.chat(&same(true)).await.events();
    follower.chunk().await.unwrap();
    drop(first);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(lines(&dir).iter().all(|line| line["request_id"] != "left"), "its generation goes on");
    gate.open();
    assert!(follower.transcript().await.done);
    let line = line(&dir, "left").await;
    assert_eq!((&line["outcome"]["result"], &line["tokens"]["completion"]), (&json!("left"), &json!(5)), "{line}");
    // Three of eight are left.
    let more = |n: u32| {
        ask(json!({"temperature": 0, "max_tokens": n, "seed": n, "messages": [{"role": "user", "content": "more"}]}))
    };
    node.follow(Script { tokens: 3, ..Script::default() });
    leader.chat(&more(5)).await.ok().await;
    let sent: Value = serde_json::from_slice(&node.last_request().request).unwrap();
    assert_eq!(sent["max_tokens"], 3, "lowered to what is left");
    leader.chat(&more(4)).await.error(402).await;
    verified(&dir);
}

#[tokio::test]
async fn who_may_not_pay_leaves_the_generation_to_who_may() {
    let node = InstantNode::start("n", Script { interval: Duration::from_millis(5), ..Script::default() });
    let redis = Redis::start();
    for store in [None, Some(format!("url = '{}'\ntimeout_ms = 5000", redis.url()))] {
        let mut setup = priced(&[&node]);
        if let Some(url) = &store {
            setup = setup.with("store", url);
        }
        let edge = setup.start();
        let poor = edge.client_with(&["--budget", "0/total"]).await;
        let rich = edge.client_with(&["--budget", "1000/total"]).await;
        for round in 0..10 {
            let body = ask(
                json!({"temperature": 0, "max_tokens": 5, "messages": [{"role": "user", "content": format!("{round} {store:?}")}]}),
            );
            let asked = node.asked();
            let all = (0..20).map(|i| {
                let (client, body) = (if i % 2 == 0 { poor.clone() } else { rich.clone() }, body.clone());
                tokio::spawn(async move { (i % 2 == 1, client.chat(&body).await.status) })
            });
            for done in join_all(all.collect::<Vec<_>>()).await {
                let (rich, status) = done.unwrap();
                assert!(if rich { status == 200 } else { [200, 402].contains(&status) }, "{rich} {status}");
            }
            assert_eq!(node.asked() - asked, 1);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_to_a_budget_is_nobody_elses() {
    let node = InstantNode::start("n", Script { tokens: 2, ..Script::default() });
    let edge = priced(&[&node]).start();
    let poor = edge.client_with(&["--budget", "2/total"]).await;
    let rich = edge.client_with(&["--budget", "1000/total"]).await;
    poor.chat(&same(false)).await.ok().await;
    node.follow(Script::default());
    let answer = rich.chat(&same(false)).await;
    assert_eq!(verdict(&answer), "miss");
    assert_eq!(answer.ok().await["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn a_failover_is_paid_for_once() {
    let one = InstantNode::start("one", Script { fault: Some((4, Fault::End)), ..Script::default() });
    let two = InstantNode::start("two", Script::default());
    let edge = priced(&[&one, &two]).start();
    let client = edge.client_with(&["--budget", "60/total", "--concurrency", "1"]).await;
    for i in 0..12 {
        let question = json!([{"role": "user", "content": format!("question {i}")}]);
        let body = ask(json!({"max_tokens": 5, "stream": i % 2 == 0, "messages": question}));
        let answer = client.chat(&body).await;
        let usage = match i % 2 {
            0 => {
                let transcript = answer.events().transcript().await;
                assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
                transcript.usage().clone()
            }
            _ => answer.ok().await["usage"].clone(),
        };
        assert_eq!(usage["completion_tokens"], 5);
    }
    assert!(edge.metrics().await.sum("littoral_failovers_total", &[("outcome", "resumed")]) >= 1.0);
    client.chat(&ask(json!({"max_tokens": 1}))).await.error(402).await;
}

#[tokio::test]
async fn a_remembered_decision_is_charged_recorded_and_revoked() {
    let node = InstantNode::start("n", Script::default());
    let (edge, dir) = audited(priced(&[&node]).with("guest", "memo_ms = 60000"));
    let key = edge.key(&[
        "create",
        "--tenant",
        "acme",
        "--user",
        "ada",
        "--requests-per-minute",
        "30",
        "--budget",
        "5/total",
    ]);
    let client = Client::new(edge.http).with_key(&key);
    let known = async || client.get("/v1/models").await.status != 401;
    eventually("the new key", SOON, known).await;
    let mut statuses = Vec::new();
    for i in 0..40 {
        let answer = named(&client, &format!("again-{i}")).chat(&same(false)).await;
        statuses.push((answer.status, verdict(&answer)));
    }
    assert_eq!(statuses[0], (200, "miss".into()));
    assert_eq!(statuses[1], (200, "hit".into()));
    assert!(statuses.iter().any(|(status, _)| *status == 429), "{statuses:?}");
    assert!(edge.metrics().await.get("littoral_memo_hits_total") >= 38.0);
    let found = lines(&dir);
    for i in 0..40 {
        let mine = found.iter().filter(|line| line["request_id"] == format!("again-{i}")).count();
        assert_eq!(mine, 1, "again-{i}");
    }
    verified(&dir);
    // Limits of tokens hold for it too: without the cache the budget is gone.
    let fresh = client.with_header("cache-control", "no-store");
    for _ in 0..2 {
        eventually("a refusal", SOON, async || fresh.chat(&same(false)).await.status == 402).await;
    }
    edge.key(&["revoke", key.split('_').nth(1).unwrap()]);
    eventually("the end of the key", SOON, async || client.chat(&same(false)).await.status == 401).await;
}

#[tokio::test]
async fn a_follower_at_another_edge_pays_no_tokens() {
    let gate = Gate::default();
    let node = InstantNode::start("n", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let redis = Redis::start();
    let start = || {
        let section = format!("url = '{}'\ntimeout_ms = 5000\nanswers_timeout_ms = 5000", redis.url());
        priced(&[&node]).with("store", &section).start()
    };
    let (one, two) = (start(), start());
    let client = one.client_with(&["--budget", "10/total"]).await;
    let there = client.at(two.http);
    eventually("the key", SOON, async || there.get("/v1/models").await.status == 200).await;
    let mut leader = client.chat(&same(true)).await.events();
    leader.chunk().await.unwrap();
    let mut follower = there.chat(&same(true)).await.events();
    follower.chunk().await.unwrap();
    gate.open();
    assert!(leader.transcript().await.done);
    let transcript = follower.transcript().await;
    assert_eq!(transcript.usage()["completion_tokens"], 5);
    assert_eq!(node.asked(), 1);
    // Five of ten are left: one more answer, and no third.
    let body = |n: u32| ask(json!({"max_tokens": 5, "messages": [{"role": "user", "content": format!("more {n}")}]}));
    eventually("what the follower gave back", SOON, async || there.chat(&body(1)).await.status == 200).await;
    client.chat(&body(2)).await.error(402).await;
}
