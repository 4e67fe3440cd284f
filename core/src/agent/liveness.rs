//! Who else is there (PROTOCOL §3).
//!
//! A peer is live from its first heartbeat until 120 s have passed without one; exactly 120 s is not offline. A heartbeat
//! counts if its sender's clock is within that bound of ours and later than the sender's last one, so old ones cannot be played
//! back. Who went is remembered until it is heard again: the ledger knows nothing of it.

use alloc::collections::{BTreeMap, BTreeSet};

use neuroshard_proto::{Heartbeat, NodeId, Time, mutant};
use serde::{Deserialize, Serialize};

use crate::cx::{Cx, Local};
use crate::io::{Event, PeerFault, TimerKind};

/// Most peers a node follows; more are refused, the ones it knows stay.
pub(crate) const PEERS_MAX: usize = 256;
/// Most nodes remembered that are gone.
const GONE_MAX: usize = 256;

/// Whom this node hears, and whom it heard and does no more. Both are hints, never authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Liveness {
    peers: BTreeMap<NodeId, Peer>,
    gone: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peer {
    /// When we heard of it, by our clock.
    heard: Time,
    /// The time in its last heartbeat, by its clock.
    theirs: Time,
}

impl Liveness {
    /// The live ones, in order.
    pub(crate) fn peers(&self) -> impl ExactSizeIterator<Item = &NodeId> {
        self.peers.keys()
    }

    /// Whether nobody else is there.
    pub(crate) fn is_alone(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether a node was heard and is not any more.
    pub(crate) fn has_gone(&self, node: &NodeId) -> bool {
        self.gone.contains(node)
    }

    /// One of the live ones and this node, whoever a number draws.
    pub(crate) fn one_or(&self, node: NodeId, lot: u64) -> NodeId {
        let others = self.peers().filter(|live| **live != node).copied();
        let count = u64::from(self.live()).saturating_add(u64::from(!self.peers.contains_key(&node)));
        let place = lot.checked_rem(count).and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
        core::iter::once(node).chain(others).nth(place).unwrap_or(node)
    }

    fn come(&mut self, node: NodeId, peer: Peer) {
        if self.peers.insert(node, peer).is_none() && self.gone.remove(&node) && self.gone.is_empty() {
            self.gone = BTreeSet::new();
        }
    }

    fn go(&mut self, node: NodeId) {
        if self.peers.remove(&node).is_some() && self.gone.len() < GONE_MAX {
            self.gone.insert(node);
        }
    }

    fn live(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }
}

pub(crate) fn on_heartbeat(cx: &mut Cx<'_>, heartbeat: &Heartbeat) {
    let (node, theirs) = (heartbeat.node, heartbeat.time);
    if node == cx.config.node {
        return cx.event(Event::Rejected { reject: PeerFault::OwnName });
    }
    let apart = theirs.ms_since(cx.now).max(cx.now.ms_since(theirs));
    if apart > cx.config.genesis.params.offline_ms {
        return cx.event(Event::Rejected { reject: PeerFault::Clock { node, theirs } });
    }
    let known = cx.liveness.peers.get(&node).copied();
    if known.is_some_and(|peer| theirs <= peer.theirs) {
        return;
    }
    if known.is_none() && cx.liveness.peers.len() >= PEERS_MAX {
        return cx.event(Event::Rejected { reject: PeerFault::TooManyPeers { node } });
    }
    let heard = cx.now;
    cx.liveness.come(node, Peer { heard, theirs });
    if known.is_none() {
        cx.event(Event::PeerUp { node });
        changed(cx);
    }
    arm(cx);
}

pub(crate) fn on_timer(cx: &mut Cx<'_>) {
    let limit = offline_after_ms(cx);
    // One peer a step: a mass departure is handled in as many steps, each within the bound on outputs.
    let late = |peer: &Peer| cx.now.ms_since(peer.heard) >= limit;
    let gone = cx.liveness.peers.iter().find(|(_, peer)| late(peer)).map(|(node, _)| *node);
    if let Some(node) = gone {
        cx.liveness.go(node);
        cx.event(Event::PeerDown { node });
        changed(cx);
    }
    arm(cx);
}

fn changed(cx: &mut Cx<'_>) {
    cx.tell(Local::Neighbours);
    cx.tell(Local::Peers { live: cx.liveness.live() });
}

fn arm(cx: &mut Cx<'_>) {
    let first = cx.liveness.peers.values().map(|peer| peer.heard).min();
    let limit = offline_after_ms(cx);
    cx.timers.set(TimerKind::Liveness, first.map(|heard| heard.after_ms(limit)));
}

/// The age at which a peer is offline: exactly 120 s is not.
fn offline_after_ms(cx: &Cx<'_>) -> u64 {
    let margin = u64::from(!mutant("offline at exactly 120 s"));
    cx.config.genesis.params.offline_ms.saturating_add(margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u8) -> NodeId {
        NodeId::from_bytes([name; 32])
    }

    const HEARD: Peer = Peer { heard: Time::ZERO, theirs: Time::ZERO };

    #[test]
    fn who_comes_back_is_not_gone_and_each_may_be_drawn() {
        let mut liveness = Liveness::default();
        for name in 1..=3 {
            liveness.come(node(name), HEARD);
        }
        assert!(!liveness.has_gone(&node(1)));
        liveness.go(node(1));
        assert!(liveness.has_gone(&node(1)));
        liveness.go(node(9));
        assert!(!liveness.has_gone(&node(9)), "it never was there");
        let drawn: BTreeSet<_> = (0..6).map(|lot| liveness.one_or(node(9), lot)).collect();
        assert_eq!(drawn, [2, 3, 9].map(node).into());
        let drawn: BTreeSet<_> = (0..6).map(|lot| liveness.one_or(node(2), lot)).collect();
        assert_eq!(drawn, [2, 3].map(node).into());
        liveness.come(node(1), HEARD);
        assert!(!liveness.has_gone(&node(1)));
        assert_eq!(Liveness::default().one_or(node(5), 7), node(5));
    }

    #[test]
    fn no_more_of_those_that_went_are_remembered_than_there_is_room_for() {
        let mut liveness = Liveness::default();
        for number in 0..600_u16 {
            let mut name = [0; 32];
            name[..2].copy_from_slice(&number.to_le_bytes());
            liveness.come(NodeId::from_bytes(name), HEARD);
            liveness.go(NodeId::from_bytes(name));
        }
        assert_eq!((liveness.peers.len(), liveness.gone.len()), (0, GONE_MAX));
    }
}
