//! From a plan to the events of its answer: the cache first, then the nodes in the plan's order.

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::future::{LocalBoxFuture, poll_fn};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use littoral_api::chat::{self, Renderer};
use littoral_core::{Pairs, Plan, dialect, key::hex};
use littoral_proto::v1::{Event, event::Kind};
use tokio::{
    task::spawn_local,
    time::{timeout, timeout_at},
};

use super::{
    Answer, Arrival, CACHE, Executor, JSON, NODE, ROUTE, add,
    body::{Flow, KEEP_ALIVE_EVERY},
    cache::{AnswerCache, Found, LookUp},
    deadline,
    dispatch::{Ask, Dispatch, EVERY_NODE},
    events::Events,
    generation::Generation,
    now_ms,
    origin::can_go_on,
    permit::{Permit, Take},
    progress::Progress,
    together::Task,
};
use crate::{
    error::Error,
    store::Role,
    telemetry::{CacheOutcome, Entry, Tally},
};

/// A generation that is being opened: it ends with its first event, or with why there is none.
pub type Opening = LocalBoxFuture<'static, Result<Events, Error>>;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static(littoral_api::EVENT_STREAM);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

impl Executor {
    /// Looks the answer up or has it generated.
    pub(super) async fn generate(
        self: &Rc<Self>,
        headers: Pairs,
        mut plan: Arc<Plan>,
        arrival: &Arrival,
        (head, entry): (&mut HeaderMap, &mut Entry),
    ) -> Result<Answer, Error> {
        let rendering = plan.rendering.clone();
        let rendering = rendering.ok_or_else(|| Error::Plan("it generates and names no rendering".into()))?;
        if rendering.dialect != dialect::CHAT {
            return Err(Error::Plan(format!("this host does not speak the dialect '{}'", rendering.dialect)));
        }
        let due = deadline(arrival.received, plan.deadline_ms, self.shared.deadline);
        let (found, role) = self.find(&mut plan, (arrival, due), head, entry).await?;
        let written = chat::Head {
            id: ["chatcmpl-", &hex(&rand::random::<[u8; 12]>())].concat(),
            created: now_ms() / 1000,
            fingerprint: self.fingerprint(&rendering.model),
            model: rendering.model.clone(),
            stream: rendering.stream,
            include_usage: rendering.include_usage,
        };
        // A failure has the host's headers and not the guest's.
        let finish = |mut head: HeaderMap| {
            add(&mut head, headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            head
        };
        // Most of what is asked for again as a document is written already.
        if let (Found::Kept(answer), false, true) = (&found, rendering.stream, plan.filters.is_empty())
            && let Some(ending) = answer.ending()
        {
            answer.events.iter().for_each(|event| entry.tally.tell(event, arrival.received));
            return Ok(document(finish(std::mem::take(head)), chat::join(&written, ending), &entry.tally));
        }
        let mut renderer = Renderer::new(written);
        let job = Job {
            executor: self.clone(),
            request_id: arrival.id.clone(),
            received: arrival.received,
            deadline: due,
            tally: entry.tally.clone(),
            model: rendering.model,
            plan,
        };
        if !rendering.stream {
            let mut events = job.events(found, role).await?;
            let bytes = collect(&mut events, &mut renderer).await?;
            return Ok(document(finish(std::mem::take(head)), bytes, &entry.tally));
        }
        // The head waits for the first event, so that a failure before it keeps its status; but not for ever, because
        // clients give up on a silent connection.
        let mut opening: Opening = Box::pin(job.events(found, role));
        let events = timeout(KEEP_ALIVE_EVERY, &mut opening).await.ok().transpose()?;
        let mut head = finish(std::mem::take(head));
        head.entry(CONTENT_TYPE).or_insert(EVENT_STREAM);
        head.entry(CACHE_CONTROL).or_insert(NO_CACHE);
        Ok(match events {
            Some(events) => {
                name_node(&mut head, &entry.tally);
                Answer::Stream(head, Flow::of(events, renderer))
            }
            None => Answer::Stream(head, Flow::opening(opening, renderer)),
        })
    }

    /// Charges the request, looks its answer up or joins the generation of another one, and reserves what a generation
    /// of its own may use. What this edge is to one that others may be asked for too comes with it.
    pub(super) async fn find(
        &self,
        plan: &mut Arc<Plan>,
        (arrival, due): (&Arrival, Instant),
        head: &mut HeaderMap,
        entry: &mut Entry,
    ) -> Result<(Found, Option<Role>), Error> {
        let looks = plan.cache.as_ref().is_some_and(AnswerCache::looks);
        if looks {
            self.take(plan, Take::Request, arrival, head).await?;
        }
        let look_up = match &plan.cache {
            None => LookUp::none(),
            Some(cache) => {
                let looking = timeout_at(due.into(), self.look_up_or_join(cache));
                let look_up = looking.await.map_err(|_| Error::Deadline)?;
                head.insert(CACHE, cache_header(look_up.outcome, &look_up.found, &cache.reason));
                look_up
            }
        };
        entry.cache = look_up.outcome;
        let rest = if looks { Take::Generation } else { Take::All };
        let begun = self.begin(plan, look_up.found, (rest, arrival), head, entry).await;
        if let (Ok((found, Some(Role::Follower(_)))), Some(cache)) = (&begun, &plan.cache) {
            entry.cache = CacheOutcome::Coalesced;
            head.insert(CACHE, cache_header(entry.cache, found, &cache.reason));
        }
        match entry.cache {
            CacheOutcome::Hit => self.shared.metrics.cache_hits.increment(1),
            CacheOutcome::Miss => self.shared.metrics.cache_misses.increment(1),
            CacheOutcome::Coalesced => self.shared.metrics.cache_coalesced.increment(1),
            CacheOutcome::Bypass | CacheOutcome::None => {}
        }
        begun
    }

    /// Reserves what a generation of its own may use, and asks whether another edge flies it.
    async fn begin(
        &self,
        plan: &mut Arc<Plan>,
        found: Found,
        (rest, arrival): (Take, &Arrival),
        head: &mut HeaderMap,
        entry: &mut Entry,
    ) -> Result<(Found, Option<Role>), Error> {
        if matches!(found, Found::Kept(_) | Found::Joined(_)) {
            return Ok((found, None));
        }
        // When this fails, who joined meanwhile looks for another.
        let mut found = found;
        if let Some(permit) = self.take(plan, rest, arrival, head).await? {
            // Others may be able to pay for the whole answer.
            if permit.lowered {
                found = Found::Alone;
            }
            entry.tally.meter(permit);
        }
        let role = match &found {
            Found::Leads(pilot, _) if self.may_share(plan) => self.role(pilot).await,
            _ => None,
        };
        Ok((found, role))
    }

    /// Whether another edge may fly what the plan asks for: only what can be gone on with here when that edge, or the store
    /// between the two, is lost.
    fn may_share(&self, plan: &Plan) -> bool {
        if !plan.cache.as_ref().is_some_and(AnswerCache::shares) {
            return false;
        }
        // A question to a knowledge service is asked again.
        let Some(rendering) = &plan.rendering else { return true };
        let view = self.shared.fleet.view();
        let Some(served) = view.served(&rendering.model) else { return false };
        can_go_on(served.nodes.iter().map(|&at| &view.nodes()[at].member.node), &plan.request)
    }

    /// Takes charges, and tells the client of its rates.
    async fn take(
        &self,
        plan: &mut Arc<Plan>,
        take: Take,
        arrival: &Arrival,
        head: &mut HeaderMap,
    ) -> Result<Option<Arc<Permit>>, Error> {
        let permit = self.admit(plan, take, &arrival.id, self.shared.deadline).await?;
        if let Some(permit) = &permit {
            add(head, permit.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        }
        Ok(permit)
    }

    fn fingerprint(&self, model: &str) -> String {
        self.shared.fleet.view().served(model).map(|served| served.fingerprint.clone()).unwrap_or_default()
    }
}

/// What is needed to have one plan's answer generated.
pub(super) struct Job {
    executor: Rc<Executor>,
    request_id: String,
    received: Instant,
    deadline: Instant,
    tally: Arc<Tally>,
    model: String,
    plan: Arc<Plan>,
}

impl Job {
    /// The events, from the cache, a node or another request's generation, through the plan's filters.
    async fn events(self, found: Found, role: Option<Role>) -> Result<Events, Error> {
        let (executor, filters) = (self.executor.clone(), self.plan.filters.clone());
        let events = match found {
            Found::Kept(answer) => {
                answer.events.iter().for_each(|event| self.tally.tell(event, self.received));
                Events::replay(answer)
            }
            Found::Joined(listener) => {
                let mut listener = listener.telling(self.tally.clone(), self.received);
                timeout_at(self.deadline.into(), listener.opened()).await.map_err(|_| Error::Deadline)??;
                Events::Shared(listener)
            }
            Found::Leads(pilot, mut listener) => {
                // The generation must go on when this request's client leaves and another listens.
                let deadline = self.deadline;
                spawn_local(executor.clone().fly(pilot, self, role));
                timeout_at(deadline.into(), listener.opened()).await.map_err(|_| Error::Deadline)??;
                Events::Shared(listener)
            }
            // Boxed: who is answered by the cache has no use for the room it takes.
            Found::Alone => Events::Generation(Box::new(Box::pin(self.open(Progress::default())).await?)),
        };
        Ok(events.through(&filters, &executor.guests)?)
    }

    /// Has a node begin the answer, or go on from where it has come.
    pub(super) async fn open(self, progress: Progress) -> Result<Generation, Error> {
        let shared = &self.executor.shared;
        let fleet = shared.fleet.clone();
        // A name the client may use is not always the one the nodes know.
        let model = fleet.model(&self.model).map_or_else(|| self.model.clone(), |model| model.name);
        let Plan { request, session, seed, candidates, principal, .. } = Arc::unwrap_or_clone(self.plan);
        let (tenant, user) = principal.map(|who| (who.tenant, who.user)).unwrap_or_default();
        let mut dispatch = Dispatch {
            nodes: self.executor.nodes.clone(),
            metrics: shared.metrics.clone(),
            tally: self.tally,
            ask: Ask { model, request: request.into(), session, tenant, user, seed, request_id: self.request_id },
            candidates: candidates.into(),
            readers: VecDeque::new(),
            asked: Vec::new(),
            failing: VecDeque::new(),
            revision: None,
            received: self.received,
            deadline: self.deadline,
            fleet,
        };
        let wait = Duration::from_millis(dispatch.fleet.config().wait_ms);
        if dispatch.candidates.is_empty() && !wait.is_zero() {
            // Nothing is lost by waiting: who streams gets comments meanwhile, and who leaves ends it.
            let until = self.deadline.min(Instant::now() + wait);
            if timeout_at(until.into(), dispatch.fleet.ready(&dispatch.ask.model)).await.is_err() {
                return Err(Error::NoNode("no node became ready in time; please try again".into()));
            }
        }
        if let Some(seconds) = dispatch.fleet.shed(&dispatch.ask.model) {
            dispatch.metrics.shed.increment(1);
            return Err(Error::busy(EVERY_NODE, seconds));
        }
        dispatch.fleet.deposit();
        let opened = dispatch.open(&progress.origin(&dispatch.ask)).await?;
        Ok(Generation::new(opened, dispatch, progress))
    }
}

impl Task for Job {
    type Events = Generation;

    async fn open(self, progress: Progress, _heard: usize) -> Result<Generation, Error> {
        Self::open(self, progress).await
    }

    /// The request that started the generation elsewhere pays for it: what was reserved here is given back.
    fn follows(&self) -> Option<(Arc<Tally>, Instant)> {
        self.tally.release();
        Some((self.tally.clone(), self.received))
    }
}

/// Renders a whole answer as one document.
async fn collect(events: &mut Events, renderer: &mut Renderer) -> Result<Bytes, Error> {
    let mut unused = BytesMut::new();
    let mut failure = None;
    let mut take = |event: &Event| match &event.kind {
        Some(Kind::Error(error)) => failure = Some(error.clone()),
        _ => renderer.push(event, &mut unused),
    };
    while poll_fn(|cx| events.poll_with(cx, &mut take)).await {}
    if let Some(error) = failure {
        return Err(Error::Node(error));
    }
    if !renderer.is_complete() {
        return Err(Error::NoNode("the answer ended before its end; please try again".into()));
    }
    Ok(renderer.document().1)
}

fn document(mut head: HeaderMap, bytes: Bytes, tally: &Tally) -> Answer {
    name_node(&mut head, tally);
    head.entry(CONTENT_TYPE).or_insert(JSON);
    let mut response = Response::new(bytes);
    *response.headers_mut() = head;
    Answer::Whole(response)
}

/// Says which node answered, or was the last to be asked, and why it was.
pub(super) fn name_node(head: &mut HeaderMap, tally: &Tally) {
    if let Some(value) = tally.last_node().and_then(|node| HeaderValue::from_str(&node).ok()) {
        head.insert(NODE, value);
    }
    if let Some(value) = tally.route().and_then(|route| HeaderValue::from_str(&route).ok()) {
        head.insert(ROUTE, value);
    }
}

/// `hit|miss|coalesced|bypass; reason=...; age=...`, the age in seconds and of hits only.
fn cache_header(outcome: CacheOutcome, found: &Found, reason: &str) -> HeaderValue {
    let mut text = outcome.name().to_string();
    if !reason.is_empty() {
        text.push_str("; reason=");
        text.push_str(reason);
    }
    if let Found::Kept(answer) = found {
        text.push_str(&format!("; age={}", answer.age().as_secs()));
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(outcome.name()))
}
