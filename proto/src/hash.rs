//! Hashes: BLAKE3, with a domain for each thing that is hashed so that no hash of one kind can pass for another.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;

/// 32 bytes of BLAKE3.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Schema)]
pub struct Hash([u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serialize_array(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        hex::deserialize_array(deserializer).map(Self)
    }
}

impl Hash {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A blob's address: plain BLAKE3 of its bytes, so that any `b3sum` can check a file of the data directory.
    pub fn of_blob(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight bytes, little-endian: for tables and digests that are compared and not trusted.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        hex::array(text).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::pad(f, &self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// What a hash is of. Each domain is a key of BLAKE3's keyed mode, so a hash of one kind cannot pass for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Domain {
    /// A network's genesis.
    Genesis,
    /// The bytes under an envelope's signature.
    Envelope,
    /// A manifest of data shards.
    Manifest,
    /// The tokenizer's tables.
    Tokenizer,
    /// One part of a core's state.
    StatePart,
    /// The root over a core's parts.
    StateRoot,
    /// A keyed random stream.
    Stream,
    /// A link in a trace's chain of inputs, outputs and states.
    TraceChain,
    /// A Merkle leaf.
    MerkleLeaf,
    /// A Merkle node with two children.
    MerkleNode,
    /// A Merkle node whose right sibling does not exist.
    MerkleLone,
    /// A Merkle root bound to its leaf count.
    MerkleRoot,
    /// A 16x16 tile of a tensor.
    Tile,
    /// A tensor: dtype, shape and the root over its tiles.
    Tensor,
    /// A model state: the stages at a step.
    ModelState,
    /// One operation of a layer step: its name, shapes, inputs and outputs.
    Operation,
    /// Where a key hangs in a tree of the agreed state.
    TreePath,
    /// An entry of such a tree.
    TreeLeaf,
    /// A branch of such a tree.
    TreeBranch,
    /// A block's header.
    Block,
    /// Who decides a height.
    Seats,
    /// A draw of a leader.
    Leader,
    /// A node's consent to belong to an owner.
    Consent,
    /// The puzzle of a registration.
    Puzzle,
    /// A commitment to a random value.
    Random,
    /// The agreed state: the root over its modules.
    LedgerState,
    /// The beacon's next value.
    Beacon,
    /// A certificate that a block carries.
    Certificate,
    /// One module of the agreed state.
    LedgerModule,
    /// A draw from the beacon.
    Draw,
    /// A quorum: its plan, or its terms.
    Quorum,
    /// A member's acceptance of a quorum's terms.
    Acceptance,
    /// The state of one stage: its weights and moments.
    StageState,
}

impl Domain {
    /// The 32-byte key of this domain.
    pub(crate) const fn key(self) -> &'static [u8; 32] {
        match self {
            Self::Genesis => b"neuroshard v1 genesis           ",
            Self::Envelope => b"neuroshard v1 envelope          ",
            Self::Manifest => b"neuroshard v1 manifest          ",
            Self::Tokenizer => b"neuroshard v1 tokenizer         ",
            Self::StatePart => b"neuroshard v1 state part        ",
            Self::StateRoot => b"neuroshard v1 state root        ",
            Self::Stream => b"neuroshard v1 stream            ",
            Self::TraceChain => b"neuroshard v1 trace chain       ",
            Self::MerkleLeaf => b"neuroshard v1 merkle leaf       ",
            Self::MerkleNode => b"neuroshard v1 merkle node       ",
            Self::MerkleLone => b"neuroshard v1 merkle lone node  ",
            Self::MerkleRoot => b"neuroshard v1 merkle root       ",
            Self::Tile => b"neuroshard v1 tile              ",
            Self::Tensor => b"neuroshard v1 tensor            ",
            Self::ModelState => b"neuroshard v1 model state       ",
            Self::Operation => b"neuroshard v1 operation         ",
            Self::TreePath => b"neuroshard v1 tree path         ",
            Self::TreeLeaf => b"neuroshard v1 tree leaf         ",
            Self::TreeBranch => b"neuroshard v1 tree branch       ",
            Self::Block => b"neuroshard v1 block             ",
            Self::Seats => b"neuroshard v1 seats             ",
            Self::Leader => b"neuroshard v1 leader            ",
            Self::Consent => b"neuroshard v1 consent           ",
            Self::Puzzle => b"neuroshard v1 puzzle            ",
            Self::Random => b"neuroshard v1 random            ",
            Self::LedgerState => b"neuroshard v1 ledger state      ",
            Self::Beacon => b"neuroshard v1 beacon            ",
            Self::Certificate => b"neuroshard v1 certificate       ",
            Self::LedgerModule => b"neuroshard v1 ledger module     ",
            Self::Draw => b"neuroshard v1 draw              ",
            Self::Quorum => b"neuroshard v1 quorum            ",
            Self::Acceptance => b"neuroshard v1 acceptance        ",
            Self::StageState => b"neuroshard v1 stage state       ",
        }
    }

    /// The hash of `bytes` in this domain.
    pub fn hash(self, bytes: &[u8]) -> Hash {
        Hash(*blake3::keyed_hash(self.key(), bytes).as_bytes())
    }
}

/// An incremental hash in one domain.
#[derive(Clone, Debug)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    pub fn new(domain: Domain) -> Self {
        Self(blake3::Hasher::new_keyed(domain.key()))
    }

    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    pub fn finish(&self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }

    /// Output without end, read from any position.
    pub(crate) fn finish_xof(&self) -> blake3::OutputReader {
        self.0.finalize_xof()
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use super::*;

    #[test]
    fn domains_separate_equal_bytes() {
        assert_ne!(Domain::MerkleLeaf.hash(b"x"), Domain::MerkleNode.hash(b"x"));
        assert_ne!(Domain::MerkleLeaf.hash(b"x"), Hash::of_blob(b"x"));
    }

    #[test]
    fn hex_reads_back_and_shortens() {
        let hash = Hash::of_blob(b"abc");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(format!("{hash:.8}").len(), 8);
        assert_eq!(Hash::from_hex("00"), None);
        assert_eq!(Hash::from_hex(&"+1".repeat(32)), None);
    }
}
