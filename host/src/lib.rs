//! The edge host of Littoral: it takes HTTP requests, asks the guests what to do, and carries their plan out.
//!
//! A request walks [`door`] -> [`guest`] -> [`plan`] -> [`fleet`] and back; no room calls one to its left. [`edge`] puts
//! the rooms together.

pub mod admin;
pub mod audit;
pub mod cli;
pub mod client;
pub mod config;
pub mod door;
pub mod edge;
pub mod error;
pub mod fleet;
pub mod guest;
pub mod knowledge;
pub mod plan;
pub mod store;
pub mod telemetry;
pub mod tokens;
pub mod trust;
pub mod upstream;
pub mod vault;
