//! The order of the nodes for one request.
//!
//! A session goes home: to the node that rendezvous hashing prefers, so that turn N+1 finds the KV that turn N left.
//! Home has a bound (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2016); over it the
//! request goes where it costs least. Without a session, two nodes are drawn and the cheaper one taken (Mitzenmacher,
//! "The power of two choices in randomized load balancing", 2001).

use serde::{Deserialize, Serialize};

use crate::rendezvous;

/// What a whole queue slot of an idle node is worth in milliseconds, so that load and network can be added: a node as
/// busy as it has slots costs this much more than one that is idle.
const WORK_MS: f32 = 100.0;
/// More slots than this say nothing about a node.
const MAX_SLOTS: u32 = 1024;
/// Free share of the KV below which a node's weight falls.
const LOW_HEADROOM: f32 = 0.25;
/// No node's weight falls below this share of what its slots say.
const MIN_FACTOR: f32 = 0.05;
/// How far a measured speed moves a weight from the fleet's mean.
const SPEED: std::ops::RangeInclusive<f32> = 0.25..=4.0;

/// What is known of one node when a request must be placed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// [`rendezvous::hash`] of the node's name.
    pub hash: u64,
    /// Requests it computes or holds in its queue.
    pub busy: u32,
    /// Requests it computes at once; 0 when unknown.
    pub slots: u32,
    /// Free share of its KV, 0..=1; 1 when unknown.
    pub headroom: f32,
    /// Measured tokens a second; 0 when unknown.
    pub speed: f32,
    /// [`super::network::Network::cost_ms`].
    pub network_ms: f32,
    /// Share of its traffic it may get, 0..=1: less than 1 while it comes back from a failure.
    pub share: f32,
    /// Seconds for which it asked to be left alone yet; 0: it did not.
    pub rest_s: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { hash: 0, busy: 0, slots: 0, headroom: 1.0, speed: 0.0, network_ms: 0.0, share: 1.0, rest_s: 0 }
    }
}

impl Load {
    fn slots(&self) -> f32 {
        self.slots.clamp(1, MAX_SLOTS) as f32
    }

    /// How much of the fleet's work this node can take.
    fn weight(&self, mean_speed: f32) -> f32 {
        let speed = if self.speed > 0.0 && mean_speed > 0.0 {
            (self.speed / mean_speed).clamp(*SPEED.start(), *SPEED.end())
        } else {
            1.0
        };
        let headroom = (self.headroom / LOW_HEADROOM).clamp(MIN_FACTOR, 1.0);
        self.slots() * speed * headroom * self.share.clamp(MIN_FACTOR, 1.0)
    }

    /// Weighted least connections plus the way there, milliseconds.
    fn cost(&self, mean_speed: f32) -> f32 {
        self.network_ms + WORK_MS * (self.busy as f32 + 1.0) / self.weight(mean_speed)
    }
}

/// How nodes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Sessions go home within a bound; what has no session is placed by two choices.
    #[default]
    Session,
    /// Weighted least connections.
    LeastConnections,
    /// The cheaper of two drawn nodes.
    PowerOfTwo,
    RoundRobin,
    Random,
}

/// The parameters of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    pub policy: Policy,
    /// How much over its fair share of the fleet's load a home may be, at least 1.
    pub load_factor: f32,
}

impl Default for Balance {
    fn default() -> Self {
        Self { policy: Policy::default(), load_factor: 1.25 }
    }
}

/// Why a node was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The session's home.
    Session,
    /// The session's home, by position, is over its bound; this one costs least.
    Overflow {
        home: usize,
    },
    LeastConnections,
    TwoChoices,
    RoundRobin,
    Random,
    /// Takes over when those before it fail.
    Fallback,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Overflow { .. } => "overflow",
            Self::LeastConnections => "least-connections",
            Self::TwoChoices => "two-choices",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Fallback => "fallback",
        }
    }
}

/// One node of the order, by position in the list it was chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub node: usize,
    pub reason: Reason,
}

/// The at most `k` nodes for a request, first choice first. `session` is empty for a request without one; `draw` is a
/// random number, or for [`Policy::RoundRobin`] one that counts up.
pub fn choose(balance: Balance, session: &str, nodes: &[Load], draw: u64, k: usize) -> Vec<Choice> {
    if nodes.is_empty() || k == 0 {
        return Vec::new();
    }
    let fleet = Totals::of(nodes);
    let session = match (balance.policy, session) {
        (Policy::Session, "") => None,
        (Policy::Session, session) => Some(rendezvous::hash(session)),
        _ => None,
    };
    // What takes over keeps a session's own order; without one the draw makes an order as good as any.
    let order = top(nodes, k, session.unwrap_or_else(|| rendezvous::mix(draw)));
    let first = match balance.policy {
        Policy::Session if session.is_some() => {
            let home = order[0];
            if fleet.is_over_bound(&nodes[home], balance.load_factor) {
                let least = least(nodes, fleet.speed);
                if least == home {
                    Choice { node: home, reason: Reason::Session }
                } else {
                    Choice { node: least, reason: Reason::Overflow { home } }
                }
            } else {
                Choice { node: home, reason: Reason::Session }
            }
        }
        Policy::Session | Policy::PowerOfTwo => two_choices(nodes, fleet.speed, draw),
        Policy::LeastConnections => Choice { node: least(nodes, fleet.speed), reason: Reason::LeastConnections },
        Policy::RoundRobin => Choice { node: (draw % nodes.len() as u64) as usize, reason: Reason::RoundRobin },
        Policy::Random => Choice { node: order[0], reason: Reason::Random },
    };
    let rest = order.into_iter().filter(|&node| node != first.node);
    let rest = rest.map(|node| Choice { node, reason: Reason::Fallback });
    std::iter::once(first).chain(rest).take(k).collect()
}

/// Sums over the fleet.
struct Totals {
    busy: f32,
    capacity: f32,
    /// Mean of the speeds that are known; 0 when none is.
    speed: f32,
}

impl Totals {
    fn of(nodes: &[Load]) -> Self {
        let (mut busy, mut capacity, mut speed, mut known) = (0.0, 0.0, 0.0, 0.0);
        for node in nodes {
            busy += node.busy as f32;
            capacity += node.slots() * node.share;
            if node.speed > 0.0 {
                speed += node.speed;
                known += 1.0;
            }
        }
        Self { busy, capacity, speed: if known > 0.0 { speed / known } else { 0.0 } }
    }

    /// Whether a home has its share of the load and more. A node with a free slot never has, unless it is coming back
    /// from a failure.
    fn is_over_bound(&self, home: &Load, factor: f32) -> bool {
        let fair = (self.busy + 1.0) * home.slots() * home.share / self.capacity.max(1.0);
        let free = if home.slots == 0 { 0.0 } else { home.slots as f32 * home.share };
        home.busy as f32 >= (factor.max(1.0) * fair).ceil().max(free)
    }
}

/// The `k` nodes that a session's hash prefers, first choice first.
fn top(nodes: &[Load], k: usize, session: u64) -> Vec<usize> {
    let mut best: Vec<(u64, usize)> = Vec::with_capacity(k + 1);
    for (i, node) in nodes.iter().enumerate() {
        let score = rendezvous::combine(session, node.hash);
        if best.len() == k && best[k - 1].0 >= score {
            continue;
        }
        let at = best.partition_point(|(other, _)| *other >= score);
        best.insert(at, (score, i));
        best.truncate(k);
    }
    best.into_iter().map(|(_, i)| i).collect()
}

fn least(nodes: &[Load], speed: f32) -> usize {
    let mut best = (f32::INFINITY, 0);
    for (i, node) in nodes.iter().enumerate() {
        let cost = node.cost(speed);
        if cost < best.0 {
            best = (cost, i);
        }
    }
    best.1
}

fn two_choices(nodes: &[Load], speed: f32, draw: u64) -> Choice {
    let count = nodes.len() as u64;
    let a = ((draw >> 32) % count) as usize;
    // The second is another one, where there is another.
    let b = if count == 1 { a } else { (a + 1 + ((draw & 0xffff_ffff) % (count - 1)) as usize) % nodes.len() };
    let node = if nodes[b].cost(speed) < nodes[a].cost(speed) { b } else { a };
    Choice { node, reason: Reason::TwoChoices }
}
