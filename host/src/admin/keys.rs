//! API keys in the store: made, listed, rotated, revoked, imported.

use ipnet::IpNet;
use littoral_core::{
    cache::Rules,
    key::KeyRecord,
    limits::{Budget, Limits, Period},
};
use serde::{Deserialize, Serialize};

use crate::{
    plan::now_ms,
    vault::{Store, StoreError, Table, exchange, replace},
};

/// What a new key is to be.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewKey {
    pub tenant: String,
    pub user: String,
    pub models: Vec<String>,
    pub networks: Vec<IpNet>,
    pub filters: Vec<String>,
    pub limits: Limits,
    pub cache: Option<Rules>,
    /// Unix milliseconds.
    pub expires_at_ms: Option<u64>,
}

/// A key as administrators see it: all but salt and hash.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub id: String,
    pub tenant: String,
    pub user: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    #[serde(skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Rules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at_ms: Option<u64>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}")]
    Invalid(String),
    #[error(
        "there is no key '{0}' in the store; `littoral key list` shows the ids, and a key of keys.file ends when it is \
         taken out of that file"
    )]
    Unknown(String),
    #[error("the record of the key '{0}' cannot be read")]
    Damaged(String),
    #[error("the system gives no random numbers")]
    NoEntropy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn entropy<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::NoEntropy)?;
    Ok(bytes)
}

fn json(record: &KeyRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a key record is strings and numbers")
}

fn read(id: &str, json: &[u8]) -> Result<KeyRecord, KeyError> {
    serde_json::from_slice(json).map_err(|_| KeyError::Damaged(id.into()))
}

impl NewKey {
    /// Its record, and the key itself, which is stored nowhere.
    pub fn record(self) -> Result<(KeyRecord, String), KeyError> {
        let (record, key) = KeyRecord::create(&self.tenant, &self.user, &entropy()?);
        let Self { models, networks, filters, limits, cache, expires_at_ms, .. } = self;
        let created_at_ms = Some(now_ms());
        let record = KeyRecord { models, networks, filters, limits, cache, expires_at_ms, created_at_ms, ..record };
        record.check().map_err(KeyError::Invalid)?;
        // Records that are there already may say so, and stay good.
        if record.models.iter().any(|name| name.is_empty()) {
            return Err(KeyError::Invalid("models must have names; a key without any may use every one".into()));
        }
        let Limits { requests_per_minute, tokens_per_minute, concurrency, .. } = record.limits;
        let rates = [
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
            ("concurrency", concurrency),
        ];
        if let Some((name, _)) = rates.into_iter().find(|(_, limit)| *limit == Some(0)) {
            return Err(KeyError::Invalid(format!("{name} must be at least 1: a key with 0 opens nothing")));
        }
        if record.expires_at_ms.is_some_and(|end| end <= now_ms()) {
            return Err(KeyError::Invalid("the key would have expired before it is made".into()));
        }
        Ok((record, key))
    }
}

/// Makes a key: its record, and the key itself.
pub async fn create(store: &dyn Store, new: NewKey) -> Result<(KeyRecord, String), KeyError> {
    let (record, key) = new.record()?;
    replace(store, (Table::Keys, &record.id), json(&record), None).await?;
    Ok((record, key))
}

/// Every key, by tenant and user, and the ids of those whose record cannot be read.
pub async fn list(store: &dyn Store) -> Result<(Vec<KeyRecord>, Vec<String>), KeyError> {
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    for (id, value) in store.all(Table::Keys).await? {
        match read(&id, &value) {
            Ok(record) => records.push(record),
            Err(_) => damaged.push(id),
        }
    }
    records.sort_by(|a, b| (&a.tenant, &a.user, &a.id).cmp(&(&b.tenant, &b.user, &b.id)));
    damaged.sort();
    Ok((records, damaged))
}

/// The record of one key.
pub async fn record(store: &dyn Store, id: &str) -> Result<KeyRecord, KeyError> {
    let value = store.get(Table::Keys, id).await?.ok_or_else(|| KeyError::Unknown(id.into()))?;
    read(id, &value)
}

/// Name in [`Table::Revoked`] of the mark that a key was revoked. While it stands no edge takes the key, wherever else a
/// record of it may be: in the file of an edge, in a backup that is imported.
pub fn revoked(id: &str) -> String {
    format!("key\n{id}")
}

/// Removes a key: it opens nothing from now on, at every edge within a second. After [`StoreError::NotReplicated`] it is
/// removed all the same; where it is removed once more, [`KeyError::Unknown`] says that the replicas know by now.
pub async fn revoke(store: &dyn Store, id: &str) -> Result<(), KeyError> {
    let mark = async || match store.put(Table::Revoked, &revoked(id), b"{}".to_vec(), None).await {
        // It is done; whether enough replicas know is said when all of it is.
        Err(error @ StoreError::NotReplicated(_)) => Ok(Err(error)),
        done => done.map(Ok),
    };
    // The mark comes first: the record alone may be gone at an edge that reads another one from its file.
    let known = store.get(Table::Keys, id).await?.is_some();
    let mut marked = if known { mark().await? } else { Ok(()) };
    let taken = store.take(Table::Keys, id).await?.is_some();
    if taken && !known {
        marked = mark().await?;
    }
    marked?;
    if taken { Ok(()) } else { Err(KeyError::Unknown(id.into())) }
}

/// Gives a key a new secret; the old one is good for `grace_ms` longer. The key, stored nowhere. One that is revoked
/// meanwhile stays revoked; of two rotations at once one comes after the other.
pub async fn rotate(store: &dyn Store, id: &str, grace_ms: u64) -> Result<String, KeyError> {
    loop {
        let value = store.get(Table::Keys, id).await?.ok_or_else(|| KeyError::Unknown(id.into()))?;
        let mut record = read(id, &value)?;
        let key = record.rotate(&entropy()?, now_ms().saturating_add(grace_ms));
        if exchange(store, (Table::Keys, id), &value, json(&record)).await? {
            return Ok(key);
        }
    }
}

/// What became of records that were to be taken over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub new: usize,
    /// Ids of those that were revoked here, and stay so.
    pub revoked: Vec<String>,
}

/// Takes records over from elsewhere; those whose id is known already stay as they are.
pub async fn import(store: &dyn Store, records: Vec<KeyRecord>) -> Result<Imported, KeyError> {
    let mut imported = Imported::default();
    for record in records {
        record.check().map_err(|e| KeyError::Invalid(format!("key {}: {e}", record.id)))?;
        if store.get(Table::Revoked, &revoked(&record.id)).await?.is_some() {
            imported.revoked.push(record.id);
        } else {
            imported.new += usize::from(store.put_new(Table::Keys, &record.id, json(&record), None).await?);
        }
    }
    Ok(imported)
}

impl From<KeyRecord> for Listed {
    fn from(record: KeyRecord) -> Self {
        let KeyRecord {
            id, tenant, user, models, networks, filters, limits, cache, expires_at_ms, created_at_ms, ..
        } = record;
        Self { id, tenant, user, models, networks, filters, limits, cache, expires_at_ms, created_at_ms }
    }
}

/// `5000000/day`; the period is `month` unless one is named.
pub fn budget(text: &str) -> Result<Budget, String> {
    let (amount, period) = text.split_once('/').unwrap_or((text, "month"));
    let amount = amount.replace('_', "").parse().map_err(|_| format!("'{amount}' is no number of micro-units"))?;
    let period = match period {
        "day" => Period::Day,
        "month" => Period::Month,
        "total" => Period::Total,
        other => return Err(format!("'{other}' is none of day, month, total")),
    };
    Ok(Budget { amount, period })
}

/// `90s`, `15m`, `12h`, `30d`, in milliseconds.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no duration; write 90s, 15m, 12h or 30d");
    let unit = match text.chars().last() {
        Some('s') => 1000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use littoral_core::key::Presented;

    use super::*;
    use crate::vault::Embedded;

    #[tokio::test]
    async fn a_key_lives_from_its_making_to_its_revocation() {
        let folder = std::env::temp_dir().join(format!("littoral-admin-keys-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let store = Embedded::open(&folder.join("a.db")).unwrap();
        let new = NewKey { tenant: "acme".into(), user: "ada".into(), ..NewKey::default() };
        let (record, key) = create(&store, new.clone()).await.unwrap();
        store.put(Table::Keys, "damaged", b"{".to_vec(), None).await.unwrap();
        let (listed, damaged) = list(&store).await.unwrap();
        assert_eq!(
            (listed.as_slice(), damaged.as_slice()),
            (std::slice::from_ref(&record), &["damaged".to_string()][..])
        );
        revoke(&store, "damaged").await.unwrap();
        assert!(!serde_json::to_string(&Listed::from(record.clone())).unwrap().contains(&record.hash));
        let second = rotate(&store, &record.id, 60_000).await.unwrap();
        let stored = &list(&store).await.unwrap().0[0];
        for (secret, later) in [(&key, 0), (&second, 0), (&second, 120_000)] {
            assert!(stored.matches(&Presented::parse(secret).unwrap(), now_ms() + later));
        }
        assert!(!stored.matches(&Presented::parse(&key).unwrap(), now_ms() + 120_000));
        revoke(&store, &record.id).await.unwrap();
        assert!(matches!(revoke(&store, &record.id).await, Err(KeyError::Unknown(_))));
        assert!(matches!(rotate(&store, &record.id, 0).await, Err(KeyError::Unknown(_))));
        // Nothing brings back what was revoked.
        let (another, _) = new.clone().record().unwrap();
        let imported = import(&store, vec![record.clone(), another.clone(), another]).await.unwrap();
        assert_eq!(imported, Imported { new: 1, revoked: vec![record.id] });
        let expired = NewKey { expires_at_ms: Some(1), ..new.clone() };
        assert!(matches!(create(&store, expired).await, Err(KeyError::Invalid(_))));
        let nobody = NewKey { tenant: String::new(), ..new };
        assert!(matches!(create(&store, nobody).await, Err(KeyError::Invalid(_))));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn rotations_at_once_follow_one_another_and_a_revocation_wins() {
        let folder = std::env::temp_dir().join(format!("littoral-admin-races-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let path = folder.join("a.db");
        let (store, other) = (Embedded::open(&path).unwrap(), Embedded::open(&path).unwrap());
        let new = NewKey { tenant: "acme".into(), user: "ada".into(), ..NewKey::default() };
        for _ in 0..20 {
            let (record, first) = create(&store, new.clone()).await.unwrap();
            let (one, two) = tokio::join!(rotate(&store, &record.id, 60_000), rotate(&other, &record.id, 60_000));
            let (one, two) = (one.unwrap(), two.unwrap());
            let stored = super::record(&store, &record.id).await.unwrap();
            let opens = |key: &str| stored.matches(&Presented::parse(key).unwrap(), now_ms());
            // The last one and the one before it.
            assert!(opens(&one) && opens(&two) && !opens(&first));
            let (rotated, revoked) = tokio::join!(rotate(&store, &record.id, 0), revoke(&other, &record.id));
            revoked.unwrap();
            assert!(matches!(rotated, Ok(_) | Err(KeyError::Unknown(_))), "{rotated:?}");
            assert!(matches!(super::record(&store, &record.id).await, Err(KeyError::Unknown(_))));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn amounts_and_durations() {
        assert_eq!(budget("5_000/day"), Ok(Budget { amount: 5000, period: Period::Day }));
        assert_eq!(budget("7"), Ok(Budget { amount: 7, period: Period::Month }));
        assert_eq!(duration_ms("30d"), Ok(30 * 86_400_000));
        for bad in ["", "5", "x/day", "5/year", "d", "5w", "ä", "99999999999999999999s"] {
            assert!(budget(bad).is_err() || duration_ms(bad).is_err(), "{bad}");
        }
    }
}
