//! A connection to an upstream that is made in time: TCP, and TLS where it is spoken.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tower::Service;

use crate::fleet::Connector;

/// Longest wait for a server that took the connection and says nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, and shakes hands within [`PATIENCE`].
#[derive(Clone)]
pub struct Handshake(pub HttpsConnector<Connector>);

impl Service<Uri> for Handshake {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shaking = timeout(PATIENCE, self.0.call(uri));
        Box::pin(async { shaking.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) })
    }
}
