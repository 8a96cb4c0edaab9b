//! The inference node: a transformer on burn, the scheduler that feeds it, and the gRPC service in front.

pub mod engine;
pub mod grammar;
pub mod model;
pub mod sample;
pub mod schedule;
pub mod serve;
pub mod speak;
pub mod speculate;
pub mod text;
pub mod weights;
