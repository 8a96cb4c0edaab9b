//! The pool of nodes: which are there, what they serve, and how a worker reaches them.
//!
//! One task per node asks it to describe itself; what they learn is published as a [`View`], which is read without
//! a lock. Guests ask the view and never copy it.

mod clients;
mod view;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use littoral_core::{Candidate, Model, rendezvous};
use littoral_proto::v1::NodeInfo;

use crate::config;
pub use clients::Clients;
pub use view::{NodeStatus, View};

/// The configured nodes and what is known of them.
pub struct Fleet {
    nodes: Vec<config::Node>,
    /// Written by the watchers only.
    reports: Mutex<Vec<Report>>,
    view: ArcSwap<View>,
}

/// What one node last said.
#[derive(Debug, Clone, Default)]
struct Report {
    /// None until it answered once.
    info: Option<NodeInfo>,
    reachable: bool,
}

impl Fleet {
    pub fn new(nodes: Vec<config::Node>) -> Self {
        let reports = vec![Report::default(); nodes.len()];
        let view = ArcSwap::from_pointee(View::of(&nodes, &reports));
        Self { nodes, reports: Mutex::new(reports), view }
    }

    /// What is known now.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// The model of this name, if a node has ever been seen to serve it.
    pub fn model(&self, name: &str) -> Option<Model> {
        self.view().served(name).map(|served| served.model.clone())
    }

    /// At most `k` ready nodes that serve `model`; one session keeps its order of nodes while they are there.
    pub fn candidates(&self, model: &str, session: &str, k: usize) -> Vec<Candidate> {
        let view = self.view();
        let Some(served) = view.served(model) else { return Vec::new() };
        let names = served.nodes.iter().map(|&n| view.nodes()[n].name.as_str());
        rendezvous::order(session, names, k)
            .into_iter()
            .enumerate()
            .map(|(i, node)| Candidate {
                node: node.into(),
                reason: if i == 0 { "session".into() } else { "fallback".into() },
            })
            .collect()
    }

    /// Takes in what node `index` said, or that it said nothing, and publishes a view if that changes anything.
    fn report(&self, index: usize, heard: Option<NodeInfo>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let report = &mut reports[index];
        let was = report.clone();
        report.reachable = heard.is_some();
        report.info = heard.or_else(|| report.info.take());
        if was.reachable != report.reachable {
            let node = self.nodes[index].name();
            if report.reachable {
                tracing::info!(node, "node is reachable");
            } else {
                tracing::warn!(node, "node is unreachable; no request goes there");
            }
        }
        if was.reachable != report.reachable || was.info != report.info {
            self.view.store(Arc::new(View::of(&self.nodes, &reports)));
        }
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1;

    use super::*;

    fn fleet(names: &[&str]) -> Fleet {
        let node = |name: &&str| config::Node { name: Some(name.to_string()), address: "localhost:1".into() };
        Fleet::new(names.iter().map(node).collect())
    }

    fn serving(model: &str) -> NodeInfo {
        let model = v1::Model { name: model.into(), revision: "r1".into(), context_length: 8, created: 1 };
        NodeInfo { models: vec![model], ..NodeInfo::default() }
    }

    fn names(fleet: &Fleet, session: &str) -> Vec<String> {
        fleet.candidates("m", session, 3).into_iter().map(|c| c.node).collect()
    }

    #[test]
    fn a_fleet_nobody_answered_from_knows_nothing_and_says_so() {
        let fleet = fleet(&["a"]);
        assert!(!fleet.view().was_ever_reached());
        assert!(fleet.model("m").is_none() && names(&fleet, "s").is_empty());
    }

    #[test]
    fn unreachable_and_draining_nodes_leave_and_come_back() {
        let fleet = fleet(&["a", "b"]);
        fleet.report(0, Some(serving("m")));
        fleet.report(1, Some(serving("m")));
        assert_eq!(names(&fleet, "s").len(), 2);
        fleet.report(0, None);
        assert_eq!(names(&fleet, "s"), ["b"]);
        fleet.report(1, Some(NodeInfo { draining: true, ..serving("m") }));
        assert!(names(&fleet, "s").is_empty());
        // The model stays known, so that a request for it is told to come back rather than that there is no such model.
        assert!(fleet.model("m").is_some());
        fleet.report(0, Some(serving("m")));
        assert_eq!(names(&fleet, "s"), ["a"]);
    }

    #[test]
    fn a_session_keeps_its_node_when_another_leaves() {
        let fleet = fleet(&["a", "b", "c"]);
        (0..3).for_each(|i| fleet.report(i, Some(serving("m"))));
        let sessions: Vec<String> = (0..100).map(|i| format!("session {i}")).collect();
        let before: Vec<_> = sessions.iter().map(|s| names(&fleet, s)[0].clone()).collect();
        for node in ["a", "b", "c"] {
            let share = before.iter().filter(|n| *n == node).count();
            assert!((15..=55).contains(&share), "{node} has {share} of 100 sessions");
        }
        fleet.report(2, None);
        for (session, was) in sessions.iter().zip(before) {
            let now = &names(&fleet, session)[0];
            assert!(*now == was || was == "c", "{session} moved from {was} to {now}");
        }
    }
}
