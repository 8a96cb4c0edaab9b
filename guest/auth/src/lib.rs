//! The authentication layer: wraps the next layer's policy.

littoral_abi::layer!(littoral_core::auth::admit);
