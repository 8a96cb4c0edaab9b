//! Real guests in the real engine: decisions, layers, limits and filters, without sockets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use littoral::guest::{GuestConfig, GuestError, Guests, Isolation, Worker};
use littoral_core::{
    Body, Call, Candidate, Fact, Head, Knowledge, Model, Outcome, Plan, Reply, Want, cache_mode, fact_kind,
    key::KeyRecord, operation,
};
use littoral_proto::v1::{self, Event, delta::Part, event::Kind};
use littoral_tests::{artefact, edge::wrong};

const MODEL: &str = "smollm2-135m-instruct";

/// One key, one model, one node.
struct Facts {
    record: KeyRecord,
    cache: &'static str,
}

impl Knowledge for Facts {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = match (kind, key) {
            (fact_kind::API_KEY, "000000000000") => return None,
            (fact_kind::API_KEY, id) if id == self.record.id => serde_json::to_vec(&self.record).ok(),
            (fact_kind::CONFIG, "cache") => Some(self.cache.into()),
            _ => None,
        };
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    fn model(&self, name: &str) -> Option<Model> {
        (name == MODEL).then(|| Model { name: name.into(), revision: "r1".into(), context_length: 2048, created: 1 })
    }

    fn candidates(&self, model: &str, _: &str, _: &str, _: u32) -> Vec<Candidate> {
        self.model(model).map(|_| Candidate { node: "n1".into(), reason: "home".into() }).into_iter().collect()
    }

    fn verify(&self, _: &str, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

fn config(policy: &str) -> GuestConfig {
    GuestConfig { dir: artefact::guests(), policy: policy.into(), ..GuestConfig::default() }
}

/// The guests of `config`, and a key they accept.
fn load(config: &GuestConfig) -> (Arc<Guests>, String) {
    let (record, key) = KeyRecord::create("acme", "ada", &[7; 54]);
    let cache = r#"{"policy":"deterministic","ttl_ms":60000}"#;
    (Guests::load(config, 1, Arc::new(Facts { record, cache })).unwrap(), key)
}

fn call(method: &str, path: &str, key: Option<&str>, body: &str) -> Call {
    let headers = key.map(|k| ("authorization".into(), format!("Bearer {k}").into_bytes())).into_iter().collect();
    Call {
        head: Head { method: method.into(), path: path.into(), query: None, headers },
        peer: "127.0.0.1:9".into(),
        now_ms: 1_000,
        body: Some(body.into()),
        ..Call::default()
    }
}

fn chat(key: &str, body: &str) -> Call {
    call("POST", "/v1/chat/completions", Some(key), body)
}

fn ask(extra: &str) -> String {
    format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#)
}

fn reply(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Reply(reply) => *reply,
        other => panic!("not a reply: {other:?}"),
    }
}

fn denied(outcome: Outcome) -> (u16, String) {
    match outcome {
        Outcome::Denial(denial) => (denial.status, denial.code),
        other => panic!("not a denial: {other:?}"),
    }
}

/// What `edge` and the composed `layers` must both do.
fn the_three_decide(worker: &Worker, key: &str) {
    let opened = reply(worker.decide(&chat(key, &ask(r#","temperature":0,"stream":true"#))).unwrap());
    assert_eq!(opened.body, Body::Generation);
    let Plan { principal, operation: op, rendering, request, cache, candidates, .. } = opened.plan;
    assert_eq!(principal.unwrap().tenant, "acme");
    assert_eq!(op, operation::GENERATE);
    assert!(rendering.unwrap().stream);
    assert_eq!(candidates[0].node, "n1");
    let cache = cache.unwrap();
    assert_eq!(
        (cache.mode.as_str(), cache.reason.as_str(), cache.scope.as_str()),
        (cache_mode::USE, "deterministic", "acme")
    );
    let request = littoral_core::chat::ChatRequest::canonical(&request).unwrap();
    assert_eq!((request.messages[0].content.as_str(), request.temperature), ("hi", 0.0));

    // Field order, white space, defaults and the way of writing do not change the key; what is asked does.
    let same = format!(
        r#"{{ "temperature":0.0, "top_p":1, "messages":[{{"content":"hi","role":"user"}}],"model":"{MODEL}" }}"#
    );
    let key_of = |body: &str| reply(worker.decide(&chat(key, body)).unwrap()).plan.cache.unwrap().key;
    assert_eq!(key_of(&same), cache.key);
    assert_ne!(key_of(&ask(r#","temperature":0,"max_tokens":5"#)), cache.key);
    assert_eq!(key_of(&ask("")), "", "a sampled answer is not looked up");

    let models = reply(worker.decide(&call("GET", "/v1/models", Some(key), "")).unwrap());
    assert_eq!(models.body, Body::Service("models".into(), String::new()));

    assert_eq!(denied(worker.decide(&call("GET", "/models", None, "")).unwrap()).0, 401);
    assert_eq!(denied(worker.decide(&chat(&wrong(key), &ask(""))).unwrap()), (401, "invalid_api_key".into()));
    assert_eq!(denied(worker.decide(&call("GET", "/nope", Some(key), "")).unwrap()).0, 404);
    assert_eq!(denied(worker.decide(&call("DELETE", "/models", Some(key), "")).unwrap()).0, 405);
    assert_eq!(denied(worker.decide(&chat(key, "{oops")).unwrap()).0, 400);
    let other = ask("").replace(MODEL, "zzz");
    assert_eq!(denied(worker.decide(&chat(key, &other)).unwrap()), (400, "model_not_found".into()));

    let mut large = chat(key, &ask(""));
    large.body = None;
    assert_eq!(worker.decide(&large).unwrap(), Outcome::Need(vec![Want::Body]));
    large.head.headers.clear();
    assert_eq!(denied(worker.decide(&large).unwrap()).0, 401, "nobody reads the body of a stranger");

    let elsewhere = format!("lk_000000000000_{}", &key[key.len() - 64..]);
    let mut far = call("GET", "/models", Some(&elsewhere), "");
    let want = Want::Fact(fact_kind::API_KEY.into(), "000000000000".into());
    assert_eq!(worker.decide(&far).unwrap(), Outcome::Need(vec![want]));
    let lost = Fact { kind: "api-key".into(), key: "000000000000".into(), value: None, error: Some("down".into()) };
    far.facts = vec![lost];
    assert_eq!(denied(worker.decide(&far).unwrap()).0, 503);
}

#[test]
fn the_edge_component_decides() {
    let (guests, key) = load(&config("edge"));
    the_three_decide(&guests.worker(), &key);
    assert_eq!(guests.live(), 0, "the worker is gone and its instance with it");
    assert_eq!(guests.peak(), 1);
}

#[test]
fn layers_composed_of_auth_cache_and_router_decide_the_same() {
    let (guests, key) = load(&config("layers"));
    the_three_decide(&guests.worker(), &key);
}

#[test]
fn a_foreign_layer_stands_before_the_others() {
    let (guests, key) = load(&config("curfew-layers"));
    let worker = guests.worker();
    let plan = reply(worker.decide(&chat(&key, &ask(""))).unwrap()).plan;
    assert!(plan.audit.contains(&("curfew".into(), "passed".into())));
    let mut late = chat(&key, &ask(""));
    late.head.headers.push(("x-curfew".into(), b"1".to_vec()));
    assert_eq!(denied(worker.decide(&late).unwrap()), (403, "curfew".into()));
}

#[test]
fn a_fresh_instance_serves_every_decision_when_asked_for() {
    let (guests, key) = load(&GuestConfig { isolation: Isolation::Fresh, ..config("edge") });
    let worker = guests.worker();
    for _ in 0..3 {
        reply(worker.decide(&chat(&key, &ask(""))).unwrap());
        assert_eq!(guests.live(), 0);
    }
}

fn told(worker: &Worker, what: &str) -> Result<Outcome, GuestError> {
    let mut call = call("GET", "/", None, "");
    call.head.headers.push(("x-hostile".into(), what.into()));
    worker.decide(&call)
}

#[test]
fn a_hostile_guest_is_cut_off_and_the_next_call_meets_a_new_instance() {
    let (guests, _) = load(&config("hostile"));
    let worker = guests.worker();
    assert_eq!(denied(told(&worker, "").unwrap()).0, 418);
    assert!(matches!(told(&worker, "trap"), Err(GuestError::Trap(_))));
    assert_eq!(guests.live(), 0, "an instance that trapped is gone");
    assert!(matches!(told(&worker, "hoard"), Err(GuestError::Trap(_))));
    let before = Instant::now();
    assert!(matches!(told(&worker, "spin"), Err(GuestError::Deadline(_))));
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    assert_eq!(denied(told(&worker, "").unwrap()).0, 418);
}

#[test]
fn one_guest_that_spins_does_not_stop_another_thread() {
    let (guests, key) = load(&config("edge"));
    let (hostile, _) = load(&config("hostile"));
    let spinning = std::thread::spawn(move || told(&hostile.worker(), "spin"));
    let worker = guests.worker();
    for _ in 0..100 {
        reply(worker.decide(&chat(&key, &ask(""))).unwrap());
    }
    assert!(matches!(spinning.join().unwrap(), Err(GuestError::Deadline(_))));
}

fn filters(names: &[&str]) -> GuestConfig {
    let filters: BTreeMap<_, _> = names.iter().map(|n| (n.to_string(), n.to_string())).collect();
    GuestConfig { filters, filter_instances: 4, ..config("edge") }
}

fn text(index: u32, text: &str) -> Event {
    let delta = v1::Delta { index, token_ids: vec![index], part: Some(Part::Text(text.into())), ..Default::default() };
    Event { kind: Some(Kind::Delta(delta)) }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

#[test]
fn a_filter_sees_every_event_and_its_instance_ends_with_the_stream() {
    let (guests, _) = load(&filters(&["redact"]));
    run(async {
        let worker = guests.worker();
        let usage = v1::Usage { prompt_tokens: 3, completion_tokens: 100, ..Default::default() };
        let sent = (0..100).map(|i| text(i, &format!("a{i}"))).chain([Event { kind: Some(Kind::Usage(usage)) }]);
        let filtered = worker.filter(&["redact".into()], futures::stream::iter(sent)).unwrap();
        let got: Vec<Event> = filtered.collect().await;
        let hidden = |i: u32| "a".to_string() + &"#".repeat(i.to_string().len());
        let mut expected: Vec<Event> = (0..100).map(|i| text(i, &hidden(i))).collect();
        expected.push(Event { kind: Some(Kind::Usage(usage)) });
        assert_eq!(got, expected);
        settle(|| guests.live_filters() == 0).await;

        // Twice in a row: each filter of the chain has an instance of its own.
        let chained =
            worker.filter(&["redact".into(), "redact".into()], futures::stream::iter([text(0, "7")])).unwrap();
        assert_eq!(chained.collect::<Vec<_>>().await, [text(0, "#")]);
    });
}

#[test]
fn filters_are_capped_named_and_ended_when_nobody_listens() {
    let (guests, _) = load(&filters(&["redact"]));
    run(async {
        let worker = guests.worker();
        let open = || worker.filter(&["redact".into()], futures::stream::pending());
        let mut streams: Vec<_> = (0..4).map(|_| open().unwrap()).collect();
        assert!(matches!(open().map(drop), Err(GuestError::FiltersBusy(4))));
        assert!(matches!(
            worker.filter(&["nope".into()], futures::stream::empty()).map(drop),
            Err(GuestError::UnknownFilter(_))
        ));
        settle(|| guests.live_filters() == 4).await;
        streams.clear();
        settle(|| guests.live_filters() == 0).await;
        open().unwrap();
    });
}

#[test]
fn a_filter_that_never_comes_back_is_cut_off_with_an_error_event() {
    let (guests, _) = load(&filters(&["stuck", "redact"]));
    run(async {
        let worker = guests.worker();
        let stuck = worker.filter(&["stuck".into()], futures::stream::iter([text(0, "a"), text(1, "b")])).unwrap();
        let fine = worker.filter(&["redact".into()], futures::stream::iter([text(0, "1")])).unwrap();
        let (stuck, fine) = futures::join!(stuck.collect::<Vec<_>>(), fine.collect::<Vec<_>>());
        assert_eq!(fine, [text(0, "#")]);
        assert!(
            matches!(&stuck[..], [Event { kind: Some(Kind::Error(e)) }] if e.code == "internal_error"),
            "{stuck:?}"
        );
    });
}

async fn settle(done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not settle within 20 s");
}
