//! A token filter: every digit in an answer becomes `#`. Reads and writes events in batches.

use exports::littoral::edge::filtering::Guest;
use littoral::edge::events::{Event, Part};
use wit_bindgen::{StreamReader, StreamResult};

wit_bindgen::generate!({ path: "../../../wit", world: "littoral:edge/filter" });

const BATCH: usize = 32;

struct Redact;
export!(Redact);

impl Guest for Redact {
    async fn filter(mut events: StreamReader<Event>) -> StreamReader<Event> {
        let (mut output, filtered) = wit_stream::new();
        wit_bindgen::spawn(async move {
            loop {
                let (status, batch) = events.read(Vec::with_capacity(BATCH)).await;
                let unread = output.write_all(batch.into_iter().map(redact).collect()).await;
                if !unread.is_empty() || !matches!(status, StreamResult::Complete(_)) {
                    break;
                }
            }
        });
        filtered
    }
}

fn redact(event: Event) -> Event {
    match event {
        Event::Delta(mut delta) => {
            delta.part = match delta.part {
                Part::Text(text) => Part::Text(hide(&text)),
                Part::Reasoning(text) => Part::Reasoning(hide(&text)),
                Part::ToolCall(call) => Part::ToolCall(call),
            };
            Event::Delta(delta)
        }
        other => other,
    }
}

fn hide(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
}
