//! Who decides, and the proof that enough of them agree.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::chain::vote::{Lock, SignedVote, Statement, Vote};
use crate::codec::{self, Canonical};
use crate::envelope::Signature;
use crate::hash::{Domain, Hash};
use crate::ids::{NetworkId, NodeId};

/// Most validators of a height: the seats of a large network's committee (PROTOCOL §11).
pub const VALIDATORS_MAX: u32 = 512;

/// Who decides a height, and with how much weight each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Seats {
    /// Validators in order of their ids, each with its weight, above 0.
    seats: List<(NodeId, u64), VALIDATORS_MAX>,
    /// Weight that decides.
    quorum: u64,
    /// Mixes the order in which they lead.
    seed: Hash,
}

impl Canonical for Seats {}

impl Seats {
    /// All of these vote by weight: a decision takes more than two thirds (PROTOCOL §11). `None` without any weight, or
    /// with too many validators.
    pub fn by_weight(weights: impl IntoIterator<Item = (NodeId, u64)>, seed: Hash) -> Option<Self> {
        let seats = Self::gather(weights)?;
        let total = seats.iter().map(|(_, weight)| *weight).fold(0, u64::saturating_add);
        // The least whole number above two thirds: what is left after taking away less than a third.
        let quorum = total.saturating_sub(total.saturating_sub(1).checked_div(3)?);
        Some(Self { seats, quorum, seed })
    }

    /// A committee of equal seats of which `quorum` decide; a validator may hold several.
    pub fn by_seat(draws: impl IntoIterator<Item = NodeId>, quorum: u64, seed: Hash) -> Option<Self> {
        let seats = Self::gather(draws.into_iter().map(|node| (node, 1)))?;
        Some(Self { seats, quorum, seed })
    }

    fn gather(weights: impl IntoIterator<Item = (NodeId, u64)>) -> Option<List<(NodeId, u64), VALIDATORS_MAX>> {
        let mut gathered = BTreeMap::<NodeId, u64>::new();
        for (node, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0) {
            let sum = gathered.entry(node).or_default();
            *sum = sum.checked_add(weight)?;
        }
        let seats = List::try_from(gathered.into_iter().collect::<Vec<_>>()).ok()?;
        (!seats.is_empty()).then_some(seats)
    }

    /// The same validators with the same weights, who lead in another order.
    #[must_use]
    pub fn with_seed(&self, seed: Hash) -> Self {
        Self { seed, ..self.clone() }
    }

    /// What mixes the order in which they lead.
    pub const fn seed(&self) -> &Hash {
        &self.seed
    }

    /// Whether these are the same validators with the same weights, in whatever order they lead.
    pub fn same_weights(&self, other: &Self) -> bool {
        (&self.seats, self.quorum) == (&other.seats, other.quorum)
    }

    /// A validator's weight; 0 for everybody else.
    pub fn weight(&self, node: &NodeId) -> u64 {
        let place = self.seats.binary_search_by(|(seat, _)| seat.cmp(node)).ok();
        place.and_then(|place| self.seats.get(place)).map_or(0, |(_, weight)| *weight)
    }

    pub fn total(&self) -> u64 {
        self.seats.iter().map(|(_, weight)| *weight).fold(0, u64::saturating_add)
    }

    /// Weight that decides.
    pub const fn quorum(&self) -> u64 {
        self.quorum
    }

    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, u64)> {
        self.seats.iter().map(|(node, weight)| (node, *weight))
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Who leads a view of a height: drawn by weight, so that each leads as often as it decides. `None` if nobody votes.
    pub fn leader(&self, height: u64, view: u64) -> Option<NodeId> {
        let draw = Domain::Leader.hash(&codec::encode(&(self.seed, height, view))).short();
        let product = u128::from(draw).saturating_mul(u128::from(self.total()));
        let mut place = u64::try_from(product >> 64_u32).ok()?;
        for (node, weight) in self.iter() {
            match place.checked_sub(weight) {
                Some(rest) => place = rest,
                None => return Some(*node),
            }
        }
        None
    }

    /// The hash that headers carry.
    pub fn hash(&self) -> Hash {
        Domain::Seats.hash(&codec::encode(self))
    }
}

/// What a certificate certifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Subject {
    /// No other block can be notarized in this view.
    Notarized { height: u64, view: u64, block: Hash },
    /// Nothing was or will be finalized in this view.
    Nullified { height: u64, view: u64 },
    /// The block is decided.
    Finalized { height: u64, view: u64, block: Hash },
}

impl Subject {
    pub const fn height(&self) -> u64 {
        match self {
            Self::Notarized { height, .. } | Self::Nullified { height, .. } | Self::Finalized { height, .. } => *height,
        }
    }

    pub const fn view(&self) -> u64 {
        match self {
            Self::Notarized { view, .. } | Self::Nullified { view, .. } | Self::Finalized { view, .. } => *view,
        }
    }

    /// What one of the signers stated.
    const fn statement(&self, lock: Option<Lock>) -> Statement {
        match *self {
            Self::Notarized { height, view, block } => Statement::Notarize { height, view, block },
            Self::Nullified { height, view } => Statement::Nullify { height, view, lock },
            Self::Finalized { height, view, block } => Statement::Finalize { height, view, block },
        }
    }
}

/// One signer of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Endorsement {
    pub validator: NodeId,
    /// What a nullifying validator reported; `None` in other certificates.
    pub lock: Option<Lock>,
    pub signature: Signature,
}

/// A quorum's signatures under one subject. It names its signers, so that signatures can be checked without knowing who
/// may vote; whether their weight is that of a quorum, the [`Seats`] say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Certificate {
    pub subject: Subject,
    /// In strictly ascending order of validators.
    pub endorsements: List<Endorsement, VALIDATORS_MAX>,
}

impl Canonical for Certificate {
    const BYTES_MAX: u32 = 72 << 10;
}

/// Why a certificate certifies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// A validator stands in it twice or out of order.
    Order,
    /// The signers do not have the weight of a quorum.
    Weight { signed: u64, quorum: u64 },
    /// A signature does not hold.
    Signature { validator: NodeId },
    /// A lock where none belongs.
    Lock,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order => f.write_str("its signers are not in ascending order"),
            Self::Weight { signed, quorum } => write!(f, "its signers weigh {signed}, a quorum is {quorum}"),
            Self::Signature { validator } => write!(f, "the signature is not that of {validator:.16}"),
            Self::Lock => f.write_str("it reports locks though it nullifies nothing"),
        }
    }
}

impl core::error::Error for CertificateError {}

impl Certificate {
    /// Gathers votes that state one thing; others are left out. The signatures are taken as they are.
    pub fn gather(subject: Subject, votes: impl IntoIterator<Item = SignedVote>) -> Self {
        let mut endorsements = BTreeMap::new();
        for SignedVote { vote: Vote { validator, statement }, signature } in votes {
            let lock = match statement {
                Statement::Nullify { lock, .. } => lock,
                Statement::Notarize { .. } | Statement::Finalize { .. } => None,
            };
            if subject.statement(lock) == statement {
                endorsements.insert(validator, Endorsement { validator, lock, signature });
            }
        }
        let endorsements = List::try_from(endorsements.into_values().collect::<Vec<_>>());
        assert!(endorsements.is_ok(), "only validators vote, and there are no more of them");
        Self { subject, endorsements: endorsements.unwrap_or_default() }
    }

    /// The votes it is made of.
    pub fn votes(&self) -> impl Iterator<Item = SignedVote> {
        self.endorsements.iter().map(|Endorsement { validator, lock, signature }| {
            let statement = self.subject.statement(*lock);
            SignedVote { vote: Vote { validator: *validator, statement }, signature: *signature }
        })
    }

    /// The newest lock that its signers reported.
    pub fn newest_lock(&self) -> Option<Lock> {
        self.endorsements.iter().filter_map(|endorsement| endorsement.lock).max()
    }

    /// Checks what needs no knowledge of the validators: form and signatures. [`crate::Verified::open`] does it for every
    /// certificate in a message.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check_signatures(&self, network: NetworkId) -> Result<(), CertificateError> {
        let names = self.endorsements.iter().map(|endorsement| endorsement.validator);
        if !names.clone().zip(names.skip(1)).all(|(one, next)| one < next) {
            return Err(CertificateError::Order);
        }
        let nullifies = matches!(self.subject, Subject::Nullified { .. });
        if !nullifies && self.endorsements.iter().any(|endorsement| endorsement.lock.is_some()) {
            return Err(CertificateError::Lock);
        }
        match self.votes().find(|vote| !vote.holds(network)) {
            Some(forged) => Err(CertificateError::Signature { validator: forged.vote.validator }),
            None => Ok(()),
        }
    }

    /// Checks that the signers are a quorum. Signatures must have been checked before.
    ///
    /// # Errors
    /// [`CertificateError::Weight`] if they are not.
    pub fn check_weight(&self, seats: &Seats) -> Result<(), CertificateError> {
        let weights = self.endorsements.iter().map(|endorsement| seats.weight(&endorsement.validator));
        let (signed, quorum) = (weights.fold(0, u64::saturating_add), seats.quorum());
        if signed < quorum {
            return Err(CertificateError::Weight { signed, quorum });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn a_quorum_is_the_least_weight_above_two_thirds() {
        for total in 1..40_u64 {
            let seats = Seats::by_weight((0..total).map(|n| (node(n as u8), 1)), Hash::default()).unwrap();
            assert!(seats.quorum() * 3 > total * 2, "{total}");
            assert!((seats.quorum() - 1) * 3 <= total * 2, "{total}");
        }
        let huge = Seats::by_weight([(node(1), u64::MAX)], Hash::default()).unwrap();
        assert!(u128::from(huge.quorum()) * 3 > u128::from(u64::MAX) * 2);
        assert_eq!(Seats::by_weight([(node(1), u64::MAX), (node(1), 1)], Hash::default()), None);
        assert_eq!(Seats::by_weight([(node(1), 0)], Hash::default()), None);
    }

    #[test]
    fn leaders_are_drawn_by_weight() {
        let seats = Seats::by_weight([(node(1), 1), (node(2), 3)], Hash::of_blob(b"seed")).unwrap();
        let first = (0..1000).filter(|view| seats.leader(5, *view) == Some(node(1))).count();
        assert!((200..300).contains(&first), "{first}");
    }
}
