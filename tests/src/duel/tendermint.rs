//! [`Tendermint`]: the driver of `arc-malachitebft-core-driver` behind our trait [`Agreement`].
//!
//! Prevotes travel as [`Statement::Notarize`] and precommits as [`Statement::Finalize`], a view is a round, and a vote for
//! nothing is one for [`NIL`]. So votes, polkas and decisions are our own votes and certificates, and one host, one network and
//! one set of checkers serve both. What a host of the driver owes it is here: leaders, timers, certificates, what is said
//! again and when, and that nobody but a leader proposes. It follows what the library's own host does.
//!
//! A restart finds facts, as ours does, but the driver can only be fed inputs. So inputs are invented which make it
//! cast the votes of its journal once more, and with them it finds its locks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_core_driver::{Driver, Input as Fed, Output as Asked, ThresholdParams};
use arc_malachitebft_core_types::{
    Context as _, ExtendedCommitCertificate, ExtendedCommitSignature, LinearTimeouts, NilOrVal, PolkaCertificate,
    PolkaSignature, Proposal as _, Round, SignedMessage, Timeout, TimeoutKind, Validity, Vote as _, VoteType,
};
use neuroshard_core::agreement::{Agreement, Ballot, Input, Offer, Output};
use neuroshard_core::proto::chain::{Certificate, Seats, SignedVote, Statement, Subject, Vote};
use neuroshard_core::proto::{Hash, List, NodeId, Signature, Time};

use super::context::{self, At, Id, Name, Ours, Set};

/// The block of a vote for nothing.
pub(super) const NIL: Hash = Hash::from_bytes([0; 32]);

/// Proposals and votes of later rounds than this are not kept: the driver itself keeps all it is given.
const ROUNDS_AHEAD: u64 = 64;
/// Blocks of one leader in one round that are passed on to the driver.
const OFFERS_MAX: usize = 2;
/// From this round on a locked block's polka is shown at once, as the library's host does.
const HIDDEN_LOCK_ROUND: u64 = 10;

/// The library decides a height. Its timeouts are its own, divided by `HASTE`.
#[derive(Debug)]
pub struct Tendermint<const HASTE: u32> {
    node: NodeId,
    height: u64,
    seats: Arc<Seats>,
    driver: Driver<Ours>,
    started: bool,
    /// One timer of a kind.
    timers: BTreeMap<u8, (Time, Timeout)>,
    /// Timers asked for before the time was known.
    unset: Vec<Timeout>,
    /// The round for which the driver waits for this node's own block.
    free: Option<Round>,
    /// Blocks that leaders offered, and the round of the polka each rests on.
    offered: BTreeMap<u64, BTreeMap<Hash, Round>>,
    /// This node's last votes.
    last: BTreeMap<VoteKind, SignedVote>,
    decided: Option<Certificate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum VoteKind {
    Prevote,
    Precommit,
}

/// The library with the timeouts it comes with: a round that fails lasts five seconds or more.
pub type AsItComes = Tendermint<1>;
/// The library five times as hasty: its first round lasts at most a second, as our first view does.
pub type Hasty = Tendermint<5>;

const fn view_of(round: Round) -> u64 {
    match round {
        Round::Some(round) => round as u64,
        Round::Nil => 0,
    }
}

fn round_of(view: u64) -> Option<Round> {
    u32::try_from(view).ok().map(Round::new)
}

fn block_of(value: &NilOrVal<Id>) -> Hash {
    match value {
        NilOrVal::Nil => NIL,
        NilOrVal::Val(id) => id.0,
    }
}

fn statement_of(vote: &context::Ballot) -> Statement {
    let (height, view, block) = (vote.height().0, view_of(vote.round()), block_of(vote.value()));
    match vote.vote_type() {
        VoteType::Prevote => Statement::Notarize { height, view, block },
        VoteType::Precommit => Statement::Finalize { height, view, block },
    }
}

fn ours(vote: &SignedMessage<Ours, context::Ballot>) -> SignedVote {
    let message = &vote.message;
    let said = Vote { validator: message.validator_address().0, statement: statement_of(message) };
    SignedVote { vote: said, signature: Signature(vote.signature) }
}

fn theirs(vote: &SignedVote) -> Option<SignedMessage<Ours, context::Ballot>> {
    let (height, voter) = (At(vote.vote.statement.height()), Name(vote.vote.validator));
    let value = |block: Hash| if block == NIL { NilOrVal::Nil } else { NilOrVal::Val(Id(block)) };
    let message = match vote.vote.statement {
        Statement::Notarize { view, block, .. } => Ours.new_prevote(height, round_of(view)?, value(block), voter),
        Statement::Finalize { view, block, .. } => Ours.new_precommit(height, round_of(view)?, value(block), voter),
        Statement::Nullify { .. } => return None,
    };
    Some(SignedMessage::new(message, vote.signature.0))
}

/// A notarization as the library knows it; none for a vote for nothing.
fn polka_of(certificate: &Certificate) -> Option<PolkaCertificate<Ours>> {
    let Subject::Notarized { height, view, block } = certificate.subject else { return None };
    let signers = certificate.endorsements.iter();
    let polka_signatures = signers.map(|one| PolkaSignature::new(Name(one.validator), one.signature.0)).collect();
    let round = round_of(view).filter(|_| block != NIL)?;
    Some(PolkaCertificate { height: At(height), round, value_id: Id(block), polka_signatures })
}

impl<const HASTE: u32> Agreement for Tendermint<HASTE> {
    fn start<'a>(height: u64, seats: Arc<Seats>, node: NodeId, ballots: impl IntoIterator<Item = &'a Ballot>) -> Self {
        let set = Set::new(&seats);
        let driver = Driver::new(Ours, At(height), set, Name(node), ThresholdParams::default());
        let mut this = Self {
            node,
            height,
            seats,
            driver,
            started: false,
            timers: BTreeMap::new(),
            unset: Vec::new(),
            free: None,
            offered: BTreeMap::new(),
            last: BTreeMap::new(),
            decided: None,
        };
        for ballot in ballots.into_iter().filter(|ballot| ballot.statement.height() == height) {
            this.recall(ballot);
        }
        this
    }

    fn on(&mut self, now: Time, input: Input<'_>, out: &mut Vec<Output>) {
        if self.decided.is_some() {
            return;
        }
        if !self.started && !matches!(input, Input::Wanted(false)) {
            self.begin(now, out);
        }
        for timeout in std::mem::take(&mut self.unset) {
            self.schedule(now, timeout);
        }
        match input {
            Input::Wanted(_) => {}
            Input::Proposal(offer) => self.on_offer(now, &offer, out),
            Input::Checked { view, block, valid } => self.on_checked(now, view, block, valid, out),
            Input::Vote(vote) => self.on_vote(now, vote, out),
            Input::Certificate(certificate) => self.on_certificate(now, certificate, out),
            Input::Tick => self.on_tick(now, out),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let soonest = self.timers.values().map(|(at, _)| *at).min();
        soonest.filter(|_| self.decided.is_none() && self.seats.weight(&self.node) > 0)
    }

    fn height(&self) -> u64 {
        self.height
    }

    fn view(&self) -> u64 {
        view_of(self.driver.round())
    }

    fn decided(&self) -> Option<&Certificate> {
        self.decided.as_ref()
    }
}

impl<const HASTE: u32> Tendermint<HASTE> {
    fn leader(&self, round: Round) -> Name {
        Name(self.seats.leader(self.height, view_of(round)).expect("a height has validators"))
    }

    fn begin(&mut self, now: Time, out: &mut Vec<Output>) {
        self.started = true;
        self.schedule(now, Timeout::rebroadcast(self.driver.round().or(Round::ZERO)));
        if self.driver.round() == Round::Nil {
            self.feed(now, Fed::NewRound(At(self.height), Round::ZERO, self.leader(Round::ZERO)), out);
        }
    }

    /// Gives the driver an input, and does what it asks for.
    fn feed(&mut self, now: Time, input: Fed<Ours>, out: &mut Vec<Output>) {
        if self.decided.is_some() {
            return;
        }
        // What it refuses is a peer's fault, and costs nothing.
        let Ok(asked) = self.driver.process(input) else { return };
        for one in asked {
            match one {
                Asked::NewRound(height, round) => {
                    self.enter(now, round, out);
                    self.feed(now, Fed::NewRound(height, round, self.leader(round)), out);
                }
                Asked::GetValue(_, round, _) => {
                    self.free = Some(round);
                    out.push(Output::Propose { view: view_of(round), again: None, entry: None, lock: None });
                }
                Asked::Propose(proposal) if proposal.pol_round().is_nil() => {}
                Asked::Propose(proposal) => out.push(Output::Propose {
                    view: view_of(proposal.round()),
                    again: Some(proposal.value().0),
                    entry: None,
                    lock: self.polka(proposal.pol_round(), proposal.value()),
                }),
                Asked::Vote(vote) => self.cast(&vote, out),
                Asked::ScheduleTimeout(timeout) => self.schedule(now, timeout),
                Asked::Decide(_, proposal) => self.decide(proposal.round(), *proposal.value(), out),
            }
        }
    }

    /// A round begins: who is behind learns why.
    fn enter(&mut self, now: Time, round: Round, out: &mut Vec<Output>) {
        self.timers.clear();
        self.last.clear();
        self.free = None;
        self.schedule(now, Timeout::rebroadcast(round));
        let votes = self.round_certificate(round);
        if !votes.is_empty() {
            out.push(Output::Repeat { votes, certificates: Vec::new() });
        }
    }

    /// The votes for which this node is in the round.
    fn round_certificate(&self, round: Round) -> Vec<SignedVote> {
        let Some(entry) = self.driver.round_certificate().filter(|entry| entry.enter_round == round) else {
            return Vec::new();
        };
        let certificate = &entry.certificate;
        let vote = |(kind, value, voter, signature): (VoteType, NilOrVal<Id>, Name, [u8; 64])| {
            let message = match kind {
                VoteType::Prevote => Ours.new_prevote(certificate.height, certificate.round, value, voter),
                VoteType::Precommit => Ours.new_precommit(certificate.height, certificate.round, value, voter),
            };
            ours(&SignedMessage::new(message, signature))
        };
        let signers = certificate.round_signatures.iter();
        signers.map(|one| vote((one.vote_type, one.value_id, one.address, one.signature))).collect()
    }

    /// The notarization of a block, which the driver counted itself or was given.
    fn polka(&self, round: Round, value: &Id) -> Option<Certificate> {
        let Id(block) = *value;
        let (height, view) = (self.height, view_of(round));
        let polka = self.driver.polka_certificate(round, value)?;
        let votes = polka.polka_signatures.iter().map(|one| SignedVote {
            vote: Vote { validator: one.address.0, statement: Statement::Notarize { height, view, block } },
            signature: Signature(one.signature),
        });
        Some(Certificate::gather(Subject::Notarized { height, view, block }, votes))
    }

    fn cast(&self, vote: &context::Ballot, out: &mut Vec<Output>) {
        let statement = statement_of(vote);
        let (view, block) = match statement {
            Statement::Notarize { view, block, .. } | Statement::Finalize { view, block, .. } => (view, block),
            Statement::Nullify { .. } => return,
        };
        let rests_on = match vote.vote_type() {
            VoteType::Prevote => self.offered.get(&view).and_then(|offers| offers.get(&block)).copied(),
            VoteType::Precommit => Some(vote.round()),
        };
        let proof = rests_on.filter(|round| block != NIL && round.is_defined());
        let proof = proof.and_then(|round| self.polka(round, &Id(block)));
        if let (VoteType::Precommit, Some(polka)) = (vote.vote_type(), &proof)
            && view >= HIDDEN_LOCK_ROUND
        {
            out.push(Output::Repeat { votes: Vec::new(), certificates: vec![polka.clone()] });
        }
        let proofs = List::try_from(proof.into_iter().collect::<Vec<_>>()).expect("one certificate");
        out.push(Output::Cast(Ballot { statement, proofs }));
    }

    fn decide(&mut self, round: Round, value: Id, out: &mut Vec<Output>) {
        let Id(block) = value;
        let (height, view) = (self.height, view_of(round));
        let finalize = |voter: Name, signature| SignedVote {
            vote: Vote { validator: voter.0, statement: Statement::Finalize { height, view, block } },
            signature: Signature(signature),
        };
        // A certificate may hold the vote of somebody whose other vote was counted here, so it comes first.
        let votes: Vec<SignedVote> = match self.driver.commit_certificate(round, &value) {
            Some(commit) => commit.commit_signatures.iter().map(|one| finalize(one.address, one.signature)).collect(),
            None => self.driver.restore_precommits(round, &value).iter().map(ours).collect(),
        };
        let certificate = Certificate::gather(Subject::Finalized { height, view, block }, votes);
        self.decided = Some(certificate.clone());
        out.push(Output::Decided(certificate));
    }

    fn schedule(&mut self, now: Time, timeout: Timeout) {
        let kind = match timeout.kind {
            TimeoutKind::Propose => 0,
            TimeoutKind::Prevote => 1,
            TimeoutKind::Precommit => 2,
            TimeoutKind::Rebroadcast => 3,
            TimeoutKind::FinalizeHeight(_) => return,
        };
        let timeouts = LinearTimeouts::default();
        let wait = <LinearTimeouts as arc_malachitebft_core_types::Timeouts<Ours>>::duration_for(&timeouts, timeout);
        let wait = wait.checked_div(HASTE).unwrap_or(Duration::ZERO);
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.timers.insert(kind, (now.after_ms(wait), timeout));
    }

    fn on_tick(&mut self, now: Time, out: &mut Vec<Output>) {
        let due: BTreeSet<u8> = self.timers.iter().filter(|(_, (at, _))| *at <= now).map(|(kind, _)| *kind).collect();
        for kind in due {
            // A round that began meanwhile has cleared them.
            let Some((_, timeout)) = self.timers.get(&kind).copied().filter(|(at, _)| *at <= now) else { continue };
            self.timers.remove(&kind);
            if timeout.kind == TimeoutKind::Rebroadcast {
                let round = self.driver.round();
                let votes = self.last.values().copied().chain(self.round_certificate(round)).collect();
                out.push(Output::Repeat { votes, certificates: Vec::new() });
                self.schedule(now, Timeout::rebroadcast(round));
            } else {
                self.feed(now, Fed::TimeoutElapsed(timeout), out);
            }
        }
    }

    fn near(&self, view: u64) -> bool {
        view <= self.view().saturating_add(ROUNDS_AHEAD)
    }

    fn on_offer(&mut self, now: Time, offer: &Offer<'_>, out: &mut Vec<Output>) {
        let Some(round) = round_of(offer.view).filter(|_| self.near(offer.view)) else { return };
        // The driver panics over a round with two proposers, so who leads must be known before.
        if self.leader(round).0 != offer.leader || offer.block == NIL {
            return;
        }
        let rests_on = match offer.lock.map(|polka| polka.subject) {
            None => Round::Nil,
            Some(Subject::Notarized { view, block, .. }) if view < offer.view && block == offer.block => {
                round_of(view).unwrap_or(Round::Nil)
            }
            Some(_) => return,
        };
        if let Some(polka) = offer.lock {
            self.on_certificate(now, polka, out);
        }
        let offers = self.offered.entry(offer.view).or_default();
        if offers.len() >= OFFERS_MAX && !offers.contains_key(&offer.block) {
            return;
        }
        offers.insert(offer.block, rests_on);
        if offer.leader == self.node && self.free == Some(round) {
            self.free = None;
            self.feed(now, Fed::ProposeValue(round, Id(offer.block)), out);
        }
        out.push(Output::Check { view: offer.view, block: offer.block });
    }

    fn on_checked(&mut self, now: Time, view: u64, block: Hash, valid: bool, out: &mut Vec<Output>) {
        let Some(rests_on) = self.offered.get(&view).and_then(|offers| offers.get(&block)).copied() else { return };
        let Some(round) = round_of(view) else { return };
        let proposal = Ours.new_proposal(At(self.height), round, Id(block), rests_on, self.leader(round));
        let validity = Validity::from_bool(valid);
        self.feed(now, Fed::Proposal(SignedMessage::new(proposal, [0; 64]), validity), out);
    }

    fn on_vote(&mut self, now: Time, vote: &SignedVote, out: &mut Vec<Output>) {
        let Some(their) = theirs(vote).filter(|_| self.near(vote.vote.statement.view())) else { return };
        if vote.vote.validator == self.node && their.round() == self.driver.round() {
            let kind = match their.vote_type() {
                VoteType::Prevote => VoteKind::Prevote,
                VoteType::Precommit => VoteKind::Precommit,
            };
            self.last.insert(kind, *vote);
            self.schedule(now, Timeout::rebroadcast(their.round()));
        }
        self.feed(now, Fed::Vote(their), out);
    }

    fn on_certificate(&mut self, now: Time, certificate: &Certificate, out: &mut Vec<Output>) {
        let (subject, signers) = (certificate.subject, &certificate.endorsements);
        let Some(round) = round_of(subject.view()) else { return };
        if subject.height() != self.height || certificate.check_weight(&self.seats).is_err() {
            return;
        }
        let height = At(self.height);
        match subject {
            Subject::Notarized { .. } => {
                if let Some(polka) = polka_of(certificate) {
                    self.feed(now, Fed::PolkaCertificate(polka), out);
                }
            }
            Subject::Finalized { block, .. } if block != NIL => {
                let signers = signers.iter();
                let commit_signatures = signers
                    .map(|one| ExtendedCommitSignature::new(Name(one.validator), one.signature.0, None))
                    .collect();
                let commit = ExtendedCommitCertificate { height, round, value_id: Id(block), commit_signatures };
                self.feed(now, Fed::CommitCertificate(commit), out);
                let proposal = Ours.new_proposal(height, round, Id(block), Round::Nil, self.leader(round));
                self.feed(now, Fed::SyncDecision(proposal), out);
            }
            Subject::Finalized { .. } | Subject::Nullified { .. } => {}
        }
    }

    /// Makes the driver cast a vote of an earlier life once more, by inputs that lead to it.
    fn recall(&mut self, ballot: &Ballot) {
        let statement = ballot.statement;
        let Some(round) = round_of(statement.view()) else { return };
        let mut made = self.return_to(round);
        let polka = ballot.proofs.iter().next();
        let rests_on = polka.and_then(|polka| round_of(polka.subject.view())).unwrap_or(Round::Nil);
        match statement {
            Statement::Notarize { block: NIL, .. } => {
                self.replay(Fed::TimeoutElapsed(Timeout::propose(round)), &mut made);
            }
            Statement::Finalize { block: NIL, .. } => {
                self.replay(Fed::TimeoutElapsed(Timeout::prevote(round)), &mut made);
            }
            Statement::Notarize { block, .. } => {
                polka.into_iter().for_each(|polka| self.replay_polka(polka, &mut made));
                self.replay(self.offer_again(round, block, rests_on), &mut made);
            }
            Statement::Finalize { block, .. } => {
                if self.driver.valid_proposal_for_round_and_value(round, Id(block)).is_none() {
                    self.replay(self.offer_again(round, block, Round::Nil), &mut made);
                }
                polka.into_iter().for_each(|polka| self.replay_polka(polka, &mut made));
            }
            Statement::Nullify { .. } => {}
        }
        let again = made.iter().any(|one| matches!(one, Asked::Vote(vote) if statement_of(vote) == statement));
        assert!(again, "the driver casts {statement:?} again after a crash");
        let timeout = |one: &Asked<Ours>| if let Asked::ScheduleTimeout(timeout) = one { Some(*timeout) } else { None };
        self.unset.extend(made.iter().filter_map(timeout));
        self.unset.retain(|timeout| timeout.round == round);
    }

    /// Lets rounds end until the driver is in this one.
    fn return_to(&mut self, round: Round) -> Vec<Asked<Ours>> {
        let mut made = Vec::new();
        while self.driver.round() < round {
            made.clear();
            let here = self.driver.round();
            if here.is_defined() {
                self.replay(Fed::TimeoutElapsed(Timeout::precommit(here)), &mut made);
            }
            let next = here.increment();
            self.replay(Fed::NewRound(At(self.height), next, self.leader(next)), &mut made);
        }
        made
    }

    fn replay(&mut self, input: Fed<Ours>, made: &mut Vec<Asked<Ours>>) {
        made.extend(self.driver.process(input).unwrap_or_default());
    }

    fn offer_again(&self, round: Round, block: Hash, rests_on: Round) -> Fed<Ours> {
        let proposal = Ours.new_proposal(At(self.height), round, Id(block), rests_on, self.leader(round));
        Fed::Proposal(SignedMessage::new(proposal, [0; 64]), Validity::Valid)
    }

    fn replay_polka(&mut self, polka: &Certificate, made: &mut Vec<Asked<Ours>>) {
        if let Some(polka) = polka_of(polka) {
            self.replay(Fed::PolkaCertificate(polka), made);
        }
    }
}
