//! Authentication, cache and router in one component: the hot path.

littoral_abi::terminal!(littoral_core::decide);
