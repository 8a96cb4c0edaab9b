//! The wire between edge and node: messages and services generated from `littoral/v1/node.proto`.

/// What encodes and decodes the messages.
pub use prost;

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(clippy::all)]
    tonic::include_proto!("littoral.v1");
}

/// gRPC's own health checking protocol.
pub mod health {
    #![allow(clippy::all)]
    tonic::include_proto!("grpc.health.v1");
}

/// Largest message either side accepts, bytes: the largest request body (8 MiB by default, 64 MiB at most)
/// grows by less than its own size when it becomes canonical JSON.
pub const MAX_MESSAGE_BYTES: usize = 128 << 20;

/// `finished.reason` values, the names of the OpenAI/DeepSeek API.
pub mod finish {
    /// End-of-sequence token or a stop string.
    pub const STOP: &str = "stop";
    /// `max_tokens` or the context length was reached.
    pub const LENGTH: &str = "length";
    /// The model ended its turn with calls of tools.
    pub const TOOL_CALLS: &str = "tool_calls";
    /// The node gave up; what it sent is no whole answer.
    pub const INSUFFICIENT_SYSTEM_RESOURCE: &str = "insufficient_system_resource";
}
