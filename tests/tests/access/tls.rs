//! A store behind TLS: with the right authority it serves, with a wrong one nothing begins, and the key to change is named.

use std::path::Path;

use littoral_tests::{
    artefact,
    certificates::Authority,
    client::Client,
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, Script},
    kept,
    process::Process,
    redis_server::Redis,
};
use serde_json::json;

use super::{SOON, ask};

/// An authority, and one that has nothing to do with it.
fn authorities() -> (Authority, Authority) {
    (Authority::new(&artefact::scratch("ca")), Authority::new(&artefact::scratch("other-ca")))
}

fn edge(node: &InstantNode, url: &str, authority: &Path) -> Setup {
    let timeouts = "timeout_ms = 5000\nanswers_timeout_ms = 5000";
    let store = format!("url = '{url}'\nca_file = '{}'\n{timeouts}", authority.display());
    Edge::to(&[node.address()]).with("store", &store)
}

/// Keys and answers of one edge are the other's.
async fn share(one: &Edge, two: &Edge, asked: impl Fn() -> u64) {
    let client = one.client_with(&["--requests-per-minute", "1000"]).await;
    let other = client.at(two.http);
    eventually("the key", SOON, async || other.get("/v1/models").await.status == 200).await;
    assert_eq!(kept::said(&client, "a").await, "miss");
    eventually("the answer", SOON, async || kept::said(&other, "a").await == "hit").await;
    assert!(asked() <= 2, "the other edge asked again and again");
    let listed = one.key(&["list", "--json"]);
    let id = serde_json::from_str::<serde_json::Value>(&listed).unwrap()[0]["id"].as_str().unwrap().to_string();
    one.key(&["revoke", &id]);
    for client in [&client, &other] {
        eventually("the end of the key", SOON, async || client.get("/v1/models").await.status == 401).await;
    }
}

#[tokio::test]
async fn edges_share_a_redis_behind_tls() {
    let (authority, _) = authorities();
    let redis = Redis::with_tls(&authority.sign(&["127.0.0.1"]));
    let node = InstantNode::start("n", Script::default());
    let url = format!("rediss://{}", redis.tls_address());
    let start = || edge(&node, &url, &authority.file()).start();
    share(&start(), &start(), || node.asked()).await;
    assert!(!redis.keys("littoral:answer:*").is_empty());
}

#[tokio::test]
async fn edges_share_a_cluster_behind_tls() {
    let (authority, _) = authorities();
    let redis = Redis::cluster_with_tls(&authority.sign(&["127.0.0.1"]), &authority);
    let node = InstantNode::start("n", Script::default());
    let url = format!("rediss-cluster://{}", redis.tls_address());
    let start = || edge(&node, &url, &authority.file()).with("store", "min_replicas = 0").start();
    share(&start(), &start(), || node.asked()).await;
}

#[tokio::test]
async fn a_store_that_nobody_vouches_for_is_refused() {
    let (authority, other) = authorities();
    let node = InstantNode::start("n", Script::default());
    let here = Redis::with_tls(&authority.sign(&["127.0.0.1"]));
    let elsewhere = Redis::with_tls(&authority.sign(&["redis.example"]));
    let cluster = Redis::cluster_with_tls(&authority.sign(&["127.0.0.2"]), &authority);
    let unread = authority.file().with_file_name("nothing.pem");
    let one = format!("rediss://ada:pw@{}", here.tls_address());
    let cases = [
        (one.clone(), other.file(), "invalid peer certificate"),
        (format!("rediss://{}", elsewhere.tls_address()), authority.file(), "redis.example"),
        (format!("rediss-cluster://{}", cluster.tls_address()), other.file(), "invalid peer certificate"),
        (one.clone(), unread, "nothing.pem"),
        (format!("redis://{}", here.address()), authority.file(), "rediss"),
    ];
    for (url, file, word) in cases {
        let (command, _) = edge(&node, &url, &file).command();
        let ended = Process::refused("edge", command);
        ended.names(&["store.ca_file", word]);
        assert!(!ended.said.contains("pw"), "{}", ended.said);
    }
    // Without a file the system's authorities decide, none of which knows this one; commands say the same.
    let mut command = std::process::Command::new(artefact::binary("littoral"));
    command.args(["key", "list", "--store", &one]);
    littoral_tests::process::run("key", command, SOON).names(&["store.ca_file is not set"]);
}

/// No request fails for the place where answers are shared.
#[tokio::test]
async fn answers_that_cannot_be_shared_safely_are_kept_alone() {
    let (authority, other) = authorities();
    let redis = Redis::with_tls(&authority.sign(&["127.0.0.1"]));
    let node = InstantNode::start("n", Script::default());
    let answers = |file: &Path| {
        let answers = format!("answers = 'rediss://{}'\nca_file = '{}'", redis.tls_address(), file.display());
        Edge::to(&[node.address()]).with("store", &answers).with("store", "answers_timeout_ms = 5000").start()
    };
    let (wrong, right) = (answers(&other.file()), answers(&authority.file()));
    for _ in 0..5 {
        wrong.client().chat(&ask(json!({"temperature": 0}))).await.ok().await;
    }
    eventually("a warning", SOON, async || wrong.process.log().contains("store.ca_file")).await;
    assert!(redis.keys("littoral:answer:*").is_empty());
    let client: Client = right.client();
    client.chat(&ask(json!({"temperature": 0}))).await.ok().await;
    eventually("the answer", SOON, async || !redis.keys("littoral:answer:*").is_empty()).await;
}
