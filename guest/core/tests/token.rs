//! Access tokens: what is taken, and everything that is not.
//!
//! The host's signature check is stood in for by a digest over key and message, so that every rule is tested here; real
//! signatures are in the host's tests.

use std::{cell::Cell, collections::HashMap};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use littoral_core::{
    Call, Candidate, Denial, Fact, Head, Knowledge, Model, Outcome, Plan, fact_kind,
    key::KeyRecord,
    limits::Limits,
    token::{self, Issuer, Revocation, Trust, jwks},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NOW_S: u64 = 1_795_574_004;
const ISSUER: &str = "https://id.example";

struct Host {
    facts: HashMap<(String, String), Vec<u8>>,
    verified: Cell<u32>,
}

impl Host {
    fn new() -> Self {
        Self::under(Issuer { issuer: ISSUER.into(), audience: "littoral".into(), ..Issuer::default() })
    }

    /// One that takes the tokens of this issuer.
    fn under(issuer: Issuer) -> Self {
        let mut host = Self { facts: HashMap::new(), verified: Cell::new(0) };
        // The last one has to be asked for by itself.
        for (kid, algorithm) in [("k1", "ES256"), ("", "EdDSA"), ("k2", "RS256")] {
            let public = STANDARD_NO_PAD.encode(format!("public {kid}"));
            let key = jwks::Key { kid: kid.into(), algorithm: algorithm.into(), public };
            let (name, alone) = (token::key_of(ISSUER, kid), kid == "k2");
            host.put(fact_kind::ISSUER, &name, &Trust { rules: issuer.clone(), key: (!alone).then(|| key.clone()) });
            if alone {
                host.put(fact_kind::VERIFYING_KEY, &name, &key);
            }
        }
        let nobody = "../../etc/passwd";
        host.put(fact_kind::ISSUER, &token::key_of(ISSUER, nobody), &Trust { rules: issuer, key: None });
        host
    }

    fn put(&mut self, kind: &str, key: &str, value: &impl serde::Serialize) {
        self.facts.insert((kind.into(), key.into()), serde_json::to_vec(value).unwrap());
    }

    fn ask(&self, token: &str) -> Result<Plan, Denial> {
        let call = Call {
            head: Head {
                method: "GET".into(),
                path: "/v1/models".into(),
                query: None,
                headers: vec![("authorization".into(), format!("Bearer {token}").into_bytes())],
            },
            peer: "198.51.100.7".into(),
            now_ms: NOW_S * 1000,
            body: Some(Vec::new()),
            ..Call::default()
        };
        match littoral_core::decide(call, self) {
            Outcome::Reply(reply) => Ok(reply.plan),
            Outcome::Denial(denial) => Err(denial),
            Outcome::Need(wants) => panic!("everything is in memory, and {wants:?} is asked for"),
        }
    }

    /// Refused as an invalid token for this reason, and not because of its signature.
    fn refuses(&self, token: &str, why: &str) {
        let denial = self.ask(token).unwrap_err();
        assert_eq!((denial.status, denial.code.as_str()), (401, "invalid_token"), "{}", denial.message);
        assert!(denial.message.contains(why), "'{}' does not say '{why}'", denial.message);
    }
}

impl Knowledge for Host {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = self.facts.get(&(kind.to_string(), key.to_string())).cloned();
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    fn model(&self, _: &str) -> Option<Model> {
        None
    }

    fn candidates(&self, _: &str, _: &str, _: &str, _: u32) -> Vec<Candidate> {
        Vec::new()
    }

    fn verify(&self, _: &str, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.verified.set(self.verified.get() + 1);
        signature == Sha256::digest([key, message].concat()).as_slice()
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "typ": "at+jwt", "kid": "k1"})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "ada", "aud": "littoral", "iat": NOW_S - 10, "exp": NOW_S + 500, "jti": "j1",
        "client_id": "app", "tenant": "acme", "acr": "urn:example:2", "amr": ["pwd", "otp"], "auth_time": NOW_S - 60,
    })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

fn sign(header: &str, claims: &str, kid: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = Sha256::digest([format!("public {kid}").as_bytes(), signed.as_bytes()].concat());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn token(header: Value, claims: Value) -> String {
    let kid = header["kid"].as_str().unwrap_or_default().to_string();
    sign(&header.to_string(), &claims.to_string(), &kid)
}

#[test]
fn a_good_token_names_its_bearer() {
    let host = Host::new();
    let plan = host.ask(&token(header(), claims())).unwrap();
    let principal = plan.principal.unwrap();
    let who = (&*principal.tenant, &*principal.user, &*principal.key_id, &*principal.method);
    assert_eq!(who, ("acme", "ada", "app", "jwt"));
    assert!(plan.audit.contains(&("acr".into(), "urn:example:2".into())));
    for good in [
        with(claims(), "aud", json!(["other", "littoral"])),
        with(claims(), "exp", json!(NOW_S - 29)),
        with(claims(), "iat", json!(NOW_S + 29)),
        with(claims(), "nbf", json!(NOW_S as f64 + 0.5)),
    ] {
        host.ask(&token(header(), good)).unwrap();
    }
    host.ask(&token(json!({"alg": "EdDSA", "typ": "Application/AT+JWT"}), claims())).unwrap();
    host.ask(&token(json!({"alg": "RS256", "typ": "at+jwt", "kid": "k2"}), claims())).unwrap();
}

#[test]
fn headers_that_trick_are_refused_before_any_signature() {
    let host = Host::new();
    let cases = [
        (with(header(), "alg", json!("none")), "algorithm"),
        (with(header(), "alg", json!("None")), "algorithm"),
        (with(header(), "alg", json!("HS256")), "algorithm"),
        (with(header(), "alg", json!("RS256")), "algorithm"),
        (with(header(), "alg", json!(["ES256"])), "algorithm"),
        (without(header(), "alg"), "algorithm"),
        (with(header(), "typ", json!("JWT")), "typ"),
        (without(header(), "typ"), "typ"),
        (with(header(), "jwk", json!({"kty": "EC"})), "brings"),
        (with(header(), "jku", json!("https://evil.example/k")), "brings"),
        (with(header(), "x5u", json!("https://evil.example/c")), "brings"),
        (with(header(), "x5c", json!([])), "brings"),
        (with(header(), "crit", json!(["exp"])), "brings"),
        (with(header(), "b64", json!(false)), "brings"),
        (with(header(), "kid", json!("../../etc/passwd")), "key"),
    ];
    for (header, why) in cases {
        host.refuses(&token(header, claims()), why);
    }
    assert_eq!(host.verified.get(), 0);
}

#[test]
fn claims_that_do_not_hold_are_refused_before_any_signature() {
    let host = Host::new();
    let mut cases = vec![
        (with(claims(), "iss", json!("https://evil.example")), "issuer"),
        (with(claims(), "iss", json!(format!("{ISSUER}/"))), "issuer"),
        (with(claims(), "aud", json!("other")), "audience"),
        (with(claims(), "aud", json!([])), "audience"),
        (with(claims(), "aud", json!(["littoral", 7])), "aud"),
        (with(claims(), "exp", json!(NOW_S - 30)), "expired"),
        (with(claims(), "exp", json!(NOW_S + 891)), "more than 900"),
        (with(claims(), "exp", json!(u64::MAX)), "more than 900"),
        (with(claims(), "exp", json!("1795574504")), "exp"),
        (with(claims(), "exp", json!(-5)), "exp"),
        (with(claims(), "nbf", json!(NOW_S + 31)), "not valid yet"),
        (with(claims(), "iat", json!(NOW_S + 31)), "not valid yet"),
        (with(claims(), "sub", json!("")), "sub"),
        (with(claims(), "sub", json!("x".repeat(300))), "sub"),
        (with(claims(), "sub", json!("ada\nj1")), "sub"),
    ];
    for name in ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"] {
        cases.push((without(claims(), name), if name == "aud" { "audience" } else { name }));
    }
    for (claims, why) in cases {
        host.refuses(&token(header(), claims), why);
    }
    assert_eq!(host.verified.get(), 0);
    host.refuses(&token(header(), without(claims(), "tenant")), "tenant");
}

#[test]
fn what_is_no_token_is_refused() {
    let host = Host::new();
    let good = token(header(), claims());
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let twice = |name: &str, value: &str| claims().to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1);
    let cases = [
        ("..".to_string(), "cannot be read"),
        (format!("{head}.{body}."), "signature"),
        (format!("{head}.{body}=.{signature}"), "cannot be read"),
        (format!("{head}.{body}.{signature}!"), "cannot be read"),
        (format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode("[]")), "cannot be read"),
        (format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(b"{\"a\":\"\xff\"}")), "cannot be read"),
        (sign(&header().to_string(), &format!("{{\"a\":{nested}}}"), "k1"), "cannot be read"),
        (sign(&header().to_string(), &twice("sub", "\"root\""), "k1"), "cannot be read"),
        (sign(&header().to_string(), &twice("tenant", "\"globex\""), "k1"), "cannot be read"),
        (sign(&header().to_string(), &claims().to_string(), "k2"), "signature"),
        (
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(with(claims(), "sub", json!("root")).to_string())),
            "signature",
        ),
        ("a".repeat(token::MAX_BYTES + 1), "more than 8192"),
    ];
    for (text, why) in cases {
        host.refuses(&text, why);
    }
}

#[test]
fn what_was_revoked_is_refused() {
    let good = token(header(), claims());
    let name = format!("{ISSUER}\nacme\nada\nj1");
    for (before_s, refused) in [(u64::MAX, true), (NOW_S - 10, true), (NOW_S - 11, false)] {
        let mut host = Host::new();
        host.put(fact_kind::REVOKED, &name, &Revocation { before_s });
        assert_eq!(host.ask(&good).is_err(), refused, "{before_s}");
    }
    let mut host = Host::new();
    host.put(fact_kind::REVOKED, &name, &json!("damaged"));
    host.refuses(&good, "revoked");
}

#[test]
fn a_token_is_revoked_by_itself_or_with_its_subject() {
    let [own, subjects] = token::revocations(&format!("{ISSUER}\nacme\nada\nj1")).unwrap();
    assert_eq!((own, subjects), (token::by_jti(ISSUER, "j1"), token::by_subject(ISSUER, "acme", "ada")));
    assert_ne!(token::by_subject(ISSUER, "acme", "ada"), token::by_subject(ISSUER, "globex", "ada"));
    assert_eq!(token::revocations("nobody\n"), None);
    let json = |before_s| serde_json::to_vec(&Revocation { before_s }).unwrap();
    assert_eq!(Revocation::latest([]), None);
    assert_eq!(Revocation::latest([json(7)]), Some(json(7)));
    assert_eq!(Revocation::latest([json(9), json(7)]), Some(json(9)));
    assert_eq!(Revocation::latest([json(9), b"damaged".to_vec()]), Some(json(u64::MAX)));
}

#[test]
fn a_token_ends_with_the_one_it_came_from() {
    let origin = json!({"iss": "https://other.example", "sub": "a", "jti": "j0", "iat": NOW_S - 100});
    let good = token(header(), with(claims(), token::ORIGIN, origin.clone()));
    for (before_s, refused) in [(u64::MAX, true), (NOW_S - 100, true), (NOW_S - 101, false)] {
        let mut host = Host::new();
        host.put(fact_kind::REVOKED, "https://other.example\nacme\na\nj0", &Revocation { before_s });
        assert_eq!(host.ask(&good).is_err(), refused, "{before_s}");
    }
    for bad in [json!("uaa"), json!({}), with(origin.clone(), "sub", json!("a\nb")), with(origin, "iat", json!("1"))] {
        Host::new().refuses(&token(header(), with(claims(), token::ORIGIN, bad)), token::ORIGIN);
    }
}

#[test]
fn a_tenant_is_named_as_a_keys_tenant_may_be() {
    for bad in ["", "a\nb", "a\u{7f}", &"x".repeat(257)] {
        Host::new().refuses(&token(header(), with(claims(), "tenant", json!(bad))), "tenant");
    }
    let longest = "x".repeat(256);
    let plan = Host::new().ask(&token(header(), with(claims(), "tenant", json!(longest)))).unwrap();
    assert_eq!(plan.tenant(), longest);
}

#[test]
fn a_token_of_a_key_is_as_good_as_the_key() {
    let (record, _) = KeyRecord::create("acme", "ada", &[7; 54]);
    let good = token(header(), with(claims(), "client_id", json!(record.id)));
    let own = Issuer { issuer: ISSUER.into(), audience: "littoral".into(), for_keys: true, ..Issuer::default() };
    let mut host = Host::under(own);
    host.refuses(&good, "revoked");
    host.put(fact_kind::API_KEY, &record.id, &record);
    host.ask(&good).unwrap();
    host.put(fact_kind::API_KEY, &record.id, &KeyRecord { expires_at_ms: Some(1), ..record.clone() });
    host.refuses(&good, "expired");
    let narrow = KeyRecord { networks: vec!["10.0.0.0/8".parse().unwrap()], ..record.clone() };
    host.put(fact_kind::API_KEY, &record.id, &narrow);
    assert_eq!(host.ask(&good).unwrap_err().code, "network_not_allowed");
    host.put(fact_kind::API_KEY, &record.id, &KeyRecord { tenant: "globex".into(), ..record.clone() });
    host.refuses(&good, "tenant");
    // A token for a second factor that was proven with another issuer's is of no key.
    let origin = |iss: &str| json!({"iss": iss, "sub": "a", "jti": "j0", "iat": NOW_S - 100});
    let stepped =
        |iss: &str| token(header(), with(with(claims(), "client_id", json!(record.id)), token::ORIGIN, origin(iss)));
    host.refuses(&stepped(ISSUER), "tenant");
    host.ask(&stepped("https://other.example")).unwrap();
}

#[test]
fn a_client_of_another_issuer_is_no_key_however_it_is_called() {
    let (record, _) = KeyRecord::create("acme", "ada", &[7; 54]);
    let theirs = token(header(), with(claims(), "client_id", json!(record.id)));
    let mut host = Host::new();
    host.ask(&theirs).unwrap();
    let limits = Limits { requests_per_minute: Some(1), ..Limits::default() };
    host.put(fact_kind::API_KEY, &record.id, &KeyRecord { limits, filters: vec!["redact".into()], ..record.clone() });
    let plan = host.ask(&theirs).unwrap();
    assert!(plan.charges.is_empty() && plan.filters.is_empty());
    host.put(fact_kind::API_KEY, &record.id, &KeyRecord { expires_at_ms: Some(1), ..record.clone() });
    host.ask(&theirs).unwrap();
}

#[test]
fn key_sets_are_read_within_bounds() {
    let point = [vec![4], vec![1; 64]].concat();
    let ec = jwks::es256("k", &point).unwrap();
    let rsa = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0x80; 256]), "e": "AQAB"});
    let set = json!({"keys": [
        ec, rsa, 7, {"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, with(ec.clone(), "use", json!("enc")),
        with(ec.clone(), "alg", json!("HS256")), {"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([9; 32])},
    ]});
    let keys = jwks::parse(set.to_string().as_bytes()).unwrap();
    let algorithms: Vec<_> = keys.iter().map(|key| key.algorithm.as_str()).collect();
    assert_eq!(algorithms, ["ES256", "RS256", "EdDSA"]);
    assert_eq!(keys[0].public().unwrap(), point);
    for bad in ["", "{}", "[]", "{\"keys\":{}}"] {
        assert!(jwks::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    for none in ["{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\"}]}"] {
        assert_eq!(jwks::parse(none.as_bytes()), Ok(Vec::new()), "{none}");
    }
    assert_eq!(jwks::parse(&vec![b' '; jwks::MAX_BYTES + 1]), Err(jwks::JwksError::TooLarge));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,400}") {
        prop_assert!(Host::new().ask(&text).is_err());
    }

    #[test]
    fn any_change_to_a_good_token_is_refused(at in any::<prop::sample::Index>(), by in 1u8..=255) {
        let mut bytes = token(header(), claims()).into_bytes();
        let byte = at.get_mut(&mut bytes);
        *byte = byte.wrapping_add(by);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        prop_assert!(Host::new().ask(&text).is_err());
    }

    #[test]
    fn any_bytes_are_no_key_set(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(jwks::parse(&bytes).is_err());
    }
}

#[test]
fn a_fresh_second_factor_is_enough_and_an_old_one_is_not() {
    use littoral_core::{
        limits::TenantPolicy,
        step_up::{ACR, StepUp, When},
    };
    let mut host = Host::new();
    let step_up = StepUp { when: When::Always, max_age_s: 60 };
    host.put(fact_kind::TENANT, "acme", &TenantPolicy { step_up, ..TenantPolicy::default() });
    for (acr, auth_time, enough) in [
        (ACR, Some(NOW_S - 60), true),
        (ACR, Some(NOW_S - 61), false),
        (ACR, None, false),
        ("urn:example:2", Some(NOW_S), false),
    ] {
        let claims = with(with(claims(), "acr", json!(acr)), "auth_time", json!(auth_time));
        let claims = if auth_time.is_none() { without(claims, "auth_time") } else { claims };
        let denied = host.ask(&token(header(), claims)).err().map(|denial| denial.code);
        assert_eq!(denied, (!enough).then(|| "insufficient_user_authentication".into()), "{acr} {auth_time:?}");
    }
}

#[test]
fn a_fresh_second_factor_makes_no_place_known() {
    use littoral_core::{
        limits::TenantPolicy,
        step_up::{
            ACR, StepUp, When,
            place::{Place, Seen, network},
            user_key,
        },
    };
    let mut host = Host::new();
    let place = |address: &str| Place { network: Some(network(address.parse().unwrap())), ..Place::default() };
    let policy = |when| TenantPolicy { step_up: StepUp { when, max_age_s: 60 }, ..TenantPolicy::default() };
    host.put(fact_kind::PLACE, "198.51.100.7", &place("198.51.100.7"));
    let proven = with(with(claims(), "acr", json!(ACR)), "auth_time", json!(NOW_S));
    for when in [When::UnusualPlaces, When::Always] {
        host.put(fact_kind::TENANT, "acme", &policy(when));
        for (seen, noted) in [(None, 1), (Some("203.0.113.1"), 0), (Some("198.51.100.7"), 0)] {
            let mut known = Seen::default();
            seen.into_iter().for_each(|address| known.note(place(address), NOW_S * 1000));
            host.put(fact_kind::SEEN, &user_key("acme", "ada"), &known);
            let plan = host.ask(&token(header(), proven.clone())).unwrap();
            assert_eq!(plan.effects.len(), noted, "{when:?} {seen:?}");
        }
    }
}
