//! Asks the nodes what they are, again and again.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use littoral_proto::v1::{DescribeRequest, NodeInfo, node_client::NodeClient};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{Fleet, clients};

/// From one answer to the next question.
const EVERY: Duration = Duration::from_secs(1);
/// A busy node may take its time; a dead one is known by its refused connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that may stay without an answer before the node is given up.
const MISSES: u32 = 2;

impl Fleet {
    /// Asks every node once, so that the first requests find a fleet. Unreachable nodes cost what `patience` allows.
    pub async fn first_look(self: &Arc<Self>, patience: Duration) {
        let looks = self.nodes.iter().enumerate().map(|(i, node)| async move {
            if let Ok(mut client) = clients::connect(&node.address)
                && let Ok(Ok(info)) = timeout(patience, describe(&mut client)).await
            {
                self.report(i, Some(info));
            }
        });
        join_all(looks).await;
    }

    /// Keeps the view true. Never returns.
    pub async fn watch(self: Arc<Self>) {
        join_all((0..self.nodes.len()).map(|i| self.watch_one(i))).await;
    }

    async fn watch_one(&self, index: usize) {
        let mut client = match clients::connect(&self.nodes[index].address) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(node = self.nodes[index].name(), %error, "the node's address cannot be used");
                return;
            }
        };
        let mut misses = 0;
        loop {
            match timeout(PATIENCE, describe(&mut client)).await {
                Ok(Ok(info)) => {
                    misses = 0;
                    self.report(index, Some(info));
                }
                Ok(Err(status)) if status.code() == tonic::Code::Unavailable => self.report(index, None),
                Ok(Err(_)) | Err(_) => {
                    misses += 1;
                    if misses >= MISSES {
                        self.report(index, None);
                    }
                }
            }
            sleep(EVERY).await;
        }
    }
}

async fn describe(client: &mut NodeClient<Channel>) -> Result<NodeInfo, tonic::Status> {
    Ok(client.describe(DescribeRequest {}).await?.into_inner())
}
