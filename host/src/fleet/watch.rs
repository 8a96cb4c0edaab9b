//! Asks the nodes what they are, again and again, and measures the way there.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use littoral_api::error::code;
use littoral_proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    v1::{DescribeRequest, NodeInfo, node_client::NodeClient},
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{interval, sleep, timeout},
};
use tonic::transport::Channel;

use super::{Fleet, Member, clients, view::named};
use crate::{
    config::{self, Kind},
    error::Error,
    plan::now_ms,
    upstream::{Http, models},
};

/// From one answer to the next question.
const EVERY: Duration = Duration::from_secs(1);
/// A busy node may take its time; a dead one is known by its refused connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that may stay without an answer before the node is given up.
const MISSES: u32 = 2;
/// The same for a server that is not ours and may be far away.
const EVERY_UPSTREAM: Duration = Duration::from_secs(5);
/// How long answers are counted before outliers are looked for.
const WINDOW: Duration = Duration::from_secs(10);

impl Fleet {
    /// Asks every node once, so that the first requests find a fleet. Unreachable nodes cost what `patience` allows.
    pub async fn first_look(self: &Arc<Self>, patience: Duration) {
        let looks = self.members().into_iter().map(|member| async move {
            let heard = match Probe::of(&member, &self.config) {
                Ok(mut probe) => timeout(patience, probe.look(&member)).await,
                Err(_) => return,
            };
            if let Ok(Ok((info, _))) = heard {
                self.report(&member, Some(info));
            }
        });
        join_all(looks).await;
    }

    /// Keeps the view true, also of nodes that come later. Never returns.
    pub async fn watch(self: Arc<Self>) {
        let mut watchers = JoinSet::new();
        let mut watched: HashMap<*const Member, AbortHandle> = HashMap::new();
        let mut windows = interval(WINDOW);
        loop {
            // Before the look at the nodes, so that none is missed.
            let changed = self.members.notified();
            let members = self.members();
            watched.retain(|known, handle| {
                let stays = members.iter().any(|member| Arc::as_ptr(member) == *known);
                if !stays {
                    handle.abort();
                }
                stays
            });
            for member in members {
                watched.entry(Arc::as_ptr(&member)).or_insert_with(|| watchers.spawn(self.clone().watch_one(member)));
            }
            tokio::pin!(changed);
            loop {
                tokio::select! {
                    () = &mut changed => break,
                    _ = windows.tick() => self.eject_outliers(),
                    // Aborted, or its address cannot be used: nothing is to be done about either.
                    Some(_) = watchers.join_next(), if !watchers.is_empty() => {}
                }
            }
        }
    }

    fn members(&self) -> Vec<Arc<Member>> {
        self.view().nodes().iter().map(|node| node.member.clone()).collect()
    }

    async fn watch_one(self: Arc<Self>, member: Arc<Member>) {
        let mut probe = match Probe::of(&member, &self.config) {
            Ok(probe) => probe,
            Err(error) => {
                tracing::error!(node = member.name(), %error, "the node's address cannot be used");
                return;
            }
        };
        let mut misses = 0;
        // Why it gave no answer, as the log has it.
        let mut told = String::new();
        loop {
            let asked = Instant::now();
            let looked = timeout(PATIENCE, probe.look(&member)).await.unwrap_or(Err(Error::Deadline));
            let why = looked.as_ref().err().map(ToString::to_string).unwrap_or_default();
            if told != why {
                if !why.is_empty() {
                    tracing::warn!(node = member.name(), why, "the node does not say what it serves");
                }
                told = why;
            }
            match looked {
                Ok((info, rtt)) => {
                    misses = 0;
                    member.answered(now_ms(), rtt.as_secs_f32() * 1000.0);
                    self.report(&member, Some(info));
                }
                // It is there, and what it serves is what it served.
                Err(Error::Busy { .. }) => misses = 0,
                Err(error) => {
                    member.lost(now_ms());
                    misses += 1;
                    if misses >= MISSES || error.code() == code::UNAVAILABLE {
                        self.report(&member, None);
                    }
                }
            }
            let every = probe.every().saturating_sub(asked.elapsed()).max(probe.every() / 2);
            let rest = Duration::from_secs(member.rests(now_ms()).unwrap_or(0).into());
            sleep(every.max(rest)).await;
        }
    }
}

/// How a node is asked what it is.
enum Probe {
    Grpc(NodeClient<Channel>, HealthClient<Channel>),
    Http(Http),
}

impl Probe {
    fn of(member: &Member, config: &config::Fleet) -> anyhow::Result<Self> {
        Ok(match member.node.kind {
            Kind::Littoral => {
                let (node, health) = clients::connect_watcher(&member.node)?;
                Self::Grpc(node, health)
            }
            Kind::OpenAi => Self::Http(Http::new(config, 1, &member.node)?),
        })
    }

    fn every(&self) -> Duration {
        match self {
            Self::Grpc(..) => EVERY,
            Self::Http(_) => EVERY_UPSTREAM,
        }
    }

    /// What the node is, and how long its answer took. A node that says by gRPC's health protocol that it does not
    /// serve is treated as one that drains; one that does not speak it is healthy when it answers.
    async fn look(&mut self, member: &Member) -> Result<(NodeInfo, Duration), Error> {
        let asked = Instant::now();
        match self {
            Self::Grpc(node, health) => {
                let mut info = node.describe(DescribeRequest {}).await?.into_inner();
                let rtt = asked.elapsed();
                match health.check(HealthCheckRequest::default()).await {
                    Ok(answer) => info.draining |= answer.get_ref().status() == ServingStatus::NotServing,
                    Err(status) if matches!(status.code(), tonic::Code::Unimplemented | tonic::Code::NotFound) => {}
                    Err(status) => return Err(status.into()),
                }
                Ok((info, rtt))
            }
            Self::Http(http) => {
                let listed = models(http, member).await?;
                let rtt = asked.elapsed();
                let configured: Vec<String> = member.node.model_names().map(String::from).collect();
                let names = if configured.is_empty() { listed } else { configured };
                let models = names.iter().map(|name| named(&member.node, name)).collect();
                let slots = member.node.max_streams();
                Ok((
                    NodeInfo {
                        node: member.name().into(),
                        device: "http".into(),
                        models,
                        slots,
                        ..NodeInfo::default()
                    },
                    rtt,
                ))
            }
        }
    }
}
