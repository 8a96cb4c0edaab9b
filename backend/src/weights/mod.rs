//! Files to tensors: the GGUF reader and the dequantisers.

pub mod dequant;
pub mod gguf;
