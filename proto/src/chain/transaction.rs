//! What changes agreed state: one signed wish at a time (PROTOCOL §0.1).
//!
//! An account's wishes carry its sequence number, a node's carry the epoch they belong to; both are under the signature,
//! so nothing can be played twice. Who may sign for an account is agreed state, so a body names the key it is signed with,
//! and the ledger says whether that key may.

use alloc::boxed::Box;
use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::amount::Amount;
use crate::bounded::List;
use crate::chain::vote::Evidence;
use crate::codec::{self, Canonical};
use crate::envelope::{Signature, WIRE_VERSION, signing_bytes, verify};
use crate::hash::{Domain, Hash, Hasher};
use crate::hex;
use crate::ids::{LayerIndex, NetworkId, NodeId, OwnerId, QuorumId, Step};
use crate::job::LayerBlobs;
use crate::message::Kind;
use crate::model::LayerRange;
use crate::params::Tier;
use crate::quorum::{MEMBERS_MAX, POSTED_MAX, Position, Terms};

/// An ed25519 public key that signs for an account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Schema)]
pub struct PublicKey(pub [u8; 32]);

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serialize_array(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::deserialize_array(deserializer).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::pad(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Who wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Author {
    /// An account, by the key that signs for it now and the number of wishes it made before.
    Account { owner: OwnerId, key: PublicKey, sequence: u64 },
    /// A node, in the epoch that its wish belongs to.
    Node { node: NodeId, epoch: u64 },
}

/// A wish and its author: the payload of a transaction's envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Transaction {
    pub author: Author,
    pub action: Action,
}

impl Canonical for Transaction {
    const BYTES_MAX: u32 = 4096;
}

impl Transaction {
    /// The key that must have signed the envelope.
    pub const fn signer(&self) -> NodeId {
        match self.author {
            Author::Account { key, .. } => NodeId::from_bytes(key.0),
            Author::Node { node, .. } => node,
        }
    }
}

impl Transaction {
    /// The digest under the author's signature; it also names the transaction.
    pub fn digest(&self, network: NetworkId) -> Hash {
        signing_bytes(network, WIRE_VERSION, Kind::Transaction.number(), &codec::encode(self))
    }
}

/// A transaction that proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct SignedTransaction {
    pub transaction: Transaction,
    pub signature: Signature,
}

impl Canonical for SignedTransaction {
    const BYTES_MAX: u32 = Transaction::BYTES_MAX + 64;
}

impl SignedTransaction {
    /// Whether the author signed it for this network.
    pub fn holds(&self, network: NetworkId) -> bool {
        verify(&self.transaction.signer(), &self.transaction.digest(network), &self.signature)
    }
}

/// What is wished. Each module of the ledger has its own variants; numbers on the wire are never reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Action {
    /// Pays another account; the sender pays 5 % on top, which is burned (PROTOCOL §11).
    Transfer { to: OwnerId, amount: Amount },
    /// Puts balance at stake.
    Bond { amount: Amount },
    /// Takes stake back; it is free after seven days (PROTOCOL §8).
    Unbond { amount: Amount },
    /// From now on another key signs for the account.
    RotateKey { new: PublicKey },
    /// Makes a node the account's (PROTOCOL §1). `consent` is the node's signature over [`consent_digest`]; `puzzle` pays
    /// where no fee does (see [`puzzle_bits`]).
    RegisterNode { node: NodeId, consent: Signature, puzzle: Option<u64> },
    /// A node's key is good no longer.
    RevokeNode { node: NodeId },
    /// A node tells what it can and what it holds (PROTOCOL §2).
    DescribeNode { memory_bytes: u64, storage_bytes: u64, tier: Tier, held: LayerRange },
    /// A node that the beacon drew has seen another one live in this epoch (PROTOCOL §0.2).
    Attest { subject: NodeId },
    /// A validator binds itself to a random value it will reveal in the next epoch (PROTOCOL §11).
    CommitRandom { commitment: Hash },
    /// A validator reveals the value it bound itself to in the epoch before.
    RevealRandom { value: Hash },
    /// Two statements of one validator that contradict each other (PROTOCOL §8).
    ReportEquivocation { evidence: Box<Evidence> },
    /// From the next epoch on, this node of the account's votes with the account's bond (PROTOCOL §11). An account's first
    /// node is nominated with its registration.
    Nominate { node: NodeId },
    /// A member publishes what all members of a quorum agreed on (PROTOCOL §4). `acceptances` are their signatures over
    /// [`Terms::digest`], in the order of the members.
    FormQuorum { terms: Terms, acceptances: List<Signature, MEMBERS_MAX> },
    /// A member ends its quorum before its session is over.
    EndQuorum { quorum: QuorumId },
    /// A member of an active quorum tells where the states of some of its stages lie, from stage `first` on, so that others
    /// can take them up.
    PostStages {
        quorum: QuorumId,
        step: Step,
        position: Position,
        first: LayerIndex,
        stages: List<LayerBlobs, POSTED_MAX>,
    },
}

/// What a node signs to become an account's.
pub fn consent_digest(network: NetworkId, owner: OwnerId, node: NodeId) -> Hash {
    let mut hasher = Hasher::new(Domain::Consent);
    hasher.update(network.0.as_bytes()).update(owner.as_bytes()).update(node.as_bytes()).finish()
}

/// The leading zero bits of a registration's puzzle. Work is bound to network and node, so it cannot be reused.
pub fn puzzle_bits(network: NetworkId, node: NodeId, nonce: u64) -> u32 {
    let mut hasher = Hasher::new(Domain::Puzzle);
    hasher.update(network.0.as_bytes()).update(node.as_bytes()).update(&nonce.to_le_bytes());
    let mut zeros = 0_u32;
    for byte in hasher.finish().as_bytes() {
        zeros = zeros.saturating_add(byte.leading_zeros());
        if *byte != 0 {
            break;
        }
    }
    zeros
}

/// The commitment to a value of [`Action::RevealRandom`].
pub fn random_commitment(node: NodeId, epoch: u64, value: &Hash) -> Hash {
    let mut hasher = Hasher::new(Domain::Random);
    hasher.update(node.as_bytes()).update(&epoch.to_le_bytes()).update(value.as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::ids::BatchId;
    use crate::quorum::{BATCHES_MAX, Member, Plan};
    use crate::time::Time;

    #[test]
    fn the_largest_wishes_of_quorums_fit() {
        let (hash, node) = (Hash::from_bytes([255; 32]), NodeId::from_bytes([255; 32]));
        let member = Member { node, stages: LayerRange { start: u32::MAX, end: u32::MAX } };
        let plan = Plan { members: vec![member; 16].try_into().unwrap(), snapshot_steps: u32::MAX };
        let ends = vec![QuorumId(hash); 16].try_into().unwrap();
        let terms = Terms { plan, batches: BATCHES_MAX, ends, valid_until: Time::from_ms(u64::MAX) };
        let acceptances = vec![Signature([255; 64]); 16].try_into().unwrap();
        let blobs = LayerBlobs { root: hash, weights: hash, moments: hash };
        let post = Action::PostStages {
            quorum: QuorumId(hash),
            step: Step(u64::MAX),
            position: Position { batch: BatchId(u64::MAX), tokens: u64::MAX, voids: u64::MAX },
            first: LayerIndex(u32::MAX),
            stages: vec![blobs; 32].try_into().unwrap(),
        };
        assert!(codec::encode(&terms).len() > 1000);
        for action in [Action::FormQuorum { terms, acceptances }, post] {
            let wish = Transaction { author: Author::Node { node, epoch: u64::MAX }, action };
            let bytes = codec::encode(&wish);
            assert!((2000..4096).contains(&bytes.len()), "{}", bytes.len());
            assert_eq!(codec::decode::<Transaction>(&bytes), Ok(wish));
        }
    }
}
