//! The program itself: what it prints, and how it ends.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use littoral_node::model::{DeviceChoice, Options, estimate};
use littoral_proto::v1::{DescribeRequest, event::Kind, node_client::NodeClient};

use crate::support::{MODEL, chat, model_file, request};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_littoral-node"));
    command.env_remove("LITTORAL_NODE_HTTP_SECRET");
    command
}

fn serve(model: &Path) -> Command {
    let mut command = program();
    command.arg("serve").arg("--model").arg(model);
    command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--device", "cpu", "--kv-tokens", "8192"]);
    command
}

/// A process that is killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a node and reads its ready line: the gRPC address.
    fn start(command: &mut Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words.len() == 4 && words[0] == "ready" && words[2].starts_with("metrics="), "{line:?}");
        let grpc = words[1].strip_prefix("grpc=").unwrap().to_string();
        (Self(child), grpc)
    }

    fn terminate(&self) {
        let status = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

fn fails(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test]
async fn it_says_when_it_is_ready_and_ends_what_runs_before_it_goes() {
    let (mut node, grpc) = Running::start(&mut serve(&model_file()));
    let mut client = NodeClient::connect(format!("http://{grpc}")).await.unwrap();
    let info = client.describe(DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!((info.node.as_str(), info.models[0].name.as_str()), (grpc.as_str(), MODEL));
    let mut chat = chat("Tell me a story about a fisherman.");
    chat.max_tokens = Some(40);
    let mut events = client.generate(request(&chat)).await.unwrap().into_inner();
    assert!(matches!(events.message().await.unwrap().unwrap().kind, Some(Kind::Started(_))));
    node.terminate();
    let mut last = None;
    while let Some(event) = events.message().await.unwrap() {
        last = event.kind;
    }
    assert!(matches!(last, Some(Kind::Usage(usage)) if usage.completion_tokens == 40), "{last:?}");
    assert_eq!(node.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program();
    command.arg("serve").arg("--model").arg(model_file()).args(["--listen", &address, "--metrics", "127.0.0.1:0"]);
    let said = fails(command);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn a_model_that_is_missing_or_broken_is_named() {
    let said = fails(serve(Path::new("/nowhere/model.gguf")));
    assert!(said.contains("/nowhere/model.gguf"), "{said}");
    let broken = std::env::temp_dir().join(format!("littoral-broken-{}.gguf", std::process::id()));
    let whole = std::fs::read(model_file()).unwrap();
    for (bytes, what) in [(&whole[..whole.len() / 2], "half a file"), (b"no model at all".as_slice(), "another file")] {
        std::fs::write(&broken, bytes).unwrap();
        let said = fails(serve(&broken));
        assert!(said.contains("littoral-broken"), "{what}: {said}");
    }
    std::fs::remove_file(&broken).unwrap();
}

#[test]
fn the_side_door_does_not_open_without_a_secret() {
    let mut command = serve(&model_file());
    command.args(["--http", "127.0.0.1:0"]);
    let said = fails(command);
    assert!(said.contains("--http-secret-file") && said.contains("LITTORAL_NODE_HTTP_SECRET"), "{said}");
}

#[test]
fn generate_answers_on_the_terminal() {
    let mut command = program();
    command.arg("generate").arg("--model").arg(model_file());
    let output = command.args(["--prompt", "What is the capital of France? Answer in one sentence."]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "The capital of France is Paris.\n");
    assert!(output.status.success());
}

#[test]
fn inspect_says_what_a_file_holds() {
    let output = program().arg("inspect").arg(model_file()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("134.5M") && said.contains("8192 tokens"), "{said}");
    assert!(said.contains("<|im_end|> (2)") && !said.contains("missing") && !said.contains("not run"), "{said}");
}

/// As with `| head`: whoever reads has seen enough.
#[test]
fn a_reader_that_goes_is_no_error() {
    let (mut inspect, mut generate) = (program(), program());
    inspect.arg("inspect").arg(model_file()).arg("--tensors");
    generate.arg("generate").arg("--model").arg(model_file()).args(["--prompt", "hello", "--max-tokens", "4"]);
    for mut command in [inspect, generate] {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command:?}: {said}");
    }
}

#[test]
fn inspect_says_what_is_wrong_with_a_folder() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny/deepseek-v3");
    let json = |folder: &Path| -> serde_json::Value {
        let output = program().arg("inspect").arg(folder).args(["--json", "--tensors"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let whole = json(&tiny);
    assert_eq!((&whole["architecture"], &whole["tokenizer"]), (&"deepseek_v3".into(), &serde_json::Value::Null));
    assert_eq!(whole["table"].as_array().map(Vec::len), whole["tensors"].as_u64().map(|n| n as usize));
    assert_eq!((whole["missing"].as_array().map(Vec::len), &whole["refused"]), (Some(0), &serde_json::Value::Null));
    let folder = std::env::temp_dir().join(format!("littoral-inspect-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(&tiny).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let layers = whole["table"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["name"].as_str().unwrap().ends_with(".input_layernorm.weight"));
    let more = config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 5");
    assert!(layers.count() < 5 && more != config);
    std::fs::write(folder.join("config.json"), more).unwrap();
    let wrong = json(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let missing = wrong["missing"].as_array().unwrap();
    let norm = missing.iter().find(|t| t["name"] == "model.layers.4.input_layernorm.weight");
    assert_eq!(norm.map(|t| &t["shape"]), Some(&serde_json::json!([48])), "{wrong}");
}

/// A line of `/proc/<pid>/status`, bytes.
fn status(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn it_needs_little_more_memory_than_its_weights() {
    let (node, grpc) = Running::start(&mut serve(&model_file()));
    let mut client = NodeClient::connect(format!("http://{grpc}")).await.unwrap();
    let mut chat = chat("Why is the sea salty?");
    chat.max_tokens = Some(8);
    let mut events = client.generate(request(&chat)).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    let options = Options { device: DeviceChoice::Cpu, ..Options::default() };
    let estimate = estimate(&model_file(), &options).unwrap();
    let kv = 8192 * estimate.kv_bytes_per_token;
    let peak = status(node.0.id(), "VmHWM");
    let most = estimate.weights_bytes * 13 / 10 + kv + (64 << 20);
    println!("peak {peak} bytes; weights {}, KV {kv}, at most {most}", estimate.weights_bytes);
    assert!(peak <= most, "{peak} bytes of {most}");
}

#[test]
fn a_folder_of_token_ids_is_generated_from() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/tiny/llama");
    let logits = std::env::temp_dir().join(format!("littoral-logits-{}.safetensors", std::process::id()));
    let mut command = program();
    command.args(["generate", "--model", folder, "--tokens", "3,14,15,92", "--max-tokens", "5", "--json"]);
    command.args(["--device", "cpu", "--logprobs", "2", "--dump-logits"]).arg(&logits);
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let answer: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(answer["usage"], serde_json::json!({ "prompt_tokens": 4, "completion_tokens": 5 }));
    assert_eq!((&answer["text"], &answer["finish_reason"]), (&serde_json::Value::Null, &"length".into()));
    let steps = answer["logprobs"].as_array().unwrap();
    assert_eq!(steps.len(), 5);
    for (step, token) in steps.iter().zip(answer["tokens"].as_array().unwrap()) {
        // Greedy takes the likeliest.
        assert_eq!((&step["id"], &step["top_logprobs"][0]["id"]), (token, token));
        assert!(step["logprob"].as_f64().unwrap() <= 0.0);
        assert_eq!(step["top_logprobs"].as_array().unwrap().len(), 2);
    }
    let bytes = std::fs::read(&logits).unwrap();
    std::fs::remove_file(&logits).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let dumped = file.tensor("logits").unwrap();
    assert_eq!(dumped.shape()[0], 4);
    let last: Vec<f32> = dumped.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let last = &last[3 * dumped.shape()[1]..];
    let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
    assert_eq!(answer["tokens"][0], best);
    // The same ids as text cannot be: there is no tokenizer.
    let mut command = program();
    command.args(["generate", "--model", folder, "--prompt", "hello"]);
    assert!(fails(command).contains("no tokenizer beside the model"));
    let mut command = program();
    command.args(["serve", "--model", folder, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    assert!(fails(command).contains("no tokenizer"));
}
