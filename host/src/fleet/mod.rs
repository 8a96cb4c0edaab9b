//! The pool of nodes: which are there, what they serve, and how a worker reaches them.
//!
//! One task per node asks it to describe itself; what they learn is published as a [`View`], which is read without
//! a lock. Guests ask the view and never copy it. The order of the nodes is `littoral_core::fleet`'s to decide.

mod clients;
mod discover;
mod member;
mod path;
mod view;
mod watch;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use littoral_core::{
    Candidate, Model,
    fleet::{Load, Policy, Reason, budget::Budget, choose, outlier::outliers, shed::shed},
};
use littoral_proto::v1::NodeInfo;
use tokio::sync::Notify;

use crate::{config, plan::now_ms};
pub use clients::{Clients, connect};
pub use discover::discover;
pub use member::{Lease, Member};
pub use path::{Connector, Path, Unbound};
pub use view::{NodeStatus, View};

/// The nodes and what is known of them.
pub struct Fleet {
    config: config::Fleet,
    /// Written by the watchers and by who discovers nodes only.
    nodes: Mutex<Vec<Known>>,
    view: ArcSwap<View>,
    budget: Mutex<Budget>,
    turns: AtomicU64,
    /// What an answer took lately, milliseconds, f32 bits; 0 = none yet.
    answer_ms: AtomicU32,
    /// How often the view has changed.
    epoch: AtomicU64,
    /// Times that the file of nodes or DNS gave no answer.
    pub discovery_errors: AtomicU64,
    /// Told when the view has changed.
    changed: Notify,
    /// Told when nodes have come or gone.
    members: Notify,
}

/// A node, and what it last said.
#[derive(Clone)]
struct Known {
    member: Arc<Member>,
    /// None until it answered once; without what changes with every request.
    info: Option<NodeInfo>,
    reachable: bool,
}

impl Known {
    fn new(member: Arc<Member>) -> Self {
        Self { member, info: None, reachable: false }
    }
}

impl Fleet {
    pub fn new(nodes: Vec<config::Node>, config: config::Fleet) -> Self {
        let known = nodes.into_iter().map(|node| Known::new(Member::new(node, config.rules()))).collect::<Vec<_>>();
        Self {
            view: ArcSwap::from_pointee(View::of(&known, &config.aliases)),
            nodes: Mutex::new(known),
            budget: Mutex::new(Budget::new(config.retry_ratio, config.retry_reserve)),
            turns: AtomicU64::new(0),
            answer_ms: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            discovery_errors: AtomicU64::new(0),
            changed: Notify::new(),
            members: Notify::new(),
            config,
        }
    }

    pub fn config(&self) -> &config::Fleet {
        &self.config
    }

    /// What is known now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// How often nodes or models have come, gone or changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// The model of this name, if a node has ever been seen to serve it.
    pub fn model(&self, name: &str) -> Option<Model> {
        self.view().served(name).map(|served| served.model.clone())
    }

    /// Whether this node has the weights, as far as is known, with which an answer was begun that has this revision.
    pub fn has_revision(&self, node: &str, model: &str, begun: Option<&str>) -> bool {
        let view = self.view();
        begun.zip(view.revision(node, model)).is_none_or(|(begun, has)| begun == has)
    }

    /// The node of this name.
    pub fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.view().nodes().iter().find(|node| node.member.name() == name).map(|node| node.member.clone())
    }

    /// At most `k` ready nodes that serve `model`; one session keeps its order of nodes while they are there.
    pub fn candidates(&self, model: &str, session: &str, k: usize) -> Vec<Candidate> {
        self.candidates_but(&[], model, session, k)
    }

    /// The same without the nodes of these names, which have been asked.
    pub fn candidates_but(&self, asked: &[String], model: &str, session: &str, k: usize) -> Vec<Candidate> {
        let view = self.view();
        let Some(served) = view.served(model) else { return Vec::new() };
        let now = now_ms();
        let member = |n: usize| &view.nodes()[n].member;
        let new = |n: &usize| asked.is_empty() || !asked.iter().any(|name| name == member(*n).name());
        let mut nodes: Vec<usize> =
            served.nodes.iter().copied().filter(|&n| member(n).admits(now)).filter(new).collect();
        if nodes.is_empty() {
            // Every node's breaker is open: a node that fails often is better than none.
            nodes = served.nodes.iter().copied().filter(new).collect();
        }
        let loads: Vec<Load> = nodes.iter().map(|&n| member(n).load(now)).collect();
        let draw = match self.config.policy {
            Policy::RoundRobin => self.turns.fetch_add(1, Relaxed),
            _ => rand::random(),
        };
        let name = |i: usize| member(nodes[i]).name();
        choose(self.config.balance(), session, &loads, draw, k)
            .into_iter()
            .map(|choice| {
                let reason = match choice.reason {
                    Reason::Overflow { home } => format!("{} home={}", choice.reason.name(), name(home)),
                    reason => reason.name().into(),
                };
                Candidate { node: name(choice.node).into(), reason }
            })
            .collect()
    }

    /// Seconds after which to come back, when no node that serves `model` could begin a request in time.
    pub fn shed(&self, model: &str) -> Option<u32> {
        let view = self.view();
        let served = view.served(model)?;
        let now = now_ms();
        let loads: Vec<Load> = served.nodes.iter().map(|&n| view.nodes()[n].member.load(now)).collect();
        let mean = f32::from_bits(self.answer_ms.load(Relaxed));
        shed(&loads, self.config.max_queue, mean).map(|shed| shed.retry_after)
    }

    /// An answer took so long.
    pub fn answered_in(&self, took: Duration) {
        let (sample, was) = (took.as_secs_f32() * 1000.0, f32::from_bits(self.answer_ms.load(Relaxed)));
        let now = if was == 0.0 { sample } else { was + 0.05 * (sample - was) };
        self.answer_ms.store(now.to_bits(), Relaxed);
    }

    /// A request came, which pays for a part of a retry.
    pub fn deposit(&self) {
        lock(&self.budget).deposit(now_ms());
    }

    /// Whether one more try may be made.
    pub fn may_retry(&self) -> bool {
        lock(&self.budget).withdraw(now_ms())
    }

    /// Waits until a node that serves `model` is ready.
    pub async fn ready(&self, model: &str) {
        loop {
            let changed = self.changed.notified();
            if self.view().served(model).is_some_and(|served| !served.nodes.is_empty()) {
                return;
            }
            changed.await;
        }
    }

    /// The nodes are these from now on. Those that stay keep what is known of them.
    pub fn set_nodes(&self, configured: Vec<config::Node>) {
        let mut nodes = lock(&self.nodes);
        let mut old = std::mem::take(&mut *nodes);
        for node in configured {
            match old.iter().position(|known| known.member.node == node) {
                Some(at) => nodes.push(old.swap_remove(at)),
                None => {
                    tracing::info!(node = node.name(), address = node.address, "a node joins");
                    nodes.push(Known::new(Member::new(node, self.config.rules())));
                }
            }
        }
        for gone in old {
            tracing::info!(node = gone.member.name(), "a node leaves");
            gone.member.leave();
        }
        self.publish(&nodes);
        self.members.notify_waiters();
    }

    /// Takes in what a node said, or that it said nothing, and publishes a view if that changes anything.
    fn report(&self, member: &Arc<Member>, heard: Option<NodeInfo>) {
        if let Some(info) = &heard {
            member.reported(info);
        }
        let heard = heard.map(|info| NodeInfo { running: 0, queued: 0, slots: 0, free_blocks: 0, ..info });
        let mut nodes = lock(&self.nodes);
        let Some(known) = nodes.iter_mut().find(|known| Arc::ptr_eq(&known.member, member)) else { return };
        let was = known.clone();
        known.reachable = heard.is_some();
        known.info = heard.or_else(|| known.info.take());
        let (turned, reachable) = (was.reachable != known.reachable, known.reachable);
        let has_others = was.info.as_ref().map(|info| &info.models) != known.info.as_ref().map(|info| &info.models);
        if turned || was.info != known.info {
            self.publish(&nodes);
        }
        // Said when it is so: who reads it may ask.
        let node = member.name();
        match (turned, reachable) {
            (true, true) => tracing::info!(node, "node is reachable"),
            (true, false) => tracing::warn!(node, "node is unreachable; no request goes there"),
            (false, _) => {}
        }
        if (turned || has_others) && self.view().is_left_out(node) {
            tracing::warn!(node, "node has another revision of a model than most; no request for that goes there");
        }
    }

    /// Takes out the nodes that lately failed far more than the others.
    pub fn eject_outliers(&self) {
        let view = self.view.load_full();
        let members: Vec<_> = view.nodes().iter().filter(|node| node.ready).map(|node| &node.member).collect();
        let windows: Vec<_> = members.iter().map(|member| member.window()).collect();
        for at in outliers(&windows) {
            let (node, window) = (members[at].name(), windows[at]);
            tracing::warn!(node, failed = window.failed, succeeded = window.succeeded, "node is ejected as an outlier");
            members[at].eject(now_ms());
        }
    }

    fn publish(&self, nodes: &[Known]) {
        self.view.store(Arc::new(View::of(nodes, &self.config.aliases)));
        self.epoch.fetch_add(1, Relaxed);
        self.changed.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1;

    use super::*;

    fn fleet(names: &[&str]) -> Fleet {
        let node = |name: &&str| config::Node::at("localhost:1").named(*name);
        // A breaker stays open for longer than a test takes where the machine stalls.
        let config = config::Fleet { breaker_ms: 30_000, ..config::Fleet::default() };
        Fleet::new(names.iter().map(node).collect(), config)
    }

    fn report(fleet: &Fleet, index: usize, heard: Option<NodeInfo>) {
        let member = fleet.view().nodes()[index].member.clone();
        fleet.report(&member, heard);
    }

    fn serving(model: &str) -> NodeInfo {
        let model = v1::Model {
            name: model.into(),
            revision: "r1".into(),
            context_length: 8,
            created: 1,
            embedding_dimensions: 0,
        };
        NodeInfo { models: vec![model], ..NodeInfo::default() }
    }

    fn names(fleet: &Fleet, session: &str) -> Vec<String> {
        fleet.candidates("m", session, 3).into_iter().map(|c| c.node).collect()
    }

    #[test]
    fn a_fleet_nobody_answered_from_knows_nothing_and_says_so() {
        let fleet = fleet(&["a"]);
        assert!(!fleet.view().was_ever_reached() && fleet.view().is_incomplete());
        assert!(fleet.model("m").is_none() && names(&fleet, "s").is_empty());
    }

    #[test]
    fn a_model_that_a_node_is_said_to_serve_is_known_before_the_node_is() {
        let node = |name: &str, models: &[&str]| config::Node {
            models: models.iter().map(ToString::to_string).collect(),
            ..config::Node::at("localhost:1").named(name)
        };
        let nodes = vec![node("a", &["m", "far=org/Far"]), node("b", &["n"])];
        let fleet = Fleet::new(nodes, config::Fleet::default());
        assert!(fleet.model("m").is_some() && names(&fleet, "s").is_empty() && !fleet.view().is_ready());
        report(&fleet, 1, Some(serving("n")));
        assert!(fleet.view().was_ever_reached() && !fleet.view().is_incomplete());
        assert_eq!(fleet.model("far").unwrap().revision, "org/Far");
        assert!(fleet.model("other").is_none());
        report(&fleet, 0, Some(serving("m")));
        assert_eq!((names(&fleet, "s"), fleet.model("m").unwrap().revision.as_str()), (vec!["a".into()], "r1"));
        fleet.set_nodes(vec![node("b", &["n"]), node("c", &[])]);
        assert!(fleet.view().is_incomplete(), "nobody knows what c serves");
    }

    #[test]
    fn unreachable_and_draining_nodes_leave_and_come_back() {
        let fleet = fleet(&["a", "b"]);
        report(&fleet, 0, Some(serving("m")));
        report(&fleet, 1, Some(serving("m")));
        assert_eq!(names(&fleet, "s").len(), 2);
        report(&fleet, 0, None);
        assert_eq!(names(&fleet, "s"), ["b"]);
        report(&fleet, 1, Some(NodeInfo { draining: true, ..serving("m") }));
        assert!(names(&fleet, "s").is_empty());
        // The model stays known, so that a request for it is told to come back rather than that there is no such model.
        assert!(fleet.model("m").is_some());
        report(&fleet, 0, Some(serving("m")));
        assert_eq!(names(&fleet, "s"), ["a"]);
    }

    #[test]
    fn nodes_of_another_revision_are_left_out_until_they_are_most() {
        let fleet = fleet(&["a", "b", "c"]);
        let serves = |index, revision: &str| {
            let mut info = serving("m");
            info.models[0].revision = revision.into();
            report(&fleet, index, Some(info));
        };
        let now = || {
            let mut names = names(&fleet, "s");
            names.sort();
            let left_out: Vec<_> = ["a", "b", "c"].into_iter().filter(|n| fleet.view().is_left_out(n)).collect();
            (names.concat(), fleet.model("m").unwrap().revision, left_out.concat())
        };
        let is = |names: &str, revision: &str, left_out: &str| (names.into(), revision.into(), left_out.into());
        [(0, "r2"), (1, "r1"), (2, "r1")].iter().for_each(|(index, revision)| serves(*index, revision));
        assert_eq!(now(), is("bc", "r1", "a"));
        assert!(!fleet.has_revision("a", "m", Some("r1")) && fleet.has_revision("a", "m", None));
        serves(1, "r2");
        assert_eq!(now(), is("ab", "r2", "c"));
        // As many of either: those of the first.
        report(&fleet, 1, None);
        assert_eq!(now(), is("a", "r2", "c"));
        report(&fleet, 0, None);
        assert_eq!(now(), is("c", "r1", ""));
    }

    #[test]
    fn a_session_keeps_its_node_when_another_leaves() {
        let fleet = fleet(&["a", "b", "c"]);
        (0..3).for_each(|i| report(&fleet, i, Some(serving("m"))));
        let sessions: Vec<String> = (0..100).map(|i| format!("session {i}")).collect();
        let before: Vec<_> = sessions.iter().map(|s| names(&fleet, s)[0].clone()).collect();
        for node in ["a", "b", "c"] {
            let share = before.iter().filter(|n| *n == node).count();
            assert!((15..=55).contains(&share), "{node} has {share} of 100 sessions");
        }
        report(&fleet, 2, None);
        for (session, was) in sessions.iter().zip(before) {
            let now = &names(&fleet, session)[0];
            assert!(*now == was || was == "c", "{session} moved from {was} to {now}");
        }
    }

    #[test]
    fn a_full_home_sends_its_sessions_on_and_the_reason_says_whose_they_are() {
        let fleet = fleet(&["a", "b"]);
        let full = |running| NodeInfo { running, slots: 4, ..serving("m") };
        report(&fleet, 0, Some(full(0)));
        report(&fleet, 1, Some(full(0)));
        let home = names(&fleet, "s")[0].clone();
        let at = usize::from(home == "b");
        report(&fleet, at, Some(full(40)));
        let first = &fleet.candidates("m", "s", 3)[0];
        assert_ne!(first.node, home);
        assert_eq!(first.reason, format!("overflow home={home}"));
        assert_eq!(fleet.shed("m"), None);
        report(&fleet, at, Some(full(4 + 1024)));
        report(&fleet, 1 - at, Some(full(4 + 1024)));
        assert_eq!(fleet.shed("m"), Some(1));
    }

    #[test]
    fn a_node_that_fails_is_left_alone_unless_it_is_the_last() {
        let fleet = fleet(&["a", "b"]);
        (0..2).for_each(|i| report(&fleet, i, Some(serving("m"))));
        let fail = |name: &str| {
            let member = fleet.member(name).unwrap();
            (0..5).for_each(|_| {
                member.lease().failed(now_ms());
            });
        };
        fail("a");
        assert_eq!(names(&fleet, "s"), ["b"]);
        assert_eq!(fleet.candidates_but(&["b".into()], "m", "s", 3)[0].node, "a");
        fail("b");
        assert_eq!(names(&fleet, "s").len(), 2);
        assert!(fleet.member("a").unwrap().enter(now_ms()).is_none());
    }

    #[test]
    fn a_node_that_asked_to_be_left_alone_is_and_the_soonest_is_known() {
        let fleet = fleet(&["a", "b"]);
        (0..2).for_each(|i| report(&fleet, i, Some(serving("m"))));
        let (a, b) = (fleet.member("a").unwrap(), fleet.member("b").unwrap());
        let now = now_ms();
        a.rest(now, 30);
        a.rest(now, 5);
        assert_eq!((a.rests(now), a.rests(now + 29_001), a.rests(now + 30_000)), (Some(30), Some(1), None));
        assert!(a.enter(now).is_none() && a.enter(now + 30_000).is_some());
        assert_eq!((names(&fleet, "s"), fleet.shed("m")), (vec!["b".to_string()], None));
        b.rest(now, 20);
        assert!(fleet.shed("m").is_some_and(|seconds| (10..=20).contains(&seconds)));
    }

    #[test]
    fn nodes_come_and_go_and_those_that_stay_are_known() {
        let fleet = fleet(&["a", "b"]);
        (0..2).for_each(|i| report(&fleet, i, Some(serving("m"))));
        let node = |name: &str, address: &str| config::Node::at(address).named(name);
        let (a, b) = (fleet.member("a").unwrap(), fleet.member("b").unwrap());
        fleet.set_nodes(vec![node("b", "localhost:2"), node("a", "localhost:1"), node("c", "localhost:3")]);
        assert!(Arc::ptr_eq(&a, &fleet.member("a").unwrap()) && a.is_present());
        assert!(!Arc::ptr_eq(&b, &fleet.member("b").unwrap()) && !b.is_present(), "another address, another node");
        assert_eq!(names(&fleet, "s"), ["a"], "the others have said nothing yet");
        fleet.report(&b, Some(serving("m")));
        assert_eq!(names(&fleet, "s"), ["a"], "one that left is not listened to");
    }
}
