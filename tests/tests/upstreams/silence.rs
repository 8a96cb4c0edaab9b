//! Servers that take requests and fall silent: another is asked, they are left alone, and nobody waits for the deadline.

use bytes::Bytes;
use littoral_tests::{
    edge::{Edge, Setup},
    eventually,
    openai_server::{Conduct, OpenAiServer},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{FIVE, SOON, TEXT, alone, ask, start, whole};

/// An edge before a server that says nothing and one that answers, and these lines of its configuration.
async fn pair(silent: &OpenAiServer, good: &OpenAiServer, more: impl FnOnce(Setup) -> Setup) -> Edge {
    let setup = Edge::to(&[]).upstream("silent", &silent.url(), "").upstream("good", &good.url(), "");
    let edge = start(more(setup)).await;
    eventually("both", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
    edge
}

/// `user` chooses the node.
fn of(user: usize, stream: bool) -> Value {
    let mut body = ask("upstream", stream);
    body["user_id"] = format!("user {user}").into();
    body
}

/// The stream of a whole answer without its end, and without its usage if so.
fn unended(usage: bool) -> Bytes {
    let mut text: String = TEXT
        .split_inclusive(' ')
        .map(|word| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": word}}]})))
        .collect();
    text.push_str("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    if usage {
        text.push_str("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n");
    }
    text.into()
}

#[tokio::test]
async fn who_says_nothing_until_the_deadline_is_blamed_and_named() {
    let (silent, good) = (OpenAiServer::start(Conduct::Silent), OpenAiServer::start(FIVE));
    let edge = pair(&silent, &good, |setup| {
        setup
            .with("edge", "deadline_ms = 3000")
            .with("fleet", "breaker_failures = 2\nbreaker_ms = 600000\nbreaker_max_ms = 600000")
    })
    .await;
    let mut failures = 0;
    for user in 0..12 {
        let answer = edge.client().chat(&of(user, user % 2 == 0)).await;
        if answer.status == 200 {
            whole(answer, user % 2 == 0).await;
            continue;
        }
        failures += 1;
        let said = ["x-littoral-node", "x-littoral-route"].map(|name| answer.header(name).to_string());
        assert!(answer.header("x-littoral-cache").starts_with("bypass; reason=sampled"));
        // A stall of the machine may fail one at the other.
        if said[0] == "silent" {
            assert_eq!(said[1], "silent; reason=unanswered");
        }
        answer.error(504).await;
    }
    assert!((2..=3).contains(&failures), "{failures} of 12 failed");
    assert_eq!(silent.asked(), 2, "then it is left alone");
    let named = || {
        let log = edge.process.log();
        let failed = log.lines().filter(|line| line.contains("\"status\":504"));
        failed.filter(|line| line.contains("\"route\":\"silent; reason=unanswered\"")).count()
    };
    eventually("the lines of both", SOON, async || named() >= 2).await;
    assert_eq!(named(), 2, "{}", edge.process.log());
}

#[tokio::test]
async fn another_is_asked_when_the_first_says_nothing() {
    let (silent, good) = (OpenAiServer::start(Conduct::Silent), OpenAiServer::start(FIVE));
    let edge = pair(&silent, &good, |setup| {
        setup.with("fleet", "silence_ms = 3000\nbreaker_failures = 2\nbreaker_ms = 600000\nbreaker_max_ms = 600000")
    })
    .await;
    let mut fell_back = 0;
    for user in 0..12 {
        let answer = edge.client().chat(&of(user, user % 2 == 0)).await;
        fell_back += u32::from(answer.header("x-littoral-route") == "good; reason=fallback; tried=silent");
        whole(answer, user % 2 == 0).await;
    }
    assert_eq!((silent.asked(), fell_back), (2, 2));
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up_before_the_deadline() {
    let begun = Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"t1 \"}}]}\n\n");
    let server = OpenAiServer::start(Conduct::Stays(begun));
    let edge = start(alone(&server, "").with("fleet", "silence_ms = 2000")).await;
    let events = edge.client().chat(&ask("upstream", true)).await.events();
    let transcript = timeout(SOON, events.transcript()).await.expect("the deadline is not waited for");
    assert_eq!(transcript.text(), "t1 ");
    assert_eq!(transcript.error.unwrap()["code"], "service_unavailable");
    // Comments are signs of life.
    server.follow(Conduct::Muses(8, std::time::Duration::from_millis(500)));
    whole(edge.client().chat(&ask("upstream", true)).await, true).await;
}

#[tokio::test]
async fn an_answer_that_is_whole_waits_for_no_end_of_the_stream() {
    let server = OpenAiServer::start(Conduct::Stays(unended(true)));
    let edge = start(alone(&server, "")).await;
    for stream in [true, false] {
        let answering = async { whole(edge.client().chat(&ask("upstream", stream)).await, stream).await };
        timeout(SOON, answering).await.expect("the stream is not waited for");
    }
    // Without its usage, as soon as the server has been silent for long enough.
    server.follow(Conduct::Stays(unended(false)));
    let edge = start(alone(&server, "").with("fleet", "silence_ms = 2000")).await;
    let answering = async { edge.client().chat(&ask("upstream", false)).await.ok().await };
    let document = timeout(SOON, answering).await.expect("the stream is not waited for");
    assert_eq!(document["choices"][0]["message"]["content"], TEXT);
    assert_eq!(document["usage"]["completion_tokens"], 5);
}
