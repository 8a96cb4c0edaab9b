//! Access tokens of this installation's own, for those without an identity provider: minted, refreshed, revoked.

mod secret;
mod signer;

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

/// Longest refresh token that is looked at, bytes.
const MAX_REFRESH: usize = 256;
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

/// What a refresh token stands for, by its digest.
#[derive(Debug, Serialize, Deserialize)]
struct Refresh {
    subject: Subject,
    /// All tokens that were refreshed from one.
    family: String,
    /// When it was given, Unix seconds; one that does not say so is older than every revocation.
    #[serde(default)]
    issued_s: u64,
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
    /// Takes the signing key from the store, or makes one; none when this installation is no issuer.
    pub async fn load(config: &config::Token, store: &dyn Store) -> anyhow::Result<Option<Self>> {
        let Some(issuer) = &config.issuer else { return Ok(None) };
        let secret = Secret::load(&config.secret_file)?;
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

    /// An access token and a refresh token of a new family.
    pub async fn grant(&self, store: &dyn Store, subject: Subject) -> Result<Issued, TokenError> {
        let family = random()?;
        self.issue(store, Refresh { subject, family, issued_s: 0 }).await
    }

    /// A new pair for a refresh token, which is good once. One that comes a second time was stolen, or its successor was:
    /// the whole family is ended.
    pub async fn refresh(&self, store: &dyn Store, text: &str, client_id: &str) -> Result<Issued, TokenError> {
        if text.len() > MAX_REFRESH {
            return Err(TokenError::Refused);
        }
        let id = digest(text);
        let Some(json) = store.take(Table::Refresh, &id).await? else {
            if let Some(family) = store.get(Table::Once, &used(&id)).await? {
                tracing::warn!(client_id, "a refresh token was used twice; its family is ended");
                let family = String::from_utf8_lossy(&family).into_owned();
                store.put(Table::Once, &ended(&family), Vec::new(), Some(self.refresh_until())).await?;
            }
            return Err(TokenError::Refused);
        };
        let refresh: Refresh = serde_json::from_slice(&json).map_err(|e| TokenError::Damaged(e.to_string()))?;
        let family = refresh.family.clone().into_bytes();
        store.put(Table::Once, &used(&id), family, Some(self.refresh_until())).await?;
        let over = store.get(Table::Once, &ended(&refresh.family)).await?.is_some();
        if over || refresh.subject.client_id != client_id || self.is_revoked(store, &refresh).await? {
            return Err(TokenError::Refused);
        }
        self.issue(store, refresh).await
    }

    /// Whether the subject's tokens were revoked since.
    async fn is_revoked(&self, store: &dyn Store, refresh: &Refresh) -> Result<bool, TokenError> {
        let Subject { tenant, user, .. } = &refresh.subject;
        let stored = store.get(Table::Revoked, &by_subject(&self.issuer, tenant, user)).await?;
        Ok(stored.is_some_and(|json| Revocation::read(&json).ends(refresh.issued_s)))
    }

    async fn issue(&self, store: &dyn Store, mut refresh: Refresh) -> Result<Issued, TokenError> {
        refresh.issued_s = now_ms() / 1000;
        let mut issued = self.access(&refresh.subject, None)?;
        let text = format!("lr_{}{}", random()?, random()?);
        let json = serde_json::to_vec(&refresh).map_err(|e| TokenError::Damaged(e.to_string()))?;
        store.put(Table::Refresh, &digest(&text), json, Some(self.refresh_until())).await?;
        issued.refresh_token = Some(text);
        Ok(issued)
    }

    fn refresh_until(&self) -> u64 {
        now_ms().saturating_add(self.refresh_days.saturating_mul(DAY_MS))
    }
}

fn used(id: &str) -> String {
    format!("refresh-used/{id}")
}

fn ended(family: &str) -> String {
    format!("refresh-ended/{family}")
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
