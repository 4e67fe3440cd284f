//! Random numbers as a function: one counter-based stream per purpose (ARCHITECTURE §2).
//!
//! Adding a draw for one purpose never changes what another purpose sees, and a stream can be read at any place.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::hash::{Domain, Hash, Hasher};

/// A stream of random numbers, named by a seed and a purpose. Its state is its key and how far it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Stream {
    key: Hash,
    counter: u64,
}

impl Stream {
    /// The stream of `seed` for `purpose`; `index` tells streams of one purpose apart.
    pub fn new(seed: &Hash, purpose: &str, index: u64) -> Self {
        let mut hasher = Hasher::new(Domain::Stream);
        hasher.update(seed.as_bytes()).update(&index.to_le_bytes()).update(purpose.as_bytes());
        Self { key: hasher.finish(), counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let value = self.at(self.counter);
        self.counter = self.counter.saturating_add(1);
        value
    }

    /// The 64 bits at a place, whatever was read before.
    pub fn at(&self, counter: u64) -> u64 {
        Hash::from_bytes(*blake3::keyed_hash(self.key.as_bytes(), &counter.to_le_bytes()).as_bytes()).short()
    }

    /// A number below `bound`, each with the same chance to within 2^-64.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        let product = u128::from(self.next_u64()).saturating_mul(u128::from(bound));
        u64::try_from(product >> 64_u32).unwrap_or_default()
    }

    /// Fills `out` with this stream's bytes from `position` on: a second, bulk output of the same key.
    pub fn fill(&self, position: u64, out: &mut [u8]) {
        let mut hasher = Hasher::new(Domain::Stream);
        hasher.update(self.key.as_bytes());
        let mut reader = hasher.finish_xof();
        reader.set_position(position);
        reader.fill(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_purposes_are_independent() {
        let seed = Hash::of_blob(b"seed");
        let mut a = Stream::new(&seed, "gossip", 0);
        let mut b = Stream::new(&seed, "batch", 0);
        let alone = b.clone().next_u64();
        a.next_u64();
        assert_eq!(b.next_u64(), alone);
        assert_ne!(Stream::new(&seed, "batch", 1).next_u64(), alone);
    }

    #[test]
    fn draws_cover_the_range_evenly() {
        let mut stream = Stream::new(&Hash::default(), "test", 0);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(stream.below(10)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
    }

    #[test]
    fn bulk_bytes_can_be_read_from_any_place() {
        let stream = Stream::new(&Hash::default(), "test", 0);
        let (mut whole, mut part) = ([0; 64], [0; 16]);
        stream.fill(0, &mut whole);
        stream.fill(24, &mut part);
        assert_eq!(whole[24..40], part);
    }
}
