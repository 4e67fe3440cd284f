//! Who decides, the beacon, and what contradicting oneself costs.

use std::collections::BTreeSet;

use neuroshard_core::ledger::{BlockError, Ledger, Refusal, Standing};
use neuroshard_core::proto::chain::{Action, CertificateError, Evidence, Statement, random_commitment};
use neuroshard_core::proto::{Hash, NodeId, Time};

use crate::world::{NEURO, World, amount, finalization, node, owner, params, vote};

fn bond(world: &mut World, name: &str, neuro: u64) {
    world.does(name, Action::Bond { amount: amount(neuro * NEURO) });
}

fn register(world: &mut World, name: &str) {
    let registration = world.registration(name, &format!("{name}'s node"));
    world.does(name, registration);
}

fn weight(world: &World, name: &str) -> u64 {
    world.ledger.seats().weight(&node(name)) / NEURO
}

const RICH: [(&str, u64); 2] = [("alice", 3000 * NEURO), ("bob", 3000 * NEURO)];

#[test]
fn founders_fade_as_stake_is_bonded_and_do_not_come_back() {
    let mut world = World::new(params(), &["one", "two"], &RICH);
    assert_eq!((weight(&world, "one's node"), weight(&world, "two's node")), (500, 500));
    bond(&mut world, "alice", 400);
    register(&mut world, "alice");
    assert_eq!(weight(&world, "alice's node"), 0, "seats change at epochs' ends only");
    world.epochs(1);
    let weights = ["one's node", "two's node", "alice's node"].map(|name| weight(&world, name));
    assert_eq!(weights, [300, 300, 400]);
    world.validators.push("alice's node".into());
    bond(&mut world, "alice", 600);
    world.epochs(1);
    assert_eq!(world.ledger.seats().len(), 1, "a thousand NEURO are bonded");
    world.validators = vec!["alice's node".into()];
    world.does("alice", Action::Unbond { amount: amount(900 * NEURO) });
    world.epochs(1);
    assert_eq!((weight(&world, "one's node"), weight(&world, "alice's node")), (0, 100));
    // With nobody left, those who decide go on.
    world.does("alice", Action::Unbond { amount: amount(95 * NEURO) });
    world.epochs(2);
    assert_eq!(weight(&world, "alice's node"), 100);
}

#[test]
fn less_than_the_least_bond_votes_for_nothing_and_nomination_moves_the_vote() {
    let mut world = World::new(params(), &["founder"], &RICH);
    bond(&mut world, "alice", 9);
    register(&mut world, "alice");
    world.epochs(1);
    assert_eq!(world.ledger.seats().len(), 1);
    bond(&mut world, "alice", 1);
    let second = world.registration("alice", "alice's second");
    world.does("alice", second);
    world.epochs(1);
    assert_eq!((weight(&world, "alice's node"), weight(&world, "alice's second")), (10, 0));
    let foreign = world.refusal("alice", Action::Nominate { node: node("founder's node") });
    assert_eq!(foreign, Some(Refusal::Owner { node: node("founder's node") }));
    world.does("alice", Action::Nominate { node: node("alice's second") });
    world.epochs(1);
    assert_eq!((weight(&world, "alice's node"), weight(&world, "alice's second")), (0, 10));
}

#[test]
fn a_validator_that_is_silent_for_sixty_epochs_loses_its_vote() {
    let mut world = World::new(params(), &["founder"], &RICH);
    bond(&mut world, "alice", 100);
    register(&mut world, "alice");
    bond(&mut world, "bob", 100);
    register(&mut world, "bob");
    world.epochs(1);
    // Alice signs what the first block of each epoch carries; bob says something once.
    world.validators.push("alice's node".into());
    world.epochs(30);
    let commitment = Hash::of_blob(b"value");
    world.block(&[world.message("bob's node", Action::CommitRandom { commitment })]);
    world.epochs(59);
    assert_eq!((world.ledger.epoch(), weight(&world, "bob's node")), (90, 100));
    world.epochs(1);
    assert_eq!((weight(&world, "alice's node"), weight(&world, "bob's node")), (100, 0));
    assert_eq!(world.ledger.account(&owner("bob")).unwrap().validator, None);
    // It comes back when its owner says so.
    world.does("bob", Action::Nominate { node: node("bob's node") });
    world.epochs(1);
    assert_eq!(weight(&world, "bob's node"), 100);
}

#[test]
fn the_first_block_of_an_epoch_carries_a_finalization_by_those_who_decided() {
    let mut world = World::new(params(), &["founder"], &RICH);
    bond(&mut world, "alice", 990);
    register(&mut world, "alice");
    world.epochs(1);
    // The founder decided the last block alone; from now on alice decides.
    assert!(world.ledger.wants_finality());
    let (head, network, due) = (world.ledger.head(), world.ledger.network(), world.ledger.next_due());
    let try_with = |signers: &[&str], block: Hash| {
        let certificate = finalization(network, head.height, block, signers);
        world.ledger.draft(node("alice's node"), due, Some(&certificate), &[]).map(|draft| draft.block)
    };
    let weight = BlockError::Certificate(CertificateError::Weight { signed: 0, quorum: 1 });
    let refused = try_with(&["alice's node"], head.id).unwrap_err();
    assert!(
        matches!(refused, BlockError::Certificate(CertificateError::Weight { signed: 0, .. })),
        "{refused} {weight}"
    );
    assert_eq!(try_with(&["founder's node"], Hash::default()).unwrap_err(), BlockError::Subject);
    let none = world.ledger.draft(node("alice's node"), due, None, &[]).unwrap_err();
    assert_eq!(none, BlockError::Finality { wanted: true });
    let mut block = try_with(&["founder's node"], head.id).unwrap();
    let after = world.ledger.apply(&block).unwrap().0;
    // Where none is wanted, none may be.
    assert!(!after.wants_finality());
    let mut next = after.draft(node("alice's node"), after.next_due(), None, &[]).unwrap().block;
    next.finality = block.finality.clone();
    assert_eq!(after.apply(&next).unwrap_err(), BlockError::Subject, "the header binds it");
    next.header.finality = neuroshard_core::proto::chain::Block::finality_hash(next.finality.as_ref());
    assert_eq!(after.apply(&next).unwrap_err(), BlockError::Finality { wanted: false });
    block.finality = None;
    assert_eq!(world.ledger.apply(&block).unwrap_err(), BlockError::Subject);
}

#[test]
fn a_value_revealed_in_an_epoch_is_in_the_beacon_two_epochs_later() {
    let world = || World::new(params(), &["founder"], &[]);
    let name = "founder's node";
    let run = |value: Option<&[u8]>| {
        let mut world = world();
        if let Some(value) = value {
            let value = Hash::of_blob(value);
            let commitment = random_commitment(node(name), 0, &value);
            world.block(&[world.message(name, Action::CommitRandom { commitment })]);
            let again = world.message(name, Action::CommitRandom { commitment });
            assert_eq!(world.ledger.admits(&again), Err(Refusal::Committed));
            world.epochs(1);
            let other = world.message(name, Action::RevealRandom { value: Hash::default() });
            assert_eq!(world.ledger.admits(&other), Err(Refusal::Reveal));
            let reveal = world.message(name, Action::RevealRandom { value });
            let at = world.ledger.next_due();
            assert_eq!(world.try_block(at, std::slice::from_ref(&reveal)), Ok(vec![]));
            assert_eq!(world.ledger.admits(&reveal), Err(Refusal::Reveal));
        } else {
            world.epochs(1);
        }
        (1..6)
            .map(|_| {
                let value = world.ledger.beacon();
                world.epochs(1);
                value
            })
            .collect::<Vec<_>>()
    };
    // Epochs 1 to 5: the blocks differ, so finalizations do; what was revealed in epoch 1 must not be seen before epoch 3.
    let (one, two, none) = (run(Some(b"one")), run(Some(b"two")), run(None));
    assert_eq!(one[..2], two[..2]);
    assert_eq!(one[..2], none[..2]);
    assert_ne!(one[2], two[2]);
    assert_ne!(one[2], none[2]);
    assert_eq!(BTreeSet::from_iter(&one).len(), 5, "each epoch has its own");
}

#[test]
fn what_is_committed_is_in_the_root() {
    let root = |commitment: &[u8]| {
        let mut world = World::new(params(), &["founder"], &[]);
        let commitment = Hash::of_blob(commitment);
        world.block(&[world.message("founder's node", Action::CommitRandom { commitment })]);
        world.ledger.root()
    };
    assert_ne!(root(b"one"), root(b"two"));
}

#[test]
fn who_withholds_a_value_is_barred_and_loses_nothing() {
    let mut world = World::new(params(), &["founder"], &[]);
    let (name, commitment) = ("founder's node", Hash::of_blob(b"a commitment"));
    world.block(&[world.message(name, Action::CommitRandom { commitment })]);
    world.epochs(2);
    let commit = |world: &World| world.ledger.admits(&world.message(name, Action::CommitRandom { commitment }));
    assert_eq!(commit(&world), Err(Refusal::Barred { until: 62 }));
    world.epochs(59);
    assert_eq!(commit(&world), Err(Refusal::Barred { until: 62 }));
    world.epochs(1);
    assert_eq!(commit(&world), Ok(()));
    let stranger = World::new(params(), &["founder"], &[]);
    let refused = stranger.ledger.admits(&stranger.message("nobody", Action::CommitRandom { commitment }));
    assert_eq!(refused, Err(Refusal::Node { node: node("nobody") }));
}

#[test]
fn contradicting_statements_cost_the_whole_bond_once() {
    let mut world = World::new(params(), &["founder"], &RICH);
    bond(&mut world, "alice", 100);
    register(&mut world, "alice");
    world.does("alice", Action::Unbond { amount: amount(30 * NEURO) });
    world.epochs(1);
    let network = world.ledger.network();
    let statement = |block: &[u8]| Statement::Notarize { height: 9, view: 2, block: Hash::of_blob(block) };
    let twice = |first, second| {
        let pair =
            Evidence { first: vote(network, "alice's node", first), second: vote(network, "alice's node", second) };
        Action::ReportEquivocation { evidence: Box::new(pair) }
    };
    let report = |world: &World, action: &Action| world.message("founder's node", action.clone());
    let innocent = twice(statement(b"one"), statement(b"one"));
    assert_eq!(world.ledger.admits(&report(&world, &innocent)), Err(Refusal::Evidence));
    let mut forged = Evidence {
        first: vote(network, "alice's node", statement(b"one")),
        second: vote(network, "bob's node", statement(b"two")),
    };
    forged.second.vote.validator = node("alice's node");
    let forged = Action::ReportEquivocation { evidence: Box::new(forged) };
    assert_eq!(world.ledger.admits(&report(&world, &forged)), Err(Refusal::Evidence));
    let guilty = twice(statement(b"one"), statement(b"two"));
    let (balance, (_, burned)) = (world.balance("alice"), world.ledger.supply());
    world.block(&[report(&world, &guilty)]);
    let account = world.ledger.account(&owner("alice")).unwrap();
    assert_eq!(account.bonds(), amount(0), "what is on its way back is still at stake");
    assert_eq!(world.balance("alice"), balance);
    assert_eq!(world.ledger.supply().1, amount(burned.units() + 100 * NEURO));
    assert_eq!(world.ledger.node(&node("alice's node")).unwrap().standing, Standing::Convicted);
    let again = world.ledger.admits(&report(&world, &guilty));
    assert_eq!(again, Err(Refusal::Node { node: node("alice's node") }));
    world.epochs(1);
    assert_eq!(weight(&world, "alice's node"), 0);
}

#[test]
fn above_the_limit_a_committee_is_drawn_and_stays_for_its_period() {
    let mut params = params();
    (params.validators.voters_max, params.validators.seats, params.validators.seats_quorum) = (3, 16, 12);
    params.validators.committee_epochs = 6;
    let names: Vec<String> = (0..12).map(|n| format!("owner {n}")).collect();
    let rich: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1000 * NEURO)).collect();
    let mut world = World::new(params, &["founder"], &rich);
    for name in &names {
        bond(&mut world, name, 100);
        register(&mut world, name);
    }
    world.epochs(5);
    assert_eq!(world.ledger.seats().len(), 1, "the seats as they were, until a committee is drawn");
    world.epochs(1);
    let seats = |world: &World| world.ledger.seats().iter().map(|(id, n)| (*id, n)).collect::<Vec<(NodeId, u64)>>();
    let first = seats(&world);
    assert_eq!((world.ledger.seats().total(), world.ledger.seats().quorum()), (16, 12));
    assert!(first.iter().all(|(_, seats)| (1..=5).contains(seats)), "whole shares are given: {first:?}");
    world.validators = names.iter().map(|name| format!("{name}'s node")).collect();
    world.epochs(5);
    assert_eq!(seats(&world), first);
    world.epochs(1);
    assert_ne!(seats(&world), first, "four seats are drawn anew");
}

#[test]
fn a_block_out_of_line_is_refused_and_changes_nothing() {
    let mut world = World::new(params(), &["founder"], &RICH);
    let wish = world.wish("alice", Action::Bond { amount: amount(NEURO) });
    let draft = world.ledger.draft(node("founder's node"), Time::from_ms(5), None, [&wish]).unwrap();
    let good = draft.block;
    let refused = |edit: &dyn Fn(&mut neuroshard_core::proto::chain::Block)| {
        let mut block = good.clone();
        edit(&mut block);
        world.ledger.apply(&block).unwrap_err()
    };
    assert_eq!(refused(&|block| block.header.network.0 = Hash::default()), BlockError::Network);
    assert_eq!(refused(&|block| block.header.height = 2), BlockError::Height { expected: 1, found: 2 });
    assert!(matches!(refused(&|block| block.header.parent = Hash::default()), BlockError::Parent { .. }));
    assert!(matches!(refused(&|block| block.header.time = Time::ZERO), BlockError::Time { .. }));
    let stranger = node("stranger");
    assert_eq!(refused(&|block| block.header.proposer = stranger), BlockError::Proposer { node: stranger });
    assert_eq!(refused(&|block| block.header.transactions = Hash::default()), BlockError::Transactions);
    assert!(matches!(refused(&|block| block.header.state = Hash::default()), BlockError::State { .. }));
    assert!(matches!(refused(&|block| block.header.seats = Hash::default()), BlockError::Seats { .. }));
    assert!(matches!(refused(&|block| block.header.beacon = Hash::default()), BlockError::Beacon { .. }));
    assert_eq!(world.ledger.root(), Ledger::genesis(&crate::world::genesis(params(), &["founder"], &RICH)).root());
    world.ledger = world.ledger.apply(&good).unwrap().0;
    assert_eq!(world.ledger.head().id, good.header.id());
}
