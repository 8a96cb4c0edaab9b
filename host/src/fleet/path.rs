//! The way to a node as the network sees it: which local address connections come from, and how their packets are
//! marked, so that routing rules and queues outside can steer them.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tower::Service;

const CONNECT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What a node's connections are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Path {
    /// The local address they come from.
    pub bind: Option<IpAddr>,
    /// `SO_MARK`, for rules of the kernel's routing; needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// The code point of RFC 2474, 0..=63, in the field that was the type of service.
    pub dscp: Option<u8>,
}

/// The local address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("path.bind = '{bind}' cannot be used: {error}")]
pub struct Unbound {
    bind: IpAddr,
    error: io::Error,
}

impl From<Unbound> for io::Error {
    fn from(unbound: Unbound) -> Self {
        Self::new(unbound.error.kind(), unbound)
    }
}

impl Path {
    /// Whether the values can be used at all.
    pub fn check(&self) -> Result<(), String> {
        match self.dscp {
            Some(64..) => Err("must be 0..63".into()),
            _ => Ok(()),
        }
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<TcpStream>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_string();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in lookup_host((host, port)).await? {
            // An address of the other family cannot be reached from the one that is bound.
            if self.bind.is_some_and(|bind| bind.is_ipv4() != address.is_ipv4()) {
                continue;
            }
            let connecting = async { self.socket(address)?.connect(address).await };
            match timeout(CONNECT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(TokioIo::new(stream)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn socket(self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(dscp) = self.dscp {
            let field = u32::from(dscp) << 2;
            if to.is_ipv4() {
                socket.set_tos_v4(field)?
            } else {
                socket.set_tclass_v6(field)?
            };
        }
        if let Some(bind) = self.bind {
            socket.bind(&SocketAddr::new(bind, 0).into()).map_err(|error| Unbound { bind, error })?;
        }
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

/// Connects along a [`Path`].
#[derive(Debug, Clone, Copy)]
pub struct Connector(pub Path);

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.0.connect(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_come_from_where_they_are_bound_and_carry_their_code_point() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let path = Path { bind: Some([127, 0, 0, 3].into()), dscp: Some(46), mark: None };
        let connection = Connector(path).call(uri.clone()).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 3]));
        let stream = connection.into_inner();
        assert_eq!(socket2::SockRef::from(&stream).tos_v4().unwrap(), 46 << 2);
        assert!(stream.nodelay().unwrap());
        let foreign = Path { bind: Some([203, 0, 113, 1].into()), ..Path::default() };
        assert!(Connector(foreign).call(uri).await.is_err(), "an address that is not ours");
        assert!(Path { dscp: Some(64), ..Path::default() }.check().is_err());
    }
}
