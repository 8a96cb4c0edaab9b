//! Who may enter: keys, their policies, and the charges they make.

use std::collections::HashMap;

use littoral_core::{
    Call, Candidate, Denial, Fact, Head, Knowledge, Memo, Model, Outcome, Plan, auth,
    cache::{self, Rules},
    fact_kind,
    key::KeyRecord,
    limits::{Budget, Limits, Period, Price, Reservation, TenantPolicy, charge_kind},
};
use serde_json::json;

const NOW: u64 = 1_795_574_004_000;

/// A host with one model.
#[derive(Default)]
struct Memory(HashMap<(String, String), Vec<u8>>);

impl Memory {
    fn with(mut self, kind: &str, key: &str, value: &impl serde::Serialize) -> Self {
        self.0.insert((kind.into(), key.into()), serde_json::to_vec(value).unwrap());
        self
    }
}

impl Knowledge for Memory {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = self.0.get(&(kind.to_string(), key.to_string())).cloned();
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    fn model(&self, name: &str) -> Option<Model> {
        let known = ["small", "large"].contains(&name);
        known.then(|| Model { name: name.into(), revision: "r".into(), context_length: 4096, created: 0 })
    }

    fn candidates(&self, _: &str, _: &str, _: &str, _: u32) -> Vec<Candidate> {
        vec![Candidate { node: "n".into(), reason: "session".into() }]
    }

    fn verify(&self, _: &str, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        false
    }
}

fn key(policy: impl FnOnce(&mut KeyRecord)) -> (Memory, String) {
    let (mut record, key) = KeyRecord::create("acme", "ada", &[7; 54]);
    policy(&mut record);
    (Memory::default().with(fact_kind::API_KEY, &record.id, &record), key)
}

fn call(key: &str, body: serde_json::Value) -> Call {
    Call {
        head: Head {
            method: "POST".into(),
            path: "/v1/chat/completions".into(),
            query: None,
            headers: vec![("authorization".into(), format!("Bearer {key}").into_bytes())],
        },
        peer: "198.51.100.7".into(),
        now_ms: NOW,
        body: Some(body.to_string().into_bytes()),
        ..Call::default()
    }
}

fn hi(more: serde_json::Value) -> serde_json::Value {
    let mut body = json!({"model": "small", "messages": [{"role": "user", "content": "hi"}], "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn plan(call: Call, known: &Memory) -> Result<Plan, Denial> {
    match littoral_core::decide(call, known) {
        Outcome::Reply(reply) => Ok(reply.plan),
        Outcome::Denial(denial) => Err(denial),
        Outcome::Need(wants) => panic!("everything is in memory, and {wants:?} is asked for"),
    }
}

#[test]
fn a_key_without_limits_is_charged_nothing() {
    let (known, key) = key(|_| {});
    let plan = plan(call(&key, hi(json!({}))), &known).unwrap();
    assert!(plan.charges.is_empty() && plan.extra.is_empty());
    assert_eq!(plan.principal.unwrap().method, "api-key");
}

#[test]
fn a_key_is_charged_for_itself_its_user_and_its_tenant() {
    let (known, key) = key(|record| {
        record.limits = Limits {
            requests_per_minute: Some(60),
            budget: Some(Budget { amount: 1_000_000, period: Period::Day }),
            ..Limits::default()
        };
    });
    let tenant = TenantPolicy {
        limits: Limits { concurrency: Some(3), ..Limits::default() },
        user_limits: Limits { tokens_per_minute: Some(1000), ..Limits::default() },
        ..TenantPolicy::default()
    };
    let price = Price { prompt: 2_000_000, cache_hit: 0, completion: 3_000_000 };
    let known = known.with(fact_kind::TENANT, "acme", &tenant).with("config", "prices", &json!({"*": price}));
    let made = plan(call(&key, hi(json!({"max_tokens": 100}))), &known).unwrap();
    let prompt = made.request.len() as u64;
    assert_eq!(Reservation::of(&made), Some(Reservation { prompt, completion: 100, choices: 1, price }));
    let charges: Vec<_> = made.charges.iter().map(|c| (&*c.kind, &*c.key, c.amount)).collect();
    let id = made.principal.as_ref().unwrap().key_id.as_str();
    let (own, budget) = (format!("key/{id}"), format!("key/{id}/2026-11-25"));
    assert_eq!(
        charges,
        [
            (charge_kind::REQUESTS, own.as_str(), 1),
            (charge_kind::BUDGET, budget.as_str(), 2 * prompt + 300),
            (charge_kind::TOKENS, "user/acme/ada", prompt + 100),
            (charge_kind::CONCURRENCY, "tenant/acme", 1),
        ]
    );
    // Every choice is paid for, and the prompt once.
    let many = plan(call(&key, hi(json!({"max_tokens": 100, "n": 4}))), &known).unwrap();
    let prompt = many.request.len() as u64;
    assert_eq!(Reservation::of(&many), Some(Reservation { prompt, completion: 100, choices: 4, price }));
    let amounts: Vec<_> = many.charges.iter().map(|c| c.amount).collect();
    assert_eq!(amounts, [1, 2 * prompt + 1200, prompt + 400, 1]);
    // Without max_tokens the context bounds the answer.
    let open = plan(call(&key, hi(json!({}))), &known).unwrap();
    assert_eq!(Reservation::of(&open).unwrap().completion, 4096);
    // What generates nothing is charged as a request.
    let mut list = call(&key, json!({}));
    (list.head.method, list.head.path) = ("GET".into(), "/v1/models".into());
    assert_eq!(plan(list, &known).unwrap().charges.len(), 1);
}

#[test]
fn a_key_is_good_for_its_models_and_its_networks() {
    let (known, text) = key(|record| {
        record.models = vec!["small".into()];
        record.networks = vec!["198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    });
    assert!(plan(call(&text, hi(json!({}))), &known).is_ok());
    let denied = plan(call(&text, hi(json!({"model": "large"}))), &known).unwrap_err();
    assert_eq!((denied.status, denied.code.as_str()), (403, "model_not_allowed"));
    for (peer, allowed) in [("2001:db8::1", true), ("::ffff:198.51.100.9", true), ("203.0.113.1", false), ("", false)] {
        let mut from = call(&text, hi(json!({})));
        from.peer = peer.into();
        let denied = plan(from, &known).err().map(|denial| (denial.status, denial.code));
        assert_eq!(denied, (!allowed).then(|| (403, "network_not_allowed".into())), "{peer}");
    }
    // A large body is asked for only once the head is found good.
    let (known, text) = key(|record| record.models = vec!["small".into()]);
    let mut large = call(&text, json!({}));
    large.body = None;
    assert!(matches!(littoral_core::decide(large, &known), Outcome::Need(_)));
}

#[test]
fn a_key_has_its_own_cache_policy() {
    for (own, mode) in [(None, "use"), (Some(cache::Policy::Off), "bypass"), (Some(cache::Policy::Always), "use")] {
        let (known, text) = key(|record| record.cache = Some(Rules { policy: own, ttl_ms: None }));
        assert_eq!(plan(call(&text, hi(json!({}))), &known).unwrap().cache.unwrap().mode, mode, "{own:?}");
    }
}

/// What the policy says to a host that offers to remember its decision for an hour.
fn remembered(text: &str, known: &Memory, path: &str) -> Option<Memo> {
    let mut call = call(text, hi(json!({})));
    call.head.path = path.into();
    call.draft.memo = Some(Memo { ttl_ms: 3_600_000, vary: Vec::new() });
    plan(call, known).unwrap().memo
}

#[test]
fn a_decision_holds_no_longer_than_what_it_went_by() {
    let chat = "/v1/chat/completions";
    let ttl = |policy: fn(&mut KeyRecord)| {
        let (known, text) = key(policy);
        remembered(&text, &known, chat).unwrap().ttl_ms
    };
    assert_eq!(ttl(|_| {}), 3_600_000);
    assert_eq!(ttl(|record| record.expires_at_ms = Some(NOW + 7)), 7);
    let mut rotated = None;
    let (known, first) = key(|record| rotated = Some(record.rotate(&[9; 48], NOW + 9)));
    for text in [first, rotated.unwrap()] {
        assert_eq!(remembered(&text, &known, chat).unwrap().ttl_ms, 9);
    }
    // A budget of a day that has ten seconds left.
    let (known, text) = key(|record| record.limits.budget = Some(Budget { amount: 5_000_000, period: Period::Day }));
    let mut late = call(&text, hi(json!({})));
    late.now_ms = NOW - NOW % 86_400_000 + 86_390_000;
    late.draft.memo = Some(Memo { ttl_ms: 3_600_000, vary: Vec::new() });
    let plan = plan(late, &known).unwrap();
    assert_eq!(plan.memo.unwrap().ttl_ms, 10_000);
    assert!(!plan.charges.is_empty(), "what is remembered is charged");
}

#[test]
fn what_proves_a_second_factor_is_decided_every_time() {
    let (known, text) = key(|_| {});
    assert!(remembered(&text, &known, "/v1/chat/completions").is_some());
    let mut proof = call(&text, json!({"code": "123456"}));
    proof.head.path = "/v1/auth/step-up".into();
    proof.draft.memo = Some(Memo { ttl_ms: 1000, vary: Vec::new() });
    assert_eq!(plan(proof, &known).unwrap().memo, None);
    let known = known.with(fact_kind::TENANT, "acme", &json!({"step_up": {"when": "unusual-places"}}));
    assert_eq!(remembered(&text, &known, "/v1/chat/completions"), None);
}

#[test]
fn a_damaged_policy_refuses_and_does_not_open() {
    let (known, text) = key(|_| {});
    let known = known.with(fact_kind::TENANT, "acme", &json!({"limits": 7}));
    assert_eq!(plan(call(&text, hi(json!({}))), &known).unwrap_err().status, 500);
    let known = Memory::default();
    assert!(matches!(auth::admit(call(&text, hi(json!({}))), &known), std::ops::ControlFlow::Break(_)));
}

#[test]
fn an_unusual_place_asks_for_a_second_factor() {
    use littoral_core::{
        effect_kind,
        step_up::{
            StepUp, When,
            place::{Place, Seen, network},
            user_key,
        },
    };
    let user = user_key("acme", "ada");
    let place = |address: &str| Place { network: Some(network(address.parse().unwrap())), ..Place::default() };
    let known = |when: When, seen: Option<&str>| {
        let (known, key) = key(|_| {});
        let policy = TenantPolicy { step_up: StepUp { when, max_age_s: 60 }, ..TenantPolicy::default() };
        let mut known = known.with(fact_kind::TENANT, "acme", &policy).with(
            fact_kind::PLACE,
            "198.51.100.7",
            &place("198.51.100.7"),
        );
        if let Some(address) = seen {
            let mut seen = Seen::default();
            seen.note(place(address), NOW);
            known = known.with(fact_kind::SEEN, &user, &seen);
        }
        (known, key)
    };
    for (when, seen, asked, noted) in [
        (When::Off, Some("203.0.113.1"), false, false),
        (When::UnusualPlaces, None, false, true),
        (When::UnusualPlaces, Some("198.51.7.7"), false, false),
        (When::UnusualPlaces, Some("203.0.113.1"), true, false),
        (When::Always, Some("198.51.100.7"), true, false),
    ] {
        let (known, text) = known(when, seen);
        match plan(call(&text, hi(json!({}))), &known) {
            Ok(made) => {
                assert!(!asked, "{when:?} {seen:?}");
                let effects: Vec<_> = made.effects.iter().map(|e| (e.kind.as_str(), e.key.as_str())).collect();
                assert_eq!(effects, noted.then_some((effect_kind::SEE, user.as_str())).into_iter().collect::<Vec<_>>());
            }
            Err(denial) => {
                assert!(asked, "{when:?} {seen:?}: {}", denial.message);
                assert_eq!((denial.status, denial.code.as_str()), (401, "insufficient_user_authentication"));
                let challenge = &denial.headers[0].1;
                assert!(challenge.contains("acr_values=\"urn:littoral:acr:mfa\", max_age=\"60\""), "{challenge}");
                // The way to the second factor itself is open.
                let mut proof = call(&text, json!({"code": "123456"}));
                proof.head.path = "/v1/auth/step-up".into();
                assert_eq!(plan(proof, &known).unwrap().operation, "step-up");
            }
        }
    }
    let (known, text) = known(When::Always, None);
    for bad in
        [json!({}), json!({"code": 7}), json!({"code": "1", "recovery_code": "2"}), json!({"code": "1".repeat(2000)})]
    {
        let mut proof = call(&text, bad);
        proof.head.path = "/v1/auth/step-up".into();
        assert_eq!(plan(proof, &known).unwrap_err().status, 400);
    }
}

#[test]
fn a_credential_that_is_not_text_is_called_so() {
    let (known, text) = key(|_| {});
    let mut asked = call(&text, hi(json!({})));
    for (_, value) in asked.head.headers.iter_mut().filter(|(name, _)| name == "authorization") {
        value.push(0xff);
    }
    let denial = plan(asked, &known).unwrap_err();
    assert_eq!(denial.status, 401);
    assert!(denial.message.contains("not text"), "{}", denial.message);
}
