//! Blocks of transactions, how they are proposed and what decides them.

use alloc::vec::Vec;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::chain::certificate::Certificate;
use crate::chain::transaction::SignedTransaction;
use crate::codec::{self, Canonical};
use crate::hash::{Domain, Hash};
use crate::ids::{NetworkId, NodeId};
use crate::merkle;
use crate::time::Time;

/// Most transactions in a block.
pub const TRANSACTIONS_MAX: u32 = 2048;
/// Most bytes of a block, so that one fits in a journal record together with the certificate of the largest committee.
pub const BLOCK_BYTES_MAX: u32 = 176 << 10;

/// A block's head: all that a light client needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Header {
    pub network: NetworkId,
    /// The first block has height 1; the genesis stands at 0 and is no block.
    pub height: u64,
    /// The header before, by its [`Header::id`]; the network's id for the first block.
    pub parent: Hash,
    /// Block time: strictly increasing (PROTOCOL §0.2).
    pub time: Time,
    /// Who made the block. Another leader may propose it again.
    pub proposer: NodeId,
    /// Merkle root of the transactions.
    pub transactions: Hash,
    /// Root of the agreed state after this block.
    pub state: Hash,
    /// Hash of the [`Seats`](crate::chain::Seats) that decide the next block.
    pub seats: Hash,
    /// The beacon's value after this block: what the next block's epoch draws by.
    pub beacon: Hash,
    /// Hash of [`Block::finality`]; zero where there is none.
    pub finality: Hash,
}

impl Canonical for Header {
    const BYTES_MAX: u32 = 512;
}

impl Header {
    /// Room for a header and the lengths of what a block holds beside it.
    pub const BYTES_RESERVED: u32 = 640;

    /// The block's name: the hash of its header.
    pub fn id(&self) -> Hash {
        Domain::Block.hash(&codec::encode(self))
    }
}

/// A block: its head and its transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Block {
    pub header: Header,
    pub transactions: List<SignedTransaction, TRANSACTIONS_MAX>,
    /// The parent's finalization. The first block of an epoch carries it, and no other does: it mixes into the beacon and
    /// shows who is there (PROTOCOL §11). The first block of a network has no decided parent and carries none.
    pub finality: Option<Certificate>,
}

impl Canonical for Block {
    const BYTES_MAX: u32 = BLOCK_BYTES_MAX;
}

impl Block {
    /// The Merkle root that the header must name.
    pub fn transactions_root(transactions: &[SignedTransaction]) -> Hash {
        let leaves: Vec<Hash> = transactions.iter().map(|one| merkle::leaf(&codec::encode(one))).collect();
        merkle::root(&leaves)
    }

    /// What the header says of a carried finalization.
    pub fn finality_hash(finality: Option<&Certificate>) -> Hash {
        finality.map_or(Hash::default(), |certificate| Domain::Certificate.hash(&codec::encode(certificate)))
    }

    /// The first author whose signature does not hold, if there is one.
    pub(crate) fn forged(&self) -> Option<NodeId> {
        let network = self.header.network;
        self.transactions.iter().find(|one| !one.holds(network)).map(|one| one.transaction.signer())
    }
}

/// A leader's wish that a block be decided in a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Proposal {
    pub leader: NodeId,
    pub view: u64,
    pub block: Block,
    /// How the view before ended: how the leader came here. `None` in view 0.
    pub entry: Option<Certificate>,
    /// The notarization of the newest lock that a nullified view reported: the block to propose again.
    pub lock: Option<Certificate>,
}

impl Canonical for Proposal {
    const BYTES_MAX: u32 = codec::CONTROL_BYTES_MAX - 512;
}

/// A block and the proof that it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Decided {
    pub block: Block,
    /// A finalization of the block.
    pub certificate: Certificate,
}

impl Canonical for Decided {
    const BYTES_MAX: u32 = BLOCK_BYTES_MAX + (72 << 10);
}

/// A node that fell behind asks for decided blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct BlocksWanted {
    pub node: NodeId,
    /// The height it wants first.
    pub from: u64,
}

impl Canonical for BlocksWanted {
    const BYTES_MAX: u32 = 64;
}
