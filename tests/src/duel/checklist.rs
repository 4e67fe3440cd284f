//! What the library leaves to its host, each point shown. A version that mends one of them fails here, and the page of
//! the decision has to change.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_malachitebft_core_driver::{Driver, Input, Output, Step, ThresholdParams};
use arc_malachitebft_core_types::{
    Context as _, ExtendedCommitCertificate, NilOrVal, Round, SignedMessage, Timeout, Validity, Vote as _,
};
use neuroshard_core::proto::Hash;
use neuroshard_core::proto::chain::Seats;

use super::context::{At, Ballot, Id, Name, Ours, Set};
use super::node;

const HEIGHT: At = At(1);
const BLOCK: Id = Id(Hash::from_bytes([7; 32]));

fn weighted(weight: u64) -> Driver<Ours> {
    let seats = Seats::by_weight((0..4).map(|number| (node(number), weight)), Hash::default()).unwrap();
    Driver::new(Ours, HEIGHT, Set::new(&Arc::new(seats)), Name(node(0)), ThresholdParams::default())
}

/// Validator 0 of four, in the first round; 1 leads.
fn driver() -> Driver<Ours> {
    let mut driver = weighted(1);
    driver.process(Input::NewRound(HEIGHT, Round::ZERO, Name(node(1)))).unwrap();
    driver
}

fn prevote(voter: usize, round: u32) -> Input<Ours> {
    let vote = Ours.new_prevote(HEIGHT, Round::new(round), NilOrVal::Val(BLOCK), Name(node(voter)));
    Input::Vote(SignedMessage::new(vote, [0; 64]))
}

fn proposal(leader: usize, block: Id) -> Input<Ours> {
    let proposal = Ours.new_proposal(HEIGHT, Round::ZERO, block, Round::Nil, Name(node(leader)));
    Input::Proposal(SignedMessage::new(proposal, [0; 64]), Validity::Valid)
}

fn panics(deed: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(deed)).is_err()
}

#[test]
fn two_who_propose_in_a_round_make_it_panic() {
    let mut driver = driver();
    driver.process(proposal(1, BLOCK)).unwrap();
    assert!(panics(|| drop(driver.process(proposal(2, BLOCK)))));
}

#[test]
fn weights_that_come_to_more_than_half_of_what_a_number_holds_make_it_panic() {
    let mut driver = weighted(u64::MAX / 6);
    driver.process(Input::NewRound(HEIGHT, Round::ZERO, Name(node(1)))).unwrap();
    assert!(panics(|| drop(driver.process(prevote(2, 0)))));
}

#[test]
fn it_keeps_votes_of_as_many_rounds_as_one_validator_likes() {
    let mut driver = driver();
    (0..10_000).for_each(|round| drop(driver.process(prevote(3, 1_000_000 + round)).unwrap()));
    assert_eq!(driver.votes().rounds(), 10_000);
}

#[test]
fn it_keeps_as_many_blocks_as_a_leader_makes_for_one_round() {
    let mut driver = driver();
    let name = |number: u32| Id(Hash::of_blob(&number.to_le_bytes()));
    (0..1000).for_each(|number| drop(driver.process(proposal(1, name(number))).unwrap()));
    assert_eq!(driver.proposals_and_validities_for_round(Round::ZERO).len(), 1000);
}

#[test]
fn it_keeps_a_certificate_as_often_as_it_comes() {
    let mut driver = driver();
    let commit =
        ExtendedCommitCertificate { height: HEIGHT, round: Round::ZERO, value_id: BLOCK, commit_signatures: vec![] };
    (0..100).for_each(|_| drop(driver.process(Input::CommitCertificate(commit.clone())).unwrap()));
    assert_eq!(driver.commit_certificates().len(), 100);
}

#[test]
fn it_believes_a_certificate_that_nobody_signed() {
    let mut driver = driver();
    driver.process(proposal(1, BLOCK)).unwrap();
    let commit =
        ExtendedCommitCertificate { height: HEIGHT, round: Round::ZERO, value_id: BLOCK, commit_signatures: vec![] };
    let decided = driver.process(Input::CommitCertificate(commit)).unwrap();
    assert!(matches!(decided[..], [Output::Decide(..)]));
}

#[test]
fn a_new_round_that_it_did_not_ask_for_moves_it_and_leaves_its_step() {
    let mut driver = driver();
    driver.process(Input::TimeoutElapsed(Timeout::propose(Round::ZERO))).unwrap();
    assert_eq!(driver.step(), Step::Prevote);
    driver.process(Input::NewRound(HEIGHT, Round::new(1), Name(node(2)))).unwrap();
    assert_eq!((driver.round(), driver.step()), (Round::new(1), Step::Prevote), "it waits for no proposal");
}

#[test]
fn begun_anew_it_votes_against_what_it_said_before_the_crash() {
    let votes = |outputs: Vec<Output<Ours>>| -> Vec<Ballot> {
        let vote = |output| if let Output::Vote(vote) = output { Some(vote) } else { None };
        outputs.into_iter().filter_map(vote).collect()
    };
    let before = votes(driver().process(proposal(1, BLOCK)).unwrap());
    let after = votes(driver().process(proposal(1, Id(Hash::default()))).unwrap());
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_eq!(before[0].round(), after[0].round());
    assert_ne!(before[0].value(), after[0].value(), "there is nothing to restore it from");
}
