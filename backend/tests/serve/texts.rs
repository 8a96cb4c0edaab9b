//! Token ids, texts and vectors over gRPC.

use std::path::{Path, PathBuf};

use littoral_api::error::code;
use littoral_node::model::{self, DeviceChoice, Options};
use littoral_proto::v1::{
    DetokenizeRequest, EmbedInput, EmbedRequest, EmbedResponse, TokenIds, TokenizeRequest, embed_input::Kind,
    tokenize_request::Input,
};
use serde_json::Value;
use tonic::{Code, Status};

use crate::support::{MODEL, Node, chat, request, shared};

/// Largest difference of an element of a vector, of length 1, to the reference's: keys and values are f16 here.
const TOLERANCE: f32 = 3e-4;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/embedding/qwen2"))
}

/// What transformers says.
struct Reference {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

fn references() -> Vec<Reference> {
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(folder().join("reference.json")).unwrap()).unwrap();
    let one = |case: &Value| Reference {
        text: case["text"].as_str().unwrap().into(),
        ids: serde_json::from_value(case["ids"].clone()).unwrap(),
        vector: serde_json::from_value(case["vector"].clone()).unwrap(),
    };
    cases.iter().map(one).collect()
}

fn text(text: &str) -> EmbedInput {
    EmbedInput { kind: Some(Kind::Text(text.into())) }
}

async fn embed(node: &Node, request: EmbedRequest) -> Result<EmbedResponse, Status> {
    Ok(node.client().await.embed(request).await?.into_inner())
}

fn wanted(inputs: Vec<EmbedInput>) -> EmbedRequest {
    EmbedRequest { model: MODEL.into(), inputs, ..EmbedRequest::default() }
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: {worst:e}");
}

#[tokio::test]
async fn vectors_are_those_of_transformers_alone_and_together_as_texts_and_as_ids() {
    let (node, references) = (Node::serving(&folder(), 3, 16), references());
    let together = embed(&node, wanted(references.iter().map(|r| text(&r.text)).collect())).await.unwrap();
    assert_eq!(together.prompt_tokens as usize, references.iter().map(|r| r.ids.len()).sum::<usize>());
    for (reference, vector) in references.iter().zip(&together.embeddings) {
        assert_close(&vector.values, &reference.vector, &reference.text);
        let ids = EmbedInput { kind: Some(Kind::Tokens(TokenIds { ids: reference.ids.clone() })) };
        let alone = embed(&node, wanted(vec![ids])).await.unwrap();
        assert_eq!(alone.embeddings[0], *vector, "{}", reference.text);
    }
    // The longest was read in chunks, and the second time found but for its end.
    let longest = references.iter().max_by_key(|r| r.ids.len()).unwrap();
    assert!(longest.ids.len() > 2 * 64);
    let again = embed(&node, wanted(vec![text(&longest.text)])).await.unwrap();
    assert!(again.prompt_cache_hit_tokens as usize >= longest.ids.len() - 17, "{}", again.prompt_cache_hit_tokens);
    assert_close(&again.embeddings[0].values, &longest.vector, "found again");
    let info = node.until(|info| info.running == 0 && info.free_blocks == info.blocks).await;
    assert_eq!(info.models[0].embedding_dimensions, 48);
}

#[tokio::test]
async fn fewer_dimensions_are_the_first_at_length_one() {
    let (node, reference) = (Node::serving(&folder(), 2, 4), &references()[0]);
    let cut = EmbedRequest { dimensions: 16, ..wanted(vec![text(&reference.text)]) };
    let vector = embed(&node, cut).await.unwrap().embeddings.remove(0).values;
    let length = reference.vector[..16].iter().map(|x| x * x).sum::<f32>().sqrt();
    let expected: Vec<f32> = reference.vector[..16].iter().map(|x| x / length).collect();
    assert_close(&vector, &expected, "cut");
    let most = embed(&node, EmbedRequest { dimensions: 49, ..wanted(vec![text("a")]) }).await.unwrap_err();
    assert_eq!(most.code(), Code::InvalidArgument);
    assert!(most.message().contains("48"), "{most}");
}

#[tokio::test]
async fn what_no_vector_can_be_made_of_is_refused_with_what_to_do() {
    let node = Node::serving(&folder(), 2, 4);
    let ids = |ids: Vec<u32>| EmbedInput { kind: Some(Kind::Tokens(TokenIds { ids })) };
    for (inputs, word) in [
        (vec![], "inputs"),
        (vec![text("a"); 2049], "2049"),
        (vec![text("a"), ids(vec![])], "input 1 is empty"),
        (vec![ids(vec![320])], "token 320"),
        (vec![ids(vec![5; 1024])], "1024 tokens"),
        (vec![text(&"x".repeat(5 << 20))], "MiB"),
    ] {
        let refused = embed(&node, wanted(inputs)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let other = embed(&node, EmbedRequest { model: "other".into(), ..wanted(vec![text("a")]) }).await.unwrap_err();
    assert_eq!(other.code(), Code::NotFound);
    // It generates nothing.
    let error = node.answer(request(&chat("Hello"))).await.error.unwrap();
    assert_eq!((error.code.as_str(), error.retryable), (code::INVALID_REQUEST, false));
    assert!(error.message.contains("vectors"), "{}", error.message);
}

#[tokio::test]
async fn a_model_that_generates_makes_no_vectors_and_says_so() {
    let refused = embed(shared(), wanted(vec![text("a")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("embedding model"), "{refused}");
    assert_eq!(shared().describe().await.models[0].embedding_dimensions, 0);
}

#[tokio::test]
async fn calls_beside_each_other_wait_for_their_turns_and_none_is_refused_in_its_middle() {
    let node = Node::serving(&folder(), 2, 16);
    let inputs: Vec<EmbedInput> = references().iter().map(|r| text(&r.text)).collect();
    let calls = futures::future::join_all((0..18).map(|_| embed(&node, wanted(inputs.clone())))).await;
    for call in calls {
        assert_eq!(call.unwrap().embeddings.len(), inputs.len());
    }
    node.until(|info| info.running + info.queued == 0 && info.free_blocks == info.blocks).await;
}

#[tokio::test]
async fn who_goes_or_waits_too_long_gets_none_and_holds_nothing() {
    let node = Node::serving(&folder(), 1, 2);
    let many: Vec<EmbedInput> = (0..2000).map(|i| text(&format!("{i} {}", references()[6].text))).collect();
    let late = embed(&node, EmbedRequest { deadline_ms: 30, ..wanted(many.clone()) }).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    node.until(|info| info.running + info.queued == 0).await;
    let mut client = node.client().await;
    let gone = tokio::spawn(async move { client.embed(wanted(many)).await });
    node.until(|info| info.running == 1).await;
    gone.abort();
    assert!(gone.await.is_err_and(|error| error.is_cancelled()), "too fast to be cancelled");
    node.until(|info| info.running + info.queued == 0 && info.free_blocks == info.blocks).await;
}

#[tokio::test]
async fn the_layout_says_what_is_a_model_that_embeds() {
    let copy = std::env::temp_dir().join(format!("littoral-embedding-{}", std::process::id()));
    std::fs::create_dir_all(copy.join("1_Pooling")).unwrap();
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json"];
    for file in files.iter().copied().chain(["1_Pooling/config.json"]) {
        std::fs::copy(folder().join(file), copy.join(file)).unwrap();
    }
    let options = Options { device: DeviceChoice::Cpu, kv_blocks: 8, ..Options::default() };
    let pooling = |path: &Path| model::load(path, options, &|_, _| {}).map(|loaded| loaded.model.info().pooling);
    let edit = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        assert!(text.contains(from), "{file}");
        std::fs::write(copy.join(file), text.replace(from, to)).unwrap();
    };
    assert!(pooling(&copy).unwrap().unwrap().normalize);
    edit("modules.json", "models.Normalize", "models.Dense");
    let refused = pooling(&copy).unwrap_err().to_string();
    assert!(refused.contains("Dense"), "{refused}");
    edit("modules.json", "1_Pooling", "../1_Pooling");
    assert!(pooling(&copy).is_err(), "what lies elsewhere is not read");
    edit("1_Pooling/config.json", "mean_tokens\": false", "mean_tokens\": true");
    std::fs::copy(folder().join("modules.json"), copy.join("modules.json")).unwrap();
    let refused = pooling(&copy).unwrap_err().to_string();
    assert!(refused.contains("mean_tokens"), "{refused}");
    // A bare architecture is one by itself; one with a head is not.
    std::fs::remove_file(copy.join("modules.json")).unwrap();
    assert!(pooling(&copy).unwrap().is_some());
    edit("config.json", "Qwen2Model", "Qwen2ForCausalLM");
    assert_eq!(pooling(&copy).unwrap(), None);
    std::fs::remove_dir_all(copy).unwrap();
}

#[tokio::test]
async fn texts_and_conversations_become_ids_and_texts_again() {
    let mut client = shared().client().await;
    let mut tokenize = async |input| {
        let asked = TokenizeRequest { model: MODEL.into(), input };
        client.tokenize(asked).await.map(tonic::Response::into_inner)
    };
    let text = "The sea, 潮, and <|im_end|> beyond.";
    let said = tokenize(Some(Input::Text(text.into()))).await.unwrap();
    assert!(said.token_ids.len() > 5 && said.context_length == 8192);
    let asked = request(&chat("What is a tide?"));
    let prompt = tokenize(Some(Input::Request(asked.request.to_vec()))).await.unwrap().token_ids;
    for (input, word) in [
        (None, "wanted"),
        (Some(Input::Text("x".repeat(5 << 20))), "MiB"),
        (Some(Input::Request(b"{}".to_vec())), "canonical"),
    ] {
        let refused = tokenize(input).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(word), "{refused}");
    }
    // As many as a generation counts.
    let answer = shared().answer(asked).await;
    assert_eq!(prompt.len() as u32, answer.usage.prompt_tokens);
    let mut client = shared().client().await;
    let mut detokenize = async |token_ids: Vec<u32>| {
        let asked = DetokenizeRequest { model: MODEL.into(), token_ids };
        client.detokenize(asked).await.map(|said| said.into_inner().text)
    };
    assert_eq!(detokenize(said.token_ids).await.unwrap(), text.replace("<|im_end|>", ""));
    assert_eq!(detokenize(answer.tokens).await.unwrap(), answer.text);
    assert_eq!(detokenize(vec![u32::MAX]).await.unwrap_err().code(), Code::InvalidArgument);
}
