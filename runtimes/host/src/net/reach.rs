//! How others come to this node: directly, or through relays where there is no direct way.
//!
//! A node that only dials, or whose address others tried in vain, takes a place at up to two relays among its peers. They pass
//! on what others send it, within limits. From there libp2p looks for a direct way; once there is one, the other is closed.
//! A node that others can dial is such a relay itself, unless its operator does not want that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::address::{self, Distance};
use super::behaviour::Reach;
use super::board::ReachStatus;
use super::names;

/// Relays at which a node takes places.
const RELAYS_WANTED: usize = 2;
/// Relays that a node knows.
const RELAYS_MAX: usize = 32;
/// When a relay that had no place is asked again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long there are two ways to a peer, so that what goes over the one to be closed can end.
const BOTH: Duration = Duration::from_secs(3);
/// When a second direct connection is closed by whom it was made by. The two ends wait for different times, so that they
/// do not close each other's.
const SPARE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(20)];

/// A connection.
#[derive(Debug)]
struct Line {
    id: ConnectionId,
    relayed: bool,
    dialled: bool,
    since: Instant,
}

/// A place at a relay, wanted or had.
#[derive(Debug)]
struct Place {
    relay: PeerId,
    listener: ListenerId,
    had: bool,
}

/// What the hub knows about ways to this node.
#[derive(Debug, Default)]
pub(super) struct Ways {
    reach: Reach,
    /// Whether it may be a relay.
    helps: bool,
    lines: BTreeMap<PeerId, Vec<Line>>,
    /// Peers that are relays, where they are, and when they may be asked.
    relays: BTreeMap<PeerId, (Multiaddr, Instant)>,
    places: Vec<Place>,
    /// What came of it when others tried an address of this node, the last time for each kind.
    tried: BTreeMap<Distance, bool>,
    /// Nodes that have a place here, and connections that go through here.
    guests: BTreeSet<PeerId>,
    circuits: u64,
}

/// What a new connection means for the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is the first one, or as good as the one before.
    None,
    /// It is direct, and all before it went through relays.
    Direct,
}

impl Ways {
    pub(super) fn new(reach: Reach, helps: bool) -> Self {
        Self { reach, helps, ..Self::default() }
    }

    /// Whether nodes that nobody can dial may come through this one.
    pub(super) fn is_relay(&self) -> bool {
        self.helps && self.reach != Reach::Nowhere && !self.is_blocked()
    }

    /// Whether others are told of the addresses on which it listens.
    pub(super) fn tells_where_it_listens(&self) -> bool {
        self.reach == Reach::Listening
    }

    /// Whether others tried in vain to dial this node, from as far away as anybody tried.
    fn is_blocked(&self) -> bool {
        self.reach == Reach::Listening && self.direct() == Some(false)
    }

    /// Whether others could dial this node, if anybody tried.
    fn direct(&self) -> Option<bool> {
        // The smallest distance is the farthest: whoever is to come from anywhere is not helped by neighbours who can.
        self.tried.first_key_value().map(|(_, reached)| *reached)
    }

    pub(super) fn on_tried(&mut self, address: &Multiaddr, reached: bool) {
        self.tried.insert(address::distance(address), reached);
    }

    /// Whether relays are needed.
    fn wants_relays(&self) -> bool {
        self.reach == Reach::Nowhere || self.is_blocked()
    }

    pub(super) fn on_established(
        &mut self,
        now: Instant,
        peer: PeerId,
        id: ConnectionId,
        (relayed, dialled): (bool, bool),
    ) -> News {
        let lines = self.lines.entry(peer).or_default();
        let news = match lines.is_empty() || relayed || lines.iter().any(|line| !line.relayed) {
            true => News::None,
            false => News::Direct,
        };
        lines.push(Line { id, relayed, dialled, since: now });
        news
    }

    pub(super) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId) {
        let Some(lines) = self.lines.get_mut(peer) else { return };
        lines.retain(|line| line.id != id);
        if lines.is_empty() {
            self.lines.remove(peer);
            self.relays.remove(peer);
            self.guests.remove(peer);
        }
    }

    /// Connections that are not needed any more.
    pub(super) fn spare(&self, now: Instant, me: &PeerId) -> Vec<ConnectionId> {
        let mut spare = Vec::new();
        for (peer, lines) in &self.lines {
            let mut direct = lines.iter().filter(|line| !line.relayed);
            let Some(first) = direct.next() else { continue };
            let patience = SPARE[usize::from(me > peer)];
            spare.extend(direct.filter(|line| line.dialled && now >= line.since + patience).map(|line| line.id));
            if now >= first.since + BOTH {
                spare.extend(lines.iter().filter(|line| line.relayed).map(|line| line.id));
            }
        }
        spare
    }

    /// A peer said where it listens, and whether it is a relay.
    pub(super) fn on_identified(&mut self, now: Instant, peer: PeerId, is_relay: bool, addresses: &[Multiaddr]) {
        let direct = addresses.iter().filter(|address| !address::is_relayed(address));
        match direct.min_by_key(|address| address::distance(address)) {
            Some(address) if is_relay => {
                if self.relays.len() < RELAYS_MAX || self.relays.contains_key(&peer) {
                    let entry = self.relays.entry(peer).or_insert_with(|| (address.clone(), now));
                    entry.0 = address.clone();
                }
            }
            _ => {
                self.relays.remove(&peer);
            }
        }
    }

    /// Where to take a place now: a relay, and the address by which to listen there.
    pub(super) fn due(&mut self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        if !self.wants_relays() || self.places.len() >= RELAYS_WANTED {
            return None;
        }
        let taken = |peer: &PeerId| self.places.iter().any(|place| place.relay == *peer);
        let mut free = self.relays.iter_mut().filter(|(peer, (_, next))| *next <= now && !taken(peer));
        let (peer, (address, next)) = free.next()?;
        *next = now + AGAIN;
        let named = matches!(address.iter().last(), Some(Protocol::P2p(_)));
        let address = if named { address.clone() } else { address.clone().with(Protocol::P2p(*peer)) };
        Some((*peer, address.with(Protocol::P2pCircuit)))
    }

    /// A place was asked for.
    pub(super) fn on_asked(&mut self, relay: PeerId, listener: ListenerId) {
        self.places.push(Place { relay, listener, had: false });
    }

    /// A relay gave a place.
    pub(super) fn on_place(&mut self, relay: &PeerId) {
        self.places.iter_mut().filter(|place| place.relay == *relay).for_each(|place| place.had = true);
    }

    /// A listener ended, perhaps one at a relay.
    pub(super) fn on_listener_gone(&mut self, listener: ListenerId) {
        self.places.retain(|place| place.listener != listener);
    }

    /// Places that are not needed any more.
    pub(super) fn idle(&mut self) -> Vec<ListenerId> {
        if self.wants_relays() {
            return Vec::new();
        }
        self.places.drain(..).map(|place| place.listener).collect()
    }

    pub(super) fn on_guest(&mut self, peer: PeerId, stays: bool) {
        if stays {
            self.guests.insert(peer)
        } else {
            self.guests.remove(&peer)
        };
    }

    pub(super) fn on_circuit(&mut self, opened: bool) {
        self.circuits = if opened { self.circuits + 1 } else { self.circuits.saturating_sub(1) };
    }

    pub(super) fn status(&self) -> ReachStatus {
        let only_relayed = |lines: &&Vec<Line>| lines.iter().all(|line| line.relayed);
        ReachStatus {
            only_dials: self.reach == Reach::Nowhere,
            direct: self.direct(),
            relays: self.places.iter().filter(|place| place.had).filter_map(|place| name(&place.relay)).collect(),
            is_relay: self.is_relay(),
            guests: self.guests.len() as u64,
            circuits: self.circuits,
            peers_through_relays: self.lines.values().filter(only_relayed).count() as u64,
        }
    }
}

fn name(peer: &PeerId) -> Option<String> {
    Some(names::node_of(peer)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        libp2p::identity::Keypair::generate_ed25519().public().to_peer_id()
    }

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_that_only_dials_takes_places_at_two_relays_and_others_when_it_loses_one() {
        let (now, mut ways) = (Instant::now(), Ways::new(Reach::Nowhere, true));
        assert!(!ways.is_relay(), "nobody can dial it");
        assert_eq!(ways.due(now), None, "nobody is a relay");
        let relays = [peer(), peer(), peer()];
        ways.on_identified(now, peer(), false, &[at("/ip4/203.0.113.9/tcp/1")]);
        for relay in &relays {
            let far = at("/ip4/203.0.113.7/tcp/1");
            ways.on_identified(now, *relay, true, &[at("/ip4/10.0.0.1/tcp/1"), far]);
        }
        let mut had = Vec::new();
        while let Some((relay, address)) = ways.due(now) {
            assert_eq!(address, at(&format!("/ip4/203.0.113.7/tcp/1/p2p/{relay}/p2p-circuit")));
            ways.on_asked(relay, ListenerId::next());
            ways.on_place(&relay);
            had.push(relay);
        }
        assert_eq!(had.len(), RELAYS_WANTED);
        assert_eq!(ways.status().relays.len(), 2);
        let lost = ways.places[0].listener;
        ways.on_listener_gone(lost);
        let (third, _) = ways.due(now).expect("another relay");
        assert!(!had.contains(&third), "the one that was lost is left alone for a while");
        ways.on_asked(third, ListenerId::next());
        ways.on_listener_gone(ways.places[1].listener);
        assert_eq!(ways.due(now), None);
        assert_eq!(ways.due(now + AGAIN).map(|(relay, _)| relay), Some(had[0]), "and asked again later");
    }

    #[test]
    fn who_listens_takes_places_once_others_tried_in_vain_and_gives_them_back() {
        let (now, mut ways) = (Instant::now(), Ways::new(Reach::Listening, true));
        let relay = peer();
        ways.on_identified(now, relay, true, &[at("/ip4/203.0.113.7/tcp/1")]);
        assert!(ways.is_relay() && ways.due(now).is_none(), "nobody tried");
        // That neighbours reach it does not help those who are to come from anywhere.
        ways.on_tried(&at("/ip4/192.168.0.2/tcp/1"), true);
        ways.on_tried(&at("/ip4/203.0.113.1/tcp/1"), false);
        assert!(!ways.is_relay());
        let (asked, _) = ways.due(now).unwrap();
        ways.on_asked(asked, ListenerId::next());
        assert!(ways.status().relays.is_empty(), "it has no place yet");
        assert!(ways.idle().is_empty());
        ways.on_tried(&at("/ip4/203.0.113.1/tcp/1"), true);
        assert_eq!(ways.idle().len(), 1);
        assert!(ways.is_relay() && ways.idle().is_empty());
        let mut announced = Ways::new(Reach::Announced, false);
        announced.on_tried(&at("/ip4/203.0.113.1/tcp/1"), false);
        announced.on_identified(now, relay, true, &[at("/ip4/203.0.113.7/tcp/1")]);
        assert!(announced.due(now).is_none() && !announced.is_relay());
    }

    #[test]
    fn a_direct_way_replaces_one_through_a_relay_and_a_second_one_is_closed_by_its_maker() {
        let (now, mut ways, me) = (Instant::now(), Ways::new(Reach::Listening, true), peer());
        let (other, id) = (peer(), ConnectionId::new_unchecked);
        assert_eq!(ways.on_established(now, other, id(1), (true, false)), News::None);
        assert_eq!(ways.status().peers_through_relays, 1);
        assert!(ways.spare(now + SPARE[1], &me).is_empty(), "it is the only one");
        assert_eq!(ways.on_established(now, other, id(2), (false, true)), News::Direct);
        assert!(ways.spare(now, &me).is_empty());
        assert_eq!(ways.spare(now + BOTH, &me), [id(1)]);
        ways.on_closed(&other, id(1));
        assert_eq!(ways.on_established(now, other, id(3), (false, false)), News::None);
        assert!(ways.spare(now + SPARE[1], &me).is_empty(), "the other end made it");
        assert_eq!(ways.on_established(now, other, id(4), (false, true)), News::None);
        assert_eq!(ways.spare(now + SPARE[1], &me), [id(4)]);
        for gone in [2, 3, 4] {
            ways.on_closed(&other, id(gone));
        }
        assert!(ways.lines.is_empty() && ways.status() == ReachStatus { is_relay: true, ..ReachStatus::default() });
    }
}
