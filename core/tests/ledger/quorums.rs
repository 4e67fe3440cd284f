//! Who trains with whom: terms, signatures, sessions, successors and receipts.

use neuroshard_core::ledger::{Ledger, Quorum, Refusal};
use neuroshard_core::proto::chain::{Action, SignedTransaction};
use neuroshard_core::proto::{
    BATCHES_MAX, Hash, LayerRange, Member, Params, Plan, PlanError, QuorumId, Ratio, Signature, Terms, Tier,
};

use crate::world::{NEURO, World, amount, node, params, sign};

/// Sessions of five seconds, and so many messages that nobody runs out of them.
pub(crate) fn brief() -> Params {
    let mut params = params();
    params.phases.iter_mut().for_each(|row| row.session_s = 5);
    (params.quorums.lifetime_ms, params.quorums.acceptance_ms) = (12_000, 3000);
    (params.nodes.messages_unbonded, params.nodes.puzzle_bits) = (1000, 0);
    params
}

/// A world in which these nodes are registered, each by an owner of its own, and hold the whole model.
pub(crate) fn world(params: Params, names: &[&str]) -> World {
    let mut world = World::new(params, &["founder"], &[]);
    for name in names {
        let registration = world.registration(&format!("{name}'s owner"), name);
        world.does(&format!("{name}'s owner"), registration);
        world.block(&[world.message(name, describe(Tier::T2, 0, 5))]);
    }
    world
}

fn describe(tier: Tier, start: u32, end: u32) -> Action {
    Action::DescribeNode { memory_bytes: 1, storage_bytes: 1, tier, held: LayerRange { start, end } }
}

/// Members by name, each with the stage that its own end before.
pub(crate) fn plan(members: &[(&str, u32)]) -> Plan {
    let starts = [0].into_iter().chain(members.iter().map(|(_, end)| *end));
    let member = |((name, end), start): (&(&str, u32), u32)| Member {
        node: node(name),
        stages: LayerRange { start, end: *end },
    };
    let members: Vec<Member> = members.iter().zip(starts).map(member).collect();
    Plan { members: members.try_into().unwrap(), snapshot_steps: 100 }
}

/// Terms that hold for another second.
pub(crate) fn terms(world: &World, members: &[(&str, u32)], ends: &[QuorumId]) -> Terms {
    let valid_until = world.ledger.head().time.after_ms(1000);
    Terms { plan: plan(members), batches: 2, ends: ends.to_vec().try_into().unwrap(), valid_until }
}

/// The terms under the signatures of these nodes, published by the first.
pub(crate) fn signed(world: &World, terms: &Terms, signers: &[&str]) -> SignedTransaction {
    let digest = terms.digest(world.ledger.network());
    let acceptances: Vec<Signature> = signers.iter().map(|name| sign(name, &digest)).collect();
    let acceptances = acceptances.try_into().unwrap();
    world.message(signers[0], Action::FormQuorum { terms: terms.clone(), acceptances })
}

pub(crate) fn names<'a>(members: &[(&'a str, u32)]) -> Vec<&'a str> {
    members.iter().map(|(name, _)| *name).collect()
}

/// Forms a quorum, which must succeed.
pub(crate) fn form(world: &mut World, members: &[(&str, u32)], ends: &[QuorumId]) -> QuorumId {
    let terms = terms(world, members, ends);
    world.block(&[signed(world, &terms, &names(members))]);
    terms.id(world.ledger.network())
}

/// Why these would form no quorum.
fn refusal(world: &World, members: &[(&str, u32)], ends: &[QuorumId]) -> Option<Refusal> {
    let terms = terms(world, members, ends);
    world.ledger.admits(&signed(world, &terms, &names(members))).err()
}

/// A block so long after the last one, in which somebody passes by.
pub(crate) fn wait(world: &mut World, ms: u64) {
    let name = format!("passer-by at {}", world.ledger.head().height);
    let wishes = [world.wish(&name, world.registration(&name, &name))];
    assert_eq!(world.try_block(world.ledger.head().time.after_ms(ms), &wishes), Ok(vec![]));
}

fn found<'a>(ledger: &'a Ledger, id: &QuorumId) -> &'a Quorum {
    ledger.quorum(id).expect("a quorum that formed")
}

fn success(world: &World, name: &str) -> Option<Ratio> {
    world.ledger.node(&node(name)).unwrap().successes.share()
}

const PAIR: [(&str, u32); 2] = [("ann", 3), ("bob", 5)];

#[test]
fn a_quorum_forms_when_every_member_signed_its_terms() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    assert_eq!(world.ledger.active_quorums().count(), 0);
    let id = form(&mut world, &PAIR, &[]);
    let quorum = found(&world.ledger, &id);
    let now = world.ledger.protocol_ms();
    assert_eq!((&quorum.plan, quorum.batches), (&plan(&PAIR), 2));
    assert_eq!((quorum.first_ms, quorum.began_ms, quorum.ends_ms), (now, now, now + 5000));
    for name in ["ann", "bob"] {
        assert_eq!(world.ledger.quorum_of(&node(name)), Some((id, quorum)));
    }
    assert_eq!(world.ledger.quorum_of(&node("cid")), None);
    assert_eq!(world.ledger.active_quorums().collect::<Vec<_>>(), [(id, quorum)]);
    let proof = world.ledger.prove_quorum(&id);
    assert_eq!(proof.check(&world.ledger.root(), &id), Ok(Some(quorum)));
    assert!(proof.check(&world.blocks[0].0.header.state, &id).is_err(), "of another state");
}

#[test]
fn any_member_may_publish_the_terms_and_nobody_else() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let terms = terms(&world, &PAIR, &[]);
    let SignedTransaction { transaction, .. } = signed(&world, &terms, &["ann", "bob"]);
    let quorum = terms.id(world.ledger.network());
    let foreign = world.message("cid", transaction.action.clone());
    assert_eq!(world.ledger.admits(&foreign), Err(Refusal::Member { node: node("cid"), quorum }));
    world.block(&[world.message("bob", transaction.action)]);
}

#[test]
fn signatures_that_are_missing_swapped_or_of_other_terms_form_nothing() {
    let world = world(brief(), &["ann", "bob", "cid"]);
    let good = terms(&world, &PAIR, &[]);
    let refused = |signers: &[&str]| world.ledger.admits(&signed(&world, &good, signers));
    assert_eq!(refused(&["ann"]), Err(Refusal::Unsigned { node: node("bob") }));
    assert_eq!(refused(&["bob", "ann"]), Err(Refusal::Unsigned { node: node("ann") }));
    assert_eq!(refused(&["ann", "cid"]), Err(Refusal::Unsigned { node: node("bob") }));
    assert_eq!(refused(&["ann", "bob", "cid"]), Err(Refusal::Signatures { members: 2 }));
    let changes: [fn(&mut Terms); 5] = [
        |terms| terms.batches = 3,
        |terms| terms.valid_until = terms.valid_until.after_ms(1),
        |terms| terms.plan.snapshot_steps = 99,
        |terms| terms.ends = vec![QuorumId(Hash::default())].try_into().unwrap(),
        |terms| terms.plan = plan(&[("ann", 2), ("bob", 5)]),
    ];
    for (place, change) in changes.iter().enumerate() {
        let mut other = good.clone();
        change(&mut other);
        assert_ne!(other.digest(world.ledger.network()), good.digest(world.ledger.network()), "{place}");
        assert_ne!(other.id(world.ledger.network()), good.id(world.ledger.network()), "{place}");
    }
    let mut other = good.clone();
    other.batches = 3;
    let SignedTransaction { transaction, .. } = signed(&world, &good, &["ann", "bob"]);
    let Action::FormQuorum { acceptances, .. } = transaction.action else { panic!() };
    let moved = world.message("ann", Action::FormQuorum { terms: other, acceptances });
    assert_eq!(world.ledger.admits(&moved), Err(Refusal::Unsigned { node: node("ann") }));
}

#[test]
fn what_does_not_hold_of_the_terms_refuses_them() {
    let world = world(brief(), &["ann", "bob"]);
    let refused = |change: &dyn Fn(&mut Terms)| {
        let mut terms = terms(&world, &PAIR, &[]);
        change(&mut terms);
        world.ledger.admits(&signed(&world, &terms, &["ann", "bob"])).unwrap_err()
    };
    assert_eq!(
        refused(&|terms| terms.plan = plan(&[("ann", 3), ("bob", 4)])),
        Refusal::Plan(PlanError::Ends { at: 4, expected: 5 })
    );
    assert_eq!(
        refused(&|terms| terms.plan = plan(&[("ann", 3), ("ann", 5)])),
        Refusal::Plan(PlanError::Twice { node: node("ann") })
    );
    for batches in [0, BATCHES_MAX + 1, u32::MAX] {
        assert_eq!(refused(&|terms| terms.batches = batches), Refusal::Batches { max: 16 });
    }
    let none = QuorumId(Hash::default());
    assert_eq!(refused(&|terms| terms.ends = vec![none].try_into().unwrap()), Refusal::Over { quorum: none });
}

#[test]
fn what_does_not_hold_of_one_member_refuses_the_whole() {
    let mut world = world(brief(), &["ann", "bob", "cid", "dan", "eve"]);
    let registration = world.registration("fay", "fay");
    world.does("fay", registration);
    world.epochs(1);
    for (name, tier, (start, end)) in
        [("bob", Tier::T4, (0, 5)), ("cid", Tier::T5, (0, 5)), ("dan", Tier::T2, (3, 4)), ("ann", Tier::T2, (0, 3))]
    {
        world.block(&[world.message(name, describe(tier, start, end))]);
    }
    let with = |other| refusal(&world, &[("ann", 3), (other, 5)], &[]);
    assert_eq!(with("gus"), Some(Refusal::Node { node: node("gus") }));
    assert_eq!(with("fay"), Some(Refusal::Undescribed { node: node("fay") }));
    assert_eq!(with("dan"), Some(Refusal::Holds { node: node("dan"), held: LayerRange { start: 3, end: 4 } }));
    assert_eq!(with("bob"), Some(Refusal::Tiers { node: node("ann"), other: node("bob") }), "T2 and T4");
    assert_eq!(with("cid"), Some(Refusal::Slow { node: node("cid") }));
    let beyond = [("ann", 4), ("eve", 5)];
    assert!(matches!(refusal(&world, &beyond, &[]), Some(Refusal::Holds { node: n, .. }) if n == node("ann")));
    assert_eq!(refusal(&world, &[("cid", 5)], &[]), Some(Refusal::Slow { node: node("cid") }), "not even alone");
    assert_eq!(refusal(&world, &[("bob", 5)], &[]), None, "alone, any other tier will do");
}

#[test]
fn a_revoked_node_is_no_member() {
    let mut params = brief();
    params.money.fee_min = amount(0);
    let mut world = world(params, &["ann", "bob"]);
    world.does("bob's owner", Action::RevokeNode { node: node("bob") });
    assert_eq!(refusal(&world, &PAIR, &[]), Some(Refusal::Node { node: node("bob") }));
}

#[test]
fn a_node_that_missed_more_than_a_tenth_of_its_epochs_is_no_member() {
    let rich = [("ann", 100 * NEURO), ("bob", 100 * NEURO), ("cid", 100 * NEURO)];
    let mut world = World::new(brief(), &["founder"], &rich);
    for (name, _) in rich {
        world.does(name, Action::Bond { amount: amount(20 * NEURO) });
        let registration = world.registration(name, &format!("{name}'s node"));
        world.does(name, registration);
        world.block(&[world.message(&format!("{name}'s node"), describe(Tier::T1, 0, 5))]);
    }
    world.epochs(30);
    let members = [("ann's node", 3), ("bob's node", 5)];
    assert_eq!(refusal(&world, &members, &[]), None, "nodes without history");
    let subject = node("ann's node");
    for name in ["bob's node", "cid's node"] {
        world.block(&[world.message(name, Action::Attest { subject })]);
    }
    world.epochs(11);
    assert_eq!(refusal(&world, &members, &[]), None, "10 of the last 100 may be missed");
    world.epochs(1);
    assert_eq!(refusal(&world, &members, &[]), Some(Refusal::Uptime { node: subject, missed: 11, max: 10 }));
}

#[test]
fn a_larger_network_wants_larger_quorums() {
    let mut params = brief();
    params.phases[0].quorum_size = 2;
    let world = world(params, &["ann", "bob"]);
    assert_eq!(refusal(&world, &[("ann", 5)], &[]), Some(Refusal::TooFew { members: 1, min: 2 }));
    assert_eq!(refusal(&world, &PAIR, &[]), None);
}

#[test]
fn signatures_hold_up_to_their_last_moment_and_not_for_too_long() {
    let mut world = world(brief(), &["ann", "bob"]);
    let head = world.ledger.head().time;
    let mut long = terms(&world, &PAIR, &[]);
    long.valid_until = head.after_ms(3001);
    let refused = world.ledger.admits(&signed(&world, &long, &["ann", "bob"])).unwrap_err();
    assert_eq!(refused, Refusal::TooLong { until: long.valid_until, latest: head.after_ms(3000) });
    assert!(refused.is_premature(), "a later block may take it");
    long.valid_until = head.after_ms(3000);
    assert_eq!(world.ledger.admits(&signed(&world, &long, &["ann", "bob"])), Ok(()));
    let good = terms(&world, &PAIR, &[]);
    let wish = signed(&world, &good, &["ann", "bob"]);
    let mut late =
        World { ledger: world.ledger.clone(), blocks: world.blocks.clone(), ..World::new(brief(), &["founder"], &[]) };
    wait(&mut late, 1001);
    let now = late.ledger.head().time;
    assert_eq!(late.ledger.admits(&wish), Err(Refusal::Lapsed { until: good.valid_until, now }));
    assert_eq!(world.try_block(good.valid_until, &[wish]), Ok(vec![]), "in the block of that very time");
}

#[test]
fn the_same_terms_form_no_second_quorum() {
    let mut world = world(brief(), &["ann", "bob"]);
    let terms = terms(&world, &PAIR, &[]);
    let quorum = terms.id(world.ledger.network());
    let wish = signed(&world, &terms, &["ann", "bob"]);
    world.block(std::slice::from_ref(&wish));
    assert_eq!(world.ledger.admits(&wish), Err(Refusal::Formed { quorum }));
    world.block(&[world.message("bob", Action::EndQuorum { quorum })]);
    assert_eq!(world.ledger.admits(&wish), Err(Refusal::Formed { quorum }), "not even when it is over");
    let again = signed(&world, &terms, &["ann", "bob"]);
    // It is forgotten at an epoch's end, but not before its terms have lapsed.
    world.epochs(1);
    assert_eq!(world.ledger.quorum(&quorum), None);
    assert!(matches!(world.ledger.admits(&again), Err(Refusal::Epoch { .. })));
    let again = signed(&world, &terms, &["ann", "bob"]);
    assert!(matches!(world.ledger.admits(&again), Err(Refusal::Lapsed { .. })));
}

#[test]
fn a_quorum_that_is_over_is_remembered_while_its_terms_hold() {
    let mut params = brief();
    (params.epoch_ms, params.block_time_step_ms, params.quorums.acceptance_ms) = (100, 100, 3000);
    let mut world = world(params, &["ann"]);
    let mut long = terms(&world, &[("ann", 5)], &[]);
    long.valid_until = world.ledger.head().time.after_ms(1000);
    let quorum = long.id(world.ledger.network());
    world.block(&[signed(&world, &long, &["ann"])]);
    world.block(&[world.message("ann", Action::EndQuorum { quorum })]);
    while world.ledger.head().time <= long.valid_until {
        assert!(world.ledger.quorum(&quorum).is_some(), "{}", world.ledger.head().time);
        assert_eq!(world.ledger.node(&node("ann")).unwrap().quorum, Some(quorum));
        let again = signed(&world, &long, &["ann"]);
        assert_eq!(world.ledger.admits(&again), Err(Refusal::Formed { quorum }));
        world.epochs(1);
    }
    assert_eq!(world.ledger.quorum(&quorum), None);
    assert_eq!(world.ledger.node(&node("ann")).unwrap().quorum, None);
}

#[test]
fn members_are_free_at_the_moment_the_session_is_over() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let id = form(&mut world, &PAIR, &[]);
    wait(&mut world, 4999);
    assert!(world.ledger.quorum_of(&node("ann")).is_some());
    assert_eq!(refusal(&world, &[("ann", 5)], &[]), Some(Refusal::Crowded { max: 1 }));
    wait(&mut world, 1);
    assert_eq!(world.ledger.protocol_ms(), found(&world.ledger, &id).ends_ms);
    assert_eq!(world.ledger.quorum_of(&node("ann")), None);
    assert_eq!(world.ledger.active_quorums().count(), 0);
    let end = world.message("ann", Action::EndQuorum { quorum: id });
    assert_eq!(world.ledger.admits(&end), Err(Refusal::Over { quorum: id }));
    assert_eq!(refusal(&world, &PAIR, &[id]), Some(Refusal::Over { quorum: id }), "nothing is left to succeed");
    let next = form(&mut world, &PAIR, &[]);
    assert_eq!(found(&world.ledger, &next).first_ms, world.ledger.protocol_ms(), "a new line");
}

#[test]
fn a_halt_of_the_chain_ends_no_session() {
    let mut params = brief();
    params.phases.iter_mut().for_each(|row| row.session_s = 12);
    let mut world = world(params, &["ann", "bob"]);
    form(&mut world, &PAIR, &[]);
    wait(&mut world, 3_600_000);
    assert!(world.ledger.quorum_of(&node("ann")).is_some(), "ten seconds of protocol time");
}

#[test]
fn one_quorum_trains_and_the_others_stand_by() {
    let mut world = world(brief(), &["ann", "bob", "cid", "dan"]);
    let id = form(&mut world, &PAIR, &[]);
    let second = [("cid", 2), ("dan", 5)];
    assert_eq!(refusal(&world, &second, &[]), Some(Refusal::Crowded { max: 1 }));
    assert_eq!(refusal(&world, &second, &[id]), Some(Refusal::Strangers { quorum: id }));
    world.block(&[world.message("bob", Action::EndQuorum { quorum: id })]);
    form(&mut world, &second, &[]);
}

#[test]
fn no_node_is_taken_twice() {
    let mut params = brief();
    params.quorums.active_max = 3;
    let mut world = world(params, &["ann", "bob", "cid", "dan"]);
    let first = form(&mut world, &PAIR, &[]);
    let overlap = [("cid", 2), ("bob", 5)];
    assert_eq!(refusal(&world, &overlap, &[]), Some(Refusal::Taken { node: node("bob"), quorum: first }));
    let second = form(&mut world, &[("cid", 2), ("dan", 5)], &[]);
    assert_eq!(refusal(&world, &overlap, &[first]), Some(Refusal::Taken { node: node("cid"), quorum: second }));
    // Two become one.
    let joint = form(&mut world, &overlap, &[first, second]);
    assert_eq!(world.ledger.active_quorums().map(|(id, _)| id).collect::<Vec<_>>(), [joint]);
    assert_eq!(world.ledger.quorum_of(&node("ann")), None, "who is not kept is free");
    assert_eq!(found(&world.ledger, &joint).first_ms, found(&world.ledger, &first).first_ms, "the older line");
}

#[test]
fn the_same_members_renew_late_and_others_replace_them_at_any_time() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let first = form(&mut world, &PAIR, &[]);
    let began = found(&world.ledger, &first).began_ms;
    wait(&mut world, 3999);
    let early = Refusal::Early { quorum: first, from_ms: began + 4000, now_ms: began + 3999 };
    assert_eq!(refusal(&world, &PAIR, &[first]), Some(early));
    assert!(early.is_premature());
    assert_eq!(refusal(&world, &[("bob", 2), ("ann", 5)], &[first]), Some(early), "other stages, the same members");
    assert_eq!(refusal(&world, &[("ann", 3), ("cid", 5)], &[first]), None, "a replacement");
    assert_eq!(refusal(&world, &[("ann", 2), ("bob", 3), ("cid", 5)], &[first]), None, "one more");
    assert_eq!(refusal(&world, &[("ann", 5)], &[first]), None, "one less");
    let second = form(&mut world, &PAIR, &[first]);
    let quorum = found(&world.ledger, &second);
    assert_eq!((quorum.first_ms, quorum.began_ms, quorum.ends_ms), (began, began + 4000, began + 9000));
    assert!(!found(&world.ledger, &first).is_active(world.ledger.protocol_ms()));
    assert_eq!(world.ledger.active_quorums().count(), 1);
    let third = form(&mut world, &[("ann", 3), ("cid", 5)], &[second]);
    assert_eq!(world.ledger.quorum_of(&node("bob")), None);
    assert_eq!(world.ledger.quorum_of(&node("cid")).unwrap().0, third);
}

#[test]
fn a_line_of_quorums_ends_after_its_longest_life() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let mut id = form(&mut world, &PAIR, &[]);
    let first = found(&world.ledger, &id).first_ms;
    for _ in 0..2 {
        wait(&mut world, 3999);
        id = form(&mut world, &PAIR, &[id]);
    }
    let last = found(&world.ledger, &id).clone();
    assert_eq!((last.began_ms, last.ends_ms), (first + 8000, first + 12_000), "twelve seconds are a whole life here");
    wait(&mut world, 100);
    let replaced = form(&mut world, &[("ann", 3), ("cid", 5)], &[id]);
    assert_eq!(found(&world.ledger, &replaced).ends_ms, first + 12_000, "whoever comes into it");
    wait(&mut world, 3899);
    assert_eq!(world.ledger.active_quorums().count(), 0);
    let anew = form(&mut world, &PAIR, &[]);
    assert_eq!(found(&world.ledger, &anew).first_ms, world.ledger.protocol_ms());
}

#[test]
fn only_members_end_a_quorum() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let quorum = form(&mut world, &PAIR, &[]);
    let foreign = world.message("cid", Action::EndQuorum { quorum });
    assert_eq!(world.ledger.admits(&foreign), Err(Refusal::Member { node: node("cid"), quorum }));
    world.block(&[world.message("bob", Action::EndQuorum { quorum })]);
    assert_eq!(world.ledger.quorum_of(&node("ann")), None);
    let owner = world.wish("ann's owner", Action::EndQuorum { quorum });
    assert_eq!(world.ledger.admits(&owner), Err(Refusal::Author));
}

#[test]
fn a_session_that_ran_for_most_of_its_length_is_a_success_however_it_ended() {
    let mut world = world(brief(), &["ann", "bob", "cid"]);
    let all = |world: &World| ["ann", "bob", "cid"].map(|name| success(world, name).is_some());
    let quorum = form(&mut world, &PAIR, &[]);
    wait(&mut world, 3999);
    let mut early =
        World { ledger: world.ledger.clone(), blocks: world.blocks.clone(), ..World::new(brief(), &["founder"], &[]) };
    early.block(&[early.message("ann", Action::EndQuorum { quorum })]);
    assert_eq!(all(&early), [true, true, false], "4 of 5 seconds");
    let replaced = form(&mut world, &[("bob", 3), ("cid", 5)], &[quorum]);
    assert_eq!(all(&world), [true, true, false], "ended by a successor");
    wait(&mut world, 3998);
    world.block(&[world.message("cid", Action::EndQuorum { quorum: replaced })]);
    assert_eq!(all(&world), [true, true, false], "a millisecond too early: nobody's success");
    let alone = form(&mut world, &[("cid", 5)], &[]);
    wait(&mut world, 5000);
    assert_eq!(all(&world), [true, true, false], "receipts come at the epoch's end");
    world.epochs(1);
    assert_eq!(all(&world), [true; 3]);
    assert_eq!(success(&world, "cid"), Some(Ratio::ONE));
    assert_eq!(world.ledger.quorum(&alone), None, "and once");
}

#[test]
fn a_session_cut_by_the_end_of_its_line_is_no_success_for_being_short() {
    let mut params = brief();
    params.quorums.lifetime_ms = 6000;
    let mut world = world(params, &["ann", "bob"]);
    let first = form(&mut world, &PAIR, &[]);
    wait(&mut world, 3999);
    let second = form(&mut world, &PAIR, &[first]);
    let quorum = found(&world.ledger, &second);
    assert_eq!(quorum.ends_ms - quorum.began_ms, 2000);
    let receipts = |world: &World| world.ledger.node(&node("ann")).unwrap().successes;
    let before = receipts(&world);
    wait(&mut world, 2000);
    world.epochs(1);
    assert_eq!(receipts(&world), before);
    assert_eq!(world.ledger.quorum(&second), None);
}
