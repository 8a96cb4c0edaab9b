//! The log: JSON lines on standard error, written by a thread of its own in batches, so that no request waits for it.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{EnvFilter, Layer, layer::Context, layer::SubscriberExt, util::SubscriberInitExt};

/// Names the variable that says what is logged, in the syntax of `RUST_LOG`; `access=off` silences the request lines.
pub const LOG_VARIABLE: &str = "LITTORAL_LOG";
const DEFAULT: &str = "warn,littoral=info,access=info";

/// Lines of one batch are at most this late.
const BATCH: Duration = Duration::from_millis(5);
/// What may wait for a reader that does not read, bytes; lines beyond it are lost, and counted.
const MOST: usize = 8 << 20;
/// A buffer larger than this is not kept for the next batch, bytes.
const BUFFER: usize = 1 << 20;

/// Writes what is left when it is dropped.
#[must_use]
pub struct Log(Arc<Sink>);

impl Log {
    /// Logs warnings and up from libraries, information from Littoral, or what the variable says.
    pub fn to_stderr() -> anyhow::Result<Self> {
        let filter = match std::env::var(LOG_VARIABLE) {
            Ok(text) => EnvFilter::try_new(&text).map_err(|e| anyhow::anyhow!("{LOG_VARIABLE}='{text}': {e}"))?,
            Err(_) => EnvFilter::new(DEFAULT),
        };
        let sink = Arc::new(Sink::default());
        let lines = Lines(sink.clone()).with_filter(filter);
        tracing_subscriber::registry().with(lines).try_init()?;
        let writer = sink.clone();
        thread::Builder::new().name("log".into()).spawn(move || writer.write_for_ever())?;
        Ok(Self(sink))
    }

    /// Writes what waits.
    pub fn flush(&self) {
        self.0.write();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Lines on their way to standard error.
#[derive(Default)]
struct Sink {
    waiting: Mutex<Waiting>,
    /// The buffer of the batch before, empty. Its owner writes.
    spare: Mutex<Vec<u8>>,
    some: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    lost: u64,
}

impl Sink {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > MOST {
            waiting.lost += 1;
            return;
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        if first {
            self.some.notify_one();
        }
    }

    fn write_for_ever(&self) {
        loop {
            let waiting = self.some.wait_while(self.waiting(), |waiting| waiting.lines.is_empty());
            drop(waiting);
            thread::sleep(BATCH);
            self.write();
        }
    }

    fn write(&self) {
        // Taken first: two writers shall not change places.
        let mut lines = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = {
            let mut waiting = self.waiting();
            std::mem::swap(&mut *lines, &mut waiting.lines);
            std::mem::take(&mut waiting.lost)
        };
        let mut stderr = io::stderr().lock();
        // Nobody is left to tell that standard error cannot be written.
        let _ = stderr.write_all(&lines);
        lines.clear();
        lines.shrink_to(BUFFER);
        if lost > 0 {
            let _ = writeln!(
                stderr,
                r#"{{"level":"WARN","target":"littoral","message":"log lines were lost","lines":{lost}}}"#
            );
        }
    }
}

/// Makes a line of each event.
struct Lines(Arc<Sink>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local!(static LINE: RefCell<(String, Clock)> = const { RefCell::new((String::new(), Clock::new())) });
        LINE.with_borrow_mut(|(line, clock)| {
            line.clear();
            line.push_str("{\"time\":\"");
            clock.write(line, SystemTime::now());
            line.push_str("\",\"level\":\"");
            line.push_str(event.metadata().level().as_str());
            line.push_str("\",\"target\":\"");
            line.push_str(event.metadata().target());
            line.push('"');
            event.record(&mut Fields(line));
            line.push_str("}\n");
            self.0.push(line.as_bytes());
        });
    }
}

/// Writes `,"name":value` for each field.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push_str(",\"");
        self.0.push_str(field.name());
        self.0.push_str("\":");
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        // A string takes every write.
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        text(self.0, |out| out.write_str(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        text(self.0, |out| write!(out, "{value:?}"));
    }
}

/// What is written, as a JSON string.
fn text(out: &mut String, write: impl FnOnce(&mut Escaped<'_>) -> fmt::Result) {
    out.push('"');
    // A string takes every write.
    let _ = write(&mut Escaped(out));
    out.push('"');
}

/// Writes what stands in a JSON string, control characters in a form that no terminal obeys.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, value: &str) -> fmt::Result {
        let out = &mut *self.0;
        let mut rest = value;
        // Bytes, because nearly all are plain; 0xc2 begins the control characters beyond ASCII, and others.
        while let Some(at) = rest.bytes().position(|b| b < b' ' || matches!(b, b'"' | b'\\' | 0x7f | 0xc2)) {
            out.push_str(&rest[..at]);
            let special = rest[at..].chars().next().unwrap_or_default();
            match special {
                '"' | '\\' => out.extend(['\\', special]),
                '\n' => out.push_str("\\n"),
                control if control.is_control() => write!(out, "\\u{:04x}", control as u32)?,
                other => out.push(other),
            }
            rest = &rest[at + special.len_utf8()..];
        }
        out.push_str(rest);
        Ok(())
    }
}

/// Writes the time of lines; most lines share their second with the one before.
struct Clock {
    second: u64,
    /// As it is written.
    shown: String,
}

impl Clock {
    const fn new() -> Self {
        Self { second: u64::MAX, shown: String::new() }
    }

    /// UTC with milliseconds (RFC 3339).
    fn write(&mut self, out: &mut String, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            self.shown.clear();
            date(&mut self.shown, self.second);
        }
        let _ = write!(out, "{}.{:03}Z", self.shown, since.subsec_millis());
    }
}

/// A second of Unix time as UTC. After Hinnant, "chrono-compatible low-level date algorithms".
fn date(out: &mut String, seconds: u64) {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01; eras of 400 years have 146,097 days.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let second = second % 60;
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (951_782_400_124, "2000-02-29T00:00:00.124Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_795_403_806_005, "2026-11-23T03:16:46.005Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        let mut clock = Clock::new();
        for (ms, expected) in table {
            let mut text = String::new();
            clock.write(&mut text, SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn every_line_is_json_whatever_is_in_it() {
        let sink = Arc::new(Sink::default());
        let nasty = "quote \" backslash \\ newline \n tab \t bell \u{7} nul \0 next line \u{85} ümlaut 🌊";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Lines(sink.clone())), || {
            tracing::info!(target: "access", nasty, number = 7_u64, debug = ?Some(nasty), done = true, "a {}", nasty);
        });
        let lines = std::mem::take(&mut sink.waiting().lines);
        let line: serde_json::Value = serde_json::from_slice(&lines).unwrap();
        assert_eq!(line["nasty"], nasty);
        assert_eq!(line["message"], format!("a {nasty}"));
        assert_eq!((&line["number"], &line["done"], &line["target"]), (&7.into(), &true.into(), &"access".into()));
        assert!(lines.ends_with(b"}\n"));
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let sink = Sink::default();
        let line = vec![b'x'; MOST / 2];
        (0..5).for_each(|_| sink.push(&line));
        let waiting = sink.waiting();
        assert_eq!((waiting.lines.len(), waiting.lost), (MOST, 3));
    }
}
