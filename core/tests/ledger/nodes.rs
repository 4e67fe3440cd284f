//! Registration, revocation, messages, attestations and the network's size.

use neuroshard_core::ledger::{Refusal, Standing};
use neuroshard_core::proto::chain::Action;
use neuroshard_core::proto::{LayerRange, Ratio, Tier};

use crate::world::{NEURO, World, amount, node, owner, params};

const RICH: [(&str, u64); 3] = [("alice", 100 * NEURO), ("bob", 100 * NEURO), ("carol", 100 * NEURO)];

fn describe(memory_bytes: u64) -> Action {
    let held = LayerRange { start: 0, end: 2 };
    Action::DescribeNode { memory_bytes, storage_bytes: 1, tier: Tier::T2, held }
}

/// Bonds these owners and registers a node for each.
fn join(world: &mut World, names: &[&str]) {
    for name in names {
        world.does(name, Action::Bond { amount: amount(20 * NEURO) });
        let registration = world.registration(name, &format!("{name}'s node"));
        world.does(name, registration);
    }
}

#[test]
fn a_node_is_registered_with_its_consent_for_a_puzzle_or_a_fee() {
    let mut world = World::new(params(), &["founder"], &[("alice", NEURO)]);
    let Action::RegisterNode { node: new, consent, .. } = world.registration("nobody", "new node") else { panic!() };
    let unsolved =
        (0..).find(|nonce| neuroshard_core::proto::chain::puzzle_bits(world.ledger.network(), new, *nonce) < 6);
    let refusal = world.refusal("nobody", Action::RegisterNode { node: new, consent, puzzle: unsolved });
    assert!(matches!(refusal, Some(Refusal::Puzzle { bits, wanted: 6 }) if bits < 6), "{refusal:?}");
    assert!(matches!(
        world.refusal("nobody", Action::RegisterNode { node: new, consent, puzzle: None }),
        Some(Refusal::Funds { .. })
    ));
    let stolen = world.refusal("alice", Action::RegisterNode { node: new, consent, puzzle: None });
    assert_eq!(stolen, Some(Refusal::Consent { node: new }), "consent names the owner");
    let free = world.registration("nobody", "new node");
    world.does("nobody", free);
    let known = world.ledger.node(&new).unwrap();
    assert_eq!((known.owner, known.standing), (owner("nobody"), Standing::Good));
    let again = world.registration("nobody", "new node");
    assert_eq!(world.refusal("nobody", again), Some(Refusal::Known { node: new }));
    let Action::RegisterNode { node: paid, consent, .. } = world.registration("alice", "paid node") else { panic!() };
    world.does("alice", Action::RegisterNode { node: paid, consent, puzzle: None });
    assert_eq!(world.balance("alice"), NEURO - 10_000_000);
}

#[test]
fn a_revoked_key_speaks_no_more_and_never_again() {
    let mut world = World::new(params(), &["founder"], &RICH);
    join(&mut world, &["alice"]);
    let foreign = world.refusal("bob", Action::RevokeNode { node: node("alice's node") });
    assert_eq!(foreign, Some(Refusal::Owner { node: node("alice's node") }));
    world.does("alice", Action::RevokeNode { node: node("alice's node") });
    let gone = Refusal::Node { node: node("alice's node") };
    assert_eq!(world.ledger.admits(&world.message("alice's node", describe(1))), Err(gone));
    let again = world.registration("alice", "alice's node");
    assert_eq!(world.refusal("alice", again), Some(Refusal::Known { node: node("alice's node") }));
    let account = world.ledger.account(&owner("alice")).unwrap();
    assert_eq!((account.nodes, account.validator), (0, None));
    world.epochs(1);
    assert_eq!(world.ledger.seats().weight(&node("alice's node")), 0);
}

#[test]
fn a_node_describes_itself_once_an_epoch_and_only_with_layers_there_are() {
    let mut world = World::new(params(), &["founder"], &[]);
    let name = "founder's node";
    world.block(&[world.message(name, describe(7))]);
    assert_eq!(world.ledger.node(&node(name)).unwrap().description.unwrap().memory_bytes, 7);
    assert_eq!(world.ledger.admits(&world.message(name, describe(8))), Err(Refusal::Described));
    let stale = world.message(name, describe(9));
    world.epochs(1);
    assert_eq!(world.ledger.admits(&stale), Err(Refusal::Epoch { now: 1, found: 0 }));
    let beyond = Action::DescribeNode {
        memory_bytes: 1,
        storage_bytes: 1,
        tier: Tier::T1,
        held: LayerRange { start: 3, end: 6 },
    };
    assert_eq!(world.ledger.admits(&world.message(name, beyond)), Err(Refusal::Layers { stages: 5 }));
    world.block(&[world.message(name, describe(8))]);
}

#[test]
fn what_a_node_may_say_is_limited_by_what_is_at_stake() {
    let mut params = params();
    (params.nodes.messages_unbonded, params.nodes.messages_per_bond, params.nodes.messages_max) = (0, 1, 2);
    let mut world = World::new(params, &["founder"], &RICH);
    let unbonded = world.registration("bob", "bob's node");
    world.does("bob", unbonded);
    assert_eq!(world.ledger.admits(&world.message("bob's node", describe(1))), Err(Refusal::Quota { max: 0 }));
    join(&mut world, &["alice"]);
    // Two least bonds behind one node, then one behind each of two.
    world.block(&[world.message("alice's node", describe(1))]);
    assert_eq!(world.ledger.admits(&world.message("alice's node", describe(1))), Err(Refusal::Described));
    let second = world.registration("alice", "alice's second");
    world.does("alice", second);
    assert_eq!(world.ledger.admits(&world.message("alice's node", describe(1))), Err(Refusal::Quota { max: 1 }));
    world.block(&[world.message("alice's second", describe(1))]);
}

/// All drawn peers among these attest each of them.
fn attest_all(world: &mut World, names: &[&str]) {
    for subject in names {
        let drawn = world.ledger.attesters(&node(subject));
        for name in names.iter().filter(|name| drawn.contains(&node(name))) {
            let attestation = world.message(name, Action::Attest { subject: node(subject) });
            if world.ledger.admits(&attestation) != Err(Refusal::Attested) {
                world.block(&[attestation]);
            }
        }
    }
}

#[test]
fn a_bonded_node_is_active_when_two_drawn_peers_of_other_owners_say_so() {
    let mut world = World::new(params(), &["founder"], &RICH);
    join(&mut world, &["alice", "bob", "carol"]);
    let alice = node("alice's node");
    let drawn = world.ledger.attesters(&alice);
    assert_eq!(drawn.len(), 3, "all others: {drawn:?}");
    assert!(!drawn.contains(&alice));
    let first = world.message("bob's node", Action::Attest { subject: alice });
    world.block(std::slice::from_ref(&first));
    assert_eq!(world.ledger.admits(&first), Err(Refusal::Attested), "twice from one is once");
    assert_eq!(world.ledger.node(&alice).unwrap().activity.last(), None, "one is not enough");
    let own = world.message("alice's node", Action::Attest { subject: alice });
    assert_eq!(world.ledger.admits(&own), Err(Refusal::NotDrawn { attester: alice, subject: alice }));
    world.block(&[world.message("carol's node", Action::Attest { subject: alice })]);
    assert_eq!(world.ledger.node(&alice).unwrap().activity.last(), Some(0));
    assert_eq!(world.ledger.size(), 1, "the size is fixed at an epoch's end");
    world.epochs(1);
    assert_eq!(world.ledger.size(), 1);
    attest_all(&mut world, &["alice's node", "bob's node", "carol's node", "founder's node"]);
    world.epochs(1);
    assert_eq!(world.ledger.size(), 4);
    assert_eq!(world.ledger.uptime(&alice), Some(Ratio::ONE));
    assert_eq!(world.ledger.uptime(&node("bob's node")), Some(Ratio::from_ppm(500_000)));
    assert_eq!(world.ledger.reputation(&node("bob's node")), Some(Ratio::from_ppm(500_000)));
}

#[test]
fn activity_counts_for_sixty_epochs() {
    let mut world = World::new(params(), &["founder"], &RICH);
    join(&mut world, &["alice", "bob"]);
    attest_all(&mut world, &["alice's node", "bob's node", "founder's node"]);
    // Active in epoch 0: one of the last 60 epochs up to epoch 60.
    world.epochs(1);
    assert_eq!(world.ledger.size(), 3);
    world.epochs(59);
    assert_eq!((world.ledger.epoch(), world.ledger.size()), (60, 3));
    world.epochs(1);
    assert_eq!(world.ledger.size(), 1);
}

#[test]
fn only_drawn_and_bonded_peers_attest() {
    let mut params = params();
    params.nodes.attesters = 2;
    let names: Vec<String> = (0..8).map(|n| format!("owner {n}")).collect();
    let rich: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 100 * NEURO)).collect();
    let mut world = World::new(params, &["founder"], &rich);
    join(&mut world, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let free = world.registration("nobody", "free node");
    world.does("nobody", free);
    let subject = node("owner 0's node");
    let drawn = world.ledger.attesters(&subject);
    assert_eq!(drawn.len(), 2);
    let idle = names
        .iter()
        .map(|name| format!("{name}'s node"))
        .find(|name| node(name) != subject && !drawn.contains(&node(name)));
    let idle = idle.expect("of seven others two are drawn");
    let refusal = world.ledger.admits(&world.message(&idle, Action::Attest { subject }));
    assert_eq!(refusal, Err(Refusal::NotDrawn { attester: node(&idle), subject }));
    assert!((0..50).all(|_| {
        world.epochs(1);
        !world.ledger.attesters(&subject).contains(&node("free node"))
    }));
    let unbonded = world.message("owner 1's node", Action::Attest { subject: node("free node") });
    assert_eq!(world.ledger.admits(&unbonded), Err(Refusal::Unbonded { node: node("free node") }));
}
