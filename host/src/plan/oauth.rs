//! The service `oauth-token`: a token for a client that a guest let in.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, header::CACHE_CONTROL};
use littoral_core::{Body, Plan, Reply, oauth};

use super::{Answer, Executor, permit::Take, whole};
use crate::{
    error::Error,
    telemetry::Entry,
    tokens::{Subject, TokenError},
};

impl Executor {
    /// Mints what the plan's grant asks for.
    pub(super) async fn oauth_token(
        &self,
        mut plan: Arc<Plan>,
        (args, request_id): (&str, &str),
        entry: &mut Entry,
    ) -> Result<Answer, Error> {
        let permit = self.admit(&mut plan, Take::Request, request_id, self.shared.deadline).await?;
        let headers = permit.map(|permit| permit.headers.clone()).unwrap_or_default();
        let Some(mint) = &self.shared.mint else {
            return answer(oauth::refusal(400, "unsupported_grant_type", "this server issues no tokens"), entry);
        };
        let grant = serde_json::from_str(args).map_err(|e| Error::Plan(format!("its grant cannot be read: {e}")))?;
        let principal =
            plan.principal.clone().ok_or_else(|| Error::Plan("it names nobody to give a token to".into()))?;
        let store = &*self.shared.store;
        let issued = match grant {
            oauth::Grant::ClientCredentials => {
                let subject = Subject {
                    tenant: principal.tenant,
                    user: principal.user,
                    client_id: principal.key_id,
                    ..Subject::default()
                };
                mint.grant(store, subject).await
            }
            oauth::Grant::RefreshToken { refresh_token } => {
                mint.refresh(store, &refresh_token, &principal.key_id).await
            }
        };
        match issued {
            Ok(issued) => {
                let json = serde_json::to_vec(&issued).expect("strings and numbers always serialise");
                let mut answer = whole(200, headers, json.into())?;
                if let Answer::Whole(response) = &mut answer {
                    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                }
                Ok(answer)
            }
            Err(TokenError::Refused) => {
                answer(oauth::refusal(400, "invalid_grant", &TokenError::Refused.to_string()), entry)
            }
            Err(error) => {
                tracing::error!(%error, "no token could be given");
                Err(littoral_core::denial::unavailable("no token can be given now; please try again", 1).into())
            }
        }
    }
}

fn answer(reply: Reply, entry: &mut Entry) -> Result<Answer, Error> {
    entry.planned(&reply.plan);
    let bytes = match reply.body {
        Body::Bytes(bytes) => Bytes::from(bytes),
        _ => Bytes::new(),
    };
    whole(reply.status, reply.headers, bytes)
}
