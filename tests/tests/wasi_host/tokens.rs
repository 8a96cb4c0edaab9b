//! Access tokens under a host that speaks WASI only: signatures are verified in the component.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::Result;
use littoral_tests::{
    issuer::{ISSUER, Pair, Served, claims, now},
    wasi_host::{WasiHost, guest},
};
use serde_json::{Value, json};

use super::{refused, request, set_up};

fn issuers(jwks: &Value) -> String {
    json!([{"issuer": ISSUER, "audience": "littoral", "jwks": jwks}]).to_string()
}

/// A host that takes this issuer's tokens. Every request has an instance of its own.
fn host(jwks: &Value) -> Result<WasiHost> {
    Ok(set_up("http://127.0.0.1:1", &[], &[("LITTORAL_ISSUERS", &issuers(jwks))])?.0)
}

async fn status(host: &WasiHost, token: &str) -> Result<u16> {
    Ok(host.send(request("GET", "/v1/models", Some(token), "")).await?.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_algorithm_opens_the_door_and_what_is_wrong_does_not() -> Result<()> {
    let pairs = [("k1", Pair::es()), ("k2", Pair::ed()), ("k3", Pair::rs())];
    let keys: Vec<_> = pairs.iter().map(|(kid, pair)| pair.jwk(kid)).collect();
    let host = host(&json!({ "keys": keys }))?;
    for (kid, pair) in &pairs {
        let token = pair.token(kid, &claims());
        assert_eq!(status(&host, &token).await?, 200, "{}", pair.algorithm());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut forged: Vec<char> = signature.chars().collect();
        forged[10] = if forged[10] == 'A' { 'B' } else { 'A' };
        let forged: String = forged.into_iter().collect();
        let long = json!({"exp": now() + 3600});
        for (claim, value) in [
            ("exp", json!(now() - 60)),
            ("nbf", json!(now() + 600)),
            ("exp", long["exp"].clone()),
            ("aud", json!("other")),
            ("iss", json!("https://other.example")),
            ("tenant", Value::Null),
        ] {
            let mut wrong = claims();
            wrong[claim] = value;
            assert_eq!(status(&host, &pair.token(kid, &wrong)).await?, 401, "{claim}");
        }
        for wrong in [
            format!("{signed}.{forged}"),
            format!("{signed}."),
            // Another key under this name, and this key under another's.
            if *kid == "k1" { Pair::es().token(kid, &claims()) } else { Pair::ed().token(kid, &claims()) },
            pair.token(if *kid == "k1" { "k2" } else { "k1" }, &claims()),
            pair.token("k9", &claims()),
        ] {
            let answer = host.send(request("GET", "/v1/models", Some(&wrong), "")).await?;
            assert!(answer.header("www-authenticate").contains("invalid_token"));
            assert_eq!(refused(answer).await?.1["code"], "invalid_token");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_s_address_is_asked_and_its_keys_may_change() -> Result<()> {
    let (old, new) = (Pair::es(), Pair::rs());
    let served = Served::start(&[old.jwk("k1")]);
    let host = host(&json!(served.url()))?;
    let (first, second) = (old.token("k1", &claims()), new.token("k2", &claims()));
    assert_eq!((status(&host, &first).await?, status(&host, &second).await?), (200, 401));
    served.serve(&[new.jwk("k2")]);
    assert_eq!((status(&host, &first).await?, status(&host, &second).await?), (401, 200));
    assert_eq!(served.asked.load(Relaxed), 4, "each instance asks once");
    // A request with a key asks no issuer.
    assert_eq!(status(&host, "lk_000000000000_0").await?, 401);
    assert_eq!(served.asked.load(Relaxed), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_asked_is_worth_another_try() -> Result<()> {
    let large = Served::start(&[json!("x".repeat(300 << 10))]);
    for url in ["http://127.0.0.1:1/jwks".to_string(), large.url()] {
        let host = host(&json!(url))?;
        let answer = host.send(request("GET", "/v1/models", Some(&Pair::es().token("k1", &claims())), "")).await?;
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!(refused(answer).await?.0, 503, "{url}");
    }
    // One without keys has answered: no token of its is good.
    let none = Served::start(&[]);
    assert_eq!(status(&host(&json!(none.url()))?, &Pair::es().token("k1", &claims())).await?, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_that_cannot_be_read_leave_the_host_not_set_up() -> Result<()> {
    for jwks in [json!("keys.json"), json!({"keys": []}), json!(7)] {
        let answer = host(&jwks)?.send(request("GET", "/v1/models", None, "")).await?;
        assert_eq!(refused(answer).await?.0, 500, "{jwks}");
    }
    // The edition for Spin is the same provider.
    assert!(
        littoral_tests::wasi_host::imports_of(&guest("littoral-spin"))?
            .iter()
            .any(|i| i.starts_with("wasi:http/client"))
    );
    Ok(())
}
