//! The cache layer: wraps the next layer's policy.

littoral_abi::layer!(littoral_core::cache::plan);
