//! One node of the pool as this edge knows it: its name and address, and what changes while requests go there.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use littoral_core::{
    fleet::{
        Load,
        network::Network,
        outlier::Window,
        standing::{Published, Rules, Standing},
    },
    rendezvous,
};
use littoral_proto::v1::NodeInfo;
use tokio::sync::Semaphore;

use crate::config;

/// How much a new sample of a node's speed counts.
const SPEED_WEIGHT: f32 = 0.2;

/// A node that may be asked.
pub struct Member {
    pub node: config::Node,
    hash: u64,
    /// Requests of this edge that are there.
    inflight: AtomicU32,
    /// What the node last said of its load, less what was this edge's own.
    others: AtomicU32,
    slots: AtomicU32,
    free_blocks: AtomicU64,
    most_free_blocks: AtomicU64,
    /// f32 bits.
    speed: AtomicU32,
    network_ms: AtomicU32,
    network: Mutex<Network>,
    standing: Mutex<Standing>,
    /// [`Published`], field by field: a look-up over many nodes takes no lock.
    closed_from: AtomicU64,
    back: AtomicU64,
    ramp_ms: u64,
    /// Until when it asked to be left alone, Unix milliseconds.
    rests_until: AtomicU64,
    succeeded: AtomicU32,
    failed: AtomicU32,
    /// Places for streams of an HTTP node.
    streams: Arc<Semaphore>,
    /// Not removed from the configuration since.
    present: AtomicBool,
}

impl Member {
    pub fn new(node: config::Node, rules: Rules) -> Arc<Self> {
        Arc::new(Self {
            hash: rendezvous::hash(node.name()),
            streams: Arc::new(Semaphore::new(node.max_streams() as usize)),
            node,
            inflight: AtomicU32::new(0),
            others: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            free_blocks: AtomicU64::new(0),
            most_free_blocks: AtomicU64::new(0),
            speed: AtomicU32::new(0),
            network_ms: AtomicU32::new(0),
            network: Mutex::default(),
            standing: Mutex::new(Standing::new(rules)),
            closed_from: AtomicU64::new(0),
            back: AtomicU64::new(0),
            ramp_ms: rules.ramp_ms,
            rests_until: AtomicU64::new(0),
            succeeded: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            present: AtomicBool::new(true),
        })
    }

    pub fn name(&self) -> &str {
        self.node.name()
    }

    /// Places for streams of an HTTP node, one each.
    pub fn streams(&self) -> Arc<Semaphore> {
        self.streams.clone()
    }

    /// Whether a request may be sent there, as far as a look-up can tell.
    pub fn admits(&self, now_ms: u64) -> bool {
        self.published().admits(now_ms) && self.rests(now_ms).is_none()
    }

    /// The node said when to come back: it is left alone for so many seconds, or longer if it said so before.
    pub fn rest(&self, now_ms: u64, seconds: u32) {
        self.rests_until.fetch_max(now_ms + u64::from(seconds) * 1000, Relaxed);
    }

    /// Seconds for which it is to be left alone yet, at least 1; none when it may be asked.
    pub fn rests(&self, now_ms: u64) -> Option<u32> {
        let left = self.rests_until.load(Relaxed).saturating_sub(now_ms);
        (left > 0).then(|| left.div_ceil(1000) as u32)
    }

    /// What a choice needs to know.
    pub fn load(&self, now_ms: u64) -> Load {
        let most = self.most_free_blocks.load(Relaxed);
        let headroom = if most == 0 { 1.0 } else { self.free_blocks.load(Relaxed) as f32 / most as f32 };
        Load {
            hash: self.hash,
            busy: self.busy(),
            slots: self.slots.load(Relaxed),
            headroom,
            speed: f32::from_bits(self.speed.load(Relaxed)),
            network_ms: f32::from_bits(self.network_ms.load(Relaxed)),
            share: self.published().share(now_ms),
            rest_s: self.rests(now_ms).unwrap_or(0),
        }
    }

    /// Requests that are there, this edge's and others'.
    pub fn busy(&self) -> u32 {
        self.others.load(Relaxed).saturating_add(self.inflight.load(Relaxed))
    }

    /// Requests it computes at once, as it says; 0 while unknown.
    pub fn slots(&self) -> u32 {
        self.slots.load(Relaxed)
    }

    /// Takes a place for a request; none while the breaker is open, or the node is to be left alone.
    pub fn enter(self: &Arc<Self>, now_ms: u64) -> Option<Lease> {
        if self.rests(now_ms).is_some() {
            return None;
        }
        self.stand(|standing| standing.admit(now_ms)).then(|| self.lease())
    }

    /// Takes a place though the breaker be open: for when every node's is.
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.inflight.fetch_add(1, Relaxed);
        Lease { member: self.clone() }
    }

    /// Takes in what the node says of its load.
    pub fn reported(&self, info: &NodeInfo) {
        let said = info.running.saturating_add(info.queued);
        self.others.store(said.saturating_sub(self.inflight.load(Relaxed)), Relaxed);
        self.slots.store(info.slots, Relaxed);
        self.free_blocks.store(info.free_blocks, Relaxed);
        self.most_free_blocks.fetch_max(info.free_blocks, Relaxed);
    }

    /// A probe came back after so long.
    pub fn answered(&self, now_ms: u64, rtt_ms: f32) {
        self.measure(|network| network.answered(now_ms, rtt_ms));
    }

    /// A probe did not come back.
    pub fn lost(&self, now_ms: u64) {
        self.measure(|network| network.lost(now_ms));
    }

    /// Round-trip time in milliseconds, and loss.
    pub fn network(&self) -> (f32, f32) {
        let network = lock(&self.network);
        (network.rtt_ms(), network.loss())
    }

    pub fn is_open(&self) -> bool {
        lock(&self.standing).is_open()
    }

    /// What was answered since this was last asked.
    pub fn window(&self) -> Window {
        Window { succeeded: self.succeeded.swap(0, Relaxed), failed: self.failed.swap(0, Relaxed) }
    }

    pub fn eject(&self, now_ms: u64) {
        self.stand(|standing| standing.eject(now_ms));
    }

    pub(super) fn leave(&self) {
        self.present.store(false, Relaxed);
    }

    pub fn is_present(&self) -> bool {
        self.present.load(Relaxed)
    }

    fn published(&self) -> Published {
        Published { closed_from: self.closed_from.load(Relaxed), back: self.back.load(Relaxed), ramp_ms: self.ramp_ms }
    }

    fn stand<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standing = lock(&self.standing);
        let result = change(&mut standing);
        let published = standing.published();
        self.closed_from.store(published.closed_from, Relaxed);
        self.back.store(published.back, Relaxed);
        result
    }

    fn measure(&self, change: impl FnOnce(&mut Network)) {
        let mut network = lock(&self.network);
        change(&mut network);
        self.network_ms.store(network.cost_ms().to_bits(), Relaxed);
    }
}

/// One request's place at a node, given back when dropped.
pub struct Lease {
    member: Arc<Member>,
}

impl Lease {
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The node began to answer, or answered as it should.
    pub fn succeeded(&self, now_ms: u64) {
        self.member.succeeded.fetch_add(1, Relaxed);
        self.member.stand(|standing| standing.succeeded(now_ms));
    }

    /// The node failed the request. True when that took it out.
    pub fn failed(&self, now_ms: u64) -> bool {
        self.member.failed.fetch_add(1, Relaxed);
        self.member.stand(|standing| standing.failed(now_ms))
    }

    /// An answer of `tokens` was made at this rate.
    pub fn measured(&self, tokens: u32, seconds: f32) {
        // A few tokens say more of the connection than of the node.
        if tokens < 8 || seconds <= 0.0 {
            return;
        }
        let (sample, was) = (tokens as f32 / seconds, f32::from_bits(self.member.speed.load(Relaxed)));
        let now = if was == 0.0 { sample } else { was + SPEED_WEIGHT * (sample - was) };
        self.member.speed.store(now.to_bits(), Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.inflight.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
