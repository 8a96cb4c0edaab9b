//! Answers that other edges keep in a store.

#![no_main]

use libfuzzer_sys::fuzz_target;
use littoral_proto::v1::event::Kind;

#[path = "../../host/src/store/stored.rs"]
mod stored;

fuzz_target!(|data: &[u8]| {
    for bytes in [data.to_vec(), [b"LTA1", data].concat()] {
        if let Some(answer) = stored::Stored::decode(&bytes) {
            assert!(matches!(answer.0.events.last().and_then(|event| event.kind.as_ref()), Some(Kind::Usage(_))));
            assert_eq!(stored::Stored::decode(&answer.encode()).as_ref(), Some(&answer));
        }
    }
});
