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
        r#","reasoning_effort":"high","tools":[],"logprobs":false,"top_logprobs":null"#,
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
    let tool = r#"{"type":"function","function":{"name":"f","description":"d","parameters":{}}}"#;
    let turned = r#"{"function":{"parameters":{},"description":"d","name":"f"},"type":"function"}"#;
    let with = |tool: &str| read(&format!(r#","tools":[{tool}]"#)).unwrap().to_bytes();
    assert_eq!(with(turned), with(tool));
    assert!(String::from_utf8(with(turned)).unwrap().contains(tool));
    let call = |call: &str| {
        let messages = format!(r#"[{{"role":"assistant","tool_calls":[{call}]}},{{"role":"user","content":"hi"}}]"#);
        raw(&format!(r#"{{"model":"m","messages":{messages}}}"#)).unwrap().to_bytes()
    };
    let one = r#"{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}"#;
    assert_eq!(call(r#"{"function":{"arguments":"{}","name":"f"},"type":"function","id":"c"}"#), call(one));
    assert_eq!(read(r#","seed":-1"#).unwrap().seed, Some(u64::MAX));
    // The canonical form of the same request, sent on by a host that speaks HTTP.
    assert_eq!(read(r#","seed":18446744073709551615"#).unwrap().seed, Some(u64::MAX));
    assert!(read(r#","seed":18446744073709551616"#).is_err());
}

#[test]
fn what_changes_the_answer_is_kept_as_it_was_said() {
    let form = |properties: &str| {
        let schema = format!(r#"{{"type":"object","properties":{properties}}}"#);
        read(&format!(r#","response_format":{{"type":"json_schema","json_schema":{{"schema":{schema}}}}}"#)).unwrap()
    };
    let properties = r#"{"zeta":{},"answer":{},"middle":{}}"#;
    let (first, other) = (form(properties).to_bytes(), form(r#"{"answer":{},"zeta":{},"middle":{}}"#).to_bytes());
    assert!(first != other && String::from_utf8(first).unwrap().contains(properties));
    let parameters = r#"{"type":"object","required":["b"],"properties":{"b":{},"a":{}}}"#;
    let tool = format!(r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}]"#);
    assert!(String::from_utf8(read(&tool).unwrap().to_bytes()).unwrap().contains(parameters));
    // Models that think by default are told not to.
    let thinking = |switch: &str| read(&format!(r#","thinking":{{"type":"{switch}"}}"#)).unwrap();
    for switch in ["enabled", "disabled"] {
        let request = thinking(switch);
        assert!(request != read("").unwrap());
        assert_eq!(ChatRequest::canonical(&request.to_bytes()).unwrap(), request);
    }
    assert!(thinking("enabled") != thinking("disabled"));
}

#[test]
fn what_is_no_request_is_told_so_in_words() {
    for (body, words) in [
        (r#"["m",[["user","hi"]]]"#, "list"),
        (r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]}"#, "without its 'text'"),
        (r#"{"model":"m","messages":[7]}"#, "a message, with a role and a content"),
        (r#"{"model":"m","messages":[{"role":"user","content":[7]}]}"#, "a part, with a type and a text"),
        ("7", "a JSON object"),
    ] {
        let (_, message) = raw(body).unwrap_err();
        assert!(message.contains(words) && !message.contains("struct"), "{body}: {message}");
    }
}

#[test]
fn a_bad_field_is_named() {
    for (extra, param) in [
        (r#","temperature":"hot""#, "temperature"),
        (r#","temperature":9"#, "temperature"),
        (r#","seed":"x""#, "seed"),
        (r#","n":"x""#, "n"),
        (r#","top_k":"x""#, "top_k"),
        (r#","top_p":-1"#, "top_p"),
        (r#","max_tokens":0"#, "max_tokens"),
        (r#","max_tokens":-1"#, "max_tokens"),
        (r#","max_tokens":99999999999"#, "max_tokens"),
        (r#","stop":[""]"#, "stop"),
        (r#","stop":5"#, "stop"),
        (r#","stream":"yes""#, "stream"),
        (r#","n":0"#, "n"),
        (r#","n":17"#, "n"),
        (r#","top_k":-2"#, "top_k"),
        (r#","min_p":1.5"#, "min_p"),
        (r#","repetition_penalty":0"#, "repetition_penalty"),
        (r#","repetition_penalty":1e-40"#, "repetition_penalty"),
        (r#","frequency_penalty":3"#, "frequency_penalty"),
        (r#","presence_penalty":-3"#, "presence_penalty"),
        (r#","logprobs":true,"top_logprobs":21"#, "top_logprobs"),
        (r#","top_logprobs":2"#, "top_logprobs"),
        (r#","logit_bias":{"one":1}"#, "logit_bias"),
        (r#","logit_bias":{"1":101}"#, "logit_bias"),
        (r#","tools":[{"type":"function"}]"#, "tools"),
        (r#","tools":[{"type":"function","function":{"name":"a b"}}]"#, "tools"),
        (r#","tools":[{"type":"function","function":{"name":"f","parameters":[]}}]"#, "tools"),
        (r#","tool_choice":"required""#, "tool_choice"),
        (r#","tool_choice":"sometimes""#, "tool_choice"),
        (r#","tool_choice":{"type":"function","function":{"name":"f"}}"#, "tool_choice"),
        (r#","response_format":{"type":"yaml"}"#, "response_format"),
        (r#","response_format":{"type":"json_schema"}"#, "response_format"),
        (r#","logprobs":2"#, "logprobs"),
    ] {
        let (named, message) = read(extra).unwrap_err();
        assert_eq!(named.as_deref(), Some(param), "{extra}: {message}");
        assert!(["i128", "i64", "u32", "f64"].iter().all(|ours| !message.contains(ours)), "{message}");
        assert!(message.len() < 300, "{message}");
    }
    let many = format!(r#","stop":[{}]"#, vec![r#""s""#; 17].join(","));
    assert_eq!(read(&many).unwrap_err().0.as_deref(), Some("stop"));
    let long = format!(r#","user_id":"{}""#, "u".repeat(513));
    assert_eq!(read(&long).unwrap_err().0.as_deref(), Some("user_id"));
}

#[test]
fn what_the_sampler_is_asked_is_written_where_it_is_not_the_default() {
    let asked = r#","n":2,"top_k":40,"min_p":0.05,"repetition_penalty":1.1,"frequency_penalty":0.5,"presence_penalty":-0.5,"logit_bias":{"7":-100},"logprobs":true,"top_logprobs":3"#;
    let request = read(asked).unwrap();
    let written = String::from_utf8(request.to_bytes()).unwrap();
    for part in ["\"n\":2", "\"top_k\":40", "\"min_p\":0.05", "\"logit_bias\":{\"7\":-100.0}", "\"top_logprobs\":3"] {
        assert!(written.contains(part), "{written}");
    }
    assert_eq!(ChatRequest::canonical(written.as_bytes()).unwrap(), request);
    assert_eq!(ChatRequest::from_client(written.as_bytes()).unwrap(), request);
    assert_eq!(read(r#","top_k":-1,"frequency_penalty":0,"logprobs":false"#), read(""));
    let long = format!(r#","stop":"{}""#, "s".repeat(10_240));
    assert_eq!(read(&long).unwrap_err().0.as_deref(), Some("stop"));
}

#[test]
fn tools_and_forms_are_part_of_the_canonical_request() {
    let tools = r#","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
    for extra in [
        tools.to_string(),
        format!(r#"{tools},"tool_choice":"required""#),
        format!(r#"{tools},"tool_choice":{{"type":"function","function":{{"name":"f"}}}}"#),
        r#","response_format":{"type":"json_object"}"#.into(),
        r#","response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"integer"}}}"#.into(),
        r#","response_format":{"type":"regex","regex":"[0-9]+"}"#.into(),
        r#","thinking":{"type":"enabled"}"#.into(),
    ] {
        let request = read(&extra).unwrap();
        assert_ne!(request, read("").unwrap(), "{extra}");
        assert_eq!(ChatRequest::canonical(&request.to_bytes()).unwrap(), request);
        assert_eq!(ChatRequest::from_client(&request.to_bytes()).unwrap(), request);
    }
    assert_eq!(read(&format!(r#"{tools},"tool_choice":"auto""#)), read(tools));
    assert_eq!(read(r#","tools":[],"tool_choice":"none""#), read(""));
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
