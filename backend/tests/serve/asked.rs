//! What a request may ask beyond text: other answers, probabilities, forms; and what a second turn finds.

use littoral_api::error::code;
use littoral_core::chat::{ChatRequest, Message, ResponseFormat};
use littoral_proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    v1::{GenerateRequest, delta::Part, event::Kind},
};

use crate::support::{Node, calling, chat, collect, request, shared};

const FRANCE: &str = "What is the capital of France? Answer in one sentence.";

fn tenant(chat: &ChatRequest, tenant: &str) -> GenerateRequest {
    GenerateRequest { tenant: tenant.into(), ..request(chat) }
}

#[tokio::test]
async fn a_second_turn_finds_the_first_one_and_another_tenant_does_not() {
    let first = chat(&format!("{} {FRANCE}", "The sea is wide and the wind is cold. ".repeat(20)));
    let node = shared();
    let answer = node.answer(tenant(&first, "second turn")).await;
    assert_eq!(answer.usage.prompt_cache_hit_tokens, 0);
    let mut second = first.clone();
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into(), ..first.messages[0].clone() };
    second.messages.extend([message("assistant", &answer.text), message("user", "And of Spain?")]);
    let turn = node.answer(tenant(&second, "second turn")).await;
    let hit = turn.usage.prompt_cache_hit_tokens;
    assert!(hit > answer.usage.prompt_tokens - 20, "{hit} of {}", turn.usage.prompt_tokens);
    assert_eq!(turn.started.unwrap().cached_tokens, hit);
    let stranger = node.answer(tenant(&second, "stranger")).await;
    assert_eq!((stranger.usage.prompt_cache_hit_tokens, &stranger.text), (0, &turn.text));
    let mut user = second.clone();
    user.user_id = Some("u".into());
    assert_eq!(node.answer(tenant(&user, "second turn")).await.usage.prompt_cache_hit_tokens, 0);
}

#[tokio::test]
async fn several_answers_come_at_once_and_each_is_what_it_would_be_alone() {
    let mut several = chat("Write one line about the sea.");
    (several.temperature, several.seed, several.sampling.n) = (1.0, Some(11), 3);
    let mut events = shared().open(request(&several)).await;
    let (mut texts, mut reasons, mut usage) = (vec![String::new(); 3], vec![String::new(); 3], None);
    while let Some(event) = events.message().await.unwrap() {
        match event.kind.unwrap() {
            Kind::Delta(delta) => {
                if let Some(Part::Text(text)) = delta.part {
                    texts[delta.choice as usize].push_str(&text);
                }
            }
            Kind::Finished(finished) => reasons[finished.choice as usize] = finished.reason,
            Kind::Usage(u) => usage = Some(u),
            Kind::Started(_) => {}
            Kind::Error(error) => panic!("{error:?}"),
        }
    }
    assert!(reasons.iter().all(|r| ["stop", "length"].contains(&r.as_str())), "{reasons:?}");
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let mut one = several.clone();
    one.sampling.n = 1;
    let alone = shared().answer(request(&one)).await;
    assert_eq!(alone.text, texts[0]);
    assert!(usage.unwrap().completion_tokens > alone.usage.completion_tokens);
    one.sampling.n = 16;
    one.max_tokens = Some(8000);
    assert_eq!(shared().answer(request(&one)).await.code(), code::CONTEXT_LENGTH_EXCEEDED);
}

#[tokio::test]
async fn probabilities_are_of_the_tokens_that_were_sent() {
    let mut asked = chat(FRANCE);
    (asked.sampling.logprobs, asked.sampling.top_logprobs) = (true, 3);
    let mut events = shared().open(request(&asked)).await;
    let (mut spelled, mut count) = (Vec::new(), 0);
    let mut text = String::new();
    while let Some(event) = events.message().await.unwrap() {
        let Some(Kind::Delta(delta)) = event.kind else { continue };
        if let Some(Part::Text(piece)) = &delta.part {
            text.push_str(piece);
        }
        let [logprob] = delta.logprobs.as_slice() else { panic!("{delta:?}") };
        assert_eq!([logprob.token_id], delta.token_ids[..]);
        assert_eq!((logprob.top.len(), logprob.top[0].token_id), (3, logprob.token_id), "greedy takes the likeliest");
        assert!(logprob.logprob <= 0.0 && logprob.top[0].logprob >= logprob.top[1].logprob);
        spelled.extend_from_slice(&logprob.token);
        count += 1;
    }
    assert!(count > 3);
    assert_eq!(String::from_utf8(spelled).unwrap(), text);
}

#[tokio::test]
async fn a_bias_forbids_a_token_and_one_that_does_not_exist_is_named() {
    let plain = shared().answer(request(&chat(FRANCE))).await;
    let mut biased = chat(FRANCE);
    biased.sampling.logit_bias.insert(plain.tokens[0].to_string(), -100.0);
    assert!(!shared().answer(request(&biased)).await.tokens.contains(&plain.tokens[0]));
    biased.sampling.logit_bias.insert("4000000".into(), 1.0);
    let error = shared().answer(request(&biased)).await.error.unwrap();
    assert_eq!(error.code, code::INVALID_REQUEST);
    assert!(error.message.contains("4000000"), "{}", error.message);
    // What no number is left of is the request's own fault.
    let mut much = chat(FRANCE);
    much.sampling.logit_bias.insert(plain.tokens[0].to_string(), 1e39);
    let mut penalised = chat(FRANCE);
    penalised.sampling.repetition_penalty = 1e300;
    for (asked, what) in [(much, "logit_bias"), (penalised, "repetition_penalty")] {
        let error = shared().answer(request(&asked)).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.retryable), (code::INVALID_REQUEST, false));
        assert!(error.message.contains(what), "{}", error.message);
    }
}

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for() {
    let mut asked = chat("Describe a cat.");
    asked.max_tokens = Some(200);
    asked.temperature = 0.8;
    for seed in 0..3 {
        asked.seed = Some(seed);
        let schema = serde_json::json!({
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 12}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["name", "lives"],
            "additionalProperties": false,
        });
        let schema = serde_json::json!({"type": "json_schema", "json_schema": {"name": "cat", "schema": schema}});
        asked.response_format = serde_json::from_value(schema).unwrap();
        let answer = shared().answer(request(&asked)).await;
        let cat: serde_json::Value =
            serde_json::from_str(&answer.text).unwrap_or_else(|e| panic!("{e}: {}", answer.text));
        assert!((1..=9).contains(&cat["lives"].as_i64().unwrap()) && cat["name"].is_string(), "{cat}");
        assert_eq!(answer.reason, "stop");
        asked.response_format = ResponseFormat::Regex { regex: "(cat|dog), [0-9]{3}".into() };
        let answer = shared().answer(request(&asked)).await;
        assert_eq!((answer.text.len(), &answer.text[3..5]), (8, ", "), "{}", answer.text);
    }
    asked.response_format = ResponseFormat::Regex { regex: "(".into() };
    let bad = shared().answer(request(&asked));
    let (bad, good) = tokio::join!(bad, shared().answer(request(&chat(FRANCE))));
    assert_eq!((bad.code(), good.text.as_str()), (code::INVALID_REQUEST, "The capital of France is Paris."));
}

#[tokio::test]
async fn penalties_are_kept_when_a_stream_is_continued() {
    let mut asked = chat("Repeat the word sea twenty times.");
    (asked.temperature, asked.seed) = (0.7, Some(5));
    (asked.sampling.frequency_penalty, asked.sampling.repetition_penalty) = (0.8, 1.2);
    let whole = shared().answer(request(&asked)).await;
    let rest = shared().answer(crate::support::resumed(&asked, &whole.tokens[..9])).await;
    assert_eq!(rest.tokens, whole.tokens[9..]);
}

#[tokio::test]
async fn tools_are_refused_by_a_model_that_knows_none() {
    let mut asked = chat(FRANCE);
    asked.tools = vec![serde_json::json!({"type": "function", "function": {"name": "f"}})];
    assert_eq!(shared().answer(request(&asked)).await.code(), code::INVALID_REQUEST);
}

#[tokio::test]
async fn a_form_is_kept_beside_tools_and_a_call_that_is_required_is_made() {
    let mut asked = chat(FRANCE);
    asked.max_tokens = Some(60);
    asked.tools = vec![serde_json::json!({"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"x": {"const": 7}}, "required": ["x"], "additionalProperties": false},
    }})];
    // What would be a call anywhere else is part of the form.
    let form = serde_json::json!({"name": "f", "x": "<tool_call>{\"name\": \"f\"}</tool_call>"});
    let format = serde_json::json!({"type": "json_schema", "json_schema": {"schema": {"const": form}}});
    asked.response_format = serde_json::from_value(format).unwrap();
    let answer = calling().answer(request(&asked)).await;
    assert_eq!((serde_json::from_str(&answer.text).ok(), answer.reason.as_str()), (Some(form), "stop"), "{answer:?}");
    // A call comes before the form, and no stop string is looked for in it.
    asked.tool_choice = serde_json::from_value("required".into()).unwrap();
    asked.stop = vec!["\n".into(), "7".into()];
    let mut events = calling().open(request(&asked)).await;
    let (mut name, mut arguments, mut reason) = (String::new(), String::new(), String::new());
    while let Some(event) = events.message().await.unwrap() {
        match event.kind.unwrap() {
            Kind::Delta(delta) => match delta.part {
                Some(Part::ToolCall(call)) => {
                    name.push_str(&call.name);
                    arguments.push_str(&call.arguments);
                }
                other => assert_eq!(other, Some(Part::Text(String::new()))),
            },
            Kind::Finished(finished) => reason = finished.reason,
            Kind::Error(error) => panic!("{error:?}"),
            Kind::Started(_) | Kind::Usage(_) => {}
        }
    }
    let arguments: serde_json::Value = serde_json::from_str(&arguments).unwrap();
    assert_eq!((name.as_str(), arguments, reason.as_str()), ("f", serde_json::json!({"x": 7}), "tool_calls"));
}

#[tokio::test]
async fn the_node_says_that_it_serves_and_how_much_it_does() {
    let mut health = HealthClient::connect(format!("http://{}", shared().at.grpc)).await.unwrap();
    for service in ["", "littoral.v1.Node"] {
        let status = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let unknown = health.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let mut watch = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let node = Node::start(2, 0);
    let mut long = chat("Tell me a story about a fisherman.");
    long.max_tokens = Some(200);
    let running = tokio::spawn(collect(node.open(request(&long)).await));
    // What a node says of itself is no picture of one moment.
    let info = node.until(|info| info.tokens_per_second > 0.0 && info.free_blocks < info.blocks).await;
    assert_eq!(info.blocks, 1024);
    running.await.unwrap();
    node.until(|info| info.running == 0 && info.cached_blocks > 2).await;
    assert!(node.metric("littoral_node_prompt_cache_hit_tokens_total").await >= 0.0);
}
