//! Where a request is seen to come from, with proxies and with clients that pretend.

use std::net::SocketAddr;

use littoral_tests::{
    client::{Client, raw},
    edge::Edge,
    eventually,
    instant_node::{InstantNode, Script},
};

use super::SOON;

/// The address in the log line of one request with these headers.
async fn seen(edge: &Edge, id: &str, headers: &[(&str, &str)]) -> String {
    let mut client = edge.client().with_header("x-request-id", id);
    for (name, value) in headers {
        client = client.with_header(name, value);
    }
    assert_eq!(client.get("/v1/models").await.status, 200);
    logged(edge, id).await
}

async fn logged(edge: &Edge, id: &str) -> String {
    eventually("the log line", SOON, async || edge.process.logged("request_id", id).is_some()).await;
    let line = edge.process.logged("request_id", id).expect("it was there");
    line["peer"].as_str().expect("a peer is text").into()
}

#[tokio::test]
async fn headers_of_strangers_say_nothing() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).with("edge", "trusted_proxies = ['10.0.0.0/8']").start();
    let forged = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")];
    assert_eq!(seen(&edge, "stranger", &forged).await, "127.0.0.1");
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_and_no_client_another() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()]).with("edge", "trusted_proxies = ['127.0.0.0/8', '10.0.0.0/8']").start();
    let cases = [
        ("xff-1", "198.51.100.7"),
        ("xff-2", "6.6.6.6, 198.51.100.7"),
        ("xff-3", "6.6.6.6, 198.51.100.7, 10.3.2.1"),
        ("xff-4", "\", 198.51.100.7"),
    ];
    for (id, value) in cases {
        let headers = [("x-forwarded-for", value), ("forwarded", "for=6.6.6.6")];
        assert_eq!(seen(&edge, id, &headers).await, "198.51.100.7", "{value}");
    }
    // The header that is not configured is not read.
    assert_eq!(seen(&edge, "xff-5", &[("forwarded", "for=6.6.6.6")]).await, "127.0.0.1");
    let edge = Edge::to(&[node.address()])
        .with("edge", "trusted_proxies = ['127.0.0.0/8']\nforwarded_by = 'forwarded'")
        .start();
    let headers = [("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:1\""), ("x-forwarded-for", "6.6.6.6")];
    assert_eq!(seen(&edge, "rfc7239", &headers).await, "2001:db8::7");
}

/// A PROXY protocol v2 header for a TCP connection over IPv4.
fn proxied(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("the test speaks IPv4") };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend_from_slice(&from.ip().octets());
    header.extend_from_slice(&to.ip().octets());
    header.extend_from_slice(&from.port().to_be_bytes());
    header.extend_from_slice(&to.port().to_be_bytes());
    header
}

#[tokio::test]
async fn proxy_protocol_v2_names_the_client_and_nothing_else_is_let_in() {
    let node = InstantNode::start("n", Script::default());
    let edge = Edge::to(&[node.address()])
        .with("edge", "trusted_proxies = ['127.0.0.0/8']\nproxy_protocol = true\nheader_timeout_ms = 3000")
        .start();
    let request = |id: &str| {
        let key = &edge.keys.acme;
        format!(
            "GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nx-request-id: {id}\r\n\
             x-forwarded-for: 6.6.6.6\r\nconnection: close\r\n\r\n"
        )
    };
    let mut bytes = proxied("198.51.100.7:4000".parse().unwrap(), edge.http);
    bytes.extend_from_slice(request("pp-1").as_bytes());
    let said = raw(edge.http, &bytes, SOON).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // The source is a stranger, so its own headers are not believed.
    assert_eq!(logged(&edge, "pp-1").await, "198.51.100.7");
    // A chain of proxies: the source is trusted, and names the client behind it.
    let mut bytes = proxied("127.0.0.9:4000".parse().unwrap(), edge.http);
    bytes.extend_from_slice(request("pp-2").as_bytes());
    raw(edge.http, &bytes, SOON).await.unwrap();
    assert_eq!(logged(&edge, "pp-2").await, "6.6.6.6");
    // No header, half a header, a wrong one: closed without a word.
    let mut wrong = proxied("198.51.100.7:4000".parse().unwrap(), edge.http);
    wrong[12] = 0x31;
    let half = &proxied("198.51.100.7:4000".parse().unwrap(), edge.http)[..20];
    for bytes in [request("pp-3").as_bytes(), half, &wrong] {
        assert_eq!(raw(edge.http, bytes, SOON).await.as_deref(), Some(""));
    }
    assert!(edge.process.logged("request_id", "pp-3").is_none());
    let _ = Client::new(edge.http);
}
