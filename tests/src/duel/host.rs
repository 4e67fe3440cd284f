//! A validator's host: what a protocol asks for is done at once, and what it has to tell is returned.

use std::collections::BTreeMap;
use std::sync::Arc;

use neuroshard_core::agreement::{Agreement, Ballot, Input, Offer, Output};
use neuroshard_core::proto::chain::{Certificate, Seats, SignedVote, Statement, Vote};
use neuroshard_core::proto::{Hash, NodeId, Signature, Time};

/// The height that is decided.
pub const HEIGHT: u64 = 1;
/// Who was told what is decided is not told again before.
const HELP_MS: u64 = 500;

/// What validators tell each other. Each is one message.
#[derive(Clone, Debug)]
pub enum Told {
    Vote(SignedVote),
    /// Votes of several validators in one message.
    Votes(Vec<SignedVote>),
    Proposal {
        leader: NodeId,
        view: u64,
        block: Hash,
        entry: Option<Certificate>,
        lock: Option<Certificate>,
    },
    Certificate(Certificate),
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    All,
    One(NodeId),
}

pub type Letters = Vec<(To, Told)>;

/// A validator of a height, whatever protocol it follows.
pub trait Validator {
    fn node(&self) -> NodeId;
    /// There is something to decide.
    fn want(&mut self, now: Time) -> Letters;
    fn hear(&mut self, now: Time, from: NodeId, told: &Told) -> Letters;
    fn tick(&mut self, now: Time) -> Letters;
    /// Forgets all that is not durable, and begins again.
    fn crash(&mut self, now: Time) -> Letters;
    fn deadline(&self) -> Option<Time>;
    fn view(&self) -> u64;
    fn decided(&self) -> Option<&Certificate>;
    /// What it ever voted.
    fn said(&self) -> Vec<Statement>;
    /// The blocks that it made itself.
    fn made(&self) -> &[Hash];
}

/// The host of one validator.
#[derive(Debug)]
pub struct Host<A> {
    node: NodeId,
    /// Tells apart two hosts with one key.
    place: usize,
    seats: Arc<Seats>,
    agreement: A,
    /// What a crash leaves.
    durable: Vec<Ballot>,
    made: Vec<Hash>,
    helped: BTreeMap<NodeId, Time>,
}

impl<A: Agreement> Host<A> {
    pub fn new(node: NodeId, place: usize, seats: &Arc<Seats>) -> Self {
        let agreement = A::start(HEIGHT, Arc::clone(seats), node, []);
        let (durable, made, helped) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { node, place, seats: Arc::clone(seats), agreement, durable, made, helped }
    }

    fn sign(&self, statement: Statement) -> SignedVote {
        SignedVote { vote: Vote { validator: self.node, statement }, signature: Signature([0; 64]) }
    }

    fn give(&mut self, now: Time, input: Input<'_>) -> Letters {
        let (mut asked, mut letters) = (Vec::new(), Vec::new());
        self.agreement.on(now, input, &mut asked);
        while !asked.is_empty() {
            match asked.remove(0) {
                Output::Cast(ballot) => {
                    let vote = self.sign(ballot.statement);
                    self.durable.push(ballot);
                    letters.push((To::All, Told::Vote(vote)));
                    self.agreement.on(now, Input::Vote(&vote), &mut asked);
                }
                Output::Check { view, block } => {
                    self.agreement.on(now, Input::Checked { view, block, valid: true }, &mut asked);
                }
                Output::Propose { view, again, entry, lock } => {
                    let block = again.unwrap_or_else(|| self.draft(view));
                    let offer = Offer { leader: self.node, view, block, entry: entry.as_ref(), lock: lock.as_ref() };
                    self.agreement.on(now, Input::Proposal(offer), &mut asked);
                    letters.push((To::All, Told::Proposal { leader: self.node, view, block, entry, lock }));
                }
                Output::Repeat { votes, certificates } => {
                    letters.extend(certificates.into_iter().map(|one| (To::All, Told::Certificate(one))));
                    let (own, others): (Vec<_>, Vec<_>) =
                        votes.into_iter().partition(|vote| vote.vote.validator == self.node);
                    letters.extend(own.into_iter().map(|vote| (To::All, Told::Vote(vote))));
                    letters.extend((!others.is_empty()).then_some((To::All, Told::Votes(others))));
                }
                Output::Decided(_) | Output::Caught(_) => {}
            }
        }
        letters
    }

    fn draft(&mut self, view: u64) -> Hash {
        let block = Hash::of_blob(format!("block of {} in view {view}", self.place).as_bytes());
        self.made.push(block);
        block
    }

    /// Who is still at a height that is decided here is told, but not at each word.
    fn help(&mut self, now: Time, who: NodeId) -> Letters {
        let Some(certificate) = self.agreement.decided().filter(|_| who != self.node) else { return Vec::new() };
        if self.helped.get(&who).is_some_and(|at| now.ms_since(*at) < HELP_MS) {
            return Vec::new();
        }
        self.helped.insert(who, now);
        vec![(To::One(who), Told::Certificate(certificate.clone()))]
    }
}

impl<A: Agreement> Validator for Host<A> {
    fn node(&self) -> NodeId {
        self.node
    }

    fn want(&mut self, now: Time) -> Letters {
        self.give(now, Input::Wanted(true))
    }

    fn hear(&mut self, now: Time, from: NodeId, told: &Told) -> Letters {
        if self.agreement.decided().is_some() {
            let over = matches!(told, Told::Certificate(one) if self.agreement.decided().is_some_and(|own| own.subject == one.subject));
            return if over { Vec::new() } else { self.help(now, from) };
        }
        match told {
            Told::Vote(vote) => self.give(now, Input::Vote(vote)),
            Told::Votes(votes) => votes.iter().flat_map(|vote| self.give(now, Input::Vote(vote))).collect(),
            Told::Certificate(certificate) => self.give(now, Input::Certificate(certificate)),
            Told::Proposal { leader, view, block, entry, lock } => {
                let (view, block) = (*view, *block);
                let offer = Offer { leader: *leader, view, block, entry: entry.as_ref(), lock: lock.as_ref() };
                self.give(now, Input::Proposal(offer))
            }
        }
    }

    fn tick(&mut self, now: Time) -> Letters {
        self.give(now, Input::Tick)
    }

    fn crash(&mut self, now: Time) -> Letters {
        if self.agreement.decided().is_some() {
            return Vec::new();
        }
        self.agreement = A::start(HEIGHT, Arc::clone(&self.seats), self.node, &self.durable);
        self.helped.clear();
        let votes: Vec<SignedVote> = self.durable.iter().map(|ballot| self.sign(ballot.statement)).collect();
        let mut letters: Letters = votes.iter().flat_map(|vote| self.give(now, Input::Vote(vote))).collect();
        letters.extend(self.want(now));
        letters
    }

    fn deadline(&self) -> Option<Time> {
        self.agreement.deadline()
    }

    fn view(&self) -> u64 {
        self.agreement.view()
    }

    fn decided(&self) -> Option<&Certificate> {
        self.agreement.decided()
    }

    fn said(&self) -> Vec<Statement> {
        self.durable.iter().map(|ballot| ballot.statement).collect()
    }

    fn made(&self) -> &[Hash] {
        &self.made
    }
}
