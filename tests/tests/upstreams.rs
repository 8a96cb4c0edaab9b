//! Servers of OpenAI's API as nodes: what they are asked, what is made of their answers, and what they may not do.

#[path = "upstreams/kinds.rs"]
mod kinds;
#[path = "upstreams/rest.rs"]
mod rest;
#[path = "upstreams/silence.rs"]
mod silence;
#[path = "upstreams/tls.rs"]
mod tls;

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use littoral_tests::{
    artefact,
    client::{Answer, Client},
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, MODEL, Script},
    openai_server::{Conduct, OpenAiServer},
    port::Port,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const FIVE: Conduct = Conduct::Tokens(5, Duration::ZERO);
const TEXT: &str = "t1 t2 t3 t4 t5 ";

fn ask(model: &str, stream: bool) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, "max_tokens": 50})
}

fn alone(server: &OpenAiServer, more: &str) -> Setup {
    Edge::to(&[]).upstream("up", &server.url(), more).with("fleet", "breaker_failures = 100000")
}

async fn start(setup: Setup) -> Edge {
    let edge = setup.start();
    let health = Client::new(edge.http);
    eventually("the upstream to be seen", SOON, async || health.get("/healthz").await.status == 200).await;
    edge
}

async fn whole(answer: Answer, stream: bool) {
    let (text, usage) = if stream {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
        (transcript.text(), transcript.usage().clone())
    } else {
        let document = answer.ok().await;
        (document["choices"][0]["message"]["content"].as_str().unwrap().to_string(), document["usage"].clone())
    };
    assert_eq!(text, TEXT);
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(7), &json!(5)), "{usage}");
}

#[tokio::test]
async fn an_upstream_is_a_node_like_any_other() {
    let server = OpenAiServer::start(FIVE);
    let key = artefact::scratch("upstream").join("key");
    std::fs::write(&key, "sk-secret\n").unwrap();
    let setup = alone(&server, &format!("models = ['chat=org/Chat-7B', 'other']\napi_key_file = '{}'", key.display()));
    let edge = start(setup.with("fleet", "aliases = { deepseek-chat = 'chat' }")).await;
    let client = edge.client();
    for (model, theirs) in [("chat", "org/Chat-7B"), ("deepseek-chat", "org/Chat-7B"), ("other", "other")] {
        for stream in [true, false] {
            let answer = client.chat(&ask(model, stream)).await;
            assert_eq!(answer.header("x-littoral-node"), "up");
            whole(answer, stream).await;
            let asked = server.last_request();
            assert_eq!(
                (&asked["model"], &asked["stream"], &asked["max_tokens"]),
                (&json!(theirs), &json!(true), &json!(50))
            );
            assert_eq!(server.last_key(), "Bearer sk-secret");
        }
    }
    let listed = client.get("/v1/models").await.ok().await;
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "other", "deepseek-chat"]);
    client.chat(&ask("nobody", false)).await.error(400).await;
    assert!(!edge.process.log().contains("sk-secret"), "the key is nobody's business");
    // An alias and its model are one in the cache too.
    let said = async |model: &str| {
        let mut body = ask(model, false);
        body["temperature"] = json!(0);
        client.chat(&body).await.header("x-littoral-cache").to_string()
    };
    assert!(said("chat").await.starts_with("miss"));
    assert!(said("deepseek-chat").await.starts_with("hit"));
}

#[tokio::test]
async fn models_are_those_it_lists() {
    let server = OpenAiServer::start(FIVE);
    let edge = start(alone(&server, "")).await;
    whole(edge.client().chat(&ask("upstream", true)).await, true).await;
}

#[tokio::test]
async fn connections_are_kept_and_streams_are_bounded() {
    let server = OpenAiServer::start(Conduct::Tokens(5, Duration::from_millis(20)));
    let edge = start(alone(&server, "max_streams = 2").with("edge", "workers = 1")).await;
    let before = server.connections();
    let client = edge.client();
    let asking = (0..8).map(|_| async { whole(client.chat(&ask("upstream", true)).await, true).await });
    join_all(asking).await;
    for _ in 0..8 {
        whole(client.chat(&ask("upstream", false)).await, false).await;
    }
    // The two that were open at once, the watcher's, and some that a race of the pool opened in vain.
    assert!(server.connections() - before <= 6, "{} connections for 16 requests", server.connections() - before);
    let metrics = edge.metrics().await;
    assert_eq!(metrics.get("littoral_pool_wait_seconds_count"), 16.0);
    assert!(metrics.get("littoral_pool_wait_seconds_sum") > 0.2, "eight streams in pairs wait for each other");
}

#[tokio::test]
async fn a_broken_answer_is_continued_by_text_where_the_server_can() {
    for (resume, field) in [("prefix", "prefix"), ("message", "continue_final_message")] {
        let (one, two) = (OpenAiServer::start(FIVE), OpenAiServer::start(FIVE));
        let more = format!("resume = '{resume}'");
        let setup = Edge::to(&[]).upstream("one", &one.url(), &more).upstream("two", &two.url(), &more);
        let edge =
            start(setup.with("fleet", "breaker_failures = 100000").with("fleet", "policy = 'round-robin'")).await;
        let both = async || edge.metrics().await.get("littoral_nodes_ready") == 2.0;
        eventually("both", SOON, both).await;
        for after in 0..5 {
            one.follow(Conduct::ClosesAfter(5, after));
            for stream in [true, false] {
                for _ in 0..2 {
                    whole(edge.client().chat(&ask("upstream", stream)).await, stream).await;
                }
            }
            let last = two.last_request();
            let messages = last["messages"].as_array().unwrap();
            let asked_to_go_on = messages.len() == 2 && (last[field] == true || messages[1][field] == true);
            assert!(asked_to_go_on || messages.len() == 1, "{last}");
        }
        assert!(edge.metrics().await.sum("littoral_failovers_total", &[("outcome", "resumed")]) >= 4.0);
    }
}

#[tokio::test]
async fn a_configured_model_is_waited_for_though_its_node_was_down_from_the_start() {
    let (other, port) = (OpenAiServer::start(FIVE), Port::take());
    let setup = |more: &str| {
        let url = format!("http://{}/v1", port.address());
        let setup = Edge::to(&[]).upstream("late", &url, "models = ['chat=upstream']");
        setup.upstream("other", &other.url(), "models = ['other']").with("fleet", more)
    };
    let edge = start(setup("max_queue = 100")).await;
    let answer = edge.client().chat(&ask("chat", false)).await;
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.error(503).await["code"], "service_unavailable");
    edge.client().chat(&ask("nobody", false)).await.error(400).await;
    whole(edge.client().chat(&ask("other", false)).await, false).await;
    let waiting = start(setup("wait_ms = 60000")).await;
    let asking = tokio::spawn({
        let client = waiting.client();
        async move { whole(client.chat(&ask("chat", true)).await, true).await }
    });
    let late = OpenAiServer::start_at(FIVE, port.address());
    asking.await.unwrap();
    assert_eq!(late.asked(), 1);
}

#[tokio::test]
async fn an_answer_is_kept_whichever_of_the_servers_made_it() {
    let (one, two) = (OpenAiServer::start(FIVE), OpenAiServer::start(FIVE));
    let setup = Edge::to(&[]).upstream("one", &one.url(), "").upstream("two", &two.url(), "");
    let edge = start(setup).await;
    let ready = async |nodes| edge.metrics().await.get("littoral_nodes_ready") == nodes;
    eventually("both", SOON, async || ready(2.0).await).await;
    let mut body = ask("upstream", false);
    body["temperature"] = json!(0);
    let client = edge.client();
    let said = async || client.chat(&body).await.header("x-littoral-cache").to_string();
    assert!(said().await.starts_with("miss"));
    drop(one);
    eventually("the loss of one", 2 * SOON, async || ready(1.0).await).await;
    assert!(said().await.starts_with("hit"));
}

#[tokio::test]
async fn an_answer_that_cannot_be_continued_ends_in_an_error_event() {
    let server = OpenAiServer::start(Conduct::ClosesAfter(5, 3));
    let node = InstantNode::start("spare", Script::default());
    let edge = start(Edge::to(&[node.address()]).upstream("up", &server.url(), "")).await;
    let seen = async || edge.client().chat(&ask("upstream", true)).await.status == 200;
    eventually("the upstream", SOON, seen).await;
    let transcript = edge.client().chat(&ask("upstream", true)).await.events().transcript().await;
    assert!(!transcript.done && transcript.broken.is_none(), "{transcript:?}");
    assert_eq!(transcript.error.as_ref().unwrap()["code"], "service_unavailable");
    assert_eq!(transcript.text(), "t1 t2 t3 ");
    // One of ours beside it serves another model, and is not asked to go on with this one.
    assert_eq!(node.asked(), 0);
    assert!(edge.client().chat(&ask(MODEL, true)).await.events().transcript().await.done);
}

#[tokio::test]
async fn what_is_no_answer_is_contained() {
    let server = OpenAiServer::start(FIVE);
    let edge = start(alone(&server, "models = ['upstream']").with("edge", "deadline_ms = 5000")).await;
    let client = edge.client();
    let html = Bytes::from_static(b"<html><body>It works!</body></html>");
    let says = |text: &'static str| Conduct::Says(Bytes::from_static(text.as_bytes()));
    let refused = |status, message: &str| {
        Conduct::Answers(status, "application/json", json!({"error": {"message": message}}).to_string().into())
    };
    for (conduct, status, code) in [
        (Conduct::Answers(200, "text/html", html.clone()), 502, "internal_error"),
        (Conduct::Answers(200, "application/json", html.clone()), 502, "internal_error"),
        (Conduct::Answers(404, "text/html", html), 400, "model_not_found"),
        (refused(400, "too many tokens"), 400, "invalid_request_error"),
        (refused(401, "wrong key sk-secret"), 503, "service_unavailable"),
        (refused(429, "slow down"), 503, "overloaded"),
        (refused(500, "oops"), 503, "service_unavailable"),
    ] {
        server.follow(conduct.clone());
        for stream in [true, false] {
            let error = client.chat(&ask("upstream", stream)).await.error(status).await;
            assert_eq!(error["code"], code, "{conduct:?}: {error}");
            assert!(!error.to_string().contains("sk-secret"), "{error}");
        }
    }
    for conduct in [
        says(""),
        says("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half"),
        says("data: [DONE]\n\n"),
        says("data: nonsense\n\n"),
        says("data: {\"error\":{\"message\":\"CUDA error\"}}\n\n"),
        Conduct::Repeats(Bytes::from_static(&[b'x'; 8 << 10])),
        Conduct::Repeats(Bytes::from_static(b": still here\n\n")),
    ] {
        server.follow(conduct.clone());
        let transcript = client.chat(&ask("upstream", true)).await.events().transcript().await;
        assert!(!transcript.done && transcript.broken.is_none() && transcript.error.is_some(), "{conduct:?}");
    }
    for (conduct, code) in [
        (says("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half"), "service_unavailable"),
        (says("data: {\"choices\":[{\"index\":7,\"delta\":{\"content\":\"one too many\"}}]}\n\n"), "internal_error"),
    ] {
        server.follow(conduct.clone());
        let transcript = client.chat(&ask("upstream", true)).await.events().transcript().await;
        assert_eq!(transcript.error.unwrap()["code"], code, "{conduct:?}");
    }
    // Twice the end is one end.
    let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"t1 t2 t3 t4 t5 "},"finish_reason":"stop"}]}"#;
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
    let twice = format!("{chunk}\n\n{usage}\n\ndata: [DONE]\n\ndata: [DONE]\n\ndata: {{\"choices\":[]}}\n\n");
    server.follow(Conduct::Says(twice.into()));
    whole(client.chat(&ask("upstream", true)).await, true).await;
    // A server that does not stream.
    let document = json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5}});
    server.follow(Conduct::Answers(200, "application/json", document.to_string().into()));
    whole(client.chat(&ask("upstream", true)).await, true).await;
    server.follow(FIVE);
    whole(client.chat(&ask("upstream", false)).await, false).await;
    assert!(edge.process.is_alive());
}
