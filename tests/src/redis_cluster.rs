//! A real Redis Cluster: three primaries with the slots between them, and a replica of each.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::redis_server::Redis;

/// Primaries, and as many replicas.
const PRIMARIES: usize = 3;
/// How long the cluster may take to agree on something.
const AGREED: Duration = Duration::from_secs(60);

/// A running cluster. It ends when dropped.
pub struct Cluster {
    servers: Vec<Redis>,
}

impl Cluster {
    pub fn start() -> Self {
        let cluster = Self { servers: (0..2 * PRIMARIES).map(|_| Redis::of_cluster()).collect() };
        let addresses = cluster.servers.iter().map(|server| server.address().to_string());
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(addresses).args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.output().unwrap_or_else(|e| panic!("redis-cli (`apt-get install redis-tools`): {e}"));
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        cluster.wait("every server to see the whole cluster", |cluster| {
            cluster.servers.iter().all(|server| server.command(&[b"CLUSTER", b"INFO"]).contains("cluster_state:ok"))
        });
        cluster.wait("a replica of every primary", |cluster| {
            let has_one = |server: &Redis| server.command(&[b"INFO", b"replication"]).contains("state=online");
            cluster.servers[..PRIMARIES].iter().all(has_one)
        });
        cluster
    }

    /// `redis-cluster://` with every server.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.servers.iter().map(|server| server.address().to_string()).collect();
        format!("redis-cluster://{}", addresses.join(","))
    }

    /// The servers that began as primaries.
    pub fn primaries(&self) -> &[Redis] {
        &self.servers[..PRIMARIES]
    }

    /// Ends the replicas.
    pub fn kill_replicas(&self) {
        self.servers[PRIMARIES..].iter().for_each(Redis::kill);
    }

    /// The primary that `key` belongs to, by position.
    pub fn owner(&self, key: &str) -> usize {
        let owns = |server: &Redis| !server.command(&[b"EXISTS", key.as_bytes()]).starts_with("-MOVED");
        self.primaries().iter().position(owns).expect("a cluster that is whole has an owner for every key")
    }

    /// Names of the keys that fit a pattern, of all primaries.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        self.primaries().iter().flat_map(|server| server.keys(pattern)).collect()
    }

    /// Gives the slot of `key` to another primary without a word to anybody's client; what is in it is lost.
    pub fn move_slot(&self, key: &str, to: usize) {
        let from = self.owner(key);
        let slot = self.servers[from].command(&[b"CLUSTER", b"KEYSLOT", key.as_bytes()]);
        let slot = slot.trim_start_matches(':').as_bytes();
        let id = self.servers[to].command(&[b"CLUSTER", b"MYID"]);
        assert_eq!(self.servers[from].command(&[b"DEL", key.as_bytes()]), ":1", "the slot holds one key");
        // The order in which a migration ends: who gets it, who gave it, who looked on.
        self.servers[to].command(&[b"CLUSTER", b"SETSLOT", slot, b"IMPORTING", self.id(from).as_bytes()]);
        for at in [to, from].into_iter().chain(0..PRIMARIES) {
            assert_eq!(self.servers[at].command(&[b"CLUSTER", b"SETSLOT", slot, b"NODE", id.as_bytes()]), "+OK");
        }
    }

    /// Waits until the replica of a primary that was killed has taken its place.
    pub fn wait_for_failover(&self, killed: usize) {
        self.wait("the replica to take over", |cluster| {
            let alive = cluster.servers.iter().enumerate().filter(|(at, _)| *at != killed);
            let states: Vec<_> = alive.map(|(_, server)| server.command(&[b"CLUSTER", b"INFO"])).collect();
            let replicas = &cluster.servers[PRIMARIES..];
            let promoted = replicas.iter().any(|r| r.command(&[b"INFO", b"replication"]).contains("role:master"));
            promoted && states.iter().all(|state| state.contains("cluster_state:ok"))
        });
    }

    fn id(&self, at: usize) -> String {
        self.servers[at].command(&[b"CLUSTER", b"MYID"])
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < AGREED, "the cluster did not come to {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
