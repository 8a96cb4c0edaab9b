//! Purges on their way to every edge: a log in the store, numbered, and a channel that says there is a new one.
//!
//! An edge that was away reads the log when it comes back; an answer remembers the number of the last purge that was
//! known when its generation began, so that a late fill of another edge is recognised too.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use redis::{Cmd, cmd};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{Link, Server, Trouble};
use crate::plan::{AnswerCache, Purge};

/// One slot of a cluster: the three are changed together.
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
    local number = redis.call('INCR', KEYS[1])
    local entry = cjson.encode({number = number, purge = cjson.decode(ARGV[1])})
    redis.call('LPUSH', KEYS[2], entry)
    redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[2]) - 1)
    redis.call('PUBLISH', ARGV[3], entry)
    return number";

#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    number: u64,
    purge: Purge,
}

/// Has every edge forget what the purge means; the purge's number.
pub async fn publish(link: &Link, purge: &Purge) -> Result<u64, Trouble> {
    let text = serde_json::to_string(purge).expect("names always serialise");
    let mut eval: Cmd = cmd("EVAL");
    eval.arg(PUBLISH).arg(2).arg(COUNT).arg(LOG).arg(text).arg(KEPT).arg(CHANNEL);
    link.run(&eval).await
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
    let count: Option<u64> = link.run(cmd("GET").arg(COUNT)).await?;
    if count.unwrap_or(0) == cache.last_purge() {
        return Ok(());
    }
    let entries: Vec<Vec<u8>> = link.run(cmd("LRANGE").arg(LOG).arg(0).arg(-1)).await?;
    entries.iter().rev().for_each(|entry| apply(cache, entry));
    Ok(())
}

fn apply(cache: &AnswerCache, entry: &[u8]) {
    match serde_json::from_slice::<Numbered>(entry) {
        Ok(Numbered { number, purge }) => {
            if let Some(gone) = cache.purge_numbered(number, &purge) {
                tracing::info!(number, ?purge, answers = gone, "answers purged");
            }
        }
        Err(error) => tracing::warn!(%error, "a purge cannot be read"),
    }
}
