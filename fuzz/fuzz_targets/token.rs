//! JWT access tokens: header and claims, and the decision on a request that brings one.

#![no_main]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use littoral_core::{
    Call, Candidate, Fact, Head, Knowledge, Model, Outcome, decide, fact_kind,
    token::{Issuer, Token, Trust, jwks::Key},
};

/// One issuer, one key, and every signature is good: what is refused is refused by the rules.
struct Trusting;

impl Knowledge for Trusting {
    fn peek(&self, kind: &str, key: &str) -> Option<Fact> {
        let value = match (kind, key) {
            (fact_kind::ISSUER, name) if name.starts_with("i\n") => {
                let rules = Issuer { issuer: "i".into(), audience: "a".into(), ..Issuer::default() };
                let key = Key { kid: "k".into(), algorithm: "ES256".into(), public: "AAAA".into() };
                serde_json::to_vec(&Trust { rules, key: Some(key) }).ok()
            }
            _ => None,
        };
        Some(Fact { kind: kind.into(), key: key.into(), value, error: None })
    }

    fn model(&self, name: &str) -> Option<Model> {
        Some(Model { name: name.into(), revision: "r".into(), context_length: 4096, created: 0 })
    }

    fn candidates(&self, _: &str, _: &str, _: &str, _: u32) -> Vec<Candidate> {
        vec![Candidate { node: "n".into(), reason: "session".into() }]
    }

    fn verify(&self, _: &str, _: &[u8], _: &[u8], _: &[u8]) -> bool {
        true
    }
}

const NOW_S: u64 = 1_795_574_004;

fn decided(token: &str) {
    let _ = Token::parse(token);
    let call = Call {
        head: Head {
            method: "GET".into(),
            path: "/v1/models".into(),
            query: None,
            headers: vec![("authorization".into(), format!("Bearer {token}").into_bytes())],
        },
        peer: "198.51.100.7".into(),
        now_ms: NOW_S * 1000,
        ..Call::default()
    };
    match decide(call, &Trusting) {
        // Nobody is let in but by a token with all its claims.
        Outcome::Reply(_) => {
            let token = Token::parse(token).expect("who is let in brought a token");
            assert!(token.header.alg == "ES256" && token.claims.iss == "i" && !token.claims.sub.is_empty());
            assert!(token.claims.aud.iter().any(|aud| aud == "a") && token.claims.exp + 30 > NOW_S);
        }
        Outcome::Denial(denial) => assert!((400..=503).contains(&denial.status)),
        Outcome::Need(wants) => panic!("everything is in memory, and {wants:?} is asked for"),
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        decided(text);
        // The same bytes as header and claims, so that the outer coding is no obstacle.
        let (header, claims) = text.split_once('\0').unwrap_or((r#"{"alg":"ES256","typ":"at+jwt","kid":"k"}"#, text));
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        decided(&format!("{}.{}.AAAA", encode(header), encode(claims)));
    }
});
