//! Many seeds, on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::options::{Options, OptionsError};
use crate::proof::{Runs, run};
use crate::report::{Counts, Failure, Report};
use crate::scenario::Scenario;

/// What a campaign came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub worlds: u64,
    /// Milliseconds of all worlds' time.
    pub world_ms: u64,
    pub counts: Counts,
    /// Seeds whose worlds failed, in order.
    pub failures: Vec<(u64, Failure)>,
}

impl Tally {
    fn add(&mut self, seed: u64, report: &Report) {
        self.worlds += 1;
        self.world_ms += report.ended_us / 1000;
        self.counts.absorb(&report.counts);
        if let Some(failure) = &report.failure {
            let place = self.failures.partition_point(|(other, _)| *other < seed);
            self.failures.insert(place, (seed, failure.clone()));
        }
    }
}

/// Runs the worlds of many seeds on so many threads, each world on one. `hear` is told of each as it ends, in no certain order.
///
/// # Errors
/// If no world can be made of the options.
pub fn campaign(
    options: &Options,
    seeds: Range<u64>,
    runs: Runs,
    threads: usize,
    hear: impl FnMut(u64, &Report) + Send,
) -> Result<Tally, OptionsError> {
    options.check()?;
    let next = AtomicU64::new(seeds.start);
    let heard = Mutex::new((hear, Tally::default()));
    let work = || -> Result<(), OptionsError> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let report = run(&Scenario::draw(options, seed)?, runs);
            let mut heard = heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            heard.1.add(seed, &report);
            (heard.0)(seed, &report);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a world that panics is caught and reported"))
    })?;
    let (_, tally) = heard.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_runs_each_seed_once_whatever_the_threads() {
        let options = Options { nodes: 3, duration_ms: 60_000, ..Options::default() };
        let tally = |threads| {
            let mut seen = Vec::new();
            let tally = campaign(&options, 5..15, Runs::Once, threads, |seed, _| seen.push(seed)).unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (5..15).collect::<Vec<_>>());
            tally
        };
        assert_eq!(tally(1), tally(3));
        assert_eq!(tally(1).failures, []);
    }

    #[test]
    fn impossible_options_are_refused_before_anything_runs() {
        let options = Options { nodes: 0, ..Options::default() };
        let refused = campaign(&options, 0..5, Runs::Once, 2, |_, _| panic!("nothing runs"));
        assert_eq!(refused, Err(OptionsError::Nodes { nodes: 0 }));
    }
}
