//! The same checkpoints out of GGUF files (`golden/to_gguf.py`): other names, other forms of some matrices, one answer.

use std::fs;
use std::path::PathBuf;

use littoral_node::model::{Arithmetic, DeviceChoice, Model, Options};

use super::cases::{Case, assert_close, folder, run, table};

fn load(path: PathBuf) -> Model {
    let device = DeviceChoice::Cpu;
    let options = Options { device, kv_blocks: 16, arithmetic: Arithmetic::Exact, ..Options::default() };
    Model::load(&path, options, &|_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn file(case: &str) -> PathBuf {
    folder().join(format!("../gguf/{case}.gguf"))
}

/// Llama's turned rows and its tensor of divisors; the latent projection whole, and in two pieces.
#[test]
fn files_answer_what_the_reference_answers() {
    for case in ["llama", "deepseek-v2-lite", "deepseek-v3"].map(Case::open) {
        let mut model = load(file(case.name));
        for prompt in &case.prompts {
            let logits = run(&mut model, &prompt.ids, 0, &table(prompt.ids.len(), 1, 2));
            assert_close(&logits, &prompt.logits, &format!("{}.gguf, {}", case.name, prompt.name));
        }
    }
}

/// The file cannot say that some layers see a window only, so that the folder is read without one too.
#[test]
fn a_file_answers_what_its_folder_answers() {
    let case = Case::open("qwen2");
    let copy = std::env::temp_dir().join(format!("littoral-gguf-{}", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    let mut config = case.config.clone();
    config["use_sliding_window"] = false.into();
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    fs::copy(folder().join("qwen2/model.safetensors"), copy.join("model.safetensors")).unwrap();
    let mut models = [load(file("qwen2")), load(copy.clone())];
    for prompt in &case.prompts {
        let blocks = table(prompt.ids.len(), 1, 2);
        let [is, ought] = models.each_mut().map(|model| run(model, &prompt.ids, 0, &blocks));
        assert_close(&is, &ought, &format!("qwen2.gguf, {}", prompt.name));
    }
    fs::remove_dir_all(copy).unwrap();
}
