//! The signing key: ES256, made once, kept sealed in the store, the same at every edge.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use littoral_core::{key::hex, token::jwks};
use sha2::{Digest, Sha256};

use super::{Secret, TokenError};
use crate::vault::{Store, Table, patiently};

const NAME: &str = "signing-key";

/// See the module.
pub struct Signer {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Signer {
    /// The key in the store, or a new one that is put there.
    pub async fn load(store: &dyn Store, secret: &Secret) -> Result<Self, TokenError> {
        if store.get(Table::Secrets, NAME).await?.is_none() {
            let fresh = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| TokenError::Crypto)?;
            let pkcs8 = fresh.to_pkcs8v1().map_err(|_| TokenError::Crypto)?;
            let sealed = secret.seal(NAME, pkcs8.as_ref()).ok_or(TokenError::Crypto)?;
            // Another edge may be first: its key is everyone's.
            patiently(async || store.put_new(Table::Secrets, NAME, sealed.clone(), None).await).await?;
        }
        let sealed = store.get(Table::Secrets, NAME).await?.ok_or(TokenError::Crypto)?;
        let pkcs8 = secret.open(NAME, &sealed).ok_or(TokenError::OtherSecret)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).map_err(|_| TokenError::Crypto)?;
        let kid = hex(&Sha256::digest(pair.public_key())[..8]);
        Ok(Self { pair, kid })
    }

    /// Fails where the key in the store was sealed with another secret: what is sealed with this one is lost to the edges.
    pub async fn check(store: &dyn Store, secret: &Secret) -> Result<(), TokenError> {
        match store.get(Table::Secrets, NAME).await? {
            Some(sealed) if secret.open(NAME, &sealed).is_none() => Err(TokenError::OtherSecret),
            Some(_) | None => Ok(()),
        }
    }

    /// The key set that verifies what this signs.
    pub fn jwks(&self) -> Vec<u8> {
        let key = jwks::es256(&self.kid, self.pair.public_key().as_ref());
        serde_json::json!({ "keys": [key] }).to_string().into_bytes()
    }

    /// An access token of these claims, in the compact form.
    pub fn sign(&self, claims: &serde_json::Value) -> Result<String, TokenError> {
        let header = serde_json::json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid});
        let encode = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| TokenError::Crypto)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
