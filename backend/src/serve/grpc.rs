//! The gRPC service `Node`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use littoral_proto::{
    MAX_MESSAGE_BYTES,
    health::health_server,
    v1::{
        DescribeRequest, DetokenizeRequest, DetokenizeResponse, EmbedRequest, EmbedResponse, Event, GenerateRequest,
        NodeInfo, TokenizeRequest, TokenizeResponse, node_server,
    },
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::{health::Health, node::Node};
use crate::engine::Events;

/// A connection whose peer says nothing for so long is asked whether it lives, and given as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Streams one connection may open. The engine refuses what it cannot take, and says why; the transport must not queue.
const STREAMS: u32 = 100_000;
/// Streams a peer may take back before they were accepted: an edge that loses its clients cancels many at once.
const RESETS: usize = 10_000;

/// Serves until `shutdown`, then lets the open streams end.
pub async fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let health = health_server::HealthServer::new(Health(node.clone()));
    let service = node_server::NodeServer::new(Grpc(node))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(STREAMS))
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .add_service(service)
        .add_service(health)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            shutdown.cancelled().await
        })
        .await
}

/// The service.
pub struct Grpc(Arc<Node>);

#[tonic::async_trait]
impl node_server::Node for Grpc {
    type GenerateStream = Answer;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Answer>, Status> {
        Ok(Response::new(Answer(self.0.generate(request.into_inner()).await)))
    }

    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        Ok(Response::new(self.0.tokenize(request.into_inner()).await?))
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        Ok(Response::new(self.0.detokenize(request.into_inner()).await?))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedResponse>, Status> {
        Ok(Response::new(self.0.embed(request.into_inner()).await?))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<NodeInfo>, Status> {
        Ok(Response::new(self.0.describe()))
    }
}

/// The events as gRPC sends them. Dropped when the client cancels, and the generation with it.
pub struct Answer(Events);

impl Stream for Answer {
    type Item = Result<Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|event| event.map(Ok))
    }
}
