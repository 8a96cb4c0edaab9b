//! Where a connection and its requests come from: the socket's peer, the PROXY protocol, the headers of proxies.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;
use littoral_core::address::{self, ForwardedBy};

use crate::config;

/// Whose word on a client's address counts.
#[derive(Debug, Clone)]
pub struct Origin {
    trusted: Vec<IpNet>,
    by: ForwardedBy,
    proxy_protocol: bool,
}

impl Origin {
    pub fn new(config: &config::Edge) -> Self {
        let config::Edge { trusted_proxies, forwarded_by, proxy_protocol, .. } = config;
        Self { trusted: trusted_proxies.clone(), by: *forwarded_by, proxy_protocol: *proxy_protocol }
    }

    /// Whether connections of this peer begin with a PROXY protocol header.
    pub fn announces(&self, peer: IpAddr) -> bool {
        self.proxy_protocol && address::within(&self.trusted, peer)
    }

    /// The client of one request.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let values: Vec<_> = headers.get_all(self.by.header()).iter().map(|value| value.as_bytes()).collect();
        address::client(peer, &self.trusted, self.by, values)
    }
}
