//! Whole models: folders and GGUF files that are right, and those that lack something.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{gguf::tests::Writer, *};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("littoral-weights-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = Self::new();
        files.iter().for_each(|(name, bytes)| folder.write(name, bytes));
        folder
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn open(&self) -> Result<Checkpoint, FileError> {
        Checkpoint::open(&self.0)
    }

    fn refused(&self) -> String {
        let error = self.open().err().map(|e| e.to_string()).expect("opened");
        assert!(error.starts_with(&*self.0.to_string_lossy()), "{error}");
        error
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file of `[2, 2]` matrices in f32, each filled with a number.
fn tensors(all: &[(&str, f32)]) -> Vec<u8> {
    let entry = |(i, (name, _)): (usize, &(&str, f32))| {
        format!(r#""{name}":{{"dtype":"F32","shape":[2,2],"data_offsets":[{},{}]}}"#, 16 * i, 16 * i + 16)
    };
    let header = format!("{{{}}}", all.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    all.iter().for_each(|(_, x)| out.extend(x.to_le_bytes().repeat(4)));
    out
}

fn first(checkpoint: &Checkpoint, name: &str) -> Option<f32> {
    let tensor = checkpoint.tensor(name)?;
    tensor.bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes))
}

const CONFIG: (&str, &[u8]) = ("config.json", br#"{"model_type": "llama", "eos_token_id": 2}"#);
const INDEX: &str = "model.safetensors.index.json";

#[test]
fn one_file_goes_before_an_index_and_an_index_before_what_lies_there() {
    let folder = Folder::with(&[CONFIG]);
    folder.write("b.safetensors", tensors(&[("b", 2.0)]));
    folder.write("a.safetensors", tensors(&[("a", 1.0), ("moved", 9.0)]));
    let both = folder.open().unwrap();
    assert_eq!(both.names().collect::<Vec<_>>(), ["a", "b", "moved"]);
    assert_eq!((first(&both, "a"), first(&both, "b"), first(&both, "c")), (Some(1.0), Some(2.0), None));
    assert_eq!((both.bytes(), both.generation().eos_token_ids.as_slice()), (48, &[2][..]));
    let info: Vec<_> = both.table().map(|t| (t.name, t.kind, t.shape.to_vec(), t.bytes)).collect();
    assert_eq!(info[1], ("b", Kind::F32, vec![2, 2], 16));

    folder.write("c.safetensors", tensors(&[("moved", 3.0), ("unlisted", 4.0)]));
    folder.write(INDEX, r#"{"weight_map": {"a": "a.safetensors", "moved": "c.safetensors"}}"#);
    let indexed = folder.open().unwrap();
    assert_eq!(indexed.names().collect::<Vec<_>>(), ["a", "moved", "unlisted"]);
    assert_eq!(first(&indexed, "moved"), Some(3.0));

    folder.write("model.safetensors", tensors(&[("whole", 5.0)]));
    assert_eq!(folder.open().unwrap().names().collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn shards_that_are_missing_or_wrong_are_named() {
    let folder = Folder::with(&[CONFIG]);
    folder.write("one.safetensors", tensors(&[("a", 1.0)]));
    let index = |map: &str| folder.write(INDEX, format!(r#"{{"weight_map": {map}}}"#));
    index(r#"{"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}"#);
    assert!(folder.refused().contains("1 of 2 shards are missing, two.safetensors first"));
    index(r#"{"a": "one.safetensors", "b": "one.safetensors"}"#);
    assert!(folder.refused().contains("one.safetensors: the tensor 'b' is not in it, though model.safetensors.index"));
    for outside in ["../one.safetensors", "/etc/passwd", "..", "sub/one.safetensors", ""] {
        index(&format!(r#"{{"a": "{outside}"}}"#));
        assert!(folder.refused().contains("no file's name"), "{outside}");
    }
    index(r#"{"a": 7}"#);
    assert!(folder.refused().contains("tensor 'a' is said to be in 7"));
    index("{}");
    assert!(folder.refused().contains("names no tensor"));
    folder.write(INDEX, "[]");
    assert!(folder.refused().contains("no JSON object"));
    folder.write(INDEX, "{}");
    assert!(folder.refused().contains("no 'weight_map'"));
    fs::remove_file(folder.0.join(INDEX)).unwrap();
    folder.write("two.safetensors", tensors(&[("a", 1.0)]));
    assert!(folder.refused().contains("the tensor 'a' is in one.safetensors and in two.safetensors"));
    folder.write("two.safetensors", &tensors(&[("b", 1.0)])[..40]);
    assert!(folder.refused().contains("two.safetensors: cut short"));
}

#[test]
fn folders_without_a_model_say_what_they_hold() {
    let folder = Folder::new();
    assert!(folder.refused().contains("no model here: a model folder holds config.json and *.safetensors"));
    folder.write("m.gguf", "GGUF");
    assert!(folder.refused().contains("name one of them, m.gguf perhaps"));
    let pickled = Folder::with(&[CONFIG, ("pytorch_model.bin", b"PK")]);
    assert!(pickled.refused().contains("pickled"));
    let pointer = Folder::with(&[("config.json", b"version https://git-lfs.example/spec/v1\n")]);
    assert!(pointer.refused().contains("git lfs pull"));
    let odd = Folder::with(&[("config.json", b"{}"), ("generation_config.json", br#"{"eos_token_id": -1}"#)]);
    assert!(odd.refused().contains("generation_config.json: 'eos_token_id' is -1"));
    let nowhere = Checkpoint::open(Path::new("/no/such/model")).err().map(|e| e.to_string());
    assert!(nowhere.unwrap_or_default().starts_with("/no/such/model: "));
    folder.write("x.safetensors", "");
    let part = Checkpoint::open(&folder.0.join("x.safetensors")).err().map(|e| e.to_string());
    assert!(part.unwrap_or_default().contains("name the folder"));
}

#[test]
fn a_model_that_is_not_known_is_named_and_its_code_not_run() {
    let weights = tensors(&[("a", 1.0)]);
    let error = |config: &str| {
        let folder = Folder::with(&[("config.json", config.as_bytes()), ("model.safetensors", &weights)]);
        folder.open().unwrap().unknown_model(&["llama", "qwen2"]).to_string()
    };
    let plain = error(r#"{"model_type": "mamba"}"#);
    assert!(plain.ends_with("the architecture 'mamba' is not run here; llama, qwen2 are"), "{plain}");
    let code = error(r#"{"model_type": "kimi", "auto_map": {"AutoModel": "m.M"}}"#);
    assert!(code.contains("Python code of its own") && code.contains("none of that is ever run"), "{code}");
    assert!(error("{}").contains("names no 'model_type'"));
}

#[test]
fn a_fingerprint_changes_with_every_part() {
    let weights = |x: f32| tensors(&[("a", 1.0), ("b", x)]);
    let folder = Folder::with(&[CONFIG, ("model.safetensors", &weights(1.0))]);
    let mut seen = vec![folder.open().unwrap().fingerprint().unwrap()];
    assert_eq!(folder.open().unwrap().fingerprint().unwrap(), seen[0]);
    let changes: [(&str, Vec<u8>); 5] = [
        ("model.safetensors", weights(2.0)),
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{}".to_vec()),
    ];
    for (name, bytes) in changes {
        folder.write(name, bytes);
        let print = folder.open().unwrap().fingerprint().unwrap();
        assert!(!seen.contains(&print), "{name}");
        seen.push(print);
    }
}

#[test]
fn names_are_those_of_the_model() {
    let folder = Folder::new();
    let snapshot = folder.0.join("models--owner--Some-Model/snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    assert_eq!(name(&snapshot), "Some-Model");
    assert_eq!(name(&folder.0), folder.0.file_name().unwrap().to_string_lossy());
    assert_eq!(name(Path::new("/m/Model.Q4_1.gguf")), "Model.Q4_1");
    assert_eq!(name(Path::new("/m/Model-Q4-00001-of-00003.gguf")), "Model-Q4");
    assert_eq!(name(Path::new(".")), std::env::current_dir().unwrap().file_name().unwrap().to_string_lossy());
}

const LATENT: [(&str, u32); 15] = [
    ("embedding_length", 4),
    ("block_count", 1),
    ("attention.head_count", 2),
    ("context_length", 32),
    ("feed_forward_length", 8),
    ("rope.dimension_count", 2),
    ("attention.kv_lora_rank", 3),
    ("attention.key_length", 5),
    ("attention.key_length_mla", 4),
    ("attention.value_length_mla", 1),
    ("expert_count", 4),
    ("expert_used_count", 2),
    ("expert_shared_count", 1),
    ("expert_feed_forward_length", 8),
    ("leading_dense_block_count", 1),
];

/// A part of a model of DeepSeek's architecture: its metadata, and tensors with their dimensions, filled with a byte.
fn part(no: u32, count: u32, tensors: &[(&str, &[u64])]) -> Vec<u8> {
    let eps = "deepseek2.attention.layer_norm_rms_epsilon";
    let mut writer = Writer::new(tensors.len() as u64, LATENT.len() as u64 + 4);
    writer = writer.string("general.architecture").u32(8).string("deepseek2");
    writer = writer.string(eps).u32(6).raw(&1e-6f32.to_le_bytes());
    writer = writer.string("split.no").u32(4).u32(no).string("split.count").u32(4).u32(count);
    for (key, value) in LATENT {
        writer = writer.string(&format!("deepseek2.{key}")).u32(4).u32(value);
    }
    let mut offset = 0;
    for (name, dims) in tensors {
        writer = writer.tensor(name, dims, 0, offset);
        offset = (offset + 4 * dims.iter().product::<u64>()).next_multiple_of(32);
    }
    writer.data(offset as usize).0
}

#[test]
fn parts_of_a_gguf_model_are_one_and_its_names_are_hugging_faces() {
    let folder = Folder::new();
    let path = folder.0.join("m-00001-of-00002.gguf");
    folder.write("m-00001-of-00002.gguf", part(0, 2, &[("token_embd.weight", &[4, 8])]));
    let error = |path: &Path| Checkpoint::open(path).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error(&path).contains("m-00002-of-00002.gguf: one of the model's 2 parts is not there"));
    let experts: &[(&str, &[u64])] = &[
        ("blk.0.attn_k_b.weight", &[2, 3, 2]),
        ("blk.0.attn_v_b.weight", &[3, 1, 2]),
        ("blk.0.ffn_gate_exps.weight", &[4, 8, 4]),
        ("blk.0.exp_probs_b.bias", &[4]),
        ("blk.0.unheard_of.weight", &[4]),
    ];
    folder.write("m-00002-of-00002.gguf", part(1, 2, experts));
    let model = Checkpoint::open(&path).unwrap();
    let expected = [
        "blk.0.unheard_of.weight",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.experts.gate_proj.weight",
        "model.layers.0.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.kv_b_proj.weight",
    ];
    assert_eq!(model.names().collect::<Vec<_>>(), expected);
    assert_eq!(model.tensor(expected[2]).unwrap().shape, [4, 8, 4]);
    let joined = model.tensor(expected[4]).unwrap();
    assert_eq!((joined.kind, joined.shape.as_slice(), joined.bytes.len()), (Kind::F32, &[6, 3][..], 72));
    model.forget(&joined);
    assert_eq!(model.tensor(expected[4]), Some(joined));
    assert_eq!(model.bytes(), 4 * (32 + 12 + 6 + 128 + 4 + 4));
    assert_eq!((model.name(), model.config()["v_head_dim"].as_u64()), ("m".into(), Some(1)));
    assert_eq!(model.fingerprint().unwrap().len(), 64);

    assert!(error(&folder.0.join("m-00002-of-00002.gguf")).contains("'split.no' is 1; expected 0: name the first"));
    folder.write("renamed.gguf", part(0, 2, &[("token_embd.weight", &[4, 8])]));
    assert!(error(&folder.0.join("renamed.gguf")).contains("which are found by their names"));
    folder.write("m-00002-of-00002.gguf", part(1, 2, &[("token_embd.weight", &[4, 8])]));
    assert!(error(&path).contains("'token_embd.weight' is used twice"));
    folder.write("m-00002-of-00002.gguf", part(1, 2, &[("blk.0.attn_k_b.weight", &[2, 3, 2])]));
    let alone = Checkpoint::open(&path).unwrap();
    assert!(alone.names().any(|name| name == "model.layers.0.self_attn.k_b_proj.weight"));
}

/// The checkpoints that golden tests compute with: every kind of file and of element.
#[test]
fn the_tiny_checkpoints_open() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny");
    let mut kinds = std::collections::BTreeSet::new();
    for entry in fs::read_dir(tiny).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let model = Checkpoint::open(&entry.path()).unwrap();
        assert!(model.config().contains_key("model_type") && model.names().len() > 10);
        assert!(
            model.names().all(|name| !name.ends_with(".logits")),
            "the reference beside the model is no part of it"
        );
        kinds.extend(model.table().map(|t| t.kind.to_string()));
    }
    for kind in ["F32", "BF16", "F16", "F8_E4M3", "F8_E8M0", "I8"] {
        assert!(kinds.contains(kind), "no tiny checkpoint holds {kind}");
    }
}
