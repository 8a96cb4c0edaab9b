//! The command line as people and scripts use it: `ask`, `chat` in a terminal, `models`, `generate`, `inspect`,
//! `completions`.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock, time::Duration};

use littoral_tests::{
    artefact,
    edge::Edge,
    node::{MODEL, Node},
    process::{Ended, run},
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

fn edge() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(|| Edge::to(&[Node::shared().grpc]).start())
}

/// `littoral` with these arguments, in a home of its own.
fn littoral(arguments: &[&str]) -> Command {
    let mut command = Command::new(artefact::binary("littoral"));
    let home = artefact::scratch("home");
    command.args(arguments).current_dir(&home).env("HOME", &home);
    command.env("XDG_CACHE_HOME", home.join("cache")).env("XDG_STATE_HOME", home.join("state"));
    command
}

/// The same, before the edge.
fn at_edge(arguments: &[&str]) -> Command {
    let mut command = littoral(arguments);
    command.env("LITTORAL_URL", format!("http://{}", edge().http)).env("LITTORAL_API_KEY", &edge().keys.acme);
    command
}

fn done(command: Command) -> String {
    let Ended { status, said } = run("cli", command, LIMIT);
    assert!(status.success(), "{status}\n{said}");
    said
}

/// Ended with exit code 1, and named everything in `words`.
fn refused(command: Command, words: &[&str]) {
    let ended = run("cli", command, LIMIT);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
    ended.names(words);
}

/// A shell runs `script`, where `"$@"` is the command.
fn shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell
}

#[test]
fn a_question_is_answered_as_text_and_as_a_document() {
    let ask = ["ask", "--temperature", "0", "--max-tokens", "12", "What is a tide?"];
    let text = done(at_edge(&ask));
    let document = done(at_edge(&[&ask[..], &["--json"]].concat()));
    let document: Value = serde_json::from_str(&document).unwrap_or_else(|e| panic!("{e}: {document}"));
    assert_eq!(document["content"].as_str().unwrap().trim(), text.trim());
    assert_eq!((&document["model"], &document["finish_reason"]), (&MODEL.into(), &"length".into()), "{document}");
    let tokens = |name: &str| document["usage"][name].as_u64().unwrap();
    assert_eq!(tokens("completion_tokens"), 12);
    assert_eq!(tokens("total_tokens"), tokens("prompt_tokens") + tokens("completion_tokens"));
    assert!(document["request_id"].is_string() && document["node"].is_string(), "{document}");
}

#[test]
fn a_question_comes_from_standard_input() {
    let piped = |script: &str, rest: &[&str]| {
        let ask = ["ask", "--temperature", "0", "--max-tokens", "8", "--system", "Be brief."];
        done(shell(script, &at_edge(&[&ask[..], rest].concat())))
    };
    let given = piped("exec \"$@\"", &["What is a tide?"]);
    assert_eq!(piped("printf 'What is a tide?' | \"$@\"", &[]), given);
    assert_eq!(piped("printf 'What is a tide?' | \"$@\"", &["-"]), given);
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    refused(at_edge(&["ask", "--key", "lk_wrong_key", "hello"]), &["401", "key"]);
    refused(littoral(&["ask", "hello"]), &["no API key", "--key", "LITTORAL_API_KEY"]);
    let down = ["ask", "--url", "http://127.0.0.1:1", "--key", "lk_a_b", "hello"];
    refused(littoral(&down), &["127.0.0.1:1", "cannot be reached", "cargo xtask up"]);
    refused(at_edge(&["ask", "--url", "localhost:8080", "hello"]), &["http://"]);
    refused(at_edge(&["ask", "  "]), &["the question is empty"]);
    refused(at_edge(&["ask", "--model", "no-such-model", "hello"]), &["no-such-model", "/v1/models"]);
}

/// Types into a terminal: each step waits for a text in what came since the last step, then sends its own.
const TERMINAL: &str = r#"
import json, os, pty, select, signal, sys, time
steps, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execv(command[0], command)
signal.alarm(80)
said = b""
def read():
    global said
    try: piece = os.read(terminal, 65536) if select.select([terminal], [], [], 0.1)[0] else None
    except OSError: piece = b""
    if piece: said += piece; sys.stdout.buffer.write(piece); sys.stdout.flush()
    return piece
for wait, send in steps:
    while wait.encode() not in said:
        if read() == b"": sys.exit(f"ended before {wait!r}")
    said = said.split(wait.encode(), 1)[1]
    time.sleep(0.3)
    os.write(terminal, send.encode())
while read() != b"": pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn in_terminal(command: &Command, steps: &[(&str, &str)]) -> String {
    let mut python = shell("exec python3 -c \"$SCRIPT\" \"$STEPS\" \"$@\"", command);
    python.env("SCRIPT", TERMINAL).env("STEPS", serde_json::to_string(steps).unwrap());
    done(python)
}

#[test]
fn a_conversation_keeps_what_was_said() {
    let chat = at_edge(&["chat", "--temperature", "0", "--max-tokens", "8"]);
    let steps = [
        ("Ctrl-D", "What is a tide?\r"),
        ("TTFT", "And the moon?\r"),
        ("TTFT", "/history\r"),
        ("user: And the moon?", "/nonsense\r"),
        ("unknown command /nonsense", "/quit\r"),
    ];
    let said = in_terminal(&chat, &steps);
    let (_, history) = said.rsplit_once("user: What is a tide?").unwrap_or_else(|| panic!("{said}"));
    assert!(history.contains("assistant: "), "{said}");
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_the_conversation() {
    let chat = at_edge(&["chat", "--temperature", "0", "--max-tokens", "6000"]);
    let steps = [
        ("Ctrl-D", "Tell me a very long story about the sea.\r"),
        ("sea.", ""),
        (" the ", "\u{3}"),
        ("stopped", "/history\r"),
        ("user: Tell me a very long story", "\u{4}"),
    ];
    let said = in_terminal(&chat, &steps);
    assert!(said.contains("assistant: "), "{said}");
}

#[test]
fn model_files_are_listed_and_removed() {
    let list = littoral(&["models", "list", "--json"]);
    let cache = list.get_envs().find_map(|(name, value)| (name == "XDG_CACHE_HOME").then_some(value?)).unwrap();
    let cache = PathBuf::from(cache);
    let here = |arguments: &[&str]| {
        let mut command = littoral(arguments);
        command.env("XDG_CACHE_HOME", &cache);
        command
    };
    let listed = || serde_json::from_str::<Value>(&done(here(&["models", "list", "--json"]))).unwrap();
    assert_eq!(listed(), serde_json::json!([]));
    let shelf = cache.join("littoral/models");
    fs::create_dir_all(&shelf).unwrap();
    fs::write(shelf.join("tiny.gguf"), b"GGUF and more").unwrap();
    assert_eq!((&listed()[0]["name"], &listed()[0]["bytes"]), (&"tiny.gguf".into(), &13.into()));
    done(here(&["models", "rm", "tiny.gguf"]));
    assert_eq!(listed(), serde_json::json!([]));
    refused(here(&["models", "rm", "tiny.gguf"]), &["tiny.gguf"]);
    refused(here(&["models", "pull", "no-such-model"]), &["no-such-model", MODEL, "owner/repository/file.gguf"]);
}

/// A small random checkpoint, without a tokenizer.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../backend/golden/tiny/llama");

#[test]
fn the_nodes_commands_are_the_nodes_own() {
    let generate = ["generate", "--model", TINY, "--tokens", "1,2,3", "--max-tokens", "4", "--device", "cpu", "--json"];
    let inspect = ["inspect", TINY];
    let node = |arguments: &[&str]| {
        let mut command = Command::new(artefact::binary("littoral-node"));
        command.args(arguments);
        done(command)
    };
    let said = done(littoral(&generate));
    let document: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(document["usage"], serde_json::json!({ "prompt_tokens": 3, "completion_tokens": 4 }), "{document}");
    assert_eq!((document["tokens"].as_array().unwrap().len(), &document["finish_reason"]), (4, &"length".into()));
    assert_eq!(said, node(&generate));
    assert_eq!(done(littoral(&inspect)), node(&inspect));
    assert!(done(littoral(&["generate", "--help"])).contains("--dump-logits"));
    refused(littoral(&["generate", "--model", "/no/such/model", "--prompt", "hello"]), &["error: ", "/no/such/model"]);
    // The exit status is the node's: 2 stands for arguments that cannot be read.
    let ended = run("cli", littoral(&["generate", "--no-such-flag"]), LIMIT);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.said);
    ended.names(&["--no-such-flag"]);
}

#[test]
fn a_node_that_is_not_installed_is_missed_by_name() {
    let dir = artefact::scratch("alone");
    let alone = dir.join("littoral");
    fs::copy(artefact::binary("littoral"), &alone).unwrap();
    let command = || {
        let mut command = Command::new(&alone);
        command.args(["inspect", TINY]);
        command
    };
    let mut nowhere = command();
    nowhere.env("PATH", &dir);
    refused(nowhere, &["littoral-node", dir.to_str().unwrap(), "PATH", "cargo xtask build"]);
    let mut on_path = command();
    on_path.env("PATH", artefact::binary("littoral-node").parent().unwrap());
    done(on_path);
}

#[test]
fn shells_complete_every_command() {
    for name in ["bash", "zsh", "fish"] {
        let script = done(littoral(&["completions", name]));
        for command in ["serve", "ask", "chat", "models", "generate", "inspect", "key", "completions"] {
            assert!(script.contains(command), "{name}: no {command}");
        }
    }
}
