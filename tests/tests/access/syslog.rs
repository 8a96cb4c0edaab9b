//! The audit log's syslog sink: every line arrives, whoever of the two is killed meanwhile.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use littoral_tests::{
    artefact,
    certificates::{Authority, Signed},
    client::Client,
    edge::{Edge, Setup},
    eventually,
    instant_node::{InstantNode, Script},
    metrics::Metrics,
    port::Port,
    process::{self, Process},
    syslog_receiver::SyslogReceiver,
};

use super::SOON;

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Parts {
    dir: PathBuf,
    authority: Authority,
    own: Signed,
}

fn parts() -> Parts {
    let dir = artefact::scratch("syslog");
    let authority = Authority::new(&dir);
    let own = authority.sign(&["logs.example"]);
    Parts { dir, authority, own }
}

impl Parts {
    fn audit(&self) -> PathBuf {
        self.dir.join("audit")
    }

    fn setup(&self, node: &InstantNode, to: SocketAddr, more: &str) -> Setup {
        let ca = self.authority.file();
        let line = format!("dir = '{}'\nrotate_bytes = 8192", self.audit().display());
        let syslog = format!("address = '{to}'\nserver_name = 'logs.example'\nca_file = '{}'\n{more}", ca.display());
        Edge::to(&[node.address()]).with("audit", &line).with("audit.syslog", &syslog)
    }
}

/// Numbers of the lines in messages, each of which must be of the form it is to have.
fn numbers(messages: &[String]) -> BTreeSet<u64> {
    let number = |message: &String| {
        let (head, line) = message.split_once("\"] ").expect("there is structured data before the text");
        let fields: Vec<_> = head.splitn(7, ' ').collect();
        assert_eq!((fields[0], fields[3]), ("<110>1", "littoral"), "{message}");
        let line: serde_json::Value = serde_json::from_str(line).expect("the text is the line");
        assert_eq!(line["timestamp"], fields[1]);
        assert_eq!(line["event_type"], fields[5]);
        assert_eq!(fields[6], format!("[meta sequenceId=\"{}", line["seq"]));
        line["seq"].as_u64().expect("lines are numbered")
    };
    messages.iter().map(number).collect()
}

/// The number of the log's last line.
fn last(dir: &Path) -> u64 {
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["audit", "verify"]).arg(dir);
    let ended = process::run("audit", command, SOON);
    let said = ended.said.split(" to ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    said.unwrap_or_else(|| panic!("{}", ended.said))
}

async fn ask(client: &Client, times: usize) {
    for _ in 0..times {
        client.get("/v1/models").await.ok().await;
    }
}

#[tokio::test]
async fn lines_arrive_and_a_receiver_that_was_away_gets_what_it_missed() {
    let (node, parts) = (InstantNode::start("n", Script::default()), parts());
    let port = Port::take();
    let address = port.address();
    let receiver = SyslogReceiver::start(address, &parts.own, None);
    let edge = parts.setup(&node, address, "").start();
    ask(&edge.client(), 30).await;
    eventually("the lines", SOON, async || numbers(&receiver.messages()).len() == 30).await;
    let none = async || edge.metrics().await.get("littoral_audit_sink_lag_lines") == 0.0;
    eventually("that they were sent", SOON, none).await;
    let first = receiver.messages();
    drop(receiver);
    ask(&edge.client(), 50).await;
    let behind = async || {
        let metrics = edge.metrics().await;
        let lag = metrics.get("littoral_audit_sink_lag_seconds");
        metrics.get("littoral_audit_sink_lag_lines") >= 50.0 && (0.1..60.0).contains(&lag)
    };
    eventually("the lag", SOON, behind).await;
    let failed = async || edge.metrics().await.get("littoral_audit_sink_failures_total") >= 1.0;
    eventually("a failure", SOON, failed).await;
    let receiver = SyslogReceiver::start(address, &parts.own, None);
    let all = async || numbers(&[first.clone(), receiver.messages()].concat()) == (1..=80).collect();
    eventually("the rest", SOON, all).await;
    let caught_up = async || edge.metrics().await.get("littoral_audit_sink_lag_seconds") == 0.0;
    eventually("no lag", SOON, caught_up).await;
}

#[tokio::test]
async fn a_killed_edge_goes_on_where_it_was() {
    let (node, parts) = (InstantNode::start("n", Script::default()), parts());
    let receiver = SyslogReceiver::start(ANYWHERE, &parts.own, Some(&parts.authority.file()));
    let edge = parts.authority.sign(&["edge.example"]);
    let more = format!("certificate_file = '{}'\nkey_file = '{}'", edge.certificate.display(), edge.key.display());
    let setup = parts.setup(&node, receiver.address(), &more);
    let (command, keys) = setup.command();
    let process = Process::start("edge", command);
    ask(&Client::new(process.address("http")).with_key(&keys.acme), 200).await;
    process.kill();
    let there = last(&parts.audit());
    assert_eq!(there, 200);
    let mut again = Command::new(artefact::binary("littoral"));
    again.arg("serve").arg("--config").arg(setup.dir().join("edge.toml"));
    let process = Process::start("edge", again);
    ask(&Client::new(process.address("http")).with_key(&keys.acme), 10).await;
    let all = async || numbers(&receiver.messages()) == (1..=210).collect();
    eventually("every line", SOON, all).await;
    // What it has confirmed is not sent a second time.
    let position =
        async || std::fs::read_to_string(parts.audit().join("syslog.position")).is_ok_and(|text| text == "210\n");
    // It is asked for every ten seconds.
    eventually("the receiver's word", 3 * SOON, position).await;
    process.terminate();
    process.wait(SOON);
    let had = receiver.messages().len();
    let mut again = Command::new(artefact::binary("littoral"));
    again.arg("serve").arg("--config").arg(setup.dir().join("edge.toml"));
    let process = Process::start("edge", again);
    ask(&Client::new(process.address("http")).with_key(&keys.acme), 1).await;
    eventually("one more", SOON, async || receiver.messages().len() > had).await;
    assert_eq!(receiver.messages().len(), had + 1);
}

#[tokio::test]
async fn a_receiver_nobody_vouches_for_gets_nothing() {
    let (node, parts) = (InstantNode::start("n", Script::default()), parts());
    let strangers = artefact::scratch("strangers");
    let stranger = Authority::new(&strangers).sign(&["logs.example"]);
    let other_name = parts.authority.sign(&["other.example"]);
    for own in [stranger, other_name] {
        let receiver = SyslogReceiver::start(ANYWHERE, &own, None);
        let dir = artefact::scratch("audit");
        let (command, keys) = {
            let setup = parts.setup(&node, receiver.address(), "");
            let (command, keys) = setup.command();
            let file = setup.dir().join("edge.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace(&parts.audit().display().to_string(), &dir.display().to_string()))
                .unwrap();
            (command, keys)
        };
        let process = Process::start("edge", command);
        ask(&Client::new(process.address("http")).with_key(&keys.acme), 3).await;
        let failed =
            async || Metrics::of(process.address("metrics")).await.get("littoral_audit_sink_failures_total") >= 2.0;
        eventually("the refusal", SOON, failed).await;
        let told = async || process.log().contains("the audit log's syslog receiver cannot follow");
        eventually("the log to say so", SOON, told).await;
        assert_eq!(receiver.messages(), [""; 0]);
    }
}
