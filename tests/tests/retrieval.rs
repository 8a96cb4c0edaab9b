//! `POST /retrieval`: Dify's External Knowledge API, answered from a configured upstream through the cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use littoral_tests::{
    client::{Answer, Client},
    edge::Edge,
    instant_node::{InstantNode, Script},
    kept,
    redis_server::Redis,
};
use serde_json::{Value, json};

/// A knowledge base that knows one thing about everything, and counts who asks.
struct Upstream {
    url: String,
    asked: Arc<AtomicU64>,
}

impl Upstream {
    async fn start(pause: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/retrieval", listener.local_addr().unwrap());
        let asked: Arc<AtomicU64> = Arc::default();
        let counted = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Relaxed);
                    async move {
                        tokio::time::sleep(pause).await;
                        let body = request.into_body().collect().await?.to_bytes();
                        let asked: Value = serde_json::from_slice(&body).unwrap();
                        let (status, document) = match asked["knowledge_id"].as_str().unwrap() {
                            "missing" => {
                                (404, json!({"error_code": 2001, "error_msg": "The knowledge does not exist"}))
                            }
                            "broken" => (200, json!({"hello": "world"})),
                            "html" => (200, json!("<html>")),
                            "large" => (200, json!({"records": [], "more": "x".repeat(2 << 20)})),
                            _ => {
                                let record = json!({"content": asked["query"], "score": 0.98, "title": "t", "metadata": {"path": "p"}});
                                (200, json!({ "records": [record] }))
                            }
                        };
                        let response = Response::new(Full::new(Bytes::from(document.to_string())));
                        let (mut head, body) = response.into_parts();
                        head.status = http::StatusCode::from_u16(status).unwrap();
                        Ok::<_, hyper::Error>(Response::from_parts(head, body))
                    }
                });
                tokio::spawn(
                    async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await },
                );
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

fn ask(knowledge: &str, query: &str) -> Value {
    json!({"knowledge_id": knowledge, "query": query, "retrieval_setting": {"top_k": 3, "score_threshold": 0.5}})
}

async fn post(client: &Client, body: &Value) -> Answer {
    client.post("/retrieval", body.to_string()).await
}

async fn said(client: &Client, body: &Value) -> String {
    let answer = post(client, body).await;
    let said = answer.header("x-littoral-cache").split(';').next().unwrap_or_default().to_string();
    let document = answer.ok().await;
    assert_eq!(document["records"][0]["content"], body["query"], "{document}");
    assert_eq!(document["records"][0]["metadata"]["path"], "p");
    said
}

#[tokio::test]
async fn knowledge_is_looked_up_once() {
    let (node, upstream) = (InstantNode::start("one", Script::default()), Upstream::start(Duration::ZERO).await);
    let edge = Edge::to(&[node.address()]).with("retrieval", &format!("url = '{}'", upstream.url)).start();
    let client = edge.client();
    assert_eq!(said(&client, &ask("k", "tides")).await, "miss");
    assert_eq!(said(&client, &ask("k", "tides")).await, "hit");
    assert_eq!(said(&client, &ask("k", "waves")).await, "miss");
    assert_eq!(said(&client, &ask("other", "tides")).await, "miss");
    assert_eq!(said(&client.with_key(&edge.keys.globex), &ask("k", "tides")).await, "miss");
    assert_eq!(said(&client.with_header("cache-control", "no-store"), &ask("k", "tides")).await, "bypass");
    assert_eq!(upstream.asked(), 5);
    let metrics = edge.metrics().await;
    assert_eq!(metrics.sum("littoral_requests_total", &[("route", "retrieval"), ("cache", "hit")]), 1.0);
}

/// Number and message of an error, whose form is Dify's.
async fn refused(answer: Answer, status: u16) -> (i64, String) {
    let got = answer.status;
    let document = answer.json().await;
    assert_eq!((got, document.as_object().unwrap().len()), (status, 2), "{document}");
    (document["error_code"].as_i64().unwrap(), document["error_msg"].as_str().unwrap().into())
}

#[tokio::test]
async fn errors_are_difys_and_say_whose_fault_they_are() {
    let (node, upstream) = (InstantNode::start("one", Script::default()), Upstream::start(Duration::ZERO).await);
    let edge = Edge::to(&[node.address()]).with("retrieval", &format!("url = '{}'", upstream.url)).start();
    let client = edge.client();
    for (client, number) in [
        (client.without_key(), 1001),
        (client.without_key().with_header("authorization", "Basic YTpi"), 1001),
        (client.with_key(&littoral_tests::edge::wrong(&edge.keys.acme)), 1002),
    ] {
        assert_eq!(refused(post(&client, &ask("k", "tides")).await, 401).await.0, number);
    }
    let missing = post(&client, &ask("missing", "tides")).await;
    assert!(missing.header("x-littoral-cache").starts_with("miss"), "a failure has the host's headers too");
    assert_eq!(refused(missing, 400).await, (2001, "The knowledge does not exist".into()));
    for (knowledge, what) in [("broken", "has no records"), ("html", "has no records"), ("large", "is too large")] {
        let (number, message) = refused(post(&client, &ask(knowledge, "tides")).await, 502).await;
        assert!(number == 502 && message.contains("knowledge service") && message.contains(what), "{message}");
    }
    let (number, message) = refused(post(&client, &json!({"query": "q"})).await, 400).await;
    assert!(number == 400 && message.contains("knowledge_id"), "{message}");
}

#[tokio::test]
async fn the_same_question_at_the_same_time_is_one() {
    let node = InstantNode::start("one", Script::default());
    let upstream = Upstream::start(Duration::from_millis(300)).await;
    let edge = Edge::to(&[node.address()]).with("retrieval", &format!("url = '{}'", upstream.url)).start();
    let client = edge.client();
    let body = ask("k", "tides");
    let all = futures::future::join_all((0..50).map(|_| said(&client, &body))).await;
    assert_eq!(all.iter().filter(|said| *said == "miss").count(), 1);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn the_same_question_at_two_edges_is_one() {
    let (node, redis) = (InstantNode::start("one", Script::default()), Redis::start());
    let upstream = Upstream::start(Duration::from_millis(300)).await;
    let edge = || {
        let setup = Edge::to(&[node.address()]).with("retrieval", &format!("url = '{}'", upstream.url));
        kept::sharing(setup, &redis.url(), 5000).start()
    };
    let (one, two) = (edge(), edge());
    let clients = [one.client(), two.client(), one.client(), two.client()];
    let body = ask("k", "tides");
    let all = futures::future::join_all(clients.iter().map(|client| said(client, &body))).await;
    assert_eq!(all.iter().filter(|said| *said == "miss").count(), 1, "{all:?}");
    assert_eq!(upstream.asked(), 1);
    // So is what goes wrong, and both say the same of it.
    let missing = ask("missing", "tides");
    let tell = async |client: &Client| {
        let answer = post(client, &missing).await;
        let again = answer.header("retry-after").to_string();
        (refused(answer, 400).await, again)
    };
    let told = futures::future::join_all(clients.iter().map(tell)).await;
    let expected = ((2001, "The knowledge does not exist".to_string()), String::new());
    assert!(told.iter().all(|told| *told == expected), "{told:?}");
}

#[tokio::test]
async fn a_hot_look_up_is_quick() {
    let (node, upstream) = (InstantNode::start("one", Script::default()), Upstream::start(Duration::ZERO).await);
    let edge = Edge::to(&[node.address()]).with("retrieval", &format!("url = '{}'", upstream.url)).start();
    let client = edge.client();
    assert_eq!(said(&client, &ask("k", "tides")).await, "miss");
    let mut connection = client.connect().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let body = littoral_tests::client::full(ask("k", "tides").to_string());
        let began = Instant::now();
        let answer = connection.send(client.request("POST", "/retrieval", body)).await.unwrap();
        answer.ok().await;
        times.push(began.elapsed());
    }
    times.sort();
    println!("hot look-up: p50 {:?}, p99 {:?}", times[1000], times[1980]);
    assert!(times[1000] < Duration::from_millis(20), "{:?}", times[1000]);
}

#[tokio::test]
async fn without_an_upstream_there_is_no_such_endpoint() {
    let node = InstantNode::start("one", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    assert_eq!(refused(post(&edge.client(), &ask("k", "tides")).await, 404).await.0, 404);
}
