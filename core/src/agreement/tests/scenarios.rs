//! One behaviour at a time, told as who says what.

use std::vec;
use std::vec::Vec;

use neuroshard_proto::Time;
use neuroshard_proto::chain::{Certificate, SignedVote, Statement, Subject};

use super::{Honest, block, finalize, node, notarize, nullify, seats, vote};
use crate::agreement::tests::HEIGHT;
use crate::agreement::{Agreement, Ballot, Input, Offer, Output, Simplex};

const NOW: Time = Time::from_ms(1000);

fn gather(subject: Subject, votes: &[(usize, Statement)]) -> Certificate {
    Certificate::gather(subject, votes.iter().map(|(validator, statement)| vote(*validator, *statement)))
}

fn notarization(view: u64, name: &str) -> Certificate {
    let subject = Subject::Notarized { height: HEIGHT, view, block: block(name) };
    gather(subject, &[0, 1, 2].map(|validator| (validator, notarize(view, block(name)))))
}

fn nullification(view: u64, locks: [Option<(u64, &str)>; 3]) -> Certificate {
    let lock = |lock: Option<(u64, &str)>| lock.map(|(view, name)| (view, block(name)));
    let votes: Vec<_> = (0..).zip(locks).map(|(validator, one)| (validator, nullify(view, lock(one)))).collect();
    gather(Subject::Nullified { height: HEIGHT, view }, &votes)
}

/// Validator 3 of four; 0 leads view 0, 1 leads view 1, and so on.
fn follower() -> Honest {
    Honest::new(3, &seats(4, &[0, 1, 2]))
}

fn said(honest: &Honest) -> Vec<Statement> {
    honest.durable.iter().map(|ballot| ballot.statement).collect()
}

fn offer(honest: &mut Honest, view: u64, name: &str, entry: Option<&Certificate>, lock: Option<&Certificate>) {
    let leader = node(usize::try_from(view).unwrap());
    honest.hear(NOW, Input::Proposal(Offer { leader, view, block: block(name), entry, lock }));
}

fn wait(honest: &mut Honest) {
    let at = honest.simplex.turns_at().unwrap();
    honest.hear(at, Input::Tick);
}

#[test]
fn one_validator_decides_alone_and_at_once() {
    let mut alone = Honest::new(0, &seats(1, &[0]));
    alone.hear(NOW, Input::Wanted(true));
    assert_eq!(alone.decided(), Some(block("of 0 in view 0")));
    assert_eq!(alone.simplex.deadline(), None);
}

#[test]
fn a_validator_at_rest_waits_for_nothing() {
    let mut honest = follower();
    honest.hear(NOW, Input::Wanted(false));
    assert_eq!(honest.simplex.deadline(), None);
    honest.hear(NOW, Input::Wanted(true));
    assert_eq!(honest.simplex.deadline(), Some(NOW.after_ms(1000)));
    honest.hear(NOW, Input::Wanted(false));
    assert_eq!(honest.simplex.deadline(), None);
    // Another one's vote is a reason to wait, too.
    honest.hear(NOW, Input::Vote(&vote(1, nullify(0, None))));
    assert_eq!(honest.simplex.deadline(), Some(NOW.after_ms(1000)));
}

#[test]
fn only_the_leader_of_the_view_is_followed_and_only_once() {
    let mut honest = follower();
    let stranger = Offer { leader: node(2), view: 0, block: block("x"), entry: None, lock: None };
    honest.hear(NOW, Input::Proposal(stranger));
    assert_eq!(said(&honest), []);
    offer(&mut honest, 0, "a", None, None);
    offer(&mut honest, 0, "b", None, None);
    assert_eq!(said(&honest), [notarize(0, block("a"))]);
}

#[test]
fn an_invalid_block_gets_no_vote() {
    let mut simplex = Simplex::start(HEIGHT, seats(4, &[0]), node(3), []);
    let mut out = Vec::new();
    let offer = Offer { leader: node(0), view: 0, block: block("a"), entry: None, lock: None };
    simplex.on(NOW, Input::Proposal(offer), &mut out);
    assert_eq!(out, [Output::Check { view: 0, block: block("a") }]);
    simplex.on(NOW, Input::Checked { view: 0, block: block("a"), valid: false }, &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn a_notarization_locks_and_is_finalized() {
    let mut honest = follower();
    honest.hear(NOW, Input::Certificate(&notarization(0, "a")));
    assert_eq!(said(&honest), [finalize(0, block("a"))]);
    assert_eq!(honest.simplex.view(), 1);
    wait(&mut honest);
    assert_eq!(said(&honest)[1], nullify(1, Some((0, block("a")))), "the lock is reported");
}

#[test]
fn who_nullified_a_view_does_not_finalize_in_it_or_before() {
    let mut honest = follower();
    honest.hear(NOW, Input::Wanted(true));
    wait(&mut honest);
    honest.hear(NOW, Input::Certificate(&notarization(0, "a")));
    assert_eq!(said(&honest), [nullify(0, None)]);
    assert_eq!(honest.simplex.view(), 1, "but it takes the lock and goes on");
}

#[test]
fn a_finalization_decides_whatever_else_happened() {
    let mut honest = follower();
    honest.hear(NOW, Input::Certificate(&nullification(5, [None; 3])));
    for validator in 0..3 {
        assert_eq!(honest.decided(), None);
        honest.hear(NOW, Input::Vote(&vote(validator, finalize(2, block("a")))));
    }
    assert_eq!(honest.decided(), Some(block("a")));
}

#[test]
fn a_quorum_is_more_than_two_thirds() {
    let mut honest = follower();
    let two = gather(
        Subject::Finalized { height: HEIGHT, view: 0, block: block("a") },
        &[(0, finalize(0, block("a"))), (1, finalize(0, block("a")))],
    );
    honest.hear(NOW, Input::Certificate(&two));
    for validator in 0..2 {
        honest.hear(NOW, Input::Vote(&vote(validator, finalize(0, block("a")))));
    }
    assert_eq!(honest.decided(), None);
}

#[test]
fn a_locked_block_must_be_proposed_again() {
    let (lock, entry) = (notarization(0, "a"), nullification(1, [None, Some((0, "a")), None]));
    let cases = [
        ("another block", "b", Some(&entry), Some(&lock), false),
        ("without the lock's notarization", "a", Some(&entry), None, false),
        ("another block and no lock", "b", Some(&entry), None, false),
        ("without its entry", "a", None, Some(&lock), false),
        ("with the entry of another view", "a", Some(&lock), None, false),
        ("the block that is locked", "a", Some(&entry), Some(&lock), true),
    ];
    for (what, name, entry, lock, good) in cases {
        let mut honest = follower();
        honest.hear(NOW, Input::Certificate(&notarization(0, "a")));
        honest.hear(NOW, Input::Certificate(&nullification(1, [None, Some((0, "a")), None])));
        assert_eq!(honest.simplex.view(), 2);
        offer(&mut honest, 2, name, entry, lock);
        assert_eq!(said(&honest).contains(&notarize(2, block(name))), good, "{what}");
    }
}

#[test]
fn a_block_notarized_in_the_view_before_must_be_proposed_again() {
    for (name, good) in [("a", true), ("b", false)] {
        let mut honest = follower();
        offer(&mut honest, 1, name, Some(&notarization(0, "a")), None);
        assert_eq!(said(&honest).contains(&notarize(1, block(name))), good, "{name}");
    }
}

#[test]
fn a_nullified_view_without_locks_leaves_the_leader_free() {
    let mut honest = follower();
    offer(&mut honest, 1, "b", Some(&nullification(0, [None; 3])), None);
    assert_eq!(said(&honest), [notarize(1, block("b"))]);
}

#[test]
fn a_lock_that_nobody_can_show_does_not_count() {
    let mut honest = follower();
    honest.hear(NOW, Input::Certificate(&nullification(0, [None; 3])));
    for (validator, lock) in [(0, None), (1, Some((0, block("ghost")))), (2, None)] {
        honest.hear(NOW, Input::Vote(&vote(validator, nullify(1, lock))));
    }
    assert_eq!(honest.simplex.view(), 1);
    honest.hear(NOW, Input::Certificate(&nullification(1, [None, Some((0, "ghost")), None])));
    assert_eq!(honest.simplex.view(), 1, "nor inside a certificate");
    // Were it real, its notarization would make the votes count.
    honest.hear(NOW, Input::Certificate(&notarization(0, "ghost")));
    assert_eq!(honest.simplex.view(), 2);
}

#[test]
fn a_leader_proposes_what_the_certificates_demand() {
    let seats = seats(4, &[0, 1, 3]);
    let start = || Simplex::start(HEIGHT, seats.clone(), node(3), []);
    let (lock, entry) = (notarization(0, "a"), nullification(1, [None, Some((0, "a")), None]));
    let mut leader = start();
    let mut out = Vec::new();
    leader.on(NOW, Input::Certificate(&lock), &mut out);
    out.clear();
    leader.on(NOW, Input::Certificate(&entry), &mut out);
    let again = Some(block("a"));
    assert_eq!(out, [Output::Propose { view: 2, again, entry: Some(entry), lock: Some(lock) }]);
    // Free, it proposes when there is something to decide.
    let (mut leader, entry) = (start(), nullification(1, [None; 3]));
    out.clear();
    leader.on(NOW, Input::Certificate(&entry), &mut out);
    assert_eq!(out, []);
    leader.on(NOW, Input::Wanted(true), &mut out);
    assert_eq!(out, [Output::Propose { view: 2, again: None, entry: Some(entry), lock: None }]);
}

#[test]
fn a_leader_gives_a_finalization_a_quarter_of_the_view_before_it_proposes_again() {
    let mut leader = Simplex::start(HEIGHT, seats(4, &[0, 3]), node(3), []);
    let mut out = Vec::new();
    leader.on(NOW, Input::Certificate(&notarization(0, "a")), &mut out);
    leader.on(NOW, Input::Wanted(true), &mut out);
    let proposes =
        |out: &[Output]| out.iter().any(|one| matches!(one, Output::Propose { view: 1, again: Some(_), .. }));
    assert!(!proposes(&out));
    assert_eq!(leader.deadline(), Some(NOW.after_ms(500)));
    leader.on(NOW.after_ms(500), Input::Tick, &mut out);
    assert!(proposes(&out));
    assert_eq!(leader.turns_at(), Some(NOW.after_ms(2000)), "the view's own patience is what it was");
}

#[test]
fn timeouts_double_up_to_half_a_minute() {
    let mut honest = follower();
    honest.hear(NOW, Input::Wanted(true));
    let mut lengths = Vec::new();
    for view in 0..8 {
        lengths.push(honest.simplex.turns_at().unwrap().ms_since(NOW));
        honest.hear(NOW, Input::Certificate(&nullification(view, [None; 3])));
    }
    assert_eq!(lengths, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
}

#[test]
fn at_each_timeout_votes_and_certificates_are_shown_again() {
    let mut honest = follower();
    honest.hear(NOW, Input::Certificate(&notarization(0, "a")));
    honest.hear(NOW, Input::Certificate(&nullification(1, [None, Some((0, "a")), None])));
    let mut out = Vec::new();
    wait(&mut honest);
    honest.simplex.on(honest.simplex.turns_at().unwrap(), Input::Tick, &mut out);
    let certificates = vec![notarization(0, "a"), nullification(1, [None, Some((0, "a")), None])];
    let votes = vec![vote(3, nullify(2, Some((0, block("a")))))];
    assert_eq!(out, [Output::Repeat { votes, certificates }]);
}

#[test]
fn each_second_votes_are_said_again_however_long_the_view() {
    let mut honest = follower();
    let entry = nullification(1, [None; 3]);
    honest.hear(NOW, Input::Certificate(&entry));
    offer(&mut honest, 2, "a", Some(&entry), None);
    let mut heard = Vec::new();
    for second in 1..4 {
        let (at, mut out) = (NOW.after_ms(1000 * second), Vec::new());
        assert_eq!(honest.simplex.deadline(), Some(at));
        honest.simplex.on(at, Input::Tick, &mut out);
        heard.extend(out);
    }
    let votes = vec![vote(3, notarize(2, block("a")))];
    assert_eq!(heard, vec![Output::Repeat { votes, certificates: vec![] }; 3]);
    assert_eq!(honest.simplex.turns_at(), Some(NOW.after_ms(4000)), "which lasts what it lasted");
}

#[test]
fn a_restart_forgets_no_vote_and_no_lock() {
    let seats = seats(4, &[0, 1, 2]);
    let mut honest = Honest::new(3, &seats);
    offer(&mut honest, 0, "a", None, None);
    honest.crash(&seats);
    offer(&mut honest, 0, "b", None, None);
    assert_eq!(said(&honest), [notarize(0, block("a"))], "one notarization a view");
    honest.hear(NOW, Input::Certificate(&notarization(0, "a")));
    honest.crash(&seats);
    assert_eq!(honest.simplex.view(), 1);
    assert_eq!(honest.simplex.lock().map(|lock| lock.view), Some(0));
    honest.hear(NOW, Input::Wanted(true));
    wait(&mut honest);
    assert_eq!(said(&honest)[2..], [nullify(1, Some((0, block("a"))))]);
    honest.crash(&seats);
    honest.hear(NOW, Input::Wanted(true));
    wait(&mut honest);
    assert_eq!(said(&honest).len(), 3, "one nullification a view");
}

#[test]
fn a_ballot_holds_what_it_rests_on_and_nothing_twice() {
    let mut honest = follower();
    let (lock, entry) = (notarization(0, "a"), nullification(1, [None, Some((0, "a")), None]));
    honest.hear(NOW, Input::Certificate(&nullification(0, [None; 3])));
    honest.hear(NOW, Input::Certificate(&lock));
    offer(&mut honest, 2, "a", Some(&entry), Some(&lock));
    wait(&mut honest);
    let subjects = |ballot: &Ballot| ballot.proofs.iter().map(|one| one.subject).collect::<Vec<_>>();
    let held: Vec<_> = honest.durable.iter().map(subjects).collect();
    assert_eq!(held, [vec![lock.subject], vec![entry.subject], vec![]]);
}

#[test]
fn who_contradicts_itself_is_caught_once() {
    let mut honest = follower();
    let votes: [SignedVote; 4] = [
        vote(1, notarize(0, block("a"))),
        vote(1, notarize(0, block("b"))),
        vote(1, notarize(0, block("c"))),
        vote(2, nullify(0, None)),
    ];
    for one in &votes {
        honest.hear(NOW, Input::Vote(one));
    }
    assert_eq!(honest.caught, [node(1)]);
    honest.hear(NOW, Input::Vote(&vote(2, finalize(0, block("a")))));
    assert_eq!(honest.caught, [node(1), node(2)]);
}

#[test]
fn strangers_and_far_views_cost_nothing() {
    let mut honest = follower();
    let before = honest.simplex.clone();
    for one in
        [vote(9, notarize(0, block("a"))), vote(1, notarize(u64::MAX, block("a"))), vote(1, notarize(9, block("a")))]
    {
        honest.hear(NOW, Input::Vote(&one));
    }
    let other = Statement::Notarize { height: 2, view: 0, block: block("a") };
    honest.hear(NOW, Input::Vote(&vote(1, other)));
    assert_eq!(honest.simplex, before);
}
