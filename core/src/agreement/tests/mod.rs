//! Heights of a few validators, in every order of events that a small search can reach and in many that chance draws.

mod everything;
mod scenarios;
mod schedules;

use std::sync::Arc;
use std::vec::Vec;

use neuroshard_proto::chain::{Certificate, Lock, Seats, SignedVote, Statement, Subject, Vote};
use neuroshard_proto::{Hash, NodeId, Signature, Time};

use super::{Agreement, Ballot, Input, Offer, Output, Simplex};

pub(super) const HEIGHT: u64 = 1;

pub(super) fn node(number: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(number).unwrap() + 1; 32])
}

pub(super) fn block(name: &str) -> Hash {
    Hash::of_blob(name.as_bytes())
}

/// `count` validators of equal weight, of whom `leaders` lead the first views.
pub(super) fn seats(count: usize, leaders: &[usize]) -> Arc<Seats> {
    let led =
        |seats: &Seats| (0..).zip(leaders).all(|(view, leader)| seats.leader(HEIGHT, view) == Some(node(*leader)));
    let draws = (0_u64..).map(|draw| Hash::of_blob(&draw.to_le_bytes()));
    let weights = |seed| Seats::by_weight((0..count).map(|number| (node(number), 1)), seed).unwrap();
    Arc::new(draws.map(weights).find(led).unwrap())
}

pub(super) fn vote(validator: usize, statement: Statement) -> SignedVote {
    SignedVote { vote: Vote { validator: node(validator), statement }, signature: Signature([0; 64]) }
}

pub(super) fn notarize(view: u64, block: Hash) -> Statement {
    Statement::Notarize { height: HEIGHT, view, block }
}

pub(super) fn finalize(view: u64, block: Hash) -> Statement {
    Statement::Finalize { height: HEIGHT, view, block }
}

pub(super) fn nullify(view: u64, lock: Option<(u64, Hash)>) -> Statement {
    let lock = lock.map(|(view, block)| Lock { view, block });
    Statement::Nullify { height: HEIGHT, view, lock }
}

/// What a validator tells the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) enum Told {
    Vote(SignedVoteOrd),
    Proposal { view: u64, block: Hash, entry: Option<CertificateOrd>, lock: Option<CertificateOrd> },
    Certificate(CertificateOrd),
}

/// Votes and certificates in the order of their encodings, so that sets of them have one order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct SignedVoteOrd(pub(super) SignedVote);
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct CertificateOrd(pub(super) Certificate);

macro_rules! ordered {
    ($($name:ident),*) => {$(
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                neuroshard_proto::codec::encode(&self.0).cmp(&neuroshard_proto::codec::encode(&other.0))
            }
        }
    )*};
}
ordered!(SignedVoteOrd, CertificateOrd);

/// An honest validator and its host: what it asks for is done at once, and what it has to tell is returned.
#[derive(Clone, Debug)]
pub(super) struct Honest {
    pub(super) number: usize,
    pub(super) simplex: Simplex,
    /// What a crash leaves.
    pub(super) durable: Vec<Ballot>,
    pub(super) caught: Vec<NodeId>,
}

impl Honest {
    pub(super) fn new(number: usize, seats: &Arc<Seats>) -> Self {
        let simplex = Simplex::start(HEIGHT, Arc::clone(seats), node(number), []);
        Self { number, simplex, durable: Vec::new(), caught: Vec::new() }
    }

    pub(super) fn crash(&mut self, seats: &Arc<Seats>) {
        self.simplex = Simplex::start(HEIGHT, Arc::clone(seats), node(self.number), &self.durable);
    }

    /// Votes of an earlier life are signed again at the start.
    pub(super) fn return_votes(&mut self, now: Time) -> Vec<Told> {
        let votes: Vec<SignedVote> = self.durable.iter().map(|ballot| vote(self.number, ballot.statement)).collect();
        votes.iter().flat_map(|vote| self.hear(now, Input::Vote(vote))).collect()
    }

    pub(super) fn told(&mut self, now: Time, leader: Option<usize>, told: &Told) -> Vec<Told> {
        match told {
            Told::Vote(vote) => self.hear(now, Input::Vote(&vote.0)),
            Told::Certificate(certificate) => self.hear(now, Input::Certificate(&certificate.0)),
            Told::Proposal { view, block, entry, lock } => {
                let (entry, lock) = (entry.as_ref().map(|one| &one.0), lock.as_ref().map(|one| &one.0));
                let leader = node(leader.unwrap());
                self.hear(now, Input::Proposal(Offer { leader, view: *view, block: *block, entry, lock }))
            }
        }
    }

    pub(super) fn hear(&mut self, now: Time, input: Input<'_>) -> Vec<Told> {
        let (mut out, mut told) = (Vec::new(), Vec::new());
        self.simplex.on(now, input, &mut out);
        while !out.is_empty() {
            match out.remove(0) {
                Output::Cast(ballot) => {
                    let vote = vote(self.number, ballot.statement);
                    self.durable.push(ballot);
                    told.push(Told::Vote(SignedVoteOrd(vote)));
                    self.simplex.on(now, Input::Vote(&vote), &mut out);
                }
                Output::Check { view, block } => {
                    self.simplex.on(now, Input::Checked { view, block, valid: true }, &mut out);
                }
                Output::Propose { view, again, entry, lock } => {
                    let block = again.unwrap_or_else(|| block(&std::format!("of {} in view {view}", self.number)));
                    let offer =
                        Offer { leader: node(self.number), view, block, entry: entry.as_ref(), lock: lock.as_ref() };
                    self.simplex.on(now, Input::Proposal(offer), &mut out);
                    let (entry, lock) = (entry.map(CertificateOrd), lock.map(CertificateOrd));
                    told.push(Told::Proposal { view, block, entry, lock });
                }
                Output::Repeat { votes, certificates } => {
                    told.extend(certificates.into_iter().map(|one| Told::Certificate(CertificateOrd(one))));
                    told.extend(votes.into_iter().map(|one| Told::Vote(SignedVoteOrd(one))));
                }
                Output::Decided(certificate) => told.push(Told::Certificate(CertificateOrd(certificate))),
                Output::Caught(evidence) => self.caught.push(evidence.first.vote.validator),
            }
        }
        told
    }

    /// The block it has decided.
    pub(super) fn decided(&self) -> Option<Hash> {
        self.simplex.decided().map(|certificate| {
            let Subject::Finalized { block, .. } = certificate.subject else {
                panic!("{certificate:?} decides nothing")
            };
            block
        })
    }
}
