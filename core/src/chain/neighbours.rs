//! Whom this node hears, and whom it heard and does no more. The ledger knows neither; both are hints, never authority.

use alloc::collections::BTreeSet;

use neuroshard_proto::NodeId;
use serde::Serialize;

/// Neighbours remembered: enough that nodes which want something do not all want it from the same few.
const LIVE_MAX: usize = 16;
/// Nodes remembered that are gone.
const GONE_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Neighbours {
    live: BTreeSet<NodeId>,
    gone: BTreeSet<NodeId>,
}

impl Neighbours {
    /// A node is heard, or no more.
    pub(super) fn on_peer(&mut self, node: NodeId, up: bool) {
        let (from, to, max) = match up {
            true => (&mut self.gone, &mut self.live, LIVE_MAX),
            false => (&mut self.live, &mut self.gone, GONE_MAX),
        };
        from.remove(&node);
        if to.len() < max {
            to.insert(node);
        }
    }

    /// Whether a node was heard and is not any more.
    pub(super) fn has_gone(&self, node: &NodeId) -> bool {
        self.gone.contains(node)
    }

    /// One of the neighbours and this node, whoever a number draws.
    pub(super) fn one_or(&self, node: NodeId, lot: u64) -> NodeId {
        let others = self.live.iter().filter(|live| **live != node).copied();
        let count = u64::try_from(self.live.len()).unwrap_or(0).saturating_add(u64::from(!self.live.contains(&node)));
        let place = lot.checked_rem(count).and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
        core::iter::once(node).chain(others).nth(place).unwrap_or(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u8) -> NodeId {
        NodeId::from_bytes([name; 32])
    }

    #[test]
    fn who_comes_back_is_not_gone_and_each_may_be_drawn() {
        let mut neighbours = Neighbours::default();
        for name in 1..=3 {
            neighbours.on_peer(node(name), true);
        }
        assert!(!neighbours.has_gone(&node(1)));
        neighbours.on_peer(node(1), false);
        assert!(neighbours.has_gone(&node(1)));
        let drawn = |from| (0..6).map(move |lot| (from, lot));
        let drawn: BTreeSet<_> = drawn(9).map(|(from, lot)| neighbours.one_or(node(from), lot)).collect();
        assert_eq!(drawn, [2, 3, 9].map(node).into());
        let drawn: BTreeSet<_> = (0..6).map(|lot| neighbours.one_or(node(2), lot)).collect();
        assert_eq!(drawn, [2, 3].map(node).into());
        neighbours.on_peer(node(1), true);
        assert!(!neighbours.has_gone(&node(1)));
        assert_eq!(Neighbours::default().one_or(node(5), 7), node(5));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut neighbours = Neighbours::default();
        for name in 0..=255 {
            neighbours.on_peer(node(name), true);
        }
        assert_eq!(neighbours.live.len(), LIVE_MAX);
        for name in 0..=255 {
            neighbours.on_peer(node(name), false);
            neighbours.on_peer(NodeId::from_bytes([name ^ 1, 2].repeat(16).try_into().unwrap()), false);
        }
        assert_eq!((neighbours.live.len(), neighbours.gone.len()), (0, GONE_MAX));
    }
}
