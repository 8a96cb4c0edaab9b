//! One thread's instances: exclusive, reused up to a cap, thrown away on any trap.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures::Stream;
use littoral_core::{Body, Call, Outcome};
use littoral_proto::v1::Event;
use wasmtime::Store;

use super::{
    FilteredEvents, GuestError, Guests, Isolation,
    bindings::policy::{Terminal, exports::littoral::edge::policy},
    convert::{self, Lent},
    limits::{self, CpuBudget, Overrun},
    state::State,
};

/// Runs guests on one thread.
pub struct Worker {
    guests: Arc<Guests>,
    /// The instance at rest. A decision never waits, so one is enough.
    idle: RefCell<Option<Instance>>,
}

struct Instance {
    store: Store<State>,
    policy: Terminal,
    decisions: u32,
    guests: Arc<Guests>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.guests.live.fetch_sub(1, Relaxed);
    }
}

impl Worker {
    pub(super) fn new(guests: Arc<Guests>) -> Self {
        Self { guests, idle: RefCell::new(None) }
    }

    /// Asks the policy. Takes microseconds as a rule, and at most the CPU time its body grants.
    pub fn decide(&self, call: &Call) -> Result<Outcome, GuestError> {
        let idle = self.idle.borrow_mut().take();
        let mut instance = match idle {
            Some(instance) => instance,
            None => self.instantiate()?,
        };
        let outcome = instance.decide(call)?;
        let config = &self.guests.config;
        if config.isolation == Isolation::Reuse && instance.decisions < config.reuse_cap {
            *self.idle.borrow_mut() = Some(instance);
        }
        Ok(outcome)
    }

    /// Runs a stream of events through the filters a plan names, in order.
    pub fn filter(
        &self,
        names: &[String],
        events: impl Stream<Item = Event> + Send + 'static,
    ) -> Result<FilteredEvents, GuestError> {
        let unknown = || GuestError::UnknownFilter(names.join(", "));
        self.guests.filters.as_ref().ok_or_else(unknown)?.run(names, events)
    }

    fn instantiate(&self) -> Result<Instance, GuestError> {
        let guests = &self.guests;
        let state = State::new(guests.knowledge.clone(), limits::memory(&guests.config));
        let mut store = Store::new(&guests.engine, state);
        store.limiter(|state| &mut state.limits);
        limits::bound_cpu(&mut store, |state| &mut state.budget);
        store.data_mut().budget = CpuBudget::new(0);
        store.set_epoch_deadline(1);
        let policy = guests.policy.instantiate(&mut store).map_err(explain)?;
        let live = guests.live.fetch_add(1, Relaxed) + 1;
        guests.peak.fetch_max(live, Relaxed);
        Ok(Instance { store, policy, decisions: 0, guests: guests.clone() })
    }
}

impl Instance {
    fn decide(&mut self, call: &Call) -> Result<Outcome, GuestError> {
        self.decisions += 1;
        self.store.data_mut().budget = CpuBudget::new(call.body.as_ref().map_or(0, Vec::len));
        self.store.set_epoch_deadline(1);
        let lent = Lent::new(call);
        let policy = self.policy.littoral_edge_policy();
        let outcome = policy.call_decide(&mut self.store, lent.call(call)).map_err(explain)?;
        match outcome {
            policy::Outcome::Denial(denial) => Ok(Outcome::Denial(denial.into())),
            policy::Outcome::Need(wants) => Ok(convert::wants(wants)),
            policy::Outcome::Reply(reply) => {
                let plan = reply.plan.map(Into::into).unwrap_or_default();
                let (body, plan) = match reply.body {
                    policy::Body::Bytes(bytes) => (Body::Bytes(bytes), plan),
                    policy::Body::Service((name, args)) => (Body::Service(name, args), plan),
                    policy::Body::Generation(generation) => {
                        // The guest let go of it: the host takes it back, and the instance is free.
                        let opened = self.store.data_mut().table.delete(generation);
                        (Body::Generation, opened.map_err(|e| GuestError::Trap(e.to_string()))?.0)
                    }
                };
                Ok(convert::reply(reply.status, reply.headers, body, plan))
            }
        }
    }
}

fn explain(error: wasmtime::Error) -> GuestError {
    match error.downcast_ref::<Overrun>() {
        Some(overrun) => GuestError::Deadline(overrun.to_string()),
        None => GuestError::Trap(format!("{error:#}")),
    }
}
