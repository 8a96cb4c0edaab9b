//! The audit log: one line for every request, whatever becomes of the edge, and no way to mend a change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use littoral_tests::{
    artefact,
    client::Client,
    edge::{Edge, Setup},
    eventually,
    instant_node::{Gate, InstantNode, MODEL, Script},
    process::{self, Ended, Process},
};
use serde_json::{Value, json};

use super::{SOON, ask};

fn setup(node: &InstantNode, more: &str) -> (Setup, PathBuf) {
    let setup = Edge::to(&[node.address()]);
    let dir = setup.dir().join("audit");
    let line = format!("dir = '{}'\n{more}", dir.display());
    (setup.with("audit", &line).with("cache", "policy = 'off'"), dir)
}

fn audit(arguments: &[&str], dir: &Path) -> Ended {
    let mut command = Command::new(artefact::binary("littoral"));
    command.arg("audit").args(arguments).arg(dir);
    process::run("audit", command, SOON)
}

fn whole(dir: &Path) -> String {
    let ended = audit(&["verify"], dir);
    assert!(ended.status.success(), "{}", ended.said);
    ended.said
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    files
}

fn lines(dir: &Path) -> Vec<Value> {
    let text: String = files(dir).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(dir: &Path, id: &str) -> Value {
    let mut found: Vec<_> =
        lines(dir).into_iter().filter(|line| line["request_id"] == id && line["event_type"] == "request").collect();
    assert_eq!(found.len(), 1, "{id}: {found:?}");
    found.remove(0)
}

fn named(client: &Client, id: &str) -> Client {
    client.with_header("x-request-id", id)
}

#[tokio::test]
async fn every_request_has_its_line_with_the_last_byte() {
    let node = InstantNode::start("n", Script::default());
    for strict in ["", "strict = true"] {
        let (setup, dir) = setup(&node, strict);
        let edge = setup.start();
        let client = edge.client();
        let secret = ask(json!({"messages": [{"role": "user", "content": "my secret prompt"}]}));
        named(&client, "whole").chat(&secret).await.ok().await;
        let told = line(&dir, "whole");
        for (field, value) in [
            ("tenant", json!("acme")),
            ("user", json!("tester")),
            ("source_ip", json!("127.0.0.1")),
            ("action", json!("POST /v1/chat/completions")),
            ("model", json!("instant")),
            ("outcome", json!({"result": "allowed", "status": 200})),
            ("tokens", json!({"prompt": 7, "cached": 0, "completion": 5})),
        ] {
            assert_eq!(told[field], value, "{told}");
        }
        assert_eq!(told["auth"]["method"], "api-key");
        assert_eq!(told["key_id"], edge.keys.acme.split('_').nth(1).unwrap());
        assert!(told["timestamp"].as_str().unwrap().ends_with('Z') && told["duration_ms"].is_u64(), "{told}");
        let streamed = named(&client, "streamed").chat(&ask(json!({"stream": true}))).await;
        assert!(streamed.events().transcript().await.done);
        assert_eq!(line(&dir, "streamed")["tokens"]["completion"], 5);
        named(&client.with_key("lk_wrong"), "stranger").chat(&ask(json!({}))).await.error(401).await;
        let denied = line(&dir, "stranger");
        assert_eq!(denied["outcome"], json!({"result": "denied", "status": 401, "error": "invalid_api_key"}));
        named(&client, "lost").chat(&ask(json!({"model": "nothing"}))).await.error(400).await;
        assert_eq!(line(&dir, "lost")["tenant"], "acme");
        let text: String = files(&dir).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        for never in ["my secret prompt", edge.keys.acme.rsplit('_').next().unwrap()] {
            assert!(!text.contains(never), "{never} is in the log");
        }
        assert!(whole(&dir).contains(" 0 open"));
        let found = audit(&["search", "--status", "401"], &dir);
        assert_eq!(found.said.trim().lines().count(), 1, "{}", found.said);
        assert!(edge.metrics().await.get("littoral_audit_lines_total") >= 6.0);
    }
}

#[tokio::test]
async fn a_killed_edge_loses_no_request() {
    let gate = Gate::default();
    let node = InstantNode::start("n", Script { gate: Some((3, gate.clone())), ..Script::default() });
    let (begun, dir) = setup(&node, "rotate_bytes = 4096");
    let (command, keys) = begun.command();
    let config = begun.dir().join("edge.toml");
    let process = Process::start("edge", command);
    begun.wait_for_nodes(&process);
    let client = Client::new(process.address("http")).with_key(&keys.acme);
    let open: Vec<_> = {
        let mut open = Vec::new();
        for i in 0..20 {
            let answer = named(&client, &format!("open-{i}")).chat(&ask(json!({"stream": true}))).await;
            assert_eq!(answer.status, 200);
            open.push(answer);
        }
        open
    };
    // Enough others for the log to be rotated while they are open.
    for i in 0..30 {
        named(&client, &format!("other-{i}")).get("/v1/models").await.ok().await;
    }
    process.kill();
    drop(open);
    assert!(files(&dir).len() > 2, "{:?}", files(&dir));
    assert!(whole(&dir).contains(" 20 open"), "{}", whole(&dir));
    let mut again = Command::new(artefact::binary("littoral"));
    again.arg("serve").arg("--config").arg(&config);
    let _again = Process::start("edge", again);
    for i in 0..20 {
        assert_eq!(line(&dir, &format!("open-{i}"))["outcome"]["result"], "interrupted");
    }
    for i in 0..30 {
        line(&dir, &format!("other-{i}"));
    }
    eventually("the sync", SOON, async || audit(&["verify"], &dir).status.success()).await;
    assert!(whole(&dir).contains(" 0 open"), "{}", whole(&dir));
}

#[tokio::test]
async fn any_change_is_found() {
    let node = InstantNode::start("n", Script::default());
    let (setup, dir) = setup(&node, "strict = true");
    let edge = setup.start();
    for i in 0..5 {
        named(&edge.client(), &format!("r{i}")).chat(&ask(json!({}))).await.ok().await;
    }
    edge.process.terminate();
    edge.process.wait(SOON);
    whole(&dir);
    let file = files(&dir).remove(0);
    let good = fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = good.lines().collect();
    assert_eq!(kept.len(), 10);
    let joined = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let (mut gap, mut swapped, mut doubled) = (kept.clone(), kept.clone(), kept.clone());
    gap.remove(4);
    swapped.swap(3, 4);
    doubled.insert(5, kept[4]);
    let cases = [
        ("changed", good.replacen("acme", "evil", 1), "was changed"),
        ("gap", joined(&gap), "is expected"),
        ("swapped", joined(&swapped), "is expected"),
        ("doubled", joined(&doubled), "is expected"),
        ("cut", joined(&kept[..9]), "was cut"),
        ("cut line", good[..good.len() - 9].to_string(), "cut"),
        ("beheaded", joined(&kept[1..]), "line 1"),
        ("emptied", String::new(), "was cut"),
    ];
    for (name, text, why) in cases {
        fs::write(&file, text).unwrap();
        let ended = audit(&["verify"], &dir);
        assert!(!ended.status.success() && ended.said.contains(why), "{name}: {}", ended.said);
    }
    fs::write(&file, &good).unwrap();
    whole(&dir);
    fs::remove_file(dir.join("head")).unwrap();
    assert!(audit(&["verify"], &dir).said.contains("head"), "a missing head shows");
}

/// What an edge makes of a log that somebody was at, and what is found in it afterwards.
#[tokio::test]
async fn a_cut_before_a_start_is_not_mended_by_it() {
    let node = InstantNode::start("n", Script::default());
    let (setup, dir) = setup(&node, "strict = true");
    let head = dir.join("head");
    let ask_once = async |command: Command| {
        let process = Process::start("edge", command);
        let key = fs::read_to_string(setup.dir().join("key")).unwrap();
        let client = Client::new(process.address("http")).with_key(&key);
        client.get("/v1/models").await.ok().await;
        process.terminate();
        process.wait(SOON);
    };
    let serve = || {
        let (command, keys) = setup.command();
        fs::write(setup.dir().join("key"), keys.acme).unwrap();
        command
    };
    for _ in 0..5 {
        ask_once(serve()).await;
    }
    assert!(whole(&dir).contains("5 lines"), "{}", whole(&dir));
    let (file, kept_head) = (files(&dir).remove(0), fs::read(&head).unwrap());
    let good = fs::read_to_string(&file).unwrap();
    let two: String = good.lines().take(2).map(|line| format!("{line}\n")).collect();
    // Without its head nobody goes on with it, whole or cut, and nobody begins anew where it was.
    for text in [Some(&good), Some(&two), None] {
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let _ = fs::remove_file(&head);
        Process::refused("edge", serve()).names(&["audit.dir", "littoral audit begin"]);
        assert!(!audit(&["verify"], &dir).status.success());
    }
    // With its head the gap is told at the start, and found for ever.
    fs::write(&head, kept_head).unwrap();
    fs::write(&file, &two).unwrap();
    for _ in 0..2 {
        ask_once(serve()).await;
        let ended = audit(&["verify"], &dir);
        assert!(!ended.status.success() && ended.said.contains("line 3 is expected"), "{}", ended.said);
    }
    for file in files(&dir) {
        fs::remove_file(file).unwrap();
    }
    ask_once(serve()).await;
    let ended = audit(&["verify"], &dir);
    assert!(!ended.status.success() && ended.said.contains("was cut"), "{}", ended.said);
}

/// An edge whose audit folder is a file system of 64 KiB that nobody else sees.
fn cramped(node: &InstantNode, more: &str) -> (Process, Client, PathBuf) {
    let (setup, dir) = setup(node, more);
    fs::create_dir_all(&dir).unwrap();
    let (key, copy) = (setup.dir().join("audit.key"), setup.dir().join("copy"));
    let key = format!("key = '{}'\ncopy_to = '{}'", key.display(), copy.display());
    let setup = setup.with("audit", &key).with("admin", "listen = '127.0.0.1:0'");
    let (serve, keys) = setup.command();
    let mut command = Command::new("unshare");
    let mount = "mount -t tmpfs -o size=64k tmpfs \"$0\" && exec \"$@\"";
    command.args(["-rm", "sh", "-c", mount]).arg(dir).arg(serve.get_program()).args(serve.get_args());
    let process = Process::start("edge", command);
    setup.wait_for_nodes(&process);
    let client = Client::new(process.address("http")).with_key(&keys.acme);
    (process, client, copy)
}

#[tokio::test]
async fn a_full_disk_closes_the_door_or_is_told() {
    let node = InstantNode::start("n", Script::default());
    let (closed, client, copy) = cramped(&node, "on_full = 'deny'");
    client.get("/healthz").await.ok().await;
    let mut answered = 0;
    let refused = loop {
        let answer = named(&client, &format!("answered-{answered}")).get("/v1/models").await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 1000, "64 KiB never fill");
    };
    assert!(answered > 20);
    assert!(!refused.header("retry-after").is_empty());
    refused.error(503).await;
    let metrics = littoral_tests::metrics::Metrics::of(closed.address("metrics")).await;
    assert_eq!(metrics.get("littoral_audit_full"), 1.0);
    let said = async || closed.log().contains("the audit log cannot be written to");
    eventually("the log to say so", SOON, said).await;
    // Every request that was answered has its line, the last one too; and nobody is sent here any more.
    let copied = || files(&copy).iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    let recorded = async || {
        let text = copied();
        (0..answered).all(|i| text.contains(&format!("\"request_id\":\"answered-{i}\"")))
    };
    eventually("the lines in the second folder", SOON, recorded).await;
    let health = client.get("/healthz").await;
    assert_eq!(health.status, 503);
    assert_eq!(health.json().await["audit_full"], true);
    let (told, client, _) = cramped(&node, "on_full = 'continue'");
    for _ in 0..400 {
        client.get("/v1/models").await.ok().await;
    }
    client.get("/healthz").await.ok().await;
    let metrics = littoral_tests::metrics::Metrics::of(told.address("metrics")).await;
    assert!(metrics.get("littoral_audit_lost_total") > 50.0);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// No key is made of which the log says nothing.
#[tokio::test]
async fn administrators_do_nothing_that_is_not_recorded() {
    let node = InstantNode::start("n", Script::default());
    let (edge, _, copy) = cramped(&node, "on_full = 'deny'");
    let said = edge.log();
    let token = said.lines().find_map(|line| line.strip_prefix("admin token ")).unwrap();
    let admin = Client::new(edge.address("admin")).with_key(token);
    let new = json!({"tenant": "acme", "user": "ada"}).to_string();
    let mut made = 0;
    let refused = loop {
        let answer = admin.post("/admin/keys", new.clone()).await;
        if answer.status != 200 {
            break answer;
        }
        made += 1;
        assert!(made < 1000, "64 KiB never fill");
    };
    assert_eq!(refused.status, 503);
    assert!(made > 20);
    let mut list = Command::new(artefact::binary("littoral"));
    list.args(["key", "list", "--config"]).arg(copy.with_file_name("edge.toml"));
    let listed = process::run("key", list, SOON).said;
    assert_eq!(listed.lines().filter(|line| line.contains("acme/ada")).count(), made);
    let marks = || {
        let text: String = files(&copy).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines()
            .filter(|line| line.contains("\"event_type\":\"begin\"") && line.contains("POST /admin/keys"))
            .count()
    };
    eventually("the marks in the second folder", SOON, async || marks() >= made).await;
}

#[tokio::test]
async fn a_search_finds_the_lines_that_fit_and_no_others() {
    let node = InstantNode::start("n", Script::default());
    let (setup, dir) = setup(&node, "strict = true");
    let edge = setup.with("edge", "trusted_proxies = ['127.0.0.0/8']").start();
    let acme = edge.client().with_header("x-forwarded-for", "198.51.100.7");
    named(&acme, "one").chat(&ask(json!({}))).await.ok().await;
    named(&acme, "two").get("/v1/models").await.ok().await;
    named(&edge.client().with_key(&edge.keys.globex), "three").chat(&ask(json!({}))).await.ok().await;
    named(&edge.client().with_key("lk_wrong"), "four").get("/v1/models").await.error(401).await;
    named(&edge.client(), "five").chat(&ask(json!({"model": "nothing"}))).await.error(400).await;
    // A request with a begin mark has two lines that fit what both say.
    let found = |conditions: &[&str]| {
        let said = audit(&[&["search"], conditions].concat(), &dir).said;
        let records =
            said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        let requests = records.filter(|record| record["event_type"] == "request");
        requests.map(|record| record["request_id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let all = ["one", "two", "three", "four", "five"];
    let id = edge.keys.acme.split('_').nth(1).unwrap();
    for (conditions, expected) in [
        (&[][..], &all[..]),
        (&["--tenant", "acme"], &["one", "two", "five"]),
        (&["--tenant", "acme", "--outcome", "allowed"], &["one", "two"]),
        (&["--key-id", id, "--model", MODEL], &["one"]),
        (&["--outcome", "denied"], &["four", "five"]),
        (&["--status", "401"], &["four"]),
        (&["--source-ip", "198.51.100.7"], &["one", "two"]),
        (&["--user", "tester", "--tenant", "globex"], &["three"]),
        (&["--request-id", "three"], &["three"]),
        (&["--since", "2026-01-01"], &all),
        (&["--until", "2026-01-01"], &[]),
        (&["--since", "9999-01-01T00:00:00"], &[]),
    ] {
        assert_eq!(found(conditions), expected, "{conditions:?}");
    }
    for (conditions, word) in [(&["--since", "yesterday"], "yesterday"), (&["--outcome", "bogus"], "interrupted")] {
        let ended = audit(&[&["search"], &conditions[..]].concat(), &dir);
        assert!(!ended.status.success() && ended.said.contains(word), "{}", ended.said);
    }
    let ended = audit(&["search"], &dir.join("nowhere"));
    assert!(!ended.status.success() && ended.said.contains("nowhere"), "{}", ended.said);
    whole(&dir);
}
