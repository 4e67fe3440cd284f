//! Finding a network on the local network.
//!
//! A node that listens says so every few seconds in a small signed datagram to a multicast group, once on each interface with a
//! private address, and on the loopback interface for others on this machine. Whoever wants to join listens for a while; nodes of
//! the same network that have few peers listen too.
//!
//! A beacon is a hint for dialling and never authority: what is at an address shows when it is dialled. It counts only for
//! addresses that are those of its sender, so nobody can send others anywhere else; an old one played back leads to
//! where a node was. What does not fit, is not of the network in question, or comes faster than signatures may be checked, is
//! dropped before it costs anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use async_io::Async;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use neuroshard_proto::{
    BEACON_ADDRESSES_MAX, Beacon, Envelope, Hash, Message, NetworkId, NodeId, Signature, Text, Verified, codec,
};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::board::Board;
use super::control::{self, Note};
use super::{names, tcp};

/// Where beacons go.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 78, 83);
pub const PORT: u16 = 4701;
/// Longest datagram that is looked at.
const BYTES_MAX: usize = 1024;
/// How often a node calls, give or take a fifth of it.
const EVERY: Duration = Duration::from_secs(5);
/// How soon a node looks again whether it has something to tell.
const SOON: Duration = Duration::from_millis(500);
/// Signatures checked in a second.
const CHECKS_A_SECOND: u32 = 32;
/// How long who wants to join listens, at least and at most.
pub const LOOKING_LEAST: Duration = Duration::from_secs(7);
pub const LOOKING_MOST: Duration = Duration::from_secs(14);
/// Most networks, and nodes of each, that are told apart.
const NETWORKS_MAX: usize = 8;
const NODES_MAX: usize = 32;

/// A network that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub network: NetworkId,
    /// Its nodes and where they are.
    pub nodes: BTreeMap<NodeId, Vec<Multiaddr>>,
}

/// Listens for beacons until it is clear what networks there are: long enough to hear everybody once, longer if nobody is heard.
///
/// # Errors
/// If the system lets nobody listen.
pub async fn look() -> io::Result<Vec<Found>> {
    let (mut ear, begun) = (Ear::open()?, Instant::now());
    let mut found: BTreeMap<NetworkId, Found> = BTreeMap::new();
    loop {
        let end = if found.is_empty() { LOOKING_MOST } else { LOOKING_LEAST };
        let Some(left) = end.checked_sub(begun.elapsed()) else { break };
        let Some(heard) = control::within(left, ear.hear(|_| true)).await else { continue };
        let (network, beacon, addresses) = heard?;
        if found.len() >= NETWORKS_MAX && !found.contains_key(&network) {
            continue;
        }
        let known = found.entry(network).or_insert_with(|| Found { network, nodes: BTreeMap::new() });
        if known.nodes.len() < NODES_MAX || known.nodes.contains_key(&beacon.node) {
            let all = known.nodes.entry(beacon.node).or_default();
            for address in addresses {
                if !all.contains(&address) && all.len() < 2 * BEACON_ADDRESSES_MAX as usize {
                    all.push(address);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Calls others and listens to them for as long as the network runs.
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) sign: Box<dyn FnMut(&Hash) -> Signature + Send>,
    pub(super) network: NetworkId,
    pub(super) board: Board,
    /// What the operator wants to be told in place of the addresses that are listened on.
    pub(super) announce: Vec<Multiaddr>,
    pub(super) notes: async_channel::Sender<Note>,
}

impl Caller {
    /// Ends with the network, or where the system lets nobody listen.
    pub(super) async fn run(mut self) {
        let opened = Ear::open().and_then(|ear| Ok((ear, Async::<UdpSocket>::bind(([0, 0, 0, 0], 0))?)));
        let (mut ear, mouth) = match opened {
            Ok(opened) => opened,
            Err(error) => return tracing::info!(%error, "no beacons are sent or heard on the local network"),
        };
        let mut next = Instant::now();
        while !self.notes.is_closed() {
            let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                ear.join();
                // A node that does not know its own addresses yet will know them soon.
                let pause = if self.call(&mouth).await { EVERY.mul_f64(0.8 + 0.4 * jitter()) } else { SOON };
                next = Instant::now() + pause;
                continue;
            };
            let network = self.network;
            let wanted = |envelope: &Envelope| envelope.network == network;
            match control::within(left.min(Duration::from_secs(1)), ear.hear(wanted)).await {
                Some(Ok((_, beacon, addresses))) => {
                    if let Some(peer) = names::peer_of(&beacon.node).filter(|_| beacon.node != self.node) {
                        let _ = self.notes.try_send(Note::Near { peer, addresses });
                    }
                }
                Some(Err(error)) => {
                    tracing::info!(%error, "beacons are not heard any more");
                    return;
                }
                None => {}
            }
        }
    }

    /// One beacon on each interface that has something to tell; whether one has.
    async fn call(&mut self, mouth: &Async<UdpSocket>) -> bool {
        let mut called = false;
        let listening = self.board.status().listening;
        let own: Vec<Multiaddr> = match self.announce.is_empty() {
            true => listening.iter().filter_map(|text| text.parse().ok()).collect(),
            false => self.announce.clone(),
        };
        for interface in interfaces() {
            let there = own.iter().filter(|address| ip(address) == Some(IpAddr::V4(interface)));
            let addresses: Vec<_> = there.filter_map(|address| Text::try_from(address.to_string()).ok()).collect();
            let addresses: Vec<_> = addresses.into_iter().take(BEACON_ADDRESSES_MAX as usize).collect();
            let silent = addresses.is_empty();
            let Ok(addresses) = addresses.try_into() else { continue };
            if silent || sockopt::set_ip_multicast_if(mouth, &interface).is_err() {
                continue;
            }
            let message = Message::Beacon(Box::new(Beacon { node: self.node, addresses }));
            let frame = codec::encode(&Envelope::seal(self.network, &message, &mut self.sign));
            called = true;
            // An interface may be without a cable: the next one is tried.
            if let Err(error) = mouth.send_to(&frame, (GROUP, PORT)).await {
                tracing::debug!(%error, %interface, "a beacon could not be sent");
            }
        }
        called
    }
}

/// Listens to beacons on all interfaces.
struct Ear {
    socket: Async<UdpSocket>,
    joined: BTreeSet<Ipv4Addr>,
    /// Signatures that may be checked in this second, and when it began.
    checks: (u32, Instant),
}

impl Ear {
    fn open() -> io::Result<Self> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        // Several nodes of a machine listen at the same port, and each hears everything.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::from(([0, 0, 0, 0], PORT)))?;
        let socket = Async::new(UdpSocket::from(socket))?;
        let mut ear = Self { socket, joined: BTreeSet::new(), checks: (CHECKS_A_SECOND, Instant::now()) };
        ear.join();
        if ear.joined.is_empty() {
            return Err(io::Error::other("no interface takes part in multicast"));
        }
        Ok(ear)
    }

    /// Joins the group on interfaces that are new.
    fn join(&mut self) {
        let now: BTreeSet<Ipv4Addr> = interfaces().into_iter().collect();
        self.joined.retain(|interface| now.contains(interface));
        for interface in now {
            if !self.joined.contains(&interface) && self.socket.get_ref().join_multicast_v4(&GROUP, &interface).is_ok()
            {
                self.joined.insert(interface);
            }
        }
    }

    /// The next beacon that is wanted, and those of its addresses that are its sender's.
    async fn hear(&mut self, wanted: impl Fn(&Envelope) -> bool) -> io::Result<(NetworkId, Beacon, Vec<Multiaddr>)> {
        // One byte more shows what is too long.
        let mut bytes = [0; BYTES_MAX + 1];
        loop {
            let (len, from) = self.socket.recv_from(&mut bytes).await?;
            let Some(frame) = bytes.get(..len).filter(|frame| frame.len() <= BYTES_MAX) else { continue };
            let Ok(envelope) = codec::decode::<Envelope>(frame) else { continue };
            if !wanted(&envelope) || !self.may_check() {
                continue;
            }
            let Ok(verified) = Verified::open(frame) else { continue };
            let Message::Beacon(beacon) = verified.message() else { continue };
            let all = beacon.addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok());
            let own: Vec<_> = all.filter(|one| tcp::is_dialable(one) && ip(one) == Some(from.ip())).collect();
            if !own.is_empty() {
                return Ok((verified.network(), (**beacon).clone(), own));
            }
        }
    }

    fn may_check(&mut self) -> bool {
        if self.checks.1.elapsed() >= Duration::from_secs(1) {
            self.checks = (CHECKS_A_SECOND, Instant::now());
        }
        let may = self.checks.0 > 0;
        self.checks.0 = self.checks.0.saturating_sub(1);
        may
    }
}

/// The machine's addresses from which beacons go out: private ones, and its own.
fn interfaces() -> Vec<Ipv4Addr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || ip == Ipv4Addr::LOCALHOST => Some(ip),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    all.iter().filter_map(|interface| local(interface.ip())).collect()
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// A number from 0 to 1, so that nodes that were started together do not call together for ever.
fn jitter() -> f64 {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;

    fn sealed(keys: &Keys, network: NetworkId, addresses: &[&str]) -> Vec<u8> {
        let addresses: Vec<_> = addresses.iter().map(|text| Text::try_from((*text).to_owned()).unwrap()).collect();
        let beacon = Beacon { node: keys.node_id(), addresses: addresses.try_into().unwrap() };
        let message = Message::Beacon(Box::new(beacon));
        codec::encode(&Envelope::seal(network, &message, |digest| keys.sign(digest)))
    }

    fn network(name: &[u8]) -> NetworkId {
        NetworkId(Hash::of_blob(name))
    }

    #[test]
    fn what_is_no_beacon_of_its_sender_is_not_heard() {
        let (keys, ours) = (Keys::generate().unwrap(), network(b"heard"));
        let mut ear = Ear::open().expect("the loopback interface takes part in multicast");
        let mouth = UdpSocket::bind("127.0.0.1:0").unwrap();
        sockopt::set_ip_multicast_if(&mouth, &Ipv4Addr::LOCALHOST).unwrap();
        let say = |bytes: &[u8]| assert_eq!(mouth.send_to(bytes, (GROUP, PORT)).unwrap(), bytes.len());
        let honest = sealed(&keys, ours, &["/ip4/127.0.0.1/tcp/7"]);
        let mut forged = honest.clone();
        *forged.last_mut().unwrap() ^= 1;
        say(b"");
        say(b"garbage");
        say(&vec![7; 60_000]);
        say(&[honest.clone(), vec![0; 2 * BYTES_MAX]].concat());
        say(&forged);
        say(&sealed(&keys, network(b"another"), &["/ip4/127.0.0.1/tcp/1"]));
        // Addresses of others, and none at all.
        say(&sealed(&keys, ours, &["/ip4/192.0.2.1/tcp/2", "/ip4/127.0.0.2/tcp/3", "no address"]));
        say(&sealed(&keys, ours, &["/dns/localhost/tcp/4", "/ip4/127.0.0.1/udp/5"]));
        say(&sealed(&keys, ours, &[]));
        say(&sealed(&keys, ours, &["/ip4/192.0.2.1/tcp/6", "/ip4/127.0.0.1/tcp/7"]));
        let heard = ear.hear(|envelope| envelope.network == ours);
        let heard = async_io::block_on(control::within(Duration::from_secs(10), heard)).expect("it is heard in time");
        let (from, beacon, addresses) = heard.unwrap();
        assert_eq!((from, beacon.node), (ours, keys.node_id()));
        assert_eq!(addresses, ["/ip4/127.0.0.1/tcp/7".parse::<Multiaddr>().unwrap()]);
    }

    #[test]
    fn a_flood_costs_few_checks() {
        let mut ear = Ear::open().unwrap();
        let allowed = (0..1000).filter(|_| ear.may_check()).count();
        assert!(allowed <= 2 * CHECKS_A_SECOND as usize, "{allowed} in a moment");
        ear.checks.1 = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        assert!(ear.may_check(), "the next second has its own");
    }
}
