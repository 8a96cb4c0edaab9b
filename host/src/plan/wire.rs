//! The events of one call to one node, whatever protocol it speaks.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use littoral_proto::v1::Event;
use tokio::time::timeout;
use tonic::Streaming;

use crate::{error::Error, upstream::HttpWire};

/// How long a node may take to end a call after its last event.
const TRAILERS: Duration = Duration::from_secs(1);

/// A call under way. Dropping it cancels the generation at the node.
pub enum Wire {
    Grpc(Box<Streaming<Event>>),
    Http(Box<HttpWire>),
}

impl Wire {
    /// The next event; none at the end.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        match self {
            Self::Grpc(stream) => Ok(stream.message().await?),
            Self::Http(wire) => poll_fn(|cx| wire.poll_next(cx)).await.transpose(),
        }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        match self {
            Self::Grpc(stream) => Pin::new(stream.as_mut()).poll_next(cx).map_err(Error::from),
            Self::Http(wire) => wire.poll_next(cx),
        }
    }

    /// Takes the trailers of a call whose last event has come; they follow at once. To drop it before them would reset
    /// it, and what arrives for calls reset long ago is counted over a connection's life until all its calls are broken
    /// off.
    pub fn let_go(self) {
        match self {
            Self::Grpc(mut stream) => {
                tokio::spawn(timeout(TRAILERS, async move { while let Ok(Some(_)) = stream.message().await {} }));
            }
            // It ends itself with its last event.
            Self::Http(_) => {}
        }
    }
}
