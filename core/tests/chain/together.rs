//! What several nodes do.

use neuroshard_core::Event;
use neuroshard_core::proto::{Amount, Time};

use crate::world::{Node, World, node, owner, transfer};

fn decided(node: &Node) -> Vec<(Time, u64, u32)> {
    let block = |(at, event): &(Time, Event)| match event {
        Event::BlockDecided { height, transactions, .. } => Some((*at, *height, *transactions)),
        _ => None,
    };
    node.events.iter().filter_map(block).collect()
}

#[test]
fn one_node_finalizes_alone_within_its_first_second() {
    let mut node = Node::new(0, 1);
    let mut now = Time::ZERO;
    assert!(node.live(&mut now, Time::from_ms(1000)));
    assert!(node.height() >= 1);
    let before = node.height();
    node.submit(now, transfer(&node.config, 0));
    assert_eq!(node.height(), before + 1, "no waiting");
    let paid = node.core.ledger().account(&owner(9)).unwrap().balance;
    assert_eq!(paid, Amount::from_units(1_000_000));
    node.check_votes();
}

#[test]
fn a_network_at_rest_makes_no_blocks_but_those_that_are_due() {
    let mut node = Node::new(0, 1);
    let mut now = Time::ZERO;
    assert!(node.live(&mut now, Time::from_ms(60_000)));
    let empty = decided(&node).iter().filter(|(_, _, transactions)| *transactions == 0).count();
    assert!((5..=6).contains(&empty), "{:?}", decided(&node));
}

#[test]
fn four_nodes_decide_a_transfer_within_four_message_delays() {
    let mut world = World::new(4, 4);
    world.run(Time::from_ms(5000), |_| false);
    let begun = world.now;
    let heights: Vec<u64> = world.nodes.iter().map(Node::height).collect();
    assert!(heights.iter().all(|height| *height == heights[0]), "{heights:?}");
    for from in 0..4_u8 {
        let (began, sequence) = (world.now, u64::from(from));
        let config = world.nodes[0].config.clone();
        world.submit(from, transfer(&config, sequence));
        let paid = |world: &World| {
            let paid = |node: &Node| node.core.ledger().account(&owner(0)).unwrap().sequence > sequence;
            world.nodes.iter().all(paid)
        };
        world.run(began.after_ms(10_000), paid);
        assert!(world.now.ms_since(began) <= 4 * world.latency, "{} ms", world.now.ms_since(began));
    }
    assert!(world.now > begun);
    world.check();
}

#[test]
fn a_dead_leader_is_passed_over() {
    let mut world = World::new(4, 4);
    world.run(Time::from_ms(2000), |_| false);
    world.cut.insert(3);
    world.run(Time::from_ms(300_000), |_| false);
    let living = world.nodes.iter().take(3).map(Node::height).min().unwrap();
    assert!(living >= 20, "{living}");
    world.check();
}

#[test]
fn without_a_quorum_nothing_is_decided_and_afterwards_everything_goes_on() {
    let mut world = World::new(4, 4);
    world.run(Time::from_ms(2000), |_| false);
    world.cut.extend([2, 3]);
    world.run(Time::from_ms(3000), |_| false);
    let heights: Vec<u64> = world.nodes.iter().map(Node::height).collect();
    world.run(Time::from_ms(200_000), |_| false);
    assert!(world.nodes.iter().map(Node::height).zip(heights).all(|(now, then)| now <= then + 1));
    let stuck = world.lowest();
    world.cut.clear();
    world.run(Time::from_ms(400_000), |world| world.lowest() >= stuck + 5);
    assert!(world.lowest() >= stuck + 5, "{}", world.lowest());
    world.check();
}

#[test]
fn a_node_that_was_away_catches_up_in_order() {
    let mut world = World::new(4, 4);
    world.cut.insert(3);
    world.run(Time::from_ms(400_000), |_| false);
    let goal = world.nodes[0].height();
    assert!(goal > 30, "{goal}");
    world.cut.clear();
    let back = world.now;
    world.run(back.after_ms(30_000), |world| world.nodes[3].height() >= goal);
    assert!(world.nodes[3].height() >= goal, "{} of {goal}", world.nodes[3].height());
    let heights: Vec<u64> = decided(&world.nodes[3]).iter().map(|(_, height, _)| *height).collect();
    assert!(heights.iter().zip(1..).all(|(height, place)| *height == place), "{heights:?}");
    world.check();
}

#[test]
fn a_node_without_a_vote_follows() {
    let mut world = World::new(5, 4);
    world.run(Time::from_ms(60_000), |_| false);
    assert!(world.nodes[4].height() >= 5);
    assert!(world.nodes[4].height() + 1 >= world.nodes[0].height());
    assert!(world.nodes[4].votes.is_empty());
    world.check();
}

#[test]
fn a_node_without_a_vote_keeps_its_own_wishes_alone_and_tells_them_again() {
    let mut world = World::new(6, 4);
    world.run(Time::from_ms(5000), |_| false);
    // Nobody hears the first words.
    world.cut.insert(4);
    let config = world.nodes[0].config.clone();
    world.submit(4, transfer(&config, 0));
    world.cut.clear();
    world.run(world.now.after_ms(1000), |_| false);
    let waiting = |world: &World| world.nodes.iter().map(|node| node.core.waiting_transactions()).collect::<Vec<_>>();
    assert_eq!(waiting(&world), [0, 0, 0, 0, 1, 0]);
    let paid = |node: &Node| node.core.ledger().account(&owner(0)).unwrap().sequence > 0;
    world.run(world.now.after_ms(30_000), |world| world.nodes.iter().all(paid));
    assert!(world.nodes.iter().all(paid));
    // Without a quorum it waits where blocks are made, and with who wants it.
    world.cut.extend([0, 1]);
    world.submit(5, transfer(&config, 1));
    world.run(world.now.after_ms(5000), |_| false);
    assert_eq!(waiting(&world), [0, 0, 1, 1, 0, 1]);
    world.check();
}

#[test]
fn losing_every_tenth_frame_costs_time_and_nothing_else() {
    let mut world = World::new(4, 4);
    world.loss = 10;
    world.run(Time::from_ms(300_000), |_| false);
    assert!(world.lowest() >= 15, "{}", world.lowest());
    world.check();
}

#[test]
fn a_validator_that_contradicts_itself_is_reported_and_convicted() {
    use neuroshard_core::ledger::Standing;
    let mut world = World::new(4, 4);
    world.run(Time::from_ms(2000), |_| false);
    // The twin of node 3 knows nothing of what it said.
    let mut twin = World::new(4, 4);
    twin.run(Time::from_ms(2000), |_| false);
    let config = world.nodes[0].config.clone();
    let stray = |world: &mut World, sequence: u64| {
        let network = config.genesis.network();
        let height = world.nodes[0].height() + 1;
        for name in [b"one", b"two"] {
            use ed25519_dalek::Signer;
            use neuroshard_core::Input;
            use neuroshard_core::proto::chain::{Statement, Vote};
            use neuroshard_core::proto::{Envelope, Hash, Message, Signature, Verified, codec};
            let statement = Statement::Notarize { height, view: sequence, block: Hash::of_blob(name) };
            let message = Message::Vote(Vote { validator: node(3), statement });
            let sign = |digest: &Hash| Signature(crate::world::key(3).sign(digest.as_bytes()).to_bytes());
            let frame = codec::encode(&Envelope::seal(network, &message, sign));
            let now = world.now;
            world.nodes[0].input(now, Input::Message(Verified::open(&frame).unwrap()));
            world.collect(0);
        }
    };
    stray(&mut world, 0);
    assert!(world.nodes[0].events.iter().any(|(_, event)| *event == Event::Equivocation { validator: node(3) }));
    world.run(Time::from_ms(20_000), |_| false);
    let standing = |world: &World| world.nodes[1].core.ledger().node(&node(3)).unwrap().standing;
    assert_eq!(standing(&world), Standing::Convicted);
}

#[test]
fn every_state_can_be_written_as_text() {
    let mut world = World::new(4, 4);
    world.run(Time::from_ms(2000), |_| false);
    let config = world.nodes[0].config.clone();
    world.submit(0, transfer(&config, 0));
    let (mut mempools, mut ballots) = (0, 0);
    world.run(Time::from_ms(4000), |world| {
        for node in &world.nodes {
            let parts = serde_json::to_value(node.core.parts()).expect("text");
            mempools += parts["chain"]["mempool"]["waiting"].as_array().expect("a list").len();
            ballots += parts["chain"]["simplex"]["ballots"].as_object().expect("by view").len();
        }
        false
    });
    assert!(mempools > 0 && ballots > 0, "{mempools} waiting transactions and {ballots} views were written");
}
