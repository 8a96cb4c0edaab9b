//! The node as edges and operators meet it: the real model behind real sockets.

mod asked;
mod grpc;
mod process;
mod side_door;
mod support;
mod texts;
