//! The second factor: asked for at unusual places, given with a code that counts once.

use littoral_core::step_up::totp;
use littoral_tests::{
    client::{Answer, Client},
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, Script},
    issuer::{ISSUER, Pair, claims},
    process,
    redis_server::Redis,
};
use serde_json::json;

use super::{SOON, ask};

struct Scene {
    edge: Edge,
    secret: std::path::PathBuf,
    key: String,
    _node: InstantNode,
}

impl Scene {
    async fn start(when: &str) -> Self {
        Self::with(when, |setup| setup).await
    }

    async fn with(when: &str, more: impl FnOnce(Setup) -> Setup) -> Self {
        let node = InstantNode::start("n", Script::default());
        let setup = more(Edge::to(&[node.address()]));
        let secret = setup.dir().join("secret");
        let edge = setup
            .with("edge", "trusted_proxies = ['127.0.0.0/8']")
            .with("token", &format!("issuer = 'https://edge.example'\nsecret_file = '{}'", secret.display()))
            .with("tenant.acme.step_up", &format!("when = '{when}'"))
            .start();
        let key = edge.key(&["create", "--tenant", "acme", "--user", "ada"]);
        let client = Client::new(edge.http).with_key(&key).with_header("x-forwarded-for", "198.51.100.7");
        let known = async || client.get("/v1/models").await.json().await["error"]["code"] != "invalid_api_key";
        eventually("the key", SOON, known).await;
        Self { edge, secret, key, _node: node }
    }

    fn from(&self, address: &str, credential: &str) -> Client {
        Client::new(self.edge.http).with_key(credential).with_header("x-forwarded-for", address)
    }

    /// The secret and the recovery codes that `littoral user enrol` shows.
    fn enrol(&self) -> (Vec<u8>, Vec<String>) {
        let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
        command.args(["user", "enrol", "--tenant", "acme", "--user", "ada", "--store", &self.edge.store, "--secret"]);
        let ended = process::run(
            "enrol",
            {
                command.arg(&self.secret);
                command
            },
            SOON,
        );
        assert!(ended.status.success(), "{}", ended.said);
        assert!(ended.said.contains('█') || ended.said.contains('▀'), "no QR code: {}", ended.said);
        let uri = ended.said.lines().find(|line| line.starts_with("otpauth://totp/")).expect("a URI is shown");
        let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
        let codes =
            ended.said.lines().filter(|line| line.starts_with("  ")).map(|line| line.trim().to_string()).collect();
        (totp::unbase32(secret).unwrap(), codes)
    }
}

fn step() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 30
}

async fn challenged(answer: Answer) {
    let challenge = answer.header("www-authenticate").to_string();
    for part in ["insufficient_user_authentication", "acr_values=\"urn:littoral:acr:mfa\"", "max_age="] {
        assert!(challenge.contains(part), "{challenge}");
    }
    assert_eq!(answer.error(401).await["code"], "insufficient_user_authentication");
}

#[tokio::test]
async fn a_new_place_asks_for_a_code_and_a_code_opens_it() {
    let scene = Scene::start("unusual-places").await;
    let (home, away) = ("198.51.100.7", "203.0.113.9");
    // The first place is the user's own, and so is its neighbourhood.
    scene.from(home, &scene.key).chat(&ask(json!({}))).await.ok().await;
    scene.from("198.51.7.7", &scene.key).chat(&ask(json!({}))).await.ok().await;
    let asked = async || scene.from(away, &scene.key).chat(&ask(json!({}))).await.status == 401;
    eventually("the place to be remembered", SOON, asked).await;
    challenged(scene.from(away, &scene.key).chat(&ask(json!({}))).await).await;
    let stepping = scene.from(away, &scene.key);
    let prove = async |proof: serde_json::Value| stepping.post("/v1/auth/step-up", proof.to_string()).await;
    // Nobody has a factor before enrolment.
    assert_eq!(prove(json!({"code": "000000"})).await.error(401).await["code"], "invalid_code");
    let (secret, recovery) = scene.enrol();
    assert_eq!(recovery.len(), 10);
    let code = totp::at(&secret, step());
    let issued = prove(json!({ "code": code })).await.ok().await;
    let token = issued["access_token"].as_str().unwrap();
    scene.from(away, token).chat(&ask(json!({}))).await.ok().await;
    // A code counts once; the place is known from now on.
    assert_eq!(prove(json!({ "code": code })).await.error(401).await["code"], "invalid_code");
    let known = async || scene.from(away, &scene.key).chat(&ask(json!({}))).await.status == 200;
    eventually("the new place", SOON, known).await;
    challenged(scene.from("192.0.2.1", &scene.key).chat(&ask(json!({}))).await).await;
    // Elsewhere the token of the second factor is good while it is fresh, and makes nobody's home of the place.
    for _ in 0..2 {
        scene.from("192.0.2.1", token).chat(&ask(json!({}))).await.ok().await;
        challenged(scene.from("192.0.2.1", &scene.key).chat(&ask(json!({}))).await).await;
    }
}

#[tokio::test]
async fn recovery_codes_count_once_and_guesses_are_few() {
    let scene = Scene::start("always").await;
    let at_home = scene.from("198.51.100.7", &scene.key);
    challenged(at_home.chat(&ask(json!({}))).await).await;
    let (_, recovery) = scene.enrol();
    let prove = async |proof: serde_json::Value| at_home.post("/v1/auth/step-up", proof.to_string()).await;
    let issued = prove(json!({"recovery_code": recovery[3].to_lowercase()})).await.ok().await;
    let token = issued["access_token"].as_str().unwrap();
    scene.from("198.51.100.7", token).chat(&ask(json!({}))).await.ok().await;
    prove(json!({"recovery_code": recovery[3]})).await.error(401).await;
    prove(json!({"code": "x"})).await.error(401).await;
    prove(json!({"cod": "123456"})).await.error(400).await;
    let mut throttled = None;
    for i in 0..6 {
        let answer = prove(json!({"code": format!("{i:06}")})).await;
        if answer.status == 429 {
            throttled = Some(answer);
            break;
        }
    }
    let throttled = throttled.expect("five tries a minute");
    assert!(throttled.header("retry-after").parse::<u64>().is_ok_and(|s| (1..=60).contains(&s)));
    // Right or wrong, no further try counts for now.
    prove(json!({"recovery_code": recovery[4]})).await.error(429).await;
}

#[tokio::test]
async fn recovery_codes_given_at_once_are_used_up_in_a_shared_store() {
    let redis = Redis::start();
    let scene =
        Scene::with("always", |setup| setup.with("store", &format!("url = '{}'\ntimeout_ms = 5000", redis.url())))
            .await;
    let (_, recovery) = scene.enrol();
    let at_home = scene.from("198.51.100.7", &scene.key);
    let prove = async |code: &str| {
        let body = json!({ "recovery_code": code }).to_string();
        at_home.post("/v1/auth/step-up", body).await.status
    };
    assert_eq!(tokio::join!(prove(&recovery[0]), prove(&recovery[1])), (200, 200));
    // What the marks of used codes would hide is looked at without them.
    redis.command(&[b"EVAL", b"for _, k in ipairs(redis.call('KEYS', '*once*')) do redis.call('DEL', k) end", b"0"]);
    assert_eq!((prove(&recovery[0]).await, prove(&recovery[1]).await), (401, 401));
    assert_eq!(prove(&recovery[2]).await, 200);
}

#[tokio::test]
async fn a_factor_is_sealed_with_the_secret_that_the_configuration_names() {
    let scene = Scene::start("always").await;
    let home = littoral_tests::artefact::scratch("home");
    let enrol = |arguments: &[&str]| {
        let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
        command.args(["user", "enrol", "--tenant", "acme", "--user", "ada"]).args(arguments).current_dir(&home);
        process::run("enrol", command, SOON)
    };
    let config = scene.edge.config().display().to_string();
    let ended = enrol(&["--config", &config]);
    assert!(ended.status.success(), "{}", ended.said);
    let code = ended.said.lines().find_map(|line| line.strip_prefix("  ")).expect("recovery codes are shown");
    let body = json!({ "recovery_code": code }).to_string();
    scene.from("198.51.100.7", &scene.key).post("/v1/auth/step-up", body).await.ok().await;
    // Without it nothing is made up.
    let ended = enrol(&["--store", &scene.edge.store]);
    assert!(!ended.status.success());
    ended.names(&["littoral.secret", "--config", "token.secret_file"]);
    assert!(!home.join("littoral.secret").exists());
    // Nor with another secret than the edges', which could not open it.
    let other = home.join("other");
    std::fs::write(&other, "5a".repeat(32)).unwrap();
    let ended = enrol(&["--store", &scene.edge.store, "--secret", other.to_str().unwrap()]);
    assert!(!ended.status.success());
    ended.names(&["another secret", "token.secret_file"]);
    let id = scene.key.split('_').nth(1).unwrap();
    // A command makes no secret either, which the next one would take for the edges'.
    let config = home.join("elsewhere.toml");
    std::fs::write(&config, "[token]\nissuer = 'https://edge.example'\nsecret_file = 'made-up'\n").unwrap();
    let mut command = std::process::Command::new(littoral_tests::artefact::binary("littoral"));
    command.args(["token", "create", id, "--store", &scene.edge.store, "--config"]).arg(&config).current_dir(&home);
    let ended = process::run("token", command, SOON);
    assert!(!ended.status.success());
    ended.names(&["made-up", "token.secret_file"]);
    assert!(!home.join("made-up").exists());
}

#[tokio::test]
async fn a_token_for_a_second_factor_ends_with_the_one_it_was_given_for() {
    let pair = Pair::es();
    let scene = Scene::with("always", |setup| {
        let file = setup.dir().join("jwks.json");
        std::fs::write(&file, json!({"keys": [pair.jwk("k1")]}).to_string()).unwrap();
        let issuer = format!("{{ issuer = '{ISSUER}', audience = 'littoral', jwks = '{}' }}", file.display());
        setup.with("auth", &format!("issuer = [{issuer}]"))
    })
    .await;
    let (_, recovery) = scene.enrol();
    let token = |subject: &str, jti: &str| {
        let mut claims = claims();
        for (claim, value) in [("sub", subject), ("jti", jti), ("tenant", "acme")] {
            claims[claim] = json!(value);
        }
        pair.token("k1", &claims)
    };
    let step_up = async |token: &str, code: &str| {
        let body = json!({ "recovery_code": code }).to_string();
        let issued = scene.from("198.51.100.7", token).post("/v1/auth/step-up", body).await.ok().await;
        issued["access_token"].as_str().unwrap().to_string()
    };
    let status = async |token: &str| scene.from("198.51.100.7", token).get("/v1/models").await.status;
    let first = step_up(&token("ada", "j1"), &recovery[0]).await;
    // A second one, given for the first, has the same end.
    let again = step_up(&first, &recovery[1]).await;
    let other = step_up(&token("ada", "j2"), &recovery[2]).await;
    for token in [&first, &again, &other] {
        assert_eq!(status(token).await, 200);
    }
    let revoke = |arguments: &[&str]| {
        let ended = scene.edge.run(&[&["token", "revoke", "--issuer", ISSUER], arguments].concat());
        assert!(ended.status.success(), "{}", ended.said);
    };
    revoke(&["--jti", "j1"]);
    for token in [&first, &again] {
        eventually("the end of the token", SOON, async || status(token).await == 401).await;
    }
    assert_eq!(status(&other).await, 200);
    revoke(&["--tenant", "acme", "--subject", "ada"]);
    eventually("the end of the subject", SOON, async || status(&other).await == 401).await;
}
