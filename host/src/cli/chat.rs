//! `littoral chat`: a conversation in the terminal.

use std::path::PathBuf;

use clap::Args;
use rustyline::{DefaultEditor, error::ReadlineError};

use super::ask::Server;
use crate::client::{Connection, Interrupt, Request, Terminal, Turn};

/// A conversation. Ctrl-C ends an answer and keeps the conversation; Ctrl-D leaves.
#[derive(Debug, Args)]
pub struct Chat {
    #[command(flatten)]
    server: Server,
}

const HELP: &str = "\
/new            begin a new conversation
/retry          answer the last question once more
/system TEXT    set the instruction before the conversation (empty: none)
/history        what has been said
/quit           leave (so does Ctrl-D)
Ctrl-C ends an answer; Up and Down walk through what you typed before.";

impl Chat {
    pub fn run(self) -> anyhow::Result<()> {
        let connection = self.server.connect()?;
        let request = self.server.request(&connection)?;
        let interrupt = Interrupt::watch()?;
        let mut editor = DefaultEditor::new()?;
        let typed = history_file();
        if let Some(file) = &typed {
            // The first time there is none.
            let _ = editor.load_history(file);
        }
        println!("{} · /help for commands, Ctrl-D to leave", request.model);
        let mut talk = Talk { connection, request, interrupt, terminal: Terminal::new() };
        loop {
            match editor.readline("› ") {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => {
                    editor.add_history_entry(line.as_str())?;
                    if !talk.take(line.trim()) {
                        break;
                    }
                }
                Err(ReadlineError::Interrupted) => println!("{}", talk.terminal.dim("Ctrl-D leaves")),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(file) = typed {
            std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
            editor.save_history(&file)?;
        }
        Ok(())
    }
}

struct Talk {
    connection: Connection,
    /// Its messages are the conversation.
    request: Request,
    interrupt: Interrupt,
    terminal: Terminal,
}

impl Talk {
    /// Does what a line says; false to leave.
    fn take(&mut self, line: &str) -> bool {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let messages = &mut self.request.messages;
        match command {
            "/quit" | "/exit" => return false,
            "/help" => println!("{HELP}"),
            "/new" => messages.retain(|turn| turn.role == "system"),
            "/system" => {
                messages.retain(|turn| turn.role != "system");
                if !rest.trim().is_empty() {
                    messages.insert(0, Turn::new("system", rest.trim()));
                }
            }
            "/history" => messages.iter().for_each(|turn| println!("{}: {}", turn.role, turn.content)),
            "/retry" => {
                if messages.last().is_some_and(|turn| turn.role == "assistant") {
                    messages.pop();
                }
                match messages.last() {
                    Some(turn) if turn.role == "user" => self.answer(),
                    _ => println!("{}", self.terminal.dim("there is no question yet")),
                }
            }
            _ if line.starts_with('/') => println!("unknown command {command}\n{HELP}"),
            _ => {
                messages.push(Turn::new("user", line));
                self.answer();
            }
        }
        true
    }

    /// Has the last question answered. What fails is told; the conversation stays as it was.
    fn answer(&mut self) {
        self.interrupt.take();
        let mut said = String::new();
        let shown = self
            .connection
            .ask(&self.request)
            .and_then(|pieces| self.terminal.show(&pieces, &self.interrupt, &mut said));
        println!();
        match &shown {
            Ok(Some(answer)) => println!("{}", self.terminal.dim(&answer.summary())),
            Ok(None) => println!("{}", self.terminal.dim("stopped; /retry answers once more")),
            Err(error) => println!("{error:#}\n{}", self.terminal.dim("/retry asks again")),
        }
        if !said.is_empty() {
            self.request.messages.push(Turn::new("assistant", said));
        }
    }
}

/// `$XDG_STATE_HOME/littoral/chat-history`, by default below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("littoral/chat-history"))
}
