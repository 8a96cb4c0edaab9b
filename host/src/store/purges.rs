//! Purges on their way to every edge: a log in the store, numbered, and a channel that says there is a new one.
//!
//! An edge that was away reads the log when it comes back; an answer remembers the number of the last purge that was
//! known when its generation began, so that a late fill of another edge is recognised too. A store may lose its memory,
//! or a part of it, and count again: a random number beside the counter, the epoch, tells one memory from the next.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use redis::{Cmd, cmd};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{Link, Server, Trouble};
use crate::plan::{AnswerCache, Point, Purge};

/// One slot of a cluster: they are changed together.
const EPOCH: &str = "{littoral-purge}:epoch";
const COUNT: &str = "{littoral-purge}:count";
const LOG: &str = "{littoral-purge}:log";
const CHANNEL: &str = "littoral:purge";
/// Purges that are kept for edges that come back.
const KEPT: i64 = 1024;
/// How long to wait before the channel is opened again, and for news before it is asked whether it is still there.
const AGAIN: Duration = Duration::from_millis(300);
const SILENCE: Duration = Duration::from_secs(5);

/// Numbers the purge, appends it to the log and tells every edge; together, so that none sees half of it.
const PUBLISH: &str = r"
    redis.call('SET', KEYS[1], ARGV[4], 'NX')
    local number = redis.call('INCR', KEYS[2])
    local entry = cjson.encode({epoch = redis.call('GET', KEYS[1]), number = number, purge = cjson.decode(ARGV[1])})
    redis.call('LPUSH', KEYS[3], entry)
    redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[2]) - 1)
    redis.call('PUBLISH', ARGV[3], entry)
    return number";

/// Epoch, count and log. A store that has no epoch, or counts less in the one that was heard of, is given a new one: it
/// was emptied, or came back with what it had a while ago. The log is left out for one who knows it.
const CATCH_UP: &str = r"
    local epoch = redis.call('GET', KEYS[1])
    local count = tonumber(redis.call('GET', KEYS[2]) or '0')
    local known = tonumber(ARGV[2])
    if not epoch or (epoch == ARGV[1] and count < known) then
        epoch = ARGV[3]
        redis.call('SET', KEYS[1], epoch)
    elseif epoch == ARGV[1] and count == known then
        return {epoch, {}}
    end
    return {epoch, redis.call('LRANGE', KEYS[3], 0, -1)}";

#[derive(Debug, Deserialize)]
struct Numbered {
    epoch: String,
    number: u64,
    purge: Purge,
}

/// Has every edge forget what the purge means; the purge's number.
pub async fn publish(link: &Link, purge: &Purge) -> Result<u64, Trouble> {
    let text = serde_json::to_string(purge).expect("names always serialise");
    let mut eval: Cmd = cmd("EVAL");
    eval.arg(PUBLISH).arg(3).arg(EPOCH).arg(COUNT).arg(LOG).arg(text).arg(KEPT).arg(CHANNEL).arg(new_epoch());
    link.run(&eval).await
}

/// Asks once for what was published before; nothing is taken from the store until that is known.
pub async fn first_word(server: Arc<Server>, cache: AnswerCache) {
    if let Err(error) = catch_up(&Link::new(server), &cache).await {
        tracing::debug!(%error, "the store does not say what was purged; it will be asked again");
    }
}

/// Carries out what others publish. Never returns.
pub async fn subscribe(server: Arc<Server>, cache: AnswerCache) {
    let link = Link::new(server.clone());
    loop {
        if let Err(error) = listen(&server, &link, &cache).await {
            tracing::debug!(%error, "purges cannot be heard; answers go by their time to live meanwhile");
        }
        sleep(AGAIN).await;
    }
}

async fn listen(server: &Server, link: &Link, cache: &AnswerCache) -> Result<(), Trouble> {
    let mut channel = server.listen().await?;
    channel.subscribe(CHANNEL).await?;
    // After the subscription, so that no purge falls between the two.
    catch_up(link, cache).await?;
    let mut messages = channel.on_message();
    loop {
        match timeout(SILENCE, messages.next()).await {
            Ok(Some(message)) => apply(cache, message.get_payload_bytes()),
            Ok(None) => return Ok(()),
            // Nothing was said, or nothing is heard any more: the log knows.
            Err(_) => catch_up(link, cache).await?,
        }
    }
}

async fn catch_up(link: &Link, cache: &AnswerCache) -> Result<(), Trouble> {
    let Point { epoch, number } = cache.last_purge();
    let mut eval: Cmd = cmd("EVAL");
    eval.arg(CATCH_UP).arg(3).arg(EPOCH).arg(COUNT).arg(LOG).arg(written(epoch)).arg(number).arg(new_epoch());
    let (epoch, entries): (String, Vec<Vec<u8>>) = link.run(&eval).await?;
    let Some(epoch) = read(&epoch) else {
        tracing::warn!(epoch, "the store's epoch of purges cannot be read; nothing is taken from there");
        return Ok(());
    };
    cache.store_is(epoch);
    // What stands in the log holds in whatever memory the log is found.
    entries.iter().rev().filter_map(|entry| numbered(entry)).for_each(|entry| carry_out(cache, epoch, &entry));
    Ok(())
}

/// An epoch, as the store has it.
fn written(epoch: u64) -> String {
    format!("{epoch:016x}")
}

fn read(epoch: &str) -> Option<u64> {
    u64::from_str_radix(epoch, 16).ok().filter(|epoch| *epoch != 0)
}

fn new_epoch() -> String {
    written(rand::random_range(1..=u64::MAX))
}

fn apply(cache: &AnswerCache, entry: &[u8]) {
    let Some(entry) = numbered(entry) else { return };
    match read(&entry.epoch) {
        Some(epoch) => carry_out(cache, epoch, &entry),
        None => tracing::warn!(?entry, "a purge of no epoch"),
    }
}

fn numbered(entry: &[u8]) -> Option<Numbered> {
    let read = serde_json::from_slice(entry);
    read.map_err(|error| tracing::warn!(%error, "a purge cannot be read")).ok()
}

fn carry_out(cache: &AnswerCache, epoch: u64, Numbered { number, purge, .. }: &Numbered) {
    if let Some(gone) = cache.purge_numbered(Point { epoch, number: *number }, purge) {
        tracing::info!(number, ?purge, answers = gone, "answers purged");
    }
}
