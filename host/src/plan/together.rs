//! Answers and generations together with other edges, where there is a store they share: looks answers up there, lets
//! one edge fly what several are asked, and goes on when that one dies.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, SinkExt, StreamExt, channel::mpsc};
use littoral_core::CachePlan;
use littoral_proto::v1::{Event, event::Kind};
use tokio::time::sleep;

use super::{
    Executor,
    cache::{Answer, Found, Listener, LookUp, Pilot},
    generate::Job,
    generation::Generation,
    progress::Progress,
};
use crate::{
    error::Error,
    store::{Entry, Follower, Leader, News, Role},
    telemetry::{CacheOutcome, Tally},
};

/// How often the one who flies looks whether anybody follows.
const LOOK: Duration = Duration::from_millis(100);
/// Events that are told in one go.
const BATCH: usize = 64;

impl Executor {
    /// Looks an answer up: here, and in the store what is only there.
    async fn look_up(&self, plan: &CachePlan) -> LookUp {
        match self.fetch(plan).await {
            Some(answer) => LookUp { outcome: CacheOutcome::Hit, found: Found::Kept(answer) },
            None => self.shared.cache.look_up(plan),
        }
    }

    /// Looks an answer up; a generation of another request's is joined when somebody flies it. One whose request may not
    /// pay for it leaves it to those who joined.
    pub(super) async fn look_up_or_join(&self, plan: &CachePlan) -> LookUp {
        loop {
            let look_up = self.look_up(plan).await;
            match &look_up.found {
                Found::Joined(listener) if !listener.departs().await => {}
                _ => return look_up,
            }
        }
    }

    async fn fetch(&self, plan: &CachePlan) -> Option<Arc<Answer>> {
        let store = self.link.as_ref().filter(|_| self.shared.cache.lacks(plan))?;
        match Box::pin(store.answer(&plan.key)).await {
            Ok(Entry::Answer(stored)) => {
                let answer = self.shared.cache.adopt(plan, stored)?;
                self.shared.metrics.store_hits.increment(1);
                return Some(answer);
            }
            Ok(Entry::Undecodable) => self.shared.metrics.store_undecodable.increment(1),
            Ok(Entry::None) => {}
            Err(error) => tracing::debug!(%error, "the store was not asked for an answer"),
        }
        None
    }

    /// Flies a generation that several requests listen to, of this edge and, if it `shares`, of others.
    pub(super) async fn fly(self: Rc<Self>, pilot: Pilot, job: Job, shares: bool) {
        let role = match self.link.as_ref().filter(|_| shares) {
            // A store that does not answer shares nothing, and keeps nobody waiting.
            Some(store) => store.fly(&pilot.flight()).await.ok(),
            None => None,
        };
        match role {
            None => pilot.fly(opening(job), async {}).await,
            Some(Role::Leader(leader)) => self.lead(&pilot, &leader, job).await,
            // The one who flies pays for the tokens.
            Some(Role::Follower(follower)) => self.follow(&pilot, follower, job).await,
        }
        self.keep(&pilot).await;
    }

    /// Flies, and tells those who follow.
    async fn lead(&self, pilot: &Pilot, leader: &Leader, job: Job) {
        let flying = async {
            pilot.fly(opening(job), unfollowed(leader)).await;
            self.keep(pilot).await;
        };
        // Who loses the lease, or cannot tell, flies on for those who listen here.
        let telling = async {
            let Some(listener) = pilot.overhear() else { return };
            tokio::select! {
                () = tell(leader, listener) => {}
                () = leader.hold() => {}
            }
        };
        futures::future::join(flying, telling).await;
        leader.release().await;
    }

    /// Listens to another edge's generation, and goes on with it when that edge dies.
    async fn follow(&self, pilot: &Pilot, follower: Follower, job: Job) {
        let (events, heard) = mpsc::channel(BATCH);
        let hearing = async {
            let mut heard = Heard { events, told: job.follows(), progress: Progress::default(), count: 0 };
            if let Some(leader) = heard.hear(follower).await {
                self.go_on(pilot, heard, leader, job).await;
            }
        };
        let hearing = async {
            hearing.await;
            // The pilot ends when it has what was heard.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = pilot.fly(async { Ok(heard) }, async {}) => {}
            () = hearing => {}
        }
    }

    /// Goes on with a generation whose edge died; `leader` is none when it is the store that died.
    async fn go_on(&self, pilot: &Pilot, mut heard: Heard, leader: Option<Leader>, job: Job) {
        // It may have died after its last word.
        if let Some(store) = &self.link
            && let Ok(Entry::Answer(stored)) = store.answer(pilot.key()).await
        {
            for event in stored.events().into_iter().skip(heard.count) {
                heard.tell(&event);
                heard.pass(event).await;
            }
            return;
        }
        tracing::info!(tokens = heard.progress.tokens(), "another edge was lost; its generation goes on here");
        let progress = std::mem::take(&mut heard.progress);
        let mut generation = match job.open(progress).await {
            Ok(generation) => generation,
            Err(error) => {
                heard.pass(error.event()).await;
                return;
            }
        };
        let going = async {
            while let Some(event) = generation.next().await {
                if let Some(leader) = &leader
                    && let Err(error) = leader.tell(std::slice::from_ref(&event)).await
                {
                    tracing::debug!(%error, "followers cannot be told");
                }
                if !heard.pass(event).await {
                    break;
                }
            }
        };
        match &leader {
            None => going.await,
            Some(leader) => {
                let holding = async {
                    leader.hold().await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = going => {}
                    () = holding => {}
                }
                leader.release().await;
            }
        }
    }

    pub(super) async fn keep(&self, pilot: &Pilot) {
        if let (Some(store), Some(answer)) = (&self.link, pilot.kept())
            && let Err(error) = store.keep(pilot.key(), &answer).await
        {
            tracing::debug!(%error, "an answer is kept in this process only");
        }
    }
}

async fn opening(job: Job) -> Result<Generation, Error> {
    job.open(Progress::default()).await
}

/// Ends when nobody follows elsewhere.
async fn unfollowed(leader: &Leader) {
    while leader.is_followed().await {
        sleep(LOOK).await;
    }
}

/// Tells events to those who follow, from when somebody does; ends with the last event, or when it cannot be told.
async fn tell(leader: &Leader, mut listener: Listener) {
    let mut waiting: Vec<Event> = Vec::new();
    let mut over = false;
    while !over {
        // Those that are there; the first is waited for a while, so that a silent stream is looked after too.
        let first = tokio::time::timeout(LOOK, listener.next()).await;
        match first {
            Ok(Some(event)) => {
                over = is_last(&event);
                waiting.push(event);
            }
            Ok(None) => over = true,
            Err(_) => {}
        }
        while !over && waiting.len() < BATCH {
            let Some(Some(event)) = listener.next().now_or_never() else { break };
            over = is_last(&event);
            waiting.push(event);
        }
        if waiting.is_empty() {
            continue;
        }
        if !over && waiting.len() < BATCH {
            sleep(LOOK / 4).await;
        }
        if leader.tell(&waiting).await.is_err() {
            return;
        }
        waiting.clear();
    }
}

fn is_last(event: &Event) -> bool {
    matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)))
}

/// A generation as a follower hears it, passed on to those who listen here.
struct Heard {
    events: mpsc::Sender<Event>,
    /// What is told of the events: the tally of the request that came first here, and when that came.
    told: (Arc<Tally>, Instant),
    progress: Progress,
    count: usize,
}

impl Heard {
    /// Passes on what is heard. When the one who flies is lost before the end, the lease, if the store still gives one;
    /// none at the end.
    async fn hear(&mut self, mut follower: Follower) -> Option<Option<Leader>> {
        loop {
            match follower.news().await {
                Ok(News::Events(events)) => {
                    for event in events {
                        let over = is_last(&event);
                        self.progress.take(&event);
                        self.tell(&event);
                        self.count += 1;
                        if !self.pass(event).await || over {
                            return None;
                        }
                    }
                }
                Ok(News::Orphaned(leader)) => return Some(Some(leader)),
                Err(error) => {
                    tracing::debug!(%error, "another edge is heard no more");
                    return Some(None);
                }
            }
        }
    }

    fn tell(&self, event: &Event) {
        let (tally, received) = &self.told;
        tally.tell(event, *received);
    }

    /// False when nobody listens.
    async fn pass(&mut self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}
