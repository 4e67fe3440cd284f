//! Deciding a height: what [`Simplex`] asks for, done.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{
    Action, Author, Block, Certificate, Decided, Evidence, Proposal, SignedVote, Statement, Subject, Transaction, Vote,
};
use neuroshard_proto::{Carried, Hash, Message, NodeId, Shared, mutant};

use super::signing::Wish;
use super::{Chain, DROPS_TOLD_MAX, TOLD_AGAIN_MAX, dropped};
use crate::agreement::{Agreement, Ballot, Input, Offer, Output, Simplex};
use crate::cx::Cx;
use crate::io::{self, Event, PeerFault, Topic};
use crate::journal::JournalFact;
use crate::ledger::Draft;

/// A block from further in the future than this is refused (PROTOCOL §0.2).
pub(super) const FUTURE_MS: u64 = 2000;
/// Things that agreement asks for in answer to one input.
const ANSWERS_MAX: u32 = 64;

impl Chain {
    /// Gives agreement an input, and does what it asks until it is content.
    pub(super) fn drive(&mut self, cx: &mut Cx<'_>, input: Input<'_>) {
        if self.is_halted() {
            return;
        }
        let mut asked = Vec::new();
        self.simplex.on(cx.now, input, &mut asked);
        for _ in 0..ANSWERS_MAX {
            if asked.is_empty() {
                return;
            }
            match asked.remove(0) {
                Output::Cast(ballot) => self.cast(cx, ballot),
                Output::Check { view, block } => {
                    let valid = self.check(cx, &block);
                    self.simplex.on(cx.now, Input::Checked { view, block, valid }, &mut asked);
                }
                Output::Propose { view, again, entry, lock } => {
                    let Some(proposal) = self.propose(cx, view, again, entry, lock) else { continue };
                    self.simplex.on(cx.now, Input::Proposal(offer(&proposal)), &mut asked);
                    if !self.is_alone(cx) {
                        let message = Box::new(Message::Proposal(Box::new(proposal)));
                        self.signing.ask(cx, Wish::Publish { topic: Topic::Agreement, message }, None);
                    }
                }
                Output::Repeat { votes, certificates } => self.repeat(cx, votes, certificates),
                Output::Caught(evidence) => self.accuse(cx, evidence),
                // The next height begins with the next input.
                Output::Decided(certificate) => return self.on_finalized(cx, certificate),
            }
        }
        assert!(asked.is_empty(), "agreement is content after a few answers");
    }

    pub(super) fn on_proposal(&mut self, cx: &mut Cx<'_>, proposal: &Proposal) {
        let id = proposal.block.header.id();
        let missing = self.bodiless.as_ref().is_some_and(|certificate| names(certificate) == Some(id));
        if missing && let Some(certificate) = self.bodiless.take() {
            let block = proposal.block.clone();
            return self.conclude(cx, Decided { block, certificate }.into());
        }
        // A leader that is free makes the block itself; one that is not proposes what another made.
        let bound = proposal
            .entry
            .as_ref()
            .is_some_and(|entry| matches!(entry.subject, Subject::Notarized { .. }) || entry.newest_lock().is_some());
        let led = self.ledger.seats().leader(self.simplex.height(), proposal.view) == Some(proposal.leader);
        if !led || (!bound && proposal.block.header.proposer != proposal.leader) {
            let reject = PeerFault::Leader { node: proposal.leader, view: proposal.view };
            return cx.event(Event::Rejected { reject });
        }
        for certificate in proposal.lock.iter().chain(&proposal.entry) {
            self.drive(cx, Input::Certificate(certificate));
        }
        // One block a view and this view's only: a leader cannot fill memory with others.
        if proposal.view == self.simplex.view() && self.simplex.decided().is_none() {
            let locked = self.simplex.lock().map(|lock| lock.block);
            self.bodies.keep(proposal.block.clone(), proposal.view, locked);
            self.drive(cx, Input::Proposal(offer(proposal)));
        }
    }

    /// Whether a block may follow the head. Its ledger is kept for when it is decided.
    fn check(&mut self, cx: &mut Cx<'_>, id: &Hash) -> bool {
        let Some(body) = self.bodies.get_mut(id) else { return false };
        if body.after.is_some() {
            return true;
        }
        let header = body.block.header;
        if header.time > cx.now.after_ms(FUTURE_MS) {
            cx.event(Event::Rejected { reject: PeerFault::BlockTime { node: header.proposer, theirs: header.time } });
            return false;
        }
        match self.ledgers.after(&self.ledger, &body.block) {
            Ok(after) => {
                body.after = Some(after);
                true
            }
            Err(_) => {
                let reject = PeerFault::Block { node: header.proposer, height: header.height };
                cx.event(Event::Rejected { reject });
                false
            }
        }
    }

    /// Makes the proposal of a view that this node leads; `None` if it has nothing to propose.
    fn propose(
        &mut self,
        cx: &mut Cx<'_>,
        view: u64,
        again: Option<Hash>,
        entry: Option<Certificate>,
        lock: Option<Certificate>,
    ) -> Option<Proposal> {
        let leader = cx.config.node;
        if let Some(id) = again {
            let block = Block::clone(&self.bodies.get(&id)?.block);
            return Some(Proposal { leader, view, block, entry, lock });
        }
        let waiting = self.mempool.candidates();
        let finality = self.history.finality().cloned();
        let drafted = self.ledger.draft(leader, cx.now, finality.as_ref(), waiting.iter().map(|one| &**one));
        let Ok(Draft { block, ledger, refused }) = drafted else { return None };
        for (place, refusal) in refused {
            if let Some(signed) = waiting.get(place).filter(|_| !refusal.is_premature()) {
                self.mempool.forget(signed, cx.config.genesis.network());
            }
        }
        if block.header.time > cx.now.after_ms(FUTURE_MS) {
            return None;
        }
        let locked = self.simplex.lock().map(|lock| lock.block);
        self.bodies.keep(block.clone(), view, locked);
        if let Some(body) = self.bodies.get_mut(&block.header.id()) {
            body.after = Some(ledger);
        }
        Some(Proposal { leader, view, block, entry, lock })
    }

    /// Writes a vote down, with the block it is for, and has it signed when that is durable.
    fn cast(&mut self, cx: &mut Cx<'_>, ballot: Ballot) {
        let statement = ballot.statement;
        if let Statement::Notarize { block, .. } = statement
            && let Some(body) = self.bodies.get_mut(&block).filter(|body| !body.written)
        {
            body.written = true;
            let fact = JournalFact::Proposed { block: body.block.clone() };
            self.write(cx, fact);
        }
        let durable = if mutant("vote not journaled") {
            None
        } else {
            Some(self.write(cx, JournalFact::Voted { ballot: Box::new(ballot) }))
        };
        let vote = Vote { validator: cx.config.node, statement };
        self.signing.ask(cx, Wish::Vote(vote), durable);
    }

    /// Nothing moved for a while: says again what others may have missed.
    fn repeat(&mut self, cx: &mut Cx<'_>, votes: Vec<SignedVote>, certificates: Vec<Certificate>) {
        for certificate in certificates {
            self.show(cx, certificate);
        }
        for SignedVote { vote, signature } in votes {
            self.publish(cx, Topic::Agreement, &Message::Vote(vote), signature);
        }
        for signed in self.mempool.oldest(TOLD_AGAIN_MAX) {
            self.tell(cx, &signed);
        }
    }

    fn show(&mut self, cx: &mut Cx<'_>, certificate: Certificate) {
        let carried = Carried { node: cx.config.node, what: certificate };
        let message = Box::new(Message::Certificate(Box::new(carried)));
        self.signing.ask(cx, Wish::Publish { topic: Topic::Agreement, message }, None);
    }

    /// Reports a validator that contradicted itself, if this node may and nobody did before.
    fn accuse(&mut self, cx: &mut Cx<'_>, evidence: Box<Evidence>) {
        let validator = evidence.first.vote.validator;
        cx.event(Event::Equivocation { validator });
        let author = Author::Node { node: cx.config.node, epoch: self.ledger.epoch() };
        let transaction = Transaction { author, action: Action::ReportEquivocation { evidence } };
        self.wish(cx, transaction, None);
    }

    fn on_finalized(&mut self, cx: &mut Cx<'_>, certificate: Certificate) {
        let body = names(&certificate).and_then(|id| self.bodies.get(&id));
        match body.map(|body| Block::clone(&body.block)) {
            Some(block) => self.conclude(cx, Decided { block, certificate }.into()),
            None => {
                // Who signed has the block; who has not decided yet does so by the certificate, and can be asked.
                let me = cx.config.node;
                let signers = certificate.endorsements.iter().map(|one| one.validator);
                if let Some(signer) = signers.filter(|signer| *signer != me).min_by_key(|signer| distance(signer, &me))
                {
                    self.behind.heard(signer, self.simplex.height());
                }
                self.show(cx, certificate.clone());
                self.bodiless = Some(certificate);
            }
        }
    }

    /// Takes up a decided block, and begins the next height.
    pub(super) fn conclude(&mut self, cx: &mut Cx<'_>, decided: Shared<Decided>) {
        let Decided { block, certificate } = &*decided;
        let (id, header) = (block.header.id(), block.header);
        let known = self.bodies.get(&id).and_then(|body| body.after.clone());
        let after = known.or_else(|| self.ledgers.after(&self.ledger, block).ok());
        let Some(after) = after else {
            self.broken = true;
            return cx.event(Event::ChainBroken { height: header.height, id });
        };
        let leads = self.ledger.seats().leader(header.height, certificate.subject.view()) == Some(cx.config.node);
        self.write(cx, JournalFact::Decided { decided: decided.clone() });
        let (parent, before) = (self.history.head(), Arc::clone(self.ledger.seats()));
        self.ledger = after;
        self.ladder.climb(&decided, parent, &before, self.ledger.seats());
        self.giving.hold(&self.ledger, &decided, self.history.newest(), before, cx.now);
        self.taking.passed(header.height);
        self.begin_state(cx, &decided);
        let (transactions, root) = (decided.block.transactions.len(), self.ledger.root());
        let transactions = u32::try_from(transactions).unwrap_or(u32::MAX);
        cx.event(Event::BlockDecided { height: header.height, id, time: header.time, transactions, root });
        for signed in &decided.block.transactions {
            self.mempool.forget(signed, header.network);
        }
        self.history.push(decided.clone(), self.giving.wanted_from(cx.now));
        self.begin_height(cx);
        cx.head();
        if leads {
            // The others may know already; those without a vote hear it from the leader.
            let carried = Carried { node: cx.config.node, what: decided };
            let message = Box::new(Message::Decided(Box::new(carried)));
            self.signing.ask(cx, Wish::Publish { topic: io::Topic::Blocks, message }, None);
        }
    }

    /// Begins to decide the height after the ledger's.
    pub(super) fn begin_height(&mut self, cx: &mut Cx<'_>) {
        let head = self.ledger.head().height;
        let drops = self.mempool.refresh(&self.ledger, cx.now);
        drops.into_iter().take(DROPS_TOLD_MAX).for_each(|drop| cx.event(dropped(drop)));
        if self.ledger.seats().weight(&cx.config.node) == 0 {
            let untold = self.mempool.untold(TOLD_AGAIN_MAX, cx.now);
            untold.iter().for_each(|signed| self.tell(cx, signed));
        }
        self.signing.forget_votes(head);
        self.bodies.clear();
        self.bodiless = None;
        self.simplex = Simplex::start(head.saturating_add(1), Arc::clone(self.ledger.seats()), cx.config.node, []);
    }
}

fn offer(proposal: &Proposal) -> Offer<'_> {
    let Proposal { leader, view, block, entry, lock } = proposal;
    Offer { leader: *leader, view: *view, block: block.header.id(), entry: entry.as_ref(), lock: lock.as_ref() }
}

/// The block that a finalization names.
pub(super) const fn names(certificate: &Certificate) -> Option<Hash> {
    match certificate.subject {
        Subject::Finalized { block, .. } => Some(block),
        Subject::Notarized { .. } | Subject::Nullified { .. } => None,
    }
}

/// An order of the others that differs from node to node, so that not all ask the same one.
fn distance(one: &NodeId, me: &NodeId) -> [u8; 32] {
    let mut mixed = *one.as_bytes();
    mixed.iter_mut().zip(me.as_bytes()).for_each(|(byte, mine)| *byte ^= mine);
    mixed
}
