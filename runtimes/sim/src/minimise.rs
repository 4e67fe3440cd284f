//! The smallest script that still fails in the same way: what a regression test should hold.
//!
//! Acts are left out, half of them at once and then ever fewer (delta debugging); then liars, nodes and time. Because every draw
//! is keyed by what it is for, what stays happens as it did before, as far as the missing parts did not cause it.

use std::fmt;

use crate::report::{Failure, Report};
use crate::scenario::{Scenario, Side, What};

/// A script that cannot be made smaller, or not within the attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimal {
    pub scenario: Scenario,
    pub failure: Failure,
    /// Acts of the script before.
    pub before: usize,
    /// Worlds that were run.
    pub attempts: u32,
}

/// The scenario's world does not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFailure;

impl fmt::Display for NoFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every invariant holds in this world: there is nothing to make smaller")
    }
}

impl std::error::Error for NoFailure {}

/// Makes a script smaller, in at most so many runs, as long as the same checker fails.
///
/// # Errors
/// [`NoFailure`] if nothing fails.
pub fn minimise(
    scenario: &Scenario,
    attempts_max: u32,
    run: impl FnMut(&Scenario) -> Report,
) -> Result<Minimal, NoFailure> {
    let mut search = Search { run, attempts: 0, attempts_max, checker: String::new() };
    let failure = (search.run)(scenario).failure.ok_or(NoFailure)?;
    search.checker.clone_from(&failure.checker);
    let mut best = (scenario.clone(), failure);
    search.shorten(&mut best);
    loop {
        let before = best.0.clone();
        search.drop_acts(&mut best);
        search.drop_liars(&mut best);
        search.drop_nodes(&mut best);
        search.shorten_acts(&mut best);
        search.shorten(&mut best);
        if best.0 == before || search.is_spent() {
            break;
        }
    }
    let (scenario_left, failure) = best;
    Ok(Minimal { scenario: scenario_left, failure, before: scenario.acts.len(), attempts: search.attempts })
}

/// A scenario and how it fails.
type Best = (Scenario, Failure);

struct Search<R> {
    run: R,
    attempts: u32,
    attempts_max: u32,
    checker: String,
}

impl<R: FnMut(&Scenario) -> Report> Search<R> {
    const fn is_spent(&self) -> bool {
        self.attempts >= self.attempts_max
    }

    /// Takes a candidate if it still fails in the same way.
    fn takes(&mut self, best: &mut Best, candidate: Scenario) -> bool {
        if self.is_spent() || candidate == best.0 {
            return false;
        }
        self.attempts += 1;
        match (self.run)(&candidate).failure {
            Some(failure) if failure.checker == self.checker => {
                *best = (candidate, failure);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends the faults where the world failed.
    fn shorten(&mut self, best: &mut Best) {
        let failed_ms = best.1.at_us / 1000 + 1;
        if failed_ms < best.0.world.duration_ms {
            let mut candidate = best.0.clone();
            candidate.world.duration_ms = failed_ms;
            candidate.acts.retain(|act| act.at_ms <= failed_ms);
            self.takes(best, candidate);
        }
    }

    fn drop_acts(&mut self, best: &mut Best) {
        let mut size = best.0.acts.len();
        while size > 0 && !self.is_spent() {
            let (mut at, before) = (0, best.0.acts.len());
            while at < best.0.acts.len() && !self.is_spent() {
                let mut candidate = best.0.clone();
                let end = (at + size).min(candidate.acts.len());
                candidate.acts.drain(at..end);
                if !self.takes(best, candidate) {
                    at = end;
                }
            }
            // One act may be in the way of another: single ones are tried until none can go.
            size = if size == 1 && best.0.acts.len() < before { 1 } else { size / 2 };
        }
    }

    fn drop_liars(&mut self, best: &mut Best) {
        for liar in best.0.world.byzantine.clone() {
            let mut candidate = best.0.clone();
            candidate.world.byzantine.retain(|other| *other != liar);
            self.takes(best, candidate);
        }
    }

    /// Leaves out the nodes of the highest numbers.
    fn drop_nodes(&mut self, best: &mut Best) {
        let mut size = best.0.world.nodes / 2;
        while size > 0 && !self.is_spent() {
            let nodes = best.0.world.nodes;
            let fits = nodes > size && self.takes(best, with_nodes(&best.0, nodes - size));
            if !fits {
                size /= 2;
            }
        }
    }

    fn shorten_acts(&mut self, best: &mut Best) {
        for place in 0..best.0.acts.len() {
            loop {
                let mut candidate = best.0.clone();
                candidate.acts[place].for_ms /= 2;
                if !self.takes(best, candidate) {
                    break;
                }
            }
        }
    }
}

/// The scenario without the nodes from a number on.
fn with_nodes(scenario: &Scenario, nodes: u32) -> Scenario {
    let mut fewer = scenario.clone();
    fewer.world.nodes = nodes;
    fewer.world.founders = fewer.world.founders.min(nodes);
    fewer.world.byzantine.retain(|liar| liar.node < nodes);
    fewer.acts.retain(|act| act.what.node().is_none_or(|node| node < nodes));
    for act in &mut fewer.acts {
        if let What::Partition { side: Side::Nodes(side), .. } = &mut act.what {
            side.retain(|node| *node < nodes);
        }
    }
    fewer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Count;
    use crate::{Act, Options, World};

    /// A world in which a node may not fall inside a step: a mistake that is planted in the rules.
    fn forbidden(scenario: &Scenario) -> Report {
        let mut report = World::new(scenario).run();
        report.failure = None;
        if report.counts.get(Count::CrashesInside) > 0 {
            let what = "a node fell inside a step".to_owned();
            report.failure = Some(Failure { checker: "planted".into(), at_us: report.ended_us, node: None, what });
        }
        report
    }

    fn crash(node: u32) -> What {
        What::Crash { node, keep: 0, torn: false, outputs: Some(0) }
    }

    fn failing() -> Scenario {
        let options =
            Options { nodes: 4, every_fault: true, byzantine_ppm: 250_000, duration_ms: 60_000, ..Options::default() };
        // Nobody wants anything and nobody waits for the calm to end: a run takes milliseconds.
        let mut scenario = Scenario::draw(&options, 3).unwrap();
        (scenario.world.wish_ms, scenario.world.calm_ms, scenario.world.start_ms) = (0, 0, 0);
        scenario.acts.push(Act { at_ms: 20_000, for_ms: 5, what: crash(2) });
        scenario.acts.push(Act { at_ms: 30_000, for_ms: 5, what: crash(1) });
        scenario
    }

    #[test]
    fn a_script_shrinks_to_the_acts_that_matter() {
        let scenario = failing();
        assert!(scenario.acts.len() > 10, "{}", scenario.acts.len());
        let minimal = minimise(&scenario, 300, forbidden).unwrap();
        assert_eq!(minimal.before, scenario.acts.len());
        let [act] = &minimal.scenario.acts[..] else { panic!("one act is left: {:?}", minimal.scenario.acts) };
        assert!(matches!(act.what, What::Crash { outputs: Some(_), .. }));
        assert!(minimal.scenario.world.byzantine.is_empty());
        assert!(act.what.node() == Some(minimal.scenario.world.nodes - 1), "no node too many");
        assert_eq!(forbidden(&minimal.scenario).failure, Some(minimal.failure), "it is a script like any other");
    }

    #[test]
    fn attempts_are_limited_and_the_best_so_far_is_kept() {
        let minimal = minimise(&failing(), 5, forbidden).unwrap();
        assert_eq!(minimal.attempts, 5);
        assert!(forbidden(&minimal.scenario).failure.is_some());
    }

    #[test]
    fn a_world_that_holds_is_said_to() {
        let scenario = Scenario::draw(&Options::calm(2, 1000), 1).unwrap();
        assert_eq!(minimise(&scenario, 10, forbidden), Err(NoFailure));
    }
}
