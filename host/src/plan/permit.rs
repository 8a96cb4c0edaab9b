//! Charges a request against its limits before the work, and settles them after it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use futures::poll;
use littoral_core::{
    Charge, Denial, Pairs, Plan,
    chat::ChatRequest,
    denial::{insufficient_balance, invalid, limited, unavailable},
    ledger::{Correction, Demand, Grant, Refusal},
    limits::{Reservation, Tokens, charge_kind},
};

use super::Executor;
use crate::{
    error::Error,
    telemetry::{Meter, Used},
    vault::{Admission, Limits, Settlement, StoreError},
};

/// What a request holds of its limits. It is settled once; what nobody settles is settled as unused when dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Held,
    /// Answers tell of the limits that were charged: `x-ratelimit-*`.
    pub headers: Pairs,
    /// The completion tokens that were paid for are fewer than the client asked for.
    pub lowered: bool,
}

#[derive(Debug)]
struct Held {
    limits: Arc<Limits>,
    tenant: String,
    lease: String,
    since: Instant,
    work: Option<Reservation>,
    /// None once settled.
    grants: Mutex<Option<Vec<(Demand, u64)>>>,
}

/// Which of a plan's charges are taken.
pub enum Take {
    /// The request itself: of one that costs no tokens, or before it is known whether it does.
    Request,
    /// What its generation may use, when the request has been charged.
    Generation,
    /// Both, all or none.
    All,
}

impl Executor {
    /// Takes the plan's charges, and lowers `max_tokens` to what is left; none when nothing is limited.
    pub(super) async fn admit(
        &self,
        plan: &mut Arc<Plan>,
        take: Take,
        request_id: &str,
        longest: Duration,
    ) -> Result<Option<Arc<Permit>>, Error> {
        let reservation = Reservation::of(plan).filter(|_| !matches!(take, Take::Request));
        let counts = |charge: &&Charge| match charge.kind.as_str() {
            charge_kind::REQUESTS => !matches!(take, Take::Generation),
            _ => reservation.is_some(),
        };
        let demands: Vec<_> = plan.charges.iter().filter(counts).map(|c| demand(c, reservation.as_ref())).collect();
        if demands.is_empty() {
            return Ok(None);
        }
        // Ids of requests are the clients' to choose; those of leases are not.
        let lease = format!("{request_id}/{:016x}", rand::random::<u64>());
        let tenant = plan.tenant().to_string();
        let admission = Admission { tenant, lease, lease_for: longest, demands: demands.clone() };
        let (held, grants) = match hold(self.shared.limits.clone(), admission, reservation).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(refusal)) => {
                let kind = demands.get(refusal.at).map_or("", |demand| demand.kind.as_str());
                self.shared.metrics.access.limited(kind);
                return Err(refused(&demands, refusal).into());
            }
            Err(error) => {
                tracing::warn!(%error, "a request was refused: its limits cannot be checked");
                return Err(unavailable("the limits of this key cannot be checked now; please try again", 1).into());
            }
        };
        let headers = tightest(&demands, &grants).flat_map(|(demand, grant)| told(demand, grant)).collect();
        let lowered = match &reservation {
            Some(reservation) => lower(plan, reservation, &demands, &grants)?,
            None => false,
        };
        Ok(Some(Arc::new(Permit { limits: held, headers, lowered })))
    }
}

/// Takes charges. The store is asked to the end even when the client leaves meanwhile: what it granted is then given back.
async fn hold(
    limits: Arc<Limits>,
    admission: Admission,
    work: Option<Reservation>,
) -> Result<Result<(Held, Vec<Grant>), Refusal>, StoreError> {
    let mut asking = Box::pin(async move {
        let (tenant, lease, demands) = (admission.tenant.clone(), admission.lease.clone(), admission.demands.clone());
        let answer = limits.admit(admission).await?;
        Ok(answer.map(|grants| {
            let amounts = grants.iter().map(|grant| grant.amount);
            let held = demands.into_iter().zip(amounts).collect();
            let grants_held = Mutex::new(Some(held));
            (Held { limits, tenant, lease, since: Instant::now(), work, grants: grants_held }, grants)
        }))
    });
    // A store in memory answers at once, and needs no task.
    if let Poll::Ready(answer) = poll!(&mut asking) {
        return answer;
    }
    tokio::spawn(asking).await.unwrap_or_else(|e| Err(StoreError::Wrong(e.to_string())))
}

fn demand(charge: &Charge, work: Option<&Reservation>) -> Demand {
    let Charge { kind, key, amount, limit, window_ms } = charge.clone();
    let least = work.map_or(amount, |work| work.least(&kind));
    Demand { kind, key, amount, least, limit, window_ms }
}

/// Lowers `max_tokens`, which is each choice's, to what every limit pays for.
fn lower(plan: &mut Arc<Plan>, work: &Reservation, demands: &[Demand], grants: &[Grant]) -> Result<bool, Error> {
    let paid = demands.iter().zip(grants).map(|(demand, grant)| work.affordable(&demand.kind, grant.amount)).min();
    let Some(paid) = paid.filter(|paid| *paid < work.completion) else { return Ok(false) };
    let mut request = ChatRequest::canonical(&plan.request)
        .map_err(|e| Error::Plan(format!("it reserves tokens for a request that is not canonical: {e}")))?;
    request.max_tokens = Some(u32::try_from(paid).unwrap_or(u32::MAX));
    Arc::make_mut(plan).request = request.to_bytes();
    Ok(true)
}

fn whose(key: &str) -> &str {
    match key.split('/').next() {
        Some("key") => "this API key",
        Some("user") => "this user",
        _ => "this tenant",
    }
}

fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000).max(1)
}

fn refused(demands: &[Demand], refusal: Refusal) -> Denial {
    let Some(demand) = demands.get(refusal.at) else { return unavailable("a limit is used up", 1) };
    let (who, limit) = (whose(&demand.key), demand.limit);
    let mut denial = match demand.kind.as_str() {
        charge_kind::CONCURRENCY => limited(format!("{who} has {limit} requests under way, its limit"), Some(1)),
        charge_kind::BUDGET => insufficient_balance(format!("Insufficient Balance (the budget of {who} is used up)")),
        kind => match refusal.retry_ms {
            Some(ms) => {
                limited(format!("Rate limit reached: {who} may use {limit} {kind} a minute"), Some(seconds(ms)))
            }
            // However long it waits: clients shall not try again.
            None if demand.least > limit => {
                let (least, may) = (demand.least, format!("the {limit} {kind} a minute that {who} may use"));
                invalid(None, format!("the request needs {least} {kind} at least, more than {may}: send a shorter one"))
            }
            // This edge's share of the limit is smaller while the store is lost.
            None => unavailable(format!("{who} may not use so many {kind} at once for now"), 1),
        },
    };
    let grant = Grant { amount: 0, remaining: refusal.remaining, reset_ms: refusal.reset_ms };
    denial.headers.extend(told(demand, grant));
    denial.audit.push(("limit".into(), format!("{} {}", demand.kind, demand.key)));
    denial
}

/// Of each kind of rate the limit that will bite first: the one of which least is left, and of those the smallest.
fn tightest<'a>(demands: &'a [Demand], grants: &'a [Grant]) -> impl Iterator<Item = (&'a Demand, Grant)> {
    [charge_kind::REQUESTS, charge_kind::TOKENS].into_iter().filter_map(|kind| {
        let of_kind = demands.iter().zip(grants.iter().copied()).filter(|(demand, _)| demand.kind == kind);
        of_kind.min_by_key(|(demand, grant)| (grant.remaining, demand.limit))
    })
}

/// The headers OpenAI's clients know, of a rate.
fn told(demand: &Demand, grant: Grant) -> Pairs {
    let name = |what| format!("x-ratelimit-{what}-{}", demand.kind);
    vec![
        (name("limit"), demand.limit.to_string()),
        (name("remaining"), grant.remaining.to_string()),
        (name("reset"), format!("{}s", seconds(grant.reset_ms))),
    ]
}

impl Held {
    fn settle(&self, corrections: impl FnOnce(&[(Demand, u64)]) -> Vec<Correction>) {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(grants) = grants else { return };
        let slots = grants.iter().filter(|(demand, _)| demand.kind == charge_kind::CONCURRENCY);
        let slots = slots.map(|(demand, _)| demand.key.clone()).collect();
        let corrections = corrections(&grants);
        self.limits.settle(Settlement { tenant: self.tenant.clone(), lease: self.lease.clone(), corrections, slots });
    }

    /// Corrections to what was used; a request counts as one whatever became of it.
    fn to(&self, grants: &[(Demand, u64)], work: &Reservation, used: Option<Tokens>) -> Vec<Correction> {
        let elapsed_ms = self.since.elapsed().as_millis() as u64;
        let tokens = [charge_kind::TOKENS, charge_kind::BUDGET];
        let of = grants.iter().filter(|(demand, _)| tokens.contains(&demand.kind.as_str()));
        of.map(|(demand, granted)| Correction {
            kind: demand.kind.clone(),
            key: demand.key.clone(),
            granted: *granted,
            actual: used.map_or(0, |used| work.actual(&demand.kind, used)),
            limit: demand.limit,
            window_ms: demand.window_ms,
            elapsed_ms,
        })
        .collect()
    }
}

impl Meter for Permit {
    /// The prompt's tokens are counted: what was reserved beyond them is given back at once.
    fn started(&self, prompt: u32, cached: u32) {
        let held = &self.limits;
        let Some(work) = &held.work else { return };
        let mut guard = held.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(grants) = guard.as_mut() else { return };
        let elapsed_ms = held.since.elapsed().as_millis() as u64;
        let mut corrections = Vec::new();
        for (demand, granted) in grants {
            let completion = work.affordable(&demand.kind, *granted).min(work.completion);
            let completion = work.all(completion);
            let tokens = Tokens { prompt: prompt.into(), cache_hit: cached.into(), completion };
            if ![charge_kind::TOKENS, charge_kind::BUDGET].contains(&demand.kind.as_str()) {
                continue;
            }
            let actual = work.actual(&demand.kind, tokens).min(*granted);
            if actual < *granted {
                corrections.push(Correction {
                    kind: demand.kind.clone(),
                    key: demand.key.clone(),
                    granted: *granted,
                    actual,
                    limit: demand.limit,
                    window_ms: demand.window_ms,
                    elapsed_ms,
                });
                *granted = actual;
            }
        }
        if !corrections.is_empty() {
            let (tenant, lease) = (held.tenant.clone(), held.lease.clone());
            held.limits.correct(Settlement { tenant, lease, corrections, slots: Vec::new() });
        }
    }

    fn ended(&self, used: Used) {
        let held = &self.limits;
        held.settle(|grants| match &held.work {
            None => Vec::new(),
            Some(work) => {
                let used = match used {
                    Used::Nothing => None,
                    Used::Tokens(tokens) => Some(tokens),
                    // The node may be at the prompt still: it is paid for, so that nobody computes for free by leaving.
                    Used::Unknown => Some(Tokens { prompt: work.prompt, ..Tokens::default() }),
                };
                held.to(grants, work, used)
            }
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.settle(|grants| match &self.work {
            None => Vec::new(),
            Some(work) => self.to(grants, work, None),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_bites_is_told() {
        let demand = |kind: &str, limit| Demand {
            kind: kind.into(),
            key: "key/k".into(),
            amount: 1,
            least: 1,
            limit,
            window_ms: 60_000,
        };
        let grant = |remaining| Grant { amount: 1, remaining, reset_ms: 1000 };
        let demands = [demand("requests", 60), demand("tokens", 5), demand("requests", 600), demand("requests", 30)];
        let grants = [grant(3), grant(2), grant(500), grant(3)];
        let found: Vec<_> = tightest(&demands, &grants).collect();
        assert_eq!(found, [(&demands[3], grant(3)), (&demands[1], grant(2))]);
    }
}
