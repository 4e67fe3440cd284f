//! Who else is there (PROTOCOL §3).
//!
//! A peer is live from its first heartbeat until 120 s have passed without one; exactly 120 s is not offline. A heartbeat
//! counts if its sender's clock is within that bound of ours and later than the sender's last one, so old ones
//! cannot be played back.

use alloc::collections::BTreeMap;

use neuroshard_proto::{Heartbeat, NodeId, Time, mutant};
use serde::{Deserialize, Serialize};

use crate::cx::{Cx, Local};
use crate::io::{Event, PeerFault, TimerKind};

/// Most peers a node follows; more are refused, the ones it knows stay.
pub(crate) const PEERS_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Liveness {
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peer {
    /// When we heard of it, by our clock.
    heard: Time,
    /// The time in its last heartbeat, by its clock.
    theirs: Time,
}

impl Liveness {
    pub(crate) fn on_heartbeat(&mut self, cx: &mut Cx<'_>, heartbeat: &Heartbeat) {
        let (node, theirs) = (heartbeat.node, heartbeat.time);
        if node == cx.config.node {
            return cx.event(Event::Rejected { reject: PeerFault::OwnName });
        }
        let apart = theirs.ms_since(cx.now).max(cx.now.ms_since(theirs));
        if apart > cx.config.genesis.params.offline_ms {
            return cx.event(Event::Rejected { reject: PeerFault::Clock { node, theirs } });
        }
        let known = self.peers.get(&node);
        if known.is_some_and(|peer| theirs <= peer.theirs) {
            return;
        }
        if known.is_none() {
            if self.peers.len() >= PEERS_MAX {
                return cx.event(Event::Rejected { reject: PeerFault::TooManyPeers { node } });
            }
            cx.event(Event::PeerUp { node });
        }
        let news = known.is_none();
        self.peers.insert(node, Peer { heard: cx.now, theirs });
        if news {
            cx.tell(Local::Peer { node, up: true });
            cx.tell(Local::Peers { live: self.live() });
        }
        self.arm(cx);
    }

    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>) {
        let limit = offline_after_ms(cx);
        // One peer a step: a mass departure is handled in as many steps, each within the bound on outputs.
        let gone = self.peers.iter().find(|(_, peer)| cx.now.ms_since(peer.heard) >= limit).map(|(node, _)| *node);
        if let Some(node) = gone {
            self.peers.remove(&node);
            cx.event(Event::PeerDown { node });
            cx.tell(Local::Peer { node, up: false });
            cx.tell(Local::Peers { live: self.live() });
        }
        self.arm(cx);
    }

    fn arm(&self, cx: &mut Cx<'_>) {
        let first = self.peers.values().map(|peer| peer.heard).min();
        let limit = offline_after_ms(cx);
        cx.timers.set(TimerKind::Liveness, first.map(|heard| heard.after_ms(limit)));
    }

    fn live(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX)
    }
}

/// The age at which a peer is offline: exactly 120 s is not.
fn offline_after_ms(cx: &Cx<'_>) -> u64 {
    let margin = u64::from(!mutant("offline at exactly 120 s"));
    cx.config.genesis.params.offline_ms.saturating_add(margin)
}
