//! Merkle trees that bind what they must (PROTOCOL §8): rs_merkle inside tags for leaf, node and lone node, with the leaf
//! count in the root and proofs of exactly one length.
//!
//! rs_merkle alone accepts an inner node as a leaf and proofs with hashes to spare. With the tags the first is a different
//! hash, and [`Proof::verify`] computes how many hashes a proof must have, so a statement has one proof.

use alloc::vec::Vec;
use core::fmt;

use postcard_schema::Schema;
use rs_merkle::{MerkleProof, MerkleTree};
use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::codec::Canonical;
use crate::hash::{Domain, Hash, Hasher};
use crate::mutant::mutant;

/// Most hashes in a proof: a tree of 2^40 leaves is larger than any model.
pub const PROOF_HASHES_MAX: u32 = 40;

/// The hash of a leaf's bytes.
pub fn leaf(bytes: &[u8]) -> Hash {
    Domain::MerkleLeaf.hash(bytes)
}

#[derive(Clone)]
struct Tagged;

impl rs_merkle::Hasher for Tagged {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *leaf(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        *parent(&Hash::from_bytes(*left), right.map(|hash| Hash::from_bytes(*hash)).as_ref()).as_bytes()
    }
}

fn parent(left: &Hash, right: Option<&Hash>) -> Hash {
    let lone = right.is_none() && !mutant("lone nodes untagged");
    let mut hasher = Hasher::new(if lone { Domain::MerkleLone } else { Domain::MerkleNode });
    hasher.update(left.as_bytes());
    if let Some(right) = right {
        hasher.update(right.as_bytes());
    }
    hasher.finish()
}

fn bind(count: u64, top: &Hash) -> Hash {
    Hasher::new(Domain::MerkleRoot).update(&count.to_le_bytes()).update(top.as_bytes()).finish()
}

/// The root of these leaves, bound to their count, without building a tree to prove from.
pub fn root(leaves: &[Hash]) -> Hash {
    let count = u64::try_from(leaves.len()).unwrap_or(u64::MAX);
    let mut level: Vec<Hash> = leaves.into();
    for _ in 0..levels(count) {
        level = level.chunks(2).filter_map(|pair| pair.first().map(|left| parent(left, pair.get(1)))).collect();
    }
    bind(count, &level.first().copied().unwrap_or_default())
}

/// Levels above the leaves, as rs_merkle builds them: a tree of 2^k leaves ends in a lone node above its top.
fn levels(count: u64) -> u32 {
    u64::BITS.saturating_sub(count.leading_zeros())
}

/// A tree over hashed leaves, kept to prove membership.
pub struct Tree {
    inner: MerkleTree<Tagged>,
    count: u64,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree of {} leaves", self.count)
    }
}

impl Tree {
    /// Builds a tree; `leaves` are hashes made with [`leaf`] or a domain of their own.
    pub fn new(leaves: &[Hash]) -> Self {
        let raw: Vec<[u8; 32]> = leaves.iter().map(|hash| *hash.as_bytes()).collect();
        let count = u64::try_from(leaves.len()).unwrap_or(u64::MAX);
        Self { inner: MerkleTree::from_leaves(&raw), count }
    }

    /// The root, bound to the leaf count. The empty tree has a root of its own.
    pub fn root(&self) -> Hash {
        bind(self.count, &self.inner.root().map(Hash::from_bytes).unwrap_or_default())
    }

    /// Proves that the leaf at `index` is in the tree; `None` if there is no such leaf.
    pub fn prove(&self, index: u64) -> Option<Proof> {
        if index >= self.count {
            return None;
        }
        let proof = self.inner.proof(&[usize::try_from(index).ok()?]);
        let hashes: Vec<Hash> = proof.proof_hashes().iter().map(|hash| Hash::from_bytes(*hash)).collect();
        Some(Proof { index, count: self.count, hashes: List::try_from(hashes).ok()? })
    }
}

/// A proof that a leaf stands at an index of a tree with a given number of leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Proof {
    pub index: u64,
    pub count: u64,
    pub hashes: List<Hash, PROOF_HASHES_MAX>,
}

impl Canonical for Proof {
    const BYTES_MAX: u32 = 4096;
}

impl Proof {
    /// Whether `leaf` stands at [`Self::index`] of the tree with this `root`.
    pub fn verify(&self, root: &Hash, leaf: &Hash) -> bool {
        self.root(leaf).as_ref() == Some(root)
    }

    /// The root of the tree in which `leaf` stands at [`Self::index`]; `None` if the proof has another length than such a
    /// tree's proofs.
    pub fn root(&self, leaf: &Hash) -> Option<Hash> {
        let expected = expected_hashes(self.index, self.count)?;
        if u32::try_from(self.hashes.len()) != Ok(expected) {
            return None;
        }
        let (index, count) = (usize::try_from(self.index).ok()?, usize::try_from(self.count).ok()?);
        let hashes: Vec<[u8; 32]> = self.hashes.iter().map(|hash| *hash.as_bytes()).collect();
        let top = MerkleProof::<Tagged>::new(hashes).root(&[index], &[*leaf.as_bytes()], count).ok()?;
        Some(bind(self.count, &Hash::from_bytes(top)))
    }
}

/// How many siblings the path of a leaf has: one a level, none where the node stands alone. `None` if there is no such
/// leaf.
fn expected_hashes(index: u64, count: u64) -> Option<u32> {
    if index >= count {
        return None;
    }
    let (mut index, mut count, mut hashes) = (index, count, 0_u32);
    while count > 1 {
        let alone = index.checked_add(1)? == count && index & 1 == 0;
        hashes = hashes.checked_add(u32::from(!alone))?;
        index >>= 1;
        count = count.div_ceil(2);
    }
    Some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|i| leaf(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_and_nothing_else() {
        for count in 1..40 {
            let leaves = leaves(count);
            let tree = Tree::new(&leaves);
            assert_eq!(tree.root(), root(&leaves), "{count}");
            for index in 0..count {
                let proof = tree.prove(index).unwrap();
                let own = leaves[index as usize];
                assert!(proof.verify(&tree.root(), &own));
                assert!(!proof.verify(&tree.root(), &leaf(b"other")));
                for wrong in (0..count + 2).filter(|wrong| *wrong != index) {
                    assert!(!Proof { index: wrong, ..proof.clone() }.verify(&tree.root(), &own));
                }
                let mut padded = proof.hashes.clone().into_vec();
                padded.push(Hash::default());
                let padded = Proof { hashes: padded.try_into().unwrap(), ..proof.clone() };
                assert!(!padded.verify(&tree.root(), &own), "padded proof");
                assert!(!Proof { count: count + 1, ..proof }.verify(&tree.root(), &own), "other count");
            }
            assert!(tree.prove(count).is_none());
        }
    }

    #[test]
    fn a_repeated_last_leaf_changes_the_root() {
        let mut three = leaves(3);
        let before = root(&three);
        three.push(three[2]);
        assert_ne!(root(&three), before);
    }

    #[test]
    fn inner_nodes_do_not_pass_for_leaves() {
        let four = leaves(4);
        let inner = [parent(&four[0], Some(&four[1])), parent(&four[2], Some(&four[3]))];
        assert_ne!(root(&inner), root(&four));
        let tree = Tree::new(&four);
        let forged = Proof { index: 0, count: 2, hashes: alloc::vec![inner[1]].try_into().unwrap() };
        assert!(!forged.verify(&tree.root(), &inner[0]));
    }

    #[test]
    fn an_empty_tree_has_a_root_and_proves_nothing() {
        assert_eq!(Tree::new(&[]).root(), root(&[]));
        assert!(Tree::new(&[]).prove(0).is_none());
    }
}
