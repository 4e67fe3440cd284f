//! Addresses as people write them.

use std::fmt;
use std::net::SocketAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::tcp;

/// Longest name of a host.
const NAME_BYTES_MAX: usize = 253;

/// Why a text is no address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAddress(String);

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(
            f,
            "`{text}` is no address of a node; write it like 203.0.113.7:4700, [2001:db8::7]:4700, node.example.org:4700 or \
             /ip4/203.0.113.7/tcp/4700."
        )
    }
}

impl std::error::Error for NoAddress {}

/// Reads an address: host and port, or a multiaddress.
///
/// # Errors
/// If it is neither, or of a kind that nodes do not use.
pub fn parse(text: &str) -> Result<Multiaddr, NoAddress> {
    let wrong = || NoAddress(text.chars().take(100).collect());
    if text.starts_with('/') {
        let whole = |address: &Multiaddr| {
            let named = matches!(address.iter().last(), Some(Protocol::P2p(_)));
            is_dialable(address) && (named || !is_relayed(address))
        };
        return text.parse().ok().filter(whole).ok_or_else(wrong);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(tcp::multiaddr(address));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    // A name of digits is an address with a slip of the pen.
    let named = name.chars().any(|c| c.is_ascii_alphabetic());
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(good) || !named {
        return Err(wrong());
    }
    Ok(Multiaddr::empty().with(Protocol::Dns(name.into())).with(Protocol::Tcp(port)))
}

/// Whether an address leads through a relay.
pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether a node can be dialled at an address, directly or through a relay.
pub fn is_dialable(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let relay: Multiaddr = parts.by_ref().take_while(|part| *part != Protocol::P2pCircuit).collect();
    if !is_relayed(address) {
        return tcp::is_dialable(address);
    }
    let named = matches!(relay.iter().last(), Some(Protocol::P2p(_)));
    let behind = matches!((parts.next(), parts.next()), (None | Some(Protocol::P2p(_)), None));
    named && behind && tcp::is_dialable(&relay)
}

/// From how far away an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// From anywhere, as far as its form tells.
    Anywhere,
    /// From the same local network.
    Local,
    /// From the same machine.
    Machine,
}

/// From how far away an address can be reached.
pub fn distance(address: &Multiaddr) -> Distance {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => Distance::Machine,
        Some(Protocol::Ip4(ip)) if ip.is_private() || ip.is_link_local() => Distance::Local,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => Distance::Machine,
        Some(Protocol::Ip6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => Distance::Local,
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) if name == "localhost" => {
            Distance::Machine
        }
        _ => Distance::Anywhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let cases = [
            ("203.0.113.7:4700", "/ip4/203.0.113.7/tcp/4700"),
            ("[2001:db8::7]:4700", "/ip6/2001:db8::7/tcp/4700"),
            ("node.example.org:4700", "/dns/node.example.org/tcp/4700"),
            ("localhost:0", "/dns/localhost/tcp/0"),
            ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"),
        ];
        for (text, address) in cases {
            assert_eq!(parse(text).unwrap().to_string(), address, "{text}");
        }
        for text in
            ["", "4700", "203.0.113:4700", "node.example.org", ":4700", "a b:1", "host:70000", "/ip4/1.2.3.4/udp/1"]
        {
            assert!(parse(text).unwrap_err().to_string().contains("write it like"), "{text}");
        }
    }

    #[test]
    fn an_address_may_lead_through_a_relay() {
        let (relay, node) = (
            "12D3KooWEGuKT5LDzRD2sKQDMdFES3bhkBKzZuuqD3dSdk2LZaiY",
            "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        );
        let whole = format!("/ip4/203.0.113.7/tcp/1/p2p/{relay}/p2p-circuit/p2p/{node}");
        assert_eq!(parse(&whole).unwrap().to_string(), whole);
        assert!(is_relayed(&whole.parse().unwrap()) && !is_relayed(&"/ip4/203.0.113.7/tcp/1".parse().unwrap()));
        // Where a peer says that it can be reached, its own name may be missing.
        let listening: Multiaddr = format!("/ip4/203.0.113.7/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap();
        assert!(is_dialable(&listening) && parse(&listening.to_string()).is_err());
        for text in [
            format!("/ip4/203.0.113.7/tcp/1/p2p-circuit/p2p/{node}"),
            format!("/ip4/203.0.113.7/udp/1/p2p/{relay}/p2p-circuit/p2p/{node}"),
            format!("/p2p/{relay}/p2p-circuit/p2p/{node}"),
            format!("{whole}/p2p-circuit/p2p/{node}"),
            format!("/ip4/203.0.113.7/tcp/1/p2p/{relay}/p2p-circuit/ip4/127.0.0.1/tcp/1/p2p/{node}"),
        ] {
            assert!(!is_dialable(&text.parse().unwrap()) && parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_says_from_where_it_can_be_reached() {
        let distance = |text: &str| distance(&parse(text).unwrap());
        assert_eq!(["127.0.0.1:1", "[::1]:1", "localhost:1"].map(distance), [Distance::Machine; 3]);
        assert_eq!(["192.168.1.5:1", "10.0.0.1:1", "[fd00::1]:1"].map(distance), [Distance::Local; 3]);
        assert_eq!(["203.0.113.7:1", "[2001:db8::1]:1", "node.example.org:1"].map(distance), [Distance::Anywhere; 3]);
    }
}
