//! Who is there: attestations, the network's agreed size, uptime and reputation (PROTOCOL §0.2, §3).
//!
//! In each epoch the beacon draws a few peers of other owners for every node. When two of them, of different owners, attest
//! that the node lives, it was active in that epoch. Both sides must be bonded, or free keys would attest each other. Four
//! are drawn and two suffice, so that a dead peer does not cost an honest node its uptime; where fewer than two other
//! owners exist, each of them must attest. Claims, audits and settled inference will make a node active as well.
//!
//! The agreed size is the number of nodes that were active in one of the last 60 epochs, fixed at an epoch's end for the
//! next one. It is kept as a count by epoch of last activity, so no epoch's end looks at every node.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Domain, NodeId, Ratio, Stream, codec, mutant};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::nodes::{Standing, bonds_behind};
use super::part::Module;
use super::{Refusal, State};

/// Epochs and receipts that reputation looks back at.
pub(super) const WINDOW: u64 = 100;
/// Attestations that make a node active.
const ATTESTATIONS: usize = 2;
/// How often the beacon draws before it takes what it has. The first draws skip nodes that were not active lately.
const TRIES: u32 = 64;
const TRIES_AMONG_ACTIVE: u32 = 48;

/// In which of the last epochs a node was active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Activity {
    /// The newest epoch of activity: that of bit 0. Older ones follow.
    newest: u64,
    bits: u128,
}

impl Activity {
    /// Never active.
    pub const NONE: Self = Self { newest: 0, bits: 0 };

    /// The last epoch of activity.
    pub const fn last(&self) -> Option<u64> {
        if self.bits == 0 { None } else { Some(self.newest) }
    }

    pub(super) fn mark(&mut self, epoch: u64) {
        let shift = u32::try_from(epoch.saturating_sub(self.newest)).unwrap_or(u32::MAX);
        self.bits = self.bits.checked_shl(shift).unwrap_or(0) | 1;
        self.newest = epoch;
    }

    /// The bits of the epochs from this one on.
    fn since(&self, from: u64) -> u128 {
        let kept = self.newest.saturating_add(1).saturating_sub(from);
        let drop_old = u128::BITS.saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX));
        self.bits.checked_shl(drop_old).unwrap_or(0).checked_shr(drop_old).unwrap_or(0)
    }

    /// Epochs of activity in `from..until`, of which there are at most 100.
    fn count(&self, from: u64, until: u64) -> u64 {
        let newer = u32::try_from(self.newest.saturating_add(1).saturating_sub(until)).unwrap_or(u32::MAX);
        u64::from(self.since(from).checked_shr(newer).unwrap_or(0).count_ones())
    }

    /// How many of the last 100 whole epochs a node missed (PROTOCOL §2). It was not expected before it was first active in
    /// them, so one without history missed none.
    pub(super) fn missed(&self, now: u64) -> u64 {
        let Some(age) = self.since(now.saturating_sub(WINDOW)).checked_ilog2() else { return 0 };
        let first = self.newest.saturating_sub(u64::from(age));
        now.saturating_sub(first).saturating_sub(self.count(first, now))
    }

    /// Share of the last 100 whole epochs since a node's registration with activity; `None` before the first.
    pub fn uptime(&self, since: u64, now: u64) -> Option<Ratio> {
        let from = since.max(now.saturating_sub(WINDOW));
        let epochs = now.checked_sub(from).filter(|epochs| *epochs > 0)?;
        share(self.count(from, now), epochs)
    }
}

/// How the last receipts of a node's work went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Successes {
    /// The newest receipt is bit 0.
    bits: u128,
    receipts: u8,
}

impl Successes {
    /// No receipts yet.
    pub const NONE: Self = Self { bits: 0, receipts: 0 };

    /// Adds a receipt and forgets those before the last 100.
    #[must_use]
    pub fn with(self, success: bool) -> Self {
        let window = u128::MAX >> u128::BITS.saturating_sub(u32::try_from(WINDOW).unwrap_or(u128::BITS));
        let receipts = self.receipts.saturating_add(1).min(u8::try_from(WINDOW).unwrap_or(u8::MAX));
        Self { bits: ((self.bits << 1_u32) | u128::from(success)) & window, receipts }
    }

    /// Share of successes; `None` before the first receipt.
    pub fn share(self) -> Option<Ratio> {
        share(u64::from(self.bits.count_ones()), u64::from(self.receipts))
    }
}

fn share(part: u64, whole: u64) -> Option<Ratio> {
    let ppm = part.saturating_mul(1_000_000).checked_div(whole)?;
    u32::try_from(ppm).ok().map(Ratio::from_ppm)
}

/// `max(0.1, 0.6 uptime + 0.4 success)`; what is not known yet counts as a half (PROTOCOL §3).
pub fn reputation(uptime: Option<Ratio>, success: Option<Ratio>) -> Ratio {
    const HALF: Ratio = Ratio::from_ppm(500_000);
    let (uptime, success) = (uptime.unwrap_or(HALF).ppm(), success.unwrap_or(HALF).ppm());
    let sum = u64::from(uptime).saturating_mul(6).saturating_add(u64::from(success).saturating_mul(4));
    let ppm = u32::try_from(sum.checked_div(10).unwrap_or_default()).unwrap_or(u32::MAX);
    Ratio::from_ppm(ppm.max(100_000))
}

/// How many nodes were active when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// The network's agreed size in this epoch.
    pub(super) size: u64,
    /// How many nodes were last active in each epoch that still counts.
    last_active: BTreeMap<u64, u64>,
}

impl Canonical for Counts {}

impl Module for Counts {
    const NAME: &'static str = "activity";
}

impl Counts {
    /// Nobody was active yet, and a network has at least one node.
    pub(super) const fn genesis() -> Self {
        Self { size: 1, last_active: BTreeMap::new() }
    }

    /// A node was last active in an epoch that counts no longer for it.
    pub(super) fn forget(&mut self, epoch: u64) {
        if let Some(count) = self.last_active.get_mut(&epoch) {
            *count = count.saturating_sub(1);
        }
    }

    /// A node is active in an epoch, as it was not before.
    fn count(&mut self, epoch: u64) {
        let count = self.last_active.entry(epoch).or_default();
        *count = count.saturating_add(1);
    }
}

/// The peers that may attest in this epoch that a node lives, in the order drawn.
pub(super) fn attesters(state: &State, subject: &NodeId) -> Vec<NodeId> {
    let Ok(known) = state.nodes.good(subject) else { return Vec::new() };
    let most = usize::try_from(state.rules.params.nodes.attesters).unwrap_or(usize::MAX);
    let seed = Domain::Draw.hash(&codec::encode(&("attesters", state.beacon.current(), subject)));
    let (mut stream, mut owners, mut drawn) =
        (Stream::new(&seed, "attesters", 0), Vec::from([known.owner]), Vec::new());
    for attempt in 0..TRIES {
        let Some((node, peer)) = state.nodes.tree.nth(stream.below(state.nodes.tree.len().max(1))) else { break };
        let lately = attempt >= TRIES_AMONG_ACTIVE || is_active(state, &peer.activity);
        let other = peer.standing == Standing::Good && !owners.contains(&peer.owner);
        if lately && other && bonds_behind(state, node, &peer.owner) > 0 {
            owners.push(peer.owner);
            drawn.push(*node);
        }
        if drawn.len() >= most {
            break;
        }
    }
    drawn
}

fn is_active(state: &State, activity: &Activity) -> bool {
    let epochs = state.rules.params.nodes.activity_epochs;
    activity.last().is_some_and(|last| last.saturating_add(epochs) >= state.clock.epoch)
}

/// A drawn peer has seen a node live.
pub(super) fn attest(state: &mut State, attester: NodeId, subject: NodeId) -> Result<(), Refusal> {
    let epoch = state.clock.epoch;
    let known = state.nodes.good(&subject)?;
    if bonds_behind(state, &subject, &known.owner) == 0 {
        return Err(Refusal::Unbonded { node: subject });
    }
    let witness = known.witness.filter(|(seen, _)| *seen == epoch).map(|(_, witness)| witness);
    if known.activity.last() == Some(epoch) || witness == Some(attester) {
        return Err(Refusal::Attested);
    }
    let drawn = attesters(state, &subject);
    if !drawn.contains(&attester) && !mutant("attester not drawn") {
        return Err(Refusal::NotDrawn { attester, subject });
    }
    let mut known = known.clone();
    known.witness = Some((epoch, attester));
    if witness.is_some() || mutant("one attestation suffices") || drawn.len() < ATTESTATIONS {
        let counts = state.counts.edit();
        if let Some(before) = known.activity.last() {
            counts.forget(before);
        }
        counts.count(epoch);
        known.activity.mark(epoch);
    }
    state.nodes.edit().tree.insert(subject, known);
    Ok(())
}

/// Fixes the agreed size for the next epoch.
pub(super) fn end_epoch(state: &mut State) {
    let epochs = state.rules.params.nodes.activity_epochs;
    let next = state.clock.epoch.saturating_add(1);
    let counts = state.counts.edit();
    // The last 60 epochs of the next one end with this one.
    counts.last_active = counts.last_active.split_off(&next.saturating_sub(epochs));
    counts.last_active.retain(|_, count| *count > 0);
    counts.size = counts.last_active.values().fold(0, |sum: u64, count| sum.saturating_add(*count)).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_the_share_of_whole_epochs_since_registration() {
        let mut activity = Activity::NONE;
        assert_eq!(activity.uptime(5, 5), None, "a new node has no history");
        [5, 6, 8].into_iter().for_each(|epoch| activity.mark(epoch));
        assert_eq!(activity.uptime(5, 9), Some(Ratio::from_ppm(750_000)));
        assert_eq!(activity.uptime(5, 8), Some(Ratio::from_ppm(666_666)), "the running epoch does not count");
        assert_eq!(activity.uptime(5, 13), Some(Ratio::from_ppm(375_000)));
        assert_eq!(activity.uptime(5, 106), Some(Ratio::from_ppm(20_000)), "epochs 6 to 105");
        assert_eq!(activity.uptime(5, 500), Some(Ratio::from_ppm(0)));
        (9..1000).for_each(|epoch| activity.mark(epoch));
        assert_eq!(activity.uptime(5, 1000), Some(Ratio::ONE));
    }

    #[test]
    fn epochs_are_missed_from_the_first_activity_on() {
        let mut activity = Activity::NONE;
        assert_eq!(activity.missed(500), 0, "a node without history");
        activity.mark(500);
        assert_eq!((activity.missed(500), activity.missed(501)), (0, 0), "the running epoch is not over");
        [501, 504].into_iter().for_each(|epoch| activity.mark(epoch));
        assert_eq!(activity.missed(505), 2);
        assert_eq!(activity.missed(506), 3);
        assert_eq!(activity.missed(600), 97);
        assert_eq!(activity.missed(601), 98, "the first one counts no longer");
        assert_eq!(activity.missed(604), 99);
        assert_eq!(activity.missed(605), 0, "all is forgotten");
        (700..1000).for_each(|epoch| activity.mark(epoch));
        assert_eq!((activity.missed(1000), activity.missed(1010)), (0, 10));
    }

    #[test]
    fn reputation_starts_at_a_half_and_never_falls_below_a_tenth() {
        assert_eq!(reputation(None, None).ppm(), 500_000);
        assert_eq!(reputation(Some(Ratio::ONE), None).ppm(), 800_000);
        assert_eq!(reputation(Some(Ratio::ONE), Some(Ratio::ONE)), Ratio::ONE);
        assert_eq!(reputation(Some(Ratio::from_ppm(0)), Some(Ratio::from_ppm(0))).ppm(), 100_000);
    }

    #[test]
    fn only_the_last_hundred_receipts_count() {
        let failed = (0..100).fold(Successes::NONE, |successes, _| successes.with(false));
        assert_eq!(failed.share(), Some(Ratio::from_ppm(0)));
        let half = (0..50).fold(failed, |successes, _| successes.with(true));
        assert_eq!(half.share(), Some(Ratio::from_ppm(500_000)));
        assert_eq!((0..50).fold(half, |successes, _| successes.with(true)).share(), Some(Ratio::ONE));
        assert_eq!(Successes::NONE.with(true).with(false).share(), Some(Ratio::from_ppm(500_000)));
    }
}
