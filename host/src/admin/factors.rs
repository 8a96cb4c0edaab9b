//! Second factors: enrolled, proven, reset.

use std::time::Duration;

use littoral_core::{
    key::hex,
    ledger::Demand,
    limits::charge_kind,
    step_up::{Factor, Proof, totp, user_key},
};

use sha2::{Digest, Sha256};

use crate::{
    plan::now_ms,
    tokens::Secret,
    vault::{Admission, Limits, Store, StoreError, Table, replace},
};

/// Tries a minute, right or wrong, for each user.
const TRIES: u64 = 5;
const MINUTE_MS: u64 = 60_000;
/// A code is remembered as used until no clock takes it any more.
const USED_MS: u64 = 5 * MINUTE_MS;
/// What the sealed factor is for.
const PURPOSE: &str = "factor";

/// Why a factor was not proven.
#[derive(Debug, thiserror::Error)]
pub enum FactorError {
    #[error("the code is wrong, was used before, or the user has no second factor")]
    Wrong,
    #[error("too many tries; wait a minute")]
    TooMany { retry_ms: u64 },
    #[error("the second factor of this user was sealed with another secret than token.secret_file")]
    OtherSecret,
    #[error("the system gives no random numbers")]
    NoEntropy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is shown once.
pub struct Enrolled {
    /// `otpauth://...`
    pub uri: String,
    pub recovery_codes: Vec<String>,
}

fn random<const N: usize>() -> Result<[u8; N], FactorError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| FactorError::NoEntropy)?;
    Ok(bytes)
}

fn purpose(user: &str) -> String {
    format!("{PURPOSE}/{user}")
}

fn sealed(secret: &Secret, user: &str, factor: &Factor) -> Result<Vec<u8>, FactorError> {
    let json = serde_json::to_vec(factor).expect("strings always serialise");
    secret.seal(&purpose(user), &json).ok_or(FactorError::NoEntropy)
}

/// Gives a user a second factor, in place of any before.
pub async fn enrol(store: &dyn Store, secret: &Secret, tenant: &str, user: &str) -> Result<Enrolled, FactorError> {
    let key = random::<{ totp::SECRET_BYTES }>()?;
    let mut recovery_codes = Vec::with_capacity(totp::RECOVERY_CODES);
    for _ in 0..totp::RECOVERY_CODES {
        recovery_codes.push(totp::recovery_code(&random()?));
    }
    let recovery = recovery_codes.iter().filter_map(|code| totp::recovery_digest(code)).collect();
    let factor = Factor { secret: totp::base32(&key), recovery };
    let id = user_key(tenant, user);
    let before = store.get(Table::Factors, &id).await?;
    replace(store, (Table::Factors, &id), sealed(secret, &id, &factor)?, before).await?;
    Ok(Enrolled { uri: totp::uri("Littoral", tenant, user, &key), recovery_codes })
}

/// Takes a user's second factor away; whether there was one.
pub async fn reset(store: &dyn Store, tenant: &str, user: &str) -> Result<bool, FactorError> {
    Ok(store.take(Table::Factors, &user_key(tenant, user)).await?.is_some())
}

/// Whether the proof is good; how it was given, for `amr` (RFC 8176).
pub async fn prove(
    store: &dyn Store,
    limits: &Limits,
    secret: &Secret,
    (tenant, user): (&str, &str),
    proof: &Proof,
) -> Result<&'static str, FactorError> {
    let user = user_key(tenant, user);
    throttle(limits, tenant, &user).await?;
    let (mut kept, mut factor) = stored(store, secret, &user).await?;
    match proof {
        Proof::Code(code) => {
            let key = totp::unbase32(&factor.secret).ok_or(FactorError::OtherSecret)?;
            let step = totp::step_of(&key, code, now_ms()).ok_or(FactorError::Wrong)?;
            // Of this secret: a new one has codes of its own, also within the same half minute.
            let of = &hex(&Sha256::digest(&key))[..16];
            once(store, &format!("totp/{user}/{of}/{step}")).await?;
            Ok("otp")
        }
        Proof::RecoveryCode(code) => {
            // Who comes second reads what the first has left: no removal is lost, and no factor comes back that was
            // replaced or taken away meanwhile.
            loop {
                let position = totp::recovery_position(code, &factor.recovery).ok_or(FactorError::Wrong)?;
                factor.recovery.remove(position);
                if store.swap(Table::Factors, &user, &kept, sealed(secret, &user, &factor)?, None).await? {
                    return Ok("kba");
                }
                (kept, factor) = stored(store, secret, &user).await?;
            }
        }
    }
}

/// A user's second factor, and how it stands in the store.
async fn stored(store: &dyn Store, secret: &Secret, user: &str) -> Result<(Vec<u8>, Factor), FactorError> {
    let kept = store.get(Table::Factors, user).await?.ok_or(FactorError::Wrong)?;
    let json = secret.open(&purpose(user), &kept).ok_or(FactorError::OtherSecret)?;
    let factor = serde_json::from_slice(&json).map_err(|_| FactorError::OtherSecret)?;
    Ok((kept, factor))
}

/// Lets one caller pass, at one edge.
async fn once(store: &dyn Store, name: &str) -> Result<(), FactorError> {
    let first = store.put_new(Table::Once, name, b"1".to_vec(), Some(now_ms() + USED_MS)).await?;
    first.then_some(()).ok_or(FactorError::Wrong)
}

/// Six digits are guessed in a day at a hundred tries a second.
async fn throttle(limits: &Limits, tenant: &str, user: &str) -> Result<(), FactorError> {
    let demand = Demand {
        kind: charge_kind::REQUESTS.into(),
        key: format!("step-up/{user}"),
        amount: 1,
        least: 1,
        limit: TRIES,
        window_ms: MINUTE_MS,
    };
    let (tenant, lease) = (tenant.into(), String::new());
    let admission = Admission { tenant, lease, lease_for: Duration::ZERO, demands: vec![demand] };
    match limits.admit(admission).await? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(FactorError::TooMany { retry_ms: refusal.retry_ms.unwrap_or(MINUTE_MS) }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{config::OnLoss, vault::Embedded};

    #[tokio::test]
    async fn a_code_of_a_new_secret_was_not_used_before() {
        let folder = std::env::temp_dir().join(format!("littoral-factors-again-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let store = Arc::new(Embedded::open(&folder.join("littoral.db")).unwrap());
        let secret = Secret::load(&folder.join("secret")).unwrap();
        let limits = Limits::new(store.clone(), OnLoss::Share);
        // As often as tries are allowed a minute.
        for _ in 0..2 {
            enrol(&*store, &secret, "acme", "ada").await.unwrap();
            let (_, factor) = stored(&*store, &secret, &user_key("acme", "ada")).await.unwrap();
            let key = totp::unbase32(&factor.secret).unwrap();
            // The same code twice is refused, also where the next half minute begins between the two.
            let code = Proof::Code(totp::at(&key, now_ms() / 30_000));
            let prove = async || prove(&*store, &limits, &secret, ("acme", "ada"), &code).await;
            assert_eq!(prove().await.unwrap(), "otp");
            assert!(matches!(prove().await, Err(FactorError::Wrong)));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn recovery_codes_given_at_once_are_all_used_up() {
        let folder = std::env::temp_dir().join(format!("littoral-factors-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let path = folder.join("littoral.db");
        // Another process counts no tries of this one.
        let open = || Arc::new(Embedded::open(&path).unwrap());
        let (store, again) = (open(), open());
        let secret = Secret::load(&folder.join("secret")).unwrap();
        let codes = enrol(&*store, &secret, "acme", "ada").await.unwrap().recovery_codes;
        let proof = |i: usize| Proof::RecoveryCode(codes[i].clone());
        let (one, two) = (proof(0), proof(1));
        let limits = Limits::new(store.clone(), OnLoss::Share);
        let who = ("acme", "ada");
        let (first, second) =
            tokio::join!(prove(&*store, &limits, &secret, who, &one), prove(&*store, &limits, &secret, who, &two));
        assert_eq!((first.unwrap(), second.unwrap()), ("kba", "kba"));
        let limits = Limits::new(again.clone(), OnLoss::Share);
        for used in [&one, &two] {
            let answer = prove(&*again, &limits, &secret, who, used).await;
            assert!(matches!(answer, Err(FactorError::Wrong)), "{answer:?}");
        }
        assert_eq!(stored(&*store, &secret, &user_key("acme", "ada")).await.unwrap().1.recovery.len(), 8);
        // The same code twice at once opens once.
        let twice = proof(2);
        let (first, second) =
            tokio::join!(prove(&*again, &limits, &secret, who, &twice), prove(&*again, &limits, &secret, who, &twice));
        assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
