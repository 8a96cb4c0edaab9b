//! Places a user has been seen at, and whether a new one is unusual.

use core::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Places that are remembered for a user; the one that was not seen for longest goes first.
const MOST: usize = 32;
/// A known place is noted again after this time.
const STALE_MS: u64 = 24 * 3_600_000;
/// The same of one whose position is known: the speed of a journey is measured from the last note.
const STALE_POSITION_MS: u64 = 10 * 60_000;
/// Faster than an airliner.
const MOST_KM_H: f64 = 1000.0;
/// Databases of addresses are not exact: nearer than this is no journey.
const LEAST_KM: f64 = 500.0;
const EARTH_KM: f64 = 6371.0;

/// Where an address is, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// /16 of IPv4, /32 of IPv6: about a provider's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpNet>,
    /// ISO 3166-1, two letters; empty without a database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub country: String,
    /// Degrees north and east.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(f64, f64)>,
}

/// Where a user was seen, latest last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen(pub Vec<Sighting>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    #[serde(flatten)]
    pub place: Place,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// What is thought of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The user has not been seen anywhere yet: this place is taken for theirs.
    First,
    /// `stale`: it is time to note it again.
    Known {
        stale: bool,
    },
    Unusual(&'static str),
}

/// The network of an address that counts as one place.
pub fn network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new_assert(v4, 16).trunc()),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, 32).trunc()),
    }
}

impl Seen {
    pub fn judge(&self, place: &Place, now_ms: u64) -> Verdict {
        let Some(last) = self.0.last() else { return Verdict::First };
        if last.place.position.zip(place.position).is_some_and(|(from, to)| {
            let (km, hours) = (distance_km(from, to), now_ms.saturating_sub(last.at_ms) as f64 / 3_600_000.0);
            km > LEAST_KM && km > MOST_KM_H * hours
        }) {
            return Verdict::Unusual("impossible travel");
        }
        // Where countries are known they decide, else networks do.
        let same = |seen: &&Sighting| match (place.country.as_str(), seen.place.country.as_str()) {
            ("", _) | (_, "") => place.network.is_some() && seen.place.network == place.network,
            (here, there) => here == there,
        };
        let stale_ms = if place.position.is_some() { STALE_POSITION_MS } else { STALE_MS };
        match self.0.iter().rev().find(same) {
            Some(seen) => Verdict::Known {
                stale: seen.place != *place || last.place != *place || now_ms.saturating_sub(seen.at_ms) > stale_ms,
            },
            None if place.country.is_empty() => Verdict::Unusual("new network"),
            None => Verdict::Unusual("new country"),
        }
    }

    /// Remembers a place.
    pub fn note(&mut self, place: Place, now_ms: u64) {
        self.0.retain(|seen| seen.place != place);
        self.0.push(Sighting { place, at_ms: now_ms });
        let surplus = self.0.len().saturating_sub(MOST);
        self.0.drain(..surplus);
    }
}

/// Great-circle distance (haversine formula).
fn distance_km((a_lat, a_lon): (f64, f64), (b_lat, b_lon): (f64, f64)) -> f64 {
    let half = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
    let h = half(a_lat, b_lat) + a_lat.to_radians().cos() * b_lat.to_radians().cos() * half(a_lon, b_lon);
    2.0 * EARTH_KM * h.sqrt().clamp(0.0, 1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn at(address: &str, country: &str, position: Option<(f64, f64)>) -> Place {
        Place { network: Some(network(address.parse().unwrap())), country: country.into(), position }
    }

    #[test]
    fn networks_decide_without_a_database() {
        let mut seen = Seen::default();
        let home = at("198.51.100.7", "", None);
        assert_eq!(seen.judge(&home, 0), Verdict::First);
        seen.note(home.clone(), 0);
        assert_eq!(seen.judge(&at("198.51.7.1", "", None), 5), Verdict::Known { stale: false });
        assert_eq!(seen.judge(&home, 25 * HOUR), Verdict::Known { stale: true });
        assert_eq!(seen.judge(&at("203.0.113.1", "", None), 5), Verdict::Unusual("new network"));
        assert_eq!(seen.judge(&Place::default(), 5), Verdict::Unusual("new network"));
        assert_eq!(network("::ffff:198.51.100.7".parse().unwrap()).to_string(), "198.51.0.0/16");
        assert_eq!(network("2001:db8:1::7".parse().unwrap()).to_string(), "2001:db8::/32");
    }

    #[test]
    fn countries_decide_where_they_are_known() {
        let mut seen = Seen::default();
        seen.note(at("198.51.100.7", "DE", None), 0);
        assert!(matches!(seen.judge(&at("203.0.113.1", "DE", None), 5), Verdict::Known { .. }));
        assert_eq!(seen.judge(&at("198.51.100.7", "FR", None), 5), Verdict::Unusual("new country"));
    }

    #[test]
    fn nobody_is_in_two_places() {
        let (berlin, sydney) = ((52.5, 13.4), (-33.9, 151.2));
        assert!((16_000.0..16_200.0).contains(&distance_km(berlin, sydney)));
        let mut seen = Seen::default();
        seen.note(at("203.0.113.1", "AU", Some(sydney)), 0);
        seen.note(at("198.51.100.7", "DE", Some(berlin)), HOUR);
        let there = at("203.0.113.1", "AU", Some(sydney));
        assert_eq!(seen.judge(&there, 2 * HOUR), Verdict::Unusual("impossible travel"));
        assert!(matches!(seen.judge(&there, 30 * HOUR), Verdict::Known { .. }));
        // Who was at home a moment ago has not been travelling since the morning.
        seen.note(there.clone(), 30 * HOUR);
        let still = 45 * HOUR;
        assert_eq!(seen.judge(&there, still), Verdict::Known { stale: true });
        assert_eq!(seen.judge(&there, 30 * HOUR + HOUR / 6), Verdict::Known { stale: false });
        seen.note(there.clone(), still);
        let berlin = at("198.51.100.7", "DE", Some(berlin));
        assert_eq!(seen.judge(&berlin, still + HOUR), Verdict::Unusual("impossible travel"));
        // A clock that went back does not make the journey longer.
        assert_eq!(seen.judge(&berlin, 0), Verdict::Unusual("impossible travel"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        (0..100).for_each(|i| seen.note(at(&format!("10.{i}.0.1"), "", None), i));
        assert_eq!(seen.0.len(), MOST);
        assert!(matches!(seen.judge(&at("10.99.0.1", "", None), 100), Verdict::Known { .. }));
        assert!(matches!(seen.judge(&at("10.0.0.1", "", None), 100), Verdict::Unusual(_)));
    }
}
