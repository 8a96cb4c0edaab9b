//! The rounds of a decision: the guest says what it needs, the host gets it, the guest decides again.

use std::{sync::Arc, time::Instant};

use littoral_core::{Body, Call, Denial, Outcome, Pairs, Plan, Reply, Want, fact_kind};

use super::{Arrival, Executor, arrival::head, now_ms};
use crate::{error::Error, guest::GuestError};

/// How often a guest may ask for more before it decides.
const ROUNDS: usize = 3;
/// What the router says of a model it cannot find (see `littoral_core::denial::unknown_model`).
const MODEL_NOT_FOUND: &str = "model_not_found";

/// What the policy replied.
#[derive(Clone)]
pub struct Decision {
    pub status: u16,
    pub headers: Pairs,
    pub body: Body,
    /// One that is remembered is carried out for many requests.
    pub plan: Arc<Plan>,
}

impl From<Reply> for Decision {
    fn from(Reply { status, headers, body, plan }: Reply) -> Self {
        Self { status, headers, body, plan: plan.into() }
    }
}

impl Executor {
    /// Asks the policy until it replies.
    pub(super) async fn decide(&self, arrival: &mut Arrival) -> Result<Decision, Error> {
        let body = arrival.body.if_small().await?;
        let memos = &self.shared.memos;
        // Read before the decision: what changes while it is made makes it old.
        let epoch = self.shared.known.epoch();
        // Let go with the decision: while it is held, the connection reads into a buffer of its own.
        let request = std::mem::take(&mut arrival.head);
        let key = memos.key(&request, &arrival.peer, body.as_deref());
        if let Some(decision) = key.and_then(|key| memos.get(&key, request.headers(), epoch)) {
            self.shared.metrics.memo_hits.increment(1);
            return Ok(decision);
        }
        let mut call = Call {
            head: head(&request),
            peer: arrival.peer.clone(),
            now_ms: now_ms(),
            body,
            facts: Vec::new(),
            draft: Plan { memo: memos.offer(), ..Plan::default() },
        };
        for _ in 0..=ROUNDS {
            let wants = match self.ask(&call)? {
                Outcome::Reply(reply) => {
                    if let Some(key) = key {
                        memos.put(key, request.headers(), epoch, &reply);
                    }
                    return Ok((*reply).into());
                }
                Outcome::Denial(denial) => return Err(self.refuse(denial)),
                Outcome::Need(wants) => wants,
            };
            for want in wants {
                match want {
                    Want::Body if call.body.is_none() => call.body = Some(arrival.body.whole().await?),
                    Want::Body => {}
                    Want::Fact(kind, key) if kind == fact_kind::VERIFYING_KEY => {
                        let (known, name) = (self.shared.known.clone(), key.clone());
                        // Keys known before serve when the issuer does not answer.
                        let _ = tokio::task::spawn_blocking(move || known.learn(&name)).await;
                        call.facts.push(self.shared.known.fetch(&kind, &key));
                    }
                    Want::Fact(kind, key) => call.facts.push(self.shared.known.fetch(&kind, &key)),
                }
            }
        }
        Err(Error::Plan(format!("the policy still asks for more after {ROUNDS} rounds")))
    }

    fn ask(&self, call: &Call) -> Result<Outcome, Error> {
        let metrics = &self.shared.metrics;
        let began = Instant::now();
        let outcome = self.guests.decide(call);
        metrics.decided(began);
        if let Err(GuestError::Trap(_) | GuestError::Deadline(_)) = outcome {
            metrics.guest_traps.increment(1);
        }
        Ok(outcome?)
    }

    /// A guest cannot tell a model that does not exist from one of a node that has not been heard of yet; the host can.
    fn refuse(&self, denial: Denial) -> Error {
        if denial.code == MODEL_NOT_FOUND && self.shared.fleet.view().is_incomplete() {
            let none = !self.shared.fleet.view().was_ever_reached();
            let who = if none { "no inference node has" } else { "the model is not known, and not every node has" };
            return Error::NoNode(format!("{who} been reached yet; please try again"));
        }
        denial.into()
    }
}
