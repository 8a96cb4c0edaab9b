//! The engine with a model whose next token is a function of everything its cache holds of the sequence, so that a
//! wrong position, a lost block or a shared block changes the answer.

mod drafts;

use std::{
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use littoral_api::error::code;
use littoral_proto::v1::{Error, Event, delta::Part, event::Kind};

use super::*;
use crate::{
    sample::Sampling,
    schedule::{Key, Prefix, Replay},
};

const VOCAB: u32 = 64;
/// Ends an answer. The sum below reaches it now and then.
const END: u32 = 63;
const LIMITS: Limits =
    Limits { slots: 2, queue: 2, rows: 8, blocks: 64, block_tokens: 4, context: 128, replay: Replay::Prefill };

/// Start and length of the segments of every step.
type Steps = Arc<Mutex<Vec<Vec<(usize, usize)>>>>;

struct Sums {
    cache: Vec<u32>,
    steps: Steps,
    /// Each step waits for one of these, if there are any.
    gate: Option<mpsc::Receiver<Result<(), StepError>>>,
    /// Of the last step.
    rows: Vec<Vec<f32>>,
}

impl Step for Sums {
    fn forward(&mut self, segments: &[Segment]) -> Result<(), StepError> {
        if let Some(gate) = &self.gate {
            gate.recv().unwrap_or(Ok(()))?;
        }
        self.steps.lock().unwrap().push(segments.iter().map(|s| (s.start, s.tokens.len())).collect());
        self.rows.clear();
        for segment in segments {
            let at = |position: usize| segment.blocks[position / 4] as usize * 4 + position % 4;
            for (position, token) in (segment.start..).zip(segment.tokens) {
                assert_ne!(*token, 13, "this model panics at token 13 of a prompt");
                self.cache[at(position)] = *token;
            }
            let end = segment.start + segment.tokens.len();
            // Token 13 is never drawn, so that only prompts can hold it.
            let logit = |id: u32, sum: u32| match id {
                13 => f32::NEG_INFINITY,
                id if id == sum => 5.0,
                _ => 0.0,
            };
            // The modulus keeps answers repetitive, so that there is something to draft.
            let sum = |end: usize| (0..end).map(|p| self.cache[at(p)] * (p as u32 % 5 + 1)).sum::<u32>() % VOCAB;
            let row = |end: usize| (0..VOCAB).map(|id| logit(id, sum(end))).collect::<Vec<f32>>();
            self.rows.extend((end + 1 - segment.wanted()..=end).map(row));
        }
        Ok(())
    }

    fn draw(&mut self, draws: &[Draw]) -> Result<Vec<Result<Picked, SampleError>>, StepError> {
        Ok(draws.iter().map(|draw| draw.pick(&self.rows[draw.row])).collect())
    }

    fn read(&mut self, segments: &[Segment]) -> Result<Vec<Option<Vec<f32>>>, StepError> {
        let mut rows = self.rows.drain(..);
        let read =
            segments.iter().map(|s| (s.wanted() > 0).then(|| rows.by_ref().take(s.wanted()).flatten().collect()));
        Ok(read.collect())
    }
}

/// Token `n` is spelled `<n>`.
struct Brackets;

impl Spelling for Brackets {
    fn push(&mut self, id: u32) -> Option<String> {
        Some(format!("<{id}>"))
    }
    fn finish(&mut self) -> Option<String> {
        None
    }
    fn bytes(&self, id: u32) -> Vec<u8> {
        format!("<{id}>").into_bytes()
    }
}

struct Bench {
    engine: Engine,
    steps: Steps,
}

fn bench(limits: Limits, gate: Option<mpsc::Receiver<Result<(), StepError>>>) -> Bench {
    let steps = Arc::default();
    let model =
        Sums { cache: vec![0; limits.blocks * limits.block_tokens], steps: Arc::clone(&steps), gate, rows: Vec::new() };
    let metrics = Metrics::new(&::metrics::NoopRecorder);
    Bench { engine: Engine::start(model, limits, Arc::new(metrics)).unwrap(), steps }
}

fn job(prompt: &[u32], max_tokens: usize) -> Job {
    asked(prompt, max_tokens, Sampling { seed: 1, temperature: 0.0, ..Sampling::default() })
}

fn asked(prompt: &[u32], max_tokens: usize, sampling: Sampling) -> Job {
    Job {
        request_id: "test".into(),
        node: "n".into(),
        prompt: prompt.to_vec(),
        prefix: Prefix::of(Key::scope("t", None), prompt, LIMITS.block_tokens),
        task: Task::Answer(vec![choice(0, max_tokens, &[], &[])]),
        max_tokens,
        sampling: Arc::new(sampling),
        speculate: None,
        ends: [END].into(),
        received: Instant::now(),
        deadline: None,
    }
}

/// A choice whose first tokens the client has.
fn choice(index: u32, max_tokens: usize, resumed: &[u32], stops: &[String]) -> Choice {
    let mut voice = Voice::new(index, Box::new(Brackets), stops.to_vec(), None);
    for (id, count) in resumed.iter().zip(1..) {
        voice.replay(*id, end_of(*id, count, max_tokens, &[END]));
    }
    Choice { index, resumed: resumed.to_vec(), voice, constraint: None }
}

impl Bench {
    fn submit(&self, job: Job) -> Events {
        self.engine.submit(self.engine.admit().unwrap(), job)
    }

    async fn answer(&self, job: Job) -> Answer {
        collect(self.submit(job)).await
    }

    async fn until(&self, what: impl Fn(Snapshot) -> bool) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !what(self.engine.load()) {
            assert!(Instant::now() < patience, "still {:?}", self.engine.load());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Answer {
    cached: u32,
    tokens: Vec<u32>,
    text: String,
    reason: Option<String>,
    completion: Option<u32>,
    error: Option<Error>,
}

impl Answer {
    fn take(&mut self, event: Event) {
        match event.kind.unwrap() {
            Kind::Started(started) => self.cached = started.cached_tokens,
            Kind::Delta(delta) => {
                self.tokens.extend(delta.token_ids);
                if let Some(Part::Text(text)) = delta.part {
                    self.text.push_str(&text);
                }
            }
            Kind::Finished(finished) => self.reason = Some(finished.reason),
            Kind::Usage(usage) => {
                assert_eq!(usage.prompt_cache_hit_tokens, self.cached);
                self.completion = Some(usage.completion_tokens);
            }
            Kind::Error(error) => self.error = Some(error),
        }
    }

    fn code(&self) -> &str {
        self.error.as_ref().map_or("", |e| &e.code)
    }
}

async fn collect(mut events: Events) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = events.next().await {
        answer.take(event);
    }
    answer
}

#[tokio::test]
async fn an_answer_ends_at_its_length_with_true_counts() {
    let bench = bench(LIMITS, None);
    let answer = bench.answer(job(&[1, 2, 3], 5)).await;
    assert_eq!((answer.tokens.len(), answer.completion), (5, Some(5)));
    assert_eq!(answer.reason.as_deref(), Some("length"));
    assert_eq!(answer.text, answer.tokens.iter().map(|t| format!("<{t}>")).collect::<String>());
    bench.until(|l| l.running == 0 && l.free_blocks == LIMITS.blocks).await;
}

#[tokio::test]
async fn alone_in_company_and_in_chunks_the_answer_is_the_same() {
    let prompts: Vec<Vec<u32>> = (0..4u32).map(|i| (0..5 + 20 * i).map(|t| (t * 7 + i) % 13).collect()).collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(bench(LIMITS, None).answer(job(prompt, 20)).await);
    }
    let bench = bench(LIMITS, None);
    let events: Vec<Events> = prompts.iter().map(|p| bench.submit(job(p, 20))).collect();
    for (events, alone) in events.into_iter().zip(alone) {
        assert_eq!(Answer { cached: 0, ..collect(events).await }, alone);
    }
}

#[tokio::test]
async fn a_second_turn_finds_what_the_first_computed_and_says_the_same() {
    let bench = bench(LIMITS, None);
    let first = bench.answer(job(&[1, 2, 3, 4, 5], 10)).await;
    let mut turn = vec![1, 2, 3, 4, 5];
    turn.extend(&first.tokens);
    turn.extend([7, 8, 9]);
    let second = bench.answer(job(&turn, 10)).await;
    // The last token of an answer is never run: fourteen of fifteen are there, in three full blocks.
    assert_eq!(second.cached, 12);
    let fresh = self::bench(LIMITS, None).answer(job(&turn, 10)).await;
    assert_eq!(Answer { cached: 12, ..fresh }, second);
    let root = Prefix::of(Key::scope("t", None), &turn, LIMITS.block_tokens).keys()[0].short();
    assert_eq!(bench.engine.roots()[..], [root], "both turns begin alike");
    let mut stranger = job(&turn, 10);
    stranger.prefix = Prefix::of(Key::scope("other", None), &turn, LIMITS.block_tokens);
    assert_eq!(bench.answer(stranger).await.cached, 0);
}

#[tokio::test]
async fn several_answers_to_one_request_each_draw_their_own_and_share_the_prompt() {
    let bench = bench(Limits { slots: 4, ..LIMITS }, None);
    let prompt: Vec<u32> = (0..12).collect();
    let several = |indices: &[u32]| {
        let mut job = asked(&prompt, 8, Sampling { temperature: 2.0, seed: 5, ..Sampling::default() });
        job.task = Task::Answer(indices.iter().map(|i| choice(*i, 8, &[], &[])).collect());
        job
    };
    let mut events = bench.submit(several(&[0, 1, 2]));
    let (mut tokens, mut finished, mut usage) = (vec![Vec::new(); 3], 0, None);
    while let Some(event) = events.next().await {
        match event.kind.unwrap() {
            Kind::Delta(delta) => tokens[delta.choice as usize].extend(delta.token_ids),
            Kind::Finished(_) => finished += 1,
            Kind::Usage(u) => usage = Some(u),
            Kind::Started(_) => {}
            Kind::Error(error) => panic!("{error:?}"),
        }
    }
    let usage = usage.unwrap();
    assert_eq!((finished, usage.prompt_tokens), (3, 12));
    assert_eq!(usage.completion_tokens as usize, tokens.iter().map(Vec::len).sum::<usize>());
    assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2]);
    assert_eq!(bench.answer(several(&[1])).await.tokens, tokens[1], "alone as beside the others");
    let computed: usize = bench.steps.lock().unwrap().iter().flatten().filter(|s| s.0 == 0).map(|s| s.1).sum();
    assert_eq!(computed, 8, "the first eight tokens of the prompt were computed once");
}

#[tokio::test]
async fn more_sequences_than_the_cache_holds_take_turns_and_all_come_to_their_end() {
    let limits = Limits { slots: 4, queue: 8, blocks: 14, ..LIMITS };
    let bench = bench(limits, None);
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| vec![i, i + 1, i + 2]).collect();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(self::bench(limits, None).answer(job(prompt, 30)).await);
    }
    let events: Vec<Events> = prompts.iter().map(|p| bench.submit(job(p, 30))).collect();
    for (events, alone) in events.into_iter().zip(alone) {
        assert_eq!(collect(events).await, alone);
    }
    bench.until(|l| l.running == 0 && l.free_blocks == 14).await;
}

#[tokio::test]
async fn a_step_that_is_too_much_for_the_device_is_tried_with_fewer() {
    let (open, gate) = mpsc::channel();
    let bench = bench(LIMITS, Some(gate));
    let (a, b) = (bench.submit(job(&[1, 1], 6)), bench.submit(job(&[2, 2], 6)));
    tokio::time::sleep(Duration::from_millis(20)).await;
    open.send(Ok(())).unwrap();
    open.send(Err(StepError::Device("out of memory".into()))).unwrap();
    drop(open);
    let (a, b) = (collect(a).await, collect(b).await);
    assert_eq!((a.error, b.error), (None, None));
    assert_eq!((a.completion, b.completion), (Some(6), Some(6)));
}

#[tokio::test]
async fn two_requests_share_steps() {
    let (open, gate) = mpsc::channel();
    let bench = bench(LIMITS, Some(gate));
    let (a, b) = (bench.submit(job(&[1], 30)), bench.submit(job(&[2, 2], 30)));
    // No step is done before both are there.
    drop(open);
    let _ = (collect(a).await, collect(b).await);
    let shared = bench.steps.lock().unwrap().iter().filter(|s| s.len() == 2).count();
    assert!(shared >= 20, "{shared}");
}

fn warm(seed: u64) -> Job {
    asked(&[5, 6], 40, Sampling { temperature: 1.5, top_p: 0.95, seed, ..Sampling::default() })
}

#[tokio::test]
async fn a_continued_answer_is_the_rest_of_the_whole_one() {
    let bench = bench(LIMITS, None);
    let mut seed = 0;
    let whole = loop {
        let whole = bench.answer(warm(seed)).await;
        if whole.tokens.len() > 8 && whole.reason.as_deref() == Some("stop") {
            break whole;
        }
        seed += 1;
    };
    for sent in [1, 7, whole.tokens.len()] {
        let mut rest = warm(seed);
        rest.task = Task::Answer(vec![choice(0, 40, &whole.tokens[..sent], &[])]);
        let rest = bench.answer(rest).await;
        assert_eq!(rest.tokens, whole.tokens[sent..], "after {sent}");
        assert_eq!((rest.reason, rest.completion), (whole.reason.clone(), whole.completion));
        assert!(whole.text.ends_with(&rest.text));
    }
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_also_when_it_was_begun_before_the_break() {
    let bench = bench(LIMITS, None);
    let whole = bench.answer(job(&[9, 9], 12)).await;
    let stop = format!("<{}><{}>", whole.tokens[4], whole.tokens[5]);
    let expected = whole.text.split(&stop).next().unwrap().to_string();
    let with_stop = |resumed: &[u32]| {
        let mut job = job(&[9, 9], 12);
        job.task = Task::Answer(vec![choice(0, 12, resumed, std::slice::from_ref(&stop))]);
        job
    };
    let stopped = bench.answer(with_stop(&[])).await;
    assert_eq!((stopped.text.as_str(), stopped.reason.as_deref()), (expected.as_str(), Some("stop")));
    assert_eq!(stopped.completion, Some(stopped.tokens.len() as u32));
    let resumed = bench.answer(with_stop(&whole.tokens[..5])).await;
    assert_eq!((resumed.text.as_str(), resumed.reason.as_deref()), ("", Some("stop")));
}

#[tokio::test]
async fn a_reader_that_does_not_read_pauses_itself_and_nobody_else() {
    let bench = bench(LIMITS, None);
    let slow = bench.submit(job(&[1, 1], 100));
    let quick = bench.answer(job(&[1, 1], 100)).await;
    assert!(quick.error.is_none());
    bench.until(|l| l.running == 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let steps = bench.steps.lock().unwrap().len();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.steps.lock().unwrap().len(), steps, "a paused sequence is stepped");
    assert_eq!(collect(slow).await, quick, "and goes on where it was");
}

#[tokio::test]
async fn a_dropped_reader_ends_its_sequence_within_one_token() {
    let (open, gate) = mpsc::channel();
    let bench = bench(LIMITS, Some(gate));
    let mut events = bench.submit(job(&[1, 1], 100));
    open.send(Ok(())).unwrap();
    assert!(matches!(events.next().await.unwrap().kind, Some(Kind::Started(_))));
    assert!(matches!(events.next().await.unwrap().kind, Some(Kind::Delta(_))));
    drop(events);
    // The step that is under way may end; no other follows.
    open.send(Ok(())).unwrap();
    bench.until(|l| l.running == 0 && l.free_blocks == LIMITS.blocks).await;
    assert!(bench.steps.lock().unwrap().len() <= 2);
}

#[tokio::test]
async fn a_failed_step_fails_its_own_requests_only() {
    let (open, gate) = mpsc::channel();
    let bench = bench(Limits { slots: 1, ..LIMITS }, Some(gate));
    let (first, second) = (bench.submit(job(&[1], 2)), bench.submit(job(&[2], 2)));
    open.send(Err(StepError::Input("on purpose".into()))).unwrap();
    drop(open);
    let first = collect(first).await;
    assert_eq!(first.code(), code::INTERNAL);
    assert!(first.error.unwrap().retryable);
    assert_eq!(collect(second).await.reason.as_deref(), Some("length"));
}

#[tokio::test]
async fn logits_that_are_no_numbers_fail_their_own_request_only() {
    let (open, gate) = mpsc::channel();
    let bench = bench(LIMITS, Some(gate));
    let first = bench.submit(job(&[1, 1], 6));
    let poisoned = bench.submit(job(&[2, 2], 6));
    tokio::time::sleep(Duration::from_millis(20)).await;
    // The first may have begun alone; from then on both are in every step.
    open.send(Ok(())).unwrap();
    open.send(Err(StepError::NotFinite { segment: 1 })).unwrap();
    drop(open);
    let (first, poisoned) = (collect(first).await, collect(poisoned).await);
    assert_eq!((first.completion, first.error), (Some(6), None));
    assert_eq!(poisoned.code(), code::INTERNAL);
    bench.until(|l| l.running == 0 && l.free_blocks == LIMITS.blocks).await;
}

#[tokio::test]
async fn modest_users_are_answered_beside_a_greedy_one() {
    let limits = Limits { slots: 4, queue: 40, blocks: 200, ..LIMITS };
    let bench = bench(limits, None);
    let of = |user: &str, prompt: &[u32], max_tokens: usize| {
        let prefix = Prefix::of(Key::scope("t", Some(user)), prompt, LIMITS.block_tokens);
        Job { prefix, ..job(prompt, max_tokens) }
    };
    let mut greedy: Vec<Events> = (0..32).map(|i| bench.submit(of("greedy", &[i % 12, i / 12, 4], 100))).collect();
    bench.until(|l| l.running == 4).await;
    for user in ["a", "b", "c"] {
        // They are through before most of the greedy user's requests have begun.
        assert_eq!(bench.answer(of(user, &[3, 3], 5)).await.error, None);
    }
    assert!(bench.engine.load().waiting > 20, "{:?}", bench.engine.load());
    for events in greedy.drain(..) {
        assert_eq!(collect(events).await.error, None);
    }
}

#[tokio::test]
async fn a_panic_in_the_model_is_a_failed_step() {
    let bench = bench(LIMITS, None);
    let answer = bench.answer(job(&[13], 2)).await;
    assert_eq!(answer.code(), code::INTERNAL);
    assert_eq!(bench.answer(job(&[1], 2)).await.error, None);
}

#[tokio::test]
async fn a_device_that_keeps_failing_is_given_up() {
    let (open, gate) = mpsc::channel();
    let bench = bench(LIMITS, Some(gate));
    for _ in 0..3 {
        let events = bench.submit(job(&[1], 2));
        open.send(Err(StepError::Device("lost".into()))).unwrap();
        assert_eq!(collect(events).await.code(), code::INTERNAL);
    }
    bench.engine.ended().await;
    let late = bench.answer(job(&[1], 2)).await.error.unwrap();
    assert!(late.retryable, "{late:?}");
}

#[tokio::test]
async fn deadlines_hold_in_the_queue_and_in_the_slot() {
    let (open, gate) = mpsc::channel();
    let bench = bench(Limits { slots: 1, ..LIMITS }, Some(gate));
    let soon = |prompt: &[u32]| Job { deadline: Some(Instant::now() + Duration::from_millis(30)), ..job(prompt, 100) };
    let (running, waiting) = (bench.submit(soon(&[1])), bench.submit(soon(&[2])));
    tokio::time::sleep(Duration::from_millis(60)).await;
    open.send(Ok(())).unwrap();
    assert_eq!(collect(running).await.code(), code::DEADLINE_EXCEEDED);
    assert_eq!(collect(waiting).await.code(), code::DEADLINE_EXCEEDED);
    drop(open);
    // Nothing happens any more, and yet the deadline of a paused sequence is kept.
    let paused = Job { deadline: Some(Instant::now() + Duration::from_secs(2)), ..job(&[1], 100) };
    let paused = bench.submit(paused);
    bench.until(|l| l.running == 1).await;
    bench.until(|l| l.running == 0).await;
    assert_eq!(collect(paused).await.code(), code::DEADLINE_EXCEEDED);
}

#[tokio::test]
async fn more_than_slots_and_queue_are_refused_before_any_work() {
    let bench = bench(LIMITS, None);
    let held: Vec<Admission> = (0..4 + PREPARING).map(|_| bench.engine.admit().unwrap()).collect();
    assert!(matches!(bench.engine.admit(), Err(Busy::Full(_))));
    drop(held);
    assert!(bench.engine.admit().is_ok());
}

#[tokio::test]
async fn draining_admits_nobody_ends_what_runs_and_cuts_off_what_does_not_end() {
    let one = bench(LIMITS, None);
    let events = one.submit(job(&[1], 20));
    let answer = tokio::spawn(collect(events));
    assert!(one.engine.drain(Duration::from_secs(10)).await);
    assert_eq!(answer.await.unwrap().completion, Some(20));
    assert!(matches!(one.engine.admit(), Err(Busy::Draining)));

    let other = bench(LIMITS, None);
    let unread = other.submit(job(&[1], 100));
    assert!(!other.engine.drain(Duration::from_millis(30)).await);
    let answer = collect(unread).await;
    assert_eq!(answer.code(), code::OVERLOADED);
    assert!(answer.error.unwrap().retryable);
}
