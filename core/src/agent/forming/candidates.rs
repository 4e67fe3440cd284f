//! Whom a node asks what it can do (PROTOCOL §4): its neighbours, and where these cannot make a pipeline together, registered
//! nodes that hold what they lack. The ledger is the directory of who holds what; the host finds the way to a node by its name.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use neuroshard_proto::{LayerRange, NodeId, Stream};

use super::skill_of;
use crate::count::{place, wide};
use crate::cx::Cx;
use crate::ledger::Ledger;

/// Nodes that are asked at a time: each question is a thing that one step causes.
const ASKED_MAX: usize = 16;
/// Of them, those that are no neighbours.
const FAR_MAX: usize = 8;
/// How often a registered node is drawn in search of those.
const DRAWS: u32 = 128;

/// The stages that those who are asked hold together.
struct Cover(Vec<bool>);

impl Cover {
    fn add(&mut self, held: LayerRange) {
        for stage in self.0.get_mut(place(held.start)..place(held.end)).unwrap_or_default() {
            *stage = true;
        }
    }

    fn lacks(&self, held: LayerRange) -> bool {
        self.0.get(place(held.start)..place(held.end)).unwrap_or_default().contains(&false)
    }

    fn is_whole(&self) -> bool {
        !self.0.contains(&false)
    }
}

/// Whom to ask now; none of those that are silent.
pub(super) fn candidates(cx: &Cx<'_>, ledger: &Ledger, draws: &mut Stream, silent: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let held = |node: &NodeId| skill_of(ledger, *node, 1, 0).map(|skill| skill.held);
    let able = |node: &&NodeId| !silent.contains(*node) && held(node).is_some();
    let mut asked: Vec<NodeId> = cx.liveness.peers().filter(able).copied().collect();
    // Of many neighbours others each time.
    let first = usize::try_from(draws.below(wide(asked.len()).max(1))).unwrap_or_default();
    asked.rotate_left(first);
    asked.truncate(ASKED_MAX);
    let own = ledger.node(&cx.config.node).and_then(|known| known.description).map(|description| description.held);
    let cover = |asked: &[NodeId]| {
        let mut cover = Cover(vec![false; place(cx.config.genesis.model.all_layers().end)]);
        own.into_iter().chain(asked.iter().filter_map(held)).for_each(|held| cover.add(held));
        cover
    };
    let members = usize::try_from(cx.config.genesis.params.at(ledger.size()).quorum_size).unwrap_or(usize::MAX);
    if cover(&asked).is_whole() && asked.len().saturating_add(1) >= members {
        return asked;
    }
    asked.truncate(ASKED_MAX.saturating_sub(FAR_MAX));
    let mut cover = cover(&asked);
    let neighbours: BTreeSet<&NodeId> = cx.liveness.peers().collect();
    for _ in 0..DRAWS {
        let Some((node, _)) = ledger.node_at(draws.below(ledger.nodes_count().max(1))) else { break };
        let known = *node == cx.config.node || neighbours.contains(node) || asked.contains(node);
        let gone = cx.liveness.has_gone(node) || silent.contains(node) || ledger.quorum_of(node).is_some();
        let Some(held) = held(node).filter(|_| !known && !gone) else { continue };
        if cover.lacks(held) || (cover.is_whole() && asked.len().saturating_add(1) < members) {
            cover.add(held);
            asked.push(*node);
        }
        let enough = cover.is_whole() && asked.len().saturating_add(1) >= members;
        if enough || asked.len() >= ASKED_MAX {
            break;
        }
    }
    asked
}
