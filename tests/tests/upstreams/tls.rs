//! Upstreams behind TLS: those whose authority is named are believed, nobody else is, and nobody is waited for.

use std::{net::TcpListener, time::Instant};

use http::Version;
use littoral_tests::{
    artefact,
    certificates::Authority,
    edge::Edge,
    eventually,
    openai_server::{Conduct, OpenAiServer},
    process::Process,
};
use serde_json::json;

use super::{FIVE, SOON, ask, start, whole};

fn server(authority: &Authority, protocols: &[&str]) -> OpenAiServer {
    let mut tls = authority.sign(&["127.0.0.1", "localhost"]).server(None);
    tls.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    OpenAiServer::start_tls(FIVE, tls)
}

fn believes(authority: &Authority) -> String {
    format!("models = ['upstream']\nca_file = '{}'", authority.file().display())
}

#[tokio::test]
async fn an_upstream_of_a_named_authority_is_believed_in_either_version_of_http() {
    let authority = Authority::new(&artefact::scratch("authority"));
    for (protocols, version) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let server = server(&authority, protocols);
        let edge = start(Edge::to(&[]).upstream("up", &server.url(), &believes(&authority))).await;
        for stream in [true, false] {
            whole(edge.client().chat(&ask("upstream", stream)).await, stream).await;
        }
        assert_eq!(server.last_version(), version, "{protocols:?}");
    }
}

#[tokio::test]
async fn an_upstream_of_another_authority_is_refused_at_once_and_the_log_says_why() {
    let (ours, theirs) =
        (Authority::new(&artefact::scratch("authority")), Authority::new(&artefact::scratch("authority")));
    let server = server(&theirs, &["h2"]);
    for more in [believes(&ours), "models = ['upstream']".into()] {
        let edge = Edge::to(&[]).upstream("up", &server.url(), &more).start();
        let began = Instant::now();
        let answer = edge.client().chat(&ask("upstream", true)).await;
        let error = answer.error(503).await;
        assert_eq!(error["code"], "service_unavailable", "{error}");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let told = async || edge.process.log().contains("certificate is not believed");
        eventually("the log's reason", SOON, told).await;
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn two_upstreams_at_once_are_each_believed_by_their_own_authority() {
    let authorities = [Authority::new(&artefact::scratch("one")), Authority::new(&artefact::scratch("two"))];
    let servers = authorities.each_ref().map(|authority| server(authority, &["h2"]));
    let setup = Edge::to(&[]).with("fleet", "policy = 'round-robin'").with("cache", "policy = 'off'");
    let setup = setup.upstream("one", &servers[0].url(), &believes(&authorities[0]));
    let edge = start(setup.upstream("two", &servers[1].url(), &believes(&authorities[1]))).await;
    let both = async || edge.metrics().await.get("littoral_nodes_ready") == 2.0;
    eventually("both", SOON, both).await;
    for _ in 0..6 {
        whole(edge.client().chat(&ask("upstream", true)).await, true).await;
    }
    assert!(servers.iter().all(|server| server.asked() >= 2), "{:?}", servers.each_ref().map(OpenAiServer::asked));
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("https://{}/v1", listener.local_addr().unwrap());
    let edge = Edge::to(&[]).upstream("up", &silent, "models = ['upstream']").start();
    let began = Instant::now();
    edge.client().chat(&ask("upstream", true)).await.error(503).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn knowledge_may_come_from_a_named_authority_too() {
    let authority = Authority::new(&artefact::scratch("authority"));
    let server = server(&authority, &["h2"]);
    let records = json!({"records": [{"content": "c", "score": 0.5, "title": "t", "metadata": {}}]});
    server.follow(Conduct::Answers(200, "application/json", records.to_string().into()));
    let edge = Edge::to(&[])
        .with("retrieval", &format!("url = 'https://{}/retrieval'", server.address()))
        .with("retrieval", &format!("ca_file = '{}'", authority.file().display()))
        .upstream("up", &server.url(), &believes(&authority))
        .start();
    let ask = json!({"knowledge_id": "k", "query": "q", "retrieval_setting": {"top_k": 1, "score_threshold": 0.0}});
    let answer = edge.client().post("/retrieval", ask.to_string()).await.ok().await;
    assert_eq!(answer, records);
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_refused_at_the_start() {
    let dir = artefact::scratch("authority");
    std::fs::write(dir.join("text.pem"), "no certificate").unwrap();
    for (file, address, said) in [
        ("missing.pem", "https://a/v1", "missing.pem"),
        ("text.pem", "https://a/v1", "hold none"),
        ("text.pem", "http://a/v1", "https://"),
    ] {
        let more = format!("ca_file = '{}'", dir.join(file).display());
        let (command, _) = Edge::to(&[]).upstream("up", address, &more).command();
        let ended = Process::refused("edge", command);
        assert!(ended.said.contains("node[0].ca_file") && ended.said.contains(said), "{}", ended.said);
    }
}
