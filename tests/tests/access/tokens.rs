//! Access tokens: minted here, or signed elsewhere with real keys.

use std::{fs, sync::atomic::Ordering::Relaxed, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use littoral_tests::{
    client::{Answer, Client},
    edge::{Edge, wrong},
    eventually,
    instant_node::{InstantNode, Script},
    issuer::{ISSUER, Pair, Served, claims, now},
    process::Process,
    redis_server::Redis,
};
use serde_json::{Value, json};

use super::{SOON, ask};

async fn models(edge: &Edge, token: &str) -> Answer {
    Client::new(edge.http).with_key(token).get("/v1/models").await
}

#[tokio::test]
async fn tokens_of_an_issuer_open_the_door_and_rotate_with_its_keys() {
    let node = InstantNode::start("n", Script::default());
    let pairs = [("k1", Pair::es()), ("k2", Pair::ed()), ("k3", Pair::rs())];
    let setup = Edge::to(&[node.address()]);
    let file = setup.dir().join("jwks.json");
    let keys: Vec<_> = pairs.iter().map(|(kid, pair)| pair.jwk(kid)).collect();
    fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
    let issuer = format!("issuer = [{{ issuer = '{ISSUER}', audience = 'littoral', jwks = '{}' }}]", file.display());
    let edge = setup.with("auth", &issuer).start();
    for (kid, pair) in &pairs {
        let token = pair.token(kid, &claims());
        // The second time the signature is remembered; the answer is the same.
        for _ in 0..2 {
            models(&edge, &token).await.ok().await;
        }
        let client = Client::new(edge.http).with_key(&token);
        client.chat(&ask(json!({}))).await.ok().await;
        for (claim, value) in [("exp", json!(now() - 60)), ("aud", json!("other")), ("iss", json!("other"))] {
            let mut wrong = claims();
            wrong[claim] = value;
            let answer = models(&edge, &pair.token(kid, &wrong)).await;
            assert!(answer.header("www-authenticate").contains("invalid_token"));
            assert_eq!(answer.error(401).await["code"], "invalid_token", "{claim}");
        }
        // Another issuer's key of the same name.
        models(&edge, &Pair::es().token(kid, &claims())).await.error(401).await;
        let forged = token.replacen(&token[token.len() - 8..], "AAAAAAAA", 1);
        models(&edge, &forged).await.error(401).await;
    }
    let next = Pair::es();
    fs::write(&file, json!({ "keys": [next.jwk("k4")] }).to_string()).unwrap();
    let token = next.token("k4", &claims());
    eventually("the new key", SOON, async || models(&edge, &token).await.status == 200).await;
    models(&edge, &pairs[0].1.token("k1", &claims())).await.error(401).await;
    // An issuer that has withdrawn its keys has none; it may have some again.
    fs::write(&file, json!({ "keys": [] }).to_string()).unwrap();
    eventually("the end of the keys", SOON, async || models(&edge, &token).await.status == 401).await;
    fs::write(&file, json!({ "keys": [next.jwk("k4")] }).to_string()).unwrap();
    eventually("the key", SOON, async || models(&edge, &token).await.status == 200).await;
    // A damaged set changes nothing.
    fs::write(&file, "{\"keys\": 7").unwrap();
    eventually("the complaint", SOON, async || edge.process.log().contains("keys known before stay")).await;
    models(&edge, &token).await.ok().await;
    // Nor does one that is gone, of which is spoken once, however often it is looked for.
    fs::remove_file(&file).unwrap();
    let warned = || {
        let log = edge.process.log();
        log.lines().filter(|line| line.contains("keys known before stay") && line.contains("No such file")).count()
    };
    eventually("the complaint", SOON, async || warned() > 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(warned(), 1);
    models(&edge, &token).await.ok().await;
}

#[tokio::test]
async fn an_issuer_is_asked_again_for_a_key_that_is_not_known() {
    let node = InstantNode::start("n", Script::default());
    let (old, new) = (Pair::es(), Pair::es());
    let served = Served::start(&[old.jwk("k1")]);
    let url = served.url();
    let issuer = format!("issuer = [{{ issuer = '{ISSUER}', audience = 'littoral', jwks = '{url}' }}]");
    let edge = Edge::to(&[node.address()]).with("auth", &issuer).start();
    models(&edge, &old.token("k1", &claims())).await.ok().await;
    served.serve(&[old.jwk("k1"), new.jwk("k2")]);
    let token = new.token("k2", &claims());
    eventually("the new key", SOON, async || models(&edge, &token).await.status == 200).await;
    // A storm of unknown keys does not become a storm of questions.
    for i in 0..50 {
        models(&edge, &new.token(&format!("no-{i}"), &claims())).await.error(401).await;
    }
    assert!(served.asked.load(Relaxed) <= 3, "{:?}", served.asked);
}

async fn token(edge: &Edge, form: &str) -> Answer {
    let client = Client::new(edge.http).with_header("content-type", "application/x-www-form-urlencoded");
    client.post("/oauth/token", form.to_string()).await
}

/// An edge that mints tokens, with a secret of its own.
fn minting(node: &InstantNode) -> Edge {
    let setup = Edge::to(&[node.address()]);
    let secret = format!("issuer = 'https://edge.example'\nsecret_file = '{}'", setup.dir().join("secret").display());
    setup.with("token", &secret).start()
}

#[tokio::test]
async fn a_client_gets_a_token_refreshes_it_and_loses_it() {
    let (node, redis) = (InstantNode::start("n", Script::default()), Redis::start());
    let first = Edge::to(&[node.address()]);
    let secret = first.dir().join("secret");
    let start = |setup: littoral_tests::edge::Setup| {
        setup
            .with("store", &format!("url = '{}'\ntimeout_ms = 5000", redis.url()))
            .with("token", &format!("issuer = 'https://edge.example'\nsecret_file = '{}'", secret.display()))
            .start()
    };
    let (edge, other) = (start(first), start(Edge::to(&[node.address()])));
    let key = edge.key(&["create", "--tenant", "acme", "--user", "ada"]);
    let id = key.split('_').nth(1).unwrap();
    for edge in [&edge, &other] {
        eventually("the key", SOON, async || models(edge, &key).await.status == 200).await;
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{key}")));
    let client = Client::new(edge.http).with_header("authorization", &basic);
    let issued = client.post("/oauth/token", "grant_type=client_credentials").await;
    assert_eq!(issued.header("cache-control"), "no-store");
    let issued = issued.ok().await;
    assert_eq!((issued["token_type"].as_str(), issued["expires_in"].as_u64()), (Some("Bearer"), Some(600)));
    let access = issued["access_token"].as_str().unwrap();
    for edge in [&edge, &other] {
        models(edge, access).await.ok().await;
    }
    // Refreshed with rotation: each refresh token is good once, and one used twice ends its family.
    let form = |refresh: &Value| {
        format!(
            "grant_type=refresh_token&client_id={id}&client_secret={key}&refresh_token={}",
            refresh.as_str().unwrap()
        )
    };
    let second = token(&other, &form(&issued["refresh_token"])).await.ok().await;
    models(&edge, second["access_token"].as_str().unwrap()).await.ok().await;
    let replayed = token(&edge, &form(&issued["refresh_token"])).await;
    assert_eq!(replayed.status, 400);
    assert_eq!(replayed.json().await["error"], "invalid_grant");
    let after = token(&edge, &form(&second["refresh_token"])).await;
    assert_eq!(after.json().await["error"], "invalid_grant");
    // Of many at once one is first, and the others end what it was given.
    let issued = client.post("/oauth/token", "grant_type=client_credentials").await.ok().await;
    let same = form(&issued["refresh_token"]);
    let at = |i: usize| if i.is_multiple_of(2) { &edge } else { &other };
    let mut given = Vec::new();
    for answer in futures::future::join_all((0..8).map(|i| token(at(i), &same))).await {
        if answer.status == 200 {
            given.push(answer.ok().await);
        }
    }
    assert_eq!(given.len(), 1);
    assert_eq!(token(&edge, &form(&given[0]["refresh_token"])).await.status, 400);
    for (form, status, error) in [
        ("grant_type=client_credentials".to_string(), 401, "invalid_client"),
        (format!("grant_type=client_credentials&client_secret={}", wrong(&key)), 401, "invalid_client"),
        (format!("grant_type=client_credentials&client_id=000000000000&client_secret={key}"), 401, "invalid_client"),
        (format!("grant_type=password&client_secret={key}"), 400, "unsupported_grant_type"),
        (format!("client_secret={key}"), 400, "invalid_request"),
        (format!("client_secret={key}&client_secret={key}"), 400, "invalid_request"),
        ("x".repeat(20_000), 400, "invalid_request"),
    ] {
        let answer = token(&edge, &form).await;
        assert_eq!(answer.status, status, "{form}");
        assert_eq!(answer.json().await["error"], error, "{form}");
    }
    Client::new(edge.http).get("/oauth/token").await.error(405).await;
    // Revoked at one edge, refused at the other within a second.
    let revoke = |arguments: &[&str]| {
        let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
        command.args(["token", "revoke", "--issuer", "https://edge.example", "--store", &edge.store]).args(arguments);
        let ended = littoral_tests::process::run("token", command, SOON);
        assert!(ended.status.success(), "{}", ended.said);
    };
    let body = access.split('.').nth(1).unwrap();
    let read: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
    let fresh = client.post("/oauth/token", "grant_type=client_credentials").await.ok().await;
    let refresh = fresh["refresh_token"].clone();
    let fresh = fresh["access_token"].as_str().unwrap().to_string();
    // Another tenant's user of the same name.
    let theirs = edge.key(&["create", "--tenant", "globex", "--user", "ada"]);
    for edge in [&edge, &other] {
        eventually("the key", SOON, async || models(edge, &theirs).await.status == 200).await;
    }
    let theirs = token(&edge, &format!("grant_type=client_credentials&client_secret={theirs}")).await.ok().await;
    let theirs = theirs["access_token"].as_str().unwrap();
    revoke(&["--jti", read["jti"].as_str().unwrap()]);
    let began = std::time::Instant::now();
    eventually("the end of the token", SOON, async || models(&other, access).await.status == 401).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    models(&other, &fresh).await.ok().await;
    revoke(&["--tenant", "acme", "--subject", "ada"]);
    eventually("the end of the subject", SOON, async || models(&other, &fresh).await.status == 401).await;
    models(&other, theirs).await.ok().await;
    // What would bring it back is over with it.
    let refreshed = token(&edge, &form(&refresh)).await;
    assert_eq!(refreshed.json().await["error"], "invalid_grant");
    // And what a key was given ends with the key.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let last = client.post("/oauth/token", "grant_type=client_credentials").await.ok().await;
    let last = token(&edge, &form(&last["refresh_token"])).await.ok().await;
    let last = last["access_token"].as_str().unwrap();
    models(&other, last).await.ok().await;
    edge.key(&["revoke", id]);
    eventually("the end of the key", SOON, async || models(&other, last).await.status == 401).await;
}

/// One that asks for a token is charged as any request, and its refresh tokens are bounded: the oldest make room.
#[tokio::test]
async fn tokens_are_not_asked_for_without_end() {
    let (node, redis) = (InstantNode::start("n", Script::default()), Redis::start());
    let setup = Edge::to(&[node.address()]);
    let secret = format!("issuer = 'https://edge.example'\nsecret_file = '{}'", setup.dir().join("secret").display());
    let store = format!("url = '{}'\ntimeout_ms = 5000", redis.url());
    let edge = setup.with("token", &secret).with("store", &store).start();
    let client = async |arguments: &[&str]| {
        let key = edge.key(&[&["create", "--tenant", "acme", "--user", "ada"], arguments].concat());
        eventually("the key", SOON, async || models(&edge, &key).await.status != 401).await;
        key
    };
    let key = client(&[]).await;
    let grant = format!("grant_type=client_credentials&client_secret={key}");
    let mut issued = Vec::new();
    for _ in 0..30 {
        issued.push(token(&edge, &grant).await.ok().await["refresh_token"].as_str().unwrap().to_string());
    }
    let kept = redis.command(&[b"EVAL", b"return #redis.call('KEYS', '*refresh:*')", b"0"]);
    assert_eq!(kept, ":8");
    let refresh = async |text: &str| {
        token(&edge, &format!("grant_type=refresh_token&client_secret={key}&refresh_token={text}")).await
    };
    // The last one is good, the first one has made room.
    let last = refresh(issued.last().unwrap()).await.ok().await;
    assert_eq!(refresh(&issued[0]).await.json().await["error"], "invalid_grant");
    refresh(last["refresh_token"].as_str().unwrap()).await.ok().await;
    for bad in ["lr_", "lr_zz", &format!("lr_{}", "f".repeat(98)), &format!("lr_{}", "é".repeat(49))] {
        assert_eq!(refresh(bad).await.json().await["error"], "invalid_grant", "{bad}");
    }
    // Those who ask at once get good ones as well.
    let forms = (0..4).map(|_| token(&edge, &grant));
    for answer in futures::future::join_all(forms).await {
        let text = answer.ok().await["refresh_token"].as_str().unwrap().to_string();
        assert_eq!(text.len(), 101);
    }
    let limited = client(&["--requests-per-minute", "3"]).await;
    let grant = format!("grant_type=client_credentials&client_secret={limited}");
    let mut refused = None;
    for _ in 0..50 {
        let answer = token(&edge, &grant).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "3");
    }
    let refused = refused.expect("three a minute are not fifty");
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|s| (1..=60).contains(&s)));
    assert_eq!(refused.error(429).await["code"], "rate_limit_exceeded");
}

/// An identity provider may call its clients whatever it likes.
#[tokio::test]
async fn a_client_of_another_issuer_is_not_taken_for_a_key() {
    let node = InstantNode::start("n", Script::default());
    let pair = Pair::es();
    let setup = Edge::to(&[node.address()]);
    let file = setup.dir().join("jwks.json");
    fs::write(&file, json!({ "keys": [pair.jwk("k1")] }).to_string()).unwrap();
    let issuer = format!("issuer = [{{ issuer = '{ISSUER}', audience = 'littoral', jwks = '{}' }}]", file.display());
    let edge = setup.with("auth", &issuer).start();
    let key = edge.key(&["create", "--tenant", "acme", "--user", "ada", "--model", "other"]);
    eventually("the key", SOON, async || models(&edge, &key).await.status == 200).await;
    for id in [key.split('_').nth(1).unwrap(), "0123456789ab"] {
        let mut theirs = claims();
        (theirs["client_id"], theirs["tenant"]) = (json!(id), json!("acme"));
        let client = Client::new(edge.http).with_key(&pair.token("k1", &theirs));
        client.chat(&ask(json!({}))).await.ok().await;
    }
}

#[tokio::test]
async fn a_token_of_the_command_line_is_as_good_as_one_of_the_edge() {
    let node = InstantNode::start("n", Script::default());
    let edge = minting(&node);
    let key = edge.key(&["create", "--tenant", "acme", "--user", "ada", "--model", "other"]);
    let id = key.split('_').nth(1).unwrap();
    let mint = |more: &[&str]| edge.run(&[&["token", "create", id], more].concat()).said.trim().to_string();
    let (token, brief) = (mint(&[]), mint(&["--lifetime", "1s"]));
    eventually("the key", SOON, async || models(&edge, &token).await.status == 200).await;
    // It may do what its key may, and is refused by itself alone.
    let refused = Client::new(edge.http).with_key(&token).chat(&ask(json!({}))).await.error(403).await;
    assert_eq!(refused["code"], "model_not_allowed");
    let read = |token: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
    };
    let (claims, short) = (read(&token), read(&brief));
    assert_eq!((claims["sub"].as_str(), claims["client_id"].as_str()), (Some("ada"), Some(id)));
    assert_eq!(short["exp"].as_u64().unwrap() - short["iat"].as_u64().unwrap(), 1);
    let revoked = edge.run(&["token", "revoke", "--jti", claims["jti"].as_str().unwrap()]);
    assert!(revoked.status.success(), "{}", revoked.said);
    let began = std::time::Instant::now();
    eventually("the end of the token", SOON, async || models(&edge, &token).await.status == 401).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    models(&edge, &mint(&[])).await.ok().await;
}

#[tokio::test]
async fn what_revokes_nothing_or_too_much_is_refused() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).start();
    for (arguments, words) in [
        (&[][..], &["--jti", "--subject"][..]),
        (&["--jti", ""], &["--jti"]),
        (&["--subject", "ada"], &["--tenant"]),
        (&["--tenant", "acme"], &["--subject"]),
    ] {
        let ended = edge.run(&[&["token", "revoke", "--issuer", "i"], arguments].concat());
        assert!(!ended.status.success(), "{arguments:?}: {}", ended.said);
        ended.names(words);
    }
}

#[tokio::test]
async fn what_the_configuration_names_and_is_not_there_is_named_by_its_key() {
    let node = InstantNode::start("n", Script::default());
    let issuer = format!("issuer = [{{ issuer = '{ISSUER}', audience = 'littoral', jwks = '/nowhere/jwks.json' }}]");
    let edge = Edge::to(&[node.address()]).with("auth", &issuer);
    Process::refused("edge", edge.command().0).names(&["auth.issuer[0].jwks", "/nowhere/jwks.json"]);
    let edge = Edge::to(&[node.address()]).with("audit", "dir = '/proc/nowhere/audit'");
    Process::refused("edge", edge.command().0).names(&["audit.dir", "/proc/nowhere/audit"]);
}

#[tokio::test]
async fn a_token_that_no_edge_would_take_is_not_minted() {
    let node = InstantNode::start("n", Script::default());
    let edge = minting(&node);
    let key = edge.key(&["create", "--tenant", "acme", "--user", "ada"]);
    let mint = |lifetime| edge.run(&["token", "create", key.split('_').nth(1).unwrap(), "--lifetime", lifetime]);
    for bad in ["0s", "1d", "901s"] {
        let ended = mint(bad);
        assert!(!ended.status.success(), "{bad}: {}", ended.said);
        ended.names(&["--lifetime", "900s"]);
    }
    let token = mint("15m").said.trim().to_string();
    eventually("the key", SOON, async || models(&edge, &token).await.status == 200).await;
}

#[tokio::test]
async fn a_refused_client_is_recorded_with_the_reason() {
    let node = InstantNode::start("n", Script::default());
    let setup = Edge::to(&[node.address()]);
    let dir = setup.dir().join("audit");
    let edge = setup.with("audit", &format!("dir = '{}'\nstrict = true", dir.display())).start();
    let refused = token(&edge, "grant_type=client_credentials&client_secret=lk_wrong").await;
    assert_eq!(refused.status, 401);
    let path =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let text = fs::read_to_string(path).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["outcome"]["error"], "invalid_client", "{line}");
    assert!(line["auth"]["policy"].to_string().contains("its secret is wrong"), "{line}");
    let logged = async || edge.process.logged("error", "invalid_client").is_some();
    eventually("the access log", SOON, logged).await;
}
