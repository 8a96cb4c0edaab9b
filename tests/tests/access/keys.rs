//! Keys in the store: made, listed, rotated, revoked and imported while edges serve.

use std::{
    fs,
    time::{Duration, Instant},
};

use littoral_tests::{
    client::Client,
    edge::Edge,
    eventually,
    instant_node::{InstantNode, MODEL, Script},
    process::Process,
    redis_server::Redis,
};

use super::{SOON, ask};
use serde_json::{Value, json};

async fn a_life(edges: &[&Edge]) {
    let edge = edges[0];
    let key = edge.key(&["create", "--tenant", "acme", "--user", "ada", "--model", "other"]);
    let id = key.split('_').nth(1).unwrap().to_string();
    let at = |edge: &Edge, key: &str| Client::new(edge.http).with_key(key);
    for edge in edges {
        let client = at(edge, &key);
        eventually("the new key", SOON, async || client.get("/v1/models").await.status == 200).await;
        let error = client.chat(&ask(json!({}))).await.error(403).await;
        assert_eq!(error["code"], "model_not_allowed");
    }
    let listed = edge.key(&["list"]);
    assert!(listed.contains(&id) && listed.contains("acme/ada") && listed.contains("models=other"), "{listed}");
    assert!(!listed.contains(key.rsplit('_').next().unwrap()), "{listed}");
    // Rotated with a grace, both secrets are good; rotated without, the last one alone.
    let second = edge.key(&["rotate", &id, "--grace", "1h"]);
    for edge in edges {
        let client = at(edge, &second);
        eventually("the second secret", SOON, async || client.get("/v1/models").await.status == 200).await;
        at(edge, &key).get("/v1/models").await.ok().await;
    }
    let third = edge.key(&["rotate", &id]);
    for edge in edges {
        let client = at(edge, &second);
        eventually("the end of the second", SOON, async || client.get("/v1/models").await.status == 401).await;
        at(edge, &third).get("/v1/models").await.ok().await;
    }
    edge.key(&["revoke", &id]);
    let began = Instant::now();
    for edge in edges {
        let client = at(edge, &third);
        eventually("the end of the key", SOON, async || client.get("/v1/models").await.status == 401).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "revoked after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_key_lives_in_the_file_of_one_machine() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    a_life(&[&edge]).await;
}

#[tokio::test]
async fn a_key_lives_in_redis_for_every_edge() {
    let (node, redis) = (InstantNode::start("n", Script::default()), Redis::start());
    let store = format!("url = '{}'\ntimeout_ms = 5000", redis.url());
    let one = Edge::to(&[node.address()]).with("store", &store).start();
    let two = Edge::to(&[node.address()]).with("store", &store).start();
    a_life(&[&one, &two]).await;
}

#[tokio::test]
async fn keys_of_a_file_move_into_the_store() {
    let node = InstantNode::start("n", Script::default());
    let setup = Edge::to(&[node.address()]);
    let file = setup.dir().join("keys.json");
    let edge = setup.start();
    edge.client().get("/v1/models").await.ok().await;
    assert!(edge.key(&["import", file.to_str().unwrap()]).starts_with("5 of 5"));
    assert!(edge.key(&["import", file.to_str().unwrap()]).starts_with("0 of 5"));
    let keys = async || edge.metrics().await.get("littoral_keys");
    eventually("the store's keys beside the file's", SOON, async || keys().await == 10.0).await;
    fs::write(&file, "[]").unwrap();
    eventually("the store's keys alone", SOON, async || keys().await == 5.0).await;
    edge.client().get("/v1/models").await.ok().await;
    edge.client().with_key(&edge.keys.expired).get("/v1/models").await.error(401).await;
}

/// What was revoked is over, also where the file of an edge holds the key, or an older secret of it.
#[tokio::test]
async fn a_revoked_key_does_not_come_back_from_a_file() {
    let (node, redis) = (InstantNode::start("n", Script::default()), Redis::start());
    let store = format!("url = '{}'\ntimeout_ms = 5000", redis.url());
    let setup = Edge::to(&[node.address()]).with("store", &store);
    let file = setup.dir().join("keys.json");
    let edge = setup.start();
    let id = edge.keys.acme.split('_').nth(1).unwrap();
    edge.client().get("/v1/models").await.ok().await;
    edge.key(&["import", file.to_str().unwrap()]);
    let rotated = edge.client().with_key(&edge.key(&["rotate", id]));
    eventually("the new secret", SOON, async || rotated.get("/v1/models").await.status == 200).await;
    edge.client().get("/v1/models").await.error(401).await;
    edge.key(&["revoke", id]);
    for client in [&rotated, &edge.client()] {
        eventually("the end of the key", SOON, async || client.get("/v1/models").await.status == 401).await;
    }
    let said = edge.key(&["import", file.to_str().unwrap()]);
    assert!(said.starts_with("0 of 5") && said.contains("revoked") && said.contains(id), "{said}");
    // Nor does it come back with an edge that starts now, with the same file.
    let again = Edge::to(&[node.address()]).with("store", &store).with("keys", &format!("file = '{}'", file.display()));
    let again = again.start();
    for client in [&rotated, &edge.client()] {
        client.at(again.http).get("/v1/models").await.error(401).await;
    }
    edge.client().with_key(&edge.keys.globex).at(again.http).get("/v1/models").await.ok().await;
}

#[tokio::test]
async fn a_key_and_a_budget_survive_the_death_of_the_edge() {
    let node = InstantNode::start("n", Script::default());
    let setup = Edge::to(&[node.address()]).with("price.\"*\"", "completion = 1_000_000");
    let dir = setup.dir().to_path_buf();
    let edge = setup.start();
    let client = edge.client_with(&["--budget", "12/total"]).await;
    client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    edge.process.kill();
    let again = Edge::to(&[node.address()])
        .with("price.\"*\"", "completion = 1_000_000")
        .with("store", &format!("url = '{}'", dir.join("littoral.db").display()))
        .start();
    let client = client.at(again.http);
    // Two of twelve are left, so two tokens are all that is generated; then nothing is.
    let last = client.chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    assert_eq!(last["usage"]["completion_tokens"], 2);
    client.chat(&ask(json!({"max_tokens": 5}))).await.error(402).await;
}

/// What a key may do is its record's; a rotation changes its secret alone.
#[tokio::test]
async fn a_rotated_key_keeps_its_limits_and_its_old_secret_ends_with_the_grace() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()])
        .with("admin", "listen = '127.0.0.1:0'")
        .with("price.\"*\"", "completion = 1_000_000")
        .with("cache", "policy = 'off'")
        .start();
    let limits = ["--requests-per-minute", "600", "--tokens-per-minute", "5000", "--concurrency", "3"];
    let more = ["--budget", "12/total", "--model", MODEL, "--network", "127.0.0.0/8", "--expires-in", "1h"];
    let create = [&["create", "--tenant", "acme", "--user", "ada"][..], &limits, &more].concat();
    let first = edge.key(&create);
    let id = first.split('_').nth(1).unwrap().to_string();
    let record = || -> Value {
        let mut record = serde_json::from_str::<Value>(&edge.key(&["list", "--json"])).unwrap()[0].take();
        assert_eq!(record["id"], *id);
        record.as_object_mut().unwrap().retain(|name, _| name != "created_at_ms");
        record
    };
    let before = record();
    assert_eq!(before["limits"]["tokens_per_minute"], 5000);
    let at = |key: &str| Client::new(edge.http).with_key(key);
    let is_known = async |key: &str, status: u16| {
        eventually("the store to be read", SOON, async || at(key).get("/v1/models").await.status == status).await;
    };
    is_known(&first, 200).await;
    // Seven of the budget's twelve go by the first secret.
    at(&first).chat(&ask(json!({"max_tokens": 5}))).await.ok().await;
    at(&first).chat(&ask(json!({"max_tokens": 2}))).await.ok().await;

    // Over HTTP with a grace, over the command line without one.
    let said = edge.process.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).unwrap();
    let admin = Client::new(edge.process.address("admin")).with_key(token);
    let began = Instant::now();
    let rotated = admin.post(&format!("/admin/keys/{id}/rotate"), r#"{"grace_ms": 4000}"#).await.ok().await;
    let second = rotated["key"].as_str().unwrap().to_string();
    is_known(&second, 200).await;
    at(&first).get("/v1/models").await.ok().await;
    is_known(&first, 401).await;
    let grace = began.elapsed();
    assert!((Duration::from_millis(3900)..Duration::from_millis(10_000)).contains(&grace), "{grace:?}");
    let began = Instant::now();
    let third = edge.key(&["rotate", &id]);
    is_known(&second, 401).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(record(), before);

    // The budget goes on where it was: five are left.
    let last = at(&third).chat(&ask(json!({"max_tokens": 9}))).await;
    assert_eq!(last.header("x-ratelimit-limit-requests"), "600");
    assert_eq!(last.ok().await["usage"]["completion_tokens"], 5);
    at(&third).chat(&ask(json!({"max_tokens": 5}))).await.error(402).await;
    let other = json!({"model": "other", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(at(&third).chat(&other).await.error(403).await["code"], "model_not_allowed");
}

#[tokio::test]
async fn a_file_is_for_one_edge() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    let second = || Edge::to(&[node.address()]).with("store", &format!("url = '{}'", edge.store));
    Process::refused("edge", second().command().0).names(&["store.url", &edge.store, "another edge", "Redis"]);
    // Commands go on, and so does the next edge.
    edge.key(&["create", "--tenant", "acme", "--user", "ada"]);
    edge.process.kill();
    second().start();
}

#[test]
fn a_key_goes_to_the_file_that_is_named_whatever_the_environment_says() {
    let dir = littoral_tests::artefact::scratch("keys");
    let (file, store) = (dir.join("keys.json"), dir.join("littoral.db"));
    let create = |more: &[&str]| {
        let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
        command.args(["key", "create", "--tenant", "acme", "--user", "ada", "--keys"]).arg(&file).args(more);
        command.env("LITTORAL_STORE", &store);
        littoral_tests::process::run("key", command, SOON)
    };
    let made = create(&[]);
    assert!(made.status.success() && made.said.starts_with("lk_"), "{}", made.said);
    assert!(file.exists() && !store.exists());
    let both = create(&["--store", "other.db"]);
    assert!(!both.status.success());
    both.names(&["--keys", "--store"]);
}

#[tokio::test]
async fn commands_say_what_they_cannot_do() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    for (arguments, words) in [
        (&["key", "revoke", "000000000000"][..], &["000000000000", "littoral key list"][..]),
        (&["key", "rotate", "000000000000"], &["there is no key"]),
        (&["key", "create", "--tenant", "", "--user", "a"], &["tenant"]),
        (&["key", "create", "--tenant", "a", "--user", "a", "--model", ""], &["models"]),
        (&["key", "create", "--tenant", "a", "--user", "a", "--requests-per-minute", "0"], &["requests_per_minute"]),
        (&["token", "create", "000000000000"], &["token.issuer"]),
        (&["token", "revoke", "--jti", "j"], &["--issuer"]),
    ] {
        let ended = edge.run(arguments);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {}", ended.said);
        ended.names(words);
    }
}
