//! A node that is further behind than the others keep blocks takes the state from them.

use std::sync::{LazyLock, Mutex};

use neuroshard_core::proto::chain::{StatePiece, StatePlace, Steps};
use neuroshard_core::proto::codec;
use neuroshard_core::proto::{Carried, Hash, Message, NodeId, Time};
use neuroshard_core::{Event, JournalFact, PeerFault, Record};

use crate::world::{Conduct, Node, World, node, transfer};

/// Blocks that the others make before the newcomer comes: more than they keep.
const BLOCKS: u64 = 1100;
const NEWCOMER: u8 = 4;

/// Four validators, far ahead of a node that comes only now, with nothing.
fn far_ahead() -> World {
    static FAR: LazyLock<Mutex<World>> = LazyLock::new(|| {
        let mut world = World::new(5, 4);
        world.cut.insert(NEWCOMER);
        go_on(&mut world, BLOCKS);
        let kept = world.nodes[1].core.decided_since(0).next().map(|one| one.block.header.height);
        assert!(kept > Some(8), "the first blocks are gone");
        Mutex::new(world)
    });
    let mut world = FAR.lock().unwrap().clone();
    renew(&mut world);
    world.cut.clear();
    world
}

/// Lets the others go on to a height.
fn go_on(world: &mut World, height: u64) {
    let until = world.now.after_ms(12_000 * height);
    world.run(until, |world| world.nodes[..3].iter().all(|one| one.height() >= height));
}

/// Puts a node without a past in the newcomer's place.
fn renew(world: &mut World) {
    world.nodes[usize::from(NEWCOMER)] = Node::new(NEWCOMER, 4);
    let now = world.now;
    world.nodes[usize::from(NEWCOMER)].run(now);
    assert_eq!(newcomer(world).height(), 0);
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

#[test]
fn who_took_the_state_gives_it_to_others_even_after_a_crash() {
    let mut world = far_ahead();
    run_until_caught_up(&mut world);
    let goal = world.nodes[0].height() + 20;
    go_on(&mut world, goal);
    let from = world.now;
    world.run(from.after_ms(1000), |_| false);
    let (now, node) = (world.now, &mut world.nodes[usize::from(NEWCOMER)]);
    assert!(node.journal.first_key_value().unwrap().0.0 > 0, "what the state was taken by has gone");
    node.restart(1);
    node.run(now);
    // Another newcomer hears of nobody else.
    world.cut.extend(0..3);
    world.nodes[3] = Node::new(3, 4);
    world.nodes[3].run(now);
    let newest = newcomer(&world).core.decided_since(goal - 1).next().cloned().unwrap();
    let what = newest;
    world.say(NEWCOMER, &Message::Decided(Box::new(Carried { node: crate::world::node(NEWCOMER), what })));
    world.run(now.after_ms(20_000), |world| world.nodes[3].height() >= goal - 2);
    assert!(world.nodes[3].height() >= goal - 2 && taken(&world.nodes[3]).len() == 1);
    assert_eq!(accused(&world.nodes[3]), []);
}

#[test]
fn several_nodes_give_pieces_at_once() {
    let mut world = far_ahead();
    world.said.clear();
    run_until_caught_up(&mut world);
    let gave = |from: &u8| world.said.get(&(*from, "StatePiece")).is_some_and(|count| *count > 0);
    assert!((0..4).filter(gave).count() >= 2, "{:?}", world.said);
}

/// Changes every piece of the state that it gives.
fn bends_pieces(_: u8, message: &Message) -> Vec<Message> {
    let Message::StatePiece(given) = message else { return vec![message.clone()] };
    let piece = given.piece.clone().map(|piece| {
        let mut bytes = piece.into_vec();
        // In the header of a block, in an entry of a tree.
        bytes[100] ^= 1;
        bytes.try_into().unwrap()
    });
    vec![Message::StatePiece(Box::new(StatePiece { piece, ..StatePiece::clone(given) }))]
}

/// Gives another block than was decided, and true pieces of the state.
fn bends_blocks(number: u8, message: &Message) -> Vec<Message> {
    let is_block = matches!(message, Message::StatePiece(given) if given.place == StatePlace::Block);
    if is_block { bends_pieces(number, message) } else { vec![message.clone()] }
}

/// Shows the way to a block that nobody decided.
fn bends_steps(_: u8, message: &Message) -> Vec<Message> {
    let Message::Steps(steps) = message else { return vec![message.clone()] };
    let mut bent = steps.steps.clone().into_vec();
    bent.iter_mut().for_each(|step| step.header.state = Hash::of_blob(b"a state of riches"));
    vec![Message::Steps(Box::new(Steps { steps: bent.try_into().unwrap(), ..Steps::clone(steps) }))]
}

/// Gives the same true piece again and again, whatever it is asked for.
fn gives_another(_: u8, message: &Message) -> Vec<Message> {
    static MODULES: Mutex<Option<StatePiece>> = Mutex::new(None);
    let Message::StatePiece(given) = message else { return vec![message.clone()] };
    if given.place == StatePlace::Modules {
        *MODULES.lock().unwrap() = Some(StatePiece::clone(given));
    }
    let modules = MODULES.lock().unwrap().as_ref().and_then(|one| one.piece.clone());
    let piece = if given.place == StatePlace::Block { given.piece.clone() } else { modules };
    vec![Message::StatePiece(Box::new(StatePiece { piece, ..StatePiece::clone(given) }))]
}

/// Shows the way, and is never heard of again.
fn vanishes(_: u8, message: &Message) -> Vec<Message> {
    if matches!(message, Message::StatePiece(_)) { Vec::new() } else { vec![message.clone()] }
}

/// Says that it gives nothing.
fn refuses(_: u8, message: &Message) -> Vec<Message> {
    let Message::StatePiece(given) = message else { return vec![message.clone()] };
    vec![Message::StatePiece(Box::new(StatePiece { piece: None, ..StatePiece::clone(given) }))]
}

#[test]
fn liars_are_named_and_the_state_comes_from_the_others() {
    let pairs: [(Conduct, Conduct, bool); 3] =
        [(bends_pieces, bends_steps, true), (gives_another, vanishes, true), (refuses, vanishes, false)];
    for (one, other, lies) in pairs {
        let mut world = far_ahead();
        world.conducts.extend([(1, one), (2, other)]);
        run_until_caught_up(&mut world);
        assert_eq!(taken(newcomer(&world)).len(), 1);
        let liars = [node(1), node(2)];
        let accused = accused(newcomer(&world));
        assert!(accused.iter().all(|(who, _)| liars.contains(who)), "{accused:?}");
        assert_eq!(!accused.is_empty(), lies, "{accused:?}");
        let once = accused.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(once.len(), accused.len(), "nobody is asked again: {accused:?}");
    }
}

#[test]
fn a_piece_that_does_not_prove_itself_is_its_senders_fault() {
    let table: [(Conduct, &str); 4] =
        [(bends_blocks, "state"), (bends_pieces, "state"), (gives_another, "state"), (bends_steps, "steps")];
    for (conduct, fault) in table {
        let mut world = far_ahead();
        world.conducts.insert(0, conduct);
        // Only the liar is there at first.
        world.cut.extend(1..4);
        let from = world.now;
        world.run(from.after_ms(40_000), |_| false);
        assert_eq!(newcomer(&world).height(), 0);
        let accused = accused(newcomer(&world));
        assert_eq!(accused, [(node(0), fault)], "named once, and not asked again for a minute");
        world.cut.clear();
        run_until_caught_up(&mut world);
    }
}

#[test]
fn an_older_state_is_taken_first_and_then_the_newer_one() {
    let mut world = far_ahead();
    world.cut.insert(NEWCOMER);
    // Node 3 stays where it is, and the others go on until they have forgotten the blocks after that.
    world.cut.insert(3);
    let stale = world.nodes[3].height();
    go_on(&mut world, 2 * BLOCKS + 50);
    renew(&mut world);
    world.cut = [0, 1, 2].into();
    // Only the one that stayed behind is there, and tells of its newest block.
    let newest = world.nodes[3].core.decided_since(stale).next().cloned().unwrap();
    let what = newest;
    world.say(3, &Message::Decided(Box::new(Carried { node: node(3), what })));
    let from = world.now;
    world.run(from.after_ms(60_000), |world| newcomer(world).height() >= stale);
    assert_eq!(newcomer(&world).height(), stale);
    world.cut.clear();
    run_until_caught_up(&mut world);
    let heights = taken(newcomer(&world));
    assert!(heights.len() == 2 && heights[0] < stale && heights[1] > stale, "{heights:?}, {stale}");
    // The validator that stayed behind takes the state too, and neither votes nor writes anything else meanwhile.
    let from = world.now;
    world.run(from.after_ms(120_000), |world| world.nodes[3].height() > 2 * BLOCKS);
    assert_eq!(taken(&world.nodes[3]).len(), 1);
    let facts = &world.nodes[3].written;
    let taking = facts.iter().position(|fact| *fact == "taking").unwrap();
    let others = facts[taking + 1..].iter().take_while(|fact| **fact != "state").filter(|fact| **fact != "chunk");
    assert_eq!(others.count(), 0);
    world.check();
}

#[test]
fn a_crash_at_any_moment_of_the_taking_resumes_or_begins_anew() {
    let (mut resumed, mut moments) = (0, 0);
    for power in (2..200).step_by(17) {
        let mut world = far_ahead();
        world.nodes[usize::from(NEWCOMER)].power = Some(power);
        let from = world.now;
        world.run(from.after_ms(20_000), |world| newcomer(world).power == Some(0));
        moments += 1;
        let node = &mut world.nodes[usize::from(NEWCOMER)];
        let finished = node.height() > 0;
        let facts: Vec<JournalFact> =
            node.journal.values().map(|record| codec::decode::<Record>(record).unwrap().fact).collect();
        let pieces = facts.iter().filter(|fact| matches!(fact, JournalFact::Chunk { .. })).count();
        node.restart(1);
        let now = world.now;
        node.run(now);
        let height = node.height();
        assert!(height == 0 || height > BLOCKS - 20, "cut after {power}: {height}");
        let resumes = pieces > 0 && height == 0;
        resumed += usize::from(resumes);
        world.said.clear();
        world.collect(NEWCOMER);
        run_until_caught_up(&mut world);
        let takings = newcomer(&world).written.iter().filter(|fact| **fact == "taking").count();
        assert!(!resumes || takings == 1, "cut after {power}: what the journal held was not used");
        if finished {
            break;
        }
    }
    assert!(resumed > 0 && moments > 3, "{resumed} of {moments}");
}
