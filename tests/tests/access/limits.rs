//! Rates, slots and budgets, in memory and in Redis.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use littoral_tests::{
    edge::Edge,
    eventually,
    instant_node::{Gate, InstantNode, Script},
    redis_server::Redis,
};
use serde_json::json;

use super::{SOON, ask};

const PRICE: &str = "completion = 1_000_000";

/// Lines for a store in Redis that is waited for longer than a stall of a busy machine.
fn at(redis: &Redis) -> String {
    format!("url = '{}'\ntimeout_ms = 5000", redis.url())
}

/// 100 streams at once against a budget for ten, through these edges.
async fn hundred_against_ten(node: &InstantNode, edges: &[&Edge]) {
    let client = edges[0].client_with(&["--budget", "50/total"]).await;
    let clients: Vec<_> = edges.iter().map(|edge| client.at(edge.http)).collect();
    for client in &clients {
        eventually("the key", SOON, async || client.get("/v1/models").await.status == 200).await;
    }
    let before = node.asked();
    let streams = (0..100).map(|i| {
        let client = clients[i % clients.len()].clone();
        async move {
            let answer = client.chat(&ask(json!({"max_tokens": 5, "stream": true}))).await;
            match answer.status {
                200 => {
                    let transcript = answer.events().transcript().await;
                    transcript.usage()["completion_tokens"].as_u64().expect("usage ends every stream")
                }
                _ => {
                    let error = answer.error(402).await;
                    assert_eq!(error["code"], "insufficient_balance");
                    0
                }
            }
        }
    });
    let used: Vec<u64> = join_all(streams).await;
    assert_eq!(used.iter().sum::<u64>(), 50, "{used:?}");
    assert_eq!(node.asked() - before, 10);
    clients[0].chat(&ask(json!({"max_tokens": 5}))).await.error(402).await;
}

#[tokio::test]
async fn a_hundred_streams_never_overrun_a_budget_for_ten() {
    let node = InstantNode::start("n", Script { interval: Duration::from_millis(5), ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("price.\"*\"", PRICE).with("cache", "policy = 'off'").start();
    hundred_against_ten(&node, &[&edge]).await;
}

/// Every choice is paid for: three of five tokens are fifteen.
#[tokio::test]
async fn many_choices_at_once_never_overrun_a_budget_either() {
    let node = InstantNode::start("n", Script { interval: Duration::from_millis(5), ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("price.\"*\"", PRICE).with("cache", "policy = 'off'").start();
    let client = edge.client_with(&["--budget", "50/total"]).await;
    let answers = (0..20).map(|_| async {
        let answer = client.chat(&ask(json!({"n": 3, "max_tokens": 5}))).await;
        if answer.status == 402 {
            return 0;
        }
        answer.ok().await["usage"]["completion_tokens"].as_u64().expect("usage ends every answer")
    });
    let mut used: Vec<u64> = join_all(answers).await;
    used.sort_by(|a, b| b.cmp(a));
    // Of the five that are left each of three gets one; two are too few for three.
    assert_eq!(used[..5], [15, 15, 15, 3, 0], "{used:?}");
    client.chat(&ask(json!({"n": 3, "max_tokens": 5}))).await.error(402).await;
    let last = client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    assert_eq!(last["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn two_edges_and_a_redis_never_overrun_it_either() {
    let node = InstantNode::start("n", Script { interval: Duration::from_millis(5), ..Script::default() });
    let redis = Redis::start();
    let start = || {
        Edge::to(&[node.address()])
            .with("price.\"*\"", PRICE)
            .with("store", &at(&redis))
            .with("cache", "policy = 'off'")
            .start()
    };
    let (one, two) = (start(), start());
    hundred_against_ten(&node, &[&one, &two]).await;
}

#[tokio::test]
async fn what_was_reserved_and_not_used_comes_back() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::start();
    for store in [None, Some(at(&redis))] {
        let mut setup = Edge::to(&[node.address()]).with("price.\"*\"", PRICE).with("cache", "policy = 'off'");
        if let Some(url) = &store {
            setup = setup.with("store", url);
        }
        let edge = setup.start();
        let client = edge.client_with(&["--budget", "1000/total"]).await;
        // Each reserves up to 990 and uses 5: without a settlement the second would be refused.
        for i in 0..100 {
            let body = ask(json!({"max_tokens": 900 - 5 * i}));
            eventually("room", SOON, async || client.chat(&body).await.status == 200).await;
        }
        // Ten tries at most were one too many while a settlement was under way, so what is left is known exactly.
        let last = client.chat(&ask(json!({"max_tokens": 600}))).await.ok().await;
        assert_eq!(last["usage"]["completion_tokens"], 5);
    }
}

#[tokio::test]
async fn who_leaves_while_the_store_is_asked_holds_nothing() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::start();
    let url = format!("url = '{}'\ntimeout_ms = 10_000", redis.url());
    let edge = Edge::to(&[node.address()])
        .with("price.\"*\"", PRICE)
        .with("store", &url)
        .with("cache", "policy = 'off'")
        .start();
    let client = edge.client_with(&["--budget", "10/total", "--concurrency", "1"]).await;
    client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    redis.pause(true);
    for _ in 0..5 {
        let asked = tokio::spawn({
            let client = client.clone();
            async move { client.chat(&ask(json!({"max_tokens": 5, "stream": true}))).await.status }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
    }
    redis.pause(false);
    // The one slot is free, and the budget pays for exactly one more answer.
    let body = ask(json!({"max_tokens": 5}));
    let answered = async || client.chat(&body).await.status == 200;
    eventually("the slot and the budget", SOON, answered).await;
    client.chat(&body).await.error(402).await;
    assert_eq!(node.asked(), 2);
}

#[tokio::test]
async fn a_rate_is_told_and_kept() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    let client = edge.client_with(&["--requests-per-minute", "60"]).await;
    // The first look at the key took one.
    let answer = client.chat(&ask(json!({}))).await;
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "60");
    let left: u64 = answer.header("x-ratelimit-remaining-requests").parse().unwrap();
    assert!((56..=59).contains(&left), "{left}");
    answer.ok().await;
    let mut refused = None;
    // One a second is there again meanwhile.
    for _ in 0..200 {
        let answer = client.chat(&ask(json!({}))).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("sixty a minute are not two hundred at once");
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(refused.error(429).await["code"], "rate_limit_exceeded");
    assert!(edge.metrics().await.sum("littoral_limited_total", &[("kind", "requests")]) >= 1.0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.chat(&ask(json!({}))).await.ok().await;
}

#[tokio::test]
async fn what_never_fits_is_not_tried_again_and_the_tightest_limit_is_told() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).with("tenant.acme.limits", "requests_per_minute = 6000").start();
    let client = edge.client_with(&["--requests-per-minute", "60", "--tokens-per-minute", "500"]).await;
    let answer = client.get("/v1/models").await;
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "60");
    let long = json!([{"role": "user", "content": "long ".repeat(200)}]);
    let refused = client.chat(&ask(json!({"messages": long, "max_tokens": 5}))).await;
    assert_eq!(refused.header("retry-after"), "");
    let error = refused.error(400).await;
    assert!(
        error["message"].as_str().unwrap().contains("the 500 tokens a minute that this API key may use"),
        "{error}"
    );
}

#[tokio::test]
async fn slots_are_given_back_when_clients_leave() {
    let gate = Gate::default();
    let node = InstantNode::start("n", Script { gate: Some((2, gate.clone())), ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("cache", "policy = 'off'").start();
    let client = edge.client_with(&["--concurrency", "2"]).await;
    let body = ask(json!({"stream": true}));
    let (one, two) = (client.chat(&body).await, client.chat(&body).await);
    assert_eq!((one.status, two.status), (200, 200));
    let refused = client.chat(&body).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.error(429).await;
    drop(one);
    eventually("the slot of who left", SOON, async || node.open() == 1).await;
    let three = client.chat(&body).await;
    assert_eq!(three.status, 200);
    gate.open();
    assert!(two.events().transcript().await.done && three.events().transcript().await.done);
    client.chat(&body).await.events().transcript().await;
}

#[tokio::test]
async fn a_lost_store_leaves_each_edge_its_share() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::lasting();
    let start = |more: &str| {
        let url = format!("{}\n{more}", at(&redis));
        Edge::to(&[node.address()])
            .with("price.\"*\"", PRICE)
            .with("store", &url)
            .with("cache", "policy = 'off'")
            .start()
    };
    let (one, strict) = (start(""), start("on_loss = 'deny'"));
    let heard = redis.monitor();
    let client = one.client_with(&["--budget", "100/total"]).await;
    let strictly = client.at(strict.http);
    let never_used = one.client_with(&["--budget", "100/total"]).await;
    client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    eventually("the key", SOON, async || strictly.get("/v1/models").await.status == 200).await;
    // Both edges have said again that they are there, and heard of each other.
    let (mut there, began) = (HashSet::new(), Instant::now());
    while there.len() < 2 {
        assert!(began.elapsed() < SOON, "only {there:?}");
        let line = heard.recv_timeout(SOON).expect("edges ask the store for its version all the time");
        if line.contains("{littoral}:edges") && line.to_ascii_uppercase().contains("\"ZADD\"") {
            there.extend(line.rsplit('"').nth(1).map(String::from));
        }
    }
    client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    redis.kill();
    // 90 are left, half of them for this edge: nine answers.
    let mut answered = 0;
    let began = Instant::now();
    loop {
        let answer = client.chat(&ask(json!({"max_tokens": 5}))).await;
        match answer.status {
            200 => answered += 1,
            402 => break,
            other => panic!("{other}: {}", answer.text().await),
        }
        assert!(began.elapsed() < 3 * SOON);
    }
    assert_eq!(answered, 9);
    strictly.chat(&ask(json!({"max_tokens": 5}))).await.error(503).await;
    // Of a budget that was never heard of nobody can say that it is used up.
    let unknown = never_used.chat(&ask(json!({"max_tokens": 5}))).await;
    assert_eq!(unknown.header("retry-after"), "1");
    unknown.error(503).await;
    assert_eq!(one.metrics().await.get("littoral_store_lost"), 1.0);
    // Back again, the store is told what was spent meanwhile.
    redis.start_again();
    // Nobody has to ask for it to be seen.
    eventually("the store", SOON, async || one.metrics().await.get("littoral_store_lost") == 0.0).await;
    eventually("the store", SOON, async || client.chat(&ask(json!({"max_tokens": 1}))).await.status == 200).await;
    let left = Arc::new(std::sync::atomic::AtomicU64::new(0));
    eventually("the end of the budget", SOON, async || {
        let answer = client.chat(&ask(json!({"max_tokens": 5}))).await;
        if answer.status == 200 {
            let used = answer.ok().await["usage"]["completion_tokens"].as_u64().unwrap();
            left.fetch_add(used, std::sync::atomic::Ordering::Relaxed);
            return false;
        }
        answer.status == 402
    })
    .await;
    let left = left.load(std::sync::atomic::Ordering::Relaxed);
    assert!(left <= 45, "{left} were spent after 10 and 45, of 100");
    assert_eq!(one.metrics().await.get("littoral_store_lost"), 0.0);
}

#[tokio::test]
async fn a_store_that_stands_still_does_not_hold_up_requests() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::start();
    let url = format!("url = '{}'\ntimeout_ms = 1000", redis.url());
    let edge = Edge::to(&[node.address()]).with("store", &url).start();
    let client = edge.client_with(&["--requests-per-minute", "1000"]).await;
    redis.pause(true);
    let began = Instant::now();
    client.chat(&ask(json!({}))).await.ok().await;
    // It would stand still for ever.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    redis.pause(false);
    eventually("the store", SOON, async || {
        client.chat(&ask(json!({}))).await.status == 200 && edge.metrics().await.get("littoral_store_lost") == 0.0
    })
    .await;
}

/// What Redis admits after the edge has given up on it frees its slot, at once and not at the end of its lease.
#[tokio::test]
async fn a_slot_granted_too_late_is_given_back() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::start();
    let url = format!("url = '{}'\ntimeout_ms = 1000\non_loss = 'deny'", redis.url());
    let edge = Edge::to(&[node.address()]).with("store", &url).with("cache", "policy = 'off'").start();
    let client = edge.client_with(&["--concurrency", "1"]).await;
    eventually("an answer", SOON, async || client.chat(&ask(json!({}))).await.status == 200).await;
    let heard = redis.monitor();
    let mut answered = 0;
    for pause in ["3000", "4500"] {
        // Takes commands, and carries them out when the time is over.
        assert_eq!(redis.command(&[b"CLIENT", b"PAUSE", pause.as_bytes(), b"ALL"]), "+OK");
        let began = Instant::now();
        client.chat(&ask(json!({}))).await.error(503).await;
        assert!(began.elapsed() < Duration::from_millis(pause.parse().unwrap()), "{:?}", began.elapsed());
        // Far less than a lease, which is twenty seconds.
        let free = async || client.chat(&ask(json!({}))).await.status == 200;
        eventually("the slot", Duration::from_secs(10), free).await;
        answered += 1;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (mut taken, mut freed) = (HashSet::new(), HashSet::new());
    let began = Instant::now();
    loop {
        for line in heard.try_iter().filter(|line| line.contains("lua]") && line.contains(":concurrency:")) {
            let lease = line.rsplit('"').nth(1).unwrap().to_string();
            let kind = line.split('"').nth(1).unwrap().to_ascii_uppercase();
            match kind.as_str() {
                "ZADD" => taken.extend([lease]),
                "ZREM" => freed.extend([lease]),
                _ => {}
            }
        }
        if taken.is_subset(&freed) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{taken:?} were taken, {freed:?} freed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(taken.len() > answered, "no slot was granted after the edge had given up: {taken:?}");
}
