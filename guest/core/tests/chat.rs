//! The canonical request: what clients send, accepted, put in one form, or refused by the field's name.

use littoral_core::{chat::ChatRequest, denial::PARAM};

fn read(extra: &str) -> Result<ChatRequest, (Option<String>, String)> {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
    raw(&body)
}

fn raw(body: &str) -> Result<ChatRequest, (Option<String>, String)> {
    ChatRequest::from_client(body.as_bytes()).map_err(|d| {
        assert_eq!(d.status, 400);
        (d.extra.into_iter().find(|(k, _)| k == PARAM).map(|(_, v)| v), d.message)
    })
}

#[test]
fn defaults_are_written_out_and_the_canonical_form_reads_back() {
    let request = read("").unwrap();
    assert_eq!((request.temperature, request.top_p, request.stream), (1.0, 1.0, false));
    let bytes = request.to_bytes();
    let text = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":1.0,"top_p":1.0}"#;
    assert_eq!(String::from_utf8_lossy(&bytes), text);
    assert_eq!(ChatRequest::canonical(&bytes).unwrap(), request);
    // A client may send the canonical form too: the node's own HTTP door reads it so.
    assert_eq!(ChatRequest::from_client(&bytes).unwrap(), request);
}

#[test]
fn what_sdks_send_without_meaning_it_is_accepted() {
    for extra in [
        r#","n":1,"logit_bias":{},"user":"u","metadata":{"a":"b"},"store":false,"parallel_tool_calls":true"#,
        r#","thinking":{"type":"disabled"},"reasoning_effort":"high","tools":[],"logprobs":false,"top_logprobs":null"#,
        r#","response_format":{"type":"text"},"stop":null,"seed":null,"stream_options":null,"max_tokens":null"#,
    ] {
        assert_eq!(read(extra).unwrap(), read("").unwrap(), "{extra}");
    }
}

#[test]
fn every_way_to_say_the_same_is_one_form() {
    assert_eq!(read(r#","stop":"x""#), read(r#","stop":["x"]"#));
    assert_eq!(read(r#","max_completion_tokens":5"#), read(r#","max_tokens":5"#));
    assert_eq!(read(r#","temperature":-0.0"#).unwrap().to_bytes(), read(r#","temperature":0"#).unwrap().to_bytes());
    let parts = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
    assert_eq!(raw(parts).unwrap().messages[0].content, "a\nb");
    let developer = r#"{"model":"m","messages":[{"role":"developer","content":"brief"}]}"#;
    assert_eq!(raw(developer).unwrap().messages[0].role, "system");
    assert_eq!(read(r#","seed":-1"#).unwrap().seed, Some(u64::MAX));
    // The canonical form of the same request, sent on by a host that speaks HTTP.
    assert_eq!(read(r#","seed":18446744073709551615"#).unwrap().seed, Some(u64::MAX));
    assert!(read(r#","seed":18446744073709551616"#).is_err());
}

#[test]
fn a_bad_field_is_named() {
    for (extra, param) in [
        (r#","temperature":"hot""#, "temperature"),
        (r#","temperature":9"#, "temperature"),
        (r#","top_p":-1"#, "top_p"),
        (r#","max_tokens":0"#, "max_tokens"),
        (r#","max_tokens":-1"#, "max_tokens"),
        (r#","max_tokens":99999999999"#, "max_tokens"),
        (r#","stop":[""]"#, "stop"),
        (r#","stop":5"#, "stop"),
        (r#","stream":"yes""#, "stream"),
        (r#","n":2"#, "n"),
        (r#","tools":[{"type":"function"}]"#, "tools"),
        (r#","response_format":{"type":"json_object"}"#, "response_format"),
        (r#","logprobs":true"#, "logprobs"),
    ] {
        let (named, message) = read(extra).unwrap_err();
        assert_eq!(named.as_deref(), Some(param), "{extra}: {message}");
        assert!(message.len() < 300, "{message}");
    }
    let many = format!(r#","stop":[{}]"#, vec![r#""s""#; 17].join(","));
    assert_eq!(read(&many).unwrap_err().0.as_deref(), Some("stop"));
    let long = format!(r#","user_id":"{}""#, "u".repeat(513));
    assert_eq!(read(&long).unwrap_err().0.as_deref(), Some("user_id"));
}

#[test]
fn bad_messages_are_named() {
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","messages":[]}"#,
        r#"{"model":"m","messages":"x"}"#,
        r#"{"model":"m","messages":[{"role":"user"}]}"#,
        r#"{"model":"m","messages":[{"role":"robot","content":"x"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#,
    ] {
        assert_eq!(raw(body).unwrap_err().0.as_deref(), Some("messages"), "{body}");
    }
    assert_eq!(raw(r#"{"messages":[{"role":"user","content":"x"}]}"#).unwrap_err().0.as_deref(), Some("model"));
}

#[test]
fn what_is_not_a_request_is_refused_without_harm() {
    let deep = "[".repeat(100_000);
    let nested = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x","tool_calls":{deep}}}]}}"#);
    for body in ["", "null", "[]", "{oops", "\u{0}", "{\"model\":1e999}", deep.as_str(), nested.as_str()] {
        raw(body).unwrap_err();
    }
    ChatRequest::from_client(&[0xff, 0xfe]).unwrap_err();
    ChatRequest::from_client(b"{\"model\":\"\xff\"}").unwrap_err();
}
