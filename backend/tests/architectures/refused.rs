//! Checkpoints that cannot be run are refused by name, before anything is computed.

use std::{fs, path::PathBuf};

use littoral_node::model::{DeviceChoice, KvDtype, Model, Options, estimate};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use super::cases;

/// A tensor of a file that is about to be damaged.
#[derive(Clone)]
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A copy of a small checkpoint in a folder of its own.
struct Copy {
    folder: PathBuf,
    config: Value,
    parts: Vec<Part>,
}

impl Copy {
    fn of(case: &str, name: &str) -> Self {
        let from = cases::folder().join(case);
        let bytes = fs::read(from.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let part = |(name, view): (String, TensorView)| Part {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let folder = std::env::temp_dir().join(format!("littoral-refused-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let config = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
        Self { folder, config, parts: file.tensors().into_iter().map(part).collect() }
    }

    fn part(&mut self, name: &str) -> &mut Part {
        self.parts.iter_mut().find(|part| part.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn write(&self) {
        let views = self
            .parts
            .iter()
            .map(|part| (part.name.as_str(), TensorView::new(part.dtype, part.shape.clone(), &part.bytes).unwrap()));
        fs::write(self.folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        fs::write(self.folder.join("config.json"), self.config.to_string()).unwrap();
    }

    fn load(&self) -> Result<Model, String> {
        let options = Options { device: DeviceChoice::Cpu, kv_blocks: 8, ..Options::default() };
        Model::load(&self.folder, options, &|_, _| {}).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn refused(self, expected: &[&str]) {
        self.write();
        let Err(error) = self.load() else { panic!("loaded; expected {expected:?}") };
        fs::remove_dir_all(&self.folder).unwrap();
        for word in expected {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
        assert!(error.contains("littoral-refused-"), "{error:?} does not name the folder");
    }
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn an_unchanged_copy_loads() {
    let copy = Copy::of("llama", "unchanged");
    copy.write();
    copy.load().unwrap();
    fs::remove_dir_all(&copy.folder).unwrap();
}

#[test]
fn missing_extra_and_misnamed_tensors() {
    let mut copy = Copy::of("llama", "missing");
    copy.parts.retain(|part| part.name != Q);
    copy.refused(&[Q, "missing"]);
    let mut copy = Copy::of("llama", "extra");
    let extra = Part { name: "model.layers.0.self_attn.gamma".into(), ..copy.part(Q).clone() };
    copy.parts.push(extra);
    copy.refused(&["self_attn.gamma", "no part of this architecture"]);
    let mut copy = Copy::of("llama", "misnamed");
    copy.part(Q).name = Q.replace("q_proj", "queries");
    copy.refused(&[Q, "missing"]);
    // A layer more than the configuration has.
    let mut copy = Copy::of("llama", "layer");
    let layer = Part { name: Q.replace("layers.0", "layers.77"), ..copy.part(Q).clone() };
    copy.parts.push(layer);
    copy.refused(&["layers.77"]);
}

#[test]
fn shapes_that_disagree_with_the_configuration() {
    let mut copy = Copy::of("llama", "shape");
    let part = copy.part(Q);
    part.shape.reverse();
    part.shape[0] /= 2;
    part.bytes.truncate(part.bytes.len() / 2);
    let (found, name) = (format!("{:?}", part.shape), part.name.clone());
    copy.refused(&[&name, &found, "the configuration says"]);
    let mut copy = Copy::of("llama", "norm");
    let part = copy.part("model.norm.weight");
    part.shape[0] -= 1;
    part.bytes.truncate(4 * part.shape[0]);
    copy.refused(&["model.norm.weight", "the configuration says"]);
    let mut copy = Copy::of("deepseek-v2", "experts");
    copy.config["n_routed_experts"] = json!(copy.config["n_routed_experts"].as_u64().unwrap() * 2);
    copy.refused(&["mlp.gate.weight"]);
}

#[test]
fn numbers_that_are_none() {
    let mut copy = Copy::of("llama", "nan");
    copy.part(Q).bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    copy.refused(&[Q, "no numbers"]);
    let mut copy = Copy::of("llama", "infinite");
    copy.part("model.norm.weight").bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    copy.refused(&["model.norm.weight", "infinite"]);
    let mut copy = Copy::of("deepseek-v3-fp8", "fp8");
    let scaled = "model.layers.0.self_attn.o_proj.weight";
    copy.part(scaled).bytes[0] = 0x7f;
    copy.refused(&[scaled, "no numbers"]);
}

#[test]
fn blocks_without_their_scales() {
    let mut copy = Copy::of("deepseek-v3-fp8", "scales");
    copy.parts.retain(|part| part.name != "model.layers.0.self_attn.o_proj.weight_scale_inv");
    copy.refused(&["model.layers.0.self_attn.o_proj.weight", "scales are missing"]);
    let mut copy = Copy::of("deepseek-v3-fp8", "block-size");
    copy.config["quantization_config"]["weight_block_size"] = json!([64, 64]);
    copy.refused(&["scale", "the configuration says"]);
    let mut copy = Copy::of("deepseek-v3-fp8", "method");
    copy.config["quantization_config"]["quant_method"] = json!("awq");
    copy.refused(&["quantization_config.quant_method", "'awq'"]);
}

#[test]
fn a_table_that_names_experts_that_are_not_there() {
    let mut copy = Copy::of("deepseek-v4", "table");
    let part = copy.part("model.layers.0.ffn.gate.tid2eid");
    part.bytes[..8].copy_from_slice(&99i64.to_le_bytes());
    copy.refused(&["tid2eid", "99"]);
}

#[test]
fn a_cache_of_halves_where_there_can_be_none() {
    let load = |name: &str, device| {
        let options = Options { device, kv_blocks: 8, kv_cache_dtype: Some(KvDtype::F16), ..Options::default() };
        let estimate = estimate(&cases::folder().join(name), &options).map_err(|e| e.to_string());
        let loaded = Model::load(&cases::folder().join(name), options, &|_, _| {}).map_err(|e| e.to_string());
        (estimate.unwrap_err(), loaded.err().expect("refused"))
    };
    let (estimate, error) = load("deepseek-v4", DeviceChoice::Cpu);
    assert_eq!(estimate, error);
    assert!(
        error.contains("deepseek_v4 keeps its KV cache in f32") && error.contains("--kv-cache-dtype f32"),
        "{error}"
    );
    // Whether there is a GPU or not, the estimate needs none.
    let (error, _) = load("llama", DeviceChoice::Wgpu);
    assert!(error.contains("for the CPU") && error.contains("--kv-cache-dtype f32"), "{error}");
    let options = Options { device: DeviceChoice::Wgpu, ..Options::default() };
    assert_eq!(estimate_of(&options), KvDtype::F32);
    assert_eq!(estimate_of(&Options { device: DeviceChoice::Cpu, ..options }), KvDtype::F16);
}

fn estimate_of(options: &Options) -> KvDtype {
    estimate(&cases::folder().join("llama"), options).unwrap().kv_cache_dtype
}

#[test]
fn a_cache_that_no_machine_holds() {
    let options = Options { device: DeviceChoice::Cpu, kv_blocks: 1 << 26, ..Options::default() };
    let refused = Model::load(&cases::folder().join("llama"), options, &|_, _| {});
    let Err(error) = refused.map_err(|e| e.to_string()) else { panic!("loaded") };
    assert!(error.contains("tokens fits"), "{error}");
}
