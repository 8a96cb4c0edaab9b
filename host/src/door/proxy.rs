//! The PROXY protocol v2: whom a proxy speaks for, in front of a connection's first byte.

use std::{io, net::IpAddr};

use ppp::v2::{Addresses, Command, Header, ParseError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Signature, version, family and length of a PROXY protocol v2 header, bytes.
const FIXED: usize = 16;
/// Most that may follow them, bytes: addresses and the extensions that proxies send.
const MOST: usize = 2048;

/// Why a connection that must begin with a PROXY protocol header was closed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the connection ended in its PROXY protocol header: {0}")]
    Io(#[from] io::Error),
    #[error("a PROXY protocol header of {0} bytes is longer than {MOST}")]
    TooLong(usize),
    #[error("what trusted proxies send must begin with a PROXY protocol v2 header: {0}")]
    Malformed(#[from] ParseError),
}

/// Takes the PROXY protocol v2 header off the beginning of a connection; the source it names, or `peer` when the proxy
/// speaks for itself (a health check) or for a connection without addresses.
pub async fn announced(stream: &mut (impl AsyncRead + Unpin), peer: IpAddr) -> Result<IpAddr, ProxyError> {
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    if !header.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(ParseError::Prefix.into());
    }
    let more = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if more > MOST {
        return Err(ProxyError::TooLong(more));
    }
    header.resize(FIXED + more, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    let header = Header::try_from(header.as_slice())?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(addresses)) => addresses.source_address.into(),
        (Command::Proxy, Addresses::IPv6(addresses)) => IpAddr::from(addresses.source_address).to_canonical(),
        _ => peer,
    })
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Protocol, Version};

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn header(command: Command, extension: usize) -> Vec<u8> {
        let addresses: Addresses = "198.51.100.7:40000"
            .parse::<std::net::SocketAddr>()
            .and_then(|from| Ok((from, "10.0.0.9:80".parse::<std::net::SocketAddr>()?).into()))
            .unwrap();
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        builder.write_payload(vec![4u8; extension].as_slice()).unwrap().build().unwrap()
    }

    #[tokio::test]
    async fn the_source_is_the_client_and_the_rest_stays_unread() {
        let mut bytes = header(Command::Proxy, 0);
        bytes.extend_from_slice(b"GET / HTTP/1.1");
        let mut stream = bytes.as_slice();
        assert_eq!(announced(&mut stream, PEER).await.unwrap().to_string(), "198.51.100.7");
        assert_eq!(stream, b"GET / HTTP/1.1");
        assert_eq!(announced(&mut header(Command::Local, 0).as_slice(), PEER).await.unwrap(), PEER);
    }

    #[tokio::test]
    async fn what_is_no_header_closes_the_connection() {
        let plain = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
        assert!(matches!(announced(&mut plain.as_slice(), PEER).await, Err(ProxyError::Malformed(_))));
        let whole = header(Command::Proxy, 0);
        for cut in 0..whole.len() {
            assert!(matches!(announced(&mut &whole[..cut], PEER).await, Err(ProxyError::Io(_))), "{cut}");
        }
        let mut long = whole.clone();
        long[14..16].copy_from_slice(&[0xff, 0xff]);
        assert!(matches!(announced(&mut long.as_slice(), PEER).await, Err(ProxyError::TooLong(65535))));
        let mut short = whole;
        short[14..16].copy_from_slice(&[0, 3]);
        assert!(matches!(announced(&mut short.as_slice(), PEER).await, Err(ProxyError::Malformed(_))));
    }
}
