//! The votes of one view, counted.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Certificate, Evidence, Lock, Seats, SignedVote, Statement, Subject, Vote};
use neuroshard_proto::{Hash, NodeId, Signature};
use serde::Serialize;

use crate::cx::as_pairs;

/// What came of a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// It weighs in.
    New,
    /// It was there before.
    Known,
    /// It contradicts another one of the same validator, and does not count.
    Contradiction(Box<Evidence>),
}

/// Votes of one kind: the first of each validator, and what each choice weighs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Choices<T: Ord> {
    votes: BTreeMap<NodeId, (T, Signature)>,
    #[serde(serialize_with = "as_pairs")]
    weights: BTreeMap<T, u64>,
}

impl<T: Ord> Default for Choices<T> {
    fn default() -> Self {
        Self { votes: BTreeMap::new(), weights: BTreeMap::new() }
    }
}

impl<T: Ord + Copy> Choices<T> {
    fn get(&self, node: &NodeId) -> Option<(T, Signature)> {
        self.votes.get(node).copied()
    }

    fn add(&mut self, node: NodeId, choice: T, signature: Signature, weight: u64) {
        self.votes.insert(node, (choice, signature));
        let sum = self.weights.entry(choice).or_default();
        *sum = sum.saturating_add(weight);
    }

    fn weight(&self, choice: &T) -> u64 {
        self.weights.get(choice).copied().unwrap_or_default()
    }
}

/// The votes of one view of a height.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Ballots {
    height: u64,
    view: u64,
    notarize: Choices<Hash>,
    nullify: Choices<Option<Lock>>,
    finalize: Choices<Hash>,
}

impl Ballots {
    pub(super) fn new(height: u64, view: u64) -> Self {
        let (notarize, nullify, finalize) = (Choices::default(), Choices::default(), Choices::default());
        Self { height, view, notarize, nullify, finalize }
    }

    /// Counts a vote of this view.
    pub(super) fn add(&mut self, vote: &SignedVote, weight: u64) -> Counted {
        let (node, statement) = (vote.vote.validator, vote.vote.statement);
        let mut known = false;
        for other in self.of(&node) {
            if other.vote.statement == statement {
                known = true;
            } else if other.vote.statement.contradicts(&statement) {
                return Counted::Contradiction(Box::new(Evidence { first: other, second: *vote }));
            }
        }
        if known {
            return Counted::Known;
        }
        match statement {
            Statement::Notarize { block, .. } => self.notarize.add(node, block, vote.signature, weight),
            Statement::Nullify { lock, .. } => self.nullify.add(node, lock, vote.signature, weight),
            Statement::Finalize { block, .. } => self.finalize.add(node, block, vote.signature, weight),
        }
        Counted::New
    }

    /// All votes of one validator.
    pub(super) fn of(&self, node: &NodeId) -> impl Iterator<Item = SignedVote> {
        let Self { height, view, .. } = *self;
        let signed = |statement, signature| SignedVote { vote: Vote { validator: *node, statement }, signature };
        let notarize =
            self.notarize.get(node).map(|(block, by)| signed(Statement::Notarize { height, view, block }, by));
        let nullify = self.nullify.get(node).map(|(lock, by)| signed(Statement::Nullify { height, view, lock }, by));
        let finalize =
            self.finalize.get(node).map(|(block, by)| signed(Statement::Finalize { height, view, block }, by));
        [notarize, nullify, finalize].into_iter().flatten()
    }

    /// The notarization of a block, if it has a quorum.
    pub(super) fn notarization(&self, block: Hash, seats: &Seats) -> Option<Certificate> {
        let subject = Subject::Notarized { height: self.height, view: self.view, block };
        (self.notarize.weight(&block) >= quorum(seats)).then(|| self.gather(subject, |_| true))
    }

    /// The finalization of a block, if it has a quorum.
    pub(super) fn finalization(&self, block: Hash, seats: &Seats) -> Option<Certificate> {
        let subject = Subject::Finalized { height: self.height, view: self.view, block };
        (self.finalize.weight(&block) >= quorum(seats)).then(|| self.gather(subject, |_| true))
    }

    /// The nullification of the view, if the votes whose lock is `known` are a quorum.
    pub(super) fn nullification(&self, seats: &Seats, known: impl Fn(&Lock) -> bool) -> Option<Certificate> {
        let counts = |lock: &Option<Lock>| lock.as_ref().is_none_or(&known);
        let weights = self.nullify.weights.iter().filter(|(lock, _)| counts(lock)).map(|(_, weight)| *weight);
        let subject = Subject::Nullified { height: self.height, view: self.view };
        (weights.fold(0, u64::saturating_add) >= quorum(seats)).then(|| self.gather(subject, counts))
    }

    fn gather(&self, subject: Subject, counts: impl Fn(&Option<Lock>) -> bool) -> Certificate {
        let Self { height, view, .. } = *self;
        let signed = |validator: &NodeId, statement, signature: &Signature| SignedVote {
            vote: Vote { validator: *validator, statement },
            signature: *signature,
        };
        let notarize = |(node, (block, by)): (&NodeId, &(Hash, Signature))| {
            signed(node, Statement::Notarize { height, view, block: *block }, by)
        };
        let finalize = |(node, (block, by)): (&NodeId, &(Hash, Signature))| {
            signed(node, Statement::Finalize { height, view, block: *block }, by)
        };
        let votes: Vec<SignedVote> = match subject {
            Subject::Notarized { .. } => self.notarize.votes.iter().map(notarize).collect(),
            Subject::Finalized { .. } => self.finalize.votes.iter().map(finalize).collect(),
            Subject::Nullified { .. } => {
                let counted = self.nullify.votes.iter().filter(|(_, (lock, _))| counts(lock));
                counted
                    .map(|(node, (lock, by))| signed(node, Statement::Nullify { height, view, lock: *lock }, by))
                    .collect()
            }
        };
        Certificate::gather(subject, votes)
    }
}

/// Weight that decides.
fn quorum(seats: &Seats) -> u64 {
    let fewer = u64::from(neuroshard_proto::mutant("quorum one vote short"));
    seats.quorum().saturating_sub(fewer).max(1)
}
