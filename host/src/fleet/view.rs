//! What is known of the fleet at one moment.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use littoral_core::Model;
use littoral_proto::v1::{self, NodeInfo};
use serde::Serialize;

use super::{Known, Member};
use crate::{
    config::{self, Kind},
    plan::now_ms,
};

/// An immutable picture of the fleet. What changes with every request is in the members.
#[derive(Default)]
pub struct View {
    nodes: Vec<Node>,
    models: BTreeMap<String, Served>,
    aliases: BTreeMap<String, String>,
    /// A node has said what it serves.
    reached: bool,
    /// A node has not said what it serves, and nobody else has said it.
    unknown: bool,
}

/// A node, and what it is.
pub struct Node {
    pub member: Arc<Member>,
    /// Reachable and not draining.
    pub ready: bool,
    draining: bool,
    device: String,
    models: Vec<v1::Model>,
}

/// A node as `/healthz` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    pub name: String,
    /// Reachable and not draining.
    pub ready: bool,
    pub draining: bool,
    pub device: String,
    pub models: Vec<String>,
    /// Has another revision of a model than most, and gets no request for it.
    pub other_revision: bool,
    /// Requests that are there, running or queued.
    pub busy: u32,
    pub slots: u32,
    /// Left alone after failures.
    pub ejected: bool,
    /// Seconds for which it asked to be left alone yet.
    pub rests_s: u32,
    pub rtt_ms: f32,
    pub loss: f32,
}

/// A model and where it is served.
#[derive(Debug)]
pub struct Served {
    pub model: Model,
    /// `system_fingerprint` of its answers: changes with the model's revision.
    pub fingerprint: String,
    /// Ready nodes, by position in [`View::nodes`]; of ours those that have this revision.
    pub nodes: Vec<usize>,
}

impl View {
    pub(super) fn of(nodes: &[Known], aliases: &BTreeMap<String, String>) -> Self {
        let mut view = Self { aliases: aliases.clone(), ..Self::default() };
        let revisions = revisions(nodes);
        for (i, node) in nodes.iter().enumerate() {
            let info = node.info.clone().unwrap_or_else(|| expected(&node.member.node));
            view.reached |= node.info.is_some();
            // What it lists can be any model as long as nobody has asked it.
            view.unknown |= node.info.is_none() && info.models.is_empty();
            let ready = node.reachable && !info.draining;
            for model in &info.models {
                let known = view.models.entry(model.name.clone());
                let served = known.or_insert_with(|| Served {
                    model: Model {
                        name: model.name.clone(),
                        revision: model.revision.clone(),
                        context_length: model.context_length,
                        created: model.created,
                    },
                    fingerprint: fingerprint(&model.revision),
                    nodes: Vec::new(),
                });
                // Answers of other weights would be mixed up with those of the rest, in one stream and in the cache.
                let is_one_of_them = node.member.node.kind == Kind::OpenAi
                    || revisions.get(model.name.as_str()).is_none_or(|most| *most == model.revision);
                if ready && is_one_of_them {
                    // What the first ready node says of the model counts, not what one that left said.
                    if served.nodes.is_empty() && served.model.revision != model.revision {
                        served.model.revision = model.revision.clone();
                        served.model.context_length = model.context_length;
                        served.model.created = model.created;
                        served.fingerprint = fingerprint(&model.revision);
                    }
                    served.nodes.push(i);
                }
            }
            view.nodes.push(Node {
                member: node.member.clone(),
                ready,
                draining: info.draining,
                device: info.device,
                models: info.models,
            });
        }
        view
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes as they are now, for people to read.
    pub fn statuses(&self) -> Vec<NodeStatus> {
        let now = now_ms();
        let status = |(at, node): (usize, &Node)| {
            let (rtt_ms, loss) = node.member.network();
            NodeStatus {
                name: node.member.name().into(),
                ready: node.ready,
                draining: node.draining,
                device: node.device.clone(),
                models: node.models.iter().map(|model| model.name.clone()).collect(),
                other_revision: self.leaves_out(at),
                busy: node.member.busy(),
                slots: node.member.slots(),
                ejected: node.member.is_open(),
                rests_s: node.member.rests(now).unwrap_or(0),
                rtt_ms,
                loss,
            }
        };
        self.nodes.iter().enumerate().map(status).collect()
    }

    /// Every model that a node was seen, or is said, to serve, and every other name that stands for one.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Model)> {
        let named = self.models.iter().map(|(name, served)| (name.as_str(), &served.model));
        let others = self.aliases.iter().filter(|(alias, _)| !self.models.contains_key(*alias));
        named.chain(others.filter_map(|(alias, name)| Some((alias.as_str(), &self.models.get(name)?.model))))
    }

    /// The model of this name, or of the name that this one stands for.
    pub fn served(&self, model: &str) -> Option<&Served> {
        self.models.get(model).or_else(|| self.models.get(self.aliases.get(model)?))
    }

    /// The revision of the model that this node serves under this name. None where it is not known: of a server of
    /// OpenAI's API, whose operator says that it has the same.
    pub fn revision(&self, node: &str, model: &str) -> Option<&str> {
        let node = self.nodes.iter().find(|known| known.member.name() == node)?;
        let known = node.models.iter().find(|known| known.name == model)?;
        (node.member.node.kind == Kind::Littoral).then_some(known.revision.as_str())
    }

    /// Whether the node is ready and gets no request for one of its models, of which most have another revision.
    pub fn is_left_out(&self, node: &str) -> bool {
        self.nodes.iter().position(|known| known.member.name() == node).is_some_and(|at| self.leaves_out(at))
    }

    fn leaves_out(&self, at: usize) -> bool {
        let serves = |model: &v1::Model| self.models.get(&model.name).is_some_and(|served| served.nodes.contains(&at));
        self.nodes[at].ready && !self.nodes[at].models.iter().all(serves)
    }

    /// Whether a node is there for a request.
    pub fn is_ready(&self) -> bool {
        self.models.values().any(|served| !served.nodes.is_empty())
    }

    /// Whether any node has ever said what it serves.
    pub fn was_ever_reached(&self) -> bool {
        self.reached
    }

    /// Whether a model that is not known may yet be some node's.
    pub fn is_incomplete(&self) -> bool {
        !self.reached || self.unknown
    }
}

/// Of each model the revision that most of our ready nodes have; of the first of them where as many have another.
fn revisions(nodes: &[Known]) -> HashMap<&str, &str> {
    let mut votes: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    let ours = nodes.iter().filter(|node| node.reachable && node.member.node.kind == Kind::Littoral);
    for model in ours.filter_map(|node| node.info.as_ref()).filter(|info| !info.draining).flat_map(|info| &info.models)
    {
        let votes = votes.entry(&model.name).or_default();
        match votes.iter_mut().find(|(revision, _)| *revision == model.revision) {
            Some((_, count)) => *count += 1,
            None => votes.push((&model.revision, 1)),
        }
    }
    // Of equals the last is the greatest.
    let most = votes.into_iter().filter_map(|(name, votes)| {
        let (revision, _) = votes.into_iter().rev().max_by_key(|(_, count)| *count)?;
        Some((name, revision))
    });
    most.collect()
}

/// What a node that has not been heard of is said to serve.
fn expected(node: &config::Node) -> NodeInfo {
    NodeInfo { models: node.model_names().map(|name| named(node, name)).collect(), ..NodeInfo::default() }
}

/// A model of which only the name is known. What is behind it cannot be told; whoever changes it purges the cache. Of
/// several servers each is taken to have the same, or a failover would find an empty cache.
pub(super) fn named(node: &config::Node, name: &str) -> v1::Model {
    v1::Model { revision: node.upstream_name(name).into(), name: name.into(), ..v1::Model::default() }
}

fn fingerprint(revision: &str) -> String {
    let short: String = revision.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("fp_{short}")
}
