//! Our agreement and a second implementation in the same worlds, under the same checkers.

use neuroshard_tests::duel::{AS_IT_COMES, Cut, HASTY, Outcome, Protocol, SIMPLEX, Schedule, run};

const BOTH: [Protocol; 2] = [SIMPLEX, HASTY];

/// Loss, partitions, crashes and liars, each drawn by the seed.
fn storm(seed: u64, validators: usize, liars: usize) -> Schedule {
    Schedule {
        liars,
        delay_ms: 300,
        jitter_ms: 299,
        loss_percent: [5, 10, 20, 30][seed as usize % 4],
        cut: [Cut::Nothing, Cut::Halves, Cut::Leader, Cut::Shifting][seed as usize / 4 % 4],
        crashes: (seed / 16 % 3) as u32 * 3,
        calm_ms: 12_000,
        heals: true,
        ..Schedule::calm(validators)
    }
}

fn holds(protocol: &Protocol, schedule: Schedule, seed: u64) -> Outcome {
    run(protocol, schedule, seed).unwrap_or_else(|what| panic!("{what}"))
}

#[test]
fn storms_over_four_validators_with_a_liar_end_in_one_decision_of_either() {
    for protocol in BOTH {
        let outcomes: Vec<Outcome> = (0..1000).map(|seed| holds(&protocol, storm(seed, 4, 1), seed)).collect();
        let views = outcomes.iter().filter(|one| one.views > 1).count();
        let crashes: u32 = outcomes.iter().map(|one| one.crashes).sum();
        assert!(views > 400 && crashes > 1000, "{protocol:?}: the storms do something: {views}, {crashes}");
    }
}

#[test]
fn storms_over_seven_validators_with_two_liars_end_in_one_decision_of_either() {
    for protocol in BOTH {
        (1000..1300).for_each(|seed| drop(holds(&protocol, storm(seed, 7, 2), seed)));
    }
}

#[test]
fn storms_over_thirteen_validators_with_four_liars_end_in_one_decision_of_either() {
    for protocol in BOTH {
        (2000..2048).for_each(|seed| drop(holds(&protocol, storm(seed, 13, 4), seed)));
    }
}

#[test]
fn both_decide_within_three_delays_where_nothing_goes_wrong() {
    for protocol in [SIMPLEX, HASTY, AS_IT_COMES] {
        for (seed, validators) in (0..10).flat_map(|seed| [1, 4, 7].map(|count| (seed, count))) {
            let schedule = Schedule { jitter_ms: 0, ..Schedule::calm(validators) };
            let latest = holds(&protocol, schedule, seed).decided_ms.into_iter().max();
            let delays = if validators == 1 { 0 } else { 150 };
            assert_eq!(latest, Some(delays), "{protocol:?} with {validators} validators, seed {seed}");
        }
    }
}

#[test]
fn a_run_is_a_pure_function_of_its_seed() {
    for protocol in BOTH {
        let again = || holds(&protocol, storm(7, 4, 1), 7);
        assert_eq!(again(), again());
        assert_ne!(again(), holds(&protocol, storm(7, 4, 1), 8));
    }
}

#[test]
fn halves_decide_nothing_until_they_meet() {
    let schedule = Schedule { cut: Cut::Halves, calm_ms: 60_000, ..Schedule::calm(4) };
    for protocol in BOTH {
        let first = |seed| holds(&protocol, schedule, seed).decided_ms[0];
        let waited = (0..8).filter(|seed| first(*seed) >= 60_000).count();
        assert!((1..8).contains(&waited), "{protocol:?}: some seeds leave a quorum together and some do not: {waited}");
    }
}

/// More liars than any protocol bears: the checkers see what they do.
#[test]
fn with_two_liars_among_four_the_checkers_see_two_blocks_decided_by_either() {
    for protocol in BOTH {
        let schedule = |seed| Schedule { cut: Cut::Halves, calm_ms: 60_000, crashes: 0, ..storm(seed, 4, 2) };
        let seen = (0..400).filter_map(|seed| run(&protocol, schedule(seed), seed).err());
        let broken = seen.filter(|what| what.contains("two blocks decided")).count();
        assert!(broken > 0, "{protocol:?}");
    }
}
