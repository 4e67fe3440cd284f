//! Proofs of single entries of the agreed state, for whoever knows a finalized header and no more (PROTOCOL §11).

use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Bytes, Domain, Hash, LayerIndex, NodeId, OwnerId, QuorumId, merkle};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::MODULES;
use super::accounts::{Account, Accounts};
use super::anchors::{Anchors, Stage};
use super::nodes::{Node, Nodes};
use super::part::{Module, digest};
use super::quorums::{Quorum, Quorums};
use super::tree::{Disproved, Proof};

/// Most bytes of what a module holds beside its tree.
pub const MODULE_BYTES_MAX: u32 = 128;

/// What the state holds for a key, and the way from there to the root that a header names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct StateProof<K, V> {
    entry: Proof<K, V>,
    /// The module's encoding, which begins with its tree's root.
    module: Bytes<MODULE_BYTES_MAX>,
    digests: merkle::Proof,
}

impl Canonical for StateProof<OwnerId, Account> {
    const BYTES_MAX: u32 = 16 << 10;
}

impl Canonical for StateProof<NodeId, Node> {
    const BYTES_MAX: u32 = 16 << 10;
}

impl Canonical for StateProof<QuorumId, Quorum> {
    const BYTES_MAX: u32 = 16 << 10;
}

impl Canonical for StateProof<LayerIndex, Stage> {
    const BYTES_MAX: u32 = 16 << 10;
}

impl<K, V> StateProof<K, V> {
    pub(super) fn new<M: Module>(digests: &[Hash; MODULES], module: &M, entry: Proof<K, V>) -> Self {
        let (module, digests) = (Bytes::try_from(codec::encode(module)), merkle::Tree::new(digests).prove(M::PLACE));
        assert!(module.is_ok() && digests.is_some(), "modules with proofs are small, and in the row");
        let none = || merkle::Proof { index: 0, count: 0, hashes: Default::default() };
        Self { entry, module: module.unwrap_or_default(), digests: digests.unwrap_or_else(none) }
    }

    fn tree_root<M: Module>(&self, state: &Hash) -> Result<Hash, Disproved> {
        let placed = (self.digests.index, self.digests.count) == (M::PLACE, u64::try_from(MODULES).unwrap_or_default());
        let Some((root, _)) = self.module.split_first_chunk::<32>().filter(|_| placed) else { return Err(Disproved) };
        let top = self.digests.root(&digest::<M>(&self.module)).ok_or(Disproved)?;
        if Domain::LedgerState.hash(top.as_bytes()) != *state {
            return Err(Disproved);
        }
        Ok(Hash::from_bytes(*root))
    }
}

impl StateProof<OwnerId, Account> {
    /// The owner's account in the state with this root; `None` if nothing ever happened to it.
    ///
    /// # Errors
    /// [`Disproved`] if the proof does not lead to the root.
    pub fn check(&self, state: &Hash, owner: &OwnerId) -> Result<Option<&Account>, Disproved> {
        self.entry.check(&self.tree_root::<Accounts>(state)?, owner)
    }
}

impl StateProof<NodeId, Node> {
    /// The node in the state with this root; `None` if it was never registered.
    ///
    /// # Errors
    /// [`Disproved`] if the proof does not lead to the root.
    pub fn check(&self, state: &Hash, node: &NodeId) -> Result<Option<&Node>, Disproved> {
        self.entry.check(&self.tree_root::<Nodes>(state)?, node)
    }
}

impl StateProof<QuorumId, Quorum> {
    /// The quorum in the state with this root; `None` if it never formed, or is forgotten.
    ///
    /// # Errors
    /// [`Disproved`] if the proof does not lead to the root.
    pub fn check(&self, state: &Hash, id: &QuorumId) -> Result<Option<&Quorum>, Disproved> {
        self.entry.check(&self.tree_root::<Quorums>(state)?, id)
    }
}

impl StateProof<LayerIndex, Stage> {
    /// What was posted of the stage in the state with this root; `None` if nothing ever was.
    ///
    /// # Errors
    /// [`Disproved`] if the proof does not lead to the root.
    pub fn check(&self, state: &Hash, layer: LayerIndex) -> Result<Option<&Stage>, Disproved> {
        self.entry.check(&self.tree_root::<Anchors>(state)?, &layer)
    }
}
