//! JWT access tokens (RFC 9068) under the rules of RFC 8725: parsed within bounds, held against their issuer's rules, and
//! verified through the host with a key of the issuer's own.

pub mod jwks;
mod parse;

use std::ops::ControlFlow::{self, Break, Continue};

use serde::{Deserialize, Serialize};

use crate::{
    Call, Knowledge, Outcome,
    denial::{internal, invalid_token, unavailable},
    fact, fact_kind,
};
use parse::is_name;
pub use parse::{Claims, MAX_BYTES, Token, TokenError};

/// Whose tokens are taken, and which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Issuer {
    /// `iss`, exactly.
    pub issuer: String,
    /// One of `aud`, exactly.
    pub audience: String,
    /// Of ES256, EdDSA, RS256.
    pub algorithms: Vec<String>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The tenant of all its tokens, whatever they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `exp - iat` at most, seconds.
    pub max_lifetime_s: u64,
    /// How far clocks may be apart, seconds.
    pub leeway_s: u64,
    /// It mints for API keys: the `client_id` of its tokens is the id of a key. Another issuer's may look like one and is
    /// none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub for_keys: bool,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            algorithms: ALGORITHMS.map(String::from).to_vec(),
            tenant_claim: "tenant".into(),
            tenant: None,
            max_lifetime_s: 15 * 60,
            leeway_s: 30,
            for_keys: false,
        }
    }
}

/// What is known of an issuer: what its tokens are held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    pub rules: Issuer,
    /// The key that was asked for. One that is not in memory may be a fact of kind [`fact_kind::VERIFYING_KEY`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<jwks::Key>,
}

/// What can be verified at all.
pub const ALGORITHMS: [&str; 3] = ["ES256", "EdDSA", "RS256"];

/// What is revoked, as the fact of kind [`fact_kind::REVOKED`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revocation {
    /// Tokens issued at or before this second are refused.
    pub before_s: u64,
}

impl Revocation {
    /// As it is stored. One that cannot be read revokes everything.
    pub fn read(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or(Self { before_s: u64::MAX })
    }

    /// Whether it ends what was issued at this Unix second.
    pub fn ends(&self, issued_s: u64) -> bool {
        issued_s <= self.before_s
    }

    /// The later of what is stored, as it is stored.
    pub fn latest(stored: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
        let before_s = stored.into_iter().map(|json| Self::read(&json).before_s).max()?;
        Some(serde_json::to_vec(&Self { before_s }).expect("a number always serialises"))
    }
}

/// The claim of a token that was given for a second factor: the token with which that was proven.
pub const ORIGIN: &str = "littoral_origin";

/// What a revocation speaks of in a token. A token for a second factor carries it of the one it came from, with which it
/// ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    pub iss: String,
    pub sub: String,
    pub jti: String,
    /// Unix seconds.
    pub iat: u64,
}

impl Origin {
    /// Of the claims themselves.
    fn of(claims: &Claims) -> Self {
        Self { iss: claims.iss.clone(), sub: claims.sub.clone(), jti: claims.jti.clone(), iat: claims.iat }
    }

    /// That the claims carry.
    fn carried(claims: &Claims) -> Result<Option<Self>, TokenError> {
        let Some(value) = claims.other.get(ORIGIN) else { return Ok(None) };
        let read = Self::deserialize(value).ok();
        let named = read.filter(|origin| [&origin.iss, &origin.sub, &origin.jti].iter().all(|name| is_name(name)));
        named.map(Some).ok_or(TokenError::Claim(ORIGIN))
    }

    /// What a token that is given to who presents these claims has to carry: always the first of a row.
    pub fn of_next(claims: &Claims) -> Self {
        Self::carried(claims).ok().flatten().unwrap_or_else(|| Self::of(claims))
    }
}

/// Key of the fact that a token of a tenant was revoked, by itself or with all of its subject's.
pub fn revoked_by(token: &Origin, tenant: &str) -> String {
    [&token.iss, "\n", tenant, "\n", &token.sub, "\n", &token.jti].concat()
}

/// Under which names the two revocations are stored of which [`revoked_by`] speaks.
pub fn revocations(fact: &str) -> Option<[String; 2]> {
    // No claim that names something has a line feed in it.
    let (issuer, rest) = fact.split_once('\n')?;
    let (tenant, rest) = rest.split_once('\n')?;
    let (subject, jti) = rest.split_once('\n')?;
    Some([by_jti(issuer, jti), by_subject(issuer, tenant, subject)])
}

/// Name under which it is stored that one token was revoked.
pub fn by_jti(issuer: &str, jti: &str) -> String {
    format!("jti\n{issuer}\n{jti}")
}

/// Name under which it is stored that all tokens of a tenant's subject were revoked: another tenant may have one of the
/// same name.
pub fn by_subject(issuer: &str, tenant: &str, subject: &str) -> String {
    format!("sub\n{issuer}\n{tenant}\n{subject}")
}

/// Key of the facts that hold an issuer's rules and its verification key.
pub fn key_of(issuer: &str, kid: &str) -> String {
    [issuer, "\n", kid].concat()
}

/// Who presents a token that is good.
#[derive(Debug, Clone, PartialEq)]
pub struct Bearer {
    pub claims: Claims,
    pub tenant: String,
    /// The token was issued to the API key that `client_id` names.
    pub of_key: bool,
}

impl Issuer {
    /// Holds claims against the rules.
    pub fn admits(&self, token: &Token<'_>, now_ms: u64) -> Result<(), TokenError> {
        let (claims, now, leeway) = (&token.claims, now_ms / 1000, self.leeway_s);
        if !self.algorithms.contains(&token.header.alg) || !ALGORITHMS.contains(&token.header.alg.as_str()) {
            return Err(TokenError::Algorithm);
        }
        if !claims.aud.contains(&self.audience) {
            return Err(TokenError::Audience);
        }
        if claims.exp.saturating_add(leeway) <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.unwrap_or(0) > now.saturating_add(leeway) || claims.iat > now.saturating_add(leeway) {
            return Err(TokenError::NotYet);
        }
        if claims.exp.saturating_sub(claims.iat) > self.max_lifetime_s {
            return Err(TokenError::TooLong { most_s: self.max_lifetime_s });
        }
        Ok(())
    }

    fn tenant(&self, claims: &Claims) -> Option<String> {
        self.tenant.clone().or_else(|| claims.other.get(&self.tenant_claim)?.as_str().map(String::from))
    }
}

fn refused(error: TokenError) -> ControlFlow<Outcome, Bearer> {
    Break(invalid_token(&error.to_string()).into())
}

/// Finds out who presents `text`, or refuses it.
pub fn verify(text: &str, call: &Call, known: &dyn Knowledge) -> ControlFlow<Outcome, Bearer> {
    let token = match Token::parse(text) {
        Ok(token) => token,
        Err(error) => return refused(error),
    };
    let claims = &token.claims;
    let name = key_of(&claims.iss, &token.header.kid);
    let Trust { rules: issuer, key } = match fact(call, known, fact_kind::ISSUER, &name)?.value {
        None => return refused(TokenError::Issuer),
        Some(json) => match serde_json::from_slice::<Trust>(&json) {
            Ok(trust) if trust.rules.issuer == claims.iss => trust,
            Ok(_) | Err(_) => return Break(internal("a stored issuer cannot be read").into()),
        },
    };
    // What the rules refuse costs no signature.
    if let Err(error) = issuer.admits(&token, call.now_ms) {
        return refused(error);
    }
    let key = match key {
        Some(key) => key,
        None => verifying_key(&name, call, known)?,
    };
    // The key says which algorithm it is for; the token only has to agree.
    if key.algorithm != token.header.alg {
        return refused(TokenError::Algorithm);
    }
    let Some(public) = key.public() else { return refused(TokenError::Key) };
    if !known.verify(&key.algorithm, &public, token.signed, &token.signature) {
        return refused(TokenError::Signature);
    }
    let Some(tenant) = issuer.tenant(claims).filter(|tenant| !tenant.is_empty() && is_name(tenant)) else {
        return refused(TokenError::Tenant);
    };
    let origin = match Origin::carried(claims) {
        Ok(origin) => origin,
        Err(error) => return refused(error),
    };
    // A second factor that was proven with another issuer's token leaves the client what it was there.
    let first = origin.as_ref().is_none_or(|origin| origin.iss == claims.iss);
    let of_key = issuer.for_keys && first;
    for token in [Some(Origin::of(claims)), origin].into_iter().flatten() {
        let revoked = fact(call, known, fact_kind::REVOKED, &revoked_by(&token, &tenant))?;
        if let Some(error) = revoked.error {
            return Break(unavailable(format!("the list of revoked tokens cannot be had: {error}"), 1).into());
        }
        if revoked.value.is_some_and(|json| Revocation::read(&json).ends(token.iat)) {
            return refused(TokenError::Revoked);
        }
    }
    Continue(Bearer { claims: token.claims, tenant, of_key })
}

/// A key that did not come with its issuer.
fn verifying_key(name: &str, call: &Call, known: &dyn Knowledge) -> ControlFlow<Outcome, jwks::Key> {
    let key = fact(call, known, fact_kind::VERIFYING_KEY, name)?;
    match (key.value, key.error) {
        (Some(json), _) => match serde_json::from_slice(&json) {
            Ok(key) => Continue(key),
            Err(_) => Break(internal("a stored verification key cannot be read").into()),
        },
        (None, Some(error)) => Break(unavailable(format!("the issuer's keys cannot be had: {error}"), 1).into()),
        (None, None) => Break(invalid_token(&TokenError::Key.to_string()).into()),
    }
}
