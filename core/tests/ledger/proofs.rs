//! Light clients, and newcomers who take the state in chunks.

use neuroshard_core::ledger::Ledger;
use neuroshard_core::ledger::light::{Advance, LightClient, LightError, NextSeats};
use neuroshard_core::ledger::sync::{Assembly, CHUNK_BYTES_MAX, Chunk, ChunkError, Stretch};
use neuroshard_core::proto::chain::{Action, CertificateError, Seats, StatePlace};
use neuroshard_core::proto::{Hash, LayerBlobs, LayerIndex, LayerRange, Position, Step, Tier, codec};

use crate::quorums::form;
use crate::world::{NEURO, World, amount, finalization, genesis, node, owner, params};

const RICH: [(&str, u64); 3] = [("alice", 5000 * NEURO), ("bob", 5000 * NEURO), ("carol", 5000 * NEURO)];

/// The step to a block, with the seats that it names and, if wished, those who decided it.
fn step(world: &World, seats: &[Seats], place: usize, skip: bool) -> Advance {
    let (block, certificate) = &world.blocks[place];
    let deciders = skip.then(|| (world.blocks[place - 1].0.header, seats[place].clone()));
    let changed = seats[place].hash() != block.header.seats;
    let next = if changed { NextSeats::between(&seats[place], &seats[place + 1]) } else { NextSeats::Same };
    Advance { header: block.header, certificate: certificate.clone(), deciders, next }
}

/// A chain in which alice, bob and carol join one after the other; `seats[n]` decide block n.
fn growing() -> (World, Vec<Seats>) {
    let mut world = World::new(params(), &["founder"], &RICH);
    let mut seats = vec![];
    for name in ["alice", "bob", "carol"] {
        world.does(name, Action::Bond { amount: amount(400 * NEURO) });
        let registration = world.registration(name, &format!("{name}'s node"));
        world.does(name, registration);
        seats.resize(world.blocks.len(), Seats::clone(world.ledger.seats()));
        let before = Seats::clone(world.ledger.seats());
        world.epochs(1);
        seats.resize(world.blocks.len(), before);
        world.validators.push(format!("{name}'s node"));
    }
    let last = Seats::clone(world.ledger.seats());
    world.validators.remove(0);
    world.epochs(1);
    seats.resize(world.blocks.len() + 1, last);
    (world, seats)
}

#[test]
fn a_light_client_follows_changes_of_seats_and_checks_accounts() {
    let (world, seats) = growing();
    let mut client = LightClient::genesis(&genesis(params(), &["founder"], &RICH));
    let mut steps = 0;
    for place in 0..world.blocks.len() {
        let last = place + 1 == world.blocks.len();
        if last || seats[place].hash() != world.blocks[place].0.header.seats {
            client.advance(step(&world, &seats, place, false)).unwrap_or_else(|error| panic!("{place}: {error}"));
            steps += 1;
        }
    }
    assert_eq!(steps, 4, "three changes, and the newest header");
    assert_eq!(client.header().map(|header| header.height), Some(world.ledger.head().height));
    let proof = world.ledger.prove_account(&owner("alice"));
    assert_eq!(client.account(&owner("alice"), &proof), Ok(world.ledger.account(&owner("alice"))));
    assert!(client.account(&owner("bob"), &proof).is_err());
    let nobody = world.ledger.prove_account(&owner("nobody"));
    assert_eq!(client.account(&owner("nobody"), &nobody), Ok(None));
    let registered = world.ledger.prove_node(&node("bob's node"));
    assert_eq!(client.node(&node("bob's node"), &registered), Ok(world.ledger.node(&node("bob's node"))));
    let bytes = codec::encode(&proof);
    assert_eq!(codec::decode(&bytes), Ok(proof));
    let elsewhere = Ledger::genesis(&genesis(params(), &["founder"], &RICH)).prove_account(&owner("alice"));
    assert!(client.account(&owner("alice"), &elsewhere).is_err(), "an older state has another root");
}

#[test]
fn a_light_client_skips_where_a_third_of_those_it_trusts_signed() {
    let (world, seats) = growing();
    let mut client = LightClient::genesis(&genesis(params(), &["founder"], &RICH));
    let last = world.blocks.len() - 1;
    let unknown = client.advance(step(&world, &seats, last, false)).unwrap_err();
    assert!(matches!(unknown, LightError::Certificate(CertificateError::Weight { signed: 0, .. })), "{unknown}");
    let strangers = client.advance(step(&world, &seats, last, true)).unwrap_err();
    assert!(matches!(strangers, LightError::Overlap { common: 0, .. }), "{strangers}");
    // To where alice decides with the founder, and from there over bob's coming to the end.
    let change = (0..last).find(|place| seats[*place].hash() != world.blocks[*place].0.header.seats).unwrap();
    client.advance(step(&world, &seats, change, false)).unwrap();
    let mut late = client.clone();
    let before = late.clone();
    client.advance(step(&world, &seats, last, true)).unwrap();
    assert_eq!(client.seats(), &seats[last]);
    // Other seats, or another parent, than those that decided.
    let mut forged = step(&world, &seats, last, true);
    forged.deciders = forged.deciders.map(|(parent, _)| (parent, seats[0].clone()));
    assert_eq!(late.advance(forged), Err(LightError::Deciders));
    let mut forged = step(&world, &seats, last, true);
    forged.deciders = Some((world.blocks[last - 2].0.header, seats[last].clone()));
    assert_eq!(late.advance(forged), Err(LightError::Deciders));
    let few = finalization(world.ledger.network(), last as u64 + 1, world.ledger.head().id, &["alice's node"]);
    let weak = Advance { certificate: few, ..step(&world, &seats, last, true) };
    assert!(matches!(late.advance(weak), Err(LightError::Certificate(CertificateError::Weight { .. }))));
    let mut forged = step(&world, &seats, last, true);
    let mut endorsements = forged.certificate.endorsements.clone().into_vec();
    endorsements[0].signature.0[0] ^= 1;
    forged.certificate.endorsements = endorsements.try_into().unwrap();
    assert!(matches!(late.advance(forged), Err(LightError::Certificate(CertificateError::Signature { .. }))));
    assert_eq!(late, before, "it stays where it was");
}

#[test]
fn a_new_order_of_the_same_validators_is_followed_by_its_seed() {
    let mut often = params();
    often.validators.committee_epochs = 3;
    let mut world = World::new(often, &["one", "two", "three", "four"], &[]);
    let mut client = LightClient::genesis(&genesis(often, &["one", "two", "three", "four"], &[]));
    let before = Seats::clone(world.ledger.seats());
    world.epochs(3);
    let after = Seats::clone(world.ledger.seats());
    assert!(before != after && before.same_weights(&after));
    let next = NextSeats::between(&before, &after);
    assert_eq!(next, NextSeats::Reseeded(*after.seed()));
    let (block, certificate) = world.blocks.last().unwrap().clone();
    let step = |next| Advance { header: block.header, certificate: certificate.clone(), deciders: None, next };
    assert_eq!(client.advance(step(NextSeats::Same)), Err(LightError::Next));
    assert_eq!(client.advance(step(NextSeats::Reseeded(*before.seed()))), Err(LightError::Next));
    let bytes = codec::encode(&step(next.clone())).len();
    assert!(bytes < 720, "a step over four validators takes {bytes} bytes");
    client.advance(step(next)).unwrap();
    assert_eq!(client.seats(), &after);
}

#[test]
fn a_light_client_skips_no_more_than_unbonding_takes() {
    let mut brief = params();
    brief.money.unbonding_ms = 100_000;
    let mut world = World::new(brief, &["founder"], &RICH);
    let mut client = LightClient::genesis(&genesis(brief, &["founder"], &RICH));
    world.epochs(3);
    let last = world.blocks.len() - 1;
    let seats = vec![Seats::clone(world.ledger.seats()); last + 2];
    let far = client.advance(step(&world, &seats, last, true));
    assert_eq!(far, Err(LightError::TooFar { ms: 180_000, max: 100_000 }));
    client.advance(step(&world, &seats, last, false)).expect("those it trusts decided it themselves");
    assert_eq!(client.advance(step(&world, &seats, 3, false)), Err(LightError::Old { known: 18, found: 4 }));
    let checkpoint = LightClient::trusting(world.blocks[last].0.header, seats[0].clone(), 100_000);
    assert_eq!(checkpoint.as_ref(), Ok(&client));
    assert_eq!(LightClient::trusting(world.blocks[last].0.header, Seats::default(), 1), Err(LightError::Next));
}

/// A state of several thousand accounts and some nodes.
fn large() -> World {
    let names: Vec<String> = (0..1500).map(|n| format!("owner {n}")).collect();
    let mut rich: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), NEURO)).collect();
    rich.extend(RICH);
    let mut world = World::new(params(), &["founder"], &rich);
    for name in ["alice", "bob"] {
        world.does(name, Action::Bond { amount: amount(40 * NEURO) });
        let registration = world.registration(name, &format!("{name}'s node"));
        world.does(name, registration);
    }
    world.epochs(1);
    let held = LayerRange { start: 0, end: 5 };
    let describe = Action::DescribeNode { memory_bytes: 1, storage_bytes: 1, tier: Tier::T1, held };
    world.block(&[world.message("alice's node", describe)]);
    let quorum = form(&mut world, &[("alice's node", 5)], &[]);
    let blobs = LayerBlobs { root: Hash::default(), weights: Hash::default(), moments: Hash::default() };
    let (position, first, stages) = (Position::default(), LayerIndex(0), vec![blobs; 5].try_into().unwrap());
    let post = Action::PostStages { quorum, step: Step(7), position, first, stages };
    world.block(&[world.message("alice's node", post)]);
    world
}

#[test]
fn a_newcomer_puts_the_state_together_from_chunks_of_several_peers() {
    let world = large();
    let header = world.blocks.last().unwrap().0.header;
    let chunks: Vec<Chunk> = world.ledger.chunks().collect();
    assert!(chunks.len() > 4, "{}", chunks.len());
    for chunk in &chunks {
        let bytes = codec::encode(chunk);
        assert!(bytes.len() <= CHUNK_BYTES_MAX as usize);
        assert_eq!(codec::decode::<Chunk>(&bytes).as_ref(), Ok(chunk));
    }
    let mut assembly = Assembly::new(header);
    assert_eq!(assembly.accept(&chunks[1]), Err(ChunkError::TooEarly));
    assembly.accept(&chunks[0]).unwrap();
    // Backwards, and every second one twice.
    for chunk in chunks[1..].iter().rev().chain(chunks.iter().step_by(2)) {
        assert_ne!(assembly.missing(), None);
        assembly.accept(chunk).unwrap();
    }
    assert_eq!(assembly.missing(), Some(0));
    let ledger = assembly.finish().unwrap();
    assert_eq!((ledger.root(), ledger.head()), (world.ledger.root(), world.ledger.head()));
    let quorums: Vec<_> = ledger.active_quorums().collect();
    assert_eq!(quorums, world.ledger.active_quorums().collect::<Vec<_>>());
    assert_eq!((quorums.len(), ledger.anchor().map(|anchor| anchor.step)), (1, Some(Step(7))));
    assert!(
        ledger.anchored(LayerRange { start: 0, end: 5 }).eq(world.ledger.anchored(LayerRange { start: 0, end: 5 }))
    );
    // It goes on as the others do.
    let mut other = World { ledger, ..large() };
    let mut world = world;
    for one in [&mut other, &mut world] {
        one.epochs(2);
        one.does("alice", Action::Unbond { amount: amount(NEURO) });
    }
    assert_eq!(other.ledger.root(), world.ledger.root());
    assert_eq!(other.ledger.chunks().count(), world.ledger.chunks().count());
}

#[test]
fn a_large_tree_is_asked_for_in_stretches_and_each_ends_where_the_next_begins() {
    let names: Vec<String> = (0..3000).map(|n| format!("owner {n}")).collect();
    let rich: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), NEURO)).collect();
    let mut world = World::new(params(), &["founder"], &rich);
    world.epochs(1);
    let mut assembly = Assembly::new(world.blocks.last().unwrap().0.header);
    assert!(assembly.stretches().is_empty(), "nothing is known before the modules");
    assembly.accept(&world.ledger.chunk_at(&StatePlace::Modules).unwrap()).unwrap();
    assert_eq!(world.ledger.chunk_at(&StatePlace::Block), None);
    let mut open = assembly.stretches();
    assert_eq!(open.iter().filter(|stretch| matches!(stretch.from, StatePlace::Accounts(_))).count(), 8);
    let mut asked = 0;
    while let Some(stretch) = open.pop() {
        let chunk = world.ledger.chunk_at(&stretch.from).unwrap();
        assembly.accept(&chunk).unwrap();
        let elsewhere = Stretch { from: StatePlace::Frozen(Hash::default()), to: None };
        assert_eq!(elsewhere.without(&chunk), Some(elsewhere), "a chunk takes nothing from another tree");
        open.extend(stretch.without(&chunk));
        asked += 1;
    }
    assert!((9..30).contains(&asked), "{asked}");
    assert_eq!(assembly.finish().unwrap().root(), world.ledger.root());
}

#[test]
fn a_hostile_chunk_is_refused_and_nothing_of_it_is_kept() {
    let world = large();
    let header = world.blocks.last().unwrap().0.header;
    let chunks: Vec<Chunk> = world.ledger.chunks().collect();
    let elsewhere = World::new(params(), &["founder"], &RICH);
    let mut assembly = Assembly::new(header);
    let foreign = elsewhere.ledger.chunks().next().unwrap();
    assert!(matches!(assembly.accept(&foreign), Err(ChunkError::Root { .. })));
    assembly.accept(&chunks[0]).unwrap();
    let missing = assembly.missing();
    for foreign in elsewhere.ledger.chunks().skip(1) {
        assert_eq!(assembly.accept(&foreign), Err(ChunkError::Entries));
    }
    // Every bit of every chunk matters, as far as we look.
    let mut refused = 0;
    for chunk in &chunks[1..] {
        let bytes = codec::encode(chunk);
        for place in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            let mut bent = bytes.clone();
            bent[place] ^= 1 << (place % 8);
            let Ok(bent) = codec::decode::<Chunk>(&bent) else { continue };
            refused += 1;
            assert_eq!(assembly.accept(&bent), Err(ChunkError::Entries));
        }
    }
    assert!(refused > 50, "{refused}");
    assert_eq!(assembly.missing(), missing);
    for chunk in &chunks {
        assembly.accept(chunk).unwrap();
    }
    assert_eq!(assembly.finish().unwrap().root(), header.state);
    let mut torn = Assembly::new(header);
    chunks[..chunks.len() - 1].iter().for_each(|chunk| torn.accept(chunk).unwrap());
    assert!(matches!(torn.finish(), Err(ChunkError::Missing { .. })));
}
