//! The network of a node: libp2p under the core, which never sees a type of it.
//!
//! | module | what it does |
//! |---|---|
//! | `tcp`, `mux`, `streams` | connections, many streams over one, raw streams for tasks |
//! | `behaviour` | what libp2p runs over them: identify, ping, directory, gossip, limits |
//! | `hub`, `peer` | the one task that owns all this, and what it knows of a peer |
//! | `reach` | how others come to this node, through relays where there is no direct way |
//! | `control` | messages to one node, in order |
//! | `verify` | signatures, on threads of their own |
//! | [`quota`] | what a peer may cost, and what is done about misconduct |
//! | `bootstrap` | whom to connect to |
//! | [`outline`], `library`, `fetch` | blobs by their hash: checked, given, and got from several holders |
//! | `passing` | blobs from member to member of a quorum, from memory to memory |
//! | [`join`] | becoming a node of a network that exists |
//! | [`lan`] | finding one on the local network |
//! | [`board`] | events, status and numbers |
//!
//! The node's loop hands over what its core wants said and reads [`Heard`]. Both ways are bounded channels: what does not fit
//! is dropped and counted, because nothing in the protocol depends on any one message.

pub mod address;
mod behaviour;
pub mod board;
mod bootstrap;
mod control;
mod fetch;
mod hub;
pub mod join;
pub mod lan;
mod library;
mod mux;
pub mod names;
pub mod outline;
mod passing;
mod peer;
pub mod quota;
mod reach;
#[doc(hidden)]
pub mod stranger;
mod streams;
mod tcp;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use libp2p::Multiaddr;
use neuroshard_core::Topic;
use neuroshard_proto::{Envelope, NetworkId, NodeId, Plan, codec};

use self::behaviour::{PASSING, Reach};
use self::board::Dropped;
pub use self::board::{Board, NetEvent, NetStatus, ReachStatus};
use self::bootstrap::Bootstrap;
pub use self::bootstrap::kept as kept_addresses;
use self::control::Ear;
pub use self::control::Heard;
use self::hub::{Hub, State};
use self::library::Library;
use self::passing::{Parts, Passing};
use self::reach::Ways;
pub use self::tcp::socket_address;
use self::verify::{Room, Verifier};
use crate::keys::Keys;
use crate::network;
use crate::peers::{Fetch, Link, Network};
use crate::runtime::Runtime;
use crate::store::Store;

/// What the node wants of the network.
#[derive(Debug)]
enum Order {
    Send {
        to: NodeId,
        frame: Vec<u8>,
    },
    Publish {
        topic: Topic,
        frame: Vec<u8>,
    },
    /// To every peer, and to each that comes.
    Greet {
        frame: Vec<u8>,
    },
    Fetch(Fetch),
    /// The members of this node's quorum are these.
    Companions {
        nodes: Vec<NodeId>,
    },
}

/// Orders of the node that wait for the network.
const ORDERS_MAX: usize = 256;
/// What was heard and waits for the node's loop, in messages and bytes.
const HEARD_MAX: usize = 512;
const HEARD_BYTES_MAX: usize = 64 << 20;
/// Notes of tasks that wait for the network.
const NOTES_MAX: usize = 256;
/// How long the network may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a node takes part in its network.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Where to listen; nowhere means that the node only dials.
    pub listen: Vec<Multiaddr>,
    /// Whom to connect to.
    pub connect: Vec<Multiaddr>,
    /// Under which addresses others reach this node; nowhere means those on which it listens.
    pub announce: Vec<Multiaddr>,
    /// Call on the local network, and listen to others there.
    pub lan: bool,
    /// Be a relay to nodes that nobody can dial, if others can dial this one.
    pub relay: bool,
    /// Where the addresses of peers are kept.
    pub peers_file: Option<PathBuf>,
}

/// What a node gives to those who join.
#[derive(Clone, Debug)]
pub struct Facts {
    pub network: NetworkId,
    /// [`crate::network::Network::to_file`].
    pub file: Vec<u8>,
    /// Stored blobs are given to whoever knows their hash.
    pub store: Arc<Store>,
    /// The members of this node's plan: what passes between stages is given to them alone.
    pub members: BTreeSet<NodeId>,
    /// Most bytes of what passes between two stages, and of a stage's weights or moments.
    pub passing_bytes_max: u64,
    pub state_bytes_max: u64,
}

impl Facts {
    /// What a node of this network gives.
    pub fn new(network: &network::Network, store: Arc<Store>, plan: Option<&Plan>) -> Self {
        let (model, training) = (&network.genesis.model, &network.genesis.training);
        Self {
            network: network.genesis.network(),
            file: network.to_file(),
            store,
            members: plan.iter().flat_map(|plan| plan.members.iter()).map(|member| member.node).collect(),
            passing_bytes_max: 4 * u64::from(training.sequence) * u64::from(model.hidden),
            state_bytes_max: model.state_bytes(),
        }
    }
}

/// Why there is no network.
#[derive(Debug)]
pub enum NetError {
    /// An address cannot be listened on.
    Listen { address: Multiaddr, why: String },
    /// An address is of a kind that cannot be dialled.
    Address { address: Multiaddr },
    /// The system gives no threads.
    Thread(std::io::Error),
    /// The parts of the network do not go together: a mistake in this program.
    Assembly { why: String },
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, why } => write!(
                f,
                "{address} cannot be listened on: {why}. Name another one with --listen, like /ip4/0.0.0.0/tcp/4700; port 0 \
                 lets the system choose."
            ),
            Self::Address { address } => write!(
                f,
                "{address} is no address of a node. One looks like /ip4/203.0.113.7/tcp/4700 or \
                 /dns4/node.example.org/tcp/4700."
            ),
            Self::Thread(error) => write!(f, "the system gives no more threads: {error}"),
            Self::Assembly { why } => write!(f, "this program broke its own rule, please report it: {why}"),
        }
    }
}

impl std::error::Error for NetError {}

/// A running network. It ends when this and the [`Link`] that came with it are gone.
#[derive(Debug)]
pub struct Net {
    orders: async_channel::Sender<Order>,
    ended: async_channel::Receiver<()>,
    pub board: Board,
}

impl Net {
    /// Starts the network of a node.
    ///
    /// # Errors
    /// If an address cannot be listened on or is no address.
    pub fn start(runtime: &impl Runtime, keys: &Keys, facts: Facts, wishes: &Wishes) -> Result<(Self, Link), NetError> {
        let network = facts.network;
        if let Some(address) = wishes.connect.iter().find(|address| !address::is_dialable(address)) {
            return Err(NetError::Address { address: address.clone() });
        }
        let board = Board::default();
        let key = keys.network_identity();
        let reach = match (&wishes.listen[..], &wishes.announce[..]) {
            (_, [_, ..]) => Reach::Announced,
            ([_, ..], []) => Reach::Listening,
            ([], []) => Reach::Nowhere,
        };
        let swarm = behaviour::swarm(runtime, &key, Some(network), reach, &board);
        let mut swarm = swarm.map_err(|why| NetError::Assembly { why })?;
        for address in &wishes.listen {
            let listening = swarm.listen_on(address.clone());
            listening.map_err(|error| NetError::Listen { address: address.clone(), why: bootstrap::root(&error) })?;
        }
        for address in &wishes.announce {
            swarm.add_external_address(address.clone());
        }
        if !wishes.relay {
            swarm.behaviour_mut().relay = None.into();
        }
        let (sender, orders) = async_channel::bounded(ORDERS_MAX);
        let (heard_sender, heard) = async_channel::bounded(HEARD_MAX);
        let verifier = Verifier::start().map_err(NetError::Thread)?;
        let library = Library::start(Arc::clone(&facts.store), facts.file).map_err(NetError::Thread)?;
        let room = Room::new(HEARD_BYTES_MAX);
        let ear = Ear { network, heard: heard_sender, room, verifier, board: board.clone() };
        let bootstrap = Bootstrap::new(&wishes.connect, wishes.peers_file.clone(), *swarm.local_peer_id());
        let notes = async_channel::bounded(NOTES_MAX);
        let passing = Passing::new(Parts {
            members: facts.members,
            protocol: names::protocol(network, PASSING),
            store: facts.store,
            library: library.clone(),
            notes: notes.0.clone(),
            heard: ear.heard.clone(),
            passing_bytes_max: facts.passing_bytes_max,
            state_bytes_max: facts.state_bytes_max,
        });
        if wishes.lan {
            let (sign, announce) = (Box::new(keys.signer()), wishes.announce.clone());
            let (node, board, notes) = (keys.node_id(), board.clone(), notes.0.clone());
            runtime.spawn(lan::Caller { node, sign, network, board, announce, notes }.run());
        }
        let ways = Ways::new(reach, wishes.relay);
        let (board_here, runtime, state) = (board.clone(), runtime.clone(), State::new(ways));
        let hub = Hub { runtime, swarm, orders, notes, ear, library, passing, board: board_here, bootstrap, state };
        let (end, ended) = async_channel::bounded(1);
        hub.runtime.clone().spawn(async move {
            hub.run().await;
            drop(end);
        });
        let link = Link {
            network: Box::new(Mouth { orders: sender.downgrade(), board: board.clone() }),
            heard,
            board: Some(board.clone()),
        };
        Ok((Self { orders: sender, ended, board }, link))
    }

    /// Ends all connections and the network.
    pub async fn shut_down(self) {
        self.orders.close();
        control::within(FAREWELL, self.ended.recv()).await;
    }
}

/// What the node's loop speaks through.
#[derive(Debug)]
struct Mouth {
    orders: async_channel::WeakSender<Order>,
    board: Board,
}

impl Mouth {
    fn order(&self, order: Order) -> bool {
        let sent = self.orders.upgrade().is_some_and(|orders| orders.try_send(order).is_ok());
        if !sent {
            self.board.on_drop(Dropped::Busy);
        }
        sent
    }
}

impl Network for Mouth {
    fn send(&mut self, to: NodeId, message: Envelope) {
        self.order(Order::Send { to, frame: codec::encode(&message) });
    }

    fn publish(&mut self, topic: Topic, message: Envelope) {
        self.order(Order::Publish { topic, frame: codec::encode(&message) });
    }

    fn greet(&mut self, message: Envelope) {
        self.order(Order::Greet { frame: codec::encode(&message) });
    }

    fn companions(&mut self, nodes: Vec<NodeId>) {
        self.order(Order::Companions { nodes });
    }

    fn fetch(&mut self, wanted: Fetch) -> bool {
        self.order(Order::Fetch(wanted))
    }
}
