//! A node that is alone trains, saves, stops and comes back.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may stop at what it did not expect"
)]

mod scenario;

use neuroshard_core::proto::{
    BatchOutcome, Commitment, Fault, GenesisError, Hash, Job, LayerBlobs, Mode, Ratio, Snapshot, Step, Time,
    VoidReason, codec,
};
use neuroshard_core::{
    Command, Event, Input, JobKind, JournalFact, MAX_OUTPUTS, Misuse, ModeReason, Outbox, Record, Recovery,
    RestoreError, TimerKind,
};
use scenario::{Disk, World, config};

#[test]
fn a_lonely_node_measures_itself_chooses_solo_and_trains() {
    let mut world = World::new(config());
    world.train_to(3);
    let kinds: Vec<&str> = world.asked.iter().map(Job::name).collect();
    assert_eq!(kinds[..7], ["benchmark", "init", "evaluate", "train", "step", "train", "step"]);
    assert!(world.events.contains(&Event::ModeChosen { mode: Mode::Solo, reason: ModeReason::Alone }));
    let stepped = world.events.iter().filter(|event| matches!(event, Event::Stepped { .. })).count();
    assert_eq!(stepped, 3);
}

#[test]
fn snapshots_come_by_steps_and_old_ones_are_collected() {
    let mut world = World::new(config());
    world.train_to(450);
    assert_eq!(world.saved_steps(), [100, 200, 300, 400]);
    let kept: Vec<u64> = world.core.saved_states().iter().map(|state| state.snapshot.step.0).collect();
    assert_eq!(kept, [300, 400]);
    assert_eq!(world.disk.blobs, world.core.pinned(), "blobs of older snapshots are gone");
    let record = |bytes: &Vec<u8>| codec::decode::<Record>(bytes).unwrap().fact;
    let last = world.disk.journal.values().map(record).rfind(|fact| matches!(fact, JournalFact::Saved { .. }));
    assert!(matches!(last, Some(JournalFact::Saved { states, .. }) if states.len() == 2));
}

#[test]
fn snapshots_come_by_time_on_slow_machines_and_within_their_share() {
    let mut world = World::new(config());
    while world.core.model_step() < Step(60) {
        // 2 s a step by way of the batches; a snapshot costs 3 s.
        let ms = match &world.jobs[0].1 {
            Job::Train { .. } => 2000,
            Job::Snapshot { .. } => 3000,
            _ => 0,
        };
        world.answer(ms);
        world.persist();
    }
    // First after 30 s, then not before 20 times its cost has passed.
    assert_eq!(world.saved_steps(), [15, 45]);
}

#[test]
fn nothing_that_depends_on_a_record_happens_before_it_is_durable() {
    let mut world = World::new(config());
    world.train_to(100);
    let before = world.disk.blobs.clone();
    while world.unpersisted.is_none() {
        world.answer(20);
    }
    // Training goes on while the disk is slow, but nothing is announced and nothing dropped.
    for _ in 0..500 {
        world.answer(20);
    }
    assert!(world.core.model_step() > Step(300));
    assert_eq!(world.saved_steps(), []);
    assert!(before.is_subset(&world.disk.blobs));
    world.persist();
    assert_eq!(world.saved_steps(), [100]);
}

#[test]
fn a_stop_saves_first_and_gives_up_the_batch_under_way() {
    let mut world = World::new(config());
    world.train_to(7);
    world.command(Command::Stop);
    assert!(matches!(world.jobs.last(), Some((_, Job::Snapshot { .. } | Job::Step { .. }))));
    while !world.jobs.is_empty() {
        world.answer(20);
    }
    assert!(!world.events.iter().any(|event| matches!(event, Event::Stopped { .. })), "the record is not durable yet");
    world.persist();
    let step = world.core.model_step();
    assert_eq!(world.events.last(), Some(&Event::Stopped { step, saved: Some(step) }));
    let deadline = world.core.next_deadline().map(|(_, kind)| kind);
    assert!(!matches!(deadline, Some(TimerKind::Retry | TimerKind::Request | TimerKind::Release)), "{deadline:?}");
}

#[test]
fn a_node_that_comes_back_asks_for_the_very_batches_it_would_have_asked_for() {
    let mut whole = World::new(config());
    whole.train_to(40);
    // Stopped at every possible moment of the first steps, and continued.
    for answers in 3..30 {
        let mut first = World::new(config());
        for _ in 0..answers {
            first.answer(20);
            first.persist();
        }
        first.command(Command::Stop);
        while !first.jobs.is_empty() {
            first.answer(20);
            first.persist();
        }
        let stopped_at = first.core.model_step();
        let mut second = World::restart(config(), first.disk.clone(), first.now);
        second.train_to(40);
        let done = usize::try_from(stopped_at.0).unwrap();
        let rest = second.batches();
        assert_eq!(rest[..40 - done], whole.batches()[done..40], "stopped after {answers} answers");
    }
}

#[test]
fn weights_that_were_brought_along_are_the_first_state() {
    let (mut config, mut disk) = (config(), Disk::default());
    let stages = u64::from(config.genesis.model.layers) + 1;
    let blob = |stage| Hash::of_blob(format!("brought along {stage}").as_bytes());
    let layers: Vec<_> = (0..stages)
        .map(|stage| LayerBlobs { root: blob(stage), weights: blob(stage), moments: blob(stage + stages) })
        .collect();
    let (root, bytes) = (Hash::of_blob(b"their root"), config.genesis.model.state_bytes());
    let first = Snapshot { step: Step(0), root, layers: layers.try_into().unwrap(), bytes };
    let seeded = config.genesis.network();
    config.genesis.first = Some(first.clone());
    assert_ne!(config.genesis.network(), seeded, "the weights are part of the network's identity");
    config.operator.snapshot_every_steps = 10;
    config.operator.snapshot_share = Ratio::from_ppm(1_000_000);

    disk.blobs.extend((0..2 * stages).map(blob));
    let mut world = World::restart(config, disk, Time::ZERO);
    assert_eq!(world.core.pinned().len() as u64, 2 * stages);
    world.train_to(1);
    assert!(matches!(world.asked.get(1), Some(Job::Load { snapshot, .. }) if *snapshot == first), "{:?}", world.asked);
    assert!(!world.asked.iter().any(|job| matches!(job, Job::Init { .. })));
    // It is kept beside newer ones: whoever comes before anything newer is posted begins there.
    world.train_to(45);
    let steps: Vec<Step> = world.core.saved_states().iter().map(|state| state.snapshot.step).collect();
    assert_eq!(steps, [Step(0), Step(40)]);
    assert!((0..2 * stages).all(|stage| world.disk.blobs.contains(&blob(stage))));
}

#[test]
fn a_first_state_that_is_not_of_this_model_is_refused() {
    let layers = vec![LayerBlobs { root: Hash::default(), weights: Hash::default(), moments: Hash::default() }; 5];
    let bytes = config().genesis.model.state_bytes();
    let good = Snapshot { step: Step(0), root: Hash::default(), layers: layers.try_into().unwrap(), bytes };
    let restore = |first| {
        let mut config = config();
        config.genesis.first = Some(first);
        neuroshard_core::Core::restore(config, Hash::default(), [] as [&[u8]; 0]).map(|_| ())
    };
    assert_eq!(restore(good.clone()), Ok(()));
    let few = good.layers[..4].to_vec().try_into().unwrap();
    for wrong in [
        Snapshot { step: Step(1), ..good.clone() },
        Snapshot { bytes: bytes - 12, ..good.clone() },
        Snapshot { layers: few, ..good.clone() },
    ] {
        let refused = restore(wrong).unwrap_err();
        assert!(matches!(refused, RestoreError::Genesis(GenesisError::FirstState { .. })), "{refused}");
    }
}

#[test]
fn a_crash_goes_back_to_the_last_durable_snapshot() {
    let mut world = World::new(config());
    world.train_to(270);
    let again = World::restart(config(), world.disk.clone(), world.now);
    assert_eq!(again.core.saved_states().last().map(|state| state.snapshot.step), Some(Step(200)));
    let mut again = again;
    again.train_to(300);
    assert_eq!(again.batches()[0], world.batches()[200]);
}

#[test]
fn a_save_on_demand_is_answered_even_when_nothing_is_new() {
    let mut world = World::new(config());
    world.train_to(5);
    world.command(Command::Save);
    while world.saved_steps().is_empty() {
        world.answer(20);
        world.persist();
    }
    let step = world.saved_steps()[0];
    assert!((5..=6).contains(&step));
    world.command(Command::Stop);
    while !world.jobs.is_empty() {
        world.answer(20);
        world.persist();
    }
    assert!(matches!(world.events.last(), Some(Event::Stopped { .. })));
}

#[test]
fn the_step_limit_evaluates_saves_and_stops() {
    let mut config = config();
    config.operator.steps = Some(10);
    let mut world = World::new(config);
    while !world.jobs.is_empty() {
        world.answer(20);
        world.persist();
    }
    assert_eq!(world.core.model_step(), Step(10));
    assert_eq!(world.saved_steps(), [10]);
    let tail: Vec<_> = world.events.iter().rev().take(4).rev().collect();
    assert!(matches!(
        tail[..],
        [
            Event::HeldOut { step: Step(10), .. },
            Event::StepLimit { step: Step(10) },
            Event::Saved { .. },
            Event::Stopped { saved: Some(Step(10)), .. }
        ]
    ));
    // A batch for the step after the limit was never asked for.
    assert_eq!(world.batches().len(), 10);
}

#[test]
fn a_void_batch_is_skipped_and_counted() {
    let mut world = World::new(config());
    world.train_to(2);
    let (id, job) = world.jobs.remove(0);
    let Job::Train { step, batch, .. } = job else { panic!("a batch is under way, not {}", job.name()) };
    let result = Ok(Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange)));
    world.input(Input::Computed { id, result });
    assert_eq!(world.events.last(), Some(&Event::BatchVoid { step, batch, voids: 1 }));
    let Some((_, Job::Train { step: again, batch: next, fresh: true, .. })) = world.jobs.last() else {
        panic!("the next batch follows")
    };
    assert_eq!((*again, *next), (step, batch.next()));
}

#[test]
fn a_model_that_lost_its_way_stops_without_saving() {
    let mut world = World::new(config());
    world.train_to(1);
    while let Some((id, _)) = world.jobs.pop() {
        let result = Ok(Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange)));
        world.input(Input::Computed { id, result });
    }
    assert!(world.events.contains(&Event::Diverged { step: Step(1), voids: 100 }));
    assert!(matches!(world.events.last(), Some(Event::Stopped { saved: None, .. })));
}

#[test]
fn a_full_disk_costs_no_training_and_is_tried_again() {
    let mut world = World::new(config());
    world.train_to(100);
    while !matches!(world.jobs.first(), Some((_, Job::Snapshot { .. }))) {
        world.answer(20);
    }
    world.fail(Fault::DiskFull { needed: 5 });
    let failed = |event: &Event| matches!(event, Event::JobFailed { then: Recovery::Later { .. }, .. });
    assert!(world.events.iter().any(failed));
    world.train_to(1000);
    let first = world.saved_steps()[0];
    assert!((345..=352).contains(&first), "ten seconds later at 40 ms a step, not {first}");
}

#[test]
fn a_full_disk_at_the_end_says_what_is_durable() {
    let mut world = World::new(config());
    world.train_to(150);
    world.command(Command::Stop);
    while !matches!(world.jobs.first(), Some((_, Job::Snapshot { .. }))) {
        world.answer(20);
    }
    world.fail(Fault::DiskFull { needed: 5 });
    assert!(matches!(world.events.last(), Some(Event::Stopped { saved: Some(Step(100)), .. })));
}

#[test]
fn a_lost_device_goes_back_to_the_last_snapshot_and_gives_up_in_the_end() {
    let mut world = World::new(config());
    world.train_to(120);
    world.fail(Fault::device("unplugged"));
    let reload = Event::JobFailed {
        job: JobKind::Train,
        fault: Fault::device("unplugged"),
        then: Recovery::Reload { step: Step(100) },
    };
    assert!(world.events.contains(&reload));
    assert!(matches!(world.jobs[..], [(_, Job::Load { .. })]));
    for _ in 0..1000 {
        if matches!(world.events.last(), Some(Event::Stopped { .. })) {
            break;
        }
        if world.jobs.is_empty() {
            let Some((at, _)) = world.core.next_deadline() else { break };
            world.now = at.max(world.now);
            world.input(Input::Tick);
        } else {
            world.fail(Fault::device("unplugged"));
        }
    }
    assert!(matches!(world.events.last(), Some(Event::Stopped { saved: Some(Step(100)), .. })));
}

#[test]
fn a_node_that_is_stopped_on_its_way_back_has_nothing_more_to_save() {
    let mut world = World::new(config());
    world.train_to(120);
    // The second time it is to be tried again later.
    world.fail(Fault::device("unplugged"));
    world.fail(Fault::device("unplugged"));
    assert!(world.jobs.is_empty());
    world.command(Command::Stop);
    let back = Some(Step(100));
    assert_eq!(world.events.last(), Some(&Event::Stopped { step: Step(100), saved: back }), "120 steps are no more");
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_one_before() {
    let mut world = World::new(config());
    world.train_to(250);
    let mut again = World::restart(config(), world.disk.clone(), world.now);
    again.answer(1);
    assert!(matches!(&again.jobs[0].1, Job::Load { snapshot, .. } if snapshot.step == Step(200)));
    again.fail(Fault::BlobDamaged { hash: Hash::default() });
    assert!(matches!(&again.jobs[0].1, Job::Load { snapshot, .. } if snapshot.step == Step(100)));
    again.fail(Fault::BlobMissing { hash: Hash::default() });
    assert!(matches!(again.events.last(), Some(Event::Stopped { .. })), "never silently from the start");
    assert!(again.jobs.is_empty());
}

#[test]
fn a_snapshot_that_cannot_be_restored_never_becomes_a_fact() {
    for edit in [
        |snapshot: &mut Snapshot| snapshot.layers = Vec::new().try_into().unwrap(),
        |snapshot: &mut Snapshot| snapshot.step = Step(77),
    ] {
        let mut world = World::new(config());
        world.train_to(100);
        while !matches!(world.jobs.first(), Some((_, Job::Snapshot { .. }))) {
            world.answer(20);
        }
        let (id, job) = world.jobs.remove(0);
        let Commitment::Snapshot(mut snapshot) = world.honest(&job) else { panic!("a snapshot was asked for") };
        edit(&mut snapshot);
        world.input(Input::Computed { id, result: Ok(Commitment::Snapshot(snapshot)) });
        let reloaded = |event: &Event| matches!(event, Event::JobFailed { job: JobKind::Snapshot, .. });
        assert!(world.events.iter().any(reloaded));
        let again = World::restart(config(), world.disk.clone(), world.now);
        assert!(again.core.saved_states().is_empty());
    }
}

#[test]
fn a_batch_answered_before_the_step_it_follows_is_a_fault() {
    let mut world = World::new(config());
    world.train_to(3);
    while !matches!(world.jobs[..], [(_, Job::Step { .. }), (_, Job::Train { .. })]) {
        world.answer(20);
    }
    let (id, job) = world.jobs.remove(1);
    let result = Ok(world.honest(&job));
    world.input(Input::Computed { id, result });
    let reloaded =
        |event: &Event| matches!(event, Event::JobFailed { job: JobKind::Train, then: Recovery::Reload { .. }, .. });
    assert!(world.events.iter().any(reloaded));
    assert!(matches!(world.jobs[..], [(_, Job::Init { .. })]), "the step under way is given up");
}

#[test]
fn a_missing_shard_stops_the_node() {
    let mut world = World::new(config());
    world.train_to(1);
    world.fail(Fault::BlobMissing { hash: Hash::default() });
    let told = |event: &Event| matches!(event, Event::JobFailed { then: Recovery::Stop, .. });
    assert!(world.events.iter().any(told));
    assert!(world.jobs.is_empty());
}

#[test]
fn an_answer_that_never_comes_is_given_up_at_its_deadline() {
    let mut world = World::new(config());
    world.train_to(101);
    let (late, _) = world.jobs[0].clone();
    let late_told = |world: &World| world.events.iter().any(|event| matches!(event, Event::JobLate { .. }));
    while !late_told(&world) {
        let (at, _) = world.core.next_deadline().unwrap();
        assert!(at <= Time::from_ms(2 * 3_600_000));
        world.now = at.max(world.now);
        world.input(Input::Tick);
    }
    assert!(world.events.iter().any(|event| matches!(event, Event::JobLate { .. })));
    assert!(world.jobs.iter().any(|(_, job)| matches!(job, Job::Load { .. })));
    let before = world.core.state_hash();
    let result = Ok(Commitment::Step { step: Step(9), norm: neuroshard_core::proto::F32::ONE });
    world.input(Input::Computed { id: late, result });
    assert_ne!(world.core.state_hash(), before, "it is counted");
    assert_eq!(world.core.model_step(), Step(101), "and changes nothing else");
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let mut config = config();
    config.operator.memory_bytes = 1 << 20;
    let mut world = World::new(config);
    world.answer(5);
    let idle = |event: &Event| {
        matches!(event, Event::ModeChosen { mode: Mode::Idle, reason: ModeReason::TooLittleMemory { needed, allowed } }
            if needed > allowed)
    };
    assert!(world.events.iter().any(idle));
    assert!(world.jobs.is_empty());
}

#[test]
fn misuse_is_refused_and_changes_nothing() {
    let mut world = World::new(config());
    world.train_to(2);
    let before = world.core.state_hash();
    let mut out = Outbox::default();
    let past = Time::from_ms(world.now.as_ms() - 1);
    assert!(matches!(world.core.step(past, Input::Tick, &mut out), Err(Misuse::TimeWentBack { .. })));
    let upto = neuroshard_core::proto::JournalSeq(99);
    let persisted = Input::Persisted { upto };
    assert!(matches!(world.core.step(world.now, persisted, &mut out), Err(Misuse::PersistedBeyondJournal { .. })));
    world.core.step(world.now, Input::Command(Command::Stop), &mut out).unwrap();
    assert!(out.iter().len() > 0);
    let full = world.core.step(world.now, Input::Tick, &mut out);
    assert!(matches!(full, Err(Misuse::OutboxFull { free }) if free < MAX_OUTPUTS));
    assert_ne!(world.core.state_hash(), before, "only the stop counted");
}

#[test]
fn a_disk_too_small_for_two_snapshots_is_refused() {
    let mut config = config();
    config.operator.disk_bytes = 1 << 20;
    let error = neuroshard_core::Core::restore(config, Hash::default(), [] as [&[u8]; 0]).unwrap_err();
    assert!(matches!(error, RestoreError::DiskBudget { allowed: 1_048_576, .. }));
}

#[test]
fn a_foreign_or_broken_journal_is_refused() {
    let mut world = World::new(config());
    world.train_to(1);
    let journal: Vec<Vec<u8>> = world.disk.journal.values().cloned().collect();
    let restore = |config, journal: &[Vec<u8>]| neuroshard_core::Core::restore(config, Hash::default(), journal);
    let mut other = config();
    other.genesis.seed = Hash::of_blob(b"other");
    assert!(matches!(restore(other, &journal), Err(RestoreError::OtherNetwork { .. })));
    let mut cut = journal.clone();
    cut[0].pop();
    assert!(matches!(restore(config(), &cut), Err(RestoreError::Record { place: 0, .. })));
    let twice = [journal[0].clone(), journal[0].clone()];
    assert!(matches!(restore(config(), &twice), Err(RestoreError::Order { .. })));
}

#[test]
fn the_same_inputs_make_the_same_state() {
    let run = || {
        let mut world = World::new(config());
        let mut hashes = Vec::new();
        for _ in 0..300 {
            world.answer(20);
            hashes.push(world.core.state_hash());
            world.persist();
            hashes.push(world.core.state_hash());
        }
        hashes
    };
    assert_eq!(run(), run());
}

#[test]
fn every_part_of_the_state_is_in_the_hash() {
    let mut world = World::new(config());
    let mut seen = Vec::new();
    for answers in 0..12 {
        let parts = world.core.part_hashes();
        seen.push((world.core.state_hash(), parts));
        if answers == 5 {
            world.command(Command::Save);
        } else {
            world.answer(0);
        }
    }
    for pair in seen.windows(2) {
        let [(before, parts), (after, later)] = pair else { continue };
        assert_ne!(before, after, "an answer changes the state");
        assert_ne!(parts, later);
    }
    // What the trainer alone knows: the same journal, requests and timers, another step of the model.
    let solo = |parts: &[(&str, Hash)]| parts.iter().find(|(name, _)| *name == "solo").map(|(_, hash)| *hash);
    let distinct: std::collections::BTreeSet<_> = seen.iter().map(|(_, parts)| solo(parts)).collect();
    assert!(distinct.len() >= 8, "{} states of the trainer", distinct.len());
}
