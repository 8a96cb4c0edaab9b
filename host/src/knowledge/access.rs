//! Facts about who may enter: keys and revocations of the store, policies of tenants, prices.

use std::{collections::BTreeMap, sync::Arc};

use littoral_core::{
    Fact, fact_kind,
    token::{self, Revocation},
};

use super::{Issuers, Keys, Mirror, Places, issuers};
use crate::{admin::keys::revoked, config::Config, vault::Table};

/// Name of the policy and the price of all that have none of their own.
const OTHERS: &str = "*";

/// See the module.
#[derive(Default)]
pub struct Access {
    file: Arc<Keys>,
    mirror: Arc<Mirror>,
    /// JSON of [`littoral_core::limits::TenantPolicy`] by tenant.
    tenants: BTreeMap<String, Vec<u8>>,
    /// JSON of [`littoral_core::limits::Prices`].
    prices: Option<Vec<u8>>,
    pub issuers: Arc<Issuers>,
    pub places: Places,
}

impl Access {
    pub fn new(config: &Config, file: Arc<Keys>, mirror: Arc<Mirror>, issuers: Arc<Issuers>, places: Places) -> Self {
        let json = |policy| serde_json::to_vec(policy).expect("limits always serialise");
        let tenants = config.tenant.iter().map(|(name, policy)| (name.clone(), json(policy))).collect();
        let prices = Some(serde_json::to_vec(&config.price).expect("prices always serialise"));
        Self { file, mirror, tenants, prices, issuers, places }
    }

    /// Changes with everything here that can change.
    pub fn epoch(&self) -> u64 {
        // Each of them only grows.
        [self.file.epoch(), self.mirror.epoch(), self.issuers.epoch()].into_iter().fold(0, u64::wrapping_add)
    }

    /// See [`super::Known::seen`].
    pub fn seen(&self, user: &str, places: Vec<u8>) {
        self.mirror.wrote(Table::Places, user, places);
    }

    /// A verification key; none when its issuer has to be asked.
    pub fn verifying_key(&self, name: &str) -> Option<Fact> {
        let value = match self.issuers.get(name) {
            issuers::Known::Key(key) => Some(key),
            issuers::Known::Absent => None,
            issuers::Known::Ask => return None,
        };
        Some(Fact { kind: fact_kind::VERIFYING_KEY.into(), key: name.into(), value, error: None })
    }

    /// JSON of a key's record: the store's, else the file's. One that was revoked has none, whatever a file still holds.
    fn key(&self, id: &str) -> Option<Vec<u8>> {
        let found = self.mirror.get(Table::Keys, id).or_else(|| self.file.get(id))?;
        self.mirror.get(Table::Revoked, &revoked(id)).is_none().then_some(found)
    }

    /// The value of a fact, if it is of a kind that is kept here.
    pub fn peek(&self, kind: &str, key: &str) -> Option<Option<Vec<u8>>> {
        match (kind, key) {
            (fact_kind::API_KEY, id) => Some(self.key(id)),
            (fact_kind::TENANT, name) => Some(self.tenants.get(name).or_else(|| self.tenants.get(OTHERS)).cloned()),
            (fact_kind::CONFIG, "prices") => Some(self.prices.clone()),
            (fact_kind::ISSUER, name) => Some(self.issuers.trust(name)),
            (fact_kind::PLACE, address) => Some(self.places.get(address)),
            (fact_kind::SEEN, user) => Some(self.mirror.get(Table::Places, user)),
            (fact_kind::REVOKED, name) => {
                let stored = token::revocations(name)?.into_iter();
                Some(Revocation::latest(stored.filter_map(|name| self.mirror.get(Table::Revoked, &name))))
            }
            _ => None,
        }
    }
}
