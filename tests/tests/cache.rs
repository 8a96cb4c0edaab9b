//! The answer cache: what it keeps, for whom, and what it says of it. The node counts how often it was asked.

use littoral_tests::{
    client::Client,
    edge::Edge,
    instant_node::{Fault, InstantNode, MODEL, Script},
};
use serde_json::{Value, json};

const TEXT: &str = "line\nquote\" back\\slash \u{1} 🐋é日 {} ";

fn parts() -> (InstantNode, Edge) {
    let node = InstantNode::start("instant", Script { text: TEXT.into(), ..Script::default() });
    let edge = Edge::to(&[node.address()]).start();
    (node, edge)
}

fn ask(prompt: &str, more: Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The content, and what the header said.
async fn get(client: &Client, body: &Value) -> (String, String) {
    let answer = client.chat(body).await;
    let said = answer.header("x-littoral-cache").to_string();
    assert_eq!(answer.header("x-littoral-node"), "instant");
    let text = if body["stream"] == true {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done, "{transcript:?}");
        assert_eq!(transcript.usage()["total_tokens"], 12);
        transcript.text()
    } else {
        let document = answer.ok().await;
        assert_eq!(document["usage"]["total_tokens"], 12);
        document["choices"][0]["message"]["content"].as_str().unwrap().to_string()
    };
    let expected: String = (1..=5).map(|n| TEXT.replace("{}", &n.to_string())).collect();
    assert_eq!(text, expected);
    (text, said)
}

/// What the header said, the age as if none had passed.
async fn said(client: &Client, body: &Value) -> String {
    young(&get(client, body).await.1)
}

fn young(header: &str) -> String {
    match header.split_once("age=") {
        None => header.into(),
        Some((before, age)) => {
            assert!(age.parse::<u32>().is_ok_and(|age| age < 60), "{header}");
            format!("{before}age=0")
        }
    }
}

const MISS: &str = "miss; reason=deterministic";
const HIT: &str = "hit; reason=deterministic; age=0";

#[tokio::test]
async fn a_stream_and_a_document_serve_each_other() {
    let (node, edge) = parts();
    let client = edge.client();
    for (prompt, first) in [("stream first", true), ("document first", false)] {
        let before = node.asked();
        let (text, header) = get(&client, &ask(prompt, json!({"stream": first}))).await;
        assert_eq!(header, MISS);
        let (again, header) = get(&client, &ask(prompt, json!({"stream": !first}))).await;
        assert_eq!((again, young(&header).as_str()), (text, HIT));
        assert_eq!(node.asked() - before, 1, "the second answer was not generated");
    }
    let metrics = edge.metrics().await;
    assert_eq!(metrics.get("littoral_cache_hits_total"), 2.0);
    assert_eq!(metrics.get("littoral_cache_misses_total"), 2.0);
    assert_eq!(metrics.sum("littoral_requests_total", &[("route", "chat"), ("cache", "hit")]), 2.0);
    assert_eq!(
        metrics.sum("littoral_tokens_total", &[("kind", "completion")]),
        10.0,
        "replayed tokens are not counted"
    );
}

#[tokio::test]
async fn what_is_kept_and_what_is_asked_for() {
    let (node, edge) = parts();
    let client = edge.client();
    let with = |control: &str| client.with_header("cache-control", control);
    let body = ask("a", json!({}));
    for (client, expected, asked) in [
        (with("no-store"), "bypass; reason=no-store", 1),
        (client.clone(), MISS, 2),
        (with("no-store"), "bypass; reason=no-store", 3),
        (client.clone(), HIT, 3),
        (with("no-cache"), "bypass; reason=no-cache", 4),
        (client.clone(), HIT, 4),
        (with("max-age=0"), MISS, 5),
        (with("max-age=3600, only-if-tired"), HIT, 5),
        (with("max-age=100").with_header("cache-control", "no-store"), "bypass; reason=no-store", 6),
    ] {
        assert_eq!((said(&client, &body).await.as_str(), node.asked()), (expected, asked));
    }
    let sampled = ask("a", json!({"temperature": 0.5}));
    for _ in 0..2 {
        assert_eq!(said(&client, &sampled).await, "bypass; reason=sampled");
    }
    assert_eq!(said(&client, &ask("a", json!({"temperature": 0.5, "seed": 1}))).await, MISS);
    assert_eq!(said(&client, &ask("a", json!({"temperature": 0.5, "seed": 2}))).await, MISS);
    assert_eq!(said(&client, &ask("a", json!({"temperature": 0.5, "seed": 1}))).await, HIT);
}

#[tokio::test]
async fn what_changes_the_answer_changes_the_key_and_nothing_else_does() {
    let (_node, edge) = parts();
    let client = edge.client();
    assert_eq!(said(&client, &ask("a", json!({}))).await, MISS);
    // Written another way, the same request.
    let same = format!(
        r#"{{ "stream_options":null, "temperature":-0.0, "stop":[], "messages":[{{"content":[{{"type":"text","text":"\u0061"}}],"role":"user"}}], "top_p":0.3, "model":"{MODEL}", "unknown":[1] }}"#
    );
    let answer = client.post("/chat/completions", same).await;
    assert_eq!(young(answer.header("x-littoral-cache")), HIT);
    for more in [
        json!({"max_tokens": 100}),
        json!({"stop": "zzz"}),
        json!({"messages": [{"role": "system", "content": "a"}]}),
        json!({"messages": [{"role": "user", "content": "a "}]}),
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": ""}]}),
    ] {
        assert_eq!(said(&client, &ask("a", more.clone())).await, MISS, "{more}");
        assert_eq!(said(&client, &ask("a", more.clone())).await, HIT, "{more}");
    }
}

#[tokio::test]
async fn one_tenant_is_never_answered_with_what_another_asked() {
    let (node, edge) = parts();
    let (acme, globex) = (edge.client(), edge.client().with_key(&edge.keys.globex));
    let body = ask("a", json!({}));
    assert_eq!(said(&acme, &body).await, MISS);
    let acme_session = node.last_request();
    assert_eq!(said(&globex, &body).await, MISS);
    let globex_session = node.last_request();
    assert_eq!((acme_session.tenant.as_str(), globex_session.tenant.as_str()), ("acme", "globex"));
    assert_ne!(acme_session.session, globex_session.session, "the node shares no prefix between tenants");
    assert_eq!((said(&acme, &body).await.as_str(), said(&globex, &body).await.as_str()), (HIT, HIT));
    assert_eq!(node.asked(), 2);
}

#[tokio::test]
async fn an_answer_that_broke_off_is_not_kept() {
    let (node, edge) = parts();
    let client = edge.client();
    let script = Script { text: TEXT.into(), ..Script::default() };
    let broken = |at, fault| Script { fault: Some((at, fault)), ..script.clone() };
    for at in [1, 3, 6] {
        node.follow(broken(at, Fault::End));
        let body = ask(&format!("prompt {at}"), json!({"stream": true}));
        let transcript = client.chat(&body).await.events().transcript().await;
        assert!(!transcript.done && transcript.error.is_some(), "{transcript:?}");
        node.follow(script.clone());
        assert_eq!(said(&client, &body).await, MISS, "broken at event {at}");
        assert_eq!(said(&client, &body).await, HIT);
    }
    // One that had said how it ended is whole: what it took is what was seen of it.
    node.follow(broken(7, Fault::End));
    let body = ask("prompt 7", json!({"stream": true}));
    let transcript = client.chat(&body).await.events().transcript().await;
    assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
    let text: String = (1..=5).map(|i| TEXT.replace("{}", &i.to_string())).collect();
    assert_eq!((transcript.text(), &transcript.usage()["completion_tokens"]), (text, &json!(5)));
    assert_eq!(said(&client, &body).await, HIT);
}

#[tokio::test]
async fn an_answer_whose_client_left_is_not_kept_in_part() {
    let (node, edge) = parts();
    let gate = littoral_tests::instant_node::Gate::default();
    let script = Script { text: TEXT.into(), ..Script::default() };
    node.follow(Script { gate: Some((3, gate)), ..script.clone() });
    let body = ask("a", json!({"stream": true}));
    let mut events = edge.client().chat(&body).await.events();
    events.chunk().await.unwrap();
    drop(events);
    let left = async || node.counts().cancelled.load(std::sync::atomic::Ordering::Relaxed) == 1;
    littoral_tests::eventually("the cancellation", std::time::Duration::from_secs(20), left).await;
    node.follow(script);
    assert_eq!(said(&edge.client(), &body).await, MISS);
}

#[tokio::test]
async fn the_policy_of_the_configuration_is_followed() {
    let node = InstantNode::start("instant", Script { text: TEXT.into(), ..Script::default() });
    let sampled = ask("a", json!({"temperature": 0.5}));
    for (policy, expected) in [
        ("always", ["miss; reason=always", "hit; reason=always; age=0"]),
        ("header", ["bypass; reason=no-header"; 2]),
        ("off", ["bypass; reason=off"; 2]),
    ] {
        let edge = Edge::to(&[node.address()]).with("cache", &format!("policy = '{policy}'")).start();
        for expected in expected {
            assert_eq!(said(&edge.client(), &sampled).await, expected);
        }
        if policy == "header" {
            let client = edge.client().with_header("x-littoral-cache", "use");
            assert_eq!(said(&client, &sampled).await, "miss; reason=header");
            assert_eq!(said(&client, &sampled).await, "hit; reason=header; age=0");
        }
    }
}

#[tokio::test]
async fn a_remembered_decision_is_the_decision() {
    let node = InstantNode::start("instant", Script { text: TEXT.into(), ..Script::default() });
    let edge = Edge::to(&[node.address()]).with("guest", "memo_ms = 60000").start();
    let client = edge.client();
    let decided = async || edge.metrics().await.get("littoral_guest_decide_seconds_count");
    let remembered = async || edge.metrics().await.get("littoral_memo_hits_total");
    let body = ask("a", json!({}));
    assert_eq!(said(&client, &body).await, MISS);
    assert_eq!(said(&client, &body).await, HIT);
    assert_eq!((decided().await, remembered().await), (1.0, 1.0));
    // What the decision goes by is gone by.
    assert_eq!(said(&client.with_header("cache-control", "no-cache"), &body).await, "bypass; reason=no-cache");
    assert_eq!(said(&client.with_key(&edge.keys.globex), &body).await, MISS);
    assert_eq!(said(&client, &ask("b", json!({}))).await, MISS);
    // What is remembered holds no candidates: a sampled answer is generated anew every time.
    let sampled = ask("a", json!({"temperature": 0.5}));
    for _ in 0..3 {
        assert_eq!(said(&client, &sampled).await, "bypass; reason=sampled");
    }
    let before = (decided().await, remembered().await);
    // Refusals are not remembered, and a key that is taken back is refused at once.
    client.with_key(&edge.keys.expired).chat(&body).await.error(401).await;
    std::fs::write(edge.keys_file(), "[]").unwrap();
    let refused = async || client.chat(&body).await.status == 401;
    littoral_tests::eventually("the key's end", std::time::Duration::from_secs(20), refused).await;
    assert!(decided().await > before.0);
}
