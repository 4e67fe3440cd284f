//! Nodes as libp2p names them: a `PeerId` of an ed25519 key holds the key itself, so a [`NodeId`] and a `PeerId` are two
//! ways to write one thing. And what this network calls its protocols.

use libp2p::PeerId;
use libp2p::StreamProtocol;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use neuroshard_core::Topic;
use neuroshard_proto::{Hash, NetworkId, NodeId, WIRE_VERSION};

/// A `PeerId` of an ed25519 key: an identity multihash of 36 bytes, which are the key's own encoding, 4 bytes and the key.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// What a program that knows no network yet says of itself.
const GUEST: &str = "guest";

/// The node behind a peer; `None` if its key is of another kind, which no node's is.
pub fn node_of(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PREFIX)?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

/// The peer that a node is; `None` if the name is no key at all.
pub fn peer_of(node: &NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// A node's secret key as libp2p takes it.
pub(crate) fn keypair(mut secret: [u8; 32]) -> Keypair {
    let secret = ed25519::SecretKey::try_from_bytes(&mut secret);
    // Every 32 bytes are a secret key.
    let secret = secret.unwrap_or_else(|_| ed25519::SecretKey::generate());
    Keypair::from(ed25519::Keypair::from(secret))
}

/// Who a peer says it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allegiance {
    /// This wire version and network.
    Ours,
    /// It asks for a network to join.
    Guest,
    OtherWire {
        theirs: u16,
    },
    OtherNetwork {
        theirs: NetworkId,
    },
    /// Another program.
    Stranger,
}

/// What a node says of itself when it meets another: wire version and network, or that it looks for one.
pub(super) fn banner(network: Option<NetworkId>) -> String {
    match network {
        Some(network) => format!("neuroshard/{WIRE_VERSION}/{network}"),
        None => format!("neuroshard/{WIRE_VERSION}/{GUEST}"),
    }
}

/// Reads a banner.
pub(super) fn allegiance(banner: &str, ours: Option<NetworkId>) -> Allegiance {
    let mut parts = banner.split('/');
    let (Some("neuroshard"), Some(wire), Some(network), None) =
        (parts.next(), parts.next().and_then(|wire| wire.parse().ok()), parts.next(), parts.next())
    else {
        return Allegiance::Stranger;
    };
    if wire != WIRE_VERSION {
        return Allegiance::OtherWire { theirs: wire };
    }
    if network == GUEST {
        return Allegiance::Guest;
    }
    match Hash::from_hex(network).map(NetworkId) {
        None => Allegiance::Stranger,
        // Who knows no network takes any.
        Some(theirs) if ours.is_none_or(|ours| ours == theirs) => Allegiance::Ours,
        Some(theirs) => Allegiance::OtherNetwork { theirs },
    }
}

/// A protocol of one network: who is of another does not even negotiate it.
pub(super) fn protocol(network: NetworkId, what: &str) -> StreamProtocol {
    let name = format!("/neuroshard/{WIRE_VERSION}/{network:.16}/{what}");
    StreamProtocol::try_from_owned(name).unwrap_or(StreamProtocol::new("/neuroshard/none"))
}

/// The name under which a topic is gossiped.
pub(super) fn topic(network: NetworkId, topic: Topic) -> String {
    format!("neuroshard/{WIRE_VERSION}/{network:.16}/{}", topic.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_and_its_peer_are_one_name() {
        let pair = keypair([7; 32]);
        let peer = pair.public().to_peer_id();
        let node = node_of(&peer).unwrap();
        assert_eq!(pair.public().try_into_ed25519().unwrap().to_bytes(), *node.as_bytes());
        assert_eq!(peer_of(&node), Some(peer));
        // A hashed key holds no node, and bytes that are no point are no peer.
        assert_eq!(node_of(&PeerId::from_bytes(&[&[0x12, 0x20][..], &[1; 32]].concat()).unwrap()), None);
        assert_eq!(peer_of(&NodeId::from_bytes([2; 32])), None);
    }

    #[test]
    fn a_banner_says_what_keeps_two_nodes_apart() {
        let (ours, theirs) = (NetworkId(Hash::of_blob(b"ours")), NetworkId(Hash::of_blob(b"theirs")));
        let read = |banner: &str| allegiance(banner, Some(ours));
        assert_eq!(read(&banner(Some(ours))), Allegiance::Ours);
        assert_eq!(read(&banner(Some(theirs))), Allegiance::OtherNetwork { theirs });
        assert_eq!(read(&banner(None)), Allegiance::Guest);
        assert_eq!(read(&format!("neuroshard/9/{ours}")), Allegiance::OtherWire { theirs: 9 });
        assert_eq!(read("neuroshard/1/nothing"), Allegiance::Stranger);
        assert_eq!(read("ipfs/0.1.0"), Allegiance::Stranger);
        assert_eq!(allegiance(&banner(Some(theirs)), None), Allegiance::Ours);
    }

    #[test]
    fn protocols_of_two_networks_differ() {
        let (one, two) = (NetworkId(Hash::of_blob(b"1")), NetworkId(Hash::of_blob(b"2")));
        assert_ne!(protocol(one, "control"), protocol(two, "control"));
        assert_ne!(topic(one, Topic::Blocks), topic(one, Topic::Agreement));
    }
}
