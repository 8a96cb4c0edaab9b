//! Decisions that are remembered, for policies that asked for it: the same credential, route and body reuse what was
//! decided without entering wasm, until it expires or something changes that decisions go by.
//!
//! What is remembered holds no candidates: on a miss the fleet is asked anew.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, header::AUTHORIZATION};
use littoral_core::{Memo, Plan, Reply};
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::rounds::Decision;

/// Decisions of all workers.
pub struct Memos {
    /// None: nothing is remembered.
    kept: Option<Cache<Key, Arc<Remembered>>>,
    offer: Duration,
}

/// SHA-256 of what every decision depends on.
type Key = [u8; 32];

struct Remembered {
    /// When it was made, in changes of what decisions go by.
    epoch: u64,
    until: Instant,
    /// Headers it depends on, and what their values were.
    vary: Vec<(String, Vec<Vec<u8>>)>,
    decision: Decision,
}

/// Bodies longer than this are decided every time, bytes.
const MAX_BODY: usize = 64 << 10;

impl Memos {
    /// `offer`: the longest that a decision is remembered, zero for not at all; `max_bytes` for all of them together.
    pub fn new(offer: Duration, max_bytes: u64) -> Self {
        let weigh = |_: &Key, kept: &Arc<Remembered>| (512 + kept.decision.plan.request.len()) as u32;
        let kept = Cache::builder().max_capacity(max_bytes).weigher(weigh).time_to_live(offer);
        Self { kept: (!offer.is_zero()).then(|| kept.build()), offer }
    }

    /// What the first draft offers to the policy.
    pub fn offer(&self) -> Option<Memo> {
        let ttl_ms = self.offer.as_millis() as u64;
        self.kept.as_ref().map(|_| Memo { ttl_ms, vary: Vec::new() })
    }

    /// Where the decision on a request would be; none when it is not to be remembered.
    pub fn key(&self, request: &Request<()>, peer: &str, body: Option<&[u8]>) -> Option<Key> {
        let body = body.filter(|body| self.kept.is_some() && body.len() <= MAX_BODY)?;
        let mut hash = Sha256::new();
        let (method, uri) = (request.method().as_str(), request.uri());
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let parts = [method.as_bytes(), path.as_bytes(), query.as_bytes(), peer.as_bytes(), body];
        for part in parts.into_iter().chain(values(request.headers(), AUTHORIZATION.as_str())) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Some(hash.finalize().into())
    }

    /// What was decided on the same request.
    pub fn get(&self, key: &Key, headers: &HeaderMap, epoch: u64) -> Option<Decision> {
        let kept = self.kept.as_ref()?.get(key)?;
        let holds = kept.epoch == epoch
            && kept.until > Instant::now()
            && kept.vary.iter().all(|(name, were)| values(headers, name).eq(were.iter().map(Vec::as_slice)));
        holds.then(|| kept.decision.clone())
    }

    /// Remembers a decision whose policy asked for it, made when `epoch` was read before.
    pub fn put(&self, key: Key, headers: &HeaderMap, epoch: u64, reply: &Reply) {
        let Some(kept) = &self.kept else { return };
        // An offer that was passed on as it came was not taken up.
        let Some(memo) = reply.plan.memo.as_ref().filter(|memo| !memo.vary.is_empty() && memo.ttl_ms > 0) else {
            return;
        };
        let plan = Plan { candidates: Vec::new(), memo: None, ..reply.plan.clone() };
        let decision = Decision::from(Reply { plan, ..reply.clone() });
        let were = |name: &String| values(headers, name).map(Vec::from).collect();
        let vary = memo.vary.iter().map(|name| (name.clone(), were(name))).collect();
        let until = Instant::now() + Duration::from_millis(memo.ttl_ms).min(self.offer);
        kept.insert(key, Arc::new(Remembered { epoch, until, vary, decision }));
    }
}

/// All values of a header, in order.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).into_iter().map(|value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use littoral_core::{Body, Candidate, Plan};

    use super::*;

    fn head(path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method("POST").uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    fn reply(ttl_ms: u64, vary: &[&str]) -> Reply {
        let memo = Some(Memo { ttl_ms, vary: vary.iter().map(|name| name.to_string()).collect() });
        let candidates = vec![Candidate::default()];
        let plan = Plan { memo, candidates, session: "s".into(), ..Plan::default() };
        Reply { status: 200, headers: Vec::new(), body: Body::Generation, plan }
    }

    #[test]
    fn what_was_asked_for_is_remembered_for_the_same_request_alone() {
        let memos = Memos::new(Duration::from_secs(9), 1 << 20);
        assert_eq!(memos.offer().map(|memo| memo.ttl_ms), Some(9000));
        let ada = head("/x", &[("authorization", "Bearer a"), ("cache-control", "no-cache")]);
        let key = memos.key(&ada, "p", Some(b"body")).unwrap();
        memos.put(key, ada.headers(), 1, &reply(5_000, &["cache-control"]));
        let found = memos.get(&key, ada.headers(), 1).unwrap();
        assert_eq!((found.plan.session.as_str(), found.plan.candidates.len(), &found.plan.memo), ("s", 0, &None));
        assert!(memos.get(&key, ada.headers(), 2).is_none(), "something has changed");
        for others in [&[][..], &[("cache-control", "no-store")], &[("cache-control", "no-cache"); 2]] {
            assert!(memos.get(&key, head("/x", others).headers(), 1).is_none(), "{others:?}");
        }
        let others = [
            memos.key(&head("/x", &[("authorization", "Bearer b")]), "p", Some(b"body")),
            memos.key(&head("/x", &[("authorization", "Bearer a"), ("authorization", "Bearer a")]), "p", Some(b"body")),
            memos.key(&head("/x", &[]), "p", Some(b"body")),
            memos.key(&ada, "q", Some(b"body")),
            memos.key(&ada, "p", Some(b"bodz")),
            memos.key(&head("/y", &[("authorization", "Bearer a")]), "p", Some(b"body")),
            memos.key(&head("/x?y", &[("authorization", "Bearer a")]), "p", Some(b"body")),
        ];
        assert!(others.iter().all(|other| other.is_some_and(|other| other != key)));
        assert!(memos.key(&ada, "p", None).is_none() && memos.key(&ada, "p", Some(&[0; 70_000])).is_none());
    }

    #[test]
    fn what_was_not_asked_for_is_not() {
        let memos = Memos::new(Duration::from_secs(9), 1 << 20);
        let ada = head("/x", &[]);
        let key = memos.key(&ada, "p", Some(b"body")).unwrap();
        memos.put(key, ada.headers(), 1, &reply(5_000, &[]));
        memos.put(key, ada.headers(), 1, &reply(0, &["cache-control"]));
        memos.put(key, ada.headers(), 1, &Reply { plan: Plan::default(), ..reply(5_000, &[]) });
        assert!(memos.get(&key, ada.headers(), 1).is_none());
        let off = Memos::new(Duration::ZERO, 1 << 20);
        assert!(off.offer().is_none() && off.key(&ada, "p", Some(b"body")).is_none());
        memos.put(key, ada.headers(), 1, &reply(1, &["cache-control"]));
        std::thread::sleep(Duration::from_millis(5));
        assert!(memos.get(&key, ada.headers(), 1).is_none(), "its time is over");
    }
}
