//! Nodes from a watched file and from DNS: they come, they go, and a name server that flaps changes nothing.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use littoral_tests::{
    edge::Edge,
    eventually,
    instant_node::{InstantNode, MODEL, Script},
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

async fn node_names(edge: &Edge) -> Vec<String> {
    let health = edge.client().get("/healthz").await.json().await;
    let names = health["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_string());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

async fn answered_by(edge: &Edge, user: usize) -> String {
    let body = json!({"model": MODEL, "user_id": format!("{user}"), "messages": [{"role": "user", "content": "hi"}]});
    let answer = edge.client().chat(&body).await;
    let node = answer.header("x-littoral-node").to_string();
    if answer.status == 200 { node } else { format!("status {}", answer.status) }
}

/// Writes a file in one step: whoever reads it meanwhile finds the old one or the new one.
fn replace(file: &Path, text: &str) {
    let part = file.with_extension("part");
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, file).unwrap();
}

#[tokio::test]
async fn a_watched_file_adds_and_removes_nodes() {
    let (one, two) = (InstantNode::start("one", Script::default()), InstantNode::start("two", Script::default()));
    let setup = Edge::to(&[]);
    let file = setup.dir().join("nodes.toml");
    let section =
        |name: &str, node: &InstantNode| format!("[[node]]\nname = '{name}'\naddress = '{}'\n", node.address());
    replace(&file, &section("a", &one));
    let setup = setup.with("fleet", &format!("nodes_file = '{}'", file.display()));
    let edge = setup.with("fleet", "discover_ms = 100").start();
    eventually("the first node", SOON, async || answered_by(&edge, 0).await == "one").await;
    replace(&file, &(section("a", &one) + &section("b", &two)));
    eventually("the second node", SOON, async || {
        let mut seen = Vec::new();
        for user in 0..16 {
            seen.push(answered_by(&edge, user).await);
        }
        seen.contains(&"one".to_string()) && seen.contains(&"two".to_string())
    })
    .await;
    replace(&file, "[[node]]\nadress = 'x'");
    let errors = async || edge.metrics().await.get("littoral_discovery_errors_total");
    let complaints = || edge.process.log().matches("nodes cannot be learned there").count();
    eventually("the complaint", SOON, async || errors().await >= 4.0 && complaints() > 0).await;
    assert_eq!(complaints(), 1, "it is said once");
    assert_eq!(node_names(&edge).await, ["a", "b"], "a file that cannot be read changes nothing");
    replace(&file, &section("b", &two));
    eventually("the first one's end", SOON, async || node_names(&edge).await == ["b"]).await;
    let well_again = async || edge.process.log().contains("nodes can be learned there again");
    eventually("the good news", SOON, well_again).await;
    std::fs::remove_file(&file).unwrap();
    eventually("another complaint", SOON, async || complaints() == 2).await;
    for user in 0..8 {
        assert_eq!(answered_by(&edge, user).await, "two");
    }
}

/// What a name server says.
#[derive(Clone)]
enum Says {
    A(Vec<Ipv4Addr>),
    Srv(Vec<(&'static str, u16)>),
    /// NXDOMAIN.
    Nothing,
    Garbage,
    Silence,
}

/// A name server with one thing to say.
fn name_server(says: Arc<Mutex<Says>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let answer = match &*says.lock().unwrap() {
                Says::Silence => continue,
                Says::Garbage => vec![0xff; 17],
                says => answer(&buffer[..length], says),
            };
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}

/// The answer to a query (RFC 1035, section 4.1): its header and question again, and the records.
fn answer(query: &[u8], says: &Says) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let kind = u16::from_be_bytes([query[name_end], query[name_end + 1]]);
    let records: Vec<(u16, Vec<u8>)> = match says {
        Says::A(addresses) if kind == 1 => addresses.iter().map(|ip| (1, ip.octets().to_vec())).collect(),
        Says::Srv(targets) if kind == 33 => targets
            .iter()
            .map(|(host, port)| {
                let mut data = vec![0, 0, 0, 0];
                data.extend_from_slice(&port.to_be_bytes());
                for label in host.split('.') {
                    data.push(label.len() as u8);
                    data.extend_from_slice(label.as_bytes());
                }
                data.push(0);
                (33, data)
            })
            .collect(),
        _ => Vec::new(),
    };
    let code = if matches!(says, Says::Nothing) { 3 } else { 0 };
    let mut out = query[..2].to_vec();
    out.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(&query[12..name_end + 4]);
    for (kind, data) in records {
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 1]);
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&data);
    }
    out
}

#[tokio::test]
async fn dns_names_nodes_and_may_flap() {
    let node = InstantNode::start("one", Script::default());
    let port = node.address().port();
    let says = Arc::new(Mutex::new(Says::A(vec![Ipv4Addr::LOCALHOST])));
    let server = name_server(says.clone());
    let setup = Edge::to(&[]).with("fleet", &format!("dns = ['nodes.test.:{port}']"));
    let setup = setup.with("fleet", &format!("dns_server = '{server}'")).with("fleet", "discover_ms = 100");
    let edge = setup.with("fleet", "discover_grace_ms = 1500").start();
    eventually("the node", SOON, async || answered_by(&edge, 0).await == "one").await;
    for flap in [Says::Nothing, Says::Garbage, Says::A(Vec::new())] {
        *says.lock().unwrap() = flap;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(answered_by(&edge, 0).await, "one");
        *says.lock().unwrap() = Says::A(vec![Ipv4Addr::LOCALHOST]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    *says.lock().unwrap() = Says::Silence;
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(answered_by(&edge, 0).await, "one", "silence changes nothing");
    let second = Ipv4Addr::new(127, 0, 0, 2);
    *says.lock().unwrap() = Says::A(vec![second]);
    let moved = async || node_names(&edge).await == [format!("{second}:{port}")];
    eventually("the old address to go", SOON, moved).await;
    assert!(edge.metrics().await.get("littoral_discovery_errors_total") >= 1.0);
    let complaint = "nodes cannot be learned there";
    eventually("the complaint", SOON, async || edge.process.log().contains(complaint)).await;
    let log = edge.process.log();
    assert!(log.lines().filter(|line| line.contains(complaint)).all(|line| line.contains("nodes.test.")), "{log}");
    assert!(edge.process.is_alive());
}

#[tokio::test]
async fn srv_records_name_hosts_and_ports() {
    let node = InstantNode::start("one", Script::default());
    let says = Arc::new(Mutex::new(Says::Srv(vec![("localhost", node.address().port())])));
    let server = name_server(says);
    let setup = Edge::to(&[]).with("fleet", "dns = ['_grpc._tcp.nodes.test.']");
    let edge = setup.with("fleet", &format!("dns_server = '{server}'")).with("fleet", "discover_ms = 100").start();
    eventually("the node", SOON, async || answered_by(&edge, 0).await == "one").await;
    assert_eq!(node_names(&edge).await, [format!("localhost:{}", node.address().port())]);
}
