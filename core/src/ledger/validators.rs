//! Who decides (PROTOCOL §11).
//!
//! *By bond.* Each account's nominated node votes with the account's bond, if that is at least the least bond; locked stake
//! does not vote. Up to 200 all vote; a decision takes more than two thirds.
//!
//! *By seat.* Above 200, a committee of 512 seats decides for six hours, 359 of them a quorum. Each validator gets the whole
//! seats that its share of the stake comes to; only the rest is drawn, by what is left of the shares. Stakes are frozen two
//! epochs before the draw, while its beacon value did not exist yet.
//!
//! *Founders.* The genesis names the first validators. Their weight is counted as if 1000 NEURO were bonded, and falls one to
//! one as stake is bonded, to nothing at 1000 NEURO. What has faded stays faded: a founder who left does not come back when
//! others unbond.
//!
//! *Silence.* A validator with a seat that for 60 epochs proposed no block, sent no message that was included and signed no
//! finalization that a block carries, loses its nomination (a founder: its power) at the next epoch's end.
//!
//! Seats change at epochs' ends only, and never to nobody: if no weight would be left, those who decide go on deciding.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Certificate, CertificateError, Seats, VALIDATORS_MAX};
use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Domain, FOUNDERS_MAX, Founder, Hash, List, NodeId, OwnerId, Params, Stream, codec, mutant};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::State;
use super::accounts::Account;
use super::part::Module;
use super::tree::{Tree, TreeRoot};

/// A node that an account's bond votes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Candidate {
    /// Units bonded.
    pub stake: u64,
}

/// A founder's vote; `power` is 0 for one who is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Power {
    node: NodeId,
    owner: OwnerId,
    power: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Validators {
    candidates_root: TreeRoot,
    frozen_root: TreeRoot,
    founders: List<Power, FOUNDERS_MAX>,
    /// Power of all founders at genesis.
    founders_total: u64,
    /// Stake of all candidates, and the most it was at an epoch's end.
    stake: u64,
    stake_peak: u64,
    seats: Seats,
    /// Who decided the last block of the epoch before, if that were others.
    before: Option<Seats>,
    /// When each who has a seat was last heard of; nobody else is in it.
    heard: BTreeMap<NodeId, u64>,
    #[serde(skip)]
    pub(super) candidates: Tree<NodeId, Candidate>,
    /// The candidates of two epochs before a committee is drawn.
    #[serde(skip)]
    pub(super) frozen: Tree<NodeId, Candidate>,
}

impl Canonical for Validators {}

impl Module for Validators {
    const NAME: &'static str = "validators";

    fn seal(&mut self) {
        self.candidates.seal();
        self.frozen.seal();
        (self.candidates_root, self.frozen_root) = (self.candidates.commitment(), self.frozen.commitment());
    }
}

impl Validators {
    /// The founders, who decide alone at first. `fade` is the weight that they have together.
    pub(super) fn genesis(founders: &[Founder], fade: u64, seed: Hash) -> Self {
        let powers = founders.iter().map(|one| Power { node: one.node, owner: one.owner, power: one.power });
        let powers = List::try_from(powers.collect::<Vec<_>>());
        assert!(powers.is_ok(), "a genesis names no more founders");
        let mut validators = Self { founders: powers.unwrap_or_default(), ..Self::default() };
        let powers = validators.founders.iter().map(|one| u64::from(one.power));
        validators.founders_total = powers.fold(0, u64::saturating_add);
        let seats = Seats::by_weight(validators.weigh(&validators.candidates, fade), seed);
        assert!(seats.is_some(), "a genesis names founders with power");
        validators.seats = seats.unwrap_or_default();
        validators.heard = validators.seats.iter().map(|(node, _)| (*node, 0)).collect();
        validators
    }

    pub(super) const fn seats(&self) -> &Seats {
        &self.seats
    }

    /// What the trees must be to fit the digest: the candidates', and the frozen ones'.
    pub(super) const fn roots(&self) -> (TreeRoot, TreeRoot) {
        (self.candidates_root, self.frozen_root)
    }

    /// Whether a node is a founder who still has power.
    pub(super) fn is_founder(&self, node: &NodeId, params: &Params) -> bool {
        let left = params.validators.founders_fade.units().saturating_sub(self.stake_peak);
        left > 0 && self.founders.iter().any(|one| one.node == *node && one.power > 0)
    }

    /// Sets a candidate's stake; one of nothing is no candidate.
    fn set(&mut self, node: NodeId, stake: u64) {
        let before = self.candidates.get(&node).map_or(0, |candidate| candidate.stake);
        if before == stake {
            return;
        }
        if stake == 0 {
            self.candidates.remove(&node);
        } else {
            self.candidates.insert(node, Candidate { stake });
        }
        self.stake = self.stake.saturating_sub(before).saturating_add(stake);
    }

    /// A node is its owner's candidate no longer.
    pub(super) fn withdraw(&mut self, node: &NodeId) {
        self.set(*node, 0);
    }

    /// A node votes for nobody any more, not even as a founder.
    pub(super) fn dismiss(&mut self, node: &NodeId) {
        self.withdraw(node);
        let mut founders = core::mem::take(&mut self.founders).into_vec();
        founders.iter_mut().filter(|one| one.node == *node).for_each(|one| one.power = 0);
        self.founders = List::try_from(founders).unwrap_or_default();
    }

    /// The weight of every validator: the founders' share of what is left of `fade`, and the stakes.
    fn weigh(&self, candidates: &Tree<NodeId, Candidate>, fade: u64) -> BTreeMap<NodeId, u64> {
        let left = if mutant("founders never fade") { fade } else { fade.saturating_sub(self.stake_peak) };
        let mut weights: BTreeMap<NodeId, u64> = candidates.iter().map(|(node, one)| (*node, one.stake)).collect();
        for founder in &self.founders {
            let product = u128::from(left).saturating_mul(u128::from(founder.power));
            let share = product.checked_div(u128::from(self.founders_total)).unwrap_or_default();
            let weight = weights.entry(founder.node).or_default();
            *weight = weight.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
        }
        weights.retain(|_, weight| *weight > 0);
        weights
    }

    /// Those with a seat from whom nothing was heard for so many epochs.
    fn silent(&self, now: u64, epochs: u64) -> Vec<NodeId> {
        let silent = |heard: &u64| now.saturating_sub(*heard) >= epochs && !mutant("silent validators stay");
        self.heard.iter().filter(|(_, heard)| silent(heard)).map(|(node, _)| *node).collect()
    }
}

/// Takes up what an account has at stake now.
pub(super) fn follow(state: &mut State, account: &Account) {
    let Some(node) = account.validator else { return };
    let enough = account.bond >= state.rules.params.money.bond_min;
    let stake = if enough { account.bond.units() } else { 0 };
    let known = state.validators.candidates.get(&node).map_or(0, |candidate| candidate.stake);
    if known != stake {
        state.validators.edit().set(node, stake);
    }
}

/// A validator was heard of in this epoch.
pub(super) fn hear(state: &mut State, node: &NodeId) {
    let epoch = state.clock.epoch;
    if state.validators.heard.get(node).is_some_and(|heard| *heard < epoch) {
        state.validators.edit().heard.insert(*node, epoch);
    }
}

/// Takes up the finalization of the last block of the epoch before, whose subject was checked.
pub(super) fn witness(state: &mut State, certificate: &Certificate) -> Result<(), CertificateError> {
    let validators = &state.validators;
    let deciders = validators.before.as_ref().filter(|_| !mutant("finality by the new seats"));
    certificate.check_weight(deciders.unwrap_or(&validators.seats))?;
    certificate.endorsements.iter().for_each(|one| hear(state, &one.validator));
    Ok(())
}

/// Removes who was silent, and gives out the seats of the next epoch.
pub(super) fn end_epoch(state: &mut State) {
    let (params, next) = (state.rules.params.validators, state.clock.epoch.saturating_add(1));
    for node in state.validators.silent(next, params.silence_epochs) {
        let owner = state.nodes.tree.get(&node).map(|known| known.owner);
        if let Some(owner) = owner {
            let mut account = state.accounts.get(&owner);
            if account.validator == Some(node) {
                account.validator = None;
                state.accounts.edit().put(owner, account);
            }
        }
        state.validators.edit().dismiss(&node);
    }
    let seed = Domain::Seats.hash(&codec::encode(&(state.beacon.current(), next)));
    let begins = next.checked_rem(params.committee_epochs) == Some(0);
    let freezes = next.saturating_add(2).checked_rem(params.committee_epochs) == Some(0);
    let validators = state.validators.edit();
    validators.stake_peak = validators.stake_peak.max(validators.stake);
    if freezes {
        validators.frozen = validators.candidates.clone();
    }
    let fade = params.founders_fade.units();
    let weights = validators.weigh(&validators.candidates, fade);
    let most = usize::try_from(params.voters_max).unwrap_or(usize::MAX);
    let seats = if weights.len() <= most {
        let same = validators.seats.iter().eq(weights.iter().map(|(node, weight)| (node, *weight)));
        (begins || !same).then(|| Seats::by_weight(weights, seed)).flatten()
    } else if begins {
        let frozen = !validators.frozen.is_empty();
        let stakes = if frozen { validators.weigh(&validators.frozen, fade) } else { weights };
        Seats::by_seat(committee(&stakes, params.seats, &seed), u64::from(params.seats_quorum), seed)
    } else {
        None
    };
    validators.before = seats.map(|seats| core::mem::replace(&mut validators.seats, seats));
    let heard = &validators.heard;
    let heard = validators.seats.iter().map(|(node, _)| (*node, heard.get(node).copied().unwrap_or(next)));
    validators.heard = heard.collect();
}

/// Who sits on so many seats: the whole seats of each share first, then draws by what is left of the shares.
fn committee(stakes: &BTreeMap<NodeId, u64>, seats: u32, seed: &Hash) -> Vec<NodeId> {
    let seats = seats.min(VALIDATORS_MAX);
    let total = stakes.values().fold(0_u128, |sum, stake| sum.saturating_add(u128::from(*stake)));
    let (mut given, mut rests, mut rests_total) = (Vec::new(), Vec::new(), 0_u128);
    for (node, stake) in stakes {
        let share = u128::from(*stake).saturating_mul(u128::from(seats));
        let whole = share.checked_div(total).unwrap_or_default();
        given.extend((0..whole).map(|_| *node));
        rests_total = rests_total.saturating_add(share.checked_rem(total).unwrap_or_default());
        rests.push((rests_total, *node));
    }
    let mut stream = Stream::new(seed, "committee", 0);
    let most = usize::try_from(seats).unwrap_or(usize::MAX);
    while given.len() < most && rests_total > 0 {
        // Shares are so large only in theory: what is lost by shifting is below 2^-63 of the whole.
        let shift = u128::BITS.saturating_sub(rests_total.leading_zeros()).saturating_sub(63);
        let bound = u64::try_from(rests_total >> shift).unwrap_or(u64::MAX);
        let place = u128::from(stream.below(bound.max(1))) << shift;
        let drawn = rests.partition_point(|(upto, _)| *upto <= place);
        let Some((_, node)) = rests.get(drawn) else { break };
        given.push(*node);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u32) -> NodeId {
        NodeId::from_bytes(*Domain::Draw.hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn the_largest_set_leaves_room_for_the_beacon_in_a_first_chunk() {
        let many = |count: u32| (0..count).map(|n| (node(n), u64::MAX / 1024));
        let seats = Seats::by_weight(many(VALIDATORS_MAX), Hash::default()).unwrap();
        let founder = |n| Founder { owner: OwnerId::from_bytes([1; 32]), node: node(n), power: u32::MAX };
        let founders: Vec<Founder> = (0..FOUNDERS_MAX).map(founder).collect();
        let largest = Validators {
            stake: u64::MAX,
            before: Some(seats.clone()),
            heard: seats.iter().map(|(node, _)| (*node, u64::MAX)).collect(),
            seats,
            ..Validators::genesis(&founders, u64::MAX, Hash::default())
        };
        let bytes = codec::encode(&largest).len();
        assert!(bytes > 64 << 10 && bytes < 84 << 10, "{bytes}");
    }

    #[test]
    fn whole_shares_are_seats_without_a_draw() {
        let stakes = (0..4).map(|n| (node(n), 1_000_000)).collect();
        let drawn = committee(&stakes, 512, &Hash::default());
        assert_eq!(drawn.len(), 512);
        for n in 0..4 {
            assert_eq!(drawn.iter().filter(|one| **one == node(n)).count(), 128);
        }
    }

    #[test]
    fn what_is_left_of_the_shares_is_drawn_by_size() {
        let stakes: BTreeMap<_, _> = (0..1000).map(|n| (node(n), if n < 500 { 1 << 60 } else { 3 << 60 })).collect();
        let mut rich = 0_u32;
        for round in 0..40_u32 {
            let drawn = committee(&stakes, 512, &Hash::of_blob(&round.to_le_bytes()));
            assert_eq!(drawn.len(), 512);
            rich += drawn.iter().filter(|one| (500..1000).any(|n| node(n) == **one)).count() as u32;
        }
        // Three quarters of the stake hold three quarters of the seats.
        assert!((15_000..15_700).contains(&rich), "{rich} of 20480");
    }
}
