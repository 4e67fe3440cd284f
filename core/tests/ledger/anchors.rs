//! Where stages lie: who may post them, and what they make together.

use neuroshard_core::ledger::{Anchor, Refusal};
use neuroshard_core::proto::chain::{Action, SignedTransaction};
use neuroshard_core::proto::{BatchId, Hash, LayerBlobs, LayerIndex, LayerRange, Position, QuorumId, Step};

use crate::quorums::{brief, form, wait, world};
use crate::world::{World, node};

const PAIR: [(&str, u32); 2] = [("ann", 3), ("bob", 5)];
const ALL: LayerRange = LayerRange { start: 0, end: 5 };

fn position(step: u64) -> Position {
    Position { batch: BatchId(step.saturating_mul(2)), tokens: step.saturating_mul(2048), voids: 0 }
}

fn blobs(layer: u32, step: u64, salt: &str) -> LayerBlobs {
    let hash = |what| Hash::of_blob(format!("{what} of stage {layer} at {step}{salt}").as_bytes());
    LayerBlobs { root: hash("root"), weights: hash("weights"), moments: hash("moments") }
}

fn post(world: &World, name: &str, quorum: QuorumId, step: u64, (start, end): (u32, u32)) -> SignedTransaction {
    let stages: Vec<LayerBlobs> = (start..end).map(|layer| blobs(layer, step, "")).collect();
    let (position, first) = (position(step), LayerIndex(start));
    let stages = stages.try_into().unwrap();
    world.message(name, Action::PostStages { quorum, step: Step(step), position, first, stages })
}

/// Both members of the pair post all of a step.
fn post_all(world: &mut World, quorum: QuorumId, step: u64) {
    world.block(&[post(world, "ann", quorum, step, (0, 3)), post(world, "bob", quorum, step, (3, 5))]);
}

#[test]
fn a_step_is_the_anchor_once_every_stage_is_posted() {
    let mut world = world(brief(), &["ann", "bob"]);
    let quorum = form(&mut world, &PAIR, &[]);
    assert_eq!((world.ledger.anchor(), world.ledger.anchored(ALL).count()), (None, 0));
    world.block(&[post(&world, "bob", quorum, 100, (3, 5))]);
    world.block(&[post(&world, "ann", quorum, 100, (1, 3))]);
    assert_eq!(world.ledger.anchor(), None, "one stage is missing");
    world.block(&[post(&world, "ann", quorum, 100, (0, 1))]);
    let anchor = Anchor { quorum, step: Step(100), position: position(100) };
    assert_eq!(world.ledger.anchor(), Some(anchor));
    let posts: Vec<_> = world.ledger.anchored(ALL).collect();
    for (layer, post) in (0..).zip(&posts) {
        let holder = node(if layer < 3 { "ann" } else { "bob" });
        assert_eq!((post.anchor, post.node, post.blobs), (anchor, holder, blobs(layer, 100, "")));
    }
    assert_eq!(posts.len(), 5);
    let some: Vec<_> = world.ledger.anchored(LayerRange { start: 2, end: 4 }).map(|post| post.blobs).collect();
    assert_eq!(some, [blobs(2, 100, ""), blobs(3, 100, "")]);
    let proof = world.ledger.prove_stage(LayerIndex(4));
    let stage = proof.check(&world.ledger.root(), LayerIndex(4)).unwrap().unwrap();
    assert_eq!(stage.posts[0], *posts[4]);
    assert!(proof.check(&world.ledger.root(), LayerIndex(3)).is_err(), "of another stage");
}

#[test]
fn members_post_the_stages_that_they_run_and_nobody_else_does() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let quorum = form(&mut world, &PAIR, &[]);
    let refused = |name, id, range| world.ledger.admits(&post(&world, name, id, 100, range)).unwrap_err();
    let own = LayerRange { start: 0, end: 3 };
    for range in [(2, 4), (3, 5), (0, 0)] {
        assert_eq!(refused("ann", quorum, range), Refusal::Stages { own }, "{range:?}");
    }
    assert_eq!(refused("cid", quorum, (0, 3)), Refusal::Member { node: node("cid"), quorum });
    let none = QuorumId(Hash::default());
    assert_eq!(refused("ann", none, (0, 3)), Refusal::Over { quorum: none });
    world.block(&[post(&world, "ann", quorum, 100, (0, 3))]);
    wait(&mut world, 5000);
    let late = post(&world, "bob", quorum, 100, (3, 5));
    assert_eq!(world.ledger.admits(&late), Err(Refusal::Over { quorum }), "the session is over");
}

#[test]
fn steps_of_a_stage_only_go_up() {
    let mut world = world(brief(), &["ann", "bob"]);
    let quorum = form(&mut world, &PAIR, &[]);
    let refused = |world: &World, step| world.ledger.admits(&post(world, "ann", quorum, step, (0, 3))).err();
    let posted = |newest, found| Some(Refusal::Posted { newest: Step(newest), found: Step(found) });
    assert_eq!(refused(&world, 0), posted(0, 0), "the genesis is nobody's to post");
    world.block(&[post(&world, "ann", quorum, 100, (0, 2))]);
    assert_eq!(refused(&world, 100), posted(100, 100), "two of three were posted");
    assert_eq!(refused(&world, 99), posted(100, 99));
    assert_eq!(refused(&world, 101), None);
    world.block(&[post(&world, "ann", quorum, 100, (2, 3)), post(&world, "bob", quorum, 100, (3, 5))]);
    world.block(&[world.message("ann", Action::EndQuorum { quorum })]);
    let next = form(&mut world, &PAIR, &[]);
    let again = post(&world, "ann", next, 100, (0, 3));
    assert_eq!(world.ledger.admits(&again), Err(Refusal::Posted { newest: Step(100), found: Step(100) }));
}

#[test]
fn the_anchor_outlives_quorums_and_stays_until_a_later_one_is_whole() {
    let mut world = world(brief(), &["ann", "bob"]);
    let quorum = form(&mut world, &PAIR, &[]);
    post_all(&mut world, quorum, 100);
    // One member runs ahead of the other by more steps than are kept.
    for step in [200, 300, 400, 500] {
        world.block(&[post(&world, "ann", quorum, step, (0, 3))]);
        assert_eq!(world.ledger.anchor().unwrap().step, Step(100));
        assert_eq!(world.ledger.anchored(ALL).count(), 5, "at {step}");
    }
    world.block(&[post(&world, "bob", quorum, 300, (3, 5))]);
    assert_eq!(world.ledger.anchor().unwrap().step, Step(100), "the others' post of 300 is gone");
    world.block(&[post(&world, "bob", quorum, 400, (3, 5))]);
    assert_eq!(world.ledger.anchor().unwrap().step, Step(400));
    world.block(&[world.message("bob", Action::EndQuorum { quorum })]);
    world.epochs(2);
    assert_eq!(world.ledger.quorum(&quorum), None);
    assert_eq!(world.ledger.anchor().unwrap().step, Step(400));
    let posts: Vec<_> = world.ledger.anchored(ALL).map(|post| post.blobs).collect();
    assert_eq!(posts, (0..5).map(|layer| blobs(layer, 400, "")).collect::<Vec<_>>());
}

#[test]
fn posts_of_two_quorums_or_positions_are_no_anchor() {
    let mut world = world(brief(), &["ann", "bob"]);
    let quorum = form(&mut world, &PAIR, &[]);
    world.block(&[post(&world, "ann", quorum, 100, (0, 3))]);
    world.block(&[world.message("ann", Action::EndQuorum { quorum })]);
    let next = form(&mut world, &PAIR, &[]);
    world.block(&[post(&world, "bob", next, 100, (3, 5))]);
    assert_eq!(world.ledger.anchor(), None, "half a model of each quorum");
    let stages = vec![blobs(0, 100, ""), blobs(1, 100, ""), blobs(2, 100, "")].try_into().unwrap();
    let (step, first) = (Step(100), LayerIndex(0));
    let lie = Action::PostStages { quorum: next, step, position: position(101), first, stages };
    world.block(&[world.message("ann", lie)]);
    assert_eq!(world.ledger.anchor(), None, "the members do not agree where training stands");
    post_all(&mut world, next, 200);
    assert_eq!(world.ledger.anchor().unwrap().step, Step(200));
}

#[test]
fn a_step_far_ahead_blocks_nobody_longer_than_its_quorum_lasts() {
    let mut world = world(brief(), &["ann", "bob"]);
    let quorum = form(&mut world, &PAIR, &[]);
    post_all(&mut world, quorum, 100);
    world.block(&[post(&world, "ann", quorum, u64::MAX, (0, 3))]);
    world.block(&[post(&world, "bob", quorum, 200, (3, 5))]);
    world.block(&[world.message("bob", Action::EndQuorum { quorum })]);
    let next = form(&mut world, &[("bob", 3), ("ann", 5)], &[]);
    world.block(&[post(&world, "bob", next, 200, (0, 3)), post(&world, "ann", next, 200, (3, 5))]);
    assert_eq!(world.ledger.anchor(), Some(Anchor { quorum: next, step: Step(200), position: position(200) }));
}
