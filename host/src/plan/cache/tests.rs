//! What is kept, for how long, for whom; who shares a generation, and when it is given up.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{StreamExt, channel::mpsc, stream};
use littoral_proto::v1::{self, Delta, Event, Finished, Usage, delta::Part, event::Kind};

use super::*;
use crate::error::Error;

fn plan(mode: &str, scope: &str, ttl_ms: u64) -> CachePlan {
    CachePlan { key: "k".into(), scope: scope.into(), ttl_ms, mode: mode.into(), ..CachePlan::default() }
}

fn used() -> CachePlan {
    plan(cache_mode::USE, "acme", 60_000)
}

fn text(text: &str) -> Event {
    Event { kind: Some(Kind::Delta(Delta { part: Some(Part::Text(text.into())), ..Delta::default() })) }
}

fn usage() -> Event {
    Event { kind: Some(Kind::Usage(Usage::default())) }
}

fn failure() -> Event {
    Event { kind: Some(Kind::Error(v1::Error::default())) }
}

fn cache() -> AnswerCache {
    AnswerCache::new(1 << 20, 1 << 16)
}

fn lead(cache: &AnswerCache, plan: &CachePlan) -> (Pilot, Listener) {
    match cache.look_up(plan).found {
        Found::Leads(pilot, listener) => (pilot, listener),
        _ => panic!("not a new generation"),
    }
}

fn join(cache: &AnswerCache, plan: &CachePlan) -> Listener {
    match cache.look_up(plan) {
        LookUp { outcome: CacheOutcome::Coalesced, found: Found::Joined(listener) } => listener,
        _ => panic!("not joined"),
    }
}

fn hits(cache: &AnswerCache, plan: &CachePlan) -> bool {
    matches!(cache.look_up(plan).found, Found::Kept(_))
}

async fn fly(pilot: Pilot, events: Vec<Event>) {
    pilot.fly(async { Ok(stream::iter(events)) }, async {}).await;
}

async fn store(cache: &AnswerCache, plan: &CachePlan) {
    let (pilot, _listener) = lead(cache, plan);
    fly(pilot, vec![text("hello"), usage()]).await;
}

async fn all(listener: Listener) -> Vec<Event> {
    let mut events = Vec::new();
    let mut listener = listener;
    while let Some(event) = listener.next().await {
        let last = matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)));
        events.push(event);
        if last {
            break;
        }
    }
    events
}

#[tokio::test]
async fn modes() {
    let cache = cache();
    store(&cache, &used()).await;
    assert!(hits(&cache, &used()));
    let refreshed = cache.look_up(&plan(cache_mode::REFRESH, "acme", 60_000));
    assert!(refreshed.outcome == CacheOutcome::Bypass && matches!(refreshed.found, Found::Leads(..)));
    for mode in [cache_mode::BYPASS, "", "something new"] {
        assert!(matches!(cache.look_up(&plan(mode, "acme", 60_000)).found, Found::Alone));
    }
}

#[tokio::test]
async fn what_is_kept_says_the_same_in_fewer_events() {
    let joined = |choice, index, token_ids, part| Event {
        kind: Some(Kind::Delta(Delta { choice, index, token_ids, part: Some(part), ..Delta::default() })),
    };
    let say = |choice, index, part| joined(choice, index, vec![index + 100 * choice], part);
    let long = "x".repeat(3000);
    let events = vec![
        say(0, 0, Part::Reasoning("r".into())),
        say(1, 0, Part::Text("a".into())),
        say(0, 1, Part::Text("b".into())),
        say(1, 1, Part::Text("c".into())),
        say(0, 2, Part::Text("d".into())),
        say(0, 3, Part::Text(long.clone())),
        say(0, 4, Part::Text(long.clone())),
        usage(),
    ];
    let cache = cache();
    let (pilot, listener) = lead(&cache, &used());
    fly(pilot, events.clone()).await;
    assert_eq!(all(listener).await, events, "who listens hears it as it came");
    let Found::Kept(answer) = cache.look_up(&used()).found else { panic!("not kept") };
    let expected = [
        joined(0, 0, vec![0], Part::Reasoning("r".into())),
        joined(1, 0, vec![100, 101], Part::Text("ac".into())),
        joined(0, 1, vec![1, 2, 3], Part::Text(format!("bd{long}"))),
        joined(0, 4, vec![4], Part::Text(long)),
        usage(),
    ];
    assert_eq!(answer.events, expected);
}

#[tokio::test]
async fn scopes_do_not_see_each_other() {
    let cache = cache();
    store(&cache, &used()).await;
    assert!(!hits(&cache, &plan(cache_mode::USE, "globex", 60_000)));
    let (_pilot, _listener) = lead(&cache, &plan(cache_mode::USE, "initech", 60_000));
    lead(&cache, &plan(cache_mode::USE, "globex", 60_000));
}

#[tokio::test]
async fn an_answer_is_kept_no_longer_than_either_side_says() {
    let cache = cache();
    store(&cache, &used()).await;
    std::thread::sleep(Duration::from_millis(5));
    assert!(!hits(&cache, &plan(cache_mode::USE, "acme", 2)));
    assert!(matches!(cache.look_up(&plan(cache_mode::USE, "acme", 0)).found, Found::Alone));
    store(&cache, &plan(cache_mode::REFRESH, "acme", 2)).await;
    std::thread::sleep(Duration::from_millis(5));
    assert!(!hits(&cache, &used()));
}

#[tokio::test]
async fn what_broke_off_failed_or_gave_up_is_not_kept() {
    let gave_up = Finished { choice: 0, reason: "insufficient_system_resource".into() };
    let gave_up = Event { kind: Some(Kind::Finished(gave_up)) };
    for events in [vec![text("a")], vec![text("a"), failure()], vec![text("a"), gave_up, usage()], vec![]] {
        let cache = cache();
        let (pilot, _listener) = lead(&cache, &used());
        fly(pilot, events).await;
        assert!(!hits(&cache, &used()));
        assert_eq!(cache.size().1, 0);
    }
}

#[tokio::test]
async fn what_is_too_large_is_shared_with_those_who_came_and_kept_for_nobody() {
    let cache = AnswerCache::new(1 << 20, 1000);
    let (pilot, mut first) = lead(&cache, &used());
    let second = join(&cache, &used());
    let events: Vec<_> = (0..100).map(|i| text(&format!("{i} {}", "x".repeat(100)))).chain([usage()]).collect();
    let flying = tokio::spawn(fly(pilot, events.clone()));
    let reading = tokio::spawn(all(second));
    // One who does not read holds the pilot back, and with it the memory.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!flying.is_finished() && !reading.is_finished());
    assert_eq!(cache.flights(), 0, "nobody can join any more");
    let mut read = Vec::new();
    while let Some(event) = first.next().await {
        read.push(event);
        if read.len() == events.len() {
            break;
        }
    }
    assert_eq!((read, reading.await.unwrap()), (events.clone(), events));
    flying.await.unwrap();
    assert!(!hits(&cache, &used()));
}

#[tokio::test]
async fn memory_is_bounded() {
    let cache = AnswerCache::new(10_000, 10_000);
    for i in 0..200 {
        store(&cache, &CachePlan { key: format!("k{i}"), ..used() }).await;
    }
    cache.upkeep();
    let (bytes, answers) = cache.size();
    assert!(bytes <= 10_000 && answers > 0, "{answers} answers take {bytes} bytes");
}

#[tokio::test]
async fn many_requests_share_one_generation_from_its_first_token() {
    let cache = cache();
    let (mut send, events) = mpsc::channel(0);
    let (pilot, leader) = lead(&cache, &used());
    let flying = tokio::spawn(async move { pilot.fly(async { Ok(events) }, async {}).await });
    let early = join(&cache, &used());
    futures::SinkExt::send(&mut send, text("a")).await.unwrap();
    tokio::task::yield_now().await;
    let late = join(&cache, &used());
    for event in [text("b"), usage()] {
        futures::SinkExt::send(&mut send, event).await.unwrap();
    }
    let expected = vec![text("a"), text("b"), usage()];
    for listener in [leader, early, late] {
        assert_eq!(all(listener).await, expected);
    }
    flying.await.unwrap();
    assert!(hits(&cache, &used()));
    assert_eq!(cache.flights(), 0);
}

#[tokio::test]
async fn the_last_who_leaves_ends_the_generation() {
    let cache = cache();
    let (send, events) = mpsc::channel::<Event>(0);
    let (pilot, leader) = lead(&cache, &used());
    let flying = tokio::spawn(async move { pilot.fly(async { Ok(events) }, async {}).await });
    let follower = join(&cache, &used());
    drop(leader);
    tokio::task::yield_now().await;
    assert!(!flying.is_finished() && !send.is_closed(), "one still listens");
    drop(follower);
    flying.await.unwrap();
    assert!(send.is_closed());
    // Who comes now starts anew.
    lead(&cache, &used());
}

#[tokio::test]
async fn a_generation_that_cannot_be_opened_is_told_to_all_and_tried_anew_by_the_next() {
    let cache = cache();
    let (pilot, mut leader) = lead(&cache, &used());
    let mut follower = join(&cache, &used());
    let full = async { Err::<stream::Empty<Event>, _>(Error::NoNode("none".into())) };
    pilot.fly(full, async {}).await;
    for listener in [&mut leader, &mut follower] {
        let error = listener.opened().await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.to_string().as_str()), (503, "none"));
        assert!(!error.headers().is_empty());
    }
    lead(&cache, &used());
}

#[tokio::test]
async fn a_pilot_that_vanishes_ends_the_answer_in_an_error() {
    let cache = cache();
    let (pilot, mut leader) = lead(&cache, &used());
    let (mut send, events) = mpsc::channel(1);
    let flying = tokio::spawn(async move { pilot.fly(async { Ok(events) }, async {}).await });
    send.try_send(text("a")).unwrap();
    assert_eq!(leader.next().await, Some(text("a")));
    flying.abort();
    let last = leader.next().await.unwrap();
    assert!(matches!(last.kind, Some(Kind::Error(_))));
    let again = poll_fn(|cx: &mut Context<'_>| Poll::Ready(leader.poll_with(cx, |_| ()))).await;
    assert_eq!(again, Poll::Ready(false));
    assert!(!hits(&cache, &used()));
}

#[tokio::test]
async fn a_purge_takes_what_is_kept_and_what_is_in_the_making() {
    let cache = cache();
    let tagged = |tag: &str| CachePlan { key: tag.into(), tags: vec![tag.into()], ..used() };
    store(&cache, &tagged("a")).await;
    store(&cache, &tagged("b")).await;
    let (pilot, leader) = lead(&cache, &tagged("c"));
    let purge = |tag: &str| Purge { tag: Some(tag.into()), ..Purge::default() };
    assert_eq!(cache.purge(&purge("a")), 1);
    assert!(!hits(&cache, &tagged("a")) && hits(&cache, &tagged("b")));
    cache.purge(&purge("c"));
    let (again, _listener) = lead(&cache, &tagged("c"));
    fly(pilot, vec![text("old"), usage()]).await;
    assert_eq!(all(leader).await.len(), 2, "who listens hears it to the end");
    assert!(!hits(&cache, &tagged("c")), "a fill that began before the purge is dropped");
    fly(again, vec![text("new"), usage()]).await;
    assert!(hits(&cache, &tagged("c")));
}

#[test]
fn a_listener_without_news_waits() {
    let cache = cache();
    let (_pilot, mut listener) = lead(&cache, &used());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(listener.poll_with(&mut cx, |_| ()).is_pending());
}

#[tokio::test]
async fn who_takes_young_answers_only_has_its_own_kept_for_all() {
    let cache = cache();
    let young = |ms| CachePlan { max_age_ms: Some(ms), ..used() };
    store(&cache, &young(1)).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(hits(&cache, &used()) && hits(&cache, &young(60_000)));
    assert!(!hits(&cache, &young(1)) && cache.lacks(&young(1)));
    // Nothing is young enough, of what is under way neither.
    let (_pilot, _listener) = lead(&cache, &young(0));
    let (_pilot, _listener) = lead(&cache, &young(0));
    assert!(!cache.lacks(&young(0)) && hits(&cache, &used()));
}

#[tokio::test]
async fn an_answer_from_the_store_is_taken_unless_it_is_old_anothers_or_purged() {
    let cache = cache();
    cache.store_is(7);
    store(&cache, &used()).await;
    let (pilot, _listener) = lead(&cache, &CachePlan { key: "other".into(), ..used() });
    assert!(pilot.kept().is_none());
    pilot.fly(async { Ok(stream::iter([text("a"), usage()])) }, async {}).await;
    let stored = pilot.kept().unwrap();
    assert_eq!(stored.0.events.len(), 2);
    let fresh = AnswerCache::new(1 << 20, 1 << 16);
    assert!(fresh.adopt(&used(), stored.clone()).is_none(), "what was purged is not known yet");
    fresh.store_is(7);
    assert!(fresh.lacks(&used()) && !fresh.lacks(&plan(cache_mode::REFRESH, "acme", 60_000)));
    assert!(fresh.adopt(&plan(cache_mode::USE, "globex", 60_000), stored.clone()).is_none(), "another tenant's");
    let mut old = stored.clone();
    old.0.stored_ms = 1;
    assert!(fresh.adopt(&used(), old).is_none());
    assert!(fresh.adopt(&used(), stored.clone()).is_some() && hits(&fresh, &used()) && !fresh.lacks(&used()));
    assert!(hits(&fresh, &used()));
    let first = Point { epoch: 7, number: 1 };
    assert_eq!(fresh.purge_numbered(first, &Purge::default()), Some(1));
    assert_eq!(fresh.purge_numbered(first, &Purge::default()), None);
    assert!(fresh.adopt(&used(), stored.clone()).is_none(), "it began before the purge");
    let mut later = stored;
    later.0.purge = 1;
    assert!(fresh.adopt(&used(), later.clone()).is_some());
    fresh.purge(&Purge::default());
    fresh.store_is(8);
    assert!(fresh.adopt(&used(), later).is_none(), "it is of a memory that the store has lost");
}

#[tokio::test]
async fn one_who_listens_elsewhere_keeps_a_generation_going() {
    let cache = cache();
    let (mut send, events) = mpsc::channel::<Event>(4);
    let (pilot, leader) = lead(&cache, &used());
    let (heard, elsewhere) = futures::channel::oneshot::channel::<()>();
    let pilot = Arc::new(pilot);
    let overheard = pilot.overhear().unwrap();
    let flying = tokio::spawn({
        let pilot = pilot.clone();
        async move {
            pilot
                .fly(async { Ok(events) }, async {
                    let _ = elsewhere.await;
                })
                .await
        }
    });
    drop(leader);
    tokio::task::yield_now().await;
    assert!(!flying.is_finished());
    send.try_send(text("a")).unwrap();
    send.try_send(usage()).unwrap();
    assert_eq!(all(overheard).await, [text("a"), usage()]);
    flying.await.unwrap();
    assert!(hits(&cache, &used()));
    drop(heard);
}
