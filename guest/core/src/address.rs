//! Where a request comes from: the connection's peer, or what the proxies in front of this host say of it.
//!
//! A header is believed only as far as trusted proxies wrote it: the addresses are walked from the nearest hop, and the
//! first that is no trusted proxy is the client. What stands further left came from the client itself.

use core::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

/// Hops that are walked at most; a longer chain ends at its last trusted hop.
const MAX_HOPS: usize = 32;

/// The header in which trusted proxies name the client. One of them, never both: a proxy that writes the one may pass
/// the other on as the client sent it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For: client, proxy, proxy`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239)
    Forwarded,
}

impl ForwardedBy {
    /// Lower-case name of the header.
    pub fn header(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

/// Whether one of `networks` holds `address`; IPv4 that is written as IPv6 is IPv4, in either.
pub fn within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| canonical(*network).contains(&address))
}

/// A network of IPv4 addresses that are written as IPv6, `::ffff:198.51.100.0/120`, as the IPv4 network it is.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    match (network.network().to_canonical(), network.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(address), Some(prefix)) if network.max_prefix_len() == 128 => {
            Ipv4Net::new(address, prefix).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// The client behind `peer`. `values` are the values of the header `by` names, in the order of the message.
pub fn client<'a, I>(peer: IpAddr, trusted: &[IpNet], by: ForwardedBy, values: I) -> IpAddr
where
    I: IntoIterator<Item = &'a [u8]>,
    I::IntoIter: DoubleEndedIterator,
{
    let mut hop = peer.to_canonical();
    if !within(trusted, hop) {
        return hop;
    }
    let mut left = MAX_HOPS;
    for value in values.into_iter().rev() {
        let text = std::str::from_utf8(value).unwrap_or("?");
        let elements = match by {
            ForwardedBy::XForwardedFor => text.split(',').collect(),
            ForwardedBy::Forwarded => split(text, ','),
        };
        for element in elements.into_iter().rev().map(str::trim).filter(|element| !element.is_empty()) {
            let named = match by {
                ForwardedBy::XForwardedFor => node(element),
                ForwardedBy::Forwarded => forwarded_for(element),
            };
            // A hop that hides its name, or is none, ends what can be believed.
            let Some(next) = named.filter(|_| left > 0) else { return hop };
            left -= 1;
            hop = next;
            if !within(trusted, hop) {
                return hop;
            }
        }
    }
    hop
}

/// The node of the parameter `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = split(element, ';').into_iter().find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    })?;
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    node(quoted.unwrap_or(value))
}

/// An address with or without a port; IPv6 with or without brackets.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// The parts between separators that do not stand in a quoted string. Where quotes do not pair up, a client may have
/// left one open to swallow what its proxy appends, and quotes mean nothing.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(&text[start..i]);
                start = i + c.len_utf8();
            }
            _ => {}
        }
    }
    if quoted {
        return text.split(separator).collect();
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().unwrap()).to_vec()
    }

    fn of(peer: &str, by: ForwardedBy, values: &[&str]) -> String {
        client(peer.parse().unwrap(), &trusted(), by, values.iter().map(|v| v.as_bytes())).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_client() {
        use ForwardedBy::{Forwarded, XForwardedFor};
        let cases: [(&str, ForwardedBy, &[&str], &str); 19] = [
            ("192.0.2.1", XForwardedFor, &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", XForwardedFor, &[], "10.0.0.1"),
            ("10.0.0.1", XForwardedFor, &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["6.6.6.6, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["6.6.6.6", "198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["6.6.6.6, hidden"], "10.0.0.1"),
            ("10.0.0.1", XForwardedFor, &["6.6.6.6, hidden, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", XForwardedFor, &["198.51.100.7:443"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["[2001:db8::1]:443"], "2001:db8::1"),
            ("::ffff:10.0.0.1", XForwardedFor, &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("fd00::1", XForwardedFor, &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", Forwarded, &["for=6.6.6.6, for=198.51.100.7;proto=https"], "198.51.100.7"),
            ("10.0.0.1", Forwarded, &["proto=http;For=\"[2001:db8::1]:80\""], "2001:db8::1"),
            ("10.0.0.1", Forwarded, &["for=6.6.6.6;host=\"a, for=7.7.7.7\", for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", Forwarded, &["for=6.6.6.6, for=_hidden"], "10.0.0.1"),
            ("10.0.0.1", Forwarded, &["for=\"unclosed"], "10.0.0.1"),
            ("10.0.0.1", Forwarded, &["for=\"unclosed, for=198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", XForwardedFor, &["\", 198.51.100.7"], "198.51.100.7"),
        ];
        for (peer, by, values, expected) in cases {
            assert_eq!(of(peer, by, values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_network_of_mapped_addresses_is_the_network_they_stand_for() {
        let within = |network: &str, address: &str| within(&[network.parse().unwrap()], address.parse().unwrap());
        for address in ["198.51.100.7", "::ffff:198.51.100.7"] {
            for (network, holds) in [
                ("::ffff:198.51.100.0/120", true),
                ("::ffff:198.51.100.7/128", true),
                ("::ffff:198.51.101.0/120", false),
                ("::ffff:0:0/96", true),
                ("198.51.100.0/24", true),
                ("::/0", false),
            ] {
                assert_eq!(within(network, address), holds, "{address} in {network}");
            }
        }
        assert!(!within("::ffff:0:0/96", "2001:db8::1") && within("::/0", "2001:db8::1"));
    }

    #[test]
    fn a_chain_of_trusted_hops_has_an_end() {
        let long = vec!["10.0.0.2"; 5000].join(",");
        assert_eq!(of("10.0.0.1", ForwardedBy::XForwardedFor, &[&format!("6.6.6.6,{long}")]), "10.0.0.2");
    }

    proptest! {
        /// Whatever a client sends before it, the address its proxy appended is the one that counts.
        #[test]
        fn no_prefix_spoofs(prefix in "\\PC{0,200}") {
            let value = format!("{prefix}, 198.51.100.7");
            prop_assert_eq!(of("10.0.0.1", ForwardedBy::XForwardedFor, &[&prefix, &value]), "198.51.100.7");
        }

        #[test]
        fn any_bytes_give_an_address(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..5)) {
            for by in [ForwardedBy::XForwardedFor, ForwardedBy::Forwarded] {
                client("10.0.0.1".parse().unwrap(), &trusted(), by, values.iter().map(Vec::as_slice));
            }
        }
    }
}
