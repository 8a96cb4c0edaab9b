//! The router: the last layer.

littoral_abi::terminal!(littoral_core::route::open);
