//! The PROXY protocol, versions 1 and 2, by which a TCP load balancer says where a fan is: read before
//! anything else, byte for byte as much as it has. What it says is `ppp`'s to understand.

use std::{io, net::IpAddr};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What both versions have at least; the second's signature.
const SIGNATURE_BYTES: usize = 12;

/// The second version's header before its addresses.
const HEAD_BYTES: usize = 16;

/// The longest header of the first version (PROXY protocol, 2.1).
const LINE_BYTES_MAX: usize = 107;

/// Addresses and what else a load balancer adds.
const REST_BYTES_MAX: usize = 2 << 10;

/// Where the fan is; `None` where the load balancer speaks for itself.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; SIGNATURE_BYTES];
    stream.read_exact(&mut header).await?;
    if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LINE_BYTES_MAX {
                return Err(invalid());
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        header.resize(HEAD_BYTES, 0);
        stream.read_exact(&mut header[SIGNATURE_BYTES..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if rest > REST_BYTES_MAX {
            return Err(invalid());
        }
        header.resize(HEAD_BYTES + rest, 0);
        stream.read_exact(&mut header[HEAD_BYTES..]).await?;
    }
    address(&header)
}

fn address(header: &[u8]) -> io::Result<Option<IpAddr>> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
            v1::Addresses::Unknown => None,
        }),
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => {
                Some(addresses.source_address.into())
            }
            (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
                Some(addresses.source_address.into())
            }
            _ => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(invalid()),
    }
}

fn invalid() -> io::Error {
    let message = "no PROXY protocol header came first";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    async fn said(bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
        let mut rest = bytes;
        let said = read(&mut rest).await;
        (said, rest.len())
    }

    #[tokio::test]
    async fn both_versions_say_where_a_fan_is_and_nothing_beyond_them_is_read() {
        let (said_1, left) = said(b"PROXY TCP4 10.1.2.3 10.0.0.1 999 80\r\nGET /").await;
        assert_eq!((said_1.unwrap(), left), (Some([10, 1, 2, 3].into()), 5));
        let (unknown, left) = said(b"PROXY UNKNOWN\r\nGET /").await;
        assert_eq!((unknown.unwrap(), left), (None, 5));
        let source: SocketAddr = "10.1.2.3:999".parse().unwrap();
        let target: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let version_2 = |command| {
            v2::Builder::with_addresses(
                v2::Version::Two | command,
                v2::Protocol::Stream,
                (source, target),
            )
            .build()
            .unwrap()
        };
        let bytes = [version_2(v2::Command::Proxy), b"GET /".to_vec()].concat();
        let (said_2, left) = said(&bytes).await;
        assert_eq!((said_2.unwrap(), left), (Some([10, 1, 2, 3].into()), 5));
        let (own, _) = said(&version_2(v2::Command::Local)).await;
        assert_eq!(own.unwrap(), None);
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let long = format!("PROXY {}\r\n", "x".repeat(200));
        for bytes in [
            &b"GET /dev HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"PROXY TCP4 x y 1 2\r\n",
            b"PROXY",
            long.as_bytes(),
        ] {
            assert!(said(bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}
