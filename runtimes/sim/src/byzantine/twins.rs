//! Two cores with one key: the strongest liar that the protocol's own code can be.
//!
//! Both run the honest code with journals of their own, so between them they sign whatever two honest nodes could disagree
//! about. Each other node sees one twin at a time, and every twenty seconds it is drawn anew which.

use crate::draw::Draw;

/// How long a node sees the same twin.
const SEEN_US: u64 = 20_000_000;

/// Which of the twins of a node another host sees: the first or the second.
pub(crate) fn seen(draw: Draw, node: u32, other: u32, at: u64) -> usize {
    draw.of(u64::from(node)).of(u64::from(other)).of(at / SEEN_US).below(2) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_any_time_both_twins_are_seen_by_some_and_each_node_meets_both() {
        let draw = Draw::new(1, "twins");
        let some = |at: u64, twin| (0..20).any(|other| seen(draw, 3, other, at) == twin);
        assert!((0..20).all(|n| some(n * SEEN_US, 0) && some(n * SEEN_US, 1)));
        assert!([0, 1].iter().all(|twin| (0..20).any(|n| seen(draw, 3, 5, n * SEEN_US) == *twin)));
    }
}
