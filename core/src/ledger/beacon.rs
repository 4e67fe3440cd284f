//! The randomness that all agree on (PROTOCOL §11).
//!
//! In epoch `e` validators commit to random values. The first block of epoch `e + 1` carries the finalization of the last
//! block of `e`, which enters the beacon; during `e + 1` the values are revealed and enter it too. What came in by the end
//! of `e + 1` makes the value of epoch `e + 3`, two epochs on: nobody who acts in an epoch can choose by its value, and
//! draws can be prepared before they count.
//!
//! # How far it can be bent
//!
//! *Certificates.* A leader chooses which signatures a certificate holds, and signers can sign anew, so a certificate alone
//! can be ground at will. It enters after all values are bound by their commitments and before any is revealed. So whoever
//! grinds it does not know the honest values yet, and with one honest revealing validator each choice is as good as another.
//!
//! *Withholding.* Who reveals last sees what the value will be and may keep silent. A coalition of `k` committed validators
//! chooses among at most `2^k` values, each of which it can only take or leave. Who withholds is barred from committing for
//! 60 epochs, so a coalition of `K` spends its `2^K` choices of an hour at once or one bit at a time, never again and again.
//! It loses no money: being cut off from the network for a minute looks the same, and an honest node is never slashed.
//! A leader can keep honest values out of its own blocks, but a value is good in every block of the epoch, so that takes all
//! of an epoch's leaders.
//!
//! *What it buys.* Against draws with chance `p` of catching each of `m` cheats, `k` bits raise the chance to escape from
//! `(1-p)^m` to at most `2^k (1-p)^m`: at 5 %, 100 cheats and 4 bits from 0.6 % to 9.5 %. Committees are drawn from stakes
//! frozen before their value existed, with all whole shares given without a draw, so bits buy single seats at most.
//!
//! Without any commitment a value follows from the one before and the certificate alone.

use alloc::collections::BTreeMap;

use neuroshard_proto::chain::{Block, Certificate, random_commitment};
use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Domain, Hash, NodeId, codec, mutant};
use serde::{Deserialize, Serialize};

use super::part::Module;
use super::{Refusal, State};

/// Most validators that are barred at one time: two committees' worth.
const BARRED_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beacon {
    /// The value of this epoch, and that of the next.
    current: Hash,
    next: Hash,
    /// What this epoch's first block said of the last block of the epoch before.
    finality: Hash,
    /// Bound in this epoch, to be revealed in the next.
    commitments: BTreeMap<NodeId, Hash>,
    /// Bound in the epoch before and not revealed yet.
    open: BTreeMap<NodeId, Hash>,
    revealed: BTreeMap<NodeId, Hash>,
    /// Who withheld a value, and the epoch from which it may commit again.
    barred: BTreeMap<NodeId, u64>,
}

impl Canonical for Beacon {}

impl Module for Beacon {
    const NAME: &'static str = "beacon";
}

impl Beacon {
    /// Before there is anything to mix, the genesis' seed stands for it.
    pub(super) fn genesis(seed: &Hash) -> Self {
        let first = |epoch: u64| Domain::Beacon.hash(&codec::encode(&(seed, epoch)));
        Self {
            current: first(0),
            next: first(1),
            finality: Hash::default(),
            commitments: BTreeMap::new(),
            open: BTreeMap::new(),
            revealed: BTreeMap::new(),
            barred: BTreeMap::new(),
        }
    }

    /// The value of this epoch.
    pub(super) const fn current(&self) -> &Hash {
        &self.current
    }

    /// Takes up the certificate of the last block of the epoch before.
    pub(super) fn mix(&mut self, certificate: &Certificate) {
        self.finality = Block::finality_hash(Some(certificate));
    }
}

/// Binds a validator to a value.
pub(super) fn commit(state: &mut State, node: NodeId, commitment: Hash) -> Result<(), Refusal> {
    if state.validators.seats().weight(&node) == 0 {
        return Err(Refusal::Seat { node });
    }
    if let Some(until) = state.beacon.barred.get(&node).filter(|until| **until > state.clock.epoch) {
        return Err(Refusal::Barred { until: *until });
    }
    if state.beacon.commitments.contains_key(&node) {
        return Err(Refusal::Committed);
    }
    state.beacon.edit().commitments.insert(node, commitment);
    Ok(())
}

/// Takes up a value that a validator bound itself to in the epoch before.
pub(super) fn reveal(state: &mut State, node: NodeId, value: Hash) -> Result<(), Refusal> {
    let commitment = state.beacon.open.get(&node).ok_or(Refusal::Reveal)?;
    let bound = state.clock.epoch.checked_sub(1).map(|epoch| random_commitment(node, epoch, &value));
    if bound.as_ref() != Some(commitment) && !mutant("reveals not checked") {
        return Err(Refusal::Reveal);
    }
    let beacon = state.beacon.edit();
    beacon.open.remove(&node);
    beacon.revealed.insert(node, value);
    Ok(())
}

/// Makes the value of the epoch after the next.
pub(super) fn end_epoch(state: &mut State) {
    let next = state.clock.epoch.saturating_add(1);
    let until = next.saturating_add(state.rules.params.validators.beacon_bar_epochs);
    let beacon = state.beacon.edit();
    let formed = Domain::Beacon.hash(&codec::encode(&(&beacon.next, &beacon.finality, &beacon.revealed)));
    beacon.current = core::mem::replace(&mut beacon.next, formed);
    if mutant("beacon one epoch early") {
        beacon.current = formed;
    }
    beacon.barred.retain(|_, until| *until > next);
    for (node, _) in core::mem::take(&mut beacon.open) {
        if beacon.barred.len() < BARRED_MAX {
            beacon.barred.insert(node, until);
        }
    }
    beacon.open = core::mem::take(&mut beacon.commitments);
    beacon.revealed.clear();
    beacon.finality = Hash::default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_state_fits_in_a_first_chunk_with_the_validators() {
        let node = |n: usize| NodeId::from_bytes(*Domain::Draw.hash(&n.to_le_bytes()).as_bytes());
        let values = || (0..512).map(|n| (node(n), Hash::default())).collect();
        let largest = Beacon {
            commitments: values(),
            open: values(),
            revealed: values(),
            barred: (0..BARRED_MAX).map(|n| (node(n), u64::MAX)).collect(),
            ..Beacon::genesis(&Hash::default())
        };
        let bytes = codec::encode(&largest).len();
        assert!(bytes > 128 << 10 && bytes < 142 << 10, "{bytes}");
    }
}
