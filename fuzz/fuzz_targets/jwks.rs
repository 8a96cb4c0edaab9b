//! JSON Web Key Sets.

#![no_main]

use libfuzzer_sys::fuzz_target;
use littoral_core::token::{ALGORITHMS, jwks};

fuzz_target!(|data: &[u8]| {
    if let Ok(keys) = jwks::parse(data) {
        for key in keys {
            assert!(ALGORITHMS.contains(&key.algorithm.as_str()));
            let public = key.public().expect("what is taken can be used");
            match key.algorithm.as_str() {
                "ES256" => assert!(public.len() == 65 && public[0] == 4),
                "EdDSA" => assert_eq!(public.len(), 32),
                _ => assert!(public.len() > 256 && public[0] == 0x30),
            }
        }
    }
});
