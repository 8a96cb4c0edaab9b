//! What a terminal shows, and the interrupt key.

use std::{
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::answer::{Answer, Piece};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C, as a question one can ask.
pub struct Interrupt;

impl Interrupt {
    /// From here on Ctrl-C does not end the program; it is noticed where it matters.
    pub fn watch() -> anyhow::Result<Self> {
        ctrlc::set_handler(|| INTERRUPTED.store(true, Relaxed))?;
        Ok(Self)
    }

    /// Whether it came since the last question.
    pub fn take(&self) -> bool {
        INTERRUPTED.swap(false, Relaxed)
    }
}

/// Writes answers so that a model cannot steer the terminal.
pub struct Terminal {
    colours: bool,
}

/// How often a silent answer is interrupted to look for Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);

impl Terminal {
    pub fn new() -> Self {
        Self { colours: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Shows an answer as it comes. None when Ctrl-C ended it; the text so far is in `said` either way.
    pub fn show(
        &self,
        pieces: &Receiver<anyhow::Result<Piece>>,
        interrupt: &Interrupt,
        said: &mut String,
    ) -> anyhow::Result<Option<Answer>> {
        let mut out = io::stdout().lock();
        loop {
            if interrupt.take() {
                return Ok(None);
            }
            match pieces.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the answer broke off"),
                Ok(piece) => match piece? {
                    Piece::End(answer) => return Ok(Some(*answer)),
                    Piece::Reasoning(text) => write!(out, "{}", self.dim(&harmless(&text)))?,
                    Piece::Text(text) => {
                        write!(out, "{}", harmless(&text))?;
                        said.push_str(&text);
                    }
                },
            }
            out.flush()?;
        }
    }

    /// Text of lesser weight, where the terminal knows such a thing.
    pub fn dim(&self, text: &str) -> String {
        if self.colours { format!("\x1b[2m{text}\x1b[0m") } else { text.to_string() }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

/// Control characters become visible: an escape sequence in an answer moves no cursor and sets no title.
fn harmless(text: &str) -> String {
    let show = |c: char| match c {
        '\n' | '\t' => c,
        // Unicode's pictures of the C0 controls and of DEL.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        // C1 controls, and marks that reorder what is read.
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ => c,
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn an_answer_steers_no_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\x07\r\n\tc\u{9b}\u{202e}"), "a␛[2Jb␇␍\n\tc\u{fffd}\u{fffd}");
    }
}
