//! A map that commits to its content: the shape of the agreed state's accounts and nodes.
//!
//! Entries hang in a binary trie over the hash of their key, each as high as it can: a leaf stands at the first bit where
//! no other entry shares its path. So the shape, and with it the root, depends on the entries alone and never on the order
//! in which they came. A proof is the siblings along a path; absence is proved by what stands there instead.
//!
//! The trie is persistent: a copy costs nothing, and changing one leaves the others as they were. That makes `apply` a
//! pure function at the price of a few nodes an entry, and lets many simulated nodes share one ledger. Hashes of changed
//! nodes are made all at once by [`Tree::seal`], so a block that touches an account twice hashes its path once.

use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::{Domain, Hash, List, codec};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

mod piece;

pub use piece::{PIECE_ENTRIES_MAX, Piece};

/// Most siblings in a proof: the bits of a path.
pub const PROOF_SIBLINGS_MAX: u32 = 256;

/// A map from keys to values with a root over both.
#[derive(Clone, Debug)]
pub struct Tree<K, V> {
    top: Link<K, V>,
}

/// What a sealed tree commits to: its root, and how many entries hang in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct TreeRoot {
    pub root: Hash,
    pub len: u64,
}

#[derive(Debug)]
enum Link<K, V> {
    Empty,
    Leaf(Arc<Leaf<K, V>>),
    Branch(Arc<Branch<K, V>>),
}

#[derive(Clone, Debug)]
struct Leaf<K, V> {
    path: Hash,
    key: K,
    value: V,
    /// `None` until the next [`Tree::seal`].
    hash: Option<Hash>,
}

#[derive(Debug)]
struct Branch<K, V> {
    children: [Link<K, V>; 2],
    /// Entries below.
    len: u64,
    hash: Option<Hash>,
}

impl<K, V> Clone for Link<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Leaf(leaf) => Self::Leaf(Arc::clone(leaf)),
            Self::Branch(branch) => Self::Branch(Arc::clone(branch)),
        }
    }
}

impl<K, V> Clone for Branch<K, V> {
    fn clone(&self) -> Self {
        Self { children: self.children.clone(), len: self.len, hash: self.hash }
    }
}

impl<K, V> Link<K, V> {
    /// Entries that hang here.
    fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Leaf(_) => 1,
            Self::Branch(branch) => branch.len,
        }
    }

    /// The hash of what hangs here; `None` if it changed since the last seal.
    fn hash(&self) -> Option<Hash> {
        match self {
            Self::Empty => Some(Hash::default()),
            Self::Leaf(leaf) => leaf.hash,
            Self::Branch(branch) => branch.hash,
        }
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { top: Link::Empty }
    }
}

/// The bit of a path that decides at a depth.
fn bit(path: &Hash, depth: u32) -> usize {
    let byte = usize::try_from(depth >> 3).unwrap_or_default();
    let byte = path.as_bytes().get(byte).copied().unwrap_or_default();
    usize::from((byte >> (7_u32.saturating_sub(depth & 7))) & 1)
}

/// Where an entry hangs.
fn path<K: Serialize>(key: &K) -> Hash {
    Domain::TreePath.hash(&codec::encode(key))
}

fn leaf_hash<K: Serialize, V: Serialize>(key: &K, value: &V) -> Hash {
    let key = codec::encode(key);
    // The key's length keeps its bytes and the value's apart.
    let len = u64::try_from(key.len()).unwrap_or(u64::MAX);
    Domain::TreeLeaf.hash(&[&len.to_le_bytes(), key.as_slice(), &codec::encode(value)].concat())
}

fn branch_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    for (to, from) in both.iter_mut().zip(left.as_bytes().iter().chain(right.as_bytes())) {
        *to = *from;
    }
    Domain::TreeBranch.hash(&both)
}

/// The child on one side and the other child.
fn sides<T>([left, right]: &[T; 2], side: usize) -> (&T, &T) {
    if side == 0 { (left, right) } else { (right, left) }
}

fn side_mut<T>([left, right]: &mut [T; 2], side: usize) -> &mut T {
    if side == 0 { left } else { right }
}

impl<K: Clone + Serialize, V: Clone + Serialize> Tree<K, V> {
    pub fn len(&self) -> u64 {
        self.top.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.at(&path(key))
    }

    fn at(&self, path: &Hash) -> Option<&V> {
        let mut link = &self.top;
        for depth in 0.. {
            match link {
                Link::Empty => return None,
                Link::Leaf(leaf) => return (leaf.path == *path).then_some(&leaf.value),
                Link::Branch(branch) => link = sides(&branch.children, bit(path, depth)).0,
            }
        }
        None
    }

    /// The entry at a place in the order of [`Tree::iter`].
    pub fn nth(&self, place: u64) -> Option<(&K, &V)> {
        let (mut link, mut place) = (&self.top, place);
        loop {
            match link {
                Link::Empty => return None,
                Link::Leaf(leaf) => return (place == 0).then_some((&leaf.key, &leaf.value)),
                Link::Branch(branch) => {
                    let [left, right] = &branch.children;
                    (link, place) = match place.checked_sub(left.len()) {
                        Some(rest) => (right, rest),
                        None => (left, place),
                    };
                }
            }
        }
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let path = path(&key);
        let mut link = &mut self.top;
        for depth in 0.. {
            match link {
                Link::Branch(branch) => {
                    let branch = Arc::make_mut(branch);
                    branch.hash = None;
                    link = side_mut(&mut branch.children, bit(&path, depth));
                }
                Link::Leaf(leaf) if leaf.path == path => {
                    let leaf = Arc::make_mut(leaf);
                    leaf.hash = None;
                    return Some(core::mem::replace(&mut leaf.value, value));
                }
                Link::Leaf(_) | Link::Empty => {
                    let new = Arc::new(Leaf { path, key, value, hash: None });
                    *link = part(core::mem::replace(link, Link::Empty), new, depth);
                    self.count_one_more(&path, depth);
                    return None;
                }
            }
        }
        None
    }

    /// An entry was added at the end of a path: the branches above hold one more.
    fn count_one_more(&mut self, path: &Hash, depth: u32) {
        let mut link = &mut self.top;
        for depth in 0..depth {
            let Link::Branch(branch) = link else { return };
            let branch = Arc::make_mut(branch);
            branch.len = branch.len.saturating_add(1);
            link = side_mut(&mut branch.children, bit(path, depth));
        }
    }

    /// Removes a key; returns whether it was there.
    pub fn remove(&mut self, key: &K) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        let path = path(key);
        let (mut above, mut link) = (Vec::new(), self.top.clone());
        while let Link::Branch(branch) = &link {
            let side = bit(&path, u32::try_from(above.len()).unwrap_or(u32::MAX));
            let (child, sibling) = sides(&branch.children, side);
            above.push((side, sibling.clone()));
            link = child.clone();
        }
        // Upwards again: a leaf that is left alone moves up to where nobody shares its path.
        let mut rest = Link::Empty;
        while let Some((side, sibling)) = above.pop() {
            rest = match (rest, sibling) {
                (Link::Empty, Link::Leaf(lonely)) | (Link::Leaf(lonely), Link::Empty) => Link::Leaf(lonely),
                (rest, sibling) => {
                    let children = if side == 0 { [rest, sibling] } else { [sibling, rest] };
                    let len = children.iter().map(Link::len).fold(0, u64::saturating_add);
                    Link::Branch(Arc::new(Branch { children, len, hash: None }))
                }
            };
        }
        self.top = rest;
        true
    }

    /// Every entry, in the order of their paths: an order that nobody chooses and everybody agrees on.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut open = Vec::from([&self.top]);
        core::iter::from_fn(move || {
            while let Some(link) = open.pop() {
                match link {
                    Link::Empty => {}
                    Link::Leaf(leaf) => return Some((&leaf.key, &leaf.value)),
                    Link::Branch(branch) => open.extend(branch.children.iter().rev()),
                }
            }
            None
        })
    }

    /// Hashes what changed and returns the root.
    pub fn seal(&mut self) -> Hash {
        // Children are taken out, hashed and put back, left before right: a stack in place of recursion.
        let mut open = Vec::from([Task::Visit(core::mem::replace(&mut self.top, Link::Empty))]);
        let mut sealed: Vec<Link<K, V>> = Vec::new();
        while let Some(task) = open.pop() {
            match task {
                Task::Visit(link) if link.hash().is_some() => sealed.push(link),
                Task::Visit(Link::Empty) => sealed.push(Link::Empty),
                Task::Visit(Link::Leaf(mut leaf)) => {
                    let own = Arc::make_mut(&mut leaf);
                    own.hash = Some(leaf_hash(&own.key, &own.value));
                    sealed.push(Link::Leaf(leaf));
                }
                Task::Visit(Link::Branch(mut branch)) => {
                    let own = Arc::make_mut(&mut branch);
                    let [left, right] = core::mem::replace(&mut own.children, [Link::Empty, Link::Empty]);
                    open.extend([Task::Join(branch), Task::Visit(right), Task::Visit(left)]);
                }
                Task::Join(mut branch) => {
                    let (right, left) = (sealed.pop(), sealed.pop());
                    let own = Arc::make_mut(&mut branch);
                    own.children = [left.unwrap_or(Link::Empty), right.unwrap_or(Link::Empty)];
                    let [left, right] = &own.children;
                    own.hash = Some(branch_hash(&left.hash().unwrap_or_default(), &right.hash().unwrap_or_default()));
                    sealed.push(Link::Branch(branch));
                }
            }
        }
        self.top = sealed.pop().unwrap_or(Link::Empty);
        self.root()
    }

    /// The root of a sealed tree.
    pub fn root(&self) -> Hash {
        let hash = self.top.hash();
        assert!(hash.is_some(), "a tree is sealed before its root is read");
        hash.unwrap_or_default()
    }

    /// What the sealed tree commits to.
    pub fn commitment(&self) -> TreeRoot {
        TreeRoot { root: self.root(), len: self.len() }
    }

    /// Proves what the sealed tree holds for a key, be it nothing.
    pub fn prove(&self, key: &K) -> Proof<K, V> {
        let path = path(key);
        let (mut siblings, mut link) = (Vec::new(), &self.top);
        while let Link::Branch(branch) = link {
            let side = bit(&path, u32::try_from(siblings.len()).unwrap_or(u32::MAX));
            let (child, sibling) = sides(&branch.children, side);
            siblings.push(sibling.hash().unwrap_or_default());
            link = child;
        }
        let found = match link {
            Link::Leaf(leaf) => Some((leaf.key.clone(), leaf.value.clone())),
            Link::Empty | Link::Branch(_) => None,
        };
        let siblings = List::try_from(siblings);
        assert!(siblings.is_ok(), "a path has 256 bits");
        Proof { found, siblings: siblings.unwrap_or_default() }
    }
}

/// What stands at a depth once a new leaf has come to what stood there: nothing, or another leaf, from which it parts where
/// their paths do.
fn part<K, V>(other: Link<K, V>, new: Arc<Leaf<K, V>>, depth: u32) -> Link<K, V> {
    let Link::Leaf(other) = other else { return Link::Leaf(new) };
    let parts = (depth..PROOF_SIBLINGS_MAX).find(|depth| bit(&other.path, *depth) != bit(&new.path, *depth));
    let mut parts = parts.unwrap_or(PROOF_SIBLINGS_MAX.saturating_sub(1));
    let path = new.path;
    let mut children = [Link::Leaf(other), Link::Leaf(new)];
    if bit(&path, parts) == 0 {
        children.reverse();
    }
    loop {
        let link = Link::Branch(Arc::new(Branch { children, len: 2, hash: None }));
        if parts <= depth {
            return link;
        }
        parts = parts.saturating_sub(1);
        children = [Link::Empty, Link::Empty];
        *side_mut(&mut children, bit(&path, parts)) = link;
    }
}

enum Task<K, V> {
    Visit(Link<K, V>),
    /// Both children are on the stack of sealed links.
    Join(Arc<Branch<K, V>>),
}

/// What a tree holds at the end of a key's path, and the way up from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Proof<K, V> {
    /// The entry that stands at the end of the path: the key's own, or another one's that proves its absence.
    found: Option<(K, V)>,
    /// From the root down.
    siblings: List<Hash, PROOF_SIBLINGS_MAX>,
}

/// A proof that does not prove what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disproved;

/// The root above a hash that stands at the end of a path, as deep as there are siblings.
fn up(path: &Hash, mut hash: Hash, siblings: &[Hash]) -> Hash {
    for (depth, sibling) in (0..).zip(siblings).collect::<Vec<_>>().into_iter().rev() {
        hash = if bit(path, depth) == 0 { branch_hash(&hash, sibling) } else { branch_hash(sibling, &hash) };
    }
    hash
}

impl<K: Serialize + PartialEq, V: Serialize> Proof<K, V> {
    /// What the tree with this root holds for the key: its value, or `None` if it has no such key.
    ///
    /// # Errors
    /// [`Disproved`] if the proof does not lead to the root, or leads there from a place that says nothing of the key.
    pub fn check(&self, root: &Hash, key: &K) -> Result<Option<&V>, Disproved> {
        let wanted = path(key);
        let depth = u32::try_from(self.siblings.len()).map_err(|_| Disproved)?;
        let hash = match &self.found {
            None => Hash::default(),
            Some((other, value)) => {
                let stands = path(other);
                if (0..depth).any(|depth| bit(&stands, depth) != bit(&wanted, depth)) {
                    return Err(Disproved);
                }
                leaf_hash(other, value)
            }
        };
        if up(&wanted, hash, &self.siblings) != *root {
            return Err(Disproved);
        }
        Ok(self.found.as_ref().filter(|(other, _)| other == key).map(|(_, value)| value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn sealed(entries: impl IntoIterator<Item = (u32, u64)>) -> Tree<u32, u64> {
        let mut tree = Tree::default();
        for (key, value) in entries {
            tree.insert(key, value);
        }
        tree.seal();
        tree
    }

    proptest! {
        #[test]
        fn it_is_a_map_whose_root_depends_on_its_entries_alone(
            changes in prop::collection::vec((0_u32..40, prop::option::of(0_u64..9)), 0..120),
            seals in prop::collection::vec(any::<bool>(), 120),
        ) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            for ((key, value), seal) in changes.iter().zip(&seals) {
                match value {
                    Some(value) => {
                        prop_assert_eq!(tree.insert(*key, *value), model.insert(*key, *value));
                    }
                    None => prop_assert_eq!(tree.remove(key), model.remove(key).is_some()),
                }
                if *seal {
                    tree.seal();
                }
            }
            let root = tree.seal();
            prop_assert_eq!(root, sealed(model.clone()).root());
            prop_assert_eq!(root, sealed(model.clone().into_iter().rev()).root());
            prop_assert_eq!(tree.len(), model.len() as u64);
            let places = (0..=tree.len()).map_while(|place| tree.nth(place)).collect::<Vec<_>>();
            prop_assert_eq!(places, tree.iter().collect::<Vec<_>>());
            prop_assert_eq!(tree.iter().map(|(k, v)| (*k, *v)).collect::<BTreeMap<_, _>>(), model.clone());
            for key in 0..40 {
                prop_assert_eq!(tree.get(&key), model.get(&key));
                let proof = tree.prove(&key);
                prop_assert_eq!(proof.check(&root, &key), Ok(model.get(&key)));
                let other = proof.check(&root, &(key + 1));
                prop_assert!(other.is_err() || other == Ok(model.get(&(key + 1))), "a proof never lies of another key");
            }
        }
    }

    #[test]
    fn an_older_copy_keeps_what_it_had() {
        let old = sealed((0..100).map(|key| (key, 1)));
        let (mut new, before) = (old.clone(), old.root());
        (0..100).for_each(|key| assert_eq!(new.insert(key, 2), Some(1)));
        assert_ne!(new.seal(), before);
        assert_eq!(old.root(), before);
        assert!((0..100).all(|key| old.get(&key) == Some(&1)));
    }

    #[test]
    fn a_proof_that_was_bent_proves_nothing() {
        let tree = sealed((0..50).map(|key| (key, u64::from(key))));
        let root = tree.root();
        let honest = tree.prove(&7);
        assert_eq!(honest.check(&root, &7), Ok(Some(&7)));
        let richer = Proof { found: Some((7, 8)), ..honest.clone() };
        assert_eq!(richer.check(&root, &7), Err(Disproved));
        let absent = Proof { found: None, ..honest.clone() };
        assert_eq!(absent.check(&root, &7), Err(Disproved));
        let mut short = honest.siblings.clone().into_vec();
        short.pop();
        assert_eq!(Proof { siblings: short.try_into().unwrap(), ..honest }.check(&root, &7), Err(Disproved));
    }

    #[test]
    fn the_empty_tree_has_a_root_and_proves_absence() {
        let tree = sealed([]);
        assert_eq!(tree.prove(&1).check(&tree.root(), &1), Ok(None));
    }
}
