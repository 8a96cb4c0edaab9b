//! Tensor names: what a checkpoint calls a tensor, and what it is called here.

use crate::weights::Checkpoint;

use super::super::config::Config;

/// The name here of a checkpoint's tensor. DeepSeek V4 is read by DeepSeek's own names; those that transformers writes
/// differ in a few places.
pub fn canonical(config: &Config, name: &str) -> String {
    if config.architecture != "deepseek_v4" {
        return name.to_owned();
    }
    let name = name.strip_prefix("model.").unwrap_or(name);
    let renamed = [("embed_tokens.", "embed."), ("hc_head.hc_", "hc_head_"), (".attn.norm.", ".attn.kv_norm.")];
    let name = renamed.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours));
    if name == "lm_head.weight" { "head.weight".into() } else { name }
}

/// Whether the tensor belongs to a layer that predicts tokens further ahead (multi-token prediction), which is left out.
fn predicts_ahead(config: &Config, canonical: &str) -> bool {
    if canonical.starts_with("mtp.") {
        return true;
    }
    let layer = canonical.strip_prefix("model.layers.").or_else(|| canonical.strip_prefix("layers."));
    let layer = layer.and_then(|rest| rest.split_once('.')).and_then(|(number, _)| number.parse::<usize>().ok());
    config.architecture.starts_with("deepseek") && layer.is_some_and(|layer| layer >= config.layers())
}

/// The tensors that are left out because they predict tokens further ahead.
pub fn skipped<'a>(config: &Config, checkpoint: &'a Checkpoint) -> Vec<&'a str> {
    checkpoint.names().filter(|name| predicts_ahead(config, &canonical(config, name))).collect()
}

/// Whether the tensor can be computed from the configuration, and is not read.
pub fn derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}
