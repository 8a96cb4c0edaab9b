//! Authentication and authorisation: who asks, learned from the credential in the `authorization` header, and what that
//! one may do.

use std::ops::ControlFlow::{self, Break, Continue};

use ipnet::IpNet;

use crate::{
    Call, Effect, Knowledge, Outcome, Plan, Principal, Step, address, chat, denial,
    denial::{forbidden, internal, invalid_token, unauthorized, unavailable},
    effect_kind, extra_name, fact, fact_kind,
    key::{KeyRecord, Presented},
    leave,
    limits::{self, Prices, Reservation, Scopes, TenantPolicy, charge_kind},
    oauth,
    route::Endpoint,
    step_up::{self, When},
    token::{self, Claims, Origin, Token, TokenError},
};

const MISSING: &str = "Authentication Fails (no API key: send 'Authorization: Bearer lk_...')";
const NO_TEXT: &str = "Authentication Fails (the header 'Authorization' is not text in UTF-8)";
const REFUSED: &str = "Authentication Fails (the API key is invalid)";
const EXPIRED: &str = "Authentication Fails (the API key has expired)";

/// Lets the call pass with its principal and its charges in the draft, or refuses it.
pub fn admit(mut call: Call, known: &dyn Knowledge) -> Step {
    if Endpoint::of(&call.head.path) == Some(Endpoint::Token) {
        return oauth::admit(call, known);
    }
    let Some(token) = call.head.header("authorization").and_then(bearer) else {
        let sent = call.head.headers.iter().find(|(name, _)| name == "authorization");
        let is_text = sent.is_none_or(|(_, value)| std::str::from_utf8(value).is_ok());
        return Break(unauthorized(if is_text { MISSING } else { NO_TEXT }).into());
    };
    if Token::looks_like(token) {
        let token = token.to_string();
        return bearer_of(call, known, &token);
    }
    let Some(presented) = Presented::parse(token) else {
        return Break(unauthorized(REFUSED).into());
    };
    let record = key(&call, known, &presented)?;
    let principal = Principal {
        tenant: record.tenant.clone(),
        key_id: record.id.clone(),
        user: record.user.clone(),
        method: "api-key".into(),
    };
    call.draft.principal = Some(principal.clone());
    authorise(call, known, record, None).map_break(|outcome| denial::of(&principal, outcome))
}

/// Lets the bearer of a token pass. One that was issued to a key of this host may do what the key may.
fn bearer_of(mut call: Call, known: &dyn Knowledge, text: &str) -> Step {
    let token::Bearer { claims, tenant, of_key } = token::verify(text, &call, known)?;
    let mut record = KeyRecord { tenant: tenant.clone(), ..KeyRecord::default() };
    if of_key && Presented::is_id(&claims.client_id) {
        let stored = fact(&call, known, fact_kind::API_KEY, &claims.client_id)?;
        let refused = |error: TokenError| Break(invalid_token(&error.to_string()).into());
        record = match stored.value.as_deref().map(serde_json::from_slice::<KeyRecord>) {
            // The key is gone, and with it what was issued to it.
            None => return refused(TokenError::Revoked),
            Some(Err(_)) => return Break(internal("the stored API key cannot be read").into()),
            Some(Ok(record)) if record.tenant != tenant => return refused(TokenError::Tenant),
            Some(Ok(record)) if record.expires_at_ms.is_some_and(|end| end <= call.now_ms) => {
                return refused(TokenError::Expired);
            }
            Some(Ok(record)) => record,
        };
    }
    record.user = claims.sub.clone();
    let principal =
        Principal { tenant, key_id: claims.client_id.clone(), user: record.user.clone(), method: "jwt".into() };
    call.draft.principal = Some(principal.clone());
    let (amr, acr, jti) = (claims.amr.join(" "), claims.acr.clone(), claims.jti.clone());
    let said = [("jti", jti), ("acr", acr), ("amr", amr)].into_iter();
    call.draft.audit.extend(said.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.into(), value)));
    if Endpoint::of(&call.head.path) == Some(Endpoint::StepUp) {
        leave(&mut call.draft, extra_name::ORIGIN, &Origin::of_next(&claims));
    }
    authorise(call, known, record, Some(&claims)).map_break(|outcome| denial::of(&principal, outcome))
}

/// The record of a presented key.
pub(crate) fn key(call: &Call, known: &dyn Knowledge, presented: &Presented) -> ControlFlow<Outcome, KeyRecord> {
    let stored = fact(call, known, fact_kind::API_KEY, presented.id)?;
    if let Some(error) = stored.error {
        return Break(unavailable(format!("the key store cannot be reached: {error}"), 1).into());
    }
    let record = match stored.value.as_deref().map(serde_json::from_slice::<KeyRecord>) {
        None => return Break(unauthorized(REFUSED).into()),
        Some(Err(_)) => return Break(internal("the stored API key cannot be read").into()),
        Some(Ok(record)) => record,
    };
    if !record.matches(presented, call.now_ms) {
        return Break(unauthorized(REFUSED).into());
    }
    if record.expires_at_ms.is_some_and(|end| end <= call.now_ms) {
        return Break(unauthorized(EXPIRED).into());
    }
    Continue(record)
}

/// Holds the call against what its key may do, and charges it.
fn authorise(mut call: Call, known: &dyn Knowledge, record: KeyRecord, claims: Option<&Claims>) -> Step {
    if !comes_from(&record.networks, &call.peer) {
        let message = format!("the API key may not be used from {}", call.peer);
        return Break(forbidden("network_not_allowed", message).into());
    }
    let policy = section::<TenantPolicy>(&call, known, fact_kind::TENANT, &record.tenant)?;
    if Endpoint::of(&call.head.path) != Some(Endpoint::StepUp) {
        let user = step_up::user_key(&record.tenant, &record.user);
        if let Some(place) = step_up::check(&call, known, &policy.step_up, &user, claims)? {
            let value = serde_json::to_vec(&place).expect("a place always serialises");
            call.draft.effects.push(Effect { kind: effect_kind::SEE.into(), key: user, value, ttl_ms: 0 });
        }
    }
    let scopes = scopes(&record, &policy);
    if !(scopes.is_unlimited() && record.models.is_empty()) {
        let generates = call.head.method == "POST" && Endpoint::of(&call.head.path) == Some(Endpoint::Chat);
        let work = if generates { Some(work(&mut call, known, &record)?) } else { None };
        call.draft.charges = scopes.charges(work.as_ref(), call.now_ms);
        if let Some(work) = work {
            leave(&mut call.draft, extra_name::RESERVATION, &work);
        }
    }
    if let Some(rules) = record.cache {
        leave(&mut call.draft, extra_name::CACHE_RULES, &rules);
    }
    holds(&mut call, &record, claims, &policy);
    call.draft.filters = record.filters;
    Continue(call)
}

/// Charges a request that generates nothing.
pub(crate) fn charge_request(call: &mut Call, known: &dyn Knowledge, record: &KeyRecord) -> ControlFlow<Outcome> {
    let policy = section::<TenantPolicy>(call, known, fact_kind::TENANT, &record.tenant)?;
    call.draft.charges = scopes(record, &policy).charges(None, call.now_ms);
    Continue(())
}

fn scopes<'a>(record: &'a KeyRecord, policy: &'a TenantPolicy) -> Scopes<'a> {
    Scopes {
        key: (!record.id.is_empty()).then_some((record.id.as_str(), &record.limits)),
        tenant: &record.tenant,
        user: &record.user,
        policy,
    }
}

/// What is remembered of the decision ends with what it went by: the key, its old secret, the token, the period of a
/// budget. Where a second factor may be asked for, every request is judged anew.
fn holds(call: &mut Call, record: &KeyRecord, claims: Option<&Claims>, policy: &TenantPolicy) {
    let Call { draft: Plan { memo, charges, .. }, now_ms, .. } = call;
    if policy.step_up.when != When::Off {
        *memo = None;
    }
    let Some(memo) = memo else { return };
    let previous = record.previous.as_ref().map(|previous| previous.until_ms).filter(|until| until > now_ms);
    let token = claims.map(|claims| claims.exp.saturating_mul(1000));
    let ends = [record.expires_at_ms, previous, token].into_iter().flatten();
    let left = ends.map(|end| end.saturating_sub(*now_ms));
    let periods = charges.iter().filter(|charge| charge.kind == charge_kind::BUDGET).map(|charge| charge.window_ms);
    memo.ttl_ms = left.chain(periods.filter(|left| *left > 0)).fold(memo.ttl_ms, u64::min);
}

/// Whether `peer` is in one of the networks, or no network is named.
pub(crate) fn comes_from(networks: &[IpNet], peer: &str) -> bool {
    networks.is_empty() || peer.parse().is_ok_and(|address| address::within(networks, address))
}

/// What a chat request may use at most; refused when its model is not the key's.
fn work(call: &mut Call, known: &dyn Knowledge, record: &KeyRecord) -> ControlFlow<Outcome, Reservation> {
    let request = match chat::read(call) {
        Ok(request) => request,
        Err(outcome) => return Break(outcome),
    };
    let model = known.model(&request.model);
    // A name that stands for another model is as good as that one's own.
    let named = |name: &str| record.models.iter().any(|allowed| allowed == name);
    let allowed = named(&request.model) || model.as_ref().is_some_and(|model| named(&model.name));
    if !record.models.is_empty() && !allowed {
        let message = format!("the API key may not use the model '{}'", request.model);
        return Break(forbidden("model_not_allowed", message).into());
    }
    let prices = section::<Prices>(call, known, fact_kind::CONFIG, "prices")?;
    // A model nobody serves is refused by the router, before anything is charged.
    let context = model.as_ref().map_or(0, |model| model.context_length);
    let served = model.as_ref().map_or(request.model.as_str(), |model| &model.name);
    Continue(Reservation {
        prompt: call.draft.request.len() as u64,
        completion: request.max_tokens.unwrap_or(context).into(),
        choices: request.sampling.n.into(),
        price: limits::price(&prices, [&request.model, served]),
    })
}

/// A fact that is JSON; its default when there is none.
fn section<T>(call: &Call, known: &dyn Knowledge, kind: &str, key: &str) -> ControlFlow<Outcome, T>
where
    T: Default + serde::de::DeserializeOwned,
{
    match fact(call, known, kind, key)?.value {
        None => Continue(T::default()),
        Some(json) => match serde_json::from_slice(&json) {
            Ok(section) => Continue(section),
            Err(_) => Break(internal(format!("the stored {kind} '{key}' cannot be read")).into()),
        },
    }
}

/// The token of a bearer credential (RFC 6750, section 2.1); the scheme's case does not matter (RFC 9110, 11.1).
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
