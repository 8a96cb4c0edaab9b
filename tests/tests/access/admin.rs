//! The admin listener: its token, browser sessions that cannot be ridden, and the keys of the store.

use std::process::Command;

use littoral_tests::{
    artefact,
    client::{Answer, Client, full},
    edge::Edge,
    eventually,
    instant_node::{InstantNode, Script},
    process,
    redis_server::Redis,
};
use serde_json::{Value, json};

use super::SOON;

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    client.try_send(client.request(method, path, full(body.to_string()))).await.unwrap()
}

#[tokio::test]
async fn administrators_make_rotate_and_revoke_keys_over_http() {
    let node = InstantNode::start("n", Script::default());
    let setup = Edge::to(&[node.address()]);
    let audit = setup.dir().join("audit");
    let edge = setup
        .with("admin", "listen = '127.0.0.1:0'")
        .with("audit", &format!("dir = '{}'\nstrict = true", audit.display()))
        .start();
    let address = edge.process.address("admin");
    let said = edge.process.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).expect("the token is shown once");
    let client = Client::new(address).with_key(token);
    let new = json!({"tenant": "acme", "user": "ada", "limits": {"requests_per_minute": 100}});
    let made = send(&client, "POST", "/admin/keys", &new).await.ok().await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let user = Client::new(edge.http).with_key(key);
    eventually("the key", SOON, async || user.get("/v1/models").await.status == 200).await;
    let listed = client.get("/admin/keys").await.ok().await;
    assert_eq!(listed["keys"][0]["limits"]["requests_per_minute"], 100);
    assert!(!listed.to_string().contains("hash") && !listed.to_string().contains("salt"), "{listed}");
    let rotated = send(&client, "POST", &format!("/admin/keys/{id}/rotate"), &json!({})).await.ok().await;
    let next = Client::new(edge.http).with_key(rotated["key"].as_str().unwrap());
    eventually("the new secret", SOON, async || next.get("/v1/models").await.status == 200).await;
    send(&client, "DELETE", &format!("/admin/keys/{id}"), &json!({})).await.ok().await;
    eventually("the end of the key", SOON, async || next.get("/v1/models").await.status == 401).await;
    for (method, path, body, status) in [
        ("DELETE", "/admin/keys/000000000000", json!({}), 404),
        ("POST", "/admin/keys", json!({"tenant": "", "user": "a"}), 400),
        ("POST", "/admin/keys", json!({"tenant": "a", "user": "a", "limit": 5}), 400),
        ("POST", "/admin/keys", json!("x".repeat(100_000)), 413),
        ("GET", "/admin/nothing", json!({}), 404),
    ] {
        assert_eq!(send(&client, method, path, &body).await.status, status, "{method} {path}");
    }
    // What administrators do is in the audit log.
    let mut search = Command::new(artefact::binary("littoral"));
    search.args(["audit", "search", "--key-id", "admin", "--outcome", "allowed"]).arg(&audit);
    let said = process::run("audit", search, SOON).said;
    let made = said.lines().find(|line| line.contains("\"POST /admin/keys\"")).unwrap_or_else(|| panic!("{said}"));
    assert!(made.contains(id), "it says which: {made}");
}

#[tokio::test]
async fn a_token_that_cannot_be_checked_is_not_called_wrong() {
    let node = InstantNode::start("n", Script::default());
    let redis = Redis::start();
    let store = format!("url = '{}'\ntimeout_ms = 1000", redis.url());
    let edge = Edge::to(&[node.address()]).with("admin", "listen = '127.0.0.1:0'").with("store", &store).start();
    let said = edge.process.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).unwrap();
    let client = Client::new(edge.process.address("admin"));
    let listed = async || client.with_key(token).get("/admin/keys").await.status;
    eventually("the token", SOON, async || listed().await == 200).await;
    redis.pause(true);
    assert_eq!(listed().await, 503);
    assert_eq!(send(&client, "POST", "/admin/login", &json!({ "token": token })).await.status, 503);
    redis.pause(false);
    eventually("the store", SOON, async || listed().await == 200).await;
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).with("admin", "listen = '127.0.0.1:0'").start();
    let address = edge.process.address("admin");
    let said = edge.process.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).unwrap();
    let nobody = Client::new(address);
    for client in [nobody.clone(), nobody.with_key("la_wrong"), nobody.with_key(&edge.keys.acme)] {
        assert_eq!(client.get("/admin/keys").await.status, 401);
    }
    assert_eq!(send(&nobody, "POST", "/admin/login", &json!({"token": "la_wrong"})).await.status, 401);
    let opened = send(&nobody, "POST", "/admin/login", &json!({ "token": token })).await;
    let cookie = opened.header("set-cookie").to_string();
    assert!(cookie.contains("SameSite=Strict") && cookie.contains("HttpOnly"), "{cookie}");
    let csrf = opened.ok().await["csrf"].as_str().unwrap().to_string();
    let session = nobody.with_header("cookie", cookie.split(';').next().unwrap());
    session.get("/admin/keys").await.ok().await;
    // The cookie alone changes nothing: another site's page has it sent as well.
    let new = json!({"tenant": "acme", "user": "ada"});
    assert_eq!(send(&session, "POST", "/admin/keys", &new).await.status, 403);
    assert_eq!(send(&session.with_header("x-csrf-token", "wrong"), "POST", "/admin/keys", &new).await.status, 403);
    send(&session.with_header("x-csrf-token", &csrf), "POST", "/admin/keys", &new).await.ok().await;
    // Nor is a page let in whose name was made to point here.
    let raw = format!(
        "GET /admin/keys HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let said = littoral_tests::client::raw(address, raw.as_bytes(), SOON).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 421"), "{said}");
    // Names and schemes are what they are in any case (RFC 9110, 4.2.3 and 11.1).
    let raw = format!(
        "GET /admin/keys HTTP/1.1\r\nhost: LOCALHOST:{}\r\nauthorization: bearer {token}\r\nconnection: close\r\n\r\n",
        address.port()
    );
    let said = littoral_tests::client::raw(address, raw.as_bytes(), SOON).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // A new token ends the old one, and the sessions that were opened with it.
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["admin", "token", "--store", &edge.store]);
    let fresh = process::run("admin", command, SOON).said.trim().to_string();
    assert_eq!(nobody.with_key(token).get("/admin/keys").await.status, 401);
    nobody.with_key(&fresh).get("/admin/keys").await.ok().await;
    assert_eq!(session.get("/admin/keys").await.status, 401);
    assert_eq!(send(&session.with_header("x-csrf-token", &csrf), "POST", "/admin/keys", &new).await.status, 401);
}
