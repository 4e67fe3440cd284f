//! Which stages a node holds (PROTOCOL §2): all if it has room for them, else the range whose stages are held by the fewest.

use alloc::vec;
use alloc::vec::Vec;

use neuroshard_proto::{Domain, Hash, LayerRange, NodeId};

use crate::agent::liveness::Liveness;
use crate::config::Config;
use crate::count::place;
use crate::ledger::{Ledger, Standing};

/// What one holder more is worth to a stage that nobody holds.
const SCARCE: u64 = 1_000_000;

/// The stages that this node has room for and the network needs most; `None` if there is no room for any. A node that holds
/// some keeps them, unless a stage is missing and fewer would be if it held others; then half of those who could move do, by
/// the beacon.
pub(super) fn held(
    config: &Config,
    ledger: &Ledger,
    liveness: &Liveness,
    today: Option<LayerRange>,
) -> Option<LayerRange> {
    let (model, node) = (&config.genesis.model, config.node);
    let allowed = config.genesis.params.holding_share.of(config.operator.memory_bytes);
    let fits = |range: LayerRange| model.training_bytes(range) <= allowed;
    let all = model.all_layers();
    if fits(all) {
        return Some(all);
    }
    let holders = holders(ledger, all, |other| *other != node && !liveness.has_gone(other));
    let best = neediest(all, &holders, fits, |start| lot(ledger, &node, start))?;
    let today = today.filter(|range| range.start < range.end && range.end <= all.end && fits(*range));
    let stays = |today: &LayerRange| {
        let moves = lot(ledger, &node, 0).short() & 1 == 0;
        news(&holders, best) <= news(&holders, *today) || !moves
    };
    today.filter(stays).or(Some(best))
}

/// The widest range from each stage that fits: the one that the network needs most. Stages that nobody holds come first,
/// because without them nobody trains: one of them is worth more than any number of others.
fn neediest(
    all: LayerRange,
    holders: &[u64],
    fits: impl Fn(LayerRange) -> bool,
    lot: impl Fn(u32) -> Hash,
) -> Option<LayerRange> {
    let widest = |start: u32| {
        let ends = (start.saturating_add(1)..=all.end).rev();
        ends.map(|end| LayerRange { start, end }).find(|range| fits(*range))
    };
    let worth = |range: &LayerRange| {
        let stages = holders.get(place(range.start)..place(range.end)).unwrap_or_default();
        let scarcity: u64 = stages.iter().map(|count| SCARCE.checked_div(count.saturating_add(1)).unwrap_or(0)).sum();
        (news(holders, *range), scarcity, range.end.saturating_sub(range.start), lot(range.start))
    };
    (all.start..all.end).filter_map(widest).max_by_key(worth)
}

/// How many of these stages nobody else holds.
fn news(holders: &[u64], range: LayerRange) -> usize {
    let stages = holders.get(place(range.start)..place(range.end)).unwrap_or_default();
    stages.iter().filter(|count| **count == 0).count()
}

/// How many nodes hold each stage, of those that count: others, and none that this node saw go.
fn holders(ledger: &Ledger, all: LayerRange, counts: impl Fn(&NodeId) -> bool) -> Vec<u64> {
    let mut holders = vec![0_u64; place(all.end)];
    let others = ledger.nodes().filter(|(node, known)| counts(node) && known.standing == Standing::Good);
    for held in others.filter_map(|(_, known)| known.description).map(|description| description.held) {
        for count in holders.get_mut(place(held.start)..place(held.end)).unwrap_or_default() {
            *count = count.saturating_add(1);
        }
    }
    holders
}

/// What the beacon draws for a node, so that nodes do not all choose the same.
fn lot(ledger: &Ledger, node: &NodeId, salt: u32) -> Hash {
    let mut bytes = Vec::from(*node.as_bytes());
    bytes.extend(ledger.beacon().as_bytes());
    bytes.extend(salt.to_le_bytes());
    Domain::Stream.hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_nobody_holds_is_taken_before_any_that_others_hold() {
        let all = LayerRange { start: 0, end: 5 };
        // The first stage, with the embedding, is as large as two others.
        let size =
            |range: LayerRange| (range.start..range.end).map(|stage| if stage == 0 { 2 } else { 1 }).sum::<u32>();
        let choose = |holders: [u64; 5]| {
            let lot = |start: u32| Domain::Stream.hash(&start.to_le_bytes());
            neediest(all, &holders, |range| size(range) <= 2, lot).map(|range| (range.start, range.end))
        };
        assert_eq!(choose([0, 1, 1, 1, 1]), Some((0, 1)));
        assert_eq!(choose([0, 1, 1, 2, 2]), Some((0, 1)));
        assert_eq!(choose([1, 1, 1, 0, 0]), Some((3, 5)));
        assert_eq!(choose([0, 1, 1, 0, 0]), Some((3, 5)));
        assert_eq!(choose([1, 2, 1, 1, 2]), Some((2, 4)));
        assert_eq!(neediest(all, &[0; 5], |_| false, |_| Hash::default()), None);
    }
}
