//! Parts of a tree that prove themselves: how the agreed state travels.

use alloc::vec::Vec;

use neuroshard_proto::{Hash, List};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::{Disproved, Link, PROOF_SIBLINGS_MAX, Tree, bit, path, sides, up};

/// A part of a tree: all entries whose paths begin with a prefix, and the way up from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Piece<K, V> {
    /// Its first bits, as many as there are siblings, are the prefix; the others are 0.
    prefix: Hash,
    /// From the root down.
    siblings: List<Hash, PROOF_SIBLINGS_MAX>,
    entries: List<(K, V), PIECE_ENTRIES_MAX>,
}

/// Most entries of a piece.
pub const PIECE_ENTRIES_MAX: u32 = 512;

impl<K: Clone + Serialize, V: Clone + Serialize> Tree<K, V> {
    /// Cuts the sealed tree into as few pieces as go without cutting below a branch of at most so many entries: in the order
    /// of paths, and the same on every node.
    pub fn pieces(&self, most: u32) -> impl Iterator<Item = Piece<K, V>> {
        let mut open = Vec::from([(&self.top, Hash::default(), Vec::new())]);
        core::iter::from_fn(move || {
            while let Some((link, prefix, siblings)) = open.pop() {
                match link {
                    Link::Branch(branch) if branch.len > u64::from(most) => {
                        let depth = u32::try_from(siblings.len()).unwrap_or(u32::MAX);
                        for side in [1, 0] {
                            let (child, other) = sides(&branch.children, side);
                            let mut siblings = siblings.clone();
                            siblings.push(other.hash().unwrap_or_default());
                            open.push((child, with_bit(prefix, depth, side), siblings));
                        }
                    }
                    Link::Empty => {}
                    Link::Leaf(_) | Link::Branch(_) => return Some(piece(link, prefix, siblings)),
                }
            }
            None
        })
    }

    /// The piece of the sealed tree in which a path lies. One without entries says that nothing hangs there.
    pub fn piece_at(&self, path: &Hash, most: u32) -> Piece<K, V> {
        let (mut link, mut prefix, mut siblings) = (&self.top, Hash::default(), Vec::new());
        for depth in 0..PROOF_SIBLINGS_MAX {
            let Link::Branch(branch) = link else { break };
            if branch.len <= u64::from(most) {
                break;
            }
            let side = bit(path, depth);
            let (child, other) = sides(&branch.children, side);
            siblings.push(other.hash().unwrap_or_default());
            (link, prefix) = (child, with_bit(prefix, depth, side));
        }
        piece(link, prefix, siblings)
    }
}

fn piece<K: Clone + Serialize, V: Clone + Serialize>(link: &Link<K, V>, prefix: Hash, way: Vec<Hash>) -> Piece<K, V> {
    let part = Tree { top: link.clone() };
    let entries = List::try_from(part.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>());
    let siblings = List::try_from(way);
    assert!(entries.is_ok() && siblings.is_ok(), "a piece is cut so that it fits");
    Piece { prefix, siblings: siblings.unwrap_or_default(), entries: entries.unwrap_or_default() }
}

fn with_bit(path: Hash, depth: u32, side: usize) -> Hash {
    let (mut bytes, place) = (*path.as_bytes(), usize::try_from(depth >> 3).unwrap_or_default());
    if let Some(byte) = bytes.get_mut(place).filter(|_| side == 1) {
        *byte |= 0x80 >> (depth & 7);
    }
    Hash::from_bytes(bytes)
}

/// A path's first bits, the others 0: where a piece or a part of a tree begins.
pub(super) fn prefix(path: &Hash, bits: u32) -> Hash {
    (0..bits).fold(Hash::default(), |prefix, depth| with_bit(prefix, depth, bit(path, depth)))
}

/// The first path after all that begin as this one with so many bits; `None` after the last.
pub(super) fn after(path: &Hash, bits: u32) -> Option<Hash> {
    let zero = (0..bits).rev().find(|depth| bit(path, *depth) == 0)?;
    Some(with_bit(prefix(path, zero), zero, 1))
}

impl<K, V> Piece<K, V> {
    /// Whether a path lies in this piece.
    pub fn covers(&self, path: &Hash) -> bool {
        prefix(path, self.bits()) == self.prefix
    }

    /// The first path after this piece; `None` if it is the last one of its tree.
    pub fn end(&self) -> Option<Hash> {
        after(&self.prefix, self.bits())
    }

    fn bits(&self) -> u32 {
        u32::try_from(self.siblings.len()).unwrap_or(PROOF_SIBLINGS_MAX)
    }
}

impl<K: Clone + Serialize, V: Clone + Serialize> Piece<K, V> {
    /// The entries, if they are all that the tree with this root has under the piece's prefix.
    ///
    /// # Errors
    /// [`Disproved`] if they are not.
    pub fn check(&self, root: &Hash) -> Result<&[(K, V)], Disproved> {
        let depth = u32::try_from(self.siblings.len()).map_err(|_| Disproved)?;
        if (depth..PROOF_SIBLINGS_MAX).any(|depth| bit(&self.prefix, depth) != 0) {
            return Err(Disproved);
        }
        let mut part = Tree::default();
        for (key, value) in &self.entries {
            let path = path(key);
            if (0..depth).any(|depth| bit(&path, depth) != bit(&self.prefix, depth)) {
                return Err(Disproved);
            }
            if part.insert(key.clone(), value.clone()).is_some() {
                return Err(Disproved);
            }
        }
        part.seal();
        // The way down to the prefix has nothing on its other side.
        let mut link = &part.top;
        for depth in 0..depth {
            let Link::Branch(branch) = link else { break };
            link = sides(&branch.children, bit(&self.prefix, depth)).0;
        }
        let hash = up(&self.prefix, link.hash().unwrap_or_default(), &self.siblings);
        if hash == *root { Ok(&self.entries) } else { Err(Disproved) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of so many entries, all of whose paths begin with the bits 101.
    fn leaning(entries: usize) -> Tree<u32, u64> {
        let leans = |key: &u32| prefix(&path(key), 3).as_bytes().first() == Some(&0b1010_0000);
        let mut tree = Tree::default();
        (0..).filter(leans).take(entries).for_each(|key| {
            tree.insert(key, u64::from(key));
        });
        tree.seal();
        tree
    }

    #[test]
    fn who_goes_from_piece_to_piece_by_path_meets_every_entry_once() {
        for entries in [1, 512, 513, 2000] {
            let tree = leaning(entries);
            let (mut at, mut met, mut empty) = (Some(Hash::default()), 0, 0);
            while let Some(place) = at {
                let piece = tree.piece_at(&place, PIECE_ENTRIES_MAX);
                assert!(piece.covers(&place) && piece.end().is_none_or(|end| end > place));
                let entries = piece.check(&tree.root()).expect("a true piece");
                met += entries.len();
                empty += usize::from(entries.is_empty());
                at = piece.end();
            }
            assert_eq!(met, entries);
            assert!(empty > 0 || entries <= 512, "the branches beside 101 are proved empty");
        }
    }

    #[test]
    fn an_empty_piece_proves_nothing_where_something_hangs() {
        let tree = leaning(600);
        let somewhere = path(tree.nth(0).expect("an entry").0);
        let honest = tree.piece_at(&somewhere, PIECE_ENTRIES_MAX);
        let bare = Piece::<u32, u64> { entries: List::new(), ..honest };
        assert_eq!(bare.check(&tree.root()), Err(Disproved));
    }

    #[test]
    fn the_path_after_a_prefix_is_the_next_one_of_its_length() {
        let of = |byte: u8| {
            let mut path = [0; 32];
            path[0] = byte;
            Hash::from_bytes(path)
        };
        assert_eq!(after(&of(0), 0), None, "the whole tree has no end");
        assert_eq!(after(&of(0b0100_0000), 2), Some(of(0b1000_0000)));
        assert_eq!(after(&of(0b1100_0000), 2), None);
        assert_eq!(after(&of(0b1100_0000), 3), Some(of(0b1110_0000)));
        assert_eq!(after(&Hash::from_bytes([0xff; 32]), 256), None);
    }
}
