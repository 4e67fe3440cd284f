//! What makes a part of a blob checkable by itself: BLAKE3 is a tree, and a blob's *outline* is a level of it.
//!
//! A blob is cut into parts of [`PART_BYTES`], each a whole subtree. The outline holds the length and the chaining value of each
//! part; they merge to the blob's hash, so a wrong value is told from the hash alone, and a wrong part from its value. The length
//! is proved by the last part: whoever gives an outline gives that part with it.

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use neuroshard_proto::Hash;

/// Bytes of a part (PROTOCOL §1): all but the last have as many.
pub const PART_BYTES: u64 = 256 << 10;
/// Most parts of a blob: 8 GiB of them.
const PARTS_MAX: u64 = 32_768;
/// Most bytes of an encoded outline.
pub const OUTLINE_BYTES_MAX: u64 = 8 + 32 * PARTS_MAX;

/// A blob's length and the chaining values of its parts. Only one whose values fit a hash can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    hash: Hash,
    length: u64,
    parts: Vec<ChainingValue>,
}

impl Outline {
    /// The outline of a blob; `None` if the blob is too large for one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::of_checked(Hash::of_blob(bytes), bytes)
    }

    /// As [`Self::of`], for bytes that are known to have this hash.
    pub fn of_checked(hash: Hash, bytes: &[u8]) -> Option<Self> {
        let length = bytes.len() as u64;
        let parts = match parts(length)? {
            1 => Vec::new(),
            _ => bytes.chunks(PART_BYTES as usize).zip(0..).map(|(part, index)| value(part, index)).collect(),
        };
        Some(Self { hash, length, parts })
    }

    /// Reads an outline that is said to belong to a hash; `None` if it does not.
    pub fn read(hash: Hash, bytes: &[u8]) -> Option<Self> {
        let (length, values) = bytes.split_first_chunk::<8>()?;
        let length = u64::from_le_bytes(*length);
        let (parts_found, rest) = values.as_chunks::<32>();
        let wanted = parts(length).map(|parts| if parts == 1 { 0 } else { parts })?;
        if !rest.is_empty() || parts_found.len() as u64 != wanted {
            return None;
        }
        let outline = Self { hash, length, parts: parts_found.to_vec() };
        // The hash of a blob of one part is that part's own check.
        (wanted == 0 || outline.root() == hash).then_some(outline)
    }

    /// The encoding that [`Self::read`] takes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.length.to_le_bytes()[..], self.parts.as_flattened()].concat()
    }

    /// Bytes of the blob.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Parts of the blob.
    pub fn parts(&self) -> u64 {
        (self.parts.len() as u64).max(1)
    }

    /// Where a part begins, and how long it is.
    pub fn range(&self, part: u64) -> (u64, u64) {
        let begin = part.saturating_mul(PART_BYTES).min(self.length);
        (begin, (self.length - begin).min(PART_BYTES))
    }

    /// Whether bytes are this part of the blob.
    pub fn holds(&self, part: u64, bytes: &[u8]) -> bool {
        if bytes.len() as u64 != self.range(part).1 || part >= self.parts() {
            return false;
        }
        match usize::try_from(part).ok().and_then(|place| self.parts.get(place)) {
            Some(expected) => value(bytes, part) == *expected,
            None => Hash::of_blob(bytes) == self.hash,
        }
    }

    /// Merges the parts' values, level by level, as the tree's shape wants it: each left side is a whole power of two.
    fn root(&self) -> Hash {
        let mut level: Vec<(ChainingValue, u64)> =
            self.parts.iter().zip(0..).map(|(value, part)| (*value, self.range(part).1)).collect();
        while level.len() > 2 {
            let mut next = Vec::with_capacity(level.len().div_ceil(2));
            for pair in level.chunks(2) {
                next.push(match pair {
                    [(left, a), (right, b)] => (merge_subtrees_non_root(left, right, Mode::Hash), a + b),
                    [lone, ..] => *lone,
                    [] => break,
                });
            }
            level = next;
        }
        match &level[..] {
            [(left, length), (right, _)] => {
                debug_assert_eq!(*length, left_subtree_len(self.length));
                Hash::from_bytes(*merge_subtrees_root(left, right, Mode::Hash).as_bytes())
            }
            _ => Hash::default(),
        }
    }
}

/// Parts of a blob of this length; `None` if they are too many.
fn parts(length: u64) -> Option<u64> {
    Some(length.div_ceil(PART_BYTES).max(1)).filter(|parts| *parts <= PARTS_MAX)
}

fn value(part: &[u8], index: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(index * PART_BYTES).update(part).finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(length: usize) -> Vec<u8> {
        (0..length as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
    }

    #[test]
    fn an_outline_leads_to_the_hash_for_every_shape_of_tree() {
        let part = PART_BYTES as usize;
        for length in [0, 1, 1024, part - 1, part, part + 1, 2 * part, 3 * part, 5 * part + 7, 8 * part, 13 * part - 1]
        {
            let bytes = blob(length);
            let outline = Outline::of(&bytes).unwrap();
            let read = Outline::read(Hash::of_blob(&bytes), &outline.to_bytes());
            assert_eq!(read.as_ref(), Some(&outline), "{length}");
            let mut together = Vec::new();
            for part in 0..outline.parts() {
                let (begin, length) = outline.range(part);
                let bytes = &bytes[begin as usize..(begin + length) as usize];
                assert!(outline.holds(part, bytes));
                together.extend_from_slice(bytes);
            }
            assert_eq!(together, bytes);
        }
    }

    #[test]
    fn a_wrong_outline_is_told_from_the_hash_and_a_wrong_part_from_the_outline() {
        let bytes = blob(3 * PART_BYTES as usize + 5);
        let (hash, outline) = (Hash::of_blob(&bytes), Outline::of(&bytes).unwrap());
        let good = outline.to_bytes();
        for place in (8..good.len()).step_by(3) {
            let mut wrong = good.clone();
            wrong[place] ^= 1;
            assert_eq!(Outline::read(hash, &wrong), None, "{place}");
        }
        assert_eq!(Outline::read(hash, &good[..good.len() - 32]), None);
        assert_eq!(Outline::read(hash, &[&good[..], &[0]].concat()), None);
        assert_eq!(Outline::read(hash, &u64::MAX.to_le_bytes()), None);
        // A wrong length has another number of parts, or a last part that nothing fits.
        let longer = Outline::read(hash, &[&(bytes.len() as u64 + 1).to_le_bytes(), &good[8..]].concat()).unwrap();
        let last = &bytes[3 * PART_BYTES as usize..];
        assert!(outline.holds(3, last) && !longer.holds(3, last) && !longer.holds(3, &[last, &[0]].concat()));
        let part = &bytes[PART_BYTES as usize..2 * PART_BYTES as usize];
        assert!(outline.holds(1, part) && !outline.holds(0, part) && !outline.holds(9, part));
        let mut wrong = part.to_vec();
        wrong[17] ^= 1;
        assert!(!outline.holds(1, &wrong) && !outline.holds(1, &part[1..]));
        // A length that is not the blob's, where there is only one part to check it by.
        let small = blob(100);
        let claimed = Outline::read(Hash::of_blob(&small), &99_u64.to_le_bytes()).unwrap();
        assert!(!claimed.holds(0, &small[..99]) && !claimed.holds(0, &small));
    }
}
