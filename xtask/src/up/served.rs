//! What the edge serves, asked as a client would: key, guests and the way to the node are all in it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The edge learns of its nodes a moment after it opens.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct List {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The name of the first model that the edge at `address` offers the holder of `key`.
pub fn model(address: &str, key: &str) -> Result<String> {
    let asked = Instant::now();
    loop {
        let answer = get(address, key).with_context(|| format!("cannot ask the edge at {address} for its models"))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let list: Option<List> = serde_json::from_str(body).ok();
        if let Some(model) = list.and_then(|list| list.data.into_iter().next()) {
            return Ok(model.id);
        }
        if asked.elapsed() > PATIENCE {
            bail!("the edge offers no model: {}\n{body}", head.lines().next().unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The whole answer to one request. HTTP/1.0: no chunks, and the connection's end is the answer's.
fn get(address: &str, key: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /v1/models HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
