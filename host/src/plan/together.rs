//! Answers and generations together with other edges, where there is a store they share: looks answers up there, lets
//! one edge fly what several are asked, and goes on when that one dies.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, SinkExt, Stream, StreamExt, channel::mpsc};
use littoral_core::CachePlan;
use littoral_proto::v1::{Event, event::Kind};
use tokio::time::{sleep, timeout};

use super::{
    Executor,
    cache::{Answer, Found, Listener, LookUp, Pilot},
    progress::Progress,
};
use crate::{
    error::Error,
    store::{Entry, Follower, LEASE, Leader, News, Role},
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

    /// What this edge is to a generation that other edges may be asked for too; none where it is nobody else's. A store
    /// that does not answer shares nothing, and keeps nobody waiting.
    pub(super) async fn role(&self, pilot: &Pilot) -> Option<Role> {
        self.link.as_ref()?.fly(&pilot.flight()).await.ok()
    }

    /// Flies what several requests listen to, of this edge and, in a `role`, of others.
    pub(super) async fn fly<T: Task>(self: Rc<Self>, pilot: Pilot, task: T, role: Option<Role>) {
        match role {
            None => pilot.fly(task.open(Progress::default(), 0), async {}).await,
            Some(Role::Leader(leader)) => self.lead(&pilot, &leader, task).await,
            // The one who flies pays for the tokens.
            Some(Role::Follower(follower)) => self.follow(&pilot, follower, task).await,
        }
        self.keep(&pilot).await;
    }

    /// Flies, and tells those who follow.
    async fn lead<T: Task>(&self, pilot: &Pilot, leader: &Leader, task: T) {
        let flying = async {
            pilot.fly(task.open(Progress::default(), 0), unfollowed(leader)).await;
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
    async fn follow<T: Task>(&self, pilot: &Pilot, follower: Follower, task: T) {
        let (events, heard) = mpsc::channel(BATCH);
        let hearing = async {
            let mut heard = Heard { events, told: task.follows(), progress: Progress::default(), count: 0 };
            if let Some(leader) = heard.hear(follower).await {
                self.go_on(pilot, heard, leader, task).await;
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
    async fn go_on<T: Task>(&self, pilot: &Pilot, mut heard: Heard, leader: Option<Leader>, task: T) {
        // It may have died after its last word, and nothing of it was heard. Once something was, events that are kept, which
        // are longer and fewer, do not tell where to go on.
        if heard.count == 0
            && let Some(store) = &self.link
            && let Ok(Entry::Answer(stored)) = store.answer(pilot.key()).await
        {
            for event in stored.events() {
                heard.tell(&event);
                heard.pass(event).await;
            }
            return;
        }
        tracing::info!(tokens = heard.progress.tokens(), "another edge was lost; its generation goes on here");
        let progress = std::mem::take(&mut heard.progress);
        let mut generation = match task.open(progress, heard.count).await {
            Ok(generation) => generation,
            Err(error) => {
                heard.pass(error.event()).await;
                return;
            }
        };
        let going = async {
            let mut telling = leader.as_ref().map(Telling::new);
            while let Some(event) = generation.next().await {
                if let Some(now) = &mut telling {
                    now.waiting.push(event.clone());
                    if !now.tell().await {
                        telling = None;
                    }
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

    async fn keep(&self, pilot: &Pilot) {
        if let (Some(store), Some(answer)) = (&self.link, pilot.kept())
            && let Err(error) = store.keep(pilot.key(), &answer).await
        {
            tracing::debug!(%error, "an answer is kept in this process only");
        }
    }
}

/// What is flown: how it begins, and how it goes on where another edge left it.
pub(super) trait Task {
    type Events: Stream<Item = Event> + Unpin;

    /// The events from where the answer has come, of which so many events were heard.
    async fn open(self, progress: Progress, heard: usize) -> Result<Self::Events, Error>;

    /// Another edge flies. Who is told of the events here, and when its request came.
    fn follows(&self) -> Option<(Arc<Tally>, Instant)>;
}

/// Ends when nobody follows elsewhere, or nobody can say for as long as a follower's sign lives.
async fn unfollowed(leader: &Leader) {
    let mut asked = Instant::now();
    loop {
        match leader.is_followed().await {
            Ok(true) => asked = Instant::now(),
            Ok(false) => return,
            Err(error) if error.is_passing() && asked.elapsed() < LEASE => {}
            Err(_) => return,
        }
        sleep(LOOK).await;
    }
}

/// Events on their way to those who follow.
struct Telling<'a> {
    leader: &'a Leader,
    waiting: Vec<Event>,
    /// Since when the store takes none.
    late: Option<Instant>,
}

impl<'a> Telling<'a> {
    fn new(leader: &'a Leader) -> Self {
        Self { leader, waiting: Vec::new(), late: None }
    }

    /// Tells what waits. A store that is late is told again with what comes next, as long as the lease may live; false
    /// when nobody can be told any more.
    async fn tell(&mut self) -> bool {
        match self.leader.tell(&self.waiting).await {
            Ok(true) => {
                self.waiting.clear();
                self.late = None;
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::debug!(%error, "followers cannot be told");
                error.is_passing() && self.late.get_or_insert_with(Instant::now).elapsed() < LEASE
            }
        }
    }
}

/// Tells events to those who follow, from when somebody does; ends with the last event, or when it cannot be told.
async fn tell(leader: &Leader, mut listener: Listener) {
    let mut telling = Telling::new(leader);
    let mut over = false;
    while !over || !telling.waiting.is_empty() {
        // Those that are there; the first is waited for a while, so that a silent stream is looked after too.
        let first = if over { Err(()) } else { timeout(LOOK, listener.next()).await.map_err(drop) };
        match first {
            Ok(Some(event)) => {
                over = is_last(&event);
                telling.waiting.push(event);
            }
            Ok(None) => over = true,
            Err(()) => {}
        }
        while !over && telling.waiting.len() < BATCH {
            let Some(Some(event)) = listener.next().now_or_never() else { break };
            over = is_last(&event);
            telling.waiting.push(event);
        }
        if telling.waiting.is_empty() {
            continue;
        }
        if !over && telling.waiting.len() < BATCH {
            sleep(LOOK / 4).await;
        }
        if !telling.tell().await {
            return;
        }
        if !telling.waiting.is_empty() {
            sleep(LOOK / 4).await;
        }
    }
}

fn is_last(event: &Event) -> bool {
    matches!(event.kind, Some(Kind::Usage(_) | Kind::Error(_)))
}

/// A generation as a follower hears it, passed on to those who listen here.
struct Heard {
    events: mpsc::Sender<Event>,
    /// What is told of the events: the tally of the request that came first here, and when that came.
    told: Option<(Arc<Tally>, Instant)>,
    progress: Progress,
    count: usize,
}

impl Heard {
    /// Passes on what is heard. When the one who flies is lost before the end, the lease, if the store still gives one;
    /// none at the end. A store that is late is borne as long as the one who flies may have the lease.
    async fn hear(&mut self, mut follower: Follower) -> Option<Option<Leader>> {
        let mut heard = Instant::now();
        loop {
            let news = follower.news().await;
            match news {
                Ok(News::Events(events)) => {
                    heard = Instant::now();
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
                Ok(News::Quiet) => heard = Instant::now(),
                Err(error) if error.is_passing() && heard.elapsed() < LEASE => sleep(LOOK).await,
                Err(error) => {
                    tracing::debug!(%error, "another edge is heard no more");
                    return Some(None);
                }
            }
        }
    }

    fn tell(&self, event: &Event) {
        if let Some((tally, received)) = &self.told {
            tally.tell(event, *received);
        }
    }

    /// False when nobody listens.
    async fn pass(&mut self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}
