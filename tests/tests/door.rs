//! The edge's door: protocols, refusals, and whatever else is thrown at a port.

use std::{
    io::Write,
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use littoral_tests::{
    client::{Answer, Client, Connection, PROTOCOLS, Protocol, chunked, empty, full, raw},
    edge::{Edge, wrong},
    instant_node::{InstantNode, MODEL, Script},
};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn node() -> &'static InstantNode {
    static NODE: OnceLock<InstantNode> = OnceLock::new();
    NODE.get_or_init(|| InstantNode::start("instant", Script::default()))
}

fn edge() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(|| Edge::to(&[node().address()]).start())
}

/// What an impatient edge waits for a head or a body: longer than a stall of a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

/// One that waits so long and no longer.
fn impatient() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(|| {
        let most = PATIENCE.as_millis();
        let line = format!("header_timeout_ms = {most}\nbody_timeout_ms = {most}");
        Edge::to(&[node().address()]).with("edge", &line).start()
    })
}

fn hi() -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
}

async fn is_well(client: &Client) {
    let document = client.chat(&hi()).await.ok().await;
    assert_eq!(document["choices"][0]["message"]["content"], "t1 t2 t3 t4 t5 ");
}

#[tokio::test]
async fn chat_over_every_protocol_and_path() {
    for protocol in PROTOCOLS {
        let client = edge().client().over(protocol);
        for path in ["/chat/completions", "/v1/chat/completions", "/v1/chat/completions?api-version=1"] {
            let document = client.post(path, hi().to_string()).await.ok().await;
            assert_eq!(document["choices"][0]["message"]["content"], "t1 t2 t3 t4 t5 ");
            let mut body = hi();
            body["stream"] = json!(true);
            let transcript = client.post(path, body.to_string()).await.events().transcript().await;
            assert_eq!((transcript.text().as_str(), transcript.done), ("t1 t2 t3 t4 t5 ", true));
            assert_eq!(transcript.chunks.len(), 6);
        }
        is_well(&client.with_header("content-type", "text/plain")).await;
        is_well(&client.with_header("accept", "text/html;q=0")).await;
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    for protocol in PROTOCOLS {
        let client = edge().client().over(protocol);
        let mut connection = client.connect().await.unwrap();
        for i in 0..20 {
            let mut body = hi();
            body["stream"] = json!(i % 2 == 0);
            let answer = connection.send(client.chat_request(&body)).await.unwrap();
            if i % 2 == 0 {
                assert!(answer.events().transcript().await.done);
            } else {
                answer.ok().await;
            }
            // A refusal does not cost the connection either.
            let refused = connection.send(client.request("GET", "/nowhere", empty())).await.unwrap();
            refused.error(404).await;
        }
    }
}

#[tokio::test]
async fn the_request_id_is_echoed_when_it_is_sane() {
    for protocol in PROTOCOLS {
        let client = edge().client().over(protocol);
        let id = async |value: &str| {
            let answer = client.with_header("x-request-id", value).chat(&hi()).await;
            answer.header("x-request-id").to_string()
        };
        assert_eq!(id("req_1:{a}/b").await, "req_1:{a}/b");
        for bad in ["two words", "", "tab\there", &"x".repeat(129)] {
            assert_eq!(id(bad).await.len(), 32, "{bad:?}");
        }
        assert_ne!(id("").await, id("").await);
        let refused = client.without_key().with_header("x-request-id", "me").chat(&hi()).await;
        assert_eq!((refused.status, refused.header("x-request-id")), (401, "me"), "refusals carry it too");
    }
    let client = edge().client().with_header("x-request-id", "to-the-node");
    is_well(&client).await;
    // Another test may have asked since; ask until it was this one.
    littoral_tests::eventually("the id at the node", SOON, async || {
        is_well(&client).await;
        node().last_request().request_id == "to-the-node"
    })
    .await;
}

#[tokio::test]
async fn who_has_no_key_is_refused() {
    let keys = &edge().keys;
    let wrong = wrong(&keys.acme);
    let unknown = format!("lk_ffffffffffff_{}", &keys.acme[keys.acme.len() - 64..]);
    let mixed = format!("{}{}", &keys.acme[..16], &keys.globex[16..]);
    let bare = Client::new(edge().http);
    let authorised = |value: &str| bare.with_header("authorization", value);
    let mut cases = vec![bare.clone()];
    for key in [&wrong, &unknown, &mixed, &keys.expired, "sk-test", "lk_", "", &keys.acme.to_uppercase()] {
        cases.push(bare.with_key(key));
    }
    for value in [format!("Basic {}", keys.acme), keys.acme.clone(), format!("Bearer{}", keys.acme), "Bearer".into()] {
        cases.push(authorised(&value));
    }
    cases.push(bare.with_header("x-api-key", &keys.acme));
    for client in cases {
        for protocol in PROTOCOLS {
            let client = client.over(protocol);
            for answer in [client.chat(&hi()).await, client.get("/models").await, client.get("/nowhere").await] {
                assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"littoral\"");
                let error = answer.error(401).await;
                assert_eq!(error["code"], "invalid_api_key");
                assert!(!error["message"].as_str().unwrap().contains(&keys.acme[16..]), "{error}");
            }
        }
    }
    // The scheme's case does not matter (RFC 9110, 11.1).
    is_well(&authorised(&format!("bEARER {}", keys.acme))).await;
}

#[tokio::test]
async fn requests_that_cannot_be_understood_are_explained() {
    let with = |name: &str, value: Value| {
        let mut body = hi();
        body[name] = value;
        body.to_string()
    };
    let cases = [
        ("{oops".to_string(), None, "JSON"),
        (String::new(), None, "JSON"),
        ("[]".into(), None, "JSON"),
        ("null".into(), None, "JSON"),
        ("\"hi\"".into(), None, "JSON"),
        ("{}".into(), Some("model"), "model"),
        ("[".repeat(100_000), None, "JSON"),
        (format!("{}{}", r#"{"messages":"#, "[".repeat(50_000)), None, "JSON"),
        (with("model", json!(7)), Some("model"), "model"),
        (with("messages", json!([])), Some("messages"), "messages"),
        (with("messages", json!("hi")), Some("messages"), "messages"),
        (with("messages", json!([{"role": "wizard", "content": "x"}])), Some("messages"), "wizard"),
        (with("messages", json!([{"role": "user"}])), Some("messages"), "content"),
        (
            with("messages", json!([{"role": "user", "content": [{"type": "image_url"}]}])),
            Some("messages"),
            "image_url",
        ),
        (with("temperature", json!(3)), Some("temperature"), "temperature"),
        (with("temperature", json!("hot")), Some("temperature"), "temperature"),
        (with("top_p", json!(-0.1)), Some("top_p"), "top_p"),
        (with("max_tokens", json!(0)), Some("max_tokens"), "max_tokens"),
        (with("max_tokens", json!(-5)), Some("max_tokens"), "max_tokens"),
        (with("max_tokens", json!(1.5)), Some("max_tokens"), "max_tokens"),
        (with("stop", json!(vec!["a"; 17])), Some("stop"), "stop"),
        (with("stop", json!([""])), Some("stop"), "stop"),
        (with("stop", json!({"a": 1})), Some("stop"), "stop"),
        (with("stream", json!("yes")), Some("stream"), "stream"),
        (with("seed", json!("s")), Some("seed"), "seed"),
        (with("n", json!(17)), Some("n"), "1..16"),
        (with("user_id", json!("u".repeat(513))), Some("user_id"), "user_id"),
        (with("tools", json!([{"type": "function"}])), Some("tools"), "tools"),
    ];
    for (body, param, word) in cases {
        let start: String = body.chars().take(60).collect();
        let error = edge().client().post("/v1/chat/completions", body).await.error(400).await;
        assert_eq!(error["param"].as_str(), param, "{start}: {error}");
        assert!(error["message"].as_str().unwrap().contains(word), "{start}: {error}");
        assert_eq!(error["code"], "invalid_request_error");
    }
    for bytes in [&b"\xff\xfe{}"[..], b"{\"model\":\"\xc3\x28\"}", b"\0\0\0\0"] {
        edge().client().post("/v1/chat/completions", Bytes::from_static(bytes)).await.error(400).await;
    }
    let mut other = hi();
    other["model"] = json!("gpt-oss");
    let error = edge().client().chat(&other).await.error(400).await;
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    assert!(error["message"].as_str().unwrap().contains("gpt-oss"), "{error}");
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist() {
    for protocol in PROTOCOLS {
        let client = edge().client().over(protocol);
        for path in
            ["/v1", "/v1/", "/v2/models", "/v1/models/", "/v1/v1/models", "//models", "/metrics", "/models/../models"]
        {
            let error = client.get(path).await.error(404).await;
            assert_eq!(error["code"], "not_found", "{path}");
        }
        for (method, path, allow) in [
            ("GET", "/v1/chat/completions", "POST"),
            ("DELETE", "/models", "GET"),
            ("PUT", "/chat/completions", "POST"),
            ("POST", "/models", "GET"),
        ] {
            let answer = client.try_send(client.request(method, path, full("{}"))).await.unwrap();
            assert_eq!(answer.header("allow"), allow);
            assert_eq!(answer.error(405).await["code"], "method_not_allowed");
        }
    }
}

async fn post(client: &Client, body: littoral_tests::client::Outgoing) -> hyper::Result<Answer> {
    client.try_send(client.request("POST", "/v1/chat/completions", body)).await
}

/// A chat request of this many bytes.
fn sized(size: usize) -> String {
    let mut body = hi();
    body["messages"][0]["content"] = json!("");
    let rest = size - body.to_string().len();
    body["messages"][0]["content"] = json!("x".repeat(rest));
    let text = body.to_string();
    assert_eq!(text.len(), size);
    text
}

#[tokio::test]
async fn bodies_up_to_the_cap_are_taken_and_larger_ones_are_not() {
    for protocol in PROTOCOLS {
        let client = edge().client().over(protocol);
        for size in [64 << 10, (64 << 10) + 1, MIB, 8 * MIB] {
            let pieces = Bytes::from(sized(size));
            let pieces: Vec<_> = (0..size).step_by(10_000).map(|at| pieces.slice(at..size.min(at + 10_000))).collect();
            for body in [full(sized(size)), chunked(pieces)] {
                post(&client, body).await.unwrap().ok().await;
            }
        }
        let too_large = |answer: Answer| async {
            let error = answer.error(413).await;
            assert_eq!(error["code"], "request_too_large");
            assert!(error["message"].as_str().unwrap().contains("8388608"), "{error}");
        };
        too_large(post(&client, full(sized(8 * MIB + 1))).await.unwrap()).await;
        let piece = Bytes::from(vec![b' '; 100_000]);
        too_large(post(&client, chunked(std::iter::repeat_n(piece.clone(), 90))).await.unwrap()).await;
        // Nobody reads the body of a stranger, however large.
        let stranger = client.without_key();
        post(&stranger, full(sized(3 * MIB))).await.unwrap().error(401).await;
        // A body that never ends is cut off; how the client learns of it is the protocol's affair.
        let endless = post(&client, chunked(std::iter::repeat(piece)));
        let told = tokio::time::timeout(SOON, endless).await.expect("a body without end is not read for ever");
        assert!(told.map_or(true, |answer| answer.status == 413));
    }
    is_well(&edge().client()).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let head = format!(
        "POST /chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{",
        impatient().keys.acme
    );
    let began = Instant::now();
    let said = raw(impatient().http, head.as_bytes(), SOON).await.expect("the connection is closed");
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("request_timeout"), "{said}");
    assert!(began.elapsed() >= PATIENCE - Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let edge = impatient();
    for size in [100 << 10, 4 * MIB] {
        for protocol in PROTOCOLS {
            let client = edge.client().over(protocol).with_header("x-large", &"x".repeat(size));
            // A status, or the connection's end: never an answer, and never a wait.
            let told = tokio::time::timeout(SOON, client.try_send(client.chat_request(&hi()))).await;
            let told = told.expect("the server does not read on for ever");
            assert!(told.as_ref().map_or(true, |answer| answer.status == 431), "{:?}", told.map(|a| a.status));
        }
        let said =
            raw(edge.http, format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(size)).as_bytes(), SOON).await;
        let said = said.expect("the connection is closed");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    let many: String = (0..500).map(|i| format!("x-{i}: 1\r\n")).collect();
    let said = raw(edge.http, format!("GET /models HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes(), SOON).await;
    assert!(said.is_some_and(|said| said.starts_with("HTTP/1.1 431 ")));
    is_well(&edge.client()).await;
}

#[tokio::test]
async fn slow_heads_are_given_up_while_others_are_served() {
    let edge = impatient();
    let began = Instant::now();
    // One says nothing, one stops within the head, one sends a header a moment, one stops within HTTP/2's preface.
    let silent = raw(edge.http, b"", SOON);
    let half = raw(edge.http, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: ", SOON);
    let preface = raw(edge.http, b"PRI * HTTP/2.0\r\n", SOON);
    let drip = async {
        let mut stream = std::net::TcpStream::connect(edge.http).unwrap();
        stream.write_all(b"GET /models HTTP/1.1\r\nhost: x\r\n").unwrap();
        for i in 0..400 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if stream.write_all(format!("x-{i}: drip\r\n").as_bytes()).is_err() {
                return i;
            }
        }
        400
    };
    let others = async {
        for _ in 0..20 {
            is_well(&edge.client()).await;
        }
    };
    let (silent, half, preface, drips, ()) = tokio::join!(silent, half, preface, drip, others);
    for said in [silent, half, preface] {
        let said = said.expect("a silent connection is closed");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert!(drips < 400, "a head that trickles was read for {:?}", began.elapsed());
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let mut seed = 1u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    };
    let mut throws: Vec<Vec<u8>> = (0..20).map(|i| noise(1 << i.min(16))).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    throws.push([&preface[..], &noise(5000)].concat());
    // Settings, then a frame of 16 MiB announced; a header block of broken HPACK; a window of zero.
    throws.push([&preface[..], b"\0\0\0\x04\0\0\0\0\0", b"\xff\xff\xff\0\0\0\0\0\x01"].concat());
    throws.push([&preface[..], b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff"].concat());
    throws.push([&preface[..], b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"].concat());
    // The beginning of TLS, as a client sends it that was told https.
    throws.push([&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], &noise(500)].concat());
    for text in [
        "GET / HTTP/9.9\r\n\r\n",
        "GET\r\n\r\n",
        "\r\n\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "GET /models HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        "GET /models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer \u{1}\r\n\r\n",
    ] {
        throws.push(text.into());
    }
    let edge = impatient();
    // The API's port closes every connection that makes no sense; the metrics' port gives a scraper more time.
    for (port, patience) in [(edge.http, SOON), (edge.metrics_address(), Duration::from_secs(1))] {
        let thrown = join_all(throws.iter().map(|bytes| raw(port, bytes, patience)));
        let others = async {
            for _ in 0..20 {
                is_well(&edge.client()).await;
            }
        };
        let (answers, ()) = tokio::join!(thrown, others);
        for (bytes, answer) in throws.iter().zip(answers) {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
            match answer {
                Some(said) => assert!(!said.starts_with("HTTP/1.1 2"), "{start:?} was answered with {said}"),
                None => assert_ne!(port, edge.http, "{start:?} held a connection"),
            }
        }
    }
    is_well(&edge.client()).await;
    assert_eq!(edge.metrics().await.get("littoral_guest_traps_total"), 0.0);
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let body = hi().to_string();
    let head = format!(
        "POST /chat/completions HTTP/1.0\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        edge().keys.acme,
        body.len()
    );
    let said = raw(edge().http, head.as_bytes(), SOON).await.expect("HTTP/1.0 closes after its answer");
    assert!(said.starts_with("HTTP/1.0 200 ") && said.contains("t1 t2 t3 t4 t5 "), "{said}");
}

#[tokio::test]
async fn streams_of_one_h2c_connection_do_not_wait_for_each_other() {
    let client = edge().client().over(Protocol::H2c);
    let Connection::H2c(sender) = client.connect().await.unwrap() else { panic!("asked for HTTP/2") };
    let answers = (0..100).map(|i| {
        let mut body = hi();
        body["stream"] = json!(i % 2 == 0);
        let (request, mut connection) = (client.chat_request(&body), Connection::H2c(sender.clone()));
        async move {
            let answer = connection.send(request).await.unwrap();
            if i % 2 == 0 {
                answer.events().transcript().await.text()
            } else {
                answer.ok().await["choices"][0]["message"]["content"].as_str().unwrap().into()
            }
        }
    });
    for text in join_all(answers).await {
        assert_eq!(text, "t1 t2 t3 t4 t5 ");
    }
}
