//! The arithmetic of a node on the CPU. Matrices stay in the blocks of their file, sixteen rows side by side, and kernels
//! read those; a row of a result depends, to the bit, on what that row is computed from alone, so that one token, a
//! checked draft and a whole prompt agree.
//!
//! Sums have one order everywhere: weights are read in panels of sixteen rows, a lane is an output, and each output of
//! each row of activations has a sum of its own that grows in the order of the columns. How many rows come together,
//! how they are cut into parts and which thread takes a part changes what is computed next to each other, never what
//! is added to what. Instruction sets agree too.

mod activation;
mod attention;
mod blocks;
mod cells;
mod cpu;
mod dequantize;
mod direct;
mod elementwise;
mod exp;
mod format;
mod linear;
mod number;
mod pack;
mod panel;
pub mod pool;
mod quantize;
mod simd;

pub use attention::{AttentionShape, Keys, Segment, Store, attention};
pub use cpu::{AlreadyStarted, Cpu};
pub use dequantize::{dequantize, embed};
pub use elementwise::{Pairing, Rotation, rms_norm, rotate, softmax_weights, swiglu};
pub use format::{Format, UnknownFormat};
pub use linear::{Arithmetic, linear, linear_experts};
pub use number::{Numbers, NumbersMut};
pub use pack::{Weights, pack};
pub use quantize::{QuantizeError, quantize};
pub use simd::Level;
