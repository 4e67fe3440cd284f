//! Who is there (PROTOCOL §3), and what that means for a node that was alone.

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

mod scenario;

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::{
    Envelope, Hash, Heartbeat, Job, Message, Mode, NetworkId, NodeId, Signature, Step, Time, Verified, codec,
};
use neuroshard_core::{Event, Input, PeerFault, TimerKind};
use scenario::{World, config};

fn node(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

fn heartbeat(key: &SigningKey, network: NetworkId, ms: u64) -> Input {
    let heartbeat = Heartbeat {
        node: node(key),
        time: Time::from_ms(ms),
        quorum: None,
        queue_depth: 0,
        free_bytes: 0,
        step: Step(0),
    };
    let envelope = Envelope::seal(network, &Message::Heartbeat(heartbeat), |digest| {
        Signature(key.sign(digest.as_bytes()).to_bytes())
    });
    Input::Message(Verified::open(&codec::encode(&envelope)).unwrap())
}

fn peer(number: u16) -> SigningKey {
    let mut seed = [0; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    SigningKey::from_bytes(&seed)
}

fn world_at(ms: u64) -> (World, NetworkId) {
    let mut world = World::new(config());
    world.train_to(2);
    world.now = Time::from_ms(ms);
    let network = world.core.network();
    (world, network)
}

#[test]
fn a_node_that_hears_another_is_no_longer_solo_and_is_again_when_it_is_gone() {
    let (mut world, network) = world_at(10_000);
    world.input(heartbeat(&peer(1), network, 10_000));
    assert!(world.events.contains(&Event::PeerUp { node: node(&peer(1)) }));
    assert_eq!(world.core.mode(), Some(Mode::Async));
    // It persists what it has and waits.
    while !world.jobs.is_empty() {
        world.answer(0);
        world.persist();
    }
    assert_eq!(world.saved_steps().len(), 1);
    // Exactly 120 s is not offline; one millisecond more is.
    world.now = Time::from_ms(130_000);
    world.input(Input::Tick);
    assert_eq!(world.core.mode(), Some(Mode::Async));
    let (at, kind) = world.core.next_deadline().unwrap();
    assert_eq!((at, kind), (Time::from_ms(130_001), TimerKind::Liveness));
    world.now = at;
    world.input(Input::Tick);
    assert!(world.events.contains(&Event::PeerDown { node: node(&peer(1)) }));
    assert_eq!(world.core.mode(), Some(Mode::Solo));
    assert!(matches!(world.jobs[..], [(_, Job::Train { .. } | Job::Evaluate { .. })]));
}

#[test]
fn old_heartbeats_cannot_be_played_back() {
    let (mut world, network) = world_at(50_000);
    let first = heartbeat(&peer(1), network, 50_000);
    world.input(first.clone());
    world.now = Time::from_ms(160_000);
    world.input(first);
    world.now = Time::from_ms(170_001);
    world.input(Input::Tick);
    assert!(world.events.contains(&Event::PeerDown { node: node(&peer(1)) }), "the replay did not count");
}

#[test]
fn messages_that_cannot_be_are_refused_with_their_reason() {
    let (mut world, network) = world_at(1_000_000);
    let other = NetworkId(Hash::of_blob(b"another network"));
    world.input(heartbeat(&peer(1), other, 1_000_000));
    let reject = PeerFault::OtherNetwork { node: node(&peer(1)) };
    assert_eq!(world.events.last(), Some(&Event::Rejected { reject }));
    world.input(heartbeat(&peer(1), network, 879_999));
    assert!(matches!(world.events.last(), Some(Event::Rejected { reject: PeerFault::Clock { .. } })));
    assert_eq!(world.core.mode(), Some(Mode::Solo));
}

#[test]
fn a_crowd_is_followed_up_to_the_limit_and_leaves_one_by_one() {
    let (mut world, network) = world_at(1000);
    for number in 1..=300 {
        world.input(heartbeat(&peer(number), network, 1000));
    }
    let count = |world: &World, wanted: fn(&Event) -> bool| world.events.iter().filter(|event| wanted(event)).count();
    assert_eq!(count(&world, |event| matches!(event, Event::PeerUp { .. })), 256);
    assert_eq!(count(&world, |event| matches!(event, Event::Rejected { .. })), 44);
    world.now = Time::from_ms(200_000);
    for _ in 0..256 {
        world.input(Input::Tick);
    }
    assert_eq!(count(&world, |event| matches!(event, Event::PeerDown { .. })), 256);
    assert_eq!(world.core.mode(), Some(Mode::Solo));
}
