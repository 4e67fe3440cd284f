//! Our types as those of `arc-malachitebft-core-driver`. A value is the id of a block, as in votes.

use std::fmt;
use std::sync::Arc;

use arc_malachitebft_core_types::{
    Address, Context, Height, LinearTimeouts, NilOrVal, Proposal, ProposalPart, Round, SignedExtension, SigningScheme,
    Validator, ValidatorSet, Value, Vote, VoteType, VotingPower,
};
use neuroshard_core::proto::chain::Seats;
use neuroshard_core::proto::{Hash, NodeId};

/// What the library is told about our world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours;

/// A validator's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) NodeId);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.16}", self.0)
    }
}

impl Address for Name {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct At(pub(super) u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Height for At {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// The id of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) Hash);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.16}", self.0)
    }
}

impl Value for Id {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    height: At,
    round: Round,
    value: Id,
    pol_round: Round,
    leader: Name,
}

impl Proposal<Ours> for Offered {
    fn height(&self) -> At {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Id {
        &self.value
    }

    fn take_value(self) -> Id {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Name {
        &self.leader
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ballot {
    height: At,
    round: Round,
    value: NilOrVal<Id>,
    kind: VoteType,
    voter: Name,
}

impl Vote<Ours> for Ballot {
    fn height(&self) -> At {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Id> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Id> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Name {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Ours>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ours>> {
        None
    }

    fn extend(self, _: SignedExtension<Ours>) -> Self {
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    name: Name,
    weight: VotingPower,
}

impl Validator<Ours> for Seat {
    fn address(&self) -> &Name {
        &self.name
    }

    fn public_key(&self) -> &NodeId {
        &self.name.0
    }

    fn voting_power(&self) -> VotingPower {
        self.weight
    }
}

/// Validators in order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set(Arc<[Seat]>);

impl Set {
    pub(super) fn new(seats: &Seats) -> Self {
        Self(seats.iter().map(|(node, weight)| Seat { name: Name(*node), weight }).collect())
    }
}

impl ValidatorSet<Ours> for Set {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.0.iter().map(|seat| seat.weight).sum()
    }

    fn get_by_address(&self, address: &Name) -> Option<&Seat> {
        self.0.binary_search_by_key(address, |seat| seat.name).ok().and_then(|place| self.0.get(place))
    }

    fn get_by_index(&self, index: usize) -> Option<&Seat> {
        self.0.get(index)
    }
}

/// Blocks travel in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whole;

impl ProposalPart<Ours> for Whole {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// The driver neither makes nor checks signatures; it carries them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Carried;

impl SigningScheme for Carried {
    type DecodingError = String;
    type Signature = [u8; 64];
    type PublicKey = NodeId;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<[u8; 64], String> {
        bytes.try_into().map_err(|_| "a signature is 64 bytes".to_owned())
    }

    fn encode_signature(signature: &[u8; 64]) -> Vec<u8> {
        signature.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<NodeId, String> {
        bytes.try_into().map(NodeId::from_bytes).map_err(|_| "a name is 32 bytes".to_owned())
    }

    fn encode_public_key(key: &NodeId) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

impl Context for Ours {
    type Address = Name;
    type Height = At;
    type ProposalPart = Whole;
    type Proposal = Offered;
    type Validator = Seat;
    type ValidatorSet = Set;
    type Timeouts = LinearTimeouts;
    type Value = Id;
    type Vote = Ballot;
    type Extension = ();
    type SigningScheme = Carried;

    /// The driver itself never asks: leaders are drawn from the beacon by [`Seats::leader`].
    fn select_proposer<'a>(&self, set: &'a Set, _: At, _: Round) -> &'a Seat {
        set.0.first().expect("a height has validators")
    }

    fn new_proposal(&self, height: At, round: Round, value: Id, pol_round: Round, leader: Name) -> Offered {
        Offered { height, round, value, pol_round, leader }
    }

    fn new_prevote(&self, height: At, round: Round, value: NilOrVal<Id>, voter: Name) -> Ballot {
        Ballot { height, round, value, kind: VoteType::Prevote, voter }
    }

    fn new_precommit(&self, height: At, round: Round, value: NilOrVal<Id>, voter: Name) -> Ballot {
        Ballot { height, round, value, kind: VoteType::Precommit, voter }
    }
}
