//! What is known of the fleet at one moment.

use std::collections::BTreeMap;

use littoral_core::Model;
use serde::Serialize;

use super::Report;
use crate::config;

/// An immutable picture of the fleet.
#[derive(Debug, Default)]
pub struct View {
    nodes: Vec<NodeStatus>,
    models: BTreeMap<String, Served>,
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
    pub running: u32,
    pub queued: u32,
}

/// A model and where it is served.
#[derive(Debug)]
pub struct Served {
    pub model: Model,
    /// `system_fingerprint` of its answers: changes with the model's revision.
    pub fingerprint: String,
    /// Ready nodes, by position in [`View::nodes`].
    pub nodes: Vec<usize>,
}

impl View {
    pub(super) fn of(nodes: &[config::Node], reports: &[Report]) -> Self {
        let mut view = Self::default();
        for (i, (node, report)) in nodes.iter().zip(reports).enumerate() {
            let info = report.info.clone().unwrap_or_default();
            let ready = report.reachable && !info.draining;
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
                if ready {
                    // What the first ready node says of the model counts, not what one that left said.
                    if served.nodes.is_empty() && served.model.revision != model.revision {
                        served.model.revision = model.revision.clone();
                        served.model.context_length = model.context_length;
                        served.fingerprint = fingerprint(&model.revision);
                    }
                    served.nodes.push(i);
                }
            }
            view.nodes.push(NodeStatus {
                name: node.name().into(),
                ready,
                draining: info.draining,
                device: info.device,
                models: info.models.into_iter().map(|m| m.name).collect(),
                running: info.running,
                queued: info.queued,
            });
        }
        view
    }

    pub fn nodes(&self) -> &[NodeStatus] {
        &self.nodes
    }

    /// Every model that a node was seen to serve, by name.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.values().map(|served| &served.model)
    }

    pub fn served(&self, model: &str) -> Option<&Served> {
        self.models.get(model)
    }

    /// Whether a request could be answered now.
    pub fn is_ready(&self) -> bool {
        self.models.values().any(|served| !served.nodes.is_empty())
    }

    /// Whether any node has ever said what it serves.
    pub fn was_ever_reached(&self) -> bool {
        !self.models.is_empty()
    }
}

fn fingerprint(revision: &str) -> String {
    let short: String = revision.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("fp_{short}")
}
