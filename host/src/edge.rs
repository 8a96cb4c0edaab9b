//! Puts the rooms together: builds them from a configuration, runs them on their threads, and ends them in order.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;
use futures::future::join;
use tokio::{task::LocalSet, time::interval};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{
        self,
        serve::Admin,
        session::{self, Sessions},
    },
    audit::Audit,
    config::{self, Config},
    door::{self, Door},
    fleet::{Clients, Fleet, discover},
    guest::Guests,
    knowledge::{Access, Issuers, Keys, Known, Mirror, Places},
    plan::{AnswerCache, Executor, Memos, Shared, now_ms},
    store::{self, Server},
    telemetry::{self, Metrics},
    tokens::{Mint, Secret},
    vault::{self, Limits, Store},
};

/// What the first look at the nodes may add to the time of the start.
const FIRST_LOOK: Duration = Duration::from_millis(150);
/// How soon a changed key file or store is noticed.
const KEYS_EVERY: Duration = Duration::from_millis(250);
/// Memory that remembered decisions may take.
const MEMO_BYTES: u64 = 32 << 20;
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// An edge that holds its sockets and its guests, and serves nobody yet.
pub struct Edge {
    config: Config,
    http: (SocketAddr, Vec<TcpListener>),
    metrics: (SocketAddr, TcpListener),
    admin: Option<(SocketAddr, TcpListener)>,
    guests: Arc<Guests>,
    keys: Arc<Keys>,
    stored: Stored,
    issuers: Arc<Issuers>,
    shared: Arc<Shared>,
}

/// The store, and what this edge remembers of it.
#[derive(Clone)]
struct Stored {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
}

/// An edge that serves. Dropping it stops it without waiting.
pub struct Running {
    /// Where clients connect.
    pub http: SocketAddr,
    /// Where `/metrics` is.
    pub metrics: SocketAddr,
    /// Where administrators connect, and their token if it was made just now.
    pub admin: Option<(SocketAddr, Option<String>)>,
    stop: CancellationToken,
    over: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    /// Ends when every worker has.
    workers: tokio::sync::mpsc::Receiver<()>,
}

impl Edge {
    /// Binds the sockets first, so that a port in use is known at once; then loads keys and guests.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        config.check()?;
        raise_file_limit();
        use_small_pages();
        let http = door::bind(config.edge.listen, config.edge.worker_count())?;
        let metrics = door::metrics_listener(config.edge.metrics)?;
        let admin = config.admin.listen.map(door::admin_listener).transpose()?;
        let keys = Arc::new(Keys::load(&config.keys.file)?);
        let stored = Stored::open(&config)?;
        if keys.is_empty() && stored.mirror.keys() == 0 {
            tracing::warn!(
                store = store::shown(&config.store.url),
                "no key is known: every request is refused until `littoral key create` makes one"
            );
        }
        let fleet = Arc::new(Fleet::new(config.node.clone(), config.fleet.clone()));
        let mint = runtime()?.block_on(Mint::load(&config.token, &*stored.store, Secret::load))?;
        let own = mint.as_ref().map(|mint| mint.signer.jwks());
        let issuers = Arc::new(Issuers::load(&config.auth, config.token.rules().zip(own))?);
        let places = Places::load(config.auth.places.as_deref())?;
        let access = Access::new(&config, keys.clone(), stored.mirror.clone(), issuers.clone(), places);
        let known = Arc::new(Known::new(access, config.cache.for_guests(), fleet.clone()));
        let guests = Guests::load(&config.guest, config.edge.worker_count(), known.clone())?;
        let shared = Arc::new(Shared {
            fleet,
            known,
            cache: AnswerCache::new(config.cache.max_bytes, config.cache.max_answer_bytes),
            memos: Memos::new(Duration::from_millis(config.guest.memo_ms), MEMO_BYTES),
            limits: Arc::new(Limits::new(stored.store.clone(), config.store.on_loss)),
            audit: Audit::open(&config.audit)?,
            store: stored.store.clone(),
            mint,
            metrics: Arc::new(Metrics::new()?),
            retrieval: config.retrieval.node().map(Arc::new),
            shares: config.store.shares().map(|at| Server::new(at, &config.store).map(Arc::new)).transpose()?,
            deadline: Duration::from_millis(config.edge.deadline_ms),
        });
        Ok(Self { config, http, metrics, admin, guests, keys, stored, issuers, shared })
    }

    /// The guests this edge asks.
    pub fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// Starts the threads; returns when every one serves.
    pub fn run(self) -> anyhow::Result<Running> {
        let Self {
            config,
            http: (http, listeners),
            metrics: (metrics, scraped),
            admin,
            guests,
            keys,
            stored,
            issuers,
            shared,
        } = self;
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let (alive, workers) = tokio::sync::mpsc::channel(1);
        let (started, starts) = mpsc::channel();
        let config = Arc::new(config);
        let mut threads = Vec::new();
        let (admin, administered) = match admin {
            None => (None, None),
            Some((address, listener)) => {
                let token = runtime()?.block_on(session::first_token(&*stored.store))?;
                let (store, audit) = (stored.store.clone(), shared.audit.clone());
                let admin = Arc::new(Admin { store, audit, sessions: Sessions::default(), address });
                (Some((address, token)), Some((listener, admin)))
            }
        };
        let background = Background {
            guests: guests.clone(),
            keys,
            stored,
            issuers,
            administered,
            shared: shared.clone(),
            nodes: config.node.clone(),
            over: over.clone(),
        };
        threads.push(spawn("background".into(), started.clone(), move |started| background.run(scraped, started))?);
        for (i, listener) in listeners.into_iter().enumerate() {
            // A token of its own for each worker: connections wait on it, and workers shall not meet there.
            let (stop, alive) = (stop.child_token(), alive.clone());
            let (config, guests, shared) = (config.clone(), guests.clone(), shared.clone());
            let serve = move |started: &Started| {
                let _alive = alive;
                worker(listener, &config, &guests, shared, stop, started)
            };
            threads.push(spawn(format!("worker-{i}"), started.clone(), serve)?);
        }
        drop((started, alive));
        let running = Running { http, metrics, admin, stop, over, threads, workers };
        for _ in 0..running.threads.len() {
            starts.recv().context("a thread ended before it served")??;
        }
        Ok(running)
    }
}

impl Running {
    /// Accepts no more, lets open answers end (as long as `edge.drain_timeout_ms` allows), and ends the threads.
    pub async fn drain(mut self) {
        self.stop.cancel();
        // Nothing is ever sent; the channel closes when the last worker is gone.
        while self.workers.recv().await.is_some() {}
        self.over.cancel();
        for thread in self.threads.drain(..) {
            // A panic has been reported by the thread's own hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.over.cancel();
    }
}

type Started = mpsc::Sender<anyhow::Result<()>>;

/// A thread that reports once whether it came up.
fn spawn(
    name: String,
    started: Started,
    run: impl FnOnce(&Started) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let body = move || {
        if let Err(error) = run(&started) {
            // Whoever waits for the start hears of it; nobody else does.
            let _ = started.send(Err(error));
        }
    };
    thread::Builder::new().name(name).spawn(body).context("the system gives no further thread")
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// One worker: a listener, guests, connections to the nodes, and nothing shared that it would have to wait for.
fn worker(
    listener: TcpListener,
    config: &Config,
    guests: &Arc<Guests>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    started: &Started,
) -> anyhow::Result<()> {
    LocalSet::new().block_on(&runtime()?, async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let nodes = Arc::new(Clients::new(&config.fleet, config.edge.worker_count())?);
        let door = Door::new(Executor::new(guests.worker(), nodes, shared), &config.edge, stop);
        // The one who waits may have given up.
        let _ = started.send(Ok(()));
        door.serve(listener).await;
        Ok(())
    })
}

/// What goes on beside the requests: the fleet, the keys, the metrics.
struct Background {
    guests: Arc<Guests>,
    keys: Arc<Keys>,
    stored: Stored,
    issuers: Arc<Issuers>,
    administered: Option<(TcpListener, Arc<Admin>)>,
    shared: Arc<Shared>,
    /// As they were configured.
    nodes: Vec<config::Node>,
    over: CancellationToken,
}

impl Background {
    fn run(self, scraped: TcpListener, started: &Started) -> anyhow::Result<()> {
        runtime()?.block_on(async move {
            let scraped = tokio::net::TcpListener::from_std(scraped)?;
            join(self.shared.fleet.first_look(FIRST_LOOK), first_purges(&self.shared)).await;
            let _ = started.send(Ok(()));
            let fleet = self.shared.fleet.clone();
            let render = {
                let (guests, shared) = (self.guests.clone(), self.shared.clone());
                let (keys, mirror) = (self.keys.clone(), self.stored.mirror.clone());
                Arc::new(move || {
                    let access = &shared.metrics.access;
                    access.keys.set((keys.len() + mirror.keys()) as f64);
                    access.store_age.set(mirror.age_ms() as f64 / 1000.0);
                    access.store_lost.set(f64::from(u8::from(shared.limits.is_lost())));
                    access.shared.set(shared.limits.shared() as f64);
                    if let Some(audit) = &shared.audit {
                        access.audit(audit);
                    }
                    render(&guests, &shared)
                })
            };
            tokio::select! {
                () = self.over.cancelled() => {}
                () = fleet.watch() => {}
                () = telemetry::serve(scraped, render) => {}
                () = reread(&self.keys) => {}
                () = self.stored.watch(&self.shared.limits) => {}
                () = administer(self.administered) => {}
                () = refetch(&self.issuers) => {}
                () = upkeep(&self.shared) => {}
                () = purges(&self.shared) => {}
                () = discover(self.shared.fleet.clone(), self.nodes) => {}
            }
            Ok(())
        })
    }
}

impl Stored {
    fn open(config: &Config) -> anyhow::Result<Self> {
        let store = vault::open(&config.store)?;
        store.attend()?;
        let mirror = Arc::new(runtime()?.block_on(Mirror::load(&*store))?);
        Ok(Self { store, mirror })
    }

    async fn watch(&self, limits: &Limits) {
        let mut ticks = interval(KEYS_EVERY);
        let mut lost = false;
        loop {
            ticks.tick().await;
            let refreshed = self.mirror.refresh(&*self.store).await;
            if let (Err(error), false) = (&refreshed, lost) {
                tracing::error!(%error, "the store is not heard; keys and revocations known before stay");
            }
            lost = refreshed.is_err();
            if !lost {
                limits.answered();
            }
        }
    }
}

async fn reread(keys: &Keys) {
    let mut ticks = interval(KEYS_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = keys.refresh() {
            tracing::warn!(%error, "the key file was not read; the keys known before stay");
        }
    }
}

/// Never returns.
async fn administer(administered: Option<(TcpListener, Arc<Admin>)>) {
    let Some((listener, admin)) = administered else { return std::future::pending().await };
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => admin::serve::serve(listener, admin).await,
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be used");
            std::future::pending().await
        }
    }
}

async fn refetch(issuers: &Arc<Issuers>) {
    let mut ticks = interval(KEYS_EVERY);
    loop {
        ticks.tick().await;
        let issuers = issuers.clone();
        // A panic there has been reported by its thread.
        let _ = tokio::task::spawn_blocking(move || issuers.refresh()).await;
    }
}

async fn upkeep(shared: &Shared) {
    let mut ticks = interval(UPKEEP_EVERY);
    loop {
        ticks.tick().await;
        shared.cache.upkeep();
        shared.metrics.upkeep();
    }
}

/// Hears of the purges that were, where edges share answers.
async fn first_purges(shared: &Shared) {
    if let Some(server) = &shared.shares {
        store::first_word(server.clone(), shared.cache.clone()).await;
    }
}

/// Hears of purges, where edges share answers.
async fn purges(shared: &Shared) {
    match &shared.shares {
        Some(server) => store::subscribe(server.clone(), shared.cache.clone()).await,
        None => std::future::pending().await,
    }
}

/// The metrics with gauges that are only true when looked at.
fn render(guests: &Guests, shared: &Shared) -> String {
    let metrics = &shared.metrics;
    let (bytes, answers) = shared.cache.size();
    metrics.cache_bytes.set(bytes as f64);
    metrics.cache_answers.set(answers as f64);
    metrics.guest_instances.set(guests.live() as f64);
    metrics.filter_instances.set(guests.live_filters() as f64);
    if let Some(store) = &shared.shares {
        metrics.store_open.set(f64::from(u8::from(store.is_open())));
        metrics.store_errors.absolute(store.errors.load(Relaxed));
    }
    metrics.discovery_errors.absolute(shared.fleet.discovery_errors.load(Relaxed));
    let view = shared.fleet.view();
    let ready = view.nodes().iter().filter(|node| node.ready);
    metrics.nodes_ready.set(ready.clone().count() as f64);
    metrics.nodes_ejected.set(ready.clone().filter(|node| node.member.is_open()).count() as f64);
    let now = now_ms();
    metrics.nodes_resting.set(ready.filter(|node| node.member.rests(now).is_some()).count() as f64);
    metrics.render()
}

/// The allocator asks for huge pages, of which what short requests leave free is not given back: a thousand open streams
/// hold half as much again in them.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes numbers, and changes nothing but how pages are made from now on.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "memory may be in huge pages");
    }
}

/// Every connection takes a file descriptor; the soft limit is often 1024 where the hard one is a million.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a valid pointer to an rlimit that outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("the limit of open files cannot be raised; many connections may be refused");
    }
}
