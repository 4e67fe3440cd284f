//! [`Simplex`]: the protocol of the module above, for one height.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Certificate, Lock, Seats, SignedVote, Statement, Subject};
use neuroshard_proto::{Hash, List, NodeId, Time, mutant};
use serde::{Serialize, Serializer};

use super::ballots::{Ballots, Counted};
use super::{Agreement, Ballot, Input, Offer, Output, VIEW_MS, VIEW_MS_MAX};

/// Votes are counted this many views ahead; who is further ahead shows certificates.
const VIEWS_AHEAD: u64 = 8;
/// Votes and facts are kept this many views back.
const VIEWS_KEPT: u64 = 8;
/// Notarizations kept: the newest.
const NOTARIZATIONS_MAX: usize = 16;
/// Votes are said again this often.
const REPEAT_MS: u64 = VIEW_MS;
/// A notarized block is proposed again after this part of the view.
const AGAIN_SHARE: u64 = 4;
/// Timeouts double at most so often.
const DOUBLINGS_MAX: u64 = 5;

/// One validator's, or one follower's, view of a height. It holds ids, votes and certificates, and no block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Simplex {
    node: NodeId,
    height: u64,
    #[serde(serialize_with = "by_hash")]
    seats: Arc<Seats>,
    view: u64,
    /// How this view was entered; `None` in view 0.
    entry: Option<Entry>,
    /// Notarizations by view; the last is the lock.
    notarized: BTreeMap<u64, Certificate>,
    /// What this node stated, by view.
    own: BTreeMap<u64, Own>,
    /// The last view this node nullified.
    nullified: Option<u64>,
    ballots: BTreeMap<u64, Ballots>,
    /// The leader's block in this view, once it is justified.
    offered: Option<Hash>,
    wanted: bool,
    /// When this node waits for the view no longer.
    deadline: Option<Time>,
    /// When this node says its votes again: some may be lost, and a view may be long.
    repeat_at: Option<Time>,
    /// When this node, as leader, proposes again what the view before notarized: its finalization is most often on the way.
    again_at: Option<Time>,
    /// Certificates that durable ballots hold.
    durable: BTreeSet<Subject>,
    /// Validators that contradicted themselves.
    caught: BTreeSet<NodeId>,
    decided: Option<Certificate>,
}

/// The certificate that ended the view before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Entry {
    certificate: Certificate,
    /// The notarization of the newest lock that a nullification reports.
    lock: Option<Certificate>,
}

/// What this node stated in a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Own {
    notarized: Option<Hash>,
    nullified: bool,
    finalized: bool,
}

fn by_hash<S: Serializer>(seats: &Arc<Seats>, serializer: S) -> Result<S::Ok, S::Error> {
    seats.hash().serialize(serializer)
}

/// The lock that a notarization gives.
const fn lock_of(certificate: &Certificate) -> Option<Lock> {
    match certificate.subject {
        Subject::Notarized { view, block, .. } => Some(Lock { view, block }),
        Subject::Nullified { .. } | Subject::Finalized { .. } => None,
    }
}

/// How long a view lasts: doubling from one to the next.
fn timeout_ms(view: u64) -> u64 {
    let doublings = u32::try_from(view.min(DOUBLINGS_MAX)).unwrap_or_default();
    VIEW_MS.saturating_mul(1_u64.checked_shl(doublings).unwrap_or(u64::MAX)).min(VIEW_MS_MAX)
}

impl Agreement for Simplex {
    fn start<'a>(height: u64, seats: Arc<Seats>, node: NodeId, ballots: impl IntoIterator<Item = &'a Ballot>) -> Self {
        let mut simplex = Self {
            node,
            height,
            seats,
            view: 0,
            entry: None,
            notarized: BTreeMap::new(),
            own: BTreeMap::new(),
            nullified: None,
            ballots: BTreeMap::new(),
            offered: None,
            wanted: false,
            deadline: None,
            repeat_at: None,
            again_at: None,
            durable: BTreeSet::new(),
            caught: BTreeSet::new(),
            decided: None,
        };
        for ballot in ballots.into_iter().filter(|ballot| ballot.statement.height() == height) {
            simplex.recall(ballot);
        }
        simplex
    }

    fn on(&mut self, now: Time, input: Input<'_>, out: &mut Vec<Output>) {
        if self.decided.is_some() {
            return;
        }
        let before = self.view;
        let asked = matches!(input, Input::Wanted(_));
        match input {
            Input::Wanted(wanted) => self.wanted = wanted,
            Input::Proposal(offer) => self.on_proposal(&offer, out),
            Input::Checked { view, block, valid } => self.on_checked(view, block, valid, out),
            Input::Vote(vote) => self.on_vote(vote, out),
            Input::Certificate(certificate) => self.on_certificate(certificate, out),
            Input::Tick => self.on_tick(now, out),
        }
        if self.view != before {
            self.again_at = self.patience_ms().map(|pause| now.after_ms(pause));
        }
        if asked || self.view != before {
            self.lead(out);
        }
        self.arm(now);
    }

    fn deadline(&self) -> Option<Time> {
        self.again_at.into_iter().chain(self.deadline).chain(self.repeat_at).min()
    }

    fn height(&self) -> u64 {
        self.height
    }

    fn view(&self) -> u64 {
        self.view
    }

    fn decided(&self) -> Option<&Certificate> {
        self.decided.as_ref()
    }
}

impl Simplex {
    /// This node's newest lock.
    pub fn lock(&self) -> Option<Lock> {
        self.notarized.last_key_value().and_then(|(_, certificate)| lock_of(certificate))
    }

    /// What decides about this node's future but for votes under way: ids, and not who signed.
    #[cfg(test)]
    pub(super) fn essence(&self) -> impl Serialize + use<> {
        let entry = self.entry.as_ref().map(|entry| (entry.certificate.subject, entry.certificate.newest_lock()));
        let notarized: Vec<Lock> = self.notarized.values().filter_map(lock_of).collect();
        (self.view, entry, notarized, self.own.clone(), self.nullified, self.offered, self.again_at.is_some())
    }

    /// When something but repetition happens by itself.
    #[cfg(test)]
    pub(super) fn turns_at(&self) -> Option<Time> {
        self.again_at.into_iter().chain(self.deadline).min()
    }

    /// The certificates that somebody needs to catch up with this node's view.
    fn standing(&self) -> Vec<Certificate> {
        let lock = self.notarized.last_key_value().map(|(_, certificate)| certificate);
        let entry = self.entry.iter().flat_map(|entry| entry.lock.iter().chain([&entry.certificate]));
        let mut shown: Vec<Certificate> = Vec::new();
        // Locks come first: a nullification means nothing to who does not know the lock it reports.
        for certificate in lock.into_iter().chain(entry) {
            if shown.iter().all(|other| other.subject != certificate.subject) {
                shown.push(certificate.clone());
            }
        }
        shown
    }

    /// Takes up a vote of an earlier life.
    fn recall(&mut self, ballot: &Ballot) {
        for certificate in ballot.proofs.iter() {
            self.durable.insert(certificate.subject);
            self.learn(certificate);
        }
        let view = ballot.statement.view();
        let own = self.own.entry(view).or_default();
        match ballot.statement {
            _ if mutant("votes forgotten at a restart") => {}
            Statement::Notarize { block, .. } => own.notarized = Some(block),
            Statement::Nullify { .. } => {
                own.nullified = true;
                self.nullified = self.nullified.max(Some(view));
            }
            Statement::Finalize { .. } => own.finalized = true,
        }
    }

    /// Takes in a notarization or nullification that counts, and enters the view after it.
    fn learn(&mut self, certificate: &Certificate) {
        let view = certificate.subject.view();
        let lock = match certificate.subject {
            Subject::Notarized { .. } => {
                self.notarized.entry(view).or_insert_with(|| certificate.clone());
                while self.notarized.len() > NOTARIZATIONS_MAX {
                    self.notarized.pop_first();
                }
                None
            }
            Subject::Nullified { .. } => {
                certificate.newest_lock().and_then(|lock| self.notarized.get(&lock.view)).cloned()
            }
            Subject::Finalized { .. } => return,
        };
        if view < self.view {
            return;
        }
        self.view = view.saturating_add(1);
        self.entry = Some(Entry { certificate: certificate.clone(), lock });
        self.offered = None;
        (self.deadline, self.repeat_at) = (None, None);
        let oldest = self.view.saturating_sub(VIEWS_KEPT);
        self.ballots.retain(|view, _| *view >= oldest);
        self.own.retain(|view, _| *view >= oldest);
        self.durable.retain(|subject| subject.view() >= oldest || self.notarized.contains_key(&subject.view()));
    }

    fn on_proposal(&mut self, offer: &Offer<'_>, out: &mut Vec<Output>) {
        for certificate in offer.lock.into_iter().chain(offer.entry) {
            self.on_certificate(certificate, out);
        }
        let led = self.seats.leader(self.height, offer.view) == Some(offer.leader);
        let fresh = offer.view == self.view && self.offered.is_none() && self.decided.is_none();
        if led && fresh && self.is_justified(offer) {
            self.offered = Some(offer.block);
            out.push(Output::Check { view: offer.view, block: offer.block });
        }
    }

    /// Whether the certificates that a proposal carries permit its block.
    fn is_justified(&self, offer: &Offer<'_>) -> bool {
        let Some(before) = offer.view.checked_sub(1) else { return offer.entry.is_none() && offer.lock.is_none() };
        let Some(entry) = offer.entry else { return false };
        if entry.check_weight(&self.seats).is_err() {
            return false;
        }
        let height = self.height;
        match entry.subject {
            Subject::Notarized { height: h, view, block } => {
                (h, view, block) == (height, before, offer.block) && offer.lock.is_none()
            }
            Subject::Nullified { height: h, view } if (h, view) == (height, before) => match entry.newest_lock() {
                Some(_) if mutant("locks may be left behind") => true,
                Some(Lock { view, block }) => {
                    let subject = Subject::Notarized { height, view, block };
                    let shown =
                        offer.lock.is_some_and(|one| one.subject == subject && one.check_weight(&self.seats).is_ok());
                    shown && offer.block == block
                }
                None => offer.lock.is_none(),
            },
            Subject::Nullified { .. } | Subject::Finalized { .. } => false,
        }
    }

    fn on_checked(&mut self, view: u64, block: Hash, valid: bool, out: &mut Vec<Output>) {
        let asked = view == self.view && self.offered == Some(block);
        if !asked || !valid || !self.votes() {
            return;
        }
        let own = self.own.entry(view).or_default();
        if own.notarized.is_none() {
            own.notarized = Some(block);
            let proofs = self.entry_proofs();
            self.cast(Statement::Notarize { height: self.height, view, block }, proofs, out);
        }
    }

    fn on_vote(&mut self, vote: &SignedVote, out: &mut Vec<Output>) {
        let statement = vote.vote.statement;
        let (view, weight) = (statement.view(), self.seats.weight(&vote.vote.validator));
        let near = view <= self.view.saturating_add(VIEWS_AHEAD) && view.saturating_add(VIEWS_KEPT) >= self.view;
        if statement.height() != self.height || weight == 0 || !near {
            return;
        }
        if let Statement::Nullify { lock: Some(lock), .. } = statement
            && lock.view >= view
        {
            // No honest validator is still in a view that it knows to be over.
            return;
        }
        let ballots = self.ballots.entry(view).or_insert_with(|| Ballots::new(self.height, view));
        match ballots.add(vote, weight) {
            Counted::New => {}
            Counted::Known => return,
            Counted::Contradiction(evidence) => {
                let validator = vote.vote.validator;
                if validator != self.node && self.caught.insert(validator) {
                    out.push(Output::Caught(evidence));
                }
                return;
            }
        }
        let complete = match statement {
            Statement::Notarize { block, .. } => ballots.notarization(block, &self.seats),
            Statement::Finalize { block, .. } => ballots.finalization(block, &self.seats),
            Statement::Nullify { .. } => return self.try_nullifications(),
        };
        if let Some(certificate) = complete {
            self.take(&certificate, out);
        }
    }

    /// A certificate from elsewhere: counts if its weight is that of a quorum, and if the newest lock in it is known.
    fn on_certificate(&mut self, certificate: &Certificate, out: &mut Vec<Output>) {
        if certificate.subject.height() != self.height || certificate.check_weight(&self.seats).is_err() {
            return;
        }
        if certificate.newest_lock().is_some_and(|lock| !self.knows(&lock)) {
            return;
        }
        self.take(certificate, out);
    }

    fn knows(&self, lock: &Lock) -> bool {
        self.notarized.get(&lock.view).and_then(lock_of) == Some(*lock)
    }

    /// Takes in a certificate that counts, and does what follows from it.
    fn take(&mut self, certificate: &Certificate, out: &mut Vec<Output>) {
        if let Subject::Finalized { .. } = certificate.subject {
            if self.decided.is_none() {
                self.decided = Some(certificate.clone());
                (self.deadline, self.repeat_at, self.again_at) = (None, None, None);
                out.push(Output::Decided(certificate.clone()));
            }
            return;
        }
        let news = !self.notarized.contains_key(&certificate.subject.view());
        self.learn(certificate);
        if let Subject::Notarized { view, block, .. } = certificate.subject
            && news
        {
            self.finalize(view, block, certificate, out);
            self.try_nullifications();
        }
    }

    /// Looks whether this view, or one that others are in already, has a nullification now.
    fn try_nullifications(&mut self) {
        let views = self.ballots.range(self.view..).rev();
        let mut complete = views.filter_map(|(_, ballots)| ballots.nullification(&self.seats, |lock| self.knows(lock)));
        if let Some(certificate) = complete.next() {
            self.learn(&certificate);
        }
    }

    /// Votes that a notarized block is decided, unless this node gave up on its view.
    fn finalize(&mut self, view: u64, block: Hash, notarization: &Certificate, out: &mut Vec<Output>) {
        let gave_up = self.nullified.is_some_and(|last| last >= view) && !mutant("finalize after nullify");
        let near = view.saturating_add(VIEWS_KEPT) >= self.view;
        if !self.votes() || gave_up || !near {
            return;
        }
        let own = self.own.entry(view).or_default();
        if !own.finalized {
            own.finalized = true;
            self.cast(Statement::Finalize { height: self.height, view, block }, [notarization.clone()], out);
        }
    }

    fn on_tick(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.lead(out);
        }
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let (over, repeats) = (due(self.deadline), due(self.repeat_at));
        if over {
            self.give_up(out);
        }
        if over || repeats {
            self.repeat_at = None;
            let from = self.view.saturating_sub(1);
            let votes: Vec<_> = self.ballots.range(from..).flat_map(|(_, ballots)| ballots.of(&self.node)).collect();
            let certificates = if over { self.standing() } else { Vec::new() };
            let silent = votes.is_empty() && certificates.is_empty() || !over && mutant("votes said once a view");
            if !silent {
                out.push(Output::Repeat { votes, certificates });
            }
        }
    }

    /// The view is over for this node, unless it finalized in it.
    fn give_up(&mut self, out: &mut Vec<Output>) {
        self.deadline = None;
        let (height, view) = (self.height, self.view);
        let own = self.own.entry(view).or_default();
        if !own.nullified && !own.finalized {
            own.nullified = true;
            self.nullified = self.nullified.max(Some(view));
            let lock = if mutant("lock not reported") { None } else { self.lock() };
            let newest = self.notarized.last_key_value().map(|(_, certificate)| certificate.clone());
            let proofs = newest.into_iter().chain(self.entry_proofs()).collect::<Vec<_>>();
            self.cast(Statement::Nullify { height, view, lock }, proofs, out);
        }
    }

    fn entry_proofs(&self) -> Vec<Certificate> {
        self.entry.iter().flat_map(|entry| entry.lock.iter().chain([&entry.certificate])).cloned().collect()
    }

    /// States something, with those certificates it rests on that are not durable yet.
    fn cast(&mut self, statement: Statement, proofs: impl IntoIterator<Item = Certificate>, out: &mut Vec<Output>) {
        let proofs: Vec<Certificate> =
            proofs.into_iter().filter(|certificate| self.durable.insert(certificate.subject)).collect();
        let proofs = List::try_from(proofs);
        assert!(proofs.is_ok(), "a vote rests on a lock, an entry and the entry's lock");
        out.push(Output::Cast(Ballot { statement, proofs: proofs.unwrap_or_default() }));
    }

    /// Proposes, if this node leads the view, may, and has a block to propose.
    fn lead(&mut self, out: &mut Vec<Output>) {
        let voted = self.own.get(&self.view).is_some_and(|own| own.notarized.is_some());
        if !self.leads() || self.again_at.is_some() || voted || self.offered.is_some() || self.decided.is_some() {
            return;
        }
        let again = match self.entry.as_ref().map(|entry| entry.certificate.subject) {
            None if self.view > 0 => return,
            None => None,
            Some(Subject::Notarized { block, .. } | Subject::Finalized { block, .. }) => Some(block),
            Some(Subject::Nullified { .. }) => {
                let lock = self.entry.as_ref().and_then(|entry| entry.certificate.newest_lock());
                lock.map(|lock| lock.block)
            }
        };
        if again.is_some() || self.wanted {
            let entry = self.entry.as_ref().map(|entry| entry.certificate.clone());
            let lock = self.entry.as_ref().and_then(|entry| entry.lock.clone());
            out.push(Output::Propose { view: self.view, again, entry, lock });
        }
    }

    fn leads(&self) -> bool {
        self.seats.leader(self.height, self.view) == Some(self.node)
    }

    /// How long this node leaves a finalization under way its time before it proposes the notarized block again.
    fn patience_ms(&self) -> Option<u64> {
        let ended = self.entry.as_ref().map(|entry| entry.certificate.subject);
        let notarized = matches!(ended, Some(Subject::Notarized { .. })) && !mutant("notarized block proposed at once");
        (notarized && self.leads() && self.decided.is_none())
            .then(|| timeout_ms(self.view).checked_div(AGAIN_SHARE).unwrap_or_default())
    }

    fn votes(&self) -> bool {
        self.seats.weight(&self.node) > 0
    }

    /// Lets the timers run while there is something to wait for, and only then.
    fn arm(&mut self, now: Time) {
        let heard = self.ballots.range(self.view..).next().is_some()
            || self.own.range(self.view..).next().is_some()
            || self.offered.is_some();
        let active = self.wanted || heard || !self.notarized.is_empty();
        let runs = active && self.votes() && self.decided.is_none();
        let keep = |timer: Option<Time>, ms: u64| runs.then(|| timer.unwrap_or_else(|| now.after_ms(ms)));
        self.deadline = keep(self.deadline, timeout_ms(self.view));
        self.repeat_at = keep(self.repeat_at, REPEAT_MS);
    }
}
