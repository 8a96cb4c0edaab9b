//! Listening sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait for their worker.
const BACKLOG: i32 = 4096;

/// `count` listeners that share one address, and the address: the system's choice when its port was 0.
pub fn bind(address: SocketAddr, count: usize) -> anyhow::Result<(SocketAddr, Vec<TcpListener>)> {
    // A shared port would also be shared with another edge of this user: only a socket that does not share finds out.
    let free = || -> io::Result<()> { socket(address, false).map(drop) };
    free().with_context(|| refused(address, "--listen"))?;
    let mut listeners = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let listener = listen(address, true).with_context(|| refused(address, "--listen"))?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((address, listeners))
}

/// The listener of `/metrics`, shared with nobody.
pub fn metrics_listener(address: SocketAddr) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let listener = listen(address, false).with_context(|| refused(address, "--metrics"))?;
    Ok((listener.local_addr()?, listener))
}

/// The listener of administrators, shared with nobody.
pub fn admin_listener(address: SocketAddr) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let listener = listen(address, false).with_context(|| refused(address, "admin.listen"))?;
    Ok((listener.local_addr()?, listener))
}

fn refused(address: SocketAddr, flag: &str) -> String {
    format!("cannot listen on {address}; stop what uses it, or choose another address with {flag}")
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = socket(address, shared)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, listeners) = bind(any, 3).unwrap();
        assert!(address.port() != 0 && listeners.len() == 3);
        let error = format!("{:#}", bind(address, 1).unwrap_err());
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
        assert!(metrics_listener(address).is_err());
    }
}
