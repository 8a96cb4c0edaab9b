//! One connection, from its first byte to its last.

use std::{cell::Cell, convert::Infallible, future::Future, net::IpAddr, pin::pin, rc::Rc};

use hyper::{Request, body::Incoming, rt::Executor, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Door, proxy};

/// Runs HTTP/2's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

impl Door {
    pub(super) async fn connection(self: Rc<Self>, mut stream: TcpStream, mut peer: IpAddr) {
        // A small answer in two writes waits 40 ms without it; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let _open = Open::new(&self);
        if self.origin.announces(peer) {
            match timeout(self.header_timeout, proxy::announced(&mut stream, peer)).await {
                Ok(Ok(source)) => peer = source,
                Ok(Err(error)) => return tracing::info!(%peer, %error, "a connection was closed"),
                Err(_) => return,
            }
        }
        let asked = Rc::new(Cell::new(false));
        let service = service_fn(|request: Request<Incoming>| {
            asked.set(true);
            let door = self.clone();
            // hyper keeps room for one such future as long as the connection lives, and this one is large.
            Box::pin(async move { Ok::<_, Infallible>(door.answer(request, peer).await) })
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let mut stopped = pin!(self.stop.cancelled());
        // hyper bounds the wait for a head once it knows the protocol; this bounds the wait for that.
        let mut silent = pin!(sleep(self.header_timeout));
        let (mut stopping, mut known) = (false, false);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a connection broke");
                    }
                    return;
                }
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut silent, if !known => {
                    known = asked.get();
                    if !known {
                        return;
                    }
                }
            }
        }
    }
}

/// Counts the connection for as long as it lives.
struct Open<'a>(&'a Door);

impl<'a> Open<'a> {
    fn new(door: &'a Door) -> Self {
        door.executor.shared().metrics.connections.increment(1);
        Self(door)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.executor.shared().metrics.connections.decrement(1);
    }
}
