//! Questions whose answers edges keep and share, and what is said of them.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    artefact,
    client::{Answer, Client},
    edge::{Edge, Setup},
    instant_node::{InstantNode, MODEL},
    process,
};

/// What a node of the default script answers.
pub const TEXT: &str = "t1 t2 t3 t4 t5 ";

pub fn ask(prompt: &str, stream: bool) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "stream": stream})
}

/// An edge that shares answers at `url` and waits `timeout_ms` for it.
pub fn edge(node: &InstantNode, url: &str, timeout_ms: u32) -> Edge {
    sharing(Edge::to(&[node.address()]), url, timeout_ms).start()
}

/// The same of an edge before other nodes.
pub fn sharing(setup: Setup, url: &str, timeout_ms: u32) -> Setup {
    setup.with("store", &format!("answers = '{url}'\nanswers_timeout_ms = {timeout_ms}"))
}

/// How many purges the edge has carried out, as its log says.
pub fn purges(edge: &Edge) -> usize {
    edge.process.log().matches("answers purged").count()
}

/// Has what edges keep and share at `url` purged, as these arguments of `littoral cache purge` say.
pub fn purge(url: &str, which: &[&str]) {
    let mut command = Command::new(artefact::binary("littoral"));
    command.args(["cache", "purge", "--store", url]).args(which);
    let ended = process::run("purge", command, Duration::from_secs(20));
    assert!(ended.status.success(), "{}", ended.said);
}

/// The text of an answer in either form, and what the cache says of it.
pub async fn read(answer: Answer, stream: bool) -> (String, String) {
    let said = answer.header("x-littoral-cache").split(';').next().unwrap_or_default().to_string();
    let text = if stream {
        let transcript = answer.events().transcript().await;
        assert!(transcript.done, "{transcript:?}");
        transcript.text()
    } else {
        answer.ok().await["choices"][0]["message"]["content"].as_str().unwrap().into()
    };
    (text, said)
}

/// What the cache says of the answer to `prompt`, which is [`TEXT`].
pub async fn said(client: &Client, prompt: &str) -> String {
    let (text, said) = read(client.chat(&ask(prompt, false)).await, false).await;
    assert_eq!(text, TEXT);
    said
}
