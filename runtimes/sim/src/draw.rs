//! Chance without a generator: every draw is a pure function of a seed, a purpose and where it is made.
//!
//! Nothing is read from a stream, so leaving one fault out of a world does not re-roll the others; that is what makes worlds
//! shrink. All chances are whole parts per million.

use neuroshard_proto::Stream;

/// Parts per million that make certainty.
pub(crate) const MILLION: u64 = 1_000_000;

/// The draws of one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw(u64);

impl Draw {
    /// The draws of a world's seed for a purpose.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Stream::new(&neuroshard_proto::Hash::from_bytes(bytes), purpose, 0).next_u64())
    }

    /// The draws of a part of this purpose: of one link, one node, one fault.
    #[must_use]
    pub(crate) const fn of(self, part: u64) -> Self {
        Self(mix(self.0 ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// 64 bits.
    pub(crate) const fn bits(self) -> u64 {
        mix(self.0)
    }

    /// A number below `bound`; 0 if `bound` is.
    pub(crate) fn below(self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub(crate) fn between(self, low: u64, high: u64) -> u64 {
        debug_assert!(low <= high, "a range has its ends in order");
        low + self.below(high - low + 1)
    }

    /// True with a chance of so many in a million.
    pub(crate) fn happens(self, ppm: u64) -> bool {
        ppm > 0 && self.below(MILLION) < ppm
    }

    /// One of some choices.
    pub(crate) fn pick<T: Copy>(self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A bijection of 64 bits in which every bit of the argument moves every bit of the value (two rounds of multiply and
/// shift).
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_of_different_places_are_independent_and_even() {
        let draw = Draw::new(7, "test");
        assert_ne!(draw.of(1).bits(), draw.of(2).bits());
        assert_ne!(draw.of(1).of(2).bits(), draw.of(2).of(1).bits());
        assert_ne!(Draw::new(7, "other").bits(), draw.bits());
        assert_ne!(Draw::new(8, "test").bits(), draw.bits());
        let mut seen = [0_u32; 10];
        (0..10_000).for_each(|place| seen[draw.of(place).below(10) as usize] += 1);
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
    }

    #[test]
    fn a_chance_is_met_as_often_as_it_says() {
        let draw = Draw::new(1, "chance");
        let hits = (0..100_000).filter(|place| draw.of(*place).happens(50_000)).count();
        assert!((4_500..5_500).contains(&hits), "{hits}");
        assert!((0..1000).all(|place| !draw.of(place).happens(0)));
        assert!((0..1000).all(|place| draw.of(place).happens(MILLION)));
        assert!((0..1000).all(|place| (3..=5).contains(&draw.of(place).between(3, 5))));
    }
}
