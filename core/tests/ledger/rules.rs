//! Money, keys, sequence and time.

use neuroshard_core::ledger::{BlockError, Refusal};
use neuroshard_core::proto::chain::{Action, PublicKey};
use neuroshard_core::proto::{Amount, Time};

use crate::world::{NEURO, World, amount, node, owner, params};

fn pay(to: &str, units: u64) -> Action {
    Action::Transfer { to: owner(to), amount: amount(units) }
}

#[test]
fn a_transfer_costs_five_percent_on_top_rounded_up_and_burns_it() {
    let mut world = World::new(params(), &["founder"], &[("alice", 1_000_000)]);
    world.does("alice", pay("bob", 100_001));
    assert_eq!((world.balance("alice"), world.balance("bob")), (1_000_000 - 105_002, 100_001));
    world.does("bob", pay("carol", 10));
    assert_eq!(world.balance("bob"), 100_001 - 1010, "at least a thousand units");
    assert_eq!(world.ledger.supply(), (amount(1_000_000), amount(5001 + 1000)));
    let needed = amount(105_000);
    let refusal = Refusal::Funds { needed, balance: amount(98_991) };
    assert_eq!(world.refusal("bob", pay("carol", 100_000)), Some(refusal));
    assert_eq!(world.refusal("bob", pay("carol", u64::MAX)).map(|_| ()), Some(()), "no sum overflows");
    assert_eq!(world.refusal("bob", pay("carol", 0)), Some(Refusal::Nothing));
}

#[test]
fn a_wish_is_good_once_and_in_its_turn() {
    let mut world = World::new(params(), &["founder"], &[("alice", NEURO)]);
    let first = world.wish("alice", pay("bob", 5));
    let third = world.wish_at("alice", 2, pay("bob", 7));
    let ahead = Refusal::Sequence { expected: 0, found: 2 };
    assert_eq!(world.ledger.admits(&third), Err(ahead));
    assert!(ahead.is_premature());
    world.block(std::slice::from_ref(&first));
    let behind = Refusal::Sequence { expected: 1, found: 0 };
    assert_eq!(world.ledger.admits(&first), Err(behind));
    assert!(!behind.is_premature());
    let second = world.wish("alice", pay("bob", 6));
    world.block(&[second, third]);
    assert_eq!(world.balance("bob"), 18);
}

#[test]
fn after_a_rotation_only_the_new_key_signs() {
    let mut world = World::new(params(), &["founder"], &[("alice", NEURO)]);
    let weak = Action::RotateKey { new: PublicKey([0; 32]) };
    assert_eq!(world.refusal("alice", weak), Some(Refusal::WeakKey));
    world.does("alice", Action::RotateKey { new: PublicKey(*node("alice's new key").as_bytes()) });
    assert_eq!(world.refusal("alice", pay("bob", 5)), Some(Refusal::Key { owner: owner("alice") }));
    world.keys.insert("alice".into(), "alice's new key".into());
    world.does("alice", pay("bob", 5));
    assert_eq!(world.balance("bob"), 5);
}

#[test]
fn epochs_end_by_protocol_time_and_blocks_are_empty_only_where_one_is_due() {
    let mut world = World::new(params(), &["founder"], &[]);
    let early = world.try_block(Time::from_ms(9_999), &[]);
    assert_eq!(early, Err(BlockError::Empty { due: Time::from_ms(10_000) }));
    world.epochs(1);
    assert_eq!((world.ledger.head().height, world.ledger.head().time), (6, Time::from_ms(60_000)));
    assert_eq!(world.ledger.epoch(), 1);
    assert!(world.ledger.wants_finality());
    world.epochs(2);
    assert_eq!(world.ledger.head().time, Time::from_ms(180_000));
    // A day without finality is one step of ten seconds.
    world.try_block(Time::from_ms(86_400_000), &[]).expect("late, and due");
    assert_eq!((world.ledger.epoch(), world.ledger.protocol_ms()), (3, 190_000));
}

#[test]
fn a_bond_comes_back_after_seven_days_of_protocol_time() {
    let mut params = params();
    params.epoch_ms = 86_400_000;
    params.block_time_step_ms = 86_400_000;
    let mut world = World::new(params, &["founder"], &[("alice", 20 * NEURO)]);
    world.does("alice", Action::Bond { amount: amount(12 * NEURO) });
    let wanted = Refusal::Bond { wanted: amount(13 * NEURO), bonded: amount(12 * NEURO) };
    assert_eq!(world.refusal("alice", Action::Unbond { amount: amount(13 * NEURO) }), Some(wanted));
    world.does("alice", Action::Unbond { amount: amount(5 * NEURO) });
    let rest = 8 * NEURO - 2000;
    assert_eq!(world.balance("alice"), rest);
    world.epochs(7);
    assert_eq!(world.balance("alice"), rest, "a few milliseconds are missing");
    world.epochs(1);
    assert_eq!(world.balance("alice"), rest + 5 * NEURO);
    world.does("alice", pay("bob", 11 * NEURO));
    let account = world.ledger.account(&owner("alice")).unwrap();
    assert!(account.unbonding.is_empty());
    assert_eq!((account.bond, account.locked), (amount(7 * NEURO), Amount::ZERO));
}
