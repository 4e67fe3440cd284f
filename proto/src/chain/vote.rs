//! What validators say.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Canonical};
use crate::envelope::{Signature, WIRE_VERSION, signing_bytes, verify};
use crate::hash::Hash;
use crate::ids::{NetworkId, NodeId};
use crate::message::Kind;

/// The newest notarized block that a validator knows of at a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Lock {
    pub view: u64,
    pub block: Hash,
}

/// A validator's statement about a view of a height. In a view an honest one notarizes at most one block, nullifies at
/// most once, and never both nullifies and finalizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Statement {
    /// This block may stand at this height.
    Notarize { height: u64, view: u64, block: Hash },
    /// I wait for this view no longer; this is the newest notarization I have seen.
    Nullify { height: u64, view: u64, lock: Option<Lock> },
    /// I have seen the block notarized in this view and did not nullify it: it is decided.
    Finalize { height: u64, view: u64, block: Hash },
}

impl Statement {
    pub const fn height(&self) -> u64 {
        match self {
            Self::Notarize { height, .. } | Self::Nullify { height, .. } | Self::Finalize { height, .. } => *height,
        }
    }

    pub const fn view(&self) -> u64 {
        match self {
            Self::Notarize { view, .. } | Self::Nullify { view, .. } | Self::Finalize { view, .. } => *view,
        }
    }

    /// Whether no honest validator makes both statements.
    pub fn contradicts(&self, other: &Self) -> bool {
        if self.height() != other.height() || self.view() != other.view() {
            return false;
        }
        match (self, other) {
            (Self::Notarize { block, .. }, Self::Notarize { block: other, .. })
            | (Self::Finalize { block, .. }, Self::Finalize { block: other, .. }) => block != other,
            (Self::Nullify { lock, .. }, Self::Nullify { lock: other, .. }) => lock != other,
            (Self::Nullify { .. }, Self::Finalize { .. }) | (Self::Finalize { .. }, Self::Nullify { .. }) => true,
            (Self::Notarize { .. }, Self::Nullify { .. } | Self::Finalize { .. })
            | (Self::Nullify { .. } | Self::Finalize { .. }, Self::Notarize { .. }) => false,
        }
    }
}

/// One validator's statement: what it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Vote {
    pub validator: NodeId,
    pub statement: Statement,
}

impl Canonical for Vote {
    const BYTES_MAX: u32 = 128;
}

impl Vote {
    /// The digest under the signature: that of the vote's message, so that certificates and evidence can carry it on.
    pub fn digest(&self, network: NetworkId) -> Hash {
        signing_bytes(network, WIRE_VERSION, Kind::Vote.number(), &codec::encode(self))
    }
}

/// A vote that proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct SignedVote {
    pub vote: Vote,
    pub signature: Signature,
}

impl Canonical for SignedVote {
    const BYTES_MAX: u32 = 256;
}

impl SignedVote {
    pub fn holds(&self, network: NetworkId) -> bool {
        verify(&self.vote.validator, &self.vote.digest(network), &self.signature)
    }
}

/// Two votes of one validator that contradict each other: the validator lied at least once (PROTOCOL §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Evidence {
    pub first: SignedVote,
    pub second: SignedVote,
}

impl Canonical for Evidence {
    const BYTES_MAX: u32 = 512;
}

impl Evidence {
    /// The validator that is convicted, if the evidence holds.
    pub fn convicts(&self, network: NetworkId) -> Option<NodeId> {
        let (first, second) = (&self.first.vote, &self.second.vote);
        let proved = first.validator == second.validator
            && first.statement.contradicts(&second.statement)
            && self.first.holds(network)
            && self.second.holds(network);
        proved.then_some(first.validator)
    }
}
