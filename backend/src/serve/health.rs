//! The gRPC service `grpc.health.v1.Health`: whether the node takes requests.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use littoral_proto::{
    health::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health as Service,
    },
    v1::node_server,
};
use std::pin::Pin;
use tonic::{Request, Response, Status, server::NamedService};

use super::node::Node;

/// How often a watched status is looked at.
const PULSE: Duration = Duration::from_millis(500);

/// Serves the node's health under the empty name and under that of its service.
pub struct Health(pub Arc<Node>);

type Known = node_server::NodeServer<super::grpc::Grpc>;

impl Health {
    fn knows(service: &str) -> bool {
        service.is_empty() || service == Known::NAME
    }
}

fn status(node: &Node) -> ServingStatus {
    if node.engine.load().draining { ServingStatus::NotServing } else { ServingStatus::Serving }
}

fn said(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Service for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service {
            service if Self::knows(&service) => Ok(Response::new(said(status(&self.0)))),
            service => Err(Status::not_found(format!("this node has no service '{service}'"))),
        }
    }

    /// The status now, and each time it changes.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (node, known) = (self.0.clone(), Self::knows(&request.into_inner().service));
        let mut last = None;
        let pulse = stream::unfold(tokio::time::interval(PULSE), |mut pulse| async move {
            pulse.tick().await;
            Some(((), pulse))
        });
        let changes = pulse.filter_map(move |()| {
            let now = if known { status(&node) } else { ServingStatus::ServiceUnknown };
            let changed = (last.replace(now) != Some(now)).then(|| Ok(said(now)));
            async move { changed }
        });
        Ok(Response::new(changes.boxed()))
    }
}
