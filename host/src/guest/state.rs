//! What a policy instance sees of the host: memory look-ups, and generations it may open.

use std::sync::Arc;

use littoral_core::{Knowledge, Plan};
use wasmtime::{StoreLimits, component::Resource};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};

use super::{
    bindings::policy::littoral::edge::{crypto, facts, fleet, inference, types},
    limits::CpuBudget,
};

/// A generation that a guest opened: the plan, and nothing that costs when it is dropped.
pub struct Generation(pub Plan);

/// Everything one policy store holds.
pub struct State {
    pub knowledge: Arc<dyn Knowledge + Send + Sync>,
    pub table: ResourceTable,
    pub limits: StoreLimits,
    pub budget: CpuBudget,
    /// No files, no network, no environment: only what a guest's std library must find to start.
    wasi: WasiCtx,
}

impl State {
    pub fn new(knowledge: Arc<dyn Knowledge + Send + Sync>, limits: StoreLimits) -> Self {
        let wasi = WasiCtx::builder().build();
        Self { knowledge, table: ResourceTable::new(), limits, budget: CpuBudget::default(), wasi }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}
impl inference::Host for State {}

impl inference::HostGeneration for State {
    fn open(&mut self, plan: types::PlanResult) -> wasmtime::Result<Resource<Generation>> {
        Ok(self.table.push(Generation(plan.into()))?)
    }

    fn drop(&mut self, generation: Resource<Generation>) -> wasmtime::Result<()> {
        self.table.delete(generation)?;
        Ok(())
    }
}

impl facts::Host for State {
    fn peek(&mut self, kind: String, key: String) -> wasmtime::Result<Option<types::FactResult>> {
        Ok(self.knowledge.peek(&kind, &key).map(Into::into))
    }
}

impl fleet::Host for State {
    fn model(&mut self, name: String) -> wasmtime::Result<Option<fleet::ModelInfo>> {
        let model = self.knowledge.model(&name);
        Ok(model.map(|littoral_core::Model { name, revision, context_length, created }| fleet::ModelInfo {
            name,
            revision,
            context_length,
            created,
        }))
    }

    fn candidates(
        &mut self,
        model: String,
        tenant: String,
        session: String,
        k: u32,
    ) -> wasmtime::Result<Vec<types::CandidateResult>> {
        Ok(self.knowledge.candidates(&model, &tenant, &session, k).into_iter().map(Into::into).collect())
    }
}

impl crypto::Host for State {
    fn verify(
        &mut self,
        algorithm: String,
        key: Vec<u8>,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<bool> {
        Ok(self.knowledge.verify(&algorithm, &key, &message, &signature))
    }
}
