//! An answer that another node began goes on with the bits that the first would have computed.

use std::{sync::Arc, time::Instant};

use littoral_node::{
    engine::{Choice, Engine, Events, Job, Metrics, Spelling, Task, Voice},
    model::{BLOCK_TOKENS, DeviceChoice, Model},
    sample::Sampling,
    schedule::{Key, Limits, Prefix, Replay},
};
use littoral_proto::v1::event::Kind;

use crate::cases::Case;

const PROMPT: usize = 20;
const ANSWER: usize = 64;

/// Token ids are all that is compared.
struct Mute;

impl Spelling for Mute {
    fn push(&mut self, _: u32) -> Option<String> {
        None
    }
    fn finish(&mut self) -> Option<String> {
        None
    }
    fn bytes(&self, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

/// Tokens, and the bits of their log probabilities.
pub type Said = Vec<(u32, Vec<u32>)>;

/// The answer of a node that is new, after those tokens of it that another has sent.
async fn answer(case: &Case, sent: &[u32], replay: impl Fn(bool) -> Replay) -> Said {
    answer_of(case.model(DeviceChoice::Cpu), case, (sent, replay), (warm(), ANSWER)).await
}

fn warm() -> Sampling {
    Sampling { seed: 3, logprobs: Some(2), ..Sampling::default() }
}

/// At most so many tokens, drawn in this way from this model.
pub async fn answer_of(
    model: Model,
    case: &Case,
    (sent, replay): (&[u32], impl Fn(bool) -> Replay),
    (sampling, max_tokens): (Sampling, usize),
) -> Said {
    let (context, replay) = (model.info().context_length, replay(model.info().batch_invariant));
    let limits = Limits { slots: 2, queue: 2, rows: 128, blocks: 32, block_tokens: BLOCK_TOKENS, context, replay };
    let engine = Engine::start(model, limits, Arc::new(Metrics::new(&metrics::NoopRecorder))).unwrap();
    let prompt = case.prompts[0].ids[..PROMPT].to_vec();
    let mut voice = Voice::new(0, Box::new(Mute), Vec::new(), None);
    sent.iter().for_each(|id| voice.replay(*id, None));
    let job = Job {
        request_id: case.name.into(),
        node: "n".into(),
        prefix: Prefix::of(Key::scope("t", None), &prompt, BLOCK_TOKENS),
        prompt,
        task: Task::Answer(vec![Choice { index: 0, resumed: sent.to_vec(), voice, constraint: None }]),
        max_tokens,
        sampling: Arc::new(sampling),
        speculate: None,
        ends: [].into(),
        received: Instant::now(),
        deadline: None,
    };
    collect(engine.submit(engine.admit().unwrap(), job)).await
}

async fn collect(mut events: Events) -> Said {
    let mut said = Vec::new();
    while let Some(event) = events.next().await {
        match event.kind.unwrap() {
            Kind::Delta(delta) => {
                let bits = |of: &littoral_proto::v1::Logprob| {
                    let top = of.top.iter().map(|t| t.logprob);
                    std::iter::once(of.logprob).chain(top).map(f32::to_bits).collect()
                };
                said.push((delta.token_ids[0], delta.logprobs.first().map(bits).unwrap()));
            }
            Kind::Error(error) => panic!("{error:?}"),
            _ => {}
        }
    }
    said
}

pub fn as_the_model_wants(batch_invariant: bool) -> Replay {
    if batch_invariant { Replay::Prefill } else { Replay::Decode }
}

#[tokio::test]
async fn the_rest_of_an_answer_has_the_bits_of_the_unbroken_one() {
    for name in ["deepseek-v2", "deepseek-v3", "deepseek-v32", "deepseek-v4", "llama", "qwen2"] {
        let case = Case::open(name);
        let whole = answer(&case, &[], as_the_model_wants).await;
        let tokens: Vec<u32> = whole.iter().map(|s| s.0).collect();
        assert_eq!(tokens.len(), ANSWER, "{name}");
        for sent in [1, 40, ANSWER - 1] {
            assert_eq!(answer(&case, &tokens[..sent], as_the_model_wants).await, whole[sent..], "{name} after {sent}");
        }
    }
}

#[tokio::test]
async fn it_has_with_keys_and_values_of_f16_too() {
    for name in ["deepseek-v2", "deepseek-v3", "deepseek-v32", "llama", "qwen2"] {
        let case = Case::open(name);
        let answer_of = async |sent: &[u32]| {
            answer_of(case.model_of_halves(), &case, (sent, as_the_model_wants), (warm(), ANSWER)).await
        };
        let whole = answer_of(&[]).await;
        assert_ne!(whole, answer(&case, &[], as_the_model_wants).await, "{name}: then nothing was rounded");
        let tokens: Vec<u32> = whole.iter().map(|s| s.0).collect();
        for sent in [1, 40] {
            assert_eq!(answer_of(&tokens[..sent]).await, whole[sent..], "{name} after {sent}");
        }
    }
}

#[tokio::test]
async fn read_like_a_prompt_latent_attention_would_round_otherwise() {
    let case = Case::open("deepseek-v3");
    let whole = answer(&case, &[], as_the_model_wants).await;
    let tokens: Vec<u32> = whole.iter().map(|s| s.0).collect();
    let read = answer(&case, &tokens[..40], |_| Replay::Prefill).await;
    assert_ne!(read, whole[40..], "then the other test proves nothing");
}
