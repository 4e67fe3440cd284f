//! Quorums of real cores that train together, whatever is lost on the way. The executors compute with hashes: who does
//! something else, or in another order, ends with another state.

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

mod executor;
mod forming;
mod world;

use neuroshard_core::Event;
use neuroshard_core::proto::{Founder, Genesis, Hash, List, Manifest, Params, Preset, Shard, Step};

use world::{Weather, World};

const CALM: Weather = Weather { lost_percent: 0, doubled_percent: 0, latest_ms: 20 };

/// A network with data that nobody reads.
fn network(founder: Founder) -> (Genesis, Manifest) {
    let (model, mut training) = Preset::Nano.specs();
    training.batch = 8;
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 65_536, held_out };
    let shards = vec![shard(b"a", false), shard(b"b", true)].try_into().unwrap();
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 190_000, shards };
    let genesis = Genesis {
        created_unix_ms: 1_800_000_000_000,
        seed: Hash::of_blob(b"genesis"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![founder].try_into().unwrap(),
        allocations: List::default(),
        first: None,
    };
    (genesis, manifest)
}

/// The model after so many steps, trained by so many members under some weather.
fn trained(members: u32, steps: u64, weather: Weather, seed: u64) -> (Vec<Hash>, World) {
    let mut world = World::new(members, weather, seed);
    world.run_to(Step(steps));
    (world.state_after(Step(steps)), world)
}

#[test]
fn any_split_makes_of_the_model_what_one_node_alone_makes() {
    let alone = World::solo(Step(7));
    for members in [1, 2, 3, 5] {
        let (state, world) = trained(members, 7, CALM, 1);
        assert_eq!(state, alone, "{members} members");
        world.check_blobs();
    }
}

#[test]
fn what_is_lost_doubled_and_late_costs_time_and_nothing_else() {
    let alone = World::solo(Step(5));
    for seed in 0..12 {
        let weather = Weather { lost_percent: 15, doubled_percent: 10, latest_ms: 400 };
        let members = [2, 3, 5][seed as usize % 3];
        assert_eq!(trained(members, 5, weather, seed).0, alone, "seed {seed}");
    }
}

#[test]
fn all_members_tell_the_same_losses() {
    let (_, world) = trained(3, 4, CALM, 3);
    let losses = |place: usize| -> Vec<_> {
        let stepped = world.events(place).filter_map(|event| match event {
            Event::Stepped { step, batch, loss_micro, tokens, norm, .. } => {
                Some((*step, *batch, *loss_micro, *tokens, *norm))
            }
            _ => None,
        });
        stepped.take(4).collect()
    };
    assert_eq!(losses(0).len(), 4);
    assert!(losses(0) == losses(1) && losses(1) == losses(2));
}

#[test]
fn a_member_that_falls_takes_all_back_to_a_state_that_all_have() {
    let alone = World::solo(Step(12));
    for place in 0..3 {
        let mut world = World::new(3, CALM, 5 + place);
        world.run_to(Step(8));
        world.crash(place as usize);
        world.run_to(Step(12));
        assert_eq!(world.state_after(Step(12)), alone, "member {place}");
        let again = |one: &&Event| matches!(one, Event::QuorumBegan { step, .. } if *step > Step(0));
        assert!(world.events(0).any(|event| again(&event)), "they went on from a snapshot");
    }
}

#[test]
fn members_that_fall_at_any_moment_are_waited_for() {
    let alone = World::solo(Step(6));
    for seed in 0..20 {
        let mut world = World::new(3, Weather { lost_percent: 5, doubled_percent: 5, latest_ms: 100 }, seed);
        for round in 0..4 {
            world.run_ms(200 + 137 * seed + 531 * round);
            world.crash(((seed + round) % 3) as usize);
        }
        world.run_to(Step(6));
        assert_eq!(world.state_after(Step(6)), alone, "seed {seed}");
    }
}

#[test]
fn what_was_under_way_when_a_term_ended_is_let_go_of() {
    // Where messages are quick it is jobs that are under way, and where they are slow fetches.
    for latest_ms in [20, 80] {
        let mut world = World::new(3, Weather { latest_ms, ..CALM }, 11);
        for round in 0..250 {
            world.run_ms(400 + latest_ms + 29 * (round % 20));
            world.blink(2);
        }
        world.run_to(Step(world.step(0).0 + 3));
        world.check_blobs();
    }
}

#[test]
fn a_batch_that_is_void_at_one_member_is_void_at_all() {
    let mut world = World::new(3, CALM, 9);
    world.void(1, 2);
    world.run_to(Step(5));
    for place in 0..3 {
        let voids: Vec<_> = world
            .events(place)
            .filter_map(|event| match event {
                Event::BatchVoid { batch, .. } => Some(batch.0),
                _ => None,
            })
            .collect();
        assert_eq!(voids, [2], "member {place}");
    }
    assert_ne!(world.state_after(Step(5)), World::solo(Step(5)), "another batch took its place");
}

#[test]
fn a_member_that_stops_is_waited_for_and_the_rest_goes_on_with_it() {
    let mut world = World::new(2, CALM, 4);
    world.run_to(Step(5));
    world.stop(1);
    world.run_ms(20_000);
    let before = world.step(0);
    assert!(before <= Step(7), "nobody trains half a model: {before}");
    world.start(1);
    world.run_to(Step(9));
    assert_eq!(world.state_after(Step(9)), World::solo(Step(9)));
}

#[test]
fn members_that_reach_the_operators_limit_save_what_they_have_and_stop() {
    let mut world = World::with_limit(3, Step(4), CALM, 8);
    world.run_to(Step(4));
    world.run_ms(5_000);
    for place in 0..3 {
        let last: Vec<_> = world.events(place).collect();
        let stopped = Event::Stopped { step: Step(4), saved: Some(Step(4)) };
        assert!(last.contains(&&stopped), "member {place}: {last:?}");
        assert!(!last.iter().any(|event| matches!(event, Event::JobFailed { .. })), "member {place}: {last:?}");
    }
}

#[test]
fn strangers_and_wrong_words_are_refused() {
    let mut world = World::new(3, CALM, 6);
    world.run_to(Step(2));
    world.heckle();
    world.run_to(Step(6));
    assert_eq!(world.state_after(Step(6)), World::solo(Step(6)));
    assert!(world.events(0).any(|event| matches!(event, Event::Rejected { .. })));
}
