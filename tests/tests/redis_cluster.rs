//! Two edges and a real Redis Cluster between them: what they share lies on its primaries, wherever those put it.

use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use littoral::{
    config,
    vault::{self, StoreError, Table},
};
use littoral_tests::{
    client::Client,
    edge::Edge,
    eventually,
    instant_node::{Gate, InstantNode, Script},
    kept::{self, TEXT, ask, purge, read, said},
    redis_cluster::Cluster,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// Waits for the cluster longer than a stall of a busy machine.
fn edge(node: &InstantNode, cluster: &Cluster) -> Edge {
    kept::edge(node, &cluster.url(), 5000)
}

/// Asks one edge, waits until the cluster has the answer, and asks the other.
async fn is_shared(cluster: &Cluster, prompt: &str, first: &Client, second: &Client) -> bool {
    let before = cluster.keys("littoral:answer:*").len();
    let _ = said(first, prompt).await;
    let began = Instant::now();
    while cluster.keys("littoral:answer:*").len() == before && began.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    said(second, prompt).await == "hit"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_shared_whichever_primary_has_them() {
    let (node, cluster) = (InstantNode::start("one", Script::default()), Cluster::start());
    let (one, two) = (edge(&node, &cluster), edge(&node, &cluster));
    let (first, second) = (one.client(), two.client());
    for i in 0..12 {
        assert!(is_shared(&cluster, &format!("question {i}"), &first, &second).await, "{i}");
    }
    let spread: Vec<_> = cluster.primaries().iter().map(|p| p.keys("littoral:answer:*").len()).collect();
    assert!(spread.iter().filter(|&&keys| keys > 0).count() >= 2, "{spread:?}");
    // A slot that has moved: the old owner says so, and the new one is asked. It must hold that answer alone; what
    // generations leave behind for a while lies wherever chance puts it.
    let is_alone = |key: &String| {
        let server = &cluster.primaries()[cluster.owner(key)];
        let slot = server.command(&[b"CLUSTER", b"KEYSLOT", key.as_bytes()]);
        server.command(&[b"CLUSTER", b"COUNTKEYSINSLOT", slot.trim_start_matches(':').as_bytes()]) == ":1"
    };
    let key = cluster.keys("littoral:answer:*").into_iter().find(is_alone).expect("few slots hold two keys");
    let owner = cluster.owner(&key);
    cluster.move_slot(&key, (owner + 1) % cluster.primaries().len());
    let three = edge(&node, &cluster);
    let asked = node.asked();
    for i in 0..12 {
        let _ = said(&three.client(), &format!("question {i}")).await;
    }
    assert_eq!(node.asked() - asked, 1, "the one that was lost with its slot");
    eventually("it to lie at the new owner", SOON, async || {
        cluster.keys("littoral:answer:*").contains(&key) && cluster.owner(&key) != owner
    })
    .await;
    for edge in [&one, &two, &three] {
        assert_eq!(edge.metrics().await.get("littoral_answers_left_alone"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_edges_share_one_generation_and_hear_of_purges() {
    let (node, cluster) = (InstantNode::start("one", Script::default()), Cluster::start());
    let (one, two) = (edge(&node, &cluster), edge(&node, &cluster));
    let (first, second) = (one.client(), two.client());
    let gate = Gate::default();
    node.follow(Script { gate: Some((3, gate.clone())), ..Script::default() });
    let asking = (0..50).map(|i| {
        let client = if i % 2 == 0 { first.clone() } else { second.clone() };
        tokio::spawn(async move { read(client.chat(&ask("same", i % 3 == 0)).await, i % 3 == 0).await })
    });
    let asking: Vec<_> = asking.collect();
    let there = async || two.metrics().await.get("littoral_cache_coalesced_total") >= 24.0 && node.open() == 1;
    eventually("all of them", SOON, there).await;
    let followed = async || !cluster.keys("littoral:signs:*").is_empty();
    eventually("one edge to follow the other", SOON, followed).await;
    // Longer than a follower waits for news at a time.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    gate.open();
    for answer in join_all(asking).await {
        assert_eq!(answer.unwrap().0, TEXT);
    }
    assert_eq!(node.asked(), 1, "one generation on two hosts");
    assert_eq!(two.metrics().await.get("littoral_answers_left_alone"), 0.0);

    assert_eq!((said(&first, "same").await, said(&second, "same").await), ("hit".into(), "hit".into()));
    let before = kept::purges(&one);
    purge(&cluster.url(), &["--tenant", "acme"]);
    eventually("the purge", SOON, async || kept::purges(&one) > before).await;
    assert_eq!(said(&first, "same").await, "miss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_costs_next_to_nothing_and_its_replica_goes_on() {
    let (node, cluster) = (InstantNode::start("one", Script::default()), Cluster::start());
    // What is gone is hardly waited for.
    let start = || kept::edge(&node, &cluster.url(), 200);
    let (one, two) = (start(), start());
    let (first, second) = (one.client(), two.client());
    let again = async || {
        let prompt = format!("before {:?}", Instant::now());
        is_shared(&cluster, &prompt, &first, &second).await
    };
    eventually("an answer to be shared", 3 * SOON, again).await;
    // The first in the address too: what listened to it listens to another.
    cluster.primaries()[0].kill();
    let mut times = Vec::new();
    for i in 0..30 {
        let began = Instant::now();
        assert_eq!(said(&first, &format!("lost {i}")).await, "miss");
        assert_eq!(said(&first, &format!("lost {i}")).await, "hit", "the edge's own memory goes on");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    // A stall of the machine is not the cluster's.
    assert!(times[15] < Duration::from_secs(2), "{times:?}");
    cluster.wait_for_failover(0);
    let again = async || {
        let now = Instant::now();
        let prompts: Vec<_> = (0..6).map(|i| format!("after {now:?} {i}")).collect();
        for prompt in &prompts {
            let _ = said(&first, prompt).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut shared = 0;
        for prompt in &prompts {
            shared += usize::from(said(&second, prompt).await == "hit");
        }
        shared == prompts.len()
    };
    // The cluster may be left alone for ten seconds when it has failed often.
    eventually("answers to be shared again", 3 * SOON, again).await;
    assert!(one.process.is_alive() && two.process.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_on_a_cluster() {
    let node = InstantNode::start("n", Script { interval: Duration::from_millis(5), ..Script::default() });
    let cluster = Cluster::start();
    let start = || {
        let url = format!("url = '{}'\ntimeout_ms = 5000\nmin_replicas = 0", cluster.url());
        let setup = Edge::to(&[node.address()]).with("price.\"*\"", "completion = 1_000_000");
        setup.with("store", &url).with("cache", "policy = 'off'").start()
    };
    let edges = [start(), start()];
    let client = edges[0].client_with(&["--budget", "50/total", "--requests-per-minute", "1000"]).await;
    let clients = edges.each_ref().map(|edge| client.at(edge.http));
    for client in &clients {
        eventually("the key", SOON, async || client.get("/v1/models").await.status == 200).await;
    }
    let streams = (0..40).map(|i| {
        let client = clients[i % 2].clone();
        async move {
            let mut body = ask("count", true);
            body["max_tokens"] = json!(5);
            let answer = client.chat(&body).await;
            if answer.status == 402 {
                return 0;
            }
            answer.events().transcript().await.usage()["completion_tokens"].as_u64().expect("usage ends every stream")
        }
    });
    let used: Vec<u64> = join_all(streams).await;
    assert_eq!(used.iter().sum::<u64>(), 50, "{used:?}");
    assert_eq!(node.asked(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_replaced_where_another_stands_and_nowhere_else() {
    let cluster = Cluster::start();
    let config =
        config::Store { url: cluster.url(), timeout_ms: 5000, min_replicas: Some(0), ..config::Store::default() };
    let store = vault::open(&config).unwrap();
    for table in [Table::Factors, Table::Once] {
        assert!(!store.swap(table, "a", b"one", b"two".to_vec(), None).await.unwrap(), "nothing stands there");
        store.put(table, "a", b"one".to_vec(), None).await.unwrap();
        let version = store.version().await.unwrap();
        assert!(store.swap(table, "a", b"one", b"two".to_vec(), None).await.unwrap());
        assert!(!store.swap(table, "a", b"one", b"three".to_vec(), None).await.unwrap());
        assert_eq!(store.get(table, "a").await.unwrap().as_deref(), Some(&b"two"[..]));
        let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64 + 300;
        assert!(store.swap(table, "a", b"two", b"brief".to_vec(), Some(until)).await.unwrap());
        let expired = async || store.get(table, "a").await.unwrap().is_none();
        eventually("the end of what is brief", Duration::from_secs(20), expired).await;
        // Edges hear of what they keep in memory.
        assert_eq!(store.version().await.unwrap() != version, table == Table::Factors);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_its_replicas_is_not_said_to_have_a_write() {
    let cluster = Cluster::start();
    cluster.kill_replicas();
    let open = |min_replicas| {
        let config = config::Store { url: cluster.url(), timeout_ms: 5000, min_replicas, ..config::Store::default() };
        vault::open(&config).unwrap()
    };
    let put = async |min_replicas| open(min_replicas).put(Table::Keys, "k", b"{}".to_vec(), None).await;
    let said = put(None).await;
    let wanted = |replicas: &vault::Replicas| (replicas.got, replicas.wanted) == (0, 1);
    assert!(matches!(&said, Err(StoreError::NotReplicated(replicas)) if wanted(replicas)), "{said:?}");
    put(Some(0)).await.unwrap();
}
