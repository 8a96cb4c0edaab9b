//! Generations over gRPC.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use littoral_api::error::code;
use littoral_core::chat::ChatRequest;
use littoral_proto::v1::{GenerateRequest, Resume, Speculation, event::Kind};

use crate::support::{Answer, Node, chat, request, resumed, shared};

const FRANCE: &str = "What is the capital of France? Answer in one sentence.";
const STORY: &str = "Tell me a story about a fisherman.";

/// Of all answers of a request together.
async fn completion_tokens(node: &Node, request: GenerateRequest) -> u32 {
    let mut events = node.open(request).await;
    loop {
        match events.message().await.unwrap().unwrap().kind {
            Some(Kind::Usage(usage)) => return usage.completion_tokens,
            Some(Kind::Error(error)) => panic!("{error:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_answer_has_its_counts_and_says_who_gave_it() {
    let answer = shared().answer(request(&chat(FRANCE))).await;
    let started = answer.started.clone().unwrap();
    assert_eq!(answer.text, "The capital of France is Paris.");
    assert_eq!(answer.reason, "stop");
    assert_eq!(answer.usage.completion_tokens as usize, answer.tokens.len());
    assert_eq!(answer.usage.prompt_tokens, started.prompt_tokens);
    assert!(started.prompt_tokens > 20);
    assert_eq!(started.node, shared().at.grpc.to_string());
    assert_eq!(answer.error, None);
}

#[tokio::test]
async fn max_tokens_are_the_most() {
    let mut chat = chat(STORY);
    for max in [1, 5] {
        chat.max_tokens = Some(max);
        let answer = shared().answer(request(&chat)).await;
        assert_eq!((answer.usage.completion_tokens, answer.reason.as_str()), (max, "length"));
    }
}

#[tokio::test]
async fn two_answers_come_token_by_token_in_turns() {
    let clock = Arc::new(AtomicUsize::new(0));
    let times = |prompt: &'static str| {
        let clock = clock.clone();
        async move {
            let mut events = shared().open(request(&chat(prompt))).await;
            let mut times = Vec::new();
            while let Some(event) = events.message().await.unwrap() {
                if matches!(event.kind, Some(Kind::Delta(_))) {
                    times.push(clock.fetch_add(1, Ordering::Relaxed));
                }
            }
            times
        }
    };
    let mut orders = Vec::new();
    // What a stall of this process holds up comes all at once: some try shows the turns.
    for _ in 0..5 {
        let (a, b) = tokio::join!(times(STORY), times("Count from one to twenty in words."));
        let mut order: Vec<(usize, char)> = a.iter().map(|t| (*t, 'a')).chain(b.iter().map(|t| (*t, 'b'))).collect();
        order.sort_unstable();
        if order.windows(2).filter(|w| w[0].1 != w[1].1).count() >= 16 {
            return;
        }
        orders.push(order);
    }
    panic!("fewer than 16 turns in each of {orders:?}");
}

#[tokio::test]
async fn a_seed_draws_the_same_alone_and_in_company() {
    let mut sampled = chat("Write one line about the sea.");
    (sampled.temperature, sampled.top_p, sampled.seed) = (1.0, 0.9, Some(42));
    let alone = shared().answer(request(&sampled)).await;
    assert_eq!(alone.started.as_ref().unwrap().seed, 42);
    let story = chat(STORY);
    let (company, _, _) = tokio::join!(
        shared().answer(request(&sampled)),
        shared().answer(request(&story)),
        shared().answer(request(&story)),
    );
    assert_eq!(company.text, alone.text);
    sampled.seed = Some(43);
    assert_ne!(shared().answer(request(&sampled)).await.text, alone.text);
}

#[tokio::test]
async fn without_a_seed_the_node_draws_one_and_says_it() {
    let mut sampled = chat("Write one line about the sea.");
    sampled.temperature = 1.0;
    let first = shared().answer(request(&sampled)).await;
    let seed = first.started.unwrap().seed;
    let again = GenerateRequest { seed: Some(seed), ..request(&sampled) };
    assert_eq!(shared().answer(again).await.text, first.text);
}

#[tokio::test]
async fn a_stop_string_is_found_across_tokens() {
    let whole = shared().answer(request(&chat(STORY))).await;
    // From the middle of one token to the middle of another.
    let at = whole.pieces[..8].concat().len() + 1;
    let stop = whole.text.get(at..at + whole.pieces[8].len() + 1).unwrap().to_string();
    let expected = whole.text.split(&stop).next().unwrap();
    let mut stopping = chat(STORY);
    stopping.stop = vec!["never to be seen".into(), stop.clone()];
    let answer = shared().answer(request(&stopping)).await;
    assert_eq!((answer.text.as_str(), answer.reason.as_str()), (expected, "stop"), "{stop:?}");
    assert!(answer.tokens.len() < whole.tokens.len());
    assert_eq!(answer.usage.completion_tokens as usize, answer.tokens.len());
}

#[tokio::test]
async fn a_broken_stream_is_continued_to_the_same_text() {
    let mut sampled = chat(STORY);
    (sampled.temperature, sampled.seed) = (0.8, Some(7));
    for chat in [chat(STORY), sampled] {
        let whole = shared().answer(request(&chat)).await;
        for sent in [1, 10, whole.tokens.len()] {
            let rest = shared().answer(resumed(&chat, &whole.tokens[..sent])).await;
            assert_eq!(rest.tokens, whole.tokens[sent..], "after {sent}");
            assert_eq!(whole.pieces[..sent].concat() + &rest.text, whole.text);
            // How much of the prompt was found in the cache may differ; what is counted may not.
            let counted = |a: &Answer| (a.usage.prompt_tokens, a.usage.completion_tokens, a.reason.clone());
            assert_eq!(counted(&rest), counted(&whole));
        }
    }
}

#[tokio::test]
async fn a_text_that_another_server_said_is_read_and_not_said_again() {
    let after = |chat: &ChatRequest, text: &str| {
        let resume = Resume { text: text.into(), ..Resume::default() };
        GenerateRequest { resume_from: vec![resume], ..request(chat) }
    };
    let chat = chat(STORY);
    let whole = shared().answer(request(&chat)).await;
    for sent in [1, 10, whole.tokens.len() - 1] {
        let text = whole.pieces[..sent].concat();
        let rest = shared().answer(after(&chat, &text)).await;
        assert_eq!(rest.tokens, whole.tokens[sent..], "after {text:?}");
        assert_eq!((text + &rest.text, rest.usage.completion_tokens), (whole.text.clone(), 24));
        assert_eq!((rest.reason.as_str(), rest.usage.prompt_tokens), ("length", whole.usage.prompt_tokens));
    }
    // What would be held back, because it may become a stop string, has been said.
    let text = whole.pieces[..10].concat();
    let stopping = ChatRequest { stop: vec![format!("{}#", &text[text.len() - 3..])], ..chat.clone() };
    let rest = shared().answer(after(&stopping, &text)).await;
    assert_eq!(text.clone() + &rest.text, whole.text);
    // A text as long as the answer may be, or longer, is all of it.
    for max_tokens in [10, 4] {
        let short = ChatRequest { max_tokens: Some(max_tokens), ..chat.clone() };
        let rest = shared().answer(after(&short, &text)).await;
        assert_eq!((rest.text.as_str(), rest.reason.as_str(), rest.tokens.len()), ("", "length", 0));
        assert_eq!(rest.usage.completion_tokens, max_tokens);
    }
    // What this model could not have said as text.
    let refused = shared().answer(after(&chat, "Once<|im_end|>")).await;
    assert_eq!(refused.code(), "cannot_resume");
    assert!(refused.error.is_some_and(|error| error.retryable));
    assert!(shared().metric("littoral_node_requests_total{outcome=\"cannot_resume\"}").await >= 1.0);
    let mut both = after(&chat, &text);
    both.resume_from[0].token_ids = vec![1];
    assert_eq!(shared().answer(both).await.code(), "invalid_request_error");
}

#[tokio::test]
async fn a_client_that_goes_frees_its_slot_long_before_the_end() {
    let node = Node::start(2, 0);
    let mut long = chat(STORY);
    long.max_tokens = Some(2000);
    let mut events = node.open(request(&long)).await;
    let mut answer = Answer::default();
    while answer.tokens.len() < 5 {
        answer.take(events.message().await.unwrap().unwrap());
    }
    assert_eq!(node.describe().await.running, 1);
    drop(events);
    node.until(|info| info.running == 0 && info.free_blocks == 1024).await;
    node.until_metric("littoral_node_requests_total{outcome=\"cancelled\"}", 1.0).await;
    // One token may have been on its way when the fifth was read, one in the making; more where the machine stalls.
    let made = node.metric("littoral_node_completion_tokens_total").await;
    assert!(made < 1000.0, "{made} tokens for a reader of 5");
}

#[tokio::test]
async fn a_full_node_refuses_at_once_and_says_that_others_may_help() {
    let node = Arc::new(Node::start(1, 1));
    let mut long = chat(STORY);
    long.max_tokens = Some(2000);
    let mut running = node.open(request(&long)).await;
    running.message().await.unwrap();
    let mut short = chat(FRANCE);
    short.max_tokens = Some(1);
    let (same, second) = (node.clone(), request(&short));
    let waiting = tokio::spawn(async move { same.answer(second).await });
    node.until(|info| info.queued == 1).await;
    let refused = node.answer(request(&short)).await;
    assert_eq!(refused.code(), code::OVERLOADED);
    assert!(refused.error.unwrap().retryable);
    drop(running);
    assert_eq!(waiting.await.unwrap().usage.completion_tokens, 1);
}

#[tokio::test]
async fn more_answers_than_the_node_has_places_for_are_refused_for_good() {
    let node = Node::start(1, 2);
    let mut many = chat(FRANCE);
    many.sampling.n = 4;
    let refused = node.answer(request(&many)).await.error.unwrap();
    assert_eq!((refused.code.as_str(), refused.retryable), (code::INVALID_REQUEST, false));
    assert!(refused.message.contains("3 answers") && refused.message.contains("'n'"), "{}", refused.message);
    many.sampling.n = 3;
    let most = many.max_tokens.unwrap();
    assert!((3..=3 * most).contains(&completion_tokens(&node, request(&many)).await));
}

#[tokio::test]
async fn a_key_of_another_user_does_not_wait_for_all_that_one_sends() {
    let node = Arc::new(Node::start(1, 8));
    let of = |user: &str, tokens: u32| {
        let mut asked = chat(STORY);
        asked.max_tokens = Some(tokens);
        GenerateRequest { tenant: "acme".into(), user: user.into(), ..request(&asked) }
    };
    let greedy: Vec<_> = (0..5)
        .map(|_| {
            let (node, asked) = (node.clone(), of("ada", 300));
            tokio::spawn(async move { node.answer(asked).await })
        })
        .collect();
    node.until(|info| info.running == 1 && info.queued == 4).await;
    assert_eq!(node.answer(of("bob", 2)).await.usage.completion_tokens, 2);
    assert!(node.describe().await.queued >= 3, "bob was the last");
    greedy.into_iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn the_time_between_tokens_is_an_answers_own() {
    let node = Node::start(2, 0);
    let mut two = chat(STORY);
    (two.max_tokens, two.sampling.n) = (Some(20), 2);
    assert_eq!(completion_tokens(&node, request(&two)).await, 40);
    node.until_metric("littoral_node_inter_token_seconds_count", 38.0).await;
    let (_, page) = crate::support::get(node.at.metrics, "/metrics").await;
    assert!(page.contains("# HELP littoral_node_inter_token_seconds Between two tokens of an answer"), "{page}");
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_the_numbers() {
    let long = chat(&"word ".repeat(100_000));
    let error = shared().answer(request(&long)).await.error.unwrap();
    assert_eq!((error.code.as_str(), error.retryable), (code::CONTEXT_LENGTH_EXCEEDED, false));
    assert!(error.message.contains("8192") && error.message.contains("1000"), "{}", error.message);
}

#[tokio::test]
async fn a_long_prompt_is_read_in_chunks_and_answered() {
    let mut long = chat(&format!("{} {FRANCE}", "The sea is wide. ".repeat(60)));
    long.max_tokens = Some(8);
    let answer = shared().answer(request(&long)).await;
    assert!(answer.usage.prompt_tokens > 250, "{:?}", answer.usage);
    assert_eq!(answer.error, None);
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused() {
    let good = request(&chat(FRANCE));
    let unknown = GenerateRequest { model: "gpt-0".into(), ..good.clone() };
    let garbled = GenerateRequest { request: b"{\"model\":1}".as_slice().into(), ..good.clone() };
    let beyond = resumed(&chat(FRANCE), &[4_000_000]);
    for (request, code) in
        [(unknown, code::MODEL_NOT_FOUND), (garbled, code::INVALID_REQUEST), (beyond, code::INVALID_REQUEST)]
    {
        assert_eq!(shared().answer(request).await.code(), code);
    }
}

#[tokio::test]
async fn a_deadline_ends_the_answer() {
    let mut long = chat(STORY);
    long.max_tokens = Some(2000);
    let answer = shared().answer(GenerateRequest { deadline_ms: 300, ..request(&long) }).await;
    assert_eq!(answer.code(), code::DEADLINE_EXCEEDED);
}

#[tokio::test]
async fn the_node_describes_itself() {
    let info = shared().describe().await;
    assert_eq!((info.slots, info.draining), (4, false));
    assert_eq!(info.models.len(), 1);
    assert_eq!(info.models[0].context_length, 8192);
    assert!(!info.models[0].revision.is_empty() && info.models[0].created > 1_700_000_000);
    assert!(info.device.contains("cpu"), "{}", info.device);
}

#[tokio::test]
async fn drafts_are_made_for_who_asks_for_them_and_the_answer_is_the_same() {
    let node = Node::start(1, 2);
    let mut list = chat(
        "Repeat the following text word by word: The ferry leaves the island at nine. The ferry comes back to the island \
         at noon. The ferry leaves the island again at three. The ferry comes back to the island at six.",
    );
    list.max_tokens = Some(60);
    let asked = |how: i32| GenerateRequest { speculation: how, ..request(&list) };
    let plain = node.answer(asked(Speculation::Off.into())).await;
    assert_eq!(node.metric("littoral_node_draft_tokens_total").await, 0.0);
    let mut drafted = 0.0;
    for how in [Speculation::Auto, Speculation::On] {
        let answer = node.answer(asked(how.into())).await;
        assert_eq!((&answer.text, &answer.tokens), (&plain.text, &plain.tokens), "{how:?}");
        let so_far = node.metric("littoral_node_draft_tokens_total").await;
        assert!(so_far > drafted, "nothing is drafted: {how:?}");
        drafted = so_far;
    }
    let unknown = node.answer(asked(7)).await;
    assert_eq!(unknown.code(), code::INVALID_REQUEST);
    assert!(unknown.error.unwrap().message.contains("speculation"));
}
