//! The exported interfaces: WIT types in, the rooms of this crate called, WIT types out.

use littoral_core::{fact_kind, operation};

use crate::{
    Host, Provider,
    bindings::{
        exports::littoral::{
            edge::{
                crypto, facts, fleet,
                inference::{self, GuestGeneration},
                types::{Candidate, Denial, Fact, Plan, Want},
            },
            portable::carriage::{self, ReplyHead},
        },
        wasi::http::types::Response,
    },
    carry,
    limits::{self, denial},
    settings::Settings,
};

/// An opened generation: its plan, until it is carried out.
pub struct Opened(Plan);

impl GuestGeneration for Opened {
    fn open(plan: Plan) -> inference::Generation {
        inference::Generation::new(Opened(plan))
    }
}

impl<H: Host> inference::Guest for Provider<H> {
    type Generation = Opened;
}

impl<H: Host> facts::Guest for Provider<H> {
    fn peek(kind: String, key: String) -> Option<Fact> {
        Settings::get()?.peek(&kind, &key).map(Fact::from)
    }
}

impl<H: Host> fleet::Guest for Provider<H> {
    fn model(name: String) -> Option<fleet::ModelInfo> {
        let model = Settings::get()?.model(&name)?.clone();
        let littoral_core::Model { name, revision, context_length, created } = model;
        Some(fleet::ModelInfo { name, revision, context_length, created })
    }

    fn candidates(model: String, _tenant: String, session: String, k: u32) -> Vec<Candidate> {
        let Some(settings) = Settings::get() else { return Vec::new() };
        let candidates = settings.candidates(&model, &session, k).into_iter();
        candidates.map(|c| Candidate { node: c.node, reason: c.reason }).collect()
    }
}

impl<H: Host> crypto::Guest for Provider<H> {
    fn verify(algorithm: String, key: Vec<u8>, message: Vec<u8>, signature: Vec<u8>) -> bool {
        crate::crypto::verify(&algorithm, &key, &message, &signature)
    }
}

impl<H: Host> carriage::Guest for Provider<H> {
    async fn prepare() -> Result<(), Denial> {
        settings::<H>().await.map(drop)
    }

    async fn fetch(wants: Vec<Want>) -> Vec<Fact> {
        let mut facts = Vec::with_capacity(wants.len());
        for want in wants {
            let Want::Fact((kind, key)) = want else { continue };
            let known = Settings::get().and_then(|settings| settings.peek(&kind, &key));
            let fact = match (known, Settings::get()) {
                (Some(fact), _) => fact,
                (None, Some(settings)) if kind == fact_kind::VERIFYING_KEY => settings.issuers.fetch(&key).await,
                (None, _) => H::fetch(&kind, &key).await,
            };
            facts.push(fact.into());
        }
        facts
    }

    async fn respond(generation: inference::Generation, head: ReplyHead) -> Result<Response, Denial> {
        let Opened(plan) = generation.into_inner();
        limits::admit(&plan, operation::GENERATE)?;
        carry::generate(plan, head, settings::<H>().await?).await
    }

    async fn serve(name: String, _arguments: String, plan: Option<Plan>) -> Result<Vec<u8>, Denial> {
        limits::service(&name)?;
        if let Some(plan) = &plan {
            limits::admit(plan, &name)?;
        }
        Ok(settings::<H>().await?.models_document())
    }
}

/// The settings, or a refusal that leaves the details to the log.
async fn settings<H: Host>() -> Result<&'static Settings, Denial> {
    Settings::load::<H>().await.map_err(|error| {
        eprintln!("littoral: {error}");
        denial(500, "internal_error", "this host is not set up; its log says what is missing")
    })
}

impl From<littoral_core::Fact> for Fact {
    fn from(fact: littoral_core::Fact) -> Self {
        let littoral_core::Fact { kind, key, value, error } = fact;
        Self { kind, key, value, error }
    }
}
