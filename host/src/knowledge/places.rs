//! Where an address is: its network, and what a database in MaxMind's format says of it.

use std::{net::IpAddr, path::Path};

use anyhow::Context;
use littoral_core::step_up::place::{Place, network};
use maxminddb::Reader;
use serde::Deserialize;

/// See the module.
#[derive(Default)]
pub struct Places(Option<Reader<Vec<u8>>>);

/// What is read of a record, of a database of countries or of cities.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Found {
    country: Country,
    location: Location,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Country {
    iso_code: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Location {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl Places {
    /// Reads the database, if one is configured, and checks all of it: what is damaged would answer for some addresses
    /// and not for others.
    pub fn load(database: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = database else { return Ok(Self(None)) };
        let named = || format!("auth.places: {} is no whole database in MaxMind's format", path.display());
        let reader = Reader::open_readfile(path).with_context(named)?;
        reader.verify().with_context(named)?;
        Ok(Self(Some(reader)))
    }

    /// JSON of the place of an address; none for what is no address.
    pub fn get(&self, address: &str) -> Option<Vec<u8>> {
        let address: IpAddr = address.parse().ok()?;
        let mut place = Place { network: Some(network(address)), ..Place::default() };
        // A record that cannot be read is as good as none: the network is known.
        let found =
            self.0.as_ref().and_then(|reader| reader.lookup(address.to_canonical()).ok()?.decode::<Found>().ok()?);
        if let Some(Found { country, location }) = found {
            place.country = country.iso_code;
            place.position = location.latitude.zip(location.longitude);
        }
        serde_json::to_vec(&place).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_database_the_network_is_the_place() {
        let places = Places::load(None).unwrap();
        let place: Place = serde_json::from_slice(&places.get("198.51.100.7").unwrap()).unwrap();
        assert_eq!((place.network.unwrap().to_string(), place.country), ("198.51.0.0/16".into(), String::new()));
        assert!(places.get("nowhere").is_none());
    }

    #[test]
    fn what_is_no_database_is_refused_by_name() {
        let error = Places::load(Some(Path::new(file!()))).err().unwrap();
        assert!(format!("{error:#}").contains("auth.places"));
    }
}
