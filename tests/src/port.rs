//! Ports that are chosen before somebody listens at them.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port of this machine at which nobody listens, and which the system gives to nobody else while this lives. Who names
/// it and lets its address be used again, as servers do, may listen there.
#[derive(Debug)]
pub struct Port(TcpSocket);

impl Port {
    pub fn take() -> Self {
        let socket = TcpSocket::new_v4().expect("the system gives sockets");
        socket.set_reuseaddr(true).expect("sockets have options");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("the system gives a port");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound socket has an address")
    }

    pub fn number(&self) -> u16 {
        self.address().port()
    }
}
