//! Bodies of chat requests: parsed once, and the canonical form is a fixed point.

#![no_main]

use libfuzzer_sys::fuzz_target;
use littoral_core::chat::ChatRequest;

fuzz_target!(|data: &[u8]| {
    match ChatRequest::from_client(data) {
        Ok(request) => {
            let bytes = request.to_bytes();
            let again = ChatRequest::canonical(&bytes).expect("what the edge sends can be read");
            assert_eq!(again.to_bytes(), bytes, "the canonical form of the canonical form is another");
        }
        Err(denial) => assert!((400..500).contains(&denial.status), "{}", denial.status),
    }
});
