//! Becoming a node of a network that exists: its genesis, manifest and data, from nodes that have them.
//!
//! What comes is checked before it is kept: the genesis against the hash that an invite names, the manifest against the genesis,
//! each shard against the manifest. The network's file is written last, so a join that breaks off is simply begun again, and what
//! came before is not fetched twice. If connections are cut, that happens by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures::StreamExt as _;
use futures::future::join_all;
use futures_lite::FutureExt as _;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify};
use neuroshard_proto::{Hash, NetworkId, NodeId, WIRE_VERSION};

use super::behaviour::{self, Behaviour, BehaviourEvent, Reach};
use super::board::Board;
use super::bootstrap;
use super::control::{Note, Opening};
use super::fetch::{self, FetchFault};
use super::names::{self, Allegiance};
use super::streams::StreamEvent;
use crate::files::{self, Access};
use crate::home::Home;
use crate::keys::Keys;
use crate::network::{FILE_BYTES_MAX, Network, NetworkError};
use crate::runtime::Runtime;
use crate::store::{ByteCount, StoreError};

/// How long to look for a node that answers.
const LOOKING: Duration = Duration::from_secs(20);
/// How long to wait for more of them once one does.
const MORE: Duration = Duration::from_millis(500);
/// Cuts without a new blob in between after which there is no trying again.
const CUTS_MAX: u32 = 3;
/// Wait before an address is dialled again.
const AGAIN: Duration = Duration::from_secs(2);
/// Blobs that are asked for at a time, and bytes that are written at a time: a write waits for the disk, however short it is.
const AT_ONCE: usize = 3;
const KEEP_BYTES: usize = 1 << 20;
/// Streams that tasks ask for.
const NOTES_MAX: usize = 64;

/// Which network, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The hash of its genesis, if it is known; otherwise any is taken.
    pub network: Option<NetworkId>,
    pub addresses: Vec<Multiaddr>,
}

/// Why there was no joining.
#[derive(Debug)]
pub enum JoinError {
    /// No address led to a node that can be talked to: what happened at each.
    NobodyThere {
        attempts: Vec<(String, String)>,
    },
    /// What nodes gave for the network's facts was of no use: what each did.
    NoFacts {
        attempts: Vec<(PeerId, String)>,
    },
    /// None of the nodes gave this blob.
    NoBlob {
        hash: Hash,
        attempts: Vec<(PeerId, FetchFault)>,
    },
    Store(StoreError),
    Network(NetworkError),
    /// The parts of the network do not go together: a mistake in this program.
    Assembly {
        why: String,
    },
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyThere { attempts } => {
                f.write_str("the network cannot be joined, because no node of it can be reached")?;
                for (address, why) in attempts {
                    write!(f, "\n  {address}: {why}")?;
                }
                f.write_str(
                    "\nCheck that the node runs with --listen, that the address is right, and that no firewall or router is in \
                     between; `neuroshard doctor --network` looks from this side.",
                )
            }
            Self::NoFacts { attempts } => {
                f.write_str("the network cannot be joined")?;
                attempts.iter().try_for_each(|(_, why)| write!(f, "\n  {why}"))
            }
            Self::NoBlob { hash, attempts } => {
                write!(f, "blob {hash:.16} of the network's data could not be fetched")?;
                for (peer, why) in attempts {
                    match names::node_of(peer) {
                        Some(node) => write!(f, "\n  {node:.16}: {why}")?,
                        None => write!(f, "\n  {peer}: {why}")?,
                    }
                }
                f.write_str("\nWhat came before is kept: join again to go on.")
            }
            Self::Store(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Assembly { why } => write!(f, "this program broke its own rule, please report it: {why}"),
        }
    }
}

impl std::error::Error for JoinError {}

impl JoinError {
    /// Whether the nodes may have what is needed, and the way to them was cut.
    fn is_a_cut(&self) -> bool {
        let cut = |fault: &FetchFault| matches!(fault, FetchFault::Broken { .. } | FetchFault::Busy);
        matches!(self, Self::NoBlob { attempts, .. } if attempts.iter().any(|(_, fault)| cut(fault)))
    }
}

/// Joins a network: afterwards the data directory holds it as if it had been founded there. `progress` hears how many
/// bytes of how many are here.
///
/// # Errors
/// If nobody can be reached, or nobody has what is needed, or it does not fit on the disk.
pub async fn join(
    runtime: &impl Runtime,
    home: &Home,
    target: &Target,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Network, JoinError> {
    let (mut done, mut cuts) = (0, 0);
    let network = loop {
        let mut guest = Guest::new(runtime, &home.keys, target.network)?;
        let peers = guest.look_for(&target.addresses).await?;
        let notes = guest.notes.0.clone();
        let before = done;
        let mut hear = |here, of| {
            done = done.max(here);
            progress(done, of);
        };
        let work = async {
            let network = facts(&notes, &peers, target.network).await?;
            fetch_all(&notes, &peers, home, &network, &mut hear).await?;
            Ok::<_, JoinError>(network)
        };
        match guest.drive_while(work).await {
            Ok(network) => break network,
            Err(error) if error.is_a_cut() && (done > before || cuts < CUTS_MAX) => {
                tracing::debug!(%error, "the connection was cut: once more");
                cuts = if done > before { 0 } else { cuts + 1 };
                Timer::after(AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    };
    // Whoever has a network knows where the others are, were it killed in the next moment.
    let addresses = bootstrap::lines(target.addresses.iter().cloned());
    let written = files::write_durably(&home.paths().peers(), addresses.as_bytes(), Access::Default);
    written.map_err(|error| JoinError::Network(NetworkError::File(error)))?;
    network.write(home.paths()).map_err(JoinError::Network)?;
    Ok(network)
}

/// Looks whether nodes of a network, or of any, can be reached at these addresses, at all of them at the same time: who
/// answers, or why nobody can be talked to, in words.
pub async fn probe(
    runtime: &impl Runtime,
    keys: &Keys,
    network: Option<NetworkId>,
    addresses: &[Multiaddr],
) -> Vec<Result<NodeId, String>> {
    join_all(addresses.iter().map(|address| probe_one(runtime, keys, network, address))).await
}

async fn probe_one(
    runtime: &impl Runtime,
    keys: &Keys,
    network: Option<NetworkId>,
    address: &Multiaddr,
) -> Result<NodeId, String> {
    let mut guest = Guest::new(runtime, keys, network).map_err(|error| error.to_string())?;
    match guest.look_for(std::slice::from_ref(address)).await {
        Ok(peers) => peers.iter().find_map(names::node_of).ok_or_else(|| "its key is of another kind".into()),
        Err(JoinError::NobodyThere { attempts }) => {
            Err(attempts.into_iter().map(|(_, why)| why).next().unwrap_or_else(|| "nobody answers".into()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The network's facts from the first peer that has the right ones.
async fn facts(
    notes: &async_channel::Sender<Note>,
    peers: &[PeerId],
    wanted: Option<NetworkId>,
) -> Result<Network, JoinError> {
    let mut attempts = Vec::new();
    for peer in peers {
        let why = match fetch::network_file(notes, *peer, FILE_BYTES_MAX).await {
            Err(fault) => fault.to_string(),
            Ok(file) => match Network::from_file(&file) {
                Err(why) => format!("the genesis that the node gave cannot be used: {why}"),
                Ok(network) => match wanted.filter(|wanted| *wanted != network.genesis.network()) {
                    None => return Ok(network),
                    Some(wanted) => format!(
                        "the node is of network {:.16}, the invite is to {wanted:.16}: it is not the network that it was \
                         when the invite was written, or somebody else answers at its address",
                        network.genesis.network()
                    ),
                },
            },
        };
        attempts.push((*peer, why));
    }
    Err(JoinError::NoFacts { attempts })
}

/// Every blob that a new node needs: the data shards, and the weights that the network began with if there are any.
async fn fetch_all(
    notes: &async_channel::Sender<Note>,
    peers: &[PeerId],
    home: &Home,
    network: &Network,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), JoinError> {
    let shards = network.manifest.shards.iter().map(|shard| (shard.hash, 2 * u64::from(shard.tokens)));
    let state_bytes = network.genesis.model.state_bytes();
    let first = network.genesis.first.iter().flat_map(|first| first.layers.iter());
    let first = first.flat_map(|layer| [(layer.weights, state_bytes), (layer.moments, state_bytes)]);
    let of: u64 = shards.clone().map(|(_, bytes)| bytes).sum();
    let (mut missing, mut done) = (Vec::new(), 0);
    for (hash, bytes) in shards.chain(first) {
        match home.store.contains(&hash).map_err(JoinError::Store)? {
            true => done += bytes,
            false => missing.push((hash, bytes)),
        }
    }
    progress(done.min(of), of);
    let fetch = async |(hash, bytes)| {
        let blob = fetch::blob(notes, peers, hash, bytes).await;
        blob.map_err(|attempts| JoinError::NoBlob { hash, attempts })
    };
    let mut coming = futures::stream::iter(missing).map(fetch).buffered(AT_ONCE);
    let mut here: Vec<Vec<u8>> = Vec::new();
    loop {
        let next = coming.next().await;
        let held: usize = here.iter().map(Vec::len).sum();
        // What has come is kept, whatever comes next.
        if !matches!(&next, Some(Ok(blob)) if held + blob.len() < KEEP_BYTES) {
            let blobs: Vec<&[u8]> = here.iter().map(Vec::as_slice).collect();
            home.store.put_all(&blobs).map_err(JoinError::Store)?;
            done += held as u64;
            here.clear();
            progress(done.min(of), of);
        }
        match next {
            Some(blob) => here.push(blob?),
            None => break,
        }
    }
    tracing::info!(bytes = %ByteCount(of), "the network's data is here");
    Ok(())
}

/// The smallest part in a network: it asks, and is asked nothing.
pub(super) struct Guest {
    swarm: Swarm<Behaviour>,
    pub(super) notes: (async_channel::Sender<Note>, async_channel::Receiver<Note>),
    opening: Opening,
    network: Option<NetworkId>,
}

impl Guest {
    pub(super) fn new(runtime: &impl Runtime, keys: &Keys, network: Option<NetworkId>) -> Result<Self, JoinError> {
        let swarm = behaviour::swarm(runtime, &keys.network_identity(), None, Reach::Nowhere, &Board::default());
        let swarm = swarm.map_err(|why| JoinError::Assembly { why })?;
        Ok(Self { swarm, notes: async_channel::bounded(NOTES_MAX), opening: Opening::default(), network })
    }

    /// One that introduces itself as a node of the network.
    pub(super) fn of_network(runtime: &impl Runtime, keys: &Keys, network: NetworkId) -> Result<Self, JoinError> {
        let board = Board::default();
        let swarm = behaviour::swarm(runtime, &keys.network_identity(), Some(network), Reach::Nowhere, &board);
        let swarm = swarm.map_err(|why| JoinError::Assembly { why })?;
        let notes = async_channel::bounded(NOTES_MAX);
        Ok(Self { swarm, notes, opening: Opening::default(), network: Some(network) })
    }

    /// Connects to all addresses; returns the peers that are of the right kind.
    pub(super) async fn look_for(&mut self, addresses: &[Multiaddr]) -> Result<Vec<PeerId>, JoinError> {
        let mut attempts: Vec<(String, String)> = Vec::new();
        let mut dialled = Vec::new();
        // Addresses to be dialled again: a node may be busy, or just starting.
        let mut again: Vec<(Instant, Multiaddr)> = Vec::new();
        // What happened at them the last time.
        let mut before: BTreeMap<Multiaddr, String> = BTreeMap::new();
        addresses.iter().for_each(|address| self.dial(address.clone(), &mut dialled, &mut attempts));
        let mut peers = Vec::new();
        let mut until = Instant::now() + LOOKING;
        while !dialled.is_empty() || !again.is_empty() {
            let event = async { Some(self.swarm.select_next_some().await) };
            let wake = again.iter().map(|(at, _)| *at).min().map_or(until, |at| at.min(until));
            let late = async {
                Timer::at(wake).await;
                None
            };
            let event = event.or(late).await;
            let now = Instant::now();
            if now >= until {
                break;
            }
            for (_, address) in again.extract_if(.., |(at, _)| *at <= now) {
                self.dial(address, &mut dialled, &mut attempts);
            }
            match event {
                Some(SwarmEvent::OutgoingConnectionError { connection_id, error, .. }) => {
                    if let Some(place) = dialled.iter().position(|(id, _)| *id == connection_id) {
                        let (_, address) = dialled.swap_remove(place);
                        if bootstrap::may_pass(&error) && peers.is_empty() {
                            before.insert(address.clone(), bootstrap::in_words(&error));
                            again.push((now + AGAIN, address));
                        } else {
                            attempts.push((address.to_string(), bootstrap::in_words(&error)));
                        }
                    }
                }
                Some(SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    connection_id,
                    peer_id,
                    info,
                }))) => {
                    let Some(place) = dialled.iter().position(|(id, _)| *id == connection_id) else { continue };
                    let (_, address) = dialled.swap_remove(place);
                    match useless(&info.protocol_version, self.network) {
                        None => {
                            peers.push(peer_id);
                            until = until.min(now + MORE);
                        }
                        Some(why) => attempts.push((address.to_string(), why)),
                    }
                }
                _ => {}
            }
        }
        let silent =
            dialled.into_iter().map(|(_, address)| address).chain(again.into_iter().map(|(_, address)| address));
        attempts.extend(silent.map(|address| {
            let why = before.remove(&address).unwrap_or_else(|| "nobody answers".to_owned());
            (address.to_string(), why)
        }));
        peers.sort_unstable();
        peers.dedup();
        if peers.is_empty() { Err(JoinError::NobodyThere { attempts }) } else { Ok(peers) }
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        dialled: &mut Vec<(ConnectionId, Multiaddr)>,
        attempts: &mut Vec<(String, String)>,
    ) {
        let (address, peer) = bootstrap::split(address);
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer).addresses(vec![address.clone()]).build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => dialled.push((connection, address)),
            Err(error) => attempts.push((address.to_string(), bootstrap::in_words(&error))),
        }
    }

    /// Keeps the swarm going while something is done over it.
    pub(super) async fn drive_while<T>(mut self, work: impl Future<Output = T>) -> T {
        let drive = async {
            loop {
                let Self { swarm, notes, opening, .. } = &mut self;
                let note = async { Ok(notes.1.recv().await) };
                let event = async { Err(swarm.select_next_some().await) };
                match note.or(event).await {
                    Ok(Ok(Note::Open { peer, protocol, answer })) => {
                        opening.ask(&mut swarm.behaviour_mut().streams, peer, protocol, answer);
                    }
                    Err(SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamEvent::Opened { ticket, stream }))) => {
                        opening.answer(ticket, Ok(stream));
                    }
                    Err(SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamEvent::Failed { ticket, why }))) => {
                        opening.answer(ticket, Err(why));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        };
        work.or(drive).await
    }
}

/// Why a node with this banner cannot be joined.
fn useless(banner: &str, network: Option<NetworkId>) -> Option<String> {
    match names::allegiance(banner, network) {
        Allegiance::Ours => None,
        Allegiance::Guest => Some("a node that is about to join itself answers there".into()),
        Allegiance::Stranger => Some("what answers there is no NeuroShard node".into()),
        Allegiance::OtherWire { theirs } => Some(format!(
            "the node speaks wire version {theirs}, this program speaks {WIRE_VERSION}: the older of the two must be updated"
        )),
        Allegiance::OtherNetwork { theirs } => Some(format!(
            "the node there is of network {theirs:.16}, which is not the one of the invite: ask for a new one"
        )),
    }
}
