//! A world is run twice: its second run must be its first, and every node's inputs, replayed alone, must lead where they led in
//! the world.

use crate::report::{Failure, Report};
use crate::scenario::Scenario;
use crate::world::{Recording, World};

/// How often a world is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runs {
    /// Once, for speed.
    Once,
    /// Twice, with every life of every node replayed alone.
    #[default]
    Twice,
}

/// Runs a world, and proves it if that is asked for.
pub fn run(scenario: &Scenario, runs: Runs) -> Report {
    let first = World::new(scenario).run();
    match runs {
        Runs::Once => first,
        Runs::Twice => compare(first, World::new(scenario).recording(Recording::Proof).run()),
    }
}

/// The first run's report, with what the second one found.
fn compare(mut first: Report, second: Report) -> Report {
    if first.failure.is_none() && second.failure.is_some() {
        first.failure = second.failure;
    } else if (first.chain, &first.counts) != (second.chain, &second.counts) {
        let what = format!("one scenario gave chains {} and {}", first.chain, second.chain);
        let failure = Failure { checker: "determinism".to_owned(), at_us: first.ended_us, node: None, what };
        first.failure.get_or_insert(failure);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Scenario};

    #[test]
    fn two_runs_that_differ_are_no_proof() {
        let scenario = |seed| Scenario::draw(&Options::calm(3, 20_000), seed).unwrap();
        let one = World::new(&scenario(1)).run();
        assert_eq!(compare(one.clone(), one.clone()).failure, None);
        let other = compare(one.clone(), World::new(&scenario(2)).run());
        assert_eq!(other.failure.unwrap().checker, "determinism");
        let mut failed = one.clone();
        failed.failure =
            Some(Failure { checker: "replay".into(), at_us: 5, node: Some(1), what: "another way".into() });
        assert_eq!(compare(one, failed.clone()).failure, failed.failure);
    }
}
