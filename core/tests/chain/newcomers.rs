//! A node that is further behind than the others keep blocks takes the state from them.

use neuroshard_core::proto::{NodeId, Time};
use neuroshard_core::{Event, PeerFault};

use crate::world::{Node, World, transfer};

/// Blocks that the others make before the newcomer comes: more than they keep.
const BLOCKS: u64 = 1100;
const NEWCOMER: u8 = 4;

/// One validator and three who follow, far ahead of a node that was cut off from the beginning. Nodes that decide alone are
/// quick; what a certificate needs is tested elsewhere.
fn far_ahead() -> World {
    let mut world = World::new(5, 1);
    world.cut.insert(NEWCOMER);
    world.run(Time::from_ms(12_000_000), |world| world.nodes[..4].iter().all(|one| one.height() >= BLOCKS));
    // It comes only now, with nothing.
    world.nodes[usize::from(NEWCOMER)] = Node::new(NEWCOMER, 1);
    let now = world.now;
    world.nodes[usize::from(NEWCOMER)].run(now);
    assert_eq!(newcomer(&world).height(), 0);
    let kept = world.nodes[1].core.decided_since(0).next().map(|one| one.block.header.height);
    assert!(kept > Some(8), "the first blocks are gone");
    world
}

fn newcomer(world: &World) -> &Node {
    &world.nodes[usize::from(NEWCOMER)]
}

fn taken(node: &Node) -> Vec<u64> {
    let height = |(_, event): &(Time, Event)| match event {
        Event::StateTaken { height, .. } => Some(*height),
        _ => None,
    };
    node.events.iter().filter_map(height).collect()
}

/// Nodes that the newcomer found fault with.
fn accused(node: &Node) -> Vec<(NodeId, &'static str)> {
    let fault = |(_, event): &(Time, Event)| match event {
        Event::Rejected { reject: PeerFault::Steps { node, .. } } => Some((*node, "steps")),
        Event::Rejected { reject: PeerFault::State { node, .. } } => Some((*node, "state")),
        _ => None,
    };
    node.events.iter().filter_map(fault).collect()
}

fn caught_up(world: &World) -> bool {
    newcomer(world).height() >= world.nodes[0].height()
}

fn run_until_caught_up(world: &mut World) {
    let from = world.now;
    world.run(from.after_ms(120_000), caught_up);
    assert!(caught_up(world), "{} of {}", newcomer(world).height(), world.nodes[0].height());
    world.check();
    let (one, other) = (newcomer(world).core.ledger(), world.nodes[0].core.ledger());
    if one.head() == other.head() {
        assert_eq!(one.root(), other.root());
    }
}

#[test]
fn a_newcomer_far_behind_takes_the_state_and_goes_on_with_blocks() {
    let mut world = far_ahead();
    world.cut.clear();
    run_until_caught_up(&mut world);
    let heights = taken(newcomer(&world));
    assert_eq!(heights.len(), 1, "{heights:?}");
    assert!(heights[0] > BLOCKS - 20 && accused(newcomer(&world)).is_empty());
    // It follows what comes next, and what it holds survives a crash.
    let config = world.nodes[0].config.clone();
    world.submit(0, transfer(&config, 0));
    let from = world.now;
    world.run(from.after_ms(30_000), |_| false);
    assert!(caught_up(&world));
    let (height, root) = (newcomer(&world).height(), newcomer(&world).core.ledger().root());
    let again = &mut world.nodes[usize::from(NEWCOMER)];
    again.restart(1);
    assert_eq!((again.height(), again.core.ledger().root()), (height, root));
}
