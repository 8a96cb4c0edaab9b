//! A token filter that never comes back from its first event.

use exports::littoral::edge::filtering::Guest;
use littoral::edge::events::Event;
use wit_bindgen::StreamReader;

wit_bindgen::generate!({ path: "../../../wit", world: "littoral:edge/filter" });

struct Stuck;
export!(Stuck);

impl Guest for Stuck {
    async fn filter(mut events: StreamReader<Event>) -> StreamReader<Event> {
        let (output, filtered) = wit_stream::new::<Event>();
        wit_bindgen::spawn(async move {
            let _kept_open = output;
            events.next().await;
            let mut n = 0u64;
            loop {
                n = std::hint::black_box(n.wrapping_add(1));
            }
        });
        filtered
    }
}
