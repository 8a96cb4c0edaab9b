//! The service `step-up`: a token with a second factor for one who proves it; and the places users are seen at.

use std::time::Duration;

use futures::TryFutureExt;
use http::{HeaderValue, header::CACHE_CONTROL};
use littoral_core::{
    Denial, Effect, Plan,
    denial::{limited, unauthorized, unavailable},
    effect_kind, extra, extra_name,
    step_up::{
        ACR,
        place::{Place, Seen},
        user_key,
    },
};

use super::{Answer, Executor, now_ms, whole};
use crate::{
    admin::factors::{FactorError, prove},
    error::Error,
    tokens::Subject,
    vault::{StoreError, Table},
};

/// How long a request waits for the store to take a place down.
const NOTE_FOR: Duration = Duration::from_millis(500);

impl Executor {
    /// Checks the proof and mints a token that says so.
    pub(super) async fn step_up(&self, plan: Plan, args: &str, peer: &str) -> Result<Answer, Error> {
        let Some(mint) = &self.shared.mint else {
            return Err(unavailable("this server issues no tokens: token.issuer is not set", 60).into());
        };
        let proof = serde_json::from_str(args).map_err(|e| Error::Plan(format!("its proof cannot be read: {e}")))?;
        let origin = extra(&plan, extra_name::ORIGIN);
        let principal = plan.principal.ok_or_else(|| Error::Plan("it names nobody to step up".into()))?;
        let store = &*self.shared.store;
        let who = (principal.tenant.as_str(), principal.user.as_str());
        let method = match prove(store, &self.shared.limits, &mint.secret, who, &proof).await {
            Ok(method) => method,
            Err(error) => return Err(refused(&error).into()),
        };
        let user = user_key(who.0, who.1);
        if let Some(place) = self.shared.known.place(peer) {
            self.see(&user, place).await;
        }
        let subject = Subject {
            tenant: principal.tenant,
            user: principal.user,
            client_id: principal.key_id,
            acr: ACR.into(),
            amr: vec![method.into(), "mfa".into()],
            auth_time: Some(now_ms() / 1000),
            origin,
        };
        let issued = mint.access(&subject, None).map_err(|error| {
            tracing::error!(%error, "no token could be given");
            unavailable("no token can be given now; please try again", 1)
        })?;
        let json = serde_json::to_vec(&issued).expect("strings and numbers always serialise");
        let mut answer = whole(200, Vec::new(), json.into())?;
        if let Answer::Whole(response) = &mut answer {
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Ok(answer)
    }

    /// Carries out what a plan asks for after admission.
    pub(super) async fn effects(&self, effects: &[Effect]) {
        for effect in effects {
            match (effect.kind.as_str(), serde_json::from_slice::<Place>(&effect.value)) {
                (effect_kind::SEE, Ok(place)) => self.see(&effect.key, place).await,
                (kind, _) => tracing::debug!(kind, "an effect this host does not know"),
            }
        }
    }

    /// Takes down where a user was seen. A store that is slow does so behind the request.
    async fn see(&self, user: &str, place: Place) {
        let (shared, user) = (self.shared.clone(), user.to_string());
        let write = async move {
            let stored = shared.store.get(Table::Places, &user).await?;
            let mut seen: Seen = stored.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
            seen.note(place, now_ms());
            let json = serde_json::to_vec(&seen).expect("places always serialise");
            let written = shared.store.put(Table::Places, &user, json.clone(), None).await;
            written.map(|()| shared.known.seen(&user, json))
        };
        let written = tokio::spawn(write.unwrap_or_else(|error: StoreError| {
            tracing::warn!(%error, "a user's place was not taken down");
        }));
        if tokio::time::timeout(NOTE_FOR, written).await.is_err() {
            tracing::warn!("a user's place is taken down late");
        }
    }
}

fn refused(error: &FactorError) -> Denial {
    match error {
        FactorError::Wrong => {
            Denial { code: "invalid_code".into(), ..unauthorized(&format!("Authentication Fails ({error})")) }
        }
        FactorError::TooMany { retry_ms } => limited(error.to_string(), Some(retry_ms.div_ceil(1000).max(1))),
        FactorError::OtherSecret | FactorError::NoEntropy | FactorError::Store(_) => {
            tracing::error!(%error, "a second factor could not be checked");
            unavailable("the second factor cannot be checked now; please try again", 1)
        }
    }
}
