//! Upstreams that are full and say when to come back: they are left alone for so long, and others are asked.

use std::time::{Duration, Instant, SystemTime};

use littoral_tests::{
    edge::{Edge, Setup},
    eventually,
    openai_server::{Conduct, OpenAiServer},
};

use super::{FIVE, SOON, ask, start, whole};

fn refuses(status: u16, after: &str) -> Conduct {
    Conduct::Refuses(status, after.into())
}

fn pair(servers: [&OpenAiServer; 2]) -> Setup {
    let setup = Edge::to(&[]).with("fleet", "policy = 'round-robin'").with("cache", "policy = 'off'");
    let setup = setup.upstream("one", &servers[0].url(), "models = ['upstream']");
    setup.upstream("two", &servers[1].url(), "models = ['upstream']")
}

async fn both(edge: &Edge) {
    eventually("both", SOON, async || edge.metrics().await.get("littoral_nodes_ready") == 2.0).await;
}

#[tokio::test]
async fn one_that_is_full_is_left_alone_for_as_long_as_it_says_and_no_client_sees_it() {
    // Side by side: most of it is waiting.
    tokio::join!(left_alone(429), left_alone(503));
}

async fn left_alone(status: u16) {
    let (one, two) = (OpenAiServer::start(FIVE), OpenAiServer::start(FIVE));
    let edge = start(pair([&one, &two])).await;
    both(&edge).await;
    let client = edge.client();
    for date in [false, true] {
        let after = if date { httpdate(7) } else { "6".into() };
        one.follow(refuses(status, &after));
        let before = one.asked();
        let began = Instant::now();
        for i in 0..12 {
            whole(client.chat(&ask("upstream", i % 2 == 0)).await, i % 2 == 0).await;
        }
        let (asked, metrics) = (one.asked(), edge.metrics().await);
        // The last second of a date may be nearly over.
        assert!(began.elapsed() < Duration::from_secs(5), "too slow to tell: {:?}", began.elapsed());
        assert_eq!(asked, before + 1, "{status}, retry-after: {after}");
        assert_eq!((metrics.get("littoral_nodes_resting"), metrics.get("littoral_nodes_ejected")), (1.0, 0.0));
        one.follow(FIVE);
        let back = async || {
            whole(client.chat(&ask("upstream", true)).await, true).await;
            one.asked() > before + 1
        };
        eventually("its return", 2 * SOON, back).await;
        assert!(began.elapsed() >= Duration::from_millis(4900), "back after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn when_every_one_is_full_the_client_is_told_when_the_first_is_back() {
    let (one, two) = (OpenAiServer::start(refuses(429, "60")), OpenAiServer::start(refuses(503, "30")));
    let edge = start(pair([&one, &two])).await;
    both(&edge).await;
    for i in 0..6 {
        let answer = edge.client().chat(&ask("upstream", i % 2 == 0)).await;
        let after: u32 = answer.header("retry-after").parse().unwrap();
        assert!((10..=30).contains(&after), "{after}");
        assert_eq!(answer.error(503).await["code"], "overloaded");
    }
    assert_eq!((one.asked(), two.asked()), (1, 1), "nobody is asked who said not to be");
    let health = edge.client().get("/healthz").await.json().await;
    assert!(health["nodes"][0]["rests_s"].as_u64().is_some_and(|left| (35..=60).contains(&left)), "{health}");
}

#[tokio::test]
async fn the_only_one_is_left_alone_too_and_comes_back_by_itself() {
    let server = OpenAiServer::start(refuses(429, "6"));
    let edge = start(Edge::to(&[]).upstream("up", &server.url(), "models = ['upstream']")).await;
    let answer = edge.client().chat(&ask("upstream", true)).await;
    let after: u32 = answer.header("retry-after").parse().unwrap();
    assert!((3..=6).contains(&after), "{after}");
    answer.error(503).await;
    server.follow(FIVE);
    edge.client().chat(&ask("upstream", true)).await.error(503).await;
    assert_eq!(server.asked(), 1);
    eventually("its return", 2 * SOON, async || edge.client().chat(&ask("upstream", true)).await.status == 200).await;
    // Without a time, or with none that means one, it is full now and may be asked again.
    for after in ["", "soon", "0", "-1"] {
        server.follow(refuses(429, after));
        let before = server.asked();
        for _ in 0..2 {
            let answer = edge.client().chat(&ask("upstream", false)).await;
            assert_eq!(answer.header("retry-after"), "1", "{after}");
            answer.error(503).await;
        }
        assert_eq!(server.asked(), before + 2, "{after}");
    }
    // However long it says, it is asked again some day.
    server.follow(refuses(429, "99999999999999999999"));
    let answer = edge.client().chat(&ask("upstream", false)).await;
    let after: u32 = answer.header("retry-after").parse().unwrap();
    assert!((590..=600).contains(&after), "{after}");
}

#[tokio::test]
async fn who_asks_elsewhere_pays_from_the_retry_budget() {
    let (one, two) = (OpenAiServer::start(refuses(429, "30")), OpenAiServer::start(FIVE));
    let setup = pair([&one, &two]).with("fleet", "retry_ratio = 0").with("fleet", "retry_reserve = 0");
    let edge = start(setup).await;
    both(&edge).await;
    let mut refused = 0;
    for _ in 0..4 {
        let answer = edge.client().chat(&ask("upstream", false)).await;
        if answer.status == 503 {
            assert_eq!(answer.header("retry-after"), "30");
            refused += 1;
        }
    }
    assert_eq!(refused, 1, "the one whose retry could not be paid for; the others went to the other at once");
}

/// A date so many seconds from now, as HTTP writes it.
fn httpdate(seconds: u64) -> String {
    let at = SystemTime::now() + Duration::from_secs(seconds);
    httpdate::fmt_http_date(at)
}
