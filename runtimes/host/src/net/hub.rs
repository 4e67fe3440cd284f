//! The task that owns the swarm: it connects, cuts off, gossips, and gives streams to the tasks that read and write them.

mod gossip;
mod ways;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_io::Timer;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures_lite::{FutureExt as _, future};
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, PublishError};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, ping, relay};
use neuroshard_proto::NodeId;

use self::gossip::Verdict;
use super::Order;
use super::address;
use super::behaviour::{BLOBS, Behaviour, BehaviourEvent, CONTROL, PASSING};
use super::board::{Board, Dropped, NetEvent};
use super::bootstrap::Bootstrap;
use super::control::{self, Ear, Heard, Note, Opening, Outlet};
use super::library::Library;
use super::names::{self, Allegiance};
use super::passing::Passing;
use super::peer::Peer;
use super::quota::{Excluded, Misconduct, Quota};
use super::reach::Ways;
use super::streams::StreamEvent;
use super::verify::Room;
use crate::peers::Fetch;
use crate::runtime::Runtime;

/// How often what is due by the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Nodes that are to be told something and have no connection yet, and messages that wait for each.
const UNREACHED_MAX: usize = 32;
const UNREACHED_MESSAGES_MAX: usize = 8;
/// Peers that this node looks for on its own.
const PEERS_WANTED: usize = 8;
/// Peers dialled in a tick to have them.
const DIALS_A_TICK: usize = 2;
/// How often the directory is asked for more peers while there are few; more often in the first such time.
const LOOK_AROUND_TICKS: u64 = 60;
/// Addresses of a peer that are taken from its own word.
const ADDRESSES_A_PEER: usize = 8;
/// Pings that may fail in a row.
const PINGS_LOST_MAX: u32 = 3;
/// Streams on which a peer may ask for blobs at a time.
const ASKING_MAX: usize = 8;
/// How long connections have to end.
const FAREWELL: Duration = Duration::from_millis(500);

/// Bytes that may wait for peers.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// The task's state.
pub(super) struct Hub<R> {
    pub(super) runtime: R,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) orders: async_channel::Receiver<Order>,
    pub(super) notes: (async_channel::Sender<Note>, async_channel::Receiver<Note>),
    pub(super) ear: Ear,
    pub(super) library: Library,
    pub(super) passing: Passing,
    pub(super) board: Board,
    pub(super) bootstrap: Bootstrap,
    pub(super) state: State,
}

/// What the task keeps in mind.
pub(super) struct State {
    peers: BTreeMap<PeerId, Peer>,
    excluded: Excluded,
    greeting: Option<Arc<Vec<u8>>>,
    outgoing: Room,
    ways: Ways,
    verdicts: FuturesUnordered<Pin<Box<dyn Future<Output = Verdict> + Send>>>,
    opening: Opening,
    /// What waits for a connection.
    unreached: BTreeMap<PeerId, VecDeque<Arc<Vec<u8>>>>,
    tick: Timer,
    ticks: u64,
}

impl State {
    pub(super) fn new(ways: Ways) -> Self {
        Self {
            peers: BTreeMap::new(),
            ways,
            excluded: Excluded::default(),
            greeting: None,
            outgoing: Room::new(OUTGOING_BYTES_MAX),
            verdicts: FuturesUnordered::new(),
            opening: Opening::default(),
            unreached: BTreeMap::new(),
            tick: Timer::interval(TICK),
            ticks: 0,
        }
    }
}

/// What woke the task.
enum Wake {
    Order(Option<Order>),
    Note(Note),
    Verdict(Verdict),
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    Tick,
}

impl<R: Runtime> Hub<R> {
    /// Runs until the node lets go of the network.
    pub(super) async fn run(mut self) {
        loop {
            match self.wake().await {
                Wake::Order(None) => break,
                Wake::Order(Some(order)) => self.on_order(order),
                Wake::Note(note) => self.on_note(note),
                Wake::Verdict(verdict) => self.on_verdict(verdict),
                Wake::Swarm(event) => self.on_swarm(*event),
                Wake::Tick => self.on_tick(),
            }
        }
        self.leave().await;
    }

    async fn wake(&mut self) -> Wake {
        let Self { swarm, orders, notes, state, .. } = self;
        let order = async { Wake::Order(orders.recv().await.ok()) };
        let note = async {
            match notes.1.recv().await {
                Ok(note) => Wake::Note(note),
                Err(_) => future::pending().await,
            }
        };
        let verdicts = &mut state.verdicts;
        let verdict = async {
            match verdicts.next().await {
                Some(verdict) => Wake::Verdict(verdict),
                None => future::pending().await,
            }
        };
        let event = async { Wake::Swarm(Box::new(swarm.select_next_some().await)) };
        let tick = async {
            state.tick.next().await;
            Wake::Tick
        };
        order.or(note).or(verdict).or(tick).or(event).await
    }

    /// Ends all connections, so that peers need not find out.
    async fn leave(&mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let gone = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        control::within(FAREWELL, gone).await;
    }

    fn tell(&self, event: NetEvent) {
        tracing::debug!(%event, "network");
        if self.ear.heard.try_send(Heard::Event(event)).is_err() {
            self.board.on_drop(Dropped::Busy);
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Send { to, frame } => self.send(&to, Arc::new(frame)),
            Order::Greet { frame } => {
                let frame = Arc::new(frame);
                for outlet in self.state.peers.values().filter_map(|peer| peer.outlet.as_ref()) {
                    outlet.send(Arc::clone(&frame));
                }
                self.state.greeting = Some(frame);
            }
            Order::Fetch(wanted) => self.fetch(&wanted),
            Order::Companions { nodes } => {
                self.passing.companions(nodes);
                let now = Instant::now();
                for peer in self.state.peers.values() {
                    let quota =
                        if self.passing.is_member(&peer.node) { Quota::of_member(now) } else { Quota::new(now) };
                    *peer.quota.lock().unwrap_or_else(PoisonError::into_inner) = quota;
                }
            }
            Order::Publish { topic, frame } => {
                let topic = gossipsub::IdentTopic::new(names::topic(self.ear.network, topic));
                let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else { return };
                match gossip.publish(topic, frame) {
                    Ok(_) => self.board.on_message_out(),
                    Err(PublishError::Duplicate) => self.board.on_drop(Dropped::Repeated),
                    Err(PublishError::NoPeersSubscribedToTopic) => self.board.on_drop(Dropped::NoListener),
                    Err(_) => self.board.on_drop(Dropped::QueueFull),
                }
            }
        }
    }

    fn send(&mut self, to: &NodeId, frame: Arc<Vec<u8>>) {
        let Some(peer) = names::peer_of(to) else { return self.board.on_drop(Dropped::NoWay) };
        let State { peers, unreached, .. } = &mut self.state;
        if let Some(outlet) = peers.get(&peer).and_then(|peer| peer.outlet.as_ref()) {
            return outlet.send(frame);
        }
        if !unreached.contains_key(&peer) && unreached.len() >= UNREACHED_MAX {
            return self.board.on_drop(Dropped::QueueFull);
        }
        let waiting = unreached.entry(peer).or_default();
        if waiting.len() >= UNREACHED_MESSAGES_MAX {
            return self.board.on_drop(Dropped::QueueFull);
        }
        waiting.push_back(frame);
        if !self.dial(peer) {
            self.give_up(&peer);
        }
    }

    /// Has a blob fetched, if its holder is connected; if not, it may be so when it is asked for again.
    fn fetch(&mut self, wanted: &Fetch) {
        match names::peer_of(&wanted.from) {
            Some(peer) if self.state.peers.get(&peer).is_some_and(|peer| peer.outlet.is_some()) => {
                self.passing.fetch(&self.runtime, peer, wanted);
            }
            Some(peer) => {
                self.dial(peer);
                self.passing.refuse(wanted);
            }
            None => self.passing.refuse(wanted),
        }
    }

    /// Dials a peer, unless that is being done; whether there is an address to dial.
    fn dial(&mut self, peer: PeerId) -> bool {
        let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => true,
            Err(_) => {
                // Its address may be found in time for the next message.
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    kad.get_closest_peers(peer);
                }
                false
            }
        }
    }

    /// There is no way to a peer: what waited for it is lost.
    fn give_up(&mut self, peer: &PeerId) {
        for _ in self.state.unreached.remove(peer).unwrap_or_default() {
            self.board.on_drop(Dropped::NoWay);
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Misconduct { peer, what } => self.on_misconduct(peer, what),
            Note::Near { peer, addresses } => {
                if self.state.peers.len() < PEERS_WANTED && !self.state.peers.contains_key(&peer) {
                    let dial = DialOpts::peer_id(peer).addresses(addresses);
                    let _ = self.swarm.dial(dial.condition(PeerCondition::DisconnectedAndNotDialing).build());
                }
            }
            Note::Open { peer, protocol, answer } => {
                let streams = &mut self.swarm.behaviour_mut().streams;
                self.state.opening.ask(streams, peer, protocol, answer);
            }
        }
    }

    fn on_misconduct(&mut self, id: PeerId, what: Misconduct) {
        let now = Instant::now();
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        if peer.conduct.add(now, &what) {
            self.cut_off(id, what);
        }
    }

    fn cut_off(&mut self, id: PeerId, why: Misconduct) {
        let Some(peer) = self.state.peers.remove(&id) else { return };
        let now = Instant::now();
        let out = if why.is_hostile() { self.state.excluded.add(now, peer.node) } else { Duration::ZERO };
        if !out.is_zero() {
            self.swarm.behaviour_mut().excluded.block_peer(id);
        }
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.remove_peer(&id);
        }
        let _ = self.swarm.disconnect_peer_id(id);
        self.board.on_cut_off(&why);
        if let Some(address) = self.bootstrap.on_useless(&id) {
            self.tell(NetEvent::Useless { address, why: why.clone() });
        }
        self.tell(NetEvent::CutOff { node: peer.node, why, out_s: out.as_secs() });
    }

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.on_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => self.on_stream(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.on_identified(peer_id, info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { peer, result, .. })) => {
                self.on_ping(peer, result.ok());
            }
            SwarmEvent::Behaviour(event) => self.on_ways(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                self.show(Instant::now());
                self.tell(NetEvent::Listening { address: address.to_string() });
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ListenerClosed { listener_id, .. } => self.state.ways.on_listener_gone(listener_id),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, &endpoint);
                self.on_way(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, endpoint, cause } => {
                let (relayed, cause) = (endpoint.is_relayed(), cause.map(|cause| cause.to_string()));
                tracing::debug!(peer = %peer_id, relayed, ?cause, "a connection ended");
                self.state.ways.on_closed(&peer_id, connection_id);
                if num_established == 0 {
                    self.on_closed(&peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                tracing::debug!(peer = ?peer_id, %error, "a dial failed");
                if let Some(peer) = peer_id.filter(|peer| !self.swarm.is_connected(peer)) {
                    self.give_up(&peer);
                }
                if let Some((address, why)) = self.bootstrap.on_failure(Instant::now(), connection_id, &error) {
                    self.tell(NetEvent::Unreachable { address, why });
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener cannot accept"),
            _ => {}
        }
    }

    fn on_connected(&mut self, id: PeerId, endpoint: &ConnectedPoint) {
        let address = endpoint.get_remote_address();
        self.bootstrap.on_connected(id, endpoint.is_dialer().then_some(address));
        let now = Instant::now();
        let Some(node) = names::node_of(&id).filter(|node| !self.state.excluded.holds(now, node)) else {
            let _ = self.swarm.disconnect_peer_id(id);
            return;
        };
        let quota = if self.passing.is_member(&node) { Quota::of_member(now) } else { Quota::new(now) };
        self.state.peers.entry(id).or_insert_with(|| Peer::new(now, node, endpoint, quota));
    }

    fn on_closed(&mut self, id: &PeerId) {
        self.bootstrap.on_closed(id);
        let Some(peer) = self.state.peers.remove(id) else { return };
        if peer.outlet.is_some() {
            self.tell(NetEvent::Left { node: peer.node, peers: self.members() });
        }
    }

    /// Peers that are known to be of this network.
    fn members(&self) -> u64 {
        self.state.peers.values().filter(|peer| peer.outlet.is_some()).count() as u64
    }

    fn on_identified(&mut self, id: PeerId, info: identify::Info) {
        let theirs = names::allegiance(&info.protocol_version, Some(self.ear.network));
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        peer.program = Some(info.agent_version.chars().filter(|c| !c.is_control()).take(64).collect());
        match theirs {
            Allegiance::Ours => {}
            Allegiance::Guest => return,
            Allegiance::OtherWire { theirs } => return self.cut_off(id, Misconduct::OtherWire { theirs }),
            Allegiance::OtherNetwork { theirs } => return self.cut_off(id, Misconduct::OtherNetwork { theirs }),
            Allegiance::Stranger => return self.cut_off(id, Misconduct::Stranger),
        }
        // What is near the peer is near this node only if they see each other from there: at such an address somebody else
        // may be, and a dial that finds somebody else gives up on the peer's other addresses too.
        let seen_from = address::distance(&peer.address);
        let useful = |address: &Multiaddr| address::is_dialable(address) && address::distance(address) <= seen_from;
        let mut addresses: Vec<_> = info.listen_addrs.into_iter().filter(useful).collect();
        addresses.sort_by_key(address::is_relayed);
        addresses.dedup();
        addresses.truncate(ADDRESSES_A_PEER);
        let is_relay = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        self.state.ways.on_identified(Instant::now(), id, is_relay, &addresses);
        self.bootstrap.on_member(id, &addresses);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            for address in addresses {
                kad.add_address(&id, address);
            }
        }
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        if peer.outlet.is_some() {
            return;
        }
        let (outlet, queued) = Outlet::new(self.state.outgoing.clone(), self.board.clone());
        let greeting = self.state.greeting.iter().cloned();
        greeting.chain(self.state.unreached.remove(&id).unwrap_or_default()).for_each(|frame| outlet.send(frame));
        peer.outlet = Some(outlet);
        let (node, address) = (peer.node, peer.address.to_string());
        let protocol = names::protocol(self.ear.network, CONTROL);
        self.runtime.spawn(control::write(id, protocol, queued, self.notes.0.clone(), self.board.clone()));
        let peers = self.members();
        self.tell(NetEvent::Connected { node, address, peers });
    }

    fn on_ping(&mut self, id: PeerId, took: Option<Duration>) {
        let Some(peer) = self.state.peers.get_mut(&id) else { return };
        match took {
            Some(took) => (peer.ping, peer.pings_lost) = (Some(took), 0),
            None => peer.pings_lost += 1,
        }
        if peer.pings_lost >= PINGS_LOST_MAX {
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    fn on_stream(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Opened { ticket, stream } => self.state.opening.answer(ticket, Ok(stream)),
            StreamEvent::Failed { ticket, why } => self.state.opening.answer(ticket, Err(why)),
            StreamEvent::Came { peer: id, protocol, stream } => {
                let Some(peer) = self.state.peers.get_mut(&id) else { return };
                // A stream costs as much as a message, so that opening them over and over is a flood too.
                let now = Instant::now();
                let over = {
                    let mut quota = peer.quota.lock().unwrap_or_else(PoisonError::into_inner);
                    quota.on_message(now, 0);
                    !quota.wait(now).is_zero()
                };
                if over {
                    return self.on_misconduct(id, Misconduct::Flood);
                }
                if protocol == BLOBS {
                    let asking = Arc::clone(&peer.asking);
                    if Arc::strong_count(&asking) > ASKING_MAX + 1 {
                        return self.board.on_drop(Dropped::OverQuota);
                    }
                    let library = self.library.clone();
                    return self.runtime.spawn(async move {
                        library.serve(stream).await;
                        drop(asking);
                    });
                }
                if protocol == names::protocol(self.ear.network, PASSING) {
                    return match self.passing.is_member(&peer.node) {
                        true => self.passing.serve(&self.runtime, id, stream),
                        false => self.board.on_drop(Dropped::Rejected),
                    };
                }
                // The newest stream counts: the peer opened it because the one before broke.
                let (stop, stopped) = async_channel::bounded(1);
                peer.reading = Some(stop);
                let (node, quota) = (peer.node, Arc::clone(&peer.quota));
                let (ear, notes) = (self.ear.clone(), self.notes.0.clone());
                self.runtime.spawn(control::read(id, node, stream, quota, ear, notes, stopped));
            }
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.state.ticks += 1;
        for options in self.bootstrap.due(now) {
            let dial = options.connection_id();
            if let Err(error) = self.swarm.dial(options)
                && let Some((address, why)) = self.bootstrap.on_failure(now, dial, &error)
            {
                self.tell(NetEvent::Unreachable { address, why });
            }
        }
        self.mind_ways(now);
        self.find_peers();
        self.readmit(now);
        self.show(now);
        self.bootstrap.save_if_due(now);
    }

    /// Dials peers that others told of, as long as there are few.
    fn find_peers(&mut self) {
        let wanted = PEERS_WANTED.saturating_sub(self.state.peers.len()).min(DIALS_A_TICK);
        if wanted == 0 {
            return;
        }
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        let (alone, ticks) = (connected.is_empty(), self.state.ticks);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        let early = ticks < LOOK_AROUND_TICKS && ticks.is_power_of_two();
        if !alone && (early || ticks.is_multiple_of(LOOK_AROUND_TICKS)) {
            // Without anybody in its tables it has nothing to ask, which is no fault.
            let _ = kad.bootstrap();
        }
        let known = kad.kbuckets().flat_map(|bucket| {
            let peers: Vec<_> = bucket.iter().map(|entry| *entry.node.key.preimage()).collect();
            peers
        });
        let known: Vec<_> = known.filter(|peer| !connected.contains(peer)).collect();
        // Another part of them each time, so that those which cannot be reached do not keep out the rest.
        let skip = usize::try_from(self.state.ticks).unwrap_or(0) % known.len().max(1);
        for peer in known.into_iter().cycle().skip(skip).take(wanted) {
            let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).build();
            let _ = self.swarm.dial(options);
        }
    }

    /// Lets those in again whose time is over.
    fn readmit(&mut self, now: Instant) {
        let blocked = &mut self.swarm.behaviour_mut().excluded;
        let over = |peer: &&PeerId| names::node_of(peer).is_none_or(|node| !self.state.excluded.holds(now, &node));
        let over: Vec<PeerId> = blocked.blocked_peers().iter().filter(over).copied().collect();
        for peer in over {
            blocked.unblock_peer(peer);
        }
        self.state.excluded.forget(now);
    }

    fn show(&self, now: Instant) {
        let members = self.state.peers.values().filter(|peer| peer.outlet.is_some());
        let peers = members.map(|peer| peer.status(now));
        let mut listening: Vec<String> = Vec::new();
        for address in self.swarm.external_addresses().chain(self.swarm.listeners()).map(Multiaddr::to_string) {
            if !listening.contains(&address) {
                listening.push(address);
            }
        }
        self.board.set(listening, self.state.ways.status(), peers.collect(), self.state.excluded.count(now));
    }
}
