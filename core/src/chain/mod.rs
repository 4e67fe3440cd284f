//! The node's part in the agreed world (PROTOCOL §0.1, §11): the ledger as it stands, the height being decided, and what
//! waits for a block.
//!
//! A transaction comes from a peer, the operator or this node itself and waits in the [`Mempool`]. Where there is something to
//! decide, the leader drafts a block and [`Simplex`] decides it; its votes become journal records, then signatures, then
//! messages, in this order. A decided block is applied at once and kept for those who missed it.
//!
//! What survives a crash are facts: blocks this node voted for, its votes with the certificates they rest on, decided
//! blocks, and values it bound itself to. They make the same state again ([`Past`]), so a crash between any two outputs
//! contradicts nothing that was said before.

mod bodies;
mod duties;
mod giving;
mod height;
mod history;
mod ladder;
mod mempool;
mod restore;
mod room;
mod signing;
mod taking;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{
    Action, Author, BlocksWanted, Certificate, Decided, SignedTransaction, SignedVote, Transaction, Vote,
};
use neuroshard_proto::{
    Carried, Envelope, FormingMessage, FormingWord, Hash, JournalSeq, Message, NodeId, QuorumId, RequestId, Shared,
    Signature, Tier, Time, Verified,
};
use serde::{Serialize, Serializer};

use crate::agreement::{Agreement, Ballot, Input, Simplex};
use crate::cx::{Cx, Local};
use crate::io::{DropReason, Event, Output, TimerKind, Topic};
use crate::ledger::{Ledger, Source};

use bodies::Bodies;
use duties::Duties;
use giving::Giving;
use history::{BATCH, Behind, Helped, History};
use ladder::Ladder;
use mempool::Mempool;
use signing::{Signing, Wish};
use taking::Taking;

use restore::Writing;

pub(crate) use restore::{Contradiction, Past};

/// Dropped transactions told of in one step; of the others there is no word.
const DROPS_TOLD_MAX: usize = 8;
/// Votes of an earlier life that are signed again: the newest. Those of older views are in certificates.
const SIGNED_AGAIN_MAX: usize = 8;
/// Waiting transactions told again where nothing moves.
const TOLD_AGAIN_MAX: usize = 4;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Chain {
    #[serde(skip)]
    ledgers: Source,
    #[serde(serialize_with = "by_root")]
    ledger: Ledger,
    simplex: Simplex,
    mempool: Mempool,
    bodies: Bodies,
    history: History,
    helped: Helped,
    behind: Behind,
    signing: Signing,
    duties: Duties,
    ladder: Ladder,
    giving: Giving,
    taking: Taking,
    /// The height's finalization, while its block is missing.
    bodiless: Option<Certificate>,
    /// Votes of an earlier life that are to be signed again.
    unsigned: Vec<Ballot>,
    /// A quorum decided a block that does not follow: this node cannot go on without being repaired.
    broken: bool,
    writing: Writing,
}

fn by_root<S: Serializer>(ledger: &Ledger, serializer: S) -> Result<S::Ok, S::Error> {
    (ledger.head().height, ledger.head().id, ledger.root()).serialize(serializer)
}

impl Chain {
    pub(crate) fn new(past: Past, node: NodeId) -> Self {
        let Past { ledgers, ledger, history, ballots, bodies, duties, ladder, giving, taking, .. } = past;
        let height = ledger.head().height.saturating_add(1);
        let simplex = Simplex::start(height, Arc::clone(ledger.seats()), node, &ballots);
        Self {
            ledgers,
            ledger,
            simplex,
            mempool: Mempool::default(),
            bodies,
            history,
            helped: Helped::default(),
            behind: Behind::default(),
            signing: Signing::default(),
            duties,
            ladder,
            giving,
            taking: taking.map(Taking::resume).unwrap_or_default(),
            bodiless: None,
            unsigned: ballots,
            broken: false,
            writing: Writing::default(),
        }
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The newest decided blocks, from a height on.
    pub(crate) fn decided_since(&self, height: u64) -> impl Iterator<Item = &Shared<Decided>> {
        self.history.since(height)
    }

    /// Transactions that wait for a block.
    pub(crate) fn waiting(&self) -> usize {
        self.mempool.len()
    }

    /// The first tick: signs again what an earlier life voted.
    pub(crate) fn on_start(&mut self, cx: &mut Cx<'_>) {
        let ballots = core::mem::take(&mut self.unsigned);
        let old = ballots.len().saturating_sub(SIGNED_AGAIN_MAX);
        for ballot in ballots.into_iter().skip(old) {
            let vote = Vote { validator: cx.config.node, statement: ballot.statement };
            self.signing.ask(cx, Wish::Vote(vote), None);
        }
        self.settle(cx);
    }

    pub(crate) fn on_tier(&mut self, cx: &mut Cx<'_>, tier: Tier) {
        self.duties.measured(tier);
        self.settle(cx);
        cx.head();
    }

    /// Sends a message of another part, once it is signed.
    pub(crate) fn say(&mut self, cx: &mut Cx<'_>, to: NodeId, message: Box<Message>) {
        self.signing.ask(cx, Wish::Send { to, message }, None);
        self.settle(cx);
    }

    /// Asks for this node's signature under the terms of a quorum.
    pub(crate) fn consent(&mut self, cx: &mut Cx<'_>, quorum: QuorumId, digest: Hash, to: NodeId) {
        self.signing.ask(cx, Wish::Consent { quorum, digest, to }, None);
        self.settle(cx);
    }

    /// Wishes something in this node's name.
    pub(crate) fn act(&mut self, cx: &mut Cx<'_>, action: Action, after: Option<JournalSeq>) {
        let author = Author::Node { node: cx.config.node, epoch: self.ledger.epoch() };
        self.wish(cx, Transaction { author, action }, after);
        self.settle(cx);
    }

    pub(crate) fn on_submit(&mut self, cx: &mut Cx<'_>, signed: &SignedTransaction) {
        let name = signed.transaction.digest(cx.config.genesis.network());
        if !signed.holds(cx.config.genesis.network()) {
            return cx.event(Event::TransactionDropped { transaction: name, why: DropReason::Forged });
        }
        self.take(cx, signed, true);
        self.settle(cx);
    }

    pub(crate) fn on_message(&mut self, cx: &mut Cx<'_>, message: &Verified) {
        match message.message() {
            Message::Heartbeat(_) | Message::Quorum(_) | Message::Forming(_) | Message::Beacon(_) => {}
            Message::Transaction(transaction) => {
                // Who has no vote makes no block: it keeps its own wishes alone, and lets the others' pass.
                if self.ledger.seats().weight(&cx.config.node) > 0 {
                    let signed = SignedTransaction { transaction: transaction.clone(), signature: message.signature() };
                    self.take(cx, &signed, false);
                }
            }
            Message::Vote(vote) => {
                if self.is_current(cx, vote.validator, vote.statement.height()) {
                    let signed = SignedVote { vote: *vote, signature: message.signature() };
                    self.drive(cx, Input::Vote(&signed));
                }
            }
            Message::Proposal(proposal) => {
                if self.is_current(cx, proposal.leader, proposal.block.header.height) {
                    self.on_proposal(cx, proposal);
                }
            }
            Message::Certificate(carried) => {
                if self.is_current(cx, carried.node, carried.what.subject.height()) {
                    self.drive(cx, Input::Certificate(&carried.what));
                }
            }
            Message::BlocksWanted(wanted) => self.on_wanted(cx, wanted),
            Message::Decided(carried) => self.on_decided(cx, carried),
            Message::StepsWanted(wanted) => self.on_steps_wanted(cx, wanted),
            Message::Steps(steps) => self.on_steps(cx, steps),
            Message::StateWanted(wanted) => self.on_state_wanted(cx, wanted),
            Message::StatePiece(given) => self.on_piece(cx, given),
        }
        self.settle(cx);
    }

    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, kind: TimerKind) {
        match kind {
            TimerKind::View => self.drive(cx, Input::Tick),
            TimerKind::Sign => self.signing.on_late(cx),
            TimerKind::Block | TimerKind::Blocks => {}
            TimerKind::Start
            | TimerKind::Release
            | TimerKind::Request
            | TimerKind::Benchmark
            | TimerKind::Liveness
            | TimerKind::Retry
            | TimerKind::Quorum
            | TimerKind::Form => {}
        }
        self.settle(cx);
    }

    pub(crate) fn on_signed(&mut self, cx: &mut Cx<'_>, id: RequestId, signature: Signature) {
        let network = cx.config.genesis.network();
        match self.signing.take(id) {
            None => cx.requests.unknown = cx.requests.unknown.saturating_add(1),
            Some(Wish::Vote(vote)) => {
                self.publish(cx, Topic::Agreement, &Message::Vote(vote), signature);
                if vote.statement.height() == self.simplex.height() {
                    self.drive(cx, Input::Vote(&SignedVote { vote, signature }));
                }
            }
            Some(Wish::Transaction(transaction)) => self.take(cx, &signing::signed(transaction, signature), true),
            Some(Wish::Consent { quorum, to, .. }) if to == cx.config.node => {
                cx.tell(Local::Accepted { quorum, signature });
            }
            Some(Wish::Consent { quorum, to, .. }) => {
                let word = FormingWord::Accept { quorum, signature };
                let message = Message::Forming(Box::new(FormingMessage { node: cx.config.node, word }));
                self.signing.ask(cx, Wish::Send { to, message: Box::new(message) }, None);
            }
            Some(Wish::Send { to, message }) => {
                let message = Box::new(Envelope::signed(network, &message, signature));
                cx.out.push(Output::Send { to, message });
            }
            Some(Wish::Publish { topic, message }) => self.publish(cx, topic, &message, signature),
        }
        self.settle(cx);
    }

    fn publish(&self, cx: &mut Cx<'_>, topic: Topic, message: &Message, signature: Signature) {
        if topic == Topic::Agreement && self.is_alone(cx) {
            return;
        }
        let message = Box::new(Envelope::signed(cx.config.genesis.network(), message, signature));
        cx.out.push(Output::Publish { topic, message });
    }

    /// Whether nobody else decides: then nobody waits for votes.
    fn is_alone(&self, cx: &Cx<'_>) -> bool {
        let seats = self.ledger.seats();
        seats.len() == 1 && seats.weight(&cx.config.node) > 0
    }

    /// Takes in a transaction; `spread` if others may not know it.
    fn take(&mut self, cx: &mut Cx<'_>, signed: &SignedTransaction, spread: bool) {
        match self.mempool.add(signed.clone(), &self.ledger, cx.now) {
            Ok(true) if spread => self.tell(cx, signed),
            Ok(_) => {}
            Err(why) => {
                let transaction = signed.transaction.digest(cx.config.genesis.network());
                cx.event(Event::TransactionDropped { transaction, why });
            }
        }
    }

    fn tell(&self, cx: &mut Cx<'_>, signed: &SignedTransaction) {
        let message = Message::Transaction(signed.transaction.clone());
        self.publish(cx, Topic::Transactions, &message, signed.signature);
    }

    /// Asks for a signature under a transaction of this node.
    fn wish(&mut self, cx: &mut Cx<'_>, transaction: Transaction, after: Option<JournalSeq>) {
        self.signing.ask(cx, Wish::Transaction(transaction), after);
    }

    /// Whether a message is of the height being decided. Who speaks of a later one is asked for blocks, who speaks of an
    /// earlier one is told what was decided.
    fn is_current(&mut self, cx: &mut Cx<'_>, from: NodeId, height: u64) -> bool {
        let here = self.simplex.height();
        if height > here {
            self.heard(cx, from, height.saturating_sub(1));
        } else if height < here {
            self.help(cx, from, height);
        }
        height == here && !self.is_halted()
    }

    /// A node speaks of a height that is decided for it.
    fn heard(&mut self, cx: &Cx<'_>, node: NodeId, height: u64) {
        if !self.taking.is_faulty(&node, cx.now) {
            self.behind.heard(node, height);
            self.taking.heard(node, cx.now);
        }
    }

    /// Whether this node takes no part in deciding.
    const fn is_halted(&self) -> bool {
        self.broken || self.taking.is_busy()
    }

    fn on_wanted(&mut self, cx: &mut Cx<'_>, wanted: &BlocksWanted) {
        let here = self.simplex.height();
        if wanted.from < here {
            self.help(cx, wanted.node, wanted.from);
        } else if wanted.from > here {
            self.heard(cx, wanted.node, wanted.from.saturating_sub(1));
        }
    }

    /// Sends decided blocks to a node that seems to lack them; not again at once.
    fn help(&mut self, cx: &mut Cx<'_>, to: NodeId, from: u64) {
        if to == cx.config.node || !self.signing.has_room_for(BATCH) || !self.helped.may(to, cx.now) {
            return;
        }
        if self.history.is_past(from) {
            return self.show_way(cx, to, from.saturating_sub(1));
        }
        for decided in self.history.batch(from) {
            let carried = Carried { node: cx.config.node, what: decided };
            let message = Box::new(Message::Decided(Box::new(carried)));
            self.signing.ask(cx, Wish::Send { to, message }, None);
        }
    }

    fn on_decided(&mut self, cx: &mut Cx<'_>, carried: &Carried<Shared<Decided>>) {
        let Decided { block, certificate } = &*carried.what;
        let (here, height) = (self.simplex.height(), block.header.height);
        if height > here {
            return self.heard(cx, carried.node, height);
        }
        if height < here || self.is_halted() {
            return;
        }
        let ours = self.ledger.seats();
        let names = matches!(certificate.subject, neuroshard_proto::chain::Subject::Finalized { height: of, block: id, .. }
            if of == height && id == block.header.id());
        if !names || certificate.check_weight(ours).is_err() {
            let reject = crate::io::PeerFault::Undecided { node: carried.node, height };
            return cx.event(Event::Rejected { reject });
        }
        self.conclude(cx, carried.what.clone());
    }

    /// After everything: what is wanted now, what is due, and when.
    fn settle(&mut self, cx: &mut Cx<'_>) {
        self.take_on(cx);
        if !self.is_halted() {
            self.do_duties(cx);
        }
        let wanted = self.is_wanted(cx.now, &cx.config.node);
        self.drive(cx, Input::Wanted(wanted));
        let head = self.ledger.head().height;
        let seated = self.ledger.seats().weight(&cx.config.node) > 0;
        if !self.taking.is_under_way()
            && let Some(to) = self.behind.ask(head, cx.now, (cx.config.node, seated), cx.liveness)
        {
            let wanted = BlocksWanted { node: cx.config.node, from: head.saturating_add(1) };
            let message = Box::new(Message::BlocksWanted(wanted));
            self.signing.ask(cx, Wish::Send { to, message }, None);
        }
        let due = Some(self.ledger.next_due()).filter(|due| seated && *due > cx.now && !self.is_halted());
        let due = if self.write_state(cx) { Some(cx.now) } else { due };
        cx.arm(TimerKind::Block, due);
        cx.arm(TimerKind::View, self.simplex.deadline().filter(|_| !self.is_halted()));
        cx.arm(TimerKind::Sign, self.signing.deadline());
        let blocks = self.behind.deadline().filter(|_| !self.taking.is_under_way());
        cx.arm(TimerKind::Blocks, [blocks, self.taking.deadline()].into_iter().flatten().min());
    }

    /// Whether there is something to decide: a transaction that applies, or a block that is due.
    fn is_wanted(&self, now: Time, node: &NodeId) -> bool {
        let seated = self.ledger.seats().weight(node) > 0;
        seated && !self.is_halted() && (self.mempool.is_ready() || now >= self.ledger.next_due())
    }
}

/// A drop, told.
fn dropped((transaction, why): (Hash, DropReason)) -> Event {
    Event::TransactionDropped { transaction, why }
}
