//! Administrative writes and the replicas that must have them: acknowledged after, and never silently before.

use std::time::{Duration, Instant};

use littoral::{
    config,
    vault::{self, StoreError, Table},
};
use littoral_core::step_up::totp;
use littoral_tests::{
    client::{Client, full},
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, Script},
    process::Process,
    redis_server::Redis,
};
use serde_json::{Value, json};

use super::SOON;

fn setup(node: &InstantNode, redis: &Redis) -> Setup {
    let setup = Edge::to(&[node.address()]);
    let secret = setup.dir().join("secret").display().to_string();
    with_secret(setup, redis, &secret)
}

fn with_secret(setup: Setup, redis: &Redis, secret: &str) -> Setup {
    let secret = format!("issuer = 'https://edge.example'\nsecret_file = '{secret}'");
    let store = format!("url = '{}'\nmin_replicas = 1\ntimeout_ms = 5000", redis.url());
    setup.with("store", &store).with("token", &secret)
}

/// Runs a command until the replica acknowledges its write in time: on a busy machine a tenth of a second passes. What
/// the command said.
fn acknowledged(edge: &Edge, arguments: &[&str]) -> String {
    let mut late = false;
    for _ in 0..20 {
        let ended = edge.run(arguments);
        // Whoever takes away what an earlier try took away finds nothing.
        if ended.status.success() || (late && ended.said.contains("there is no key")) {
            return ended.said.trim().to_string();
        }
        late = ended.said.contains("of 1 replicas");
        assert!(late, "{}", ended.said);
    }
    panic!("the replica acknowledges nothing in time");
}

/// Whether the replica has an entry of a mirrored table.
fn has(replica: &Redis, table: &str, id: &str) -> bool {
    let key = format!("{{littoral}}:{table}");
    replica.command(&[b"HEXISTS", key.as_bytes(), id.as_bytes()]) == ":1"
}

fn id_of(key: &str) -> String {
    key.split('_').nth(1).expect("a key names its id").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_acknowledged_when_the_replica_has_it() {
    let primary = Redis::start();
    let replica = primary.replica();
    let config = config::Store { url: primary.url(), min_replicas: Some(1), ..config::Store::default() };
    let store = vault::open(&config).unwrap();
    const STILL: Duration = Duration::from_millis(25);
    let mut acknowledged = 0;
    for i in 0..40 {
        // A replica that stands still has the write awaited, and no longer than it stands still.
        replica.pause(true);
        let began = Instant::now();
        let id = format!("k{i}");
        let put = store.put(Table::Keys, &id, b"{}".to_vec(), None);
        let on = async {
            tokio::time::sleep(STILL).await;
            replica.pause(false);
        };
        match tokio::join!(put, on).0 {
            Ok(()) => {
                assert!(began.elapsed() >= STILL, "acknowledged after {:?}", began.elapsed());
                assert!(has(&replica, "keys", &id));
                acknowledged += 1;
            }
            // On a busy machine a tenth of a second passes.
            Err(StoreError::NotReplicated(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if acknowledged == 5 {
            break;
        }
    }
    assert_eq!(acknowledged, 5);
    // What was taken and not acknowledged in time is put there again.
    let mut tries = 0..40;
    loop {
        tries.next().expect("one of them is acknowledged in time");
        match store.take(Table::Keys, "k0").await {
            Ok(taken) => {
                assert!(taken.is_some());
                break;
            }
            Err(StoreError::NotReplicated(_)) => {}
            Err(error) => panic!("{error}"),
        }
        match store.put(Table::Keys, "k0", b"{}".to_vec(), None).await {
            Ok(()) | Err(StoreError::NotReplicated(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!has(&replica, "keys", "k0") && has(&replica, "keys", "k4"));
    replica.kill();
    let refused = store.put(Table::Revoked, "jti", b"{}".to_vec(), None).await;
    assert!(matches!(refused, Err(StoreError::NotReplicated(replicas)) if (replicas.got, replicas.wanted) == (0, 1)));
}

#[tokio::test]
async fn keys_revocations_and_second_factors_reach_the_replica_first() {
    let (primary, node) = (Redis::start(), InstantNode::start("n", Script::default()));
    let replica = primary.replica();
    let edge = setup(&node, &primary).start();
    let id = id_of(&acknowledged(&edge, &["key", "create", "--tenant", "acme", "--user", "ada"]));
    assert!(has(&replica, "keys", &id));
    acknowledged(&edge, &["user", "enrol", "--tenant", "acme", "--user", "ada", "--secret", &secret(&edge)]);
    assert!(has(&replica, "factors", "acme\nada"));
    acknowledged(&edge, &["token", "revoke", "--tenant", "acme", "--subject", "ada"]);
    assert!(has(&replica, "revoked", "sub\nhttps://edge.example\nacme\nada"));
    acknowledged(&edge, &["key", "revoke", &id]);
    assert!(!has(&replica, "keys", &id));
}

/// Whether the replica has what a first start makes.
fn has_secrets(replica: &Redis) -> bool {
    let names = ["signing-key", "admin-token"].map(|name| format!("{{littoral}}:secrets:{name}"));
    replica.command(&[b"EXISTS", names[0].as_bytes(), names[1].as_bytes()]) == ":2"
}

#[test]
fn a_first_start_waits_a_while_for_its_replica() {
    let (primary, node) = (Redis::start(), InstantNode::start("n", Script::default()));
    let secret = Edge::to(&[]).dir().join("secret").display().to_string();
    let setup = || {
        let setup = with_secret(Edge::to(&[node.address()]), &primary, &secret);
        setup.with("admin", "listen = '127.0.0.1:0'")
    };
    let ended = Process::refused("edge", setup().command().0);
    ended.names(&["0 of 1 replicas", "store.min_replicas"]);
    // What was written and not acknowledged is not in the way of the next start.
    std::thread::scope(|scope| {
        let joins = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(1));
            primary.replica()
        });
        let edge = setup().start();
        assert_eq!(edge.process.log().matches("admin token la_").count(), 1);
        assert!(has_secrets(&joins.join().unwrap()));
    });
}

fn secret(edge: &Edge) -> String {
    edge.config().with_file_name("secret").display().to_string()
}

#[tokio::test]
async fn without_its_replica_a_write_says_what_is_unknown() {
    let (primary, node) = (Redis::start(), InstantNode::start("n", Script::default()));
    let replica = primary.replica();
    let edge = setup(&node, &primary)
        .with("admin", "listen = '127.0.0.1:0'")
        .with("tenant.acme.step_up", "when = 'always'")
        .start();
    let said = edge.process.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).unwrap().to_string();
    let admin = Client::new(edge.process.address("admin")).with_key(&token);
    let key = acknowledged(&edge, &["key", "create", "--tenant", "acme", "--user", "ada"]);
    let id = id_of(&key);
    let enrol = ["user", "enrol", "--tenant", "acme", "--user", "ada", "--secret", &secret(&edge)];
    let enrolled = acknowledged(&edge, &enrol);
    let uri = enrolled.lines().find(|line| line.starts_with("otpauth://")).unwrap().to_string();
    let totp_secret = totp::unbase32(uri.split("secret=").nth(1).unwrap().split('&').next().unwrap()).unwrap();
    let client = Client::new(edge.http).with_key(&key);
    eventually("the key", SOON, async || {
        client.get("/v1/models").await.json().await["error"]["code"] != "invalid_api_key"
    })
    .await;

    replica.kill();
    let few = ["0 of 1 replicas", "store.min_replicas"];
    // Who is refused a new secret goes on with the old one.
    for refused in [
        &["key", "create", "--tenant", "acme", "--user", "eve"][..],
        &["key", "rotate", &id],
        &["admin", "token"],
        &enrol,
    ] {
        let ended = edge.run(refused);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
        ended.names(&few);
        ended.names(&["nothing was changed"]);
        assert!(!ended.said.contains("lk_") && !ended.said.contains("otpauth"), "{}", ended.said);
    }
    let listed = edge.key(&["list"]);
    assert!(listed.contains(&id) && !listed.contains("acme/eve"), "{listed}");
    // What takes something away is done, and says that it may come back.
    let ended = edge.run(&["token", "revoke", "--jti", "j"]);
    assert_eq!(ended.status.code(), Some(1));
    ended.names(&few);
    ended.names(&["it is done, and is lost if"]);
    // Over HTTP it is the same.
    let send = async |method: &str, path: &str, body: Value| {
        let answer = admin.try_send(admin.request(method, path, full(body.to_string()))).await.unwrap();
        (answer.status, answer.json().await["error"]["message"].as_str().unwrap_or_default().to_string())
    };
    let (status, message) = send("POST", "/admin/keys", json!({"tenant": "acme", "user": "eve"})).await;
    assert!(status == 503 && message.contains("nothing was changed: 0 of 1"), "{status} {message}");
    // A code is used up where nobody can say that it stays so; the factor is the one from before.
    let step = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 30;
    let code = json!({"code": totp::at(&totp_secret, step)}).to_string();
    client.post("/v1/auth/step-up", code.clone()).await.error(503).await;
    let (status, message) = send("DELETE", &format!("/admin/keys/{id}"), json!({})).await;
    assert!(status == 503 && message.contains("it is done, and is lost if"), "{status} {message}");
    eventually("the end of the key", SOON, async || {
        client.get("/v1/models").await.json().await["error"]["code"] == "invalid_api_key"
    })
    .await;

    // An edge starts without a replica; with one again, the second try tells that the replicas know.
    let again = with_secret(Edge::to(&[node.address()]), &primary, &secret(&edge));
    let again = again.with("admin", "listen = '127.0.0.1:0'").start();
    assert!(!again.process.log().contains("admin token "));
    let replica = primary.replica();
    let known = async || edge.run(&["key", "revoke", &id]).said.contains("there is no key");
    eventually("the replicas to know", SOON, known).await;
    assert!(!has(&replica, "keys", &id));
    acknowledged(&edge, &["key", "create", "--tenant", "acme", "--user", "eve"]);
    assert_eq!(admin.get("/admin/keys").await.ok().await["keys"].as_array().unwrap().len(), 1);
}
