//! Networks whose nodes find their quorums by themselves, and go on when members are lost.

use std::collections::BTreeSet;

use neuroshard_core::proto::Step;
use neuroshard_core::{Event, ModeReason};

use crate::world::{Weather, World};

const CALM: Weather = Weather { lost_percent: 0, doubled_percent: 0, latest_ms: 20 };
const ROUGH: Weather = Weather { lost_percent: 5, doubled_percent: 5, latest_ms: 150 };

/// The model is what one node alone would have made of it.
fn check(world: &World, step: Step) {
    assert!(world.state_after(step) == World::solo(step), "another model after step {step}");
}

#[test]
fn nodes_that_meet_train_together_what_one_alone_would() {
    let mut world = World::network(3, &[], CALM, 1);
    world.run_to(Step(40));
    check(&world, Step(40));
    assert!(world.members(0).len() > 1, "{:?}", world.members(0));
    world.check_blobs();
}

#[test]
fn who_comes_later_joins_and_what_was_learned_before_stays() {
    let mut world = World::founded(1, 3, &[], CALM, 2);
    world.run_to(Step(20));
    for place in 1..3 {
        world.join(place);
        world.run_ms(60_000);
        let busy = world.members(0).contains(&place);
        let waits = world.events(place).filter_map(reason).last() == Some(ModeReason::StandsBy);
        assert!(busy || waits, "{place} neither trains nor stands by");
    }
    assert!(world.members(0).len() > 1, "{:?}", world.members(0));
    let last = Step(world.furthest().0 + 20);
    world.run_to(last);
    check(&world, last);
    let back = |event: &&Event| matches!(event, Event::QuorumBegan { step: Step(0), .. });
    assert!((0..3).all(|place| !world.events(place).any(|event| back(&event))), "nobody began anew");
}

#[test]
fn those_with_room_for_two_stages_run_no_more() {
    let mut world = World::network(5, &[0, 1, 2, 3, 4], CALM, 3);
    world.run_to(Step(15));
    check(&world, Step(15));
    assert!(world.members(0).len() >= 3, "{:?}", world.members(0));
}

#[test]
fn members_that_are_lost_for_good_are_replaced_and_nothing_is_lost_with_them() {
    for (seed, victim) in [(4, 0), (5, 1), (6, 2)] {
        let mut world = World::network(4, &[], CALM, seed);
        world.run_ms(150_000);
        let before = world.furthest();
        let members = world.members(3);
        assert!(members.len() > 1, "{members:?}");
        let victim = members[victim % members.len()];
        world.lose(victim);
        let watcher = (victim + 1) % 4;
        world.run_ms(60_000);
        assert!(!world.members(watcher).contains(&victim), "{:?} with {victim}", world.members(watcher));
        let last = Step(world.furthest().0 + 10);
        world.run_to(last);
        check(&world, last);
        let began: BTreeSet<Step> = (0..4).flat_map(|place| world.events(place)).filter_map(began).collect();
        assert!(began.last().is_some_and(|step| step.0 * 2 > before.0), "they went on from {began:?}, not {before}");
    }
}

fn began(event: &Event) -> Option<Step> {
    match event {
        Event::QuorumBegan { step, .. } => Some(*step),
        _ => None,
    }
}

#[test]
fn a_member_that_hears_nothing_for_a_while_is_replaced_and_finds_its_way_back() {
    let mut world = World::network(4, &[], CALM, 7);
    world.run_to(Step(20));
    let away = world.members(0)[1];
    world.cut_off(away, true);
    world.run_ms(40_000);
    let watcher = (away + 1) % 4;
    assert!(!world.members(watcher).contains(&away), "{:?} with {away}", world.members(watcher));
    world.cut_off(away, false);
    world.run_ms(60_000);
    let last = world.events(away).filter_map(reason).last();
    assert!(matches!(last, Some(ModeReason::Member | ModeReason::StandsBy)), "{last:?}");
    let last = Step(world.furthest().0 + 5);
    world.run_to(last);
    check(&world, last);
}

#[test]
fn sessions_are_renewed_and_training_does_not_stop() {
    let mut world = World::network(3, &[], CALM, 8);
    world.run_ms(400_000);
    let joined: Vec<_> = world.events(0).filter(|event| matches!(event, Event::QuorumJoined { .. })).collect();
    assert!(joined.len() >= 3, "{joined:?}");
    let left = world.events(0).filter(|event| matches!(event, Event::QuorumLeft)).count();
    assert_eq!(left, 0, "a session went on into the next");
    let last = Step(world.furthest().0 + 5);
    world.run_to(last);
    check(&world, last);
}

#[test]
fn crashes_and_losses_at_any_moment_cost_time_and_nothing_else() {
    for seed in 0..8 {
        let mut world = World::network(4, &[], ROUGH, 100 + seed);
        for round in 0..6 {
            world.run_ms(5_000 + 7_137 * ((seed + round) % 4));
            world.crash(((seed + 3 * round) % 4) as usize);
        }
        let last = Step(world.furthest().0 + 20);
        world.run_to(last);
        check(&world, last);
    }
}

#[test]
fn a_member_that_leaves_hands_over_first_and_the_others_go_on_from_there() {
    for (seed, leaver) in [(10, 0), (11, 1), (12, 2)] {
        let mut world = World::network(4, &[], CALM, seed);
        world.run_ms(150_000);
        let members = world.members(3);
        assert!(members.len() > 1, "{members:?}");
        let leaver = members[leaver % members.len()];
        let watcher = (leaver + 1) % 4;
        let (before, begun) = (world.furthest(), world.events(watcher).filter_map(began).count());
        let took = world.leave(leaver);
        assert!(took >= 20_000, "it stays for those who fetch what it has, not {took} ms");
        let left = world.events(leaver).filter(|event| matches!(event, Event::QuorumLeft)).count();
        assert_eq!(left, 1, "it left its quorum once and entered none");
        assert!(!world.members(watcher).contains(&leaver), "{:?} with {leaver}", world.members(watcher));
        let last = Step(world.furthest().0 + 10);
        world.run_to(last);
        check(&world, last);
        let from: Vec<Step> = world.events(watcher).filter_map(began).skip(begun).collect();
        assert!(from.iter().all(|from| from.0 + 6 >= before.0), "at {before} it left, and they went on from {from:?}");
    }
}

#[test]
fn a_node_in_no_quorum_leaves_at_once() {
    let mut world = World::network(1, &[], CALM, 13);
    world.run_to(Step(5));
    let took = world.leave(0);
    assert!(took < 5000, "{took} ms");
}

#[test]
fn who_stands_by_says_so() {
    let mut world = World::network(3, &[], Weather { latest_ms: 4000, ..CALM }, 9);
    world.run_ms(120_000);
    let reasons: Vec<ModeReason> = (0..3).flat_map(|place| world.events(place)).filter_map(reason).collect();
    assert!(reasons.contains(&ModeReason::Member), "{reasons:?}");
}

fn reason(event: &Event) -> Option<ModeReason> {
    match event {
        Event::ModeChosen { reason, .. } => Some(*reason),
        _ => None,
    }
}
