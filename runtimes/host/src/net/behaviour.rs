//! The swarm of libp2p, put together: what runs over a connection, and how much of it.
//!
//! Gossip is anonymous on libp2p's level, because every message is an envelope that its author signed; a message's name is the
//! hash of its topic and bytes. A message is passed on only after [`neuroshard_proto::Verified::open`] took it. Names are
//! forgotten after [`SEEN`], on purpose: agreement repeats its votes word for word until they are heard, at waits that
//! grow beyond that time, and a longer memory would silence them.

use std::num::NonZeroU8;
use std::time::Duration;

use libp2p::core::Transport as _;
use libp2p::core::transport::upgrade::Version;
use libp2p::gossipsub::{self, MessageAuthenticity, MessageId, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::kad::{self, store::MemoryStore};
use libp2p::swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle};
use libp2p::{
    PeerId, StreamProtocol, Swarm, allow_block_list, autonat, connection_limits, dcutr, identify, noise, ping, relay,
};
use neuroshard_core::Topic;
use neuroshard_proto::codec::CONTROL_BYTES_MAX;
use neuroshard_proto::{Hash, NetworkId};

use super::board::Board;
use super::mux::Yamux;
use super::names;
use super::streams::Streams;
use super::tcp::Tcp;
use crate::runtime::Runtime;

/// Connections altogether, from others, and with one peer: two that dial each other at once have two for a moment, beside
/// one through a relay.
pub(super) const CONNECTIONS_MAX: u32 = 96;
const INBOUND_MAX: u32 = 64;
const PER_PEER_MAX: u32 = 3;
/// Handshakes under way: more than one address may have (see `tcp`), so that none takes them all.
const PENDING_MAX: u32 = 64;
/// How long a connection may take to be negotiated.
const NEGOTIATION: Duration = Duration::from_secs(10);
/// How long a gossiped message is known; see the module.
const SEEN: Duration = Duration::from_secs(6);
/// Gossip that waits for a peer that reads slowly.
const GOSSIP_QUEUE_MAX: usize = 128;
/// Room around a message in a gossip frame.
const GOSSIP_OVERHEAD: usize = 4096;
/// Places that a relay gives to nodes which nobody can dial, and to one of them.
const PLACES_MAX: usize = 64;
const PLACES_A_PEER: usize = 2;
/// Connections that go through a relay at a time, those of one node among them, and what each may carry in each direction
/// until it must be made anew: a relay is a neighbour who helps out, and what is worth more finds a direct way.
const CIRCUITS_MAX: usize = 16;
const CIRCUITS_A_PEER: usize = 4;
const CIRCUIT_BYTES_MAX: u64 = 256 << 20;
const CIRCUIT_MAX: Duration = Duration::from_secs(3600);
/// What one blob stream or exchange is called. It is the same in all networks: who joins knows none yet.
pub(super) const BLOBS: StreamProtocol = StreamProtocol::new("/neuroshard/blobs/1");
/// The last parts of the names of a network's own streams.
pub(super) const CONTROL: &str = "control";
pub(super) const PASSING: &str = "passing";

/// Everything that runs over connections.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) excluded: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) streams: Streams,
    /// Neither for a guest: both belong to one network.
    pub(super) gossip: Toggle<gossipsub::Behaviour>,
    pub(super) kad: Toggle<kad::Behaviour<MemoryStore>>,
    /// Ways through others, for whom there is no direct one.
    through: relay::client::Behaviour,
    /// Being such a way for others.
    pub(super) relay: Toggle<relay::Behaviour>,
    /// From a way through another to a direct one.
    punch: Toggle<dcutr::Behaviour>,
    /// Having one's own addresses tried by others, and trying theirs.
    tried: Toggle<autonat::v2::client::Behaviour>,
    tries: Toggle<autonat::v2::server::Behaviour>,
}

/// How others come to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not at all, unless through a relay: it only dials.
    #[default]
    Nowhere,
    /// At the addresses on which it listens.
    Listening,
    /// At addresses that its operator names, and that lead to it through something in between: those on which it listens
    /// are nobody's business.
    Announced,
}

/// A swarm for a node of `network`, or for a guest that looks for one.
///
/// # Errors
/// If libp2p does not take its own configuration, in its words.
pub(super) fn swarm(
    runtime: &impl Runtime,
    key: &Keypair,
    network: Option<NetworkId>,
    reach: Reach,
    board: &Board,
) -> Result<Swarm<Behaviour>, String> {
    let noise = noise::Config::new(key).map_err(|error| error.to_string())?;
    let (relayed, through) = relay::client::new(key.public().to_peer_id());
    let transport = relayed.or_transport(Tcp::new(board.clone()));
    let transport = transport.upgrade(Version::V1Lazy).authenticate(noise).multiplex(Yamux);
    let transport = transport.timeout(NEGOTIATION).boxed();
    let spawner = runtime.clone();
    // Connections live for as long as both sides want: rounds of agreement may lie minutes apart.
    let config = swarm::Config::with_executor(move |task| spawner.spawn(task))
        .with_idle_connection_timeout(if network.is_some() { Duration::MAX } else { Duration::from_secs(60) })
        .with_dial_concurrency_factor(NonZeroU8::MIN.saturating_add(3));
    let behaviour = behaviour(key, network, reach, through)?;
    Ok(Swarm::new(transport, behaviour, key.public().to_peer_id(), config))
}

fn behaviour(
    key: &Keypair,
    network: Option<NetworkId>,
    reach: Reach,
    through: relay::client::Behaviour,
) -> Result<Behaviour, String> {
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_incoming(Some(INBOUND_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX));
    let identify = identify::Config::new(names::banner(network), key.public())
        .with_agent_version(concat!("neuroshard/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true)
        // The hub chooses which of a peer's addresses are of use.
        .with_cache_size(0)
        .with_hide_listen_addrs(reach == Reach::Announced);
    let accepted = network.map_or(Vec::new(), |network| {
        vec![names::protocol(network, CONTROL), names::protocol(network, PASSING), BLOBS]
    });
    let peer = key.public().to_peer_id();
    Ok(Behaviour {
        excluded: allow_block_list::Behaviour::default(),
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new()),
        streams: Streams::new(accepted),
        gossip: network.map(gossip).transpose()?.into(),
        kad: network.map(|network| kademlia(peer, network, reach)).into(),
        through,
        relay: network.filter(|_| reach != Reach::Nowhere).map(|_| relay(peer)).into(),
        punch: network.map(|_| dcutr::Behaviour::new(peer)).into(),
        tried: (reach == Reach::Listening).then(autonat::v2::client::Behaviour::default).into(),
        tries: (reach != Reach::Nowhere).then(autonat::v2::server::Behaviour::default).into(),
    })
}

/// A way for others.
fn relay(peer: PeerId) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: PLACES_MAX,
        max_reservations_per_peer: PLACES_A_PEER,
        max_circuits: CIRCUITS_MAX,
        max_circuits_per_peer: CIRCUITS_A_PEER,
        max_circuit_duration: CIRCUIT_MAX,
        max_circuit_bytes: CIRCUIT_BYTES_MAX,
        // How often one may ask for a place or a circuit stays as it is: once in two minutes, and thirty times at first.
        ..relay::Config::default()
    };
    let mut relay = relay::Behaviour::new(peer, config);
    // Once and for all: libp2p-relay 0.22 panics in the task of a relayed connection when the status changes.
    relay.set_status(Some(relay::Status::Enable));
    relay
}

fn gossip(network: NetworkId) -> Result<gossipsub::Behaviour, String> {
    let name = |message: &gossipsub::Message| {
        let named = [message.topic.as_str().as_bytes(), &[0], &message.data].concat();
        MessageId::new(Hash::of_blob(&named).as_bytes())
    };
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(names::protocol(network, "gossip").to_string())
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(name)
        .duplicate_cache_time(SEEN)
        .max_transmit_size(CONTROL_BYTES_MAX as usize + GOSSIP_OVERHEAD)
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        .heartbeat_initial_delay(Duration::from_millis(200))
        // A graft that was refused may be wished for again soon: nodes come back after crashes.
        .prune_backoff(Duration::from_secs(10))
        .flood_publish(false)
        .build()
        .map_err(|error| error.to_string())?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).map_err(str::to_owned)?;
    for topic in Topic::ALL {
        let topic = gossipsub::IdentTopic::new(names::topic(network, topic));
        gossip.subscribe(&topic).map_err(|error| error.to_string())?;
    }
    Ok(gossip)
}

/// The directory of who is where. It finds peers and keeps no records: what comes in to be stored is let go.
fn kademlia(peer: PeerId, network: NetworkId, reach: Reach) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(names::protocol(network, "kad"));
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    config.set_kbucket_inserts(kad::BucketInserts::Manual);
    config.set_query_timeout(Duration::from_secs(20));
    // The hub looks around itself, when there is anybody to ask.
    config.set_periodic_bootstrap_interval(None);
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), config);
    // Who nobody can dial is no help in finding others.
    kad.set_mode(Some(if reach == Reach::Nowhere { kad::Mode::Client } else { kad::Mode::Server }));
    kad
}
