//! Two edges and a real Redis between them: answers, purges and generations are shared, and nothing fails when it dies.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures::future::join_all;
use littoral_tests::{
    client::Client,
    edge::Edge,
    eventually,
    instant_node::{Fault, Gate, InstantNode, MODEL, Script},
    kept::{self, TEXT, ask, purge, read, said},
    openai_server::{Conduct, OpenAiServer},
    redis_server::Redis,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

/// Waits for Redis longer than a stall of a busy machine.
fn edge(node: &InstantNode, url: &str) -> Edge {
    kept::edge(node, url, 5000)
}

/// Waits for it hardly at all.
fn impatient(node: &InstantNode, url: &str) -> Edge {
    kept::edge(node, url, 100)
}

/// An edge with the keys of another: the same key's answers are the same answers.
fn twin(node: &InstantNode, url: &str, edge: fn(&InstantNode, &str) -> Edge) -> (Edge, Edge, Client, Client) {
    let (one, two) = (edge(node, url), edge(node, url));
    let clients = (one.client(), two.client());
    (one, two, clients.0, clients.1)
}

#[tokio::test]
async fn an_answer_of_one_edge_is_an_answer_of_the_other() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (_one, two, first, second) = twin(&node, &redis.url(), edge);
    assert_eq!(said(&first, "a").await, "miss");
    let kept = async || !redis.keys("littoral:answer:*").is_empty();
    eventually("the answer to be kept", SOON, kept).await;
    for stream in [true, false] {
        let answer = second.chat(&ask("a", stream)).await;
        assert_eq!(answer.header("x-littoral-node"), "one");
        assert_eq!(read(answer, stream).await, (TEXT.into(), "hit".into()));
    }
    assert_eq!(node.asked(), 1);
    assert_eq!(two.metrics().await.get("littoral_answers_hits_total"), 1.0, "then it is in the edge's own memory");
    assert_eq!(said(&second.with_key(&two.keys.globex), "a").await, "miss", "another tenant's is another's");
    let both = async || redis.keys("littoral:answer:*").len() == 2;
    eventually("that one to be kept too", SOON, both).await;
    // What is no answer is dropped and counted.
    let key = redis.keys("littoral:answer:*").remove(0);
    for garbage in [&b"garbage"[..], b"LTA1\xff\xff", b""] {
        redis.command(&[b"SET", key.as_bytes(), garbage]);
    }
    let three = edge(&node, &redis.url());
    let asked = node.asked();
    redis.command(&[b"SET", key.as_bytes(), b"garbage"]);
    for tenant in [&three.keys.acme, &three.keys.globex] {
        let _ = read(three.client().with_key(tenant).chat(&ask("a", false)).await, false).await;
    }
    assert_eq!(node.asked() - asked, 1, "the other tenant's entry was whole");
    assert_eq!(three.metrics().await.get("littoral_answers_undecodable_total"), 1.0);
}

#[tokio::test]
async fn a_purge_reaches_every_edge_within_a_second() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (one, two, first, second) = twin(&node, &redis.url(), edge);
    let carried_out = || [&one, &two].map(kept::purges);
    let tagged = |client: &Client, tag: &str| client.with_header("x-littoral-cache-tags", tag);
    for (which, goes) in [
        (&["--tag", "faq/en"][..], [true, false]),
        (&["--tag-prefix", "faq/"], [true, true]),
        (&["--tenant", "acme"], [true, true]),
        (&["--model", MODEL], [true, true]),
        (&["--tenant", "globex", "--tag", "faq/en"], [false, false]),
        (&["--all"], [true, true]),
    ] {
        for client in [&first, &second] {
            for (prompt, tag) in [("en", "faq/en"), ("de", "faq/de")] {
                let _ = said(&tagged(client, tag), prompt).await;
                assert_eq!(said(&tagged(client, tag), prompt).await, "hit");
            }
        }
        let before = carried_out();
        purge(&redis.url(), which);
        heard(before, carried_out).await;
        for client in [&first, &second] {
            for (prompt, tag, goes) in [("en", "faq/en", goes[0]), ("de", "faq/de", goes[1])] {
                let verdict = said(&tagged(client, tag), prompt).await;
                // The first edge's new answer may be the second one's hit; the node tells them apart.
                if goes && std::ptr::eq(client, &first) {
                    assert_eq!(verdict, "miss", "{which:?}, {prompt}");
                } else if !goes {
                    assert_eq!(verdict, "hit", "{which:?}, {prompt}");
                }
            }
        }
    }
    // One that is being written when the purge comes is given to who asked and kept for nobody.
    let gate = Gate::default();
    node.follow(Script { gate: Some((3, gate.clone())), ..Script::default() });
    let asked = node.asked();
    let asking = tokio::spawn({
        let first = first.clone();
        async move { said(&first, "in the making").await }
    });
    eventually("the generation", SOON, async || node.asked() > asked).await;
    let before = carried_out();
    purge(&redis.url(), &["--all"]);
    heard(before, carried_out).await;
    gate.open();
    assert_eq!(asking.await.unwrap(), "miss");
    assert_eq!(said(&second, "in the making").await, "miss");
}

#[tokio::test]
async fn no_purge_is_lost_when_the_store_loses_its_memory() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (one, two, first, second) = twin(&node, &redis.url(), edge);
    let carried_out = || [&one, &two].map(kept::purges);
    for before in [1, 3] {
        for n in 0..before {
            let known = carried_out();
            purge(&redis.url(), &["--tag", &format!("x{n}")]);
            heard(known, carried_out).await;
        }
        let (early, late) = (format!("early {before}"), format!("late {before}"));
        let prompts = [format!("{early} one"), format!("{early} two")];
        let both = [(&first, &prompts[0]), (&second, &prompts[1])];
        for (client, prompt) in both {
            assert_eq!(said(client, prompt).await, "miss");
        }
        redis.kill();
        redis.start_again();
        // What is kept now may be by one that has not heard of it.
        let filled = AtomicU64::new(0);
        let kept = async || {
            let _ = said(&first, &format!("{late} {}", filled.fetch_add(1, Relaxed))).await;
            !redis.keys("littoral:answer:*").is_empty()
        };
        eventually("an answer to be kept", SOON, kept).await;
        for (client, prompt) in both {
            assert_eq!(said(client, prompt).await, "hit");
        }
        let known = carried_out();
        purge(&redis.url(), &["--all"]);
        heard(known, carried_out).await;
        for (client, prompt) in both {
            assert_eq!(said(client, prompt).await, "miss", "{before} purges before");
        }
        for n in 0..filled.load(Relaxed) {
            assert_eq!(said(&first, &format!("{late} {n}")).await, "miss", "{before} purges before");
        }
        redis.command(&[b"FLUSHALL"]);
    }
}

/// Both edges have carried out one purge more than `before`.
async fn heard(before: [usize; 2], carried_out: impl Fn() -> [usize; 2]) {
    let heard = async || carried_out().iter().zip(before).all(|(now, before)| *now > before);
    eventually("the purge", Duration::from_secs(5), heard).await;
}

#[tokio::test]
async fn two_edges_share_one_generation() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (one, two, first, second) = twin(&node, &redis.url(), edge);
    let gate = Gate::default();
    node.follow(Script { gate: Some((3, gate.clone())), ..Script::default() });
    let asking = (0..100).map(|i| {
        let client = if i % 2 == 0 { first.clone() } else { second.clone() };
        tokio::spawn(async move { read(client.chat(&ask("same", i % 3 == 0)).await, i % 3 == 0).await })
    });
    let asking: Vec<_> = asking.collect();
    let there = async || two.metrics().await.get("littoral_cache_coalesced_total") >= 49.0 && node.open() == 1;
    eventually("all of them", SOON, there).await;
    let followed = async || !redis.keys("littoral:signs:*").is_empty();
    eventually("one edge to follow the other", SOON, followed).await;
    gate.open();
    let mut verdicts = Vec::new();
    for answer in join_all(asking).await {
        let (text, verdict) = answer.unwrap();
        assert_eq!(text, TEXT);
        verdicts.push(verdict);
    }
    assert_eq!(node.asked(), 1, "one generation on two hosts");
    assert_eq!(verdicts.iter().filter(|verdict| *verdict == "miss").count(), 1, "{verdicts:?}");
    let missed = async |edge: &Edge| edge.metrics().await.get("littoral_cache_misses_total");
    assert_eq!(missed(&one).await + missed(&two).await, 1.0);
}

#[tokio::test]
async fn a_follower_hears_the_first_tokens_before_the_last_are_made_and_keeps_the_generation_alive() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (_one, _two, first, second) = twin(&node, &redis.url(), edge);
    let gate = Gate::default();
    node.follow(Script { gate: Some((4, gate.clone())), ..Script::default() });
    let mut leader = first.chat(&ask("same", true)).await.events();
    leader.chunk().await.unwrap();
    let mut follower = second.chat(&ask("same", true)).await.events();
    let heard = tokio::time::timeout(SOON, follower.chunk()).await.expect("the first token is heard");
    assert_eq!(heard.unwrap()["choices"][0]["delta"]["content"], "t1 ");
    drop(leader);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((node.open(), node.asked()), (1, 1), "one still listens elsewhere");
    gate.open();
    let transcript = follower.transcript().await;
    assert!(transcript.done && transcript.text().ends_with("t4 t5 "), "{transcript:?}");

    let gate = Gate::default();
    node.follow(Script { gate: Some((4, gate)), ..Script::default() });
    let mut leader = first.chat(&ask("other", true)).await.events();
    leader.chunk().await.unwrap();
    let mut follower = second.chat(&ask("other", true)).await.events();
    follower.chunk().await.unwrap();
    drop((leader, follower));
    let ended = async || node.counts().cancelled.load(Relaxed) == 1;
    eventually("the last who left to end it", SOON, ended).await;
}

#[tokio::test]
async fn an_edge_that_dies_hands_its_generation_on() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (one, _two, first, second) = twin(&node, &redis.url(), edge);
    let gate = Gate::default();
    node.follow(Script { gate: Some((4, gate)), ..Script::default() });
    let mut leader = first.chat(&ask("same", true)).await.events();
    leader.chunk().await.unwrap();
    let mut follower = second.chat(&ask("same", true)).await.events();
    for expected in ["t1 ", "t2 ", "t3 "] {
        assert_eq!(follower.chunk().await.unwrap()["choices"][0]["delta"]["content"], expected);
    }
    node.follow(Script::default());
    one.process.kill();
    let transcript = tokio::time::timeout(SOON, follower.transcript()).await.expect("the lease passes on");
    assert!(transcript.done, "{transcript:?}");
    assert_eq!(transcript.text(), "t4 t5 ");
    assert_eq!(transcript.usage()["completion_tokens"], 5);
    assert_eq!(node.asked(), 2);
    assert_eq!(node.last_request().resume_from[0].token_ids, [1, 2, 3]);
}

#[tokio::test]
async fn an_edge_that_dies_hands_on_what_a_node_of_another_kind_had_gone_on_with() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let failing = Conduct::Answers(500, "application/json", "{}".into());
    let server = OpenAiServer::start(failing);
    let edge = || {
        let section = format!("resume = 'prefix'\nmodels = ['{MODEL}']");
        let setup = Edge::to(&[node.address()]).upstream("up", &server.url(), &section);
        kept::sharing(setup, &redis.url(), 5000).start()
    };
    let (one, two) = (edge(), edge());
    for edge in [&one, &two] {
        eventually("both", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
    }
    let gate = Gate::default();
    node.follow(Script { gate: Some((2, gate.clone())), fault: Some((2, Fault::End)), ..Script::default() });
    let mut leader = one.client().chat(&ask("same", true)).await.events();
    leader.chunk().await.unwrap();
    let mut follower = two.client().chat(&ask("same", true)).await.events();
    // The node says one token, and the server the next two and no more.
    let say = |word: &str| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": word}}]}));
    server.follow(Conduct::Stays((say("t2 ") + &say("t3 ")).into()));
    gate.open();
    for expected in ["t1 ", "t2 ", "t3 "] {
        assert_eq!(follower.chunk().await.unwrap()["choices"][0]["delta"]["content"], expected);
    }
    assert_eq!(server.last_request()["messages"][1]["content"], "t1 ");
    server.follow(Conduct::Tokens(5, Duration::ZERO));
    node.follow(Script { fault: Some((0, Fault::End)), ..Script::default() });
    one.process.kill();
    let transcript = tokio::time::timeout(SOON, follower.transcript()).await.expect("the lease passes on");
    assert!(transcript.done, "{transcript:?}");
    assert_eq!(transcript.text(), "t4 t5 ");
    assert_eq!(
        (&transcript.usage()["prompt_tokens"], &transcript.usage()["completion_tokens"]),
        (&json!(7), &json!(5))
    );
    assert_eq!(server.last_request()["messages"][1]["content"], "t1 t2 t3 ");
}

#[tokio::test]
async fn what_nobody_can_go_on_with_is_not_shared_and_the_death_of_the_store_breaks_nothing() {
    let (server, redis) = (OpenAiServer::start(Conduct::Tokens(20, Duration::from_millis(50))), Redis::start());
    let edge = || {
        let setup = Edge::to(&[]).upstream("up", &server.url(), &format!("models = ['{MODEL}']"));
        kept::sharing(setup, &redis.url(), 100).start()
    };
    let (one, two) = (edge(), edge());
    for edge in [&one, &two] {
        eventually("the node", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 1.0).await;
    }
    let mut streams = Vec::new();
    for edge in [&one, &two] {
        let mut events = edge.client().chat(&ask("same", true)).await.events();
        events.chunk().await.unwrap();
        streams.push(events);
    }
    redis.kill();
    for events in streams {
        let transcript = events.transcript().await;
        assert!(transcript.done && transcript.text().ends_with("t19 t20 "), "{transcript:?}");
    }
    assert_eq!(server.asked(), 2, "each edge has its own");
}

#[tokio::test]
async fn a_store_that_is_late_for_a_moment_ends_no_shared_generation() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let edge = |node: &InstantNode, url: &str| {
        kept::sharing(Edge::to(&[node.address()]), url, 100).with("store", "breaker_ms = 100").start()
    };
    let (one, two) = (edge(&node, &redis.url()), edge(&node, &redis.url()));
    let mut shared = false;
    // A stall of the machine may outlast the lease: then the other edge goes on, and the answer is whole all the same.
    for round in 0..8 {
        let (prompt, gate) = (format!("round {round}"), Gate::default());
        node.follow(Script { gate: Some((4, gate.clone())), ..Script::default() });
        let asked = node.asked();
        let mut leader = one.client().chat(&ask(&prompt, true)).await.events();
        leader.chunk().await.unwrap();
        let answer = two.client().chat(&ask(&prompt, true)).await;
        let follows = answer.header("x-littoral-cache").starts_with("coalesced");
        let mut follower = answer.events();
        for expected in ["t1 ", "t2 ", "t3 "] {
            assert_eq!(follower.chunk().await.unwrap()["choices"][0]["delta"]["content"], expected);
        }
        redis.pause(true);
        let failed = two.metrics().await.get("littoral_answers_errors_total");
        let late = async || two.metrics().await.get("littoral_answers_errors_total") > failed;
        eventually("the store to be missed", SOON, late).await;
        redis.pause(false);
        gate.open();
        for events in [leader, follower] {
            let transcript = events.transcript().await;
            assert!(transcript.done && transcript.text().ends_with("t4 t5 "), "{transcript:?}");
        }
        shared = follows && node.asked() - asked == 1;
        if shared {
            break;
        }
        node.follow(Script::default());
    }
    assert!(shared, "one generation for both");
}

#[tokio::test]
async fn a_store_that_is_dead_frozen_or_mad_costs_next_to_nothing() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let (one, two, first, second) = twin(&node, &redis.url(), impatient);
    assert_eq!(said(&first, "warm").await, "miss");
    redis.pause(true);
    let mut times = Vec::new();
    for i in 0..20 {
        let began = Instant::now();
        assert_eq!(said(&first, &format!("frozen {i}")).await, "miss");
        assert_eq!(said(&first, &format!("frozen {i}")).await, "hit", "the edge's own memory goes on");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    // A stall of the machine is not the store's.
    assert!(times[10] < Duration::from_millis(1000), "{times:?}");
    assert_eq!(one.metrics().await.get("littoral_answers_left_alone"), 1.0);
    redis.pause(false);
    redis.kill();
    for i in 0..20 {
        assert_eq!(said(&second, &format!("dead {i}")).await, "miss");
        assert_eq!(said(&second, &format!("dead {i}")).await, "hit");
    }
    redis.start_again();
    let back = async || {
        let _ = said(&second, &format!("back {}", rand_word())).await;
        two.metrics().await.get("littoral_answers_left_alone") == 0.0
    };
    // It may be left alone for ten seconds when it has failed often.
    eventually("the store's return", 3 * SOON, back).await;
    // A purge is heard by an edge that was cut off.
    assert_eq!(said(&second, "dead 1").await, "hit");
    purge(&redis.url(), &["--all"]);
    eventually("the purge", SOON, async || said(&second, "dead 1").await == "miss").await;
    redis.command(&[b"CONFIG", b"SET", b"min-replicas-to-write", b"3"]);
    for i in 0..10 {
        assert_eq!(said(&first, &format!("read only {i}")).await, "miss");
    }
    let complaints = || one.process.log().matches("the store takes no answers").count();
    let told = async || {
        let _ = said(&first, &format!("told {}", rand_word())).await;
        complaints() > 0
    };
    eventually("the complaint", 3 * SOON, told).await;
    assert_eq!(complaints(), 1, "it is said once");
}

#[tokio::test]
async fn a_purge_knows_a_models_other_names_and_refuses_what_names_nothing() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let setup = Edge::to(&[node.address()]).with("fleet", &format!("aliases = {{ other = '{MODEL}' }}"));
    let edge = kept::sharing(setup, &redis.url(), 5000).start();
    assert_eq!(said(&edge.client(), "a").await, "miss");
    for nothing in ["--model", "--tenant", "--tag", "--tag-prefix"] {
        let ended = edge.run(&["cache", "purge", nothing, ""]);
        assert!(!ended.status.success() && ended.said.contains(nothing), "{}", ended.said);
    }
    assert_eq!(said(&edge.client(), "a").await, "hit");
    let ended = edge.run(&["cache", "purge", "--model", "other"]);
    assert!(ended.status.success(), "{}", ended.said);
    eventually("the purge", SOON, async || kept::purges(&edge) == 1).await;
    assert_eq!(said(&edge.client(), "a").await, "miss");
}

fn rand_word() -> String {
    format!("{:?}", Instant::now())
}

#[tokio::test]
async fn what_speaks_something_else_is_no_store() {
    for says in [
        "-READONLY You can't write against a read only replica.\r\n",
        "-MOVED 1 127.0.0.1:1\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "$1000000000\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer) {
                        if stream.write_all(says.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let node = InstantNode::start("one", Script::default());
        let edge = impatient(&node, &format!("redis://{address}"));
        for i in 0..10 {
            let began = Instant::now();
            assert_eq!(said(&edge.client(), &format!("{i}")).await, "miss", "{says:?}");
            assert_eq!(said(&edge.client(), &format!("{i}")).await, "hit", "{says:?}");
            assert!(began.elapsed() < SOON, "{says:?}");
        }
        assert!(edge.process.is_alive());
    }
}
