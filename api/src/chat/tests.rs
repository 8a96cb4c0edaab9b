//! Events in, frames and documents out: what clients break on is asked of each.

use std::time::Instant;

use littoral_proto::v1::{self, Finished, Started};

use super::*;

fn head(stream: bool, include_usage: bool) -> Head {
    Head {
        id: "chatcmpl-1".into(),
        created: 1_700_000_000,
        model: "m".into(),
        fingerprint: "fp".into(),
        stream,
        include_usage,
    }
}

fn event(kind: Kind) -> Event {
    Event { kind: Some(kind) }
}

fn part(part: Part) -> Event {
    event(Kind::Delta(Delta { token_ids: vec![1], part: Some(part), ..Delta::default() }))
}

fn text(text: &str) -> Event {
    part(Part::Text(text.into()))
}

fn ending() -> [Event; 2] {
    let usage = Usage { prompt_tokens: 5, completion_tokens: 2, prompt_cache_hit_tokens: 3, reasoning_tokens: 1 };
    [event(Kind::Finished(Finished { choice: 0, reason: "stop".into() })), event(Kind::Usage(usage))]
}

fn render(head: Head, events: &[Event]) -> (Renderer, String) {
    let (mut renderer, mut out) = (Renderer::new(head), BytesMut::new());
    events.iter().for_each(|e| renderer.push(e, &mut out));
    (renderer, String::from_utf8(out.to_vec()).unwrap())
}

const CHUNK: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","system_fingerprint":"fp","choices":["#;
const USAGE: &str = r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_cache_hit_tokens":3,"prompt_cache_miss_tokens":2,"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":1}}"#;

#[test]
fn a_stream_byte_by_byte() {
    let started = event(Kind::Started(Started::default()));
    let [finished, usage] = ending();
    // The empty text is a token whose text is still held back: nothing is sent for it.
    let (renderer, out) =
        render(head(true, false), &[started, text("Hi \"you\""), text(""), text("\né"), finished, usage]);
    let expected = [
        CHUNK,
        r#"{"index":0,"delta":{"role":"assistant","content":"Hi \"you\""},"logprobs":null,"finish_reason":null}]}"#,
        "\n\n",
        CHUNK,
        r#"{"index":0,"delta":{"content":"\né"},"logprobs":null,"finish_reason":null}]}"#,
        "\n\n",
        CHUNK,
        r#"{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":"#,
        USAGE,
        "}\n\ndata: [DONE]\n\n",
    ];
    assert_eq!(out, expected.concat());
    assert!(renderer.is_complete());
}

#[test]
fn usage_that_was_asked_for_comes_in_a_chunk_of_its_own_too() {
    let [finished, usage] = ending();
    let (_, out) = render(head(true, true), &[text("a"), finished, usage]);
    let expected = [
        CHUNK,
        r#"{"index":0,"delta":{"role":"assistant","content":"a"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
        "\n\n",
        CHUNK,
        r#"{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":"#,
        USAGE,
        "}\n\n",
        CHUNK,
        "],\"usage\":",
        USAGE,
        "}\n\ndata: [DONE]\n\n",
    ];
    assert_eq!(out, expected.concat());
}

#[test]
fn an_answer_without_text_still_names_the_role() {
    let (_, out) = render(head(true, false), &ending());
    assert!(
        out.contains(r#""delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":"stop""#),
        "{out}"
    );
}

#[test]
fn reasoning_and_tool_calls() {
    let fragment = |id: &str, name: &str, arguments: &str| {
        let (id, name, arguments) = (id.into(), name.into(), arguments.into());
        part(Part::ToolCall(ToolCallFragment { index: 0, id, name, arguments }))
    };
    let [finished, usage] = ending();
    let events = [
        part(Part::Reasoning("hm".into())),
        fragment("call_1", "f", "{\"a\""),
        fragment("", "", ":1}"),
        finished,
        usage,
    ];
    let (_, out) = render(head(true, false), &events);
    let deltas: Vec<&str> =
        out.lines().filter_map(|l| l.split_once("\"delta\":")?.1.split_once(",\"logprobs\"")).map(|p| p.0).collect();
    assert_eq!(
        deltas,
        [
            r#"{"role":"assistant","reasoning_content":"hm"}"#,
            r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\""}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}"#,
            r#"{"content":""}"#,
        ]
    );
    let (renderer, _) = render(head(false, false), &events);
    let (status, body) = renderer.document();
    let expected = [
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","system_fingerprint":"fp","#,
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"","reasoning_content":"hm","#,
        r#""tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"#,
        r#""logprobs":null,"finish_reason":"stop"}],"usage":"#,
        USAGE,
        "}",
    ];
    assert_eq!((status, String::from_utf8(body.to_vec()).unwrap()), (200, expected.concat()));
}

#[test]
fn a_document_byte_by_byte() {
    let [finished, usage] = ending();
    let (renderer, out) = render(head(false, false), &[text("Hi "), text("you"), finished, usage]);
    assert_eq!(out, "");
    let expected = [
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","system_fingerprint":"fp","#,
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"Hi you"},"logprobs":null,"finish_reason":"stop"}],"usage":"#,
        USAGE,
        "}",
    ];
    assert_eq!(renderer.document(), (200, expected.concat().into()));
}

#[test]
fn log_probabilities_come_with_their_token_and_are_collected() {
    let top = v1::TopLogprob { token_id: 2, token: vec![0xe4, 0xb8], logprob: f32::NEG_INFINITY };
    let logprob = v1::Logprob { token_id: 1, token: b"Hi".to_vec(), logprob: -0.5, top: vec![top] };
    let delta = |text: &str| Delta {
        token_ids: vec![1],
        part: Some(Part::Text(text.into())),
        logprobs: vec![logprob.clone()],
        ..Delta::default()
    };
    let [finished, usage] = ending();
    let events = [event(Kind::Delta(delta("Hi"))), event(Kind::Delta(delta(""))), finished, usage];
    let token = "{\"token\":\"Hi\",\"logprob\":-0.5,\"bytes\":[72,105],\"top_logprobs\":[{\"token\":\"\u{fffd}\",\"logprob\":-9999.0,\"bytes\":[228,184]}]}";
    let (_, out) = render(head(true, false), &events);
    assert!(
        out.contains(&format!("\"content\":\"Hi\"}},\"logprobs\":{{\"content\":[{token}]}},\"finish_reason\":null")),
        "{out}"
    );
    assert!(
        out.contains(&format!("{{\"content\":\"\"}},\"logprobs\":{{\"content\":[{token}]}}")),
        "held back text: {out}"
    );
    let (renderer, _) = render(head(false, false), &events);
    let document = String::from_utf8(renderer.document().1.to_vec()).unwrap();
    assert!(document.contains(&format!("\"logprobs\":{{\"content\":[{token},{token}]}}")), "{document}");
}

#[test]
fn several_answers_have_their_own_chunks_and_finish() {
    let delta = |choice, text: &str| {
        event(Kind::Delta(Delta { choice, part: Some(Part::Text(text.into())), ..Delta::default() }))
    };
    let finished = |choice, reason: &str| event(Kind::Finished(Finished { choice, reason: reason.into() }));
    let [_, usage] = ending();
    let events = [delta(0, "a"), delta(1, "b"), finished(1, "length"), delta(0, "c"), finished(0, "stop"), usage];
    let (_, out) = render(head(true, false), &events);
    let choices: Vec<&str> = out.lines().filter_map(|l| Some(l.split_once("\"choices\":[")?.1)).collect();
    assert!(choices[1].starts_with("{\"index\":1,\"delta\":{\"role\":\"assistant\",\"content\":\"b\"}"), "{out}");
    assert!(
        choices[3].contains("\"index\":0") && choices[3].contains("\"stop\"") && choices[3].contains("\"usage\":null")
    );
    assert!(
        choices[4].contains("\"index\":1") && choices[4].contains("\"length\"") && choices[4].contains("prompt_tokens")
    );
    let (renderer, _) = render(head(false, false), &events);
    let document: serde_json::Value = serde_json::from_slice(&renderer.document().1).unwrap();
    assert_eq!(document["choices"][0]["message"]["content"], "ac");
    assert_eq!(document["choices"][1]["message"]["content"], "b");
    assert_eq!(document["choices"][1]["finish_reason"], "length");
}

#[test]
fn an_error_ends_the_stream_without_done() {
    let error = event(Kind::Error(v1::Error { code: "internal_error".into(), message: "oh".into(), retryable: true }));
    let object = r#"{"error":{"message":"oh","type":"server_error","param":null,"code":"internal_error"}}"#;
    let [finished, usage] = ending();
    let events = [text("a"), error, finished, usage];
    let (_, out) = render(head(true, false), &events);
    assert!(out.ends_with(&format!("\n\ndata: {object}\n\n")), "{out}");
    assert!(!out.contains("[DONE]") && !out.contains("usage"));
    let (renderer, _) = render(head(false, false), &events);
    assert_eq!(renderer.document(), (500, object.into()));
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let (renderer, _) = render(head(false, false), &[text("a")]);
    assert_eq!(renderer.document().0, 500);
    assert!(!renderer.is_complete());
}

/// Run with `cargo test --release -p littoral-api -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_a_chunk() {
    let (mut renderer, mut out, token) = (Renderer::new(head(true, false)), BytesMut::new(), text(" measure"));
    const ROUNDS: u32 = 2_000_000;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        renderer.push(&token, &mut out);
        out.clear();
    }
    println!("{} ns a chunk", start.elapsed().as_nanos() / u128::from(ROUNDS));
}
