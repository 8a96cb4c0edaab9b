//! What edges share through Redis: answers, purges, and generations under way; and how a Redis is reached.
//!
//! [`link`] is a worker's connection, with a breaker: a store that is dead or slow is left alone at once, and everything
//! here then answers that there is nothing. No request fails for it.

mod answers;
mod connection;
mod flights;
mod link;
mod purges;
mod stored;

pub use answers::Entry;
pub use connection::{Address, Connection, distrusts, shown};
pub use flights::{Follower, LEASE, Leader, News, Role};
pub use link::{Link, Server, Trouble};
pub use purges::{first_word, publish, subscribe};
pub use stored::Stored;
