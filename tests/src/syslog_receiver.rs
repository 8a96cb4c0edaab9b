//! A receiver of syslog over TLS (RFC 5425) that keeps what it reads.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Signed;

/// A running receiver; it ends, with its connections, when dropped.
pub struct SyslogReceiver {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl SyslogReceiver {
    /// One at `address` with this certificate; with `clients`, only those this authority signed may connect.
    pub fn start(address: SocketAddr, own: &Signed, clients: Option<&Path>) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(own.server(clients)));
        let socket = TcpSocket::new_v4().expect("the system gives sockets");
        // Where another was a moment ago.
        socket.set_reuseaddr(true).expect("sockets have options");
        socket.bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let listener = socket.listen(16).expect("a bound socket listens");
        let address = listener.local_addr().expect("a bound listener has an address");
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let accepting = tokio::spawn(accept(listener, acceptor, messages.clone()));
        Self { address, messages, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The messages so far, without their frames.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SyslogReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, messages: Arc<Mutex<Vec<String>>>) {
    // Dropped with the future, and with it the connections.
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, messages) = (acceptor.clone(), messages.clone());
        open.spawn(async move {
            // Those it does not know stay outside.
            if let Ok(stream) = acceptor.accept(stream).await {
                read(BufReader::new(stream), &messages).await;
            }
        });
    }
}

/// Reads `LENGTH SP MESSAGE` until the sender ends.
async fn read<S: AsyncRead + Unpin>(mut stream: BufReader<S>, messages: &Mutex<Vec<String>>) {
    loop {
        let mut length = Vec::new();
        match stream.read_until(b' ', &mut length).await {
            Ok(1..) if length.ends_with(b" ") => {}
            _ => return,
        }
        let digits = String::from_utf8_lossy(&length);
        let length: usize = digits.trim_end().parse().unwrap_or_else(|_| panic!("'{digits}' is no length"));
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let message = String::from_utf8(message).expect("audit lines are text");
        messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}
