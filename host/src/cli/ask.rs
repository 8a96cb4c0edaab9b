//! `littoral ask`: one question, one answer.

use std::io::{self, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use clap::Args;

use crate::client::{Connection, Interrupt, Piece, Request, Terminal, Turn};

/// How to reach a server and what to ask it for.
#[derive(Debug, Args)]
pub struct Server {
    /// The edge, or any server of the same API.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "LITTORAL_URL")]
    url: String,
    /// API key; without one, that of `cargo xtask up` in this folder.
    #[arg(long, env = "LITTORAL_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Model; without one, the first that the server offers.
    #[arg(long)]
    model: Option<String>,
    /// Instruction that stands before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 (greedy) to 2.
    #[arg(long)]
    temperature: Option<f64>,
    /// Same seed, same answer.
    #[arg(long)]
    seed: Option<i64>,
}

impl Server {
    pub fn connect(&self) -> anyhow::Result<Connection> {
        Connection::new(&self.url, self.key.clone())
    }

    /// A request without messages.
    pub fn request(&self, connection: &Connection) -> anyhow::Result<Request> {
        Ok(Request {
            model: connection.model(self.model.clone())?,
            messages: self.system.iter().map(|text| Turn::new("system", text)).collect(),
            stream: true,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            seed: self.seed,
        })
    }
}

/// Asks one question; the answer streams to standard output. Ctrl-C ends it (exit code 130).
#[derive(Debug, Args)]
pub struct Ask {
    #[command(flatten)]
    server: Server,
    /// One JSON document with the answer, its usage and timing, for scripts.
    #[arg(long)]
    json: bool,
    /// The question; `-` or none reads standard input.
    question: Vec<String>,
}

impl Ask {
    pub fn run(self) -> anyhow::Result<()> {
        let question = question(&self.question)?;
        let connection = self.server.connect()?;
        let mut request = self.server.request(&connection)?;
        request.messages.push(Turn::new("user", question));
        if self.json {
            return document(&connection, &request);
        }
        let interrupt = Interrupt::watch()?;
        let terminal = Terminal::new();
        let answer = terminal.show(&connection.ask(&request)?, &interrupt, &mut String::new())?;
        println!();
        match answer {
            Some(answer) if io::stderr().is_terminal() => eprintln!("{}", terminal.dim(&answer.summary())),
            Some(_) => {}
            // 128 + SIGINT, as a shell reports it.
            None => std::process::exit(130),
        }
        Ok(())
    }
}

fn document(connection: &Connection, request: &Request) -> anyhow::Result<()> {
    for piece in connection.ask(request)? {
        if let Piece::End(answer) = piece? {
            let mut out = io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &answer)?;
            writeln!(out)?;
            return Ok(());
        }
    }
    bail!("the answer broke off")
}

fn question(words: &[String]) -> anyhow::Result<String> {
    let mut text = words.join(" ");
    if text.is_empty() || text == "-" {
        if text.is_empty() && io::stdin().is_terminal() {
            bail!("no question: `littoral ask \"Why is the sky blue?\"`, or pipe one in");
        }
        text.clear();
        io::stdin().read_to_string(&mut text).context("standard input is not UTF-8 text")?;
    }
    if text.trim().is_empty() {
        bail!("the question is empty");
    }
    Ok(text)
}
