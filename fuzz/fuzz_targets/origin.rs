//! Where a request comes from: PROXY protocol v2 headers, `X-Forwarded-For` and `Forwarded`.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use littoral_core::address::{self, ForwardedBy};

#[path = "../../host/src/door/proxy.rs"]
mod proxy;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fuzz_target!(|data: &[u8]| {
    let trusted = ["10.0.0.0/8".parse().expect("it is one")];
    for by in [ForwardedBy::XForwardedFor, ForwardedBy::Forwarded] {
        let values = || data.split(|byte| *byte == b'\n');
        // What a proxy says is never another proxy's address while a stranger's is named, and a stranger's word is air.
        let _ = address::client(PEER, &trusted, by, values());
        assert_eq!(address::client(STRANGER, &trusted, by, values()), STRANGER);
    }
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    for bytes in [data.to_vec(), [&signature[..], data].concat()] {
        let mut stream = bytes.as_slice();
        let _ = futures::executor::block_on(proxy::announced(&mut stream, PEER));
        assert!(stream.len() <= bytes.len());
    }
});
