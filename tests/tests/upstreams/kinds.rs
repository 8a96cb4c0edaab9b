//! Nodes of both kinds in one pool: an answer that breaks at one goes on at the other where what comes of it is one honest
//! answer, and ends in an error event where it would not be.

use std::{fs, time::Duration};

use bytes::Bytes;
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{Delta, GenerateRequest, NodeInfo, Resume, delta::Part, event::Kind, node_client::NodeClient};
use littoral_tests::{
    client::{Answer, Client},
    edge::{Edge, FORGIVING, Setup},
    eventually,
    instant_node::{Fault, InstantNode, MODEL, Script},
    node::{self, Node},
    openai_server::{Conduct, OpenAiServer},
};
use serde_json::{Value, json};
use tonic::Status;

use super::{FIVE, SOON, TEXT, start};

/// One of ours and a server that serve the same model, behind an edge.
struct Pool {
    ours: InstantNode,
    theirs: OpenAiServer,
    edge: Edge,
}

async fn pool(resume: &str, more: impl FnOnce(Setup) -> Setup) -> Pool {
    let (ours, theirs) = (InstantNode::start("ours", Script::default()), OpenAiServer::start(FIVE));
    ours.describe(even);
    let section = format!("resume = '{resume}'\nmodels = ['{MODEL}']");
    let setup = Edge::to(&[ours.address()]).upstream("theirs", &theirs.url(), &section);
    let edge = start(more(setup.with("fleet", FORGIVING))).await;
    let both = async || edge.metrics().await.get("littoral_nodes_ready") == 2.0;
    eventually("both", SOON, both).await;
    Pool { ours, theirs, edge }
}

/// Sessions are shared out by slots: as many as a server has.
fn even(info: &mut NodeInfo) {
    info.slots = 256;
}

fn ask(user: &str, stream: bool, extra: &Value) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let mut body = json!({"model": MODEL, "messages": messages, "user_id": user, "stream": stream, "max_tokens": 50});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// A user whose home is the node of this name, while all nodes are well.
async fn at_home(client: &Client, node: &str) -> String {
    at_home_asking(client, node, |user| ask(user, false, &json!({}))).await
}

async fn at_home_asking(client: &Client, node: &str, body: impl Fn(&str) -> Value) -> String {
    for user in 0..100 {
        let user = format!("user {user}");
        let answer = client.chat(&body(&user)).await;
        let home = answer.header("x-littoral-node") == node;
        answer.ok().await;
        if home {
            return user;
        }
    }
    panic!("nobody is at home at {node}");
}

/// One answer, all of it, once, after a prompt of so many tokens.
async fn whole(answer: Answer, stream: bool, prompt: u32) {
    let usage = if stream {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
        assert_eq!((transcript.text().as_str(), transcript.finish_reason()), (TEXT, "stop"));
        let first = &transcript.chunks[0];
        assert_eq!(first["model"], MODEL);
        for field in ["id", "created", "model", "system_fingerprint"] {
            assert!(transcript.chunks.iter().all(|chunk| chunk[field] == first[field]), "{field}: {}", transcript.raw);
        }
        transcript.usage().clone()
    } else {
        let document = answer.ok().await;
        assert_eq!(document["choices"][0]["message"]["content"], TEXT);
        assert_eq!((&document["choices"][0]["finish_reason"], &document["model"]), (&json!("stop"), &json!(MODEL)));
        document["usage"].clone()
    };
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(prompt), &json!(5)), "{usage}");
}

/// The stream ends in an error event after the first three words.
async fn broken(answer: Answer, code: &str) {
    let transcript = answer.events().transcript().await;
    assert!(!transcript.done && transcript.broken.is_none(), "{transcript:?}");
    assert_eq!(transcript.error.as_ref().unwrap()["code"], code, "{transcript:?}");
    assert_eq!(transcript.text(), "t1 t2 t3 ");
    assert!(!transcript.raw.contains("reasoning_content"), "{}", transcript.raw);
}

fn words(count: u32) -> String {
    (1..=count).map(|n| format!("t{n} ")).collect()
}

fn failing(at: u32, fault: Fault) -> Script {
    Script { fault: Some((at, fault)), ..Script::default() }
}

/// What nodes reported, prompts and completions, is that of so many answers.
async fn counted(edge: &Edge, answers: u32) {
    let metrics = edge.metrics().await;
    let tokens = |kind| metrics.sum("littoral_tokens_total", &[("kind", kind)]);
    assert_eq!((tokens("prompt"), tokens("completion")), (f64::from(7 * answers), f64::from(5 * answers)));
}

#[tokio::test]
async fn a_server_goes_on_with_what_one_of_ours_began() {
    for resume in ["prefix", "message"] {
        let Pool { ours, theirs, edge } = pool(resume, |setup| setup).await;
        let client = edge.client();
        let user = at_home(&client, "ours").await;
        let answered = u32::try_from(ours.asked() + theirs.asked()).unwrap();
        let (mut answers, mut resumed) = (answered, 0);
        for fault in [Fault::Status(Status::unavailable("as told")), Fault::End] {
            // Before the first word, after each, and after the end.
            for sent in 0..=6 {
                for stream in [true, false] {
                    ours.follow(failing(sent + 1, fault.clone()));
                    let asked = theirs.asked();
                    let answer = client.chat(&ask(&user, stream, &json!({}))).await;
                    assert_eq!(answer.header("x-littoral-node"), "ours");
                    let route = answer.header("x-littoral-route").to_string();
                    whole(answer, stream, 7).await;
                    answers += 1;
                    if sent == 6 {
                        assert_eq!(theirs.asked(), asked, "nobody is asked to go on with what has ended");
                        continue;
                    }
                    resumed += 1;
                    let last = theirs.last_request();
                    let mut expected = json!([{"role": "user", "content": "hi"}]);
                    if sent > 0 {
                        let mut begun = json!({"role": "assistant", "content": words(sent)});
                        if resume == "prefix" {
                            begun["prefix"] = true.into();
                        }
                        expected.as_array_mut().unwrap().push(begun);
                    }
                    assert_eq!((&last["messages"], &last["max_tokens"]), (&expected, &json!(50 - sent)));
                    assert_eq!(last["continue_final_message"] == true, resume == "message" && sent > 0);
                    let by_text = if sent > 0 { "; by=text" } else { "" };
                    let told = format!("; tried=n1; resumes=1{by_text}");
                    assert!(
                        stream || route.starts_with("theirs; reason=fallback; ") && route.ends_with(&told),
                        "{route}"
                    );
                }
            }
        }
        counted(&edge, answers).await;
        let metrics = edge.metrics().await;
        assert_eq!(metrics.sum("littoral_failovers_total", &[("outcome", "resumed")]), f64::from(resumed));
        assert_eq!(metrics.sum("littoral_failovers_total", &[("outcome", "lost")]), 0.0);
    }
}

#[tokio::test]
async fn one_of_ours_goes_on_with_what_a_server_began() {
    let Pool { ours, theirs, edge } = pool("none", |setup| setup).await;
    let client = edge.client();
    let user = at_home(&client, "theirs").await;
    let mut answers = u32::try_from(ours.asked() + theirs.asked()).unwrap();
    for sent in 0..=5 {
        for stream in [true, false] {
            theirs.follow(Conduct::ClosesAfter(5, sent));
            let answer = client.chat(&ask(&user, stream, &json!({}))).await;
            assert_eq!(answer.header("x-littoral-node"), "theirs");
            let route = answer.header("x-littoral-route").to_string();
            whole(answer, stream, 7).await;
            answers += 1;
            let last = ours.last_request();
            let read = Resume { text: words(sent), ..Resume::default() };
            let expected = if sent > 0 { vec![read] } else { Vec::new() };
            assert_eq!(last.resume_from, expected);
            assert_eq!(last.seed.is_some(), sent == 0, "nothing was drawn of what was said");
            assert!(stream || route.starts_with("n1; reason=fallback; tried=theirs; resumes=1"), "{route}");
            assert_eq!(route.ends_with("; by=text"), !stream && sent > 0, "{route}");
        }
    }
    counted(&edge, answers).await;
    // It has said that it ended, and then what it took, before it was lost: the answer is whole.
    let asked = ours.asked();
    for (sent, prompt) in [(6, 0), (7, 7)] {
        for stream in [true, false] {
            theirs.follow(Conduct::ClosesAfter(5, sent));
            whole(client.chat(&ask(&user, stream, &json!({}))).await, stream, prompt).await;
        }
    }
    assert_eq!(ours.asked(), asked);
    assert_eq!(edge.metrics().await.sum("littoral_failovers_total", &[("outcome", "lost")]), 0.0);
}

#[tokio::test]
async fn an_answer_goes_to_and_fro_and_is_one_answer() {
    let Pool { ours, theirs, edge } = pool("prefix", |setup| setup).await;
    let client = edge.client();
    let user = at_home(&client, "theirs").await;
    let before = (ours.asked(), theirs.asked());
    for stream in [true, false] {
        // t1 here, t2 and t3 there, t4 here, t5 there.
        theirs.follow(Conduct::ClosesAfter(5, 1));
        ours.follow(failing(4, Fault::End));
        let answer = client.chat(&ask(&user, stream, &json!({}))).await;
        whole(answer, stream, 7).await;
        assert_eq!(ours.last_request().resume_from[0].text, "t1 t2 t3 t4 ");
        assert_eq!(theirs.last_request()["messages"][1]["content"], "t1 t2 t3 ");
    }
    assert_eq!((ours.asked() - before.0, theirs.asked() - before.1), (4, 4));
    assert_eq!(edge.metrics().await.sum("littoral_failovers_total", &[("outcome", "resumed")]), 6.0);
}

#[tokio::test]
async fn who_can_go_on_after_the_tokens_is_asked_first() {
    let (one, two) = (InstantNode::start("one", Script::default()), InstantNode::start("two", Script::default()));
    [&one, &two].iter().for_each(|node| node.describe(even));
    let theirs = OpenAiServer::start(FIVE);
    let section = format!("resume = 'prefix'\nmodels = ['{MODEL}']");
    let setup = Edge::to(&[one.address(), two.address()]).upstream("theirs", &theirs.url(), &section);
    let edge = start(setup.with("fleet", FORGIVING)).await;
    eventually("all", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 3.0).await;
    let client = edge.client();
    let mut moved = 0;
    for user in 0..24 {
        let user = format!("user {user}");
        let answer = client.chat(&ask(&user, true, &json!({}))).await;
        let home = answer.header("x-littoral-node").to_string();
        whole(answer, true, 7).await;
        if home == "theirs" {
            continue;
        }
        let (lost, other) = if home == "one" { (&one, &two) } else { (&two, &one) };
        let asked = theirs.asked();
        lost.follow(failing(4, Fault::End));
        whole(client.chat(&ask(&user, true, &json!({}))).await, true, 7).await;
        lost.follow(Script::default());
        assert_eq!((theirs.asked(), &other.last_request().resume_from[0].token_ids[..]), (asked, &[1, 2, 3][..]));
        moved += 1;
    }
    assert!(moved >= 8, "{moved} of 24 were at home at ours");
}

#[tokio::test]
async fn what_would_be_no_honest_answer_ends_in_an_error_event() {
    let Pool { ours, theirs, edge } = pool("prefix", |setup| setup).await;
    let client = edge.client();
    let (here, there) = (at_home(&client, "ours").await, at_home(&client, "theirs").await);
    ours.follow(failing(4, Fault::End));
    theirs.follow(Conduct::ClosesAfter(5, 3));
    let before = (ours.asked(), theirs.asked());
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let asked_for = [
        json!({"seed": 7}),
        json!({"logprobs": true}),
        json!({"n": 2}),
        json!({"max_tokens": 3}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"tools": tool, "tool_choice": "required"}),
    ];
    for extra in &asked_for {
        for user in [&here, &there] {
            broken(client.chat(&ask(user, true, extra)).await, "service_unavailable").await;
            client.chat(&ask(user, false, extra)).await.error(503).await;
        }
    }
    let both = 2 * asked_for.len() as u64;
    let asked = (ours.asked() - before.0, theirs.asked() - before.1);
    assert_eq!(asked, (both, both), "neither is asked to go on with the other's");
    // What was said stands against it.
    let chunk = |delta: Value| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]}));
    let call = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]});
    let before = ours.asked();
    for more in [json!({"reasoning_content": "hm"}), call] {
        let said = chunk(json!({"content": "t1 "})) + &chunk(more);
        theirs.follow(Conduct::Says(said.into()));
        let transcript = client.chat(&ask(&there, true, &json!({}))).await.events().transcript().await;
        assert_eq!(transcript.error.as_ref().unwrap()["code"], "service_unavailable", "{transcript:?}");
    }
    assert_eq!(ours.asked(), before);
}

#[tokio::test]
async fn a_server_that_reasons_anew_has_not_gone_on() {
    let Pool { ours, theirs, edge } = pool("message", |setup| setup.with("fleet", "max_resumes = 1")).await;
    let client = edge.client();
    let user = at_home(&client, "ours").await;
    ours.follow(failing(4, Fault::End));
    let chunk = json!({"choices": [{"index": 0, "delta": {"reasoning_content": "Let me see"}}]});
    theirs.follow(Conduct::Says(Bytes::from(format!("data: {chunk}\n\n"))));
    broken(client.chat(&ask(&user, true, &json!({}))).await, "internal_error").await;
}

#[tokio::test]
async fn the_audit_log_says_what_happened_and_counts_it_once() {
    let mut dir = Default::default();
    let Pool { ours, theirs: _theirs, edge } = pool("prefix", |setup| {
        dir = setup.dir().join("audit");
        let line = format!("dir = '{}'", dir.display());
        setup.with("audit", &line)
    })
    .await;
    let client = edge.client();
    let user = at_home(&client, "ours").await;
    ours.follow(failing(4, Fault::End));
    let named = client.with_header("x-request-id", "broken");
    whole(named.chat(&ask(&user, true, &json!({}))).await, true, 7).await;
    let files = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let text: String = files
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .map(|p| fs::read_to_string(p).unwrap())
        .collect();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = lines.filter(|line| line["request_id"] == "broken" && line["event_type"] == "request").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["tokens"], json!({"prompt": 7, "cached": 0, "completion": 5}), "{}", told[0]);
    assert!(told[0].to_string().contains("; tried=n1; resumes=1; by=text"), "{}", told[0]);
}

/// The first words of a server's answer, after which it closes.
fn begins(text: &str) -> Conduct {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    Conduct::Says(Bytes::from(format!("data: {chunk}\n\n")))
}

/// As many places as a real node has slots, so that either may be a session's home.
const EVEN: &str = "max_streams = 8";

fn tide(user: &str, most: u32, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "What is a tide?"}]);
    json!({"model": node::MODEL, "messages": messages, "temperature": 0, "max_tokens": most, "stream": stream, "user_id": user})
}

/// What a real node says after a text: the rest, and the tokens it counts.
async fn said_after(node: &Node, text: &str) -> (String, u64) {
    let client = NodeClient::connect(format!("http://{}", node.grpc)).await;
    let request = ChatRequest::from_client(tide("", 40, false).to_string().as_bytes()).unwrap();
    let request = GenerateRequest {
        model: node::MODEL.into(),
        request: request.to_bytes().into(),
        resume_from: vec![Resume { text: text.into(), ..Resume::default() }],
        ..GenerateRequest::default()
    };
    let mut events = client.unwrap().generate(request).await.unwrap().into_inner();
    let (mut said, mut tokens) = (String::new(), 0);
    while let Some(event) = events.message().await.unwrap() {
        match event.kind {
            Some(Kind::Delta(Delta { part: Some(Part::Text(text)), .. })) => said.push_str(&text),
            Some(Kind::Usage(usage)) => tokens = usage.completion_tokens.into(),
            Some(Kind::Error(error)) => panic!("{error:?}"),
            _ => {}
        }
    }
    (said, tokens)
}

#[tokio::test]
async fn a_real_node_reads_what_a_server_said_and_says_none_of_it_again() {
    let node = Node::shared();
    let theirs = OpenAiServer::start(FIVE);
    let section = format!("models = ['{}']\n{EVEN}", node::MODEL);
    let setup = Edge::to(&[node.grpc]).upstream("theirs", &theirs.url(), &section);
    let edge = start(setup.with("fleet", FORGIVING).with("cache", "policy = 'off'")).await;
    eventually("both", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
    let client = edge.client();
    let user = at_home_asking(&client, "theirs", |user| tide(user, 1, false)).await;
    let (own, _) = said_after(node, "").await;
    // As much of it as a server may have said: half a word, a word, a space, a sentence.
    let space = own.match_indices(' ').nth(3).unwrap().0;
    for cut in [1, space, space + 1, own.len() / 2] {
        let begun = &own[..(cut..).find(|cut| own.is_char_boundary(*cut)).unwrap()];
        theirs.follow(begins(begun));
        let (rest, tokens) = said_after(node, begun).await;
        let expected = (format!("{begun}{rest}"), Some(tokens));
        // What the node holds back, because it may become a stop string, has been said.
        let stop = format!("{}#", begun.chars().last().unwrap());
        for stop in [json!([]), json!([stop])] {
            for stream in [true, false] {
                let mut body = tide(&user, 40, stream);
                body["stop"] = stop.clone();
                let answer = client.chat(&body).await;
                assert_eq!(answer.header("x-littoral-node"), "theirs");
                let (text, usage) = if stream {
                    let transcript = answer.events().transcript().await;
                    assert!(transcript.done, "{transcript:?}");
                    (transcript.text(), transcript.usage().clone())
                } else {
                    let document = answer.ok().await;
                    let text = document["choices"][0]["message"]["content"].as_str().unwrap().to_string();
                    (text, document["usage"].clone())
                };
                assert_eq!((text, usage["completion_tokens"].as_u64()), expected, "{begun:?}, {stop}");
            }
        }
    }
    // A control token spelled out is nothing that a node of ours could have said as text.
    theirs.follow(begins("The tide<|im_end|>"));
    let transcript = client.chat(&tide(&user, 40, true)).await.events().transcript().await;
    assert_eq!(transcript.error.as_ref().unwrap()["code"], "service_unavailable", "{transcript:?}");
    assert_eq!(transcript.text(), "The tide<|im_end|>");
}

#[tokio::test]
async fn a_real_node_is_killed_and_a_server_goes_on_after_its_text() {
    let node = Node::start(&["--node", "ours"]);
    let theirs = OpenAiServer::start(Conduct::Tokens(300, Duration::ZERO));
    let section = format!("models = ['{}']\nresume = 'prefix'\n{EVEN}", node::MODEL);
    let edge = start(Edge::to(&[node.grpc]).upstream("theirs", &theirs.url(), &section)).await;
    eventually("both", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
    let client = edge.client();
    let user = at_home_asking(&client, "ours", |user| tide(user, 1, false)).await;
    let mut body = tide(&user, 400, true);
    body["logit_bias"] = node::endless();
    let answer = client.chat(&body).await;
    assert_eq!(answer.header("x-littoral-node"), "ours");
    let mut events = answer.events();
    let mut texts = Vec::new();
    let text = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_string();
    for _ in 0..8 {
        texts.push(text(&events.chunk().await.unwrap()));
    }
    drop(node);
    let (mut usage, mut reason) = (Value::Null, Value::Null);
    while let Some(mut chunk) = events.chunk().await {
        assert!(chunk["error"].is_null(), "{chunk}");
        texts.push(text(&chunk));
        (usage, reason) = (chunk["usage"].take(), chunk["choices"][0]["finish_reason"].take());
    }
    assert_eq!(reason, "stop");
    let last = theirs.last_request();
    let begun = last["messages"][1]["content"].as_str().unwrap();
    let ours = (1..=texts.len()).find(|n| texts[..*n].concat() == begun);
    assert!(ours.is_some_and(|ours| ours >= 8), "{begun:?} of {:?}", texts.concat());
    let sent = 400 - last["max_tokens"].as_u64().unwrap();
    assert_eq!(Some(sent), ours.map(|ours| ours as u64), "a chunk a token");
    let rest = 300 - begun.split_whitespace().count() as u64;
    assert_eq!(usage["completion_tokens"], sent + rest, "{usage}");
}
