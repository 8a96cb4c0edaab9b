//! The store's keys and revocations in this edge's memory, read again when the store's version changes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use arc_swap::ArcSwap;

use crate::{
    plan::now_ms,
    vault::{Store, StoreError, Table},
};

type Entries = HashMap<String, Vec<u8>>;

/// See the module. What is in memory stays while the store cannot be reached.
#[derive(Default)]
pub struct Mirror {
    keys: ArcSwap<Entries>,
    revoked: ArcSwap<Entries>,
    factors: ArcSwap<Entries>,
    places: ArcSwap<Entries>,
    version: AtomicU64,
    /// How often it was read.
    epoch: AtomicU64,
    /// When the store last said that this is what it holds, Unix milliseconds.
    confirmed_ms: AtomicU64,
}

impl Mirror {
    /// Reads everything once.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mirror = Self { version: AtomicU64::new(u64::MAX), ..Self::default() };
        mirror.refresh(store).await?;
        Ok(mirror)
    }

    /// Reads everything again if it changed.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), StoreError> {
        let asked_ms = now_ms();
        let version = store.version().await?;
        if self.version.load(Relaxed) != version {
            for table in Table::ALL {
                if let Some(entries) = self.entries(table) {
                    entries.store(Arc::new(store.all(table).await?.into_iter().collect()));
                }
            }
            self.version.store(version, Relaxed);
            self.epoch.fetch_add(1, Release);
        }
        self.confirmed_ms.store(asked_ms, Relaxed);
        Ok(())
    }

    /// Takes down what this edge has just written, before the store is read again.
    pub fn wrote(&self, table: Table, id: &str, value: Vec<u8>) {
        let Some(entries) = self.entries(table) else { return };
        entries.rcu(|known| {
            let mut known = Entries::clone(known);
            known.insert(id.into(), value.clone());
            known
        });
        self.epoch.fetch_add(1, Release);
    }

    /// The JSON of an entry. None for a table that is not kept in memory.
    pub fn get(&self, table: Table, id: &str) -> Option<Vec<u8>> {
        self.entries(table)?.load().get(id).cloned()
    }

    /// How often what is in memory has changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub fn keys(&self) -> usize {
        self.keys.load().len()
    }

    /// How old what is in memory may be, milliseconds.
    pub fn age_ms(&self) -> u64 {
        now_ms().saturating_sub(self.confirmed_ms.load(Relaxed))
    }

    fn entries(&self, table: Table) -> Option<&ArcSwap<Entries>> {
        match table {
            Table::Keys => Some(&self.keys),
            Table::Revoked => Some(&self.revoked),
            Table::Factors => Some(&self.factors),
            Table::Places => Some(&self.places),
            Table::Refresh | Table::Once | Table::Secrets => None,
        }
    }
}
