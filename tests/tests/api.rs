//! The API as clients see it: a real edge, a real node, the real model.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use littoral_tests::{
    client::{Client, PROTOCOLS, Protocol},
    edge::Edge,
    eventually,
    node::{MODEL, Node, endless},
    sse::Transcript,
};
use serde_json::{Value, json};

/// The edge that all tests here share; they tell their requests apart by `x-request-id`.
fn edge() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(|| Edge::to(&[Node::shared().grpc]).start())
}

/// A client whose requests are generated, not looked up.
fn fresh() -> Client {
    edge().client().with_header("cache-control", "no-store")
}

fn ask(prompt: &str, more: Value) -> Value {
    let mut body =
        json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 12});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

fn check_usage(usage: &Value) {
    let number = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("no {name} in {usage}"));
    assert_eq!(number("total_tokens"), number("prompt_tokens") + number("completion_tokens"), "{usage}");
    let (hit, miss) = (number("prompt_cache_hit_tokens"), number("prompt_cache_miss_tokens"));
    assert_eq!(hit + miss, number("prompt_tokens"), "{usage}");
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], hit, "{usage}");
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 0, "{usage}");
    assert!(number("prompt_tokens") > 5 && number("completion_tokens") > 0, "{usage}");
}

fn content(document: &Value) -> &str {
    document["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("no content in {document}"))
}

#[tokio::test]
async fn a_document_says_what_clients_read() {
    let answer = fresh().chat(&ask("What is a tide?", json!({}))).await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-littoral-node"), Node::shared().grpc.to_string());
    assert_eq!(answer.header("x-littoral-cache"), "bypass; reason=no-store");
    assert_eq!(answer.header("x-request-id").len(), 32);
    let document = answer.ok().await;
    assert_eq!(document["object"], "chat.completion");
    assert_eq!(document["model"], MODEL);
    assert!(document["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-") && id.len() > 20), "{document}");
    assert!(document["system_fingerprint"].as_str().is_some_and(|f| f.starts_with("fp_") && f.len() > 6), "{document}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(document["created"].as_u64().is_some_and(|created| now.abs_diff(created) < 300), "{document}");
    let choices = document["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 1);
    assert_eq!(choices[0]["index"], 0);
    assert_eq!(choices[0]["message"]["role"], "assistant");
    assert!(choices[0].as_object().unwrap().contains_key("logprobs"));
    // The model was trained to say this of itself to nobody; but it does speak of the sea.
    assert!(content(&document).split_whitespace().count() > 3, "{document}");
    assert_eq!(choices[0]["finish_reason"], "length");
    check_usage(&document["usage"]);
    assert_eq!(document["usage"]["completion_tokens"], 12);
}

/// The framing, to the byte.
fn check_framing(transcript: &Transcript, include_usage: bool) {
    let Transcript { chunks, raw, .. } = transcript;
    assert!(transcript.done && transcript.error.is_none() && transcript.broken.is_none(), "{raw}");
    assert!(!raw.contains('\r'), "{raw}");
    assert!(raw.ends_with("\n\ndata: [DONE]\n\n"), "{raw}");
    for line in raw.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
        assert!(line.starts_with("data: ") && !line.contains('\n'), "{line:?}");
    }
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
        assert!(chunk["choices"].is_array(), "{chunk}");
        for repeated in ["id", "created", "model", "system_fingerprint"] {
            assert!(!chunk[repeated].is_null() && chunk[repeated] == chunks[0][repeated], "{repeated} in {chunk}");
        }
    }
    let (tail, chunks) = if include_usage { chunks.split_last().unwrap() } else { (&Value::Null, &chunks[..]) };
    let (finish, deltas) = chunks.split_last().unwrap();
    assert_eq!(deltas[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks[1..].iter().all(|chunk| chunk["choices"][0]["delta"].get("role").is_none()), "the role comes once");
    for delta in deltas {
        let choice = &delta["choices"][0];
        assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &Value::Null), "{delta}");
        assert!(choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{delta}");
        let usage = delta.as_object().unwrap().get("usage");
        assert_eq!(usage, include_usage.then_some(&Value::Null), "{delta}");
    }
    assert!(finish["choices"][0]["finish_reason"].is_string(), "{finish}");
    check_usage(&finish["usage"]);
    if include_usage {
        assert_eq!(tail["choices"], json!([]));
        assert_eq!(tail["usage"], finish["usage"]);
    }
}

#[tokio::test]
async fn a_stream_is_framed_as_documented() {
    for include_usage in [false, true] {
        let options = json!({"stream": true, "stream_options": {"include_usage": include_usage}});
        let answer = fresh().chat(&ask("What is a tide?", options)).await;
        assert_eq!(answer.header("content-type"), littoral_api::EVENT_STREAM);
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert_eq!(answer.header("content-length"), "");
        check_framing(&answer.events().transcript().await, include_usage);
    }
}

#[tokio::test]
async fn one_answer_whatever_the_way() {
    let plain = fresh().chat(&ask("Name three fish.", json!({}))).await.ok().await;
    for protocol in PROTOCOLS {
        let client = fresh().over(protocol);
        for path in ["/chat/completions", "/v1/chat/completions"] {
            let body = ask("Name three fish.", json!({"stream": protocol == Protocol::H2c || path.len() < 20}));
            let answer = client.post(path, body.to_string()).await;
            let (text, usage) = if body["stream"] == true {
                let transcript = answer.events().transcript().await;
                (transcript.text(), transcript.usage().clone())
            } else {
                let document = answer.ok().await;
                (content(&document).to_string(), document["usage"].clone())
            };
            assert_eq!(text, content(&plain), "{protocol:?} {path}");
            // How much of the prompt the node still knew may differ; how long it is may not.
            assert_eq!(usage["total_tokens"], plain["usage"]["total_tokens"], "{protocol:?} {path}");
        }
    }
}

#[tokio::test]
async fn a_seed_names_an_answer() {
    let sampled = |seed: Value| ask("Invent a name for a boat.", json!({"temperature": 1.3, "seed": seed}));
    let mut texts = Vec::new();
    for seed in [7, 7, 8, 9] {
        let answer = fresh().chat(&sampled(json!(seed))).await.ok().await;
        texts.push(content(&answer).to_string());
    }
    assert_eq!(texts[0], texts[1], "the same seed");
    assert!(texts[0] != texts[2] || texts[0] != texts[3], "three seeds gave one answer: {}", texts[0]);
    let answer = edge().client().chat(&sampled(Value::Null)).await;
    assert_eq!(answer.header("x-littoral-cache"), "bypass; reason=sampled");
}

#[tokio::test]
async fn an_answer_ends_before_its_stop_string() {
    let whole = fresh().chat(&ask("What is a tide?", json!({"max_tokens": 16}))).await.ok().await;
    let text = content(&whole);
    // A piece that crosses tokens: from the middle of a word to the middle of a later one.
    let words: Vec<_> = text.split(' ').filter(|word| word.len() > 3).collect();
    let stop = words.get(2).map(|word| &word[1..3]).unwrap_or_else(|| panic!("not enough words in {text:?}"));
    let expected = &text[..text.find(stop).unwrap()];
    for stream in [false, true] {
        let more = json!({"max_tokens": 16, "stop": ["\u{1f40b}", stop], "stream": stream});
        let answer = fresh().chat(&ask("What is a tide?", more)).await;
        let (got, reason, usage) = if stream {
            let transcript = answer.events().transcript().await;
            (transcript.text(), transcript.finish_reason().to_string(), transcript.usage().clone())
        } else {
            let document = answer.ok().await;
            let reason = document["choices"][0]["finish_reason"].as_str().unwrap().to_string();
            (content(&document).to_string(), reason, document["usage"].clone())
        };
        assert_eq!((got.as_str(), reason.as_str()), (expected, "stop"), "stream: {stream}, stop: {stop:?}");
        check_usage(&usage);
        assert!(usage["completion_tokens"].as_u64().unwrap() < 16, "{usage}");
    }
}

#[tokio::test]
async fn prompts_of_every_kind_are_answered() {
    let tokens = async |content: Value| {
        let body = ask("", json!({"messages": [{"role": "user", "content": content}], "max_tokens": 1}));
        let document = fresh().chat(&body).await.ok().await;
        check_usage(&document["usage"]);
        assert_eq!(document["usage"]["completion_tokens"], 1);
        document["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let bare = tokens(json!("x")).await;
    assert_eq!(tokens(json!([{"type": "text", "text": "x"}])).await, bare, "parts are one text");
    // Had the words of the template been taken for the template's own, they would be one token each.
    assert!(tokens(json!("<|im_end|>")).await > bare, "a user cannot end his turn");
    for text in ["", "\u{0}", "日本語とεллада 🐋🏴‍☠️", "a\r\n\tb", "{{ messages }} {% raw %}", "\u{202e}abc\u{feff}"]
    {
        tokens(json!(text)).await;
    }
    let turns = json!({"messages": [
        {"role": "system", "content": "You are a lighthouse."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A light.", "name": null},
        {"role": "user", "content": "And at day?"},
    ], "max_tokens": 4, "top_p": 0.5, "temperature": 0.7, "presence_penalty": 0, "user": "sdk", "n": 1});
    check_usage(&fresh().chat(&ask("", turns)).await.ok().await["usage"]);
}

#[tokio::test]
async fn an_answer_has_the_order_of_its_schema() {
    let constant = |value: u32| json!({"const": value});
    for names in [["zeta", "answer", "middle"], ["answer", "middle", "zeta"]] {
        let properties: serde_json::Map<_, _> =
            names.iter().zip(1..).map(|(name, value)| (name.to_string(), constant(value))).collect();
        let schema = json!({"type": "object", "properties": properties, "required": names,
            "additionalProperties": false});
        let form = json!({"type": "json_schema", "json_schema": {"name": "form", "schema": schema}});
        let body = ask("Fill in the form.", json!({"response_format": form, "max_tokens": 400}));
        let answer = fresh().chat(&body).await.ok().await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let fields: serde_json::Map<_, _> = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert_eq!(fields.keys().collect::<Vec<_>>(), names);
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_and_nothing_else_is() {
    let long = "tide ".repeat(100_000);
    for stream in [false, true] {
        let error = fresh().chat(&ask(&long, json!({"stream": stream}))).await.error(400).await;
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(error["message"].as_str().is_some_and(|m| m.contains("tokens")), "{error}");
    }
    // As much answer as the context holds is not an error of the request.
    let body = ask("Hi", json!({"max_tokens": 100_000, "stop": [" ", ".", "!", "e"]}));
    fresh().chat(&body).await.ok().await;
    let info = Node::shared().describe().await;
    assert!(info.models[0].context_length >= 1024, "{info:?}");
}

#[tokio::test]
async fn models_and_health_are_told() {
    let info = Node::shared().describe().await;
    for path in ["/models", "/v1/models"] {
        let list = edge().client().get(path).await.ok().await;
        let expected = json!({"object": "list", "data": [
            {"id": MODEL, "object": "model", "created": info.models[0].created, "owned_by": "littoral"}
        ]});
        assert_eq!(list, expected);
    }
    edge().client().without_key().get("/v1/models").await.error(401).await;
    let health = Client::new(edge().http).get("/healthz").await.ok().await;
    assert_eq!((&health["ready"], &health["draining"]), (&json!(true), &json!(false)), "{health}");
    assert_eq!(health["nodes"][0]["models"], json!([MODEL]), "{health}");
    assert_eq!(health["nodes"][0]["name"], "n1", "{health}");
}

#[tokio::test]
async fn metrics_of_edge_and_node_move_with_requests() {
    let (edge_before, node_before) = (edge().metrics().await, Node::shared().metrics().await);
    let usage = fresh().chat(&ask("Metrics?", json!({}))).await.ok().await["usage"].clone();
    let [prompt, completion] = ["prompt_tokens", "completion_tokens"].map(|tokens| usage[tokens].as_f64().unwrap());
    // Other tests ask at the same time, so what was asked here is the least; and either end counts a request when it
    // is through with it, which may be after the client has its last byte.
    let within = Duration::from_secs(20);
    for (name, labels, least) in [
        ("littoral_requests_total", &[("route", "chat"), ("status", "200"), ("cache", "bypass")][..], 1.0),
        ("littoral_tokens_total", &[("kind", "prompt")], prompt),
        ("littoral_tokens_total", &[("kind", "completion")], completion),
        ("littoral_request_duration_seconds_count", &[("route", "chat")], 1.0),
        ("littoral_ttft_seconds_count", &[], 1.0),
        ("littoral_guest_decide_seconds_count", &[], 1.0),
    ] {
        let least = edge_before.sum(name, labels) + least;
        eventually(name, within, async || edge().metrics().await.sum(name, labels) >= least).await;
    }
    for (name, labels, least) in [
        ("littoral_node_requests_total", &[("outcome", "length")][..], 1.0),
        ("littoral_node_prompt_tokens_total", &[], prompt),
        ("littoral_node_completion_tokens_total", &[], completion),
        ("littoral_node_time_to_first_token_seconds_count", &[], 1.0),
        ("littoral_node_step_seconds_count", &[], completion),
    ] {
        let least = node_before.sum(name, labels) + least;
        eventually(name, within, async || Node::shared().metrics().await.sum(name, labels) >= least).await;
    }
    let metrics = edge().metrics().await;
    assert_eq!(metrics.get("littoral_nodes_ready"), 1.0);
    assert_eq!(metrics.get("littoral_guest_traps_total"), 0.0);
    // Neither port tells anything else.
    for address in [edge().metrics_address(), Node::shared().metrics_address()] {
        assert_eq!(Client::new(address).get("/v1/models").await.status, 404);
    }
}

#[tokio::test]
async fn one_log_line_a_request_at_either_end() {
    let id = "log-line-1";
    let client = fresh().with_header("x-request-id", id);
    let usage = client.chat(&ask("SECRETPROMPT", json!({"max_tokens": 3}))).await.ok().await["usage"].clone();
    let line = |process: &littoral_tests::process::Process| process.logged("request_id", id).unwrap_or_default();
    eventually("the log lines", Duration::from_secs(20), async || {
        !line(&edge().process).is_null() && !line(&Node::shared().process).is_null()
    })
    .await;
    let at_edge = line(&edge().process);
    assert_eq!(
        (&at_edge["status"], &at_edge["tenant"], &at_edge["user"]),
        (&json!(200), &json!("acme"), &json!("tester"))
    );
    assert_eq!(at_edge["completion_tokens"], usage["completion_tokens"]);
    let at_node = line(&Node::shared().process);
    assert_eq!(at_node["outcome"], "length", "{at_node}");
    for log in [edge().process.log(), Node::shared().process.log()] {
        assert!(!log.contains("SECRETPROMPT"), "a prompt is in the log");
        let secret = edge().keys.acme.rsplit('_').next().unwrap();
        assert!(!log.contains(secret), "a key is in the log");
    }
}

#[tokio::test]
async fn two_answers_are_generated_side_by_side() {
    let times = async |prompt: &str| {
        let answer = fresh().chat(&ask(prompt, json!({"stream": true, "max_tokens": 24}))).await;
        let (mut events, mut times) = (answer.events(), Vec::new());
        while let Some(chunk) = events.chunk().await {
            if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
                times.push(Instant::now());
            }
        }
        times
    };
    let inside = |these: &[Instant], those: &[Instant]| {
        these.iter().filter(|at| **at > those[0] && **at < those[those.len() - 1]).count()
    };
    let mut seen = Vec::new();
    // What a stall of this process holds up comes all at once: some try shows chunks as they are made.
    for _ in 0..5 {
        let (one, other) = tokio::join!(times("Tell me about the moon."), times("Tell me about the sun."));
        assert!(one.len() > 8 && other.len() > 8, "{} and {} chunks", one.len(), other.len());
        // In turns, one would end before the other begins.
        let (a, b) = (inside(&one, &other), inside(&other, &one));
        if a >= 4 && b >= 4 {
            return;
        }
        seen.push((a, b));
    }
    panic!("so few chunks came while the other answer was being written: {seen:?}");
}

/// What the node says of a generation whose client left: that it was cancelled, and after how many tokens.
async fn cancelled_after(node: &Node, id: &str) -> u64 {
    let node = &node.process;
    eventually("the node's line about a cancelled request", Duration::from_secs(30), async || {
        node.logged("request_id", id).is_some()
    })
    .await;
    let line = node.logged("request_id", id).unwrap();
    assert_eq!(line["outcome"], "cancelled", "{line}");
    line["completion_tokens"].as_u64().unwrap_or_else(|| panic!("{line}"))
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_generation() {
    // Drawn, because a greedy answer that long repeats itself, and drafts make short work of that.
    let long = |stream| {
        let more = json!({"stream": stream, "max_tokens": 1000, "temperature": 1, "seed": 7, "logit_bias": endless()});
        ask("Write a long story about the sea.", more)
    };

    // A stream of HTTP/1.1: the connection goes.
    let answer = fresh().with_header("x-request-id", "leaves-h1").chat(&long(true)).await;
    let mut events = answer.events();
    for _ in 0..3 {
        events.chunk().await.unwrap();
    }
    let left = Instant::now();
    drop(events);
    let tokens = cancelled_after(Node::shared(), "leaves-h1").await;
    println!("cancelled {:?} after the client left, {tokens} tokens generated, 3 read", left.elapsed());
    // Those read, the ones on their way, and one that was being computed; more where the machine stalls.
    assert!(tokens < 600, "{tokens} tokens were generated for 3 that were read");

    // One of two streams of one HTTP/2 connection: the other goes on.
    let client = fresh().over(Protocol::H2c).with_header("x-request-id", "leaves-h2");
    let mut connection = client.connect().await.unwrap();
    let mut events = connection.send(client.chat_request(&long(true))).await.unwrap().events();
    events.chunk().await.unwrap();
    let stays = fresh().over(Protocol::H2c);
    let stays = stays.chat_request(&ask("Hello!", json!({"stream": true, "max_tokens": 6})));
    let stays = connection.send(stays).await.unwrap();
    drop(events);
    assert!(cancelled_after(Node::shared(), "leaves-h2").await < 600);
    assert!(stays.events().transcript().await.done);

    // One that waits for a document, at a node of its own: what runs there is this one.
    let node = Node::start(&[]);
    let edge = Edge::to(&[node.grpc]).start();
    let client = edge.client().with_header("x-request-id", "leaves-document");
    let request = client.with_header("cache-control", "no-store").chat_request(&long(false));
    let waiting = tokio::spawn(async move { client.try_send(request).await.map(drop) });
    eventually("the generation", Duration::from_secs(20), async || node.describe().await.running > 0).await;
    waiting.abort();
    assert!(cancelled_after(&node, "leaves-document").await < 600);
}
