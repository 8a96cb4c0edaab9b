//! The side-door: the API's own HTTP, rendered by the edge's renderer.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::support::{MODEL, Node, SECRET, chat, get, http_client, request, send, shared};

const PROMPT: &str = "What is the capital of France? Answer in one sentence.";

fn post(node: &Node, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}{path}", node.at.http.unwrap()))
        .header("authorization", format!("Bearer {SECRET}"))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

fn body(stream: bool) -> String {
    let messages = json!([{"role": "user", "content": PROMPT}]);
    json!({"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 24, "stream": stream}).to_string()
}

/// The JSON documents of a stream's `data:` lines, without `[DONE]`.
fn chunks(stream: &str) -> Vec<Value> {
    stream
        .split_terminator("\n\n")
        .filter(|block| !block.starts_with(':'))
        .map(|block| block.strip_prefix("data: ").expect("a block is one data line"))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test]
async fn stream_and_document_and_grpc_say_the_same() {
    let node = shared();
    let grpc = node.answer(request(&chat(PROMPT))).await;
    let (status, document) = send(post(node, "/v1/chat/completions", body(false))).await;
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((status, &document["object"]), (200, &json!("chat.completion")));
    assert_eq!(document["choices"][0]["message"]["content"], json!(grpc.text));
    assert_eq!(document["choices"][0]["finish_reason"], json!(grpc.reason));
    assert_eq!(document["usage"]["completion_tokens"], json!(grpc.usage.completion_tokens));

    let (status, stream) = send(post(node, "/chat/completions", body(true))).await;
    assert!(status == 200 && stream.ends_with("data: [DONE]\n\n") && !stream.contains('\r'), "{stream}");
    let chunks = chunks(&stream);
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, grpc.text);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["usage"], document["usage"]);
}

#[tokio::test]
async fn the_canonical_form_is_understood_too() {
    let node = shared();
    let mut canonical = chat(PROMPT);
    (canonical.stream, canonical.seed) = (false, Some(3));
    let (status, _) = send(post(node, "/v1/chat/completions", canonical.to_bytes())).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn without_the_secret_the_door_stays_shut() {
    let node = shared();
    for authorization in
        [None, Some("Bearer wrong".to_string()), Some(SECRET.to_string()), Some(format!("Basic {SECRET}"))]
    {
        let mut request = post(node, "/v1/chat/completions", body(false));
        request.headers_mut().remove("authorization");
        if let Some(value) = authorization {
            request.headers_mut().insert("authorization", value.parse().unwrap());
        }
        let (status, body) = send(request).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["code"]), (401, &json!("invalid_api_key")));
        assert_eq!(error["error"]["type"], "authentication_error");
    }
}

#[tokio::test]
async fn errors_have_their_status_and_the_form_of_the_api() {
    let node = shared();
    let unknown = body(false).replace(MODEL, "gpt-0");
    let hot = body(false).replace("\"temperature\":0", "\"temperature\":9");
    let large = vec![b' '; (8 << 20) + 1];
    let long = json!({"model": MODEL, "messages": [{"role": "user", "content": "word ".repeat(20_000)}]}).to_string();
    let table: [(&str, Bytes, u16, &str); 6] = [
        ("/v1/chat/completions", "{".into(), 400, "invalid_request_error"),
        ("/v1/chat/completions", unknown.into(), 400, "model_not_found"),
        ("/v1/chat/completions", hot.into(), 400, "invalid_request_error"),
        ("/v1/chat/completions", large.into(), 413, "request_too_large"),
        ("/v1/chat/completions", long.into(), 400, "context_length_exceeded"),
        ("/v1/embeddings", "{}".into(), 404, "not_found"),
    ];
    for (path, body, status, code) in table {
        let (got, body) = send(post(node, path, body)).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((got, &error["error"]["code"]), (status, &json!(code)), "{body}");
    }
}

#[tokio::test]
async fn a_client_that_goes_ends_its_generation() {
    let node = Node::start(1, 0);
    for stream in [true, false] {
        let body =
            body(stream).replace("\"max_tokens\":24", "\"max_tokens\":2000").replace(PROMPT, "Tell me a long story.");
        let answer = tokio::spawn(http_client().request(post(&node, "/v1/chat/completions", body)));
        node.until(|info| info.running == 1).await;
        if stream {
            let mut response = answer.await.unwrap().unwrap();
            response.body_mut().frame().await.unwrap().unwrap();
            drop(response);
        } else {
            answer.abort();
        }
        node.until(|info| info.running == 0).await;
    }
    node.until_metric("littoral_node_requests_total{outcome=\"cancelled\"}", 2.0).await;
}

#[tokio::test]
async fn the_metrics_port_says_how_the_node_is() {
    let node = shared();
    node.answer(request(&chat(PROMPT))).await;
    let (_, page) = get(node.at.metrics, "/metrics").await;
    for name in [
        "littoral_node_time_to_first_token_seconds_bucket{le=\"0.001\"}",
        "littoral_node_inter_token_seconds_count",
        "littoral_node_queue_seconds_sum",
        "littoral_node_step_seconds_count",
        "littoral_node_batch_size_bucket",
        "littoral_node_running",
        "littoral_node_queued",
        "littoral_node_kv_blocks_used",
        "littoral_node_prompt_tokens_total",
        "littoral_node_completion_tokens_total",
        "littoral_node_requests_total{outcome=\"stop\"}",
    ] {
        assert!(page.contains(name), "no {name} in\n{page}");
    }
    assert_eq!(get(node.at.metrics, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(node.at.metrics, "/").await.0, 404);
}
