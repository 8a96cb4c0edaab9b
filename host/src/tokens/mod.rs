//! Access tokens of this installation's own, for those without an identity provider: minted, refreshed, revoked.

mod secret;
mod signer;

use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use littoral_core::{
    key::hex,
    token::{ORIGIN, Origin, Revocation, by_jti, by_subject},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use secret::Secret;
pub use signer::Signer;

use crate::{
    config,
    plan::now_ms,
    vault::{Store, StoreError, Table},
};

/// Families of refresh tokens that a client may have at once.
const FAMILIES: u8 = 8;
const DAY_MS: u64 = 86_400_000;

/// Whom a token is for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub tenant: String,
    pub user: String,
    /// Id of an API key.
    pub client_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub acr: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
    /// The token it is given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What is kept of a family of refresh tokens: all that were refreshed from one, of which the last is good.
#[derive(Debug, Serialize, Deserialize)]
struct Refresh {
    subject: Subject,
    family: String,
    /// Of the token that is good; empty: none is.
    digest: String,
    /// When it was given, Unix milliseconds.
    issued_ms: u64,
}

/// Why no token was given.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the refresh token is not good, or was used before")]
    Refused,
    #[error("the system gives no random numbers, or the signing key cannot be used")]
    Crypto,
    #[error("the signing key in the store was sealed with another secret than token.secret_file")]
    OtherSecret,
    #[error("what is stored cannot be read: {0}")]
    Damaged(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The document of a success (RFC 6749, section 5.1).
#[derive(Debug, Serialize, Deserialize)]
pub struct Issued {
    pub access_token: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
}

/// Mints tokens under one configuration.
pub struct Mint {
    pub signer: Signer,
    pub secret: Secret,
    issuer: String,
    audience: String,
    lifetime_s: u64,
    refresh_days: u64,
}

impl Mint {
    /// Takes the signing key from the store, or makes one; none when this installation is no issuer. `secret` reads the
    /// file of the secret: an edge's makes one that is not there ([`Secret::load`]), a command's does not
    /// ([`Secret::existing`]).
    pub async fn load(
        config: &config::Token,
        store: &dyn Store,
        secret: fn(&Path) -> anyhow::Result<Secret>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(issuer) = &config.issuer else { return Ok(None) };
        let secret = secret(&config.secret_file)?;
        Ok(Some(Self {
            signer: Signer::load(store, &secret).await?,
            secret,
            issuer: issuer.clone(),
            audience: config.audience.clone(),
            lifetime_s: config.lifetime_s,
            refresh_days: config.refresh_days,
        }))
    }

    /// An access token.
    pub fn access(&self, subject: &Subject, lifetime_s: Option<u64>) -> Result<Issued, TokenError> {
        let lifetime_s = lifetime_s.unwrap_or(self.lifetime_s);
        let now = now_ms() / 1000;
        let mut claims = serde_json::json!({
            "iss": self.issuer, "aud": self.audience, "sub": subject.user, "client_id": subject.client_id,
            "tenant": subject.tenant, "iat": now, "exp": now + lifetime_s, "jti": random()?,
        });
        if !subject.acr.is_empty() {
            claims["acr"] = subject.acr.clone().into();
            claims["amr"] = subject.amr.clone().into();
            claims["auth_time"] = subject.auth_time.into();
        }
        if let Some(origin) = &subject.origin {
            claims[ORIGIN] = serde_json::to_value(origin).map_err(|e| TokenError::Damaged(e.to_string()))?;
        }
        let access_token = self.signer.sign(&claims)?;
        Ok(Issued { access_token, token_type: "Bearer".into(), expires_in: lifetime_s, refresh_token: None })
    }

    /// An access token and a refresh token of a new family. A client has [`FAMILIES`] at most: one more ends its oldest, so
    /// that one who asks again and again, and never refreshes, fills no store.
    pub async fn grant(&self, store: &dyn Store, subject: Subject) -> Result<Issued, TokenError> {
        let (client, family) = (subject.client_id.clone(), random()?);
        let mut refresh = Refresh { subject, family, digest: String::new(), issued_ms: 0 };
        let mut oldest: Option<(u64, u8)> = None;
        // Those who ask at once begin at different places.
        let first = rand::random_range(0..FAMILIES);
        for slot in (0..FAMILIES).map(|i| (first + i) % FAMILIES) {
            let place = place(&client, slot);
            let Some(before) = store.get(Table::Refresh, &place).await? else {
                let (issued, json) = self.issue(&mut refresh, slot)?;
                if store.put_new(Table::Refresh, &place, json, Some(self.refresh_until())).await? {
                    return Ok(issued);
                }
                continue;
            };
            // What cannot be read, or was ended, goes first.
            let since = serde_json::from_slice::<Refresh>(&before).ok().filter(|there| !there.is_over());
            let since = since.map_or(0, |there| there.issued_ms);
            if oldest.as_ref().is_none_or(|(known, _)| since < *known) {
                oldest = Some((since, slot));
            }
        }
        let slot = oldest.map_or(first, |(_, slot)| slot);
        let (issued, json) = self.issue(&mut refresh, slot)?;
        store.put(Table::Refresh, &place(&client, slot), json, Some(self.refresh_until())).await?;
        Ok(issued)
    }

    /// A new pair for a refresh token, which is good once. One that comes a second time was stolen, or its successor was:
    /// the whole family is ended.
    pub async fn refresh(&self, store: &dyn Store, text: &str, client_id: &str) -> Result<Issued, TokenError> {
        let presented = Presented::parse(text).ok_or(TokenError::Refused)?;
        let place = place(client_id, presented.slot);
        loop {
            let before = store.get(Table::Refresh, &place).await?.ok_or(TokenError::Refused)?;
            let mut refresh: Refresh =
                serde_json::from_slice(&before).map_err(|e| TokenError::Damaged(e.to_string()))?;
            // A family that made room for another one is over.
            if refresh.family != presented.family || refresh.subject.client_id != client_id || refresh.is_over() {
                return Err(TokenError::Refused);
            }
            let was_used = verify_slices_are_equal(refresh.digest.as_bytes(), digest(text).as_bytes()).is_err();
            let (answer, json) = if was_used {
                refresh.digest.clear();
                (Err(TokenError::Refused), refresh.json()?)
            } else if self.is_revoked(store, &refresh).await? {
                return Err(TokenError::Refused);
            } else {
                let (issued, json) = self.issue(&mut refresh, presented.slot)?;
                (Ok(issued), json)
            };
            // Of those who come at once one is first. The others look again, and what they have is used by then.
            if store.swap(Table::Refresh, &place, &before, json, Some(self.refresh_until())).await? {
                if was_used {
                    tracing::warn!(client_id, "a refresh token was used twice; its family is ended");
                }
                return answer;
            }
        }
    }

    /// Whether the subject's tokens were revoked since.
    async fn is_revoked(&self, store: &dyn Store, refresh: &Refresh) -> Result<bool, TokenError> {
        let Subject { tenant, user, .. } = &refresh.subject;
        let stored = store.get(Table::Revoked, &by_subject(&self.issuer, tenant, user)).await?;
        Ok(stored.is_some_and(|json| Revocation::read(&json).ends(refresh.issued_ms / 1000)))
    }

    /// A pair, and what is kept of its refresh token.
    fn issue(&self, refresh: &mut Refresh, slot: u8) -> Result<(Issued, Vec<u8>), TokenError> {
        let mut issued = self.access(&refresh.subject, None)?;
        let text = format!("lr_{slot:02x}{}{}{}", refresh.family, random()?, random()?);
        (refresh.issued_ms, refresh.digest) = (now_ms(), digest(&text));
        issued.refresh_token = Some(text);
        Ok((issued, refresh.json()?))
    }

    fn refresh_until(&self) -> u64 {
        now_ms().saturating_add(self.refresh_days.saturating_mul(DAY_MS))
    }
}

impl Refresh {
    fn is_over(&self) -> bool {
        self.digest.is_empty()
    }

    fn json(&self) -> Result<Vec<u8>, TokenError> {
        serde_json::to_vec(self).map_err(|e| TokenError::Damaged(e.to_string()))
    }
}

/// A refresh token as a client presents it: `lr_`, a slot, a family, and a secret, in hex.
struct Presented<'a> {
    slot: u8,
    family: &'a str,
}

impl<'a> Presented<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let hex =
            text.strip_prefix("lr_").filter(|hex| hex.len() == 98 && hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let slot = u8::from_str_radix(&hex[..2], 16).ok().filter(|slot| *slot < FAMILIES)?;
        Some(Self { slot, family: &hex[2..34] })
    }
}

/// Where one of a client's families is kept.
fn place(client_id: &str, slot: u8) -> String {
    format!("{client_id}/{slot:02x}")
}

fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// 128 bits in hex.
fn random() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TokenError::Crypto)?;
    Ok(hex(&bytes))
}

/// Refuses one token from now on, everywhere.
pub async fn revoke_token(store: &dyn Store, issuer: &str, jti: &str) -> Result<(), StoreError> {
    // No access token is good for longer than this; see `config::Issuer::check`.
    let until = now_ms() + config::LONGEST_TOKEN_S * 1000;
    revoke(store, &by_jti(issuer, jti), u64::MAX, Some(until)).await
}

/// Refuses every token of a tenant's subject that was issued until now, everywhere, and what would refresh them.
pub async fn revoke_subject(store: &dyn Store, issuer: &str, tenant: &str, subject: &str) -> Result<(), StoreError> {
    // How long a refresh token is good is for the edges to say.
    revoke(store, &by_subject(issuer, tenant, subject), now_ms() / 1000, None).await
}

async fn revoke(store: &dyn Store, name: &str, before_s: u64, until_ms: Option<u64>) -> Result<(), StoreError> {
    let json = serde_json::to_vec(&Revocation { before_s }).expect("a number always serialises");
    store.put(Table::Revoked, name, json, until_ms).await
}
