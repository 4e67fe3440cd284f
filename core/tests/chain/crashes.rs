//! A node loses its power between any two outputs, and comes back.

use neuroshard_core::proto::codec;
use neuroshard_core::proto::{Hash, Time};
use neuroshard_core::{Core, Input, JournalFact, Record};

use crate::world::{Node, World, transfer};

#[test]
fn a_crash_after_any_output_contradicts_nothing_and_loses_no_block() {
    for power in 0..120 {
        let mut node = Node::new(0, 1);
        let mut now = Time::ZERO;
        node.power = Some(power);
        let whole = node.live(&mut now, Time::from_ms(12_000));
        let height = node.height();
        node.restart(1);
        let durable = node.height();
        assert!(durable + 1 >= height, "cut after {power}: {durable} of {height}");
        let until = now.after_ms(30_000);
        assert!(node.live(&mut now, until));
        assert!(node.height() > durable, "cut after {power}");
        node.check_votes();
        if whole {
            assert!(power > 20, "the node did {power} things only");
            return;
        }
    }
}

#[test]
fn crashes_of_each_node_at_each_moment_leave_one_chain() {
    for power in (1..90).step_by(4) {
        let mut world = World::new(4, 4);
        let victim = (power % 4) as u8;
        world.nodes[usize::from(victim)].power = Some(power);
        let config = world.nodes[0].config.clone();
        world.submit((victim + 1) % 4, transfer(&config, 0));
        world.run(Time::from_ms(15_000), |_| false);
        let now = world.now;
        let node = &mut world.nodes[usize::from(victim)];
        node.restart(1);
        node.run(now);
        world.collect(victim);
        let goal = world.lowest().max(1) + 3;
        world.run(now.after_ms(120_000), |world| world.lowest() >= goal);
        assert!(world.lowest() >= goal, "cut after {power}: {} of {goal}", world.lowest());
        world.check();
    }
}

#[test]
fn no_vote_is_signed_before_it_is_durable() {
    let mut node = Node::new(0, 1);
    node.persisted = false;
    let mut now = Time::ZERO;
    assert!(node.live(&mut now, Time::from_ms(30_000)));
    assert_eq!((node.votes.len(), node.height()), (0, 0));
    let last = *node.journal.last_key_value().unwrap().0;
    node.persisted = true;
    assert!(node.input(now, Input::Persisted { upto: last }));
    let until = now.after_ms(10_000);
    assert!(node.live(&mut now, until));
    assert!(node.height() > 0);
}

#[test]
fn a_signature_that_does_not_come_is_asked_for_again() {
    let mut node = Node::new(0, 1);
    node.signs = false;
    let mut now = Time::ZERO;
    assert!(node.live(&mut now, Time::from_ms(2000)));
    assert_eq!(node.height(), 0);
    node.signs = true;
    assert!(node.live(&mut now, Time::from_ms(20_000)));
    assert!(node.height() > 0);
}

#[test]
fn the_state_is_written_down_and_older_records_go() {
    let mut node = Node::new(0, 1);
    let mut now = Time::ZERO;
    let mut trimmed = false;
    for sequence in 0..400 {
        let until = now.after_ms(100);
        assert!(node.live(&mut now, until));
        node.submit(now, transfer(&node.config, sequence));
        trimmed |= node.journal.first_key_value().unwrap().0.0 > 0;
    }
    assert!(trimmed, "{} records", node.journal.len());
    let states = node.journal.values().filter(|record| {
        let record: Record = codec::decode(record).unwrap();
        matches!(record.fact, JournalFact::State { .. })
    });
    assert!(states.count() >= 1);
    let (height, root) = (node.height(), node.core.ledger().root());
    let again = Core::restore(node.config.clone(), Hash::default(), node.journal.values()).unwrap();
    assert_eq!((again.ledger().head().height, again.ledger().root()), (height, root));
}
