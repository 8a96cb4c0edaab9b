//! One generation for several edges: the one with the lease flies, the others follow its events in a Redis Stream.
//!
//! The lease lives two seconds and is renewed; when its holder dies, a follower takes it and goes on from the events it
//! has. Followers leave a sign of life, so that the one who flies knows whether anybody listens elsewhere.

use std::{cell::Cell, time::Duration};

use littoral_proto::{prost::Message, v1::Event};
use redis::{cmd, streams::StreamReadReply};
use tokio::time::sleep;

use super::{Link, Trouble};

/// A lease that is not renewed ends after this.
pub const LEASE: Duration = Duration::from_secs(2);
/// How often leases and signs of life are renewed.
const RENEW: Duration = Duration::from_millis(300);
/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a stream is kept after its last event, for followers that read slowly.
const KEPT: Duration = Duration::from_secs(30);
/// How long a follower waits for news before it looks after the lease.
const BLOCK: Duration = Duration::from_millis(250);

/// Renews a lease that is still one's own.
const EXTEND: &str = r"
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) else return 0 end";
/// Appends events to the stream of a lease that is still one's own. Those that stand there already are left out: who got
/// no answer says them again.
const TELL: &str = r"
    if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
    local known = redis.call('XLEN', KEYS[2]) - tonumber(ARGV[2])
    if known < 0 then return 0 end
    for i = 4 + known, #ARGV do redis.call('XADD', KEYS[2], '*', 'e', ARGV[i]) end
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return 1";
/// Gives back a lease that is still one's own.
const RELEASE: &str = r"
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";

/// What an edge is to a generation.
pub enum Role {
    Leader(Leader),
    Follower(Follower),
}

/// The names of one generation's things in the store; one slot of a cluster.
#[derive(Clone)]
struct Names {
    lease: String,
    stream: String,
    signs: String,
}

impl Names {
    fn of(key: &str) -> Self {
        let name = |kind| format!("littoral:{kind}:{{{key}}}");
        Self { lease: name("lease"), stream: name("flight"), signs: name("signs") }
    }
}

/// Who flies.
pub struct Leader {
    link: Link,
    names: Names,
    token: String,
    /// Events that the stream has.
    told: Cell<u64>,
}

/// Who follows.
pub struct Follower {
    link: Link,
    names: Names,
    /// The last entry that was read, and how many there were.
    last: String,
    heard: u64,
}

/// What a follower is told.
pub enum News {
    Events(Vec<Event>),
    /// Nothing for a while, and the one who flies is there.
    Quiet,
    /// The one who flies is gone: the generation is to be continued here.
    Orphaned(Leader),
}

impl Link {
    /// Takes the lease of a generation, or follows the one who has it.
    pub async fn fly(&self, key: &str) -> Result<Role, Trouble> {
        let names = Names::of(key);
        if let Some(leader) = self.lease(&names, 0).await? {
            // What another left behind is not this generation's.
            self.run::<()>(cmd("DEL").arg(&names.stream)).await?;
            return Ok(Role::Leader(leader));
        }
        Ok(Role::Follower(Follower { link: self.another(), names, last: "0".into(), heard: 0 }))
    }

    async fn lease(&self, names: &Names, told: u64) -> Result<Option<Leader>, Trouble> {
        let token = format!("{:032x}", rand::random::<u128>());
        let mut set = cmd("SET");
        set.arg(&names.lease).arg(&token).arg("NX").arg("PX").arg(LEASE.as_millis() as u64);
        let taken: Option<String> = self.run(&set).await?;
        Ok(taken.map(|_| Leader { link: self.clone(), names: names.clone(), token, told: Cell::new(told) }))
    }
}

impl Leader {
    /// Renews the lease until it is lost, or the store. Never returns before.
    pub async fn hold(&self) {
        let mut next = RENEW;
        loop {
            sleep(next).await;
            next = RENEW;
            let mut extend = cmd("EVAL");
            extend.arg(EXTEND).arg(1).arg(&self.names.lease).arg(&self.token).arg(LEASE.as_millis() as u64);
            match self.link.run::<i64>(&extend).await {
                Ok(1) => {}
                Ok(_) => return tracing::debug!("another edge has taken the lease of a generation"),
                Err(error) => {
                    tracing::debug!(%error, "a lease cannot be renewed");
                    next = AGAIN;
                }
            }
        }
    }

    /// Tells followers of the next events; false when the lease is another's. After an error the same events are to be
    /// told again, before any others.
    pub async fn tell(&self, events: &[Event]) -> Result<bool, Trouble> {
        let mut tell = cmd("EVAL");
        tell.arg(TELL).arg(2).arg(&self.names.lease).arg(&self.names.stream);
        tell.arg(&self.token).arg(self.told.get()).arg(KEPT.as_millis() as u64);
        for event in events {
            tell.arg(event.encode_to_vec());
        }
        let told = self.link.run::<bool>(&tell).await?;
        self.told.set(self.told.get() + events.len() as u64);
        Ok(told)
    }

    /// Whether anybody listens elsewhere.
    pub async fn is_followed(&self) -> Result<bool, Trouble> {
        self.link.run(cmd("EXISTS").arg(&self.names.signs)).await
    }

    /// Lets others begin a new generation.
    pub async fn release(&self) {
        let mut release = cmd("EVAL");
        release.arg(RELEASE).arg(1).arg(&self.names.lease).arg(&self.token);
        if let Err(error) = self.link.run::<i64>(&release).await {
            tracing::debug!(%error, "a lease is left to run out");
        }
    }
}

impl Follower {
    /// Waits a while for further events, or for the death of the one who flies. After an error it may be asked again.
    pub async fn news(&mut self) -> Result<News, Trouble> {
        let mut sign = cmd("SET");
        sign.arg(&self.names.signs).arg("1").arg("PX").arg(LEASE.as_millis() as u64);
        self.link.run::<String>(&sign).await?;
        // Looked at before the events: a lease that is gone then has sent all it will.
        let held: bool = self.link.run(cmd("EXISTS").arg(&self.names.lease)).await?;
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(256).arg("BLOCK").arg(if held { BLOCK.as_millis() as u64 } else { 1 });
        read.arg("STREAMS").arg(&self.names.stream).arg(&self.last);
        let reply: Option<StreamReadReply> = self.link.run_for(&read, BLOCK).await?;
        let mut events = Vec::new();
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            let bytes: Option<Vec<u8>> = entry.get("e");
            events.extend(bytes.and_then(|bytes| Event::decode(bytes.as_slice()).ok()));
            self.last = entry.id;
            self.heard += 1;
        }
        if !events.is_empty() {
            return Ok(News::Events(events));
        }
        if !held && let Some(leader) = self.link.lease(&self.names, self.heard).await? {
            return Ok(News::Orphaned(leader));
        }
        Ok(News::Quiet)
    }
}
