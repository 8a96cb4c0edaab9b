//! A checkpoint held against its configuration, by names and shapes alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::weights::{Checkpoint, Kind, TensorInfo};

use super::{
    super::{
        config::{AttentionConfig, Config},
        error::Problem,
    },
    blocks::FP4_BLOCK,
    expected::{Expected, Role, expected},
    names,
    source::fp8_block,
};

/// What a checkpoint lacks and what it holds too much. Names are those of its files where there are such tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Tensors that are not there, and the shapes they should have.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors of another shape: name, shape found, shape expected.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that are no part of the architecture.
    pub extra: Vec<String>,
}

impl Survey {
    pub fn of(checkpoint: &Checkpoint, config: &Config) -> Result<Self, Problem> {
        let skipped: BTreeSet<&str> = names::skipped(config, checkpoint).into_iter().collect();
        let read = checkpoint.table().filter(|t| !skipped.contains(t.name) && !names::derived(t.name));
        let left = read.map(|tensor| (names::canonical(config, tensor.name), tensor)).collect();
        let mut table = Table { left, fp8_block: fp8_block(checkpoint.config())?, survey: Self::default() };
        let all = expected(config);
        let ends = all.iter().filter(|e| e.kind == Role::End && table.left.contains_key(&e.name)).count();
        for tensor in &all {
            match tensor.kind {
                // One of the two will do; the other is not missed.
                Role::End if config.tied && ends == 1 && !table.left.contains_key(&tensor.name) => {}
                Role::Experts if !table.left.contains_key(&tensor.name) => table.one_by_one(tensor),
                _ => table.take(&tensor.name, &tensor.shape),
            }
        }
        if let AttentionConfig::Grouped(grouped) = &config.attention
            && table.left.contains_key("rope_freqs.weight")
        {
            table.take("rope_freqs.weight", &[grouped.head_dim / 2]);
        }
        table.survey.extra = table.left.values().map(|tensor| tensor.name.to_owned()).collect();
        Ok(table.survey)
    }

    /// Nothing is wrong.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }
}

struct Table<'a> {
    /// Tensors that nothing asked for yet, by their names here.
    left: BTreeMap<String, TensorInfo<'a>>,
    fp8_block: [usize; 2],
    survey: Survey,
}

impl Table<'_> {
    /// The matrices of experts that do not lie in one tensor.
    fn one_by_one(&mut self, all: &Expected) {
        let [experts, ref shape @ ..] = all.shape[..] else { return };
        for expert in 0..experts {
            self.take(&all.name.replace("experts.", &format!("experts.{expert}.")), shape);
        }
    }

    /// A tensor that is asked for, with the scales that its elements may need.
    fn take(&mut self, name: &str, shape: &[usize]) {
        let Some(found) = self.left.remove(name) else {
            return self.survey.missing.push((name.into(), shape.into()));
        };
        let mut expected = shape.to_vec();
        let scales = match (found.kind, &mut expected[..]) {
            // Two FP4 elements a byte.
            (Kind::I8 | Kind::U8, [.., rows, cols]) => {
                let scales = [*rows, *cols / FP4_BLOCK];
                *cols /= 2;
                Some(scales)
            }
            (Kind::F8E4M3, [rows, cols]) => Some([rows.div_ceil(self.fp8_block[0]), cols.div_ceil(self.fp8_block[1])]),
            _ => None,
        };
        if found.shape != expected {
            self.survey.misshapen.push((found.name.into(), found.shape.into(), expected));
        }
        if let Some(scales) = scales {
            let base = name.strip_suffix(".weight").unwrap_or(name);
            let names = [format!("{base}.weight_scale_inv"), format!("{base}.scale")];
            let there = names.iter().find(|name| self.left.contains_key(*name)).unwrap_or(&names[0]);
            self.take(there, &scales);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn open(path: &Path) -> (Checkpoint, Config) {
        let checkpoint = Checkpoint::open(path).unwrap();
        let config = Config::of(checkpoint.config()).unwrap();
        (checkpoint, config)
    }

    fn tiny(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny").join(name)
    }

    /// What the loader takes and what is expected here are the same tensors, of every architecture.
    #[test]
    fn the_tiny_checkpoints_are_whole() {
        let folders = fs::read_dir(tiny("")).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let mut count = 0;
        for entry in folders {
            let (checkpoint, config) = open(&entry.path());
            let survey = Survey::of(&checkpoint, &config).unwrap();
            assert!(survey.is_whole(), "{}: {survey:?}", entry.path().display());
            count += 1;
        }
        assert!(count >= 11, "{count} checkpoints");
    }

    #[test]
    fn what_another_configuration_asks_for_is_named() {
        let (checkpoint, _) = open(&tiny("deepseek-v3-fp8"));
        let mut map = checkpoint.config().clone();
        map.insert("num_hidden_layers".into(), 4.into());
        map.insert("kv_lora_rank".into(), 16.into());
        map.insert("n_shared_experts".into(), 0.into());
        let survey = Survey::of(&checkpoint, &Config::of(&map).unwrap()).unwrap();
        let named = |list: &[(String, Vec<usize>)], name: &str| list.iter().any(|(found, _)| found == name);
        assert!(named(&survey.missing, "model.layers.3.input_layernorm.weight"), "{survey:?}");
        assert!(named(&survey.missing, "model.layers.3.mlp.experts.7.down_proj.weight"));
        let norm = survey.misshapen.iter().find(|(name, ..)| name == "model.layers.0.self_attn.kv_a_layernorm.weight");
        assert_eq!(norm.map(|(_, found, expected)| (&found[..], &expected[..])), Some((&[24][..], &[16][..])));
        assert!(survey.extra.iter().any(|name| name == "model.layers.1.mlp.shared_experts.up_proj.weight"));
        assert!(survey.extra.iter().any(|name| name == "model.layers.1.mlp.shared_experts.up_proj.weight_scale_inv"));
    }
}
