//! Worlds, whole: what they do with faults, that they are what they were, and that what must hold does.

use std::sync::atomic::{AtomicU64, Ordering};

use neuroshard_sim::{
    Act, Byzantine, Count, Counts, Failure, Fault, Lie, Machines, Options, Recording, Report, Runs, Scenario, Side,
    Strategy, What, World, campaign, run,
};

/// A world in which one thing goes wrong.
fn with(nodes: u32, acts: Vec<Act>) -> Scenario {
    let mut scenario = Scenario::draw(&Options::calm(nodes, 150_000), 11).expect("a world");
    (scenario.world.batch_ms, scenario.world.start_ms, scenario.world.wish_ms) = (500, 0, 20_000);
    scenario.acts = acts;
    scenario
}

fn act(at_ms: u64, for_ms: u64, what: What) -> Act {
    Act { at_ms, for_ms, what }
}

/// What one thing leads to, in a world that holds all the same.
fn counts(scenario: &Scenario) -> Counts {
    let report = run(scenario, Runs::Once);
    assert_eq!(report.failure, None, "{report}");
    report.counts
}

#[test]
fn a_calm_world_converges_and_loses_nothing() {
    let counts = counts(&with(7, Vec::new()));
    for count in [Count::Lost, Count::Duplicated, Count::Corrupted, Count::Refused, Count::Crashes, Count::Restarts] {
        assert_eq!(counts.get(count), 0, "{}", count.name());
    }
    assert!(counts.get(Count::Delivered) > 400, "seven nodes, six neighbours");
    assert!(counts.get(Count::Blocks) > 3 && counts.get(Count::Transactions) > 0, "they decide");
}

#[test]
fn a_node_alone_trains_through_everything_that_strikes_it() {
    let options = Options { nodes: 1, every_fault: true, ..Options::default() };
    for seed in 0..4 {
        let counts = counts(&Scenario::draw(&options, seed).expect("a world"));
        assert!(counts.get(Count::Trained) > 100, "seed {seed}: {}", counts.get(Count::Trained));
    }
}

#[test]
fn nodes_find_each_other_and_train_together_through_everything_that_strikes_them() {
    let options = Options { quorums: true, ..Options::default() };
    // Seeds that once found something: an answer that never came, a state that one member alone had, an anchor given up for
    // good or dropped by its only holder, and a quorum whose member had no device.
    let seeds = [96, 171, 276, 285, 490];
    let mut all = Counts::default();
    for seed in seeds {
        let report = run(&Scenario::draw(&options, seed).expect("a world"), Runs::Once);
        assert_eq!(report.failure, None, "{report}");
        all.absorb(&report.counts);
    }
    assert!(all.get(Count::Quorums) > 30 && all.get(Count::Fetched) > 1000, "{all:?}");
    assert!(all.get(Count::Trained) > 1000, "{}", all.get(Count::Trained));
}

#[test]
fn nodes_whose_neighbours_cannot_help_find_others_in_the_ledger() {
    // Each has room for one of eight stages and eight neighbours, who hold all the others in one case of a few hundred.
    let options = Options { quorums: true, ..Options::calm(80, 60_000) };
    let mut scenario = Scenario::draw(&options, 1).expect("a world");
    let machines = Machines { layer_us: 5000, stages: 1, layers: 7, sequences: 8, sync_interval: 10, session_s: 3600 };
    scenario.world.machines = Some(machines);
    (scenario.world.start_ms, scenario.world.wish_ms) = (0, 0);
    let counts = counts(&scenario);
    assert!(counts.get(Count::Quorums) >= 8 && counts.get(Count::Trained) > 0, "{counts:?}");
    assert!(counts.get(Count::SentToForm) < 3000, "{} words", counts.get(Count::SentToForm));
}

#[test]
fn a_world_of_quorums_is_what_it_was_and_each_of_its_nodes_replays_alone() {
    let options = Options { quorums: true, duration_ms: 120_000, ..Options::default() };
    let report = run(&Scenario::draw(&options, 4).expect("a world"), Runs::Twice);
    assert_eq!(report.failure, None, "{report}");
    assert!(report.counts.get(Count::Quorums) > 0, "{report}");
}

#[test]
fn every_kind_of_fault_does_something() {
    let whole = 140_000;
    let loss = What::Loss { good_ppm: 10_000, bad_ppm: 900_000, worsen_ppm: 100_000, improve_ppm: 200_000, salt: 1 };
    let crash = |outputs| What::Crash { node: 0, keep: 0, torn: true, outputs };
    let side = || Side::Nodes(vec![0, 1]);
    let table: Vec<(u32, What, &[Count])> = vec![
        (7, loss, &[Count::Lost]),
        (7, What::Duplicate { ppm: 200_000, salt: 2 }, &[Count::Duplicated]),
        (7, What::Reorder { ppm: 200_000, by_ms: 4000, salt: 3 }, &[Count::Reordered]),
        (7, What::Corrupt { ppm: 200_000, salt: 4 }, &[Count::Corrupted, Count::Refused]),
        (7, What::Bandwidth { bytes_per_s: 100 }, &[Count::Throttled]),
        (7, What::Partition { side: side(), one_way: false }, &[Count::Blocked]),
        (7, What::Partition { side: side(), one_way: true }, &[Count::Blocked]),
        (7, What::Clog { node: 2 }, &[Count::Clogged]),
        (7, crash(None), &[Count::Crashes, Count::Restarts, Count::ToNobody]),
        (1, crash(Some(0)), &[Count::Crashes, Count::CrashesInside, Count::Restarts]),
        (1, What::Disk { node: 0, late_ms: 3000, twice: true }, &[Count::SyncsLate, Count::ReportsTwice]),
        (7, What::Jump { node: 3, ms: 20_000 }, &[Count::Jumps]),
        (7, What::Jump { node: 3, ms: -20_000 }, &[Count::Jumps]),
        (7, What::Rate { node: 3, ppm: 20_000 }, &[Count::Turns]),
        (1, What::Compute { node: 0, lie: Lie::Late, salt: 5 }, &[Count::JobsLate]),
        (1, What::Compute { node: 0, lie: Lie::Lost, salt: 5 }, &[Count::JobsLost]),
        (1, What::Compute { node: 0, lie: Lie::Wrong, salt: 5 }, &[Count::JobsWrong]),
        (7, What::Leave { node: 4 }, &[Count::Leaves, Count::Restarts, Count::ToNobody]),
    ];
    for (nodes, what, expected) in table {
        let counts = counts(&with(nodes, vec![act(5_000, whole, what.clone())]));
        for count in expected {
            assert!(counts.get(*count) > 0, "{what:?} led to no {}", count.name());
        }
    }
}

#[test]
fn a_crash_tears_what_the_disk_had_not_synced() {
    // A slow disk, and a crash each half minute: some of them find a record on its way.
    let slow = act(0, 149_000, What::Disk { node: 0, late_ms: 30_000, twice: false });
    let crash =
        |n: u64| act(n * 29_000, 200, What::Crash { node: 0, keep: 0, torn: n.is_multiple_of(2), outputs: None });
    let counts = counts(&with(1, std::iter::once(slow).chain((1..6).map(crash)).collect()));
    assert!(counts.get(Count::RecordsLost) > 0 && counts.get(Count::RecordsTorn) > 0, "{counts:?}");
}

#[test]
fn every_strategy_does_something_and_the_honest_hold() {
    let table: [(Strategy, &[Count]); 5] = [
        (Strategy::Twins, &[Count::Hidden]),
        (Strategy::Silence, &[Count::Silenced]),
        (Strategy::Stale, &[Count::Forged]),
        (Strategy::Certificates, &[Count::Forged]),
        (Strategy::Garbage, &[Count::Forged, Count::Refused]),
    ];
    for (strategy, expected) in table {
        let strategies = vec![strategy];
        let options = Options { byzantine_ppm: 300_000, strategies, ..Options::calm(7, 100_000) };
        let counts = counts(&Scenario::draw(&options, 2).expect("a world"));
        for count in expected {
            assert!(counts.get(*count) > 0, "{strategy} led to no {}", count.name());
        }
    }
}

/// Two minutes of everything that can go wrong, two liars among seven: the short version of the campaign in the book.
#[test]
fn a_newcomer_takes_the_state_from_validators_of_whom_half_lie_about_it() {
    // The others decide more blocks than they keep before it comes back; two of the four lie about states and nothing else.
    let (away, back) = (1_000, 11_400_000);
    let mut scenario = Scenario::draw(&Options::calm(5, back + 100_000), 3).expect("a world");
    (scenario.world.training, scenario.world.founders, scenario.world.wish_ms) = (false, 4, 600_000);
    let lies = |node| Byzantine { node, strategy: Strategy::States };
    scenario.world.byzantine = vec![lies(1), lies(2)];
    scenario.acts = vec![act(away, back - away, What::Leave { node: 4 })];
    let counts = counts(&scenario);
    assert!(counts.get(Count::Blocks) > 1100, "{counts:?}");
    assert!(counts.get(Count::StatesTaken) >= 1 && counts.get(Count::Forged) > 0, "{counts:?}");
}

#[test]
fn a_hundred_worlds_with_everything_that_can_go_wrong_hold() {
    let options = Options { byzantine_ppm: 300_000, duration_ms: 120_000, ..Options::default() };
    let worst = AtomicU64::new(0);
    let hear = |_, report: &Report| {
        worst.fetch_max(report.converged_us.unwrap_or_default() / 1_000_000, Ordering::Relaxed);
    };
    // What happens twice is compared, and each node replayed alone.
    for (seeds, runs) in [(0..6, Runs::Twice), (6..100, Runs::Once)] {
        let tally = campaign(&options, seeds.clone(), runs, 2, hear).expect("options");
        let command = |(seed, failure): &(u64, Failure)| {
            format!("neuroshard sim --byzantine 0.3 --hours 2m --seed {seed}: {failure}")
        };
        let commands: Vec<String> = tally.failures.iter().map(command).collect();
        assert!(commands.is_empty(), "{}", commands.join("\n"));
        assert_eq!(tally.worlds, seeds.end - seeds.start);
    }
    assert!(worst.into_inner() <= 300, "peers are back within two heartbeats and an offline age");
}

#[test]
fn a_large_world_listens_and_converges() {
    let options = Options { nodes: 500, duration_ms: 120_000, training: false, ..Options::default() };
    let options = Options { faults: vec![Fault::Loss, Fault::Partition, Fault::Churn], every_fault: true, ..options };
    let report = run(&Scenario::draw(&options, 4).expect("a world"), Runs::Once);
    assert_eq!(report.failure, None, "{report}");
    assert!(report.counts.get(Count::Blocked) > 0);
}

#[test]
fn a_log_has_a_line_for_each_step_and_changes_nothing() {
    let scenario = with(3, vec![act(1000, 60_000, What::Duplicate { ppm: 500_000, salt: 9 })]);
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let logged = World::new(&scenario).logging(log.reopen().expect("the same file")).run();
    assert_eq!(logged, World::new(&scenario).run());
    let text = std::fs::read_to_string(log.path()).expect("text");
    let steps = text.lines().filter(|line| line.contains(" < ")).count() as u64;
    assert_eq!(steps, logged.counts.get(Count::Steps));
    assert!(text.contains("Heartbeat duplicated") && text.contains("starts its life 1"), "{text}");
}

#[test]
fn the_traces_of_a_world_can_be_kept_and_replayed_by_anybody() {
    let scenario = with(2, vec![act(100_000, 1000, What::Crash { node: 1, keep: 9, torn: false, outputs: None })]);
    let mut world = World::new(&scenario).recording(Recording::Kept);
    assert_eq!(world.run().failure, None);
    let lives: Vec<(u32, u32)> = world.traces().iter().map(|trace| (trace.node, trace.life)).collect();
    assert_eq!(lives, [(1, 1), (0, 1), (1, 2)]);
    for trace in world.traces() {
        let mut reader = neuroshard_replay::Reader::new(std::io::Cursor::new(&trace.bytes)).expect("a trace");
        let report = neuroshard_replay::replay(&mut reader);
        assert!(report.is_equal() && report.steps > 10, "{report}");
    }
}
