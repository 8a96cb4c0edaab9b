//! Who may administer: a token that is printed once, and browser sessions that were opened with it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, Method, header::AUTHORIZATION, header::COOKIE};
use littoral_core::{auth, key::hex};
use sha2::{Digest, Sha256};

use super::keys::KeyError;
use crate::vault::{Store, StoreError, Table, patiently, put_back, replace};

const NAME: &str = "admin-token";
/// Name of the session's cookie.
pub const SESSION: &str = "littoral_admin";
/// The header in which a page repeats what it was told when it logged in.
pub const CSRF: &str = "x-csrf-token";
const LASTS: Duration = Duration::from_secs(12 * 3600);
const MOST: usize = 64;

/// Makes the token if there is none; the token, to be printed once and stored nowhere.
pub async fn first_token(store: &dyn Store) -> Result<Option<String>, KeyError> {
    if store.get(Table::Secrets, NAME).await?.is_some() {
        return Ok(None);
    }
    let text = fresh("la_")?;
    let write = async || match store.put_new(Table::Secrets, NAME, digest(&text).into_bytes(), None).await {
        // Nobody would be shown the token of the next start.
        Err(StoreError::NotReplicated(replicas)) => Err(put_back(store, (Table::Secrets, NAME), None, replicas).await),
        written => written,
    };
    let new = patiently(write).await?;
    Ok(new.then_some(text))
}

/// Replaces the token; the new one.
pub async fn new_token(store: &dyn Store) -> Result<String, KeyError> {
    let text = fresh("la_")?;
    let before = store.get(Table::Secrets, NAME).await?;
    replace(store, (Table::Secrets, NAME), digest(&text).into_bytes(), before).await?;
    Ok(text)
}

/// 256 bits in hex. They need no salt.
fn fresh(prefix: &str) -> Result<String, KeyError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::NoEntropy)?;
    Ok(format!("{prefix}{}", hex(&bytes)))
}

fn digest(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Sessions of this process.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Clone)]
struct Session {
    csrf: String,
    since: Instant,
    /// Of the token it was opened with, with which it ends.
    token: String,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No token, and no session.
    Unknown,
    /// A session, and not from the page it was opened by.
    CrossSite,
    /// Whether the token is good cannot be known now.
    NoStore,
}

impl Sessions {
    /// Opens a session for who gave the token: the cookie's value, and what the page must repeat.
    pub fn open(&self, token: &str) -> Result<(String, String), KeyError> {
        let (cookie, csrf) = (fresh("")?, fresh("")?);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, session| session.since.elapsed() < LASTS);
        if open.len() >= MOST {
            open.clear();
        }
        open.insert(digest(&cookie), Session { csrf: csrf.clone(), since: Instant::now(), token: digest(token) });
        Ok((cookie, csrf))
    }

    /// Lets a request in that carries the token, or the cookie of a session. Browsers send cookies by themselves, so one
    /// that changes something must repeat the session's secret as well.
    pub async fn admit(&self, store: &dyn Store, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        if let Some(token) = text(AUTHORIZATION.as_str()).and_then(auth::bearer) {
            return stands(store, &digest(token)).await;
        }
        let cookies = text(COOKIE.as_str()).unwrap_or_default();
        let cookie = cookies.split(';').find_map(|pair| pair.trim().strip_prefix(SESSION)?.strip_prefix('='));
        let session = cookie.and_then(|cookie| self.session(cookie)).ok_or(Refused::Unknown)?;
        stands(store, &session.token).await?;
        let repeated = text(CSRF).unwrap_or_default();
        let same = verify_slices_are_equal(repeated.as_bytes(), session.csrf.as_bytes()).is_ok();
        if *method == Method::GET || same { Ok(()) } else { Err(Refused::CrossSite) }
    }

    fn session(&self, cookie: &str) -> Option<Session> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&digest(cookie)).filter(|session| session.since.elapsed() < LASTS).cloned()
    }
}

/// Whether this is the token.
pub async fn is_token(store: &dyn Store, text: &str) -> Result<(), Refused> {
    stands(store, &digest(text)).await
}

/// Whether the token is the one with this digest.
async fn stands(store: &dyn Store, digest: &str) -> Result<(), Refused> {
    let kept = store.get(Table::Secrets, NAME).await.map_err(|_| Refused::NoStore)?;
    let same = kept.is_some_and(|kept| verify_slices_are_equal(&kept, digest.as_bytes()).is_ok());
    same.then_some(()).ok_or(Refused::Unknown)
}
