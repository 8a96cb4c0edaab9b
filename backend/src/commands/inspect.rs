//! `littoral-node inspect`.

use std::fs;

use anyhow::Context;
use littoral_node::model;

use super::{bytes, count, model_name};
use crate::cli::Inspect;

pub fn run(options: Inspect) -> anyhow::Result<()> {
    let estimate = model::estimate(&options.model, model::Quantize::None).context("the model cannot be read")?;
    let file = fs::metadata(&options.model)?.len();
    println!("name          {}", model_name(&options.model));
    println!("file          {}", bytes(file));
    println!("parameters    {}", count(estimate.parameters));
    println!("context       {} tokens", estimate.context_length);
    println!("weights       {} in memory", bytes(estimate.weights_bytes));
    println!("KV cache      {} a token", bytes(estimate.kv_bytes_per_token));
    Ok(())
}
