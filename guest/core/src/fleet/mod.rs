//! Where a request goes: the decisions about a pool of nodes, pure, for the host's look-up and for guests alike.
//!
//! [`balance`] orders the nodes for one request; [`network`] turns round trips into a cost; [`standing`] is one node's
//! circuit breaker and slow re-entry; [`outlier`] finds the nodes that fail more than the others; [`budget`] bounds
//! retries; [`shed`] says when to turn a request away.

pub mod balance;
pub mod budget;
pub mod network;
pub mod outlier;
pub mod shed;
pub mod standing;

pub use balance::{Balance, Choice, Load, Policy, Reason, choose};
