//! Brings one request to a node: candidate after candidate, within the retry budget, until one begins to answer; and
//! again when a node is lost in the middle of it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{self, BoxFuture, Either},
};
use littoral_core::{Candidate, fleet::Reason};
use littoral_proto::v1::{Event, GenerateRequest, Resume, event};
use tokio::time::{sleep, timeout_at};

use super::{
    now_ms,
    origin::{Origin, Way},
    wire::Wire,
};
use crate::{
    config::Kind,
    error::Error,
    fleet::{Clients, Fleet, Lease, Member},
    telemetry::{Metrics, Tally},
    upstream::{HttpWire, Said, call::Call},
};

/// Nodes the fleet is asked for when those of the plan are used up.
const MORE: usize = 3;

/// Why a node has a request that was first sent to another, which is slow.
const HEDGE: &str = "hedge";

/// What is said when no node has room.
pub const EVERY_NODE: &str = "every node is busy";

/// What a node is asked, without what changes from one to the next.
#[derive(Debug, Clone)]
pub struct Ask {
    /// As the fleet names it.
    pub model: String,
    pub request: Bytes,
    pub session: String,
    pub tenant: String,
    /// Of the tenant's users, the one of the credential.
    pub user: String,
    pub seed: Option<u64>,
    pub request_id: String,
}

/// One request on its way. It may go on on another thread than the one that began it.
pub struct Dispatch {
    pub nodes: Arc<Clients>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<Metrics>,
    pub tally: Arc<Tally>,
    pub ask: Ask,
    pub candidates: VecDeque<Candidate>,
    /// Nodes that would go on after text, where another may go on after the tokens.
    pub readers: VecDeque<Candidate>,
    /// Names of the nodes that were asked, or are not to be.
    pub asked: Vec<String>,
    /// Nodes that were passed over because their breakers are open.
    pub failing: VecDeque<Candidate>,
    /// Of the model at the node of ours that has the answer.
    pub revision: Option<String>,
    pub received: Instant,
    pub deadline: Instant,
}

/// A node that has begun to answer.
pub struct Opened {
    /// Events that were read to know that.
    pub first: VecDeque<Event>,
    pub wire: Wire,
    pub lease: Lease,
    pub way: Way,
}

impl Dispatch {
    /// Has the request begun, or continued `from` where another node left it. When it cannot be, the error is the last
    /// node's, or says when the first of them may be asked again.
    pub async fn open(&mut self, from: &Origin) -> Result<Opened, Error> {
        let mut last = None;
        loop {
            let Some((candidate, lease)) = self.next(from, last.is_some()) else { break };
            let hedge = self.fleet.config().hedge().filter(|_| !from.begun);
            self.tally.asked(&self.asked);
            let opened = match hedge {
                None => self.attempt(lease, from, false).await,
                Some(after) => self.hedged(lease, from, after).await,
            };
            match opened {
                Ok(opened) => {
                    let (node, by_text) = (opened.lease.member().name(), opened.way != Way::Tokens);
                    // Who was asked beside it, and was quicker.
                    let reason = if node == candidate.node { &candidate.reason } else { HEDGE };
                    self.tally.routed(node, reason, &self.asked, by_text);
                    self.revision = self.fleet.view().revision(node, &self.ask.model).map(String::from);
                    return Ok(opened);
                }
                Err(error) if error.is_retryable() => {
                    tracing::info!(node = candidate.node, %error, detail = ?error, "a node did not take a request");
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(match last {
            Some(error) if !matches!(error, Error::Busy { .. }) => error,
            full => match self.fleet.shed(&self.ask.model) {
                Some(seconds) => Error::busy(EVERY_NODE, seconds),
                None => full.unwrap_or_else(|| Error::NoNode("no node can take the request; please try again".into())),
            },
        })
    }

    /// The next node to ask, if one is left; a retry is paid for.
    fn next(&mut self, from: &Origin, is_retry: bool) -> Option<(Candidate, Lease)> {
        let (candidate, lease) = self.admitting(from).or_else(|| self.failing(from))?;
        if is_retry {
            if !self.fleet.may_retry() {
                self.metrics.retries_refused.increment(1);
                return None;
            }
            self.metrics.retries.increment(1);
        }
        Some((candidate, lease))
    }

    /// The next node whose breaker lets a request in. Those that go on after the tokens come before those that only know the
    /// text.
    fn admitting(&mut self, from: &Origin) -> Option<(Candidate, Lease)> {
        loop {
            if self.candidates.is_empty() {
                let (model, session) = (&self.ask.model, &self.ask.session);
                self.candidates = self.fleet.candidates_but(&self.asked, model, session, MORE).into();
                if !self.asked.is_empty() {
                    // The first of those that are left is not therefore the session's home.
                    self.candidates.iter_mut().for_each(|candidate| candidate.reason = Reason::Fallback.name().into());
                }
            }
            let (candidate, waited) = match self.candidates.pop_front() {
                Some(candidate) => (candidate, false),
                None => (self.readers.pop_front()?, true),
            };
            let Some(member) = self.fleet.member(&candidate.node) else {
                tracing::debug!(node = candidate.node, "the plan names a node that is not there");
                continue;
            };
            if !waited {
                self.asked.push(candidate.node.clone());
            }
            let now = now_ms();
            let Some(way) = self.way(from, &member).filter(|_| member.rests(now).is_none()) else { continue };
            if way != Way::Tokens && from.tokens.is_some() && !waited {
                self.readers.push_back(candidate);
                continue;
            }
            match member.enter(now) {
                Some(lease) => return Some((candidate, lease)),
                None => self.failing.push_back(candidate),
            }
        }
    }

    /// How a node goes on from there; None if it cannot, or would with other weights.
    fn way(&self, from: &Origin, member: &Member) -> Option<Way> {
        let fits = || self.fleet.has_revision(member.name(), &self.ask.model, self.revision.as_deref());
        from.way(&member.node).filter(|_| !from.begun || fits())
    }

    /// A node whose breaker is open, when no other is left: one that has failed often is better than none.
    fn failing(&mut self, from: &Origin) -> Option<(Candidate, Lease)> {
        loop {
            let candidate = self.failing.pop_front()?;
            let member = self.fleet.member(&candidate.node);
            let member = member.filter(|member| self.way(from, member).is_some() && member.rests(now_ms()).is_none());
            if let Some(member) = member {
                return Some((candidate, member.lease()));
            }
        }
    }

    /// Asks one node, and after a while a second one as well; who speaks first is listened to.
    async fn hedged(&mut self, lease: Lease, from: &Origin, after: Duration) -> Result<Opened, Error> {
        let first = self.attempt(lease, from, true);
        let first = match future::select(first, sleep(after).boxed()).await {
            Either::Left((opened, _)) => return opened,
            Either::Right(((), first)) => first,
        };
        let Some((candidate, lease)) = self.next(from, true) else { return first.await };
        self.metrics.hedges.increment(1);
        self.tally.asked(&self.asked);
        let second = self.attempt(lease, from, true);
        match future::select(first, second).await {
            Either::Left((Ok(opened), _)) => Ok(opened),
            Either::Right((Ok(opened), _)) => {
                tracing::debug!(node = candidate.node, "the second node was quicker");
                Ok(opened)
            }
            // One failed: the other is what is left.
            Either::Left((Err(_), second)) => second.await,
            Either::Right((Err(_), first)) => first.await,
        }
    }

    /// Opens the generation at one node and waits for its first event, or for its first token.
    fn attempt(&self, lease: Lease, from: &Origin, token: bool) -> BoxFuture<'static, Result<Opened, Error>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let ask = self.ask.clone();
        // Only nodes that have a way are chosen.
        let way = from.way(&lease.member().node).unwrap_or(Way::Tokens);
        let (tokens, said) = match way {
            Way::Tokens => (from.tokens.clone().unwrap_or_default(), Said::default()),
            Way::Text | Way::Message => (Vec::new(), from.said.clone().unwrap_or_default()),
        };
        let call = match lease.member().node.kind {
            Kind::Littoral => {
                let text = Resume { text: said.text, ..Resume::default() };
                let request = GenerateRequest {
                    model: ask.model,
                    request: ask.request,
                    session: ask.session,
                    tenant: ask.tenant,
                    user: ask.user,
                    deadline_ms: (left.as_millis() as u64).max(1),
                    seed: from.seed.filter(|_| way == Way::Tokens).or(ask.seed),
                    resume_from: if way == Way::Text { vec![text] } else { tokens },
                    request_id: ask.request_id,
                    ..GenerateRequest::default()
                };
                Either::Left((self.nodes.get(lease.member()), request))
            }
            Kind::OpenAi => {
                let call = Call {
                    canonical: ask.request,
                    model: ask.model,
                    request_id: ask.request_id,
                    seed: from.seed.or(ask.seed).unwrap_or_else(rand::random),
                    said,
                    silence: self.fleet.config().silence(),
                };
                Either::Right((self.nodes.http(&lease.member().node), lease.member().clone(), call))
            }
        };
        let (deadline, metrics) = (self.deadline, self.metrics.clone());
        let allowed = deadline.saturating_duration_since(self.received);
        let opening = async move {
            let mut wire = match call {
                Either::Left((client, request)) => {
                    let wrong = |e| Error::NoNode(format!("the node's address cannot be used: {e}"));
                    Wire::Grpc(Box::new(client.map_err(wrong)?.generate(request).await?.into_inner()))
                }
                Either::Right((http, member, call)) => {
                    Wire::Http(Box::new(HttpWire::open(http?, member, call, &metrics).await?))
                }
            };
            let mut first = VecDeque::new();
            while first.len() < 1 + usize::from(token) {
                match wire.next().await? {
                    Some(Event { kind: Some(event::Kind::Error(error)) }) => {
                        wire.let_go();
                        return Err(Error::Node(error));
                    }
                    Some(event) if first.is_empty() && !matches!(event.kind, Some(event::Kind::Started(_))) => {
                        return Err(Error::Garbage("its first event is not 'started'"));
                    }
                    Some(event) => first.push_back(event),
                    None => return Err(tonic::Status::unavailable("the node ended the call").into()),
                }
            }
            Ok((first, wire))
        };
        async move {
            match timeout_at(deadline.into(), opening).await {
                Ok(Ok((first, wire))) => {
                    // The head of an HTTP answer is no word of the model's.
                    if matches!(wire, Wire::Grpc(_)) || first.len() > 1 {
                        lease.succeeded(now_ms());
                    }
                    Ok(Opened { first, wire, lease, way })
                }
                Ok(Err(error)) => {
                    blame(&lease, &error);
                    Err(error)
                }
                Err(_) => {
                    // Who had no time is not to blame for it.
                    if left >= allowed / 2 {
                        fault(&lease, &Error::Deadline);
                    }
                    Err(Error::Deadline)
                }
            }
        }
        .boxed()
    }
}

/// Counts an error against the node that made it, when it is the node's fault.
pub fn blame(lease: &Lease, error: &Error) {
    if error.is_nodes_fault() {
        fault(lease, error);
    }
}

/// The same of an error that is the node's fault whatever it is called.
pub fn fault(lease: &Lease, error: &Error) {
    if lease.failed(now_ms()) {
        tracing::warn!(node = lease.member().name(), %error, "the node is left alone for a while: it fails");
    }
}
