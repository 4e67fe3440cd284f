//! Training together with the members of a plan (PROTOCOL §4): who begins when, what is passed on, and what is said again.
//!
//! The initiator counts *terms*. A term begins when a member has come back, or lost what it had: the initiator gathers which
//! states every member has persisted, and all take up the newest that all have. What was said in an earlier term is void. In
//! a term batches follow one on the other without a word: a member goes on as soon as it knows that all are done, so no two
//! are more than one batch apart, and each keeps what it said of the batch before for those who missed it.
//!
//! Everything that is told may be lost. Who gets no further for a while says what it lacks.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use neuroshard_proto::{
    BatchId, F32, Hash, LayerRange, List, Message, NodeId, Plan, QuorumId, QuorumMessage, RequestId, Shared, Step,
    Time, Word,
};
use serde::Serialize;

use super::flow::{Flow, Share, Stand, Way};
use crate::config::Config;
use crate::count;
use crate::cx::{Cx, Local};
use crate::io::{Event, FetchFault, Output, PeerFault, TimerKind};
use crate::journal::COPIES_MAX;

/// Who gets no further for so long says what it lacks.
const PATIENCE_MS: u64 = 500;
/// A member that has not answered for so long is lost. Cores answer at once, whatever their executors are busy with.
const LOST_MS: u64 = 6000;
/// Announcements said again at once, of each way.
const AGAIN_MAX: usize = 6;
/// Streams and gradients fetched at a time.
const FETCHES_MAX: usize = 4;
/// Blobs dropped in a step.
const DROPS_A_STEP: usize = 8;
/// Fetches of batches that are over, of which hosts may answer late.
const STRAYS_MAX: usize = 256;
/// Batches that are kept: the one before, this one, and what others already say of the next.
const BATCHES_KEPT: u64 = 1;

/// What the trainer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing beyond the batch.
    On,
    /// Stop, and wait for [`Turn::Go`].
    Halt,
    /// Take up the state after this step.
    Go(Step),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
enum Phase {
    /// Nobody has said when to begin.
    Waiting,
    /// The initiator gathers reports: the steps that each member has, by place.
    Gathering(BTreeMap<usize, Vec<Step>>),
    /// All go on from this step.
    Going(Step),
}

/// A quorum that a node is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) id: QuorumId,
    pub(crate) plan: Shared<Plan>,
}

impl Assignment {
    /// The plan that operators agreed on by hand, if there is one and this node is in it.
    pub(crate) fn by_hand(config: &Config) -> Option<Self> {
        let plan = config.plan.clone().filter(|plan| plan.place(&config.node).is_some())?;
        Some(Self { id: plan.id(config.genesis.network()), plan })
    }
}

/// A node's part in a quorum.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Quorum {
    #[serde(skip)]
    plan: Shared<Plan>,
    id: QuorumId,
    stand: Stand,
    term: u64,
    phase: Phase,
    /// The batch before this one, this one, and the next, as far as they are known.
    flows: VecDeque<Flow>,
    /// Whether something came since the last look.
    moved: bool,
    sequences: u32,
    /// Blobs that nobody needs any more, to be dropped a few a step.
    litter: VecDeque<Hash>,
    /// Fetches under way for batches that are over: what comes of them is let go of.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    strays: BTreeMap<RequestId, Hash>,
    /// Since when each member owes an answer, by place.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    owing: BTreeMap<usize, Time>,
    /// Members that were called silent last.
    silent: Vec<NodeId>,
    /// The model is known to have been trained further than its beginning, by states that can be had again.
    advanced: bool,
}

impl Quorum {
    /// This node's part in a checked plan; `None` if it has none.
    pub(crate) fn new(config: &Config, assignment: Assignment) -> Option<Self> {
        let Assignment { id, plan } = assignment;
        let place = plan.place(&config.node)?;
        let stand = Stand { place, members: plan.members.len() };
        Some(Self {
            id,
            stand,
            term: 0,
            phase: Phase::Waiting,
            flows: VecDeque::new(),
            moved: false,
            sequences: config.genesis.training.batch,
            litter: VecDeque::new(),
            strays: BTreeMap::new(),
            owing: BTreeMap::new(),
            silent: Vec::new(),
            // By a plan made by hand members wait for who has not come with what it has.
            advanced: config.plan.is_some(),
            plan,
        })
    }

    pub(crate) const fn id(&self) -> QuorumId {
        self.id
    }

    /// The stages that this node runs.
    pub(crate) fn range(&self) -> LayerRange {
        self.plan.members.get(self.stand.place).map_or(LayerRange { start: 0, end: 0 }, |member| member.stages)
    }

    /// The stages of the members whose work this node keeps copies of: those before it, in a ring.
    pub(crate) fn copied(&self) -> impl Iterator<Item = LayerRange> {
        let members = self.stand.members;
        let before = move |back: usize| {
            let place = self.stand.place.saturating_add(members).saturating_sub(back).checked_rem(members)?;
            self.plan.members.get(place).map(|member| member.stages).filter(|_| back < members)
        };
        (1..=count::place(COPIES_MAX)).filter_map(before)
    }

    /// All stages were posted after some step.
    pub(crate) const fn advance(&mut self) {
        self.advanced = true;
    }

    /// Goes on as it is under another name: the same members agreed to the same plan once more. False if it is another plan.
    pub(crate) fn renew(&mut self, assignment: &Assignment) -> bool {
        let same = *self.plan.members == *assignment.plan.members;
        if same {
            (self.id, self.plan) = (assignment.id, assignment.plan.clone());
        }
        same
    }

    /// Blobs that are to be dropped when this ends.
    pub(crate) fn into_litter(mut self, cx: &mut Cx<'_>) -> VecDeque<Hash> {
        self.leave(cx);
        self.litter
    }

    /// Takes over what another quorum of this node left.
    pub(crate) fn inherit(&mut self, litter: VecDeque<Hash>) {
        self.litter.extend(litter);
    }

    pub(crate) fn snapshot_steps(&self) -> u64 {
        u64::from(self.plan.snapshot_steps)
    }

    /// The step that all go on from in this term.
    pub(crate) const fn going(&self) -> Option<Step> {
        match self.phase {
            Phase::Going(step) => Some(step),
            Phase::Waiting | Phase::Gathering(_) => None,
        }
    }

    /// This node is there, or has lost what it had: it must be told where to go on.
    pub(crate) fn present(&mut self, cx: &mut Cx<'_>, steps: &[Step]) -> Turn {
        cx.arm(TimerKind::Quorum, Some(cx.now.after_ms(PATIENCE_MS)));
        if self.stand.is_first() {
            return self.gather(cx, steps);
        }
        self.halt(cx);
        (self.term, self.phase) = (0, Phase::Waiting);
        self.owing.clear();
        self.report(cx, steps);
        Turn::Halt
    }

    /// The node takes no part any more.
    pub(crate) fn leave(&mut self, cx: &mut Cx<'_>) {
        self.halt(cx);
        self.phase = Phase::Waiting;
        cx.arm(TimerKind::Quorum, None);
    }

    fn halt(&mut self, cx: &mut Cx<'_>) {
        for flow in core::mem::take(&mut self.flows) {
            flow.jobs().for_each(|id| cx.cancel(id));
            self.forget(&flow);
        }
    }

    /// Lets go of what is held for a batch, and of what is still to come.
    fn forget(&mut self, flow: &Flow) {
        self.litter.extend(flow.blobs());
        self.strays.extend(flow.asked_for());
        while self.strays.len() > STRAYS_MAX {
            self.strays.pop_first();
        }
    }

    /// The initiator begins a term.
    fn gather(&mut self, cx: &mut Cx<'_>, steps: &[Step]) -> Turn {
        self.halt(cx);
        // Later than any term of an earlier life, whose clock stood before this one's.
        self.term = cx.now.as_ms().max(self.term.saturating_add(1));
        self.phase = Phase::Gathering(BTreeMap::from([(self.stand.place, steps.to_vec())]));
        self.tell_all(cx, &Word::Gather);
        self.settle(cx)
    }

    /// Begins to train once all have reported.
    fn settle(&mut self, cx: &mut Cx<'_>) -> Turn {
        let Phase::Gathering(reports) = &self.phase else { return Turn::Halt };
        if reports.len() < self.stand.members {
            return Turn::Halt;
        }
        let mut all = reports.values();
        let first = all.next().map(Vec::as_slice).unwrap_or_default();
        let common = first.iter().filter(|step| reports.values().all(|steps| steps.contains(step))).max();
        let step = common.copied().unwrap_or_default();
        if step == Step(0) && self.advanced && reports.values().any(|steps| steps.iter().any(|step| *step > Step(0))) {
            // Some have not heard yet from where the others could go on. Nobody begins anew while anybody knows more. What
            // one member alone has of a step that was never posted whole is of no use to anybody.
            let own = first.to_vec();
            self.phase = Phase::Gathering(BTreeMap::from([(self.stand.place, own)]));
            return Turn::Halt;
        }
        self.phase = Phase::Going(step);
        self.tell_all(cx, &Word::Go { step });
        cx.event(Event::QuorumBegan { quorum: self.id, term: self.term, step });
        Turn::Go(step)
    }

    fn report(&self, cx: &mut Cx<'_>, steps: &[Step]) {
        let newest = steps.len().saturating_sub(count::place(neuroshard_proto::REPORTED_MAX));
        let steps = List::try_from(steps.get(newest..).unwrap_or_default().to_vec()).unwrap_or_default();
        self.tell(cx, 0, Word::Ready { steps });
    }

    fn tell_all(&self, cx: &mut Cx<'_>, word: &Word) {
        for place in (0..self.stand.members).filter(|place| *place != self.stand.place) {
            self.tell(cx, place, word.clone());
        }
    }

    /// Tells a member something that it has to answer.
    fn ask(&mut self, cx: &mut Cx<'_>, place: usize, word: Word) {
        self.owing.entry(place).or_insert(cx.now);
        self.tell(cx, place, word);
    }

    fn tell(&self, cx: &mut Cx<'_>, place: usize, word: Word) {
        let Some(member) = self.plan.members.get(place) else { return };
        let said = QuorumMessage { quorum: self.id, node: cx.config.node, term: self.term, word };
        cx.tell(Local::Say { to: member.node, message: Box::new(Message::Quorum(Box::new(said))) });
    }

    /// A member spoke. `steps` are those whose states this node has persisted.
    pub(crate) fn on_message(&mut self, cx: &mut Cx<'_>, said: &QuorumMessage, steps: &[Step]) -> Turn {
        let Some(place) = self.plan.place(&said.node).filter(|place| *place != self.stand.place) else {
            cx.event(Event::Rejected { reject: PeerFault::OtherQuorum { node: said.node } });
            return Turn::On;
        };
        self.owing.remove(&place);
        if said.quorum != self.id {
            // It does not know yet that the quorum goes on under another name, or this node does not; plans by hand do not
            // change.
            if cx.config.plan.is_some() {
                cx.event(Event::Rejected { reject: PeerFault::OtherQuorum { node: said.node } });
            }
            return Turn::On;
        }
        match &said.word {
            Word::Ready { steps: theirs } if self.stand.is_first() => {
                self.on_ready(cx, place, said.term, theirs, steps)
            }
            Word::Gather if place == 0 && said.term > self.term => {
                self.halt(cx);
                (self.term, self.phase) = (said.term, Phase::Waiting);
                self.report(cx, steps);
                Turn::Halt
            }
            Word::Gather if place == 0 && said.term == self.term && self.phase == Phase::Waiting => {
                self.report(cx, steps);
                Turn::On
            }
            Word::Go { step } if place == 0 && said.term == self.term && self.phase == Phase::Waiting => {
                self.phase = Phase::Going(*step);
                self.moved = true;
                cx.event(Event::QuorumBegan { quorum: self.id, term: self.term, step: *step });
                Turn::Go(*step)
            }
            // Who spoke of a term that is over, or of one that this node does not know yet, is heard when it speaks again.
            word if said.term == self.term && self.going().is_some() => {
                self.on_word(cx, place, word);
                Turn::On
            }
            Word::Lacks { .. } => {
                self.tell(cx, place, Word::Here);
                Turn::On
            }
            Word::Ready { .. }
            | Word::Gather
            | Word::Go { .. }
            | Word::Forward { .. }
            | Word::Backward { .. }
            | Word::Done { .. }
            | Word::Void { .. }
            | Word::Here => Turn::On,
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_>, place: usize, term: u64, theirs: &[Step], steps: &[Step]) -> Turn {
        let members = self.stand.members;
        match &mut self.phase {
            Phase::Gathering(reports) if term == self.term => {
                reports.insert(place, theirs.to_vec());
                if reports.len() == members {
                    return self.settle(cx);
                }
                self.tell(cx, place, Word::Here);
                Turn::On
            }
            Phase::Gathering(_) => {
                self.tell(cx, place, Word::Gather);
                Turn::On
            }
            Phase::Going(step) if term == self.term => {
                let step = *step;
                self.tell(cx, place, Word::Go { step });
                Turn::On
            }
            // It was away, or lost what it had: all begin anew.
            Phase::Going(_) => self.gather(cx, steps),
            Phase::Waiting => {
                self.tell(cx, place, Word::Here);
                Turn::On
            }
        }
    }

    fn on_word(&mut self, cx: &mut Cx<'_>, place: usize, word: &Word) {
        let source = |way| self.stand.source(way) == Some(place);
        match word {
            Word::Forward { batch, index, blob } if source(Way::Forward) => {
                self.announced(*batch, Way::Forward, *index, *blob);
            }
            Word::Backward { batch, index, blob } if source(Way::Backward) => {
                // Whoever has the gradient has had the stream.
                if self.announced(*batch, Way::Backward, *index, *blob) {
                    let spent = self.flow(*batch).and_then(|flow| flow.let_go(Way::Forward, *index));
                    self.litter.extend(spent);
                }
            }
            Word::Done { batch, loss_micro, tokens, squared_norms } => {
                let stages = self.plan.members.get(place).map_or(0, |member| member.stages.iter().count());
                if squared_norms.len() != stages {
                    let node = self.plan.members.get(place).map(|member| member.node).unwrap_or(cx.config.node);
                    return cx.event(Event::Rejected { reject: PeerFault::OtherQuorum { node } });
                }
                let squared_norms: Vec<F32> = squared_norms.to_vec();
                let share = Share { loss_micro: *loss_micro, tokens: *tokens, squared_norms };
                if let Some(flow) = self.flow(*batch) {
                    flow.hear(place, share);
                    self.moved = true;
                }
            }
            Word::Void { batch } => {
                if let Some(flow) = self.flow(*batch) {
                    flow.cancel();
                    self.moved = true;
                }
            }
            Word::Lacks { batch, forward, backward, done } => {
                self.tell(cx, place, Word::Here);
                self.say_again(cx, place, *batch, (*forward, *backward, *done));
            }
            Word::Forward { .. }
            | Word::Backward { .. }
            | Word::Ready { .. }
            | Word::Gather
            | Word::Go { .. }
            | Word::Here => {}
        }
    }

    fn announced(&mut self, batch: BatchId, way: Way, index: u32, blob: Hash) -> bool {
        let news = self.flow(batch).is_some_and(|flow| flow.announce(way, index, blob));
        self.moved |= news;
        news
    }

    /// What is known of a batch: the current one, the one before, or the next, which begins with what others say of it.
    fn flow(&mut self, batch: BatchId) -> Option<&mut Flow> {
        let newest = self.flows.back().map(|flow| flow.batch)?;
        if batch == newest.next() && self.flows.len() <= 2 {
            self.flows.push_back(Flow::new(batch, self.stand, self.sequences));
        }
        self.flows.iter_mut().find(|flow| flow.batch == batch)
    }

    /// Begins a batch; those before the last one are forgotten.
    pub(crate) fn begin(&mut self, batch: BatchId) {
        if self.flows.iter().all(|flow| flow.batch != batch) {
            self.flows.push_back(Flow::new(batch, self.stand, self.sequences));
        }
        while self.flows.front().is_some_and(|flow| flow.batch.0.saturating_add(BATCHES_KEPT) < batch.0) {
            let Some(flow) = self.flows.pop_front() else { break };
            self.forget(&flow);
        }
        self.moved = true;
    }

    /// The batch under way.
    pub(crate) fn current(&mut self, batch: BatchId) -> Option<&mut Flow> {
        self.flows.iter_mut().find(|flow| flow.batch == batch)
    }

    /// Asks for what neighbours have announced.
    pub(crate) fn fetch(&mut self, cx: &mut Cx<'_>) {
        for flow in &mut self.flows {
            while flow.fetching() < FETCHES_MAX && !flow.is_void() {
                let Some((way, index, hash)) = flow.wanted() else { break };
                let member = self.stand.source(way).and_then(|place| self.plan.members.get(place));
                let Some(member) = member else { break };
                let id = cx.requests.issue();
                flow.asked(way, index, id);
                cx.out.push(Output::Fetch { id, hash, from: member.node, keep: false });
            }
        }
    }

    /// Notes blobs that nobody needs any more.
    pub(crate) fn discard(&mut self, hashes: impl IntoIterator<Item = Hash>) {
        self.litter.extend(hashes);
    }

    /// Drops some of them.
    pub(crate) fn sweep(&mut self, cx: &mut Cx<'_>) {
        for hash in self.litter.drain(..self.litter.len().min(DROPS_A_STEP)) {
            cx.out.push(Output::Drop { hash });
        }
    }

    /// A fetch ended.
    pub(crate) fn on_fetched(&mut self, cx: &mut Cx<'_>, id: RequestId, result: Result<(), FetchFault>) {
        let arrived = result.is_ok();
        if self.flows.iter_mut().any(|flow| flow.fetched(id, arrived)) {
            self.moved |= arrived;
        } else if let Some(hash) = self.strays.remove(&id) {
            self.litter.extend(arrived.then_some(hash));
        } else {
            cx.requests.unknown = cx.requests.unknown.saturating_add(1);
        }
    }

    /// Tells a neighbour what was made for it.
    pub(crate) fn pass(&self, cx: &mut Cx<'_>, batch: BatchId, way: Way, index: u32, blob: Hash) {
        let Some(place) = self.stand.target(way) else { return };
        let word = match way {
            Way::Forward => Word::Forward { batch, index, blob },
            Way::Backward => Word::Backward { batch, index, blob },
        };
        self.tell(cx, place, word);
    }

    /// Tells all that this node's part of a batch is done, or that the batch is void.
    pub(crate) fn tell_share(&mut self, cx: &mut Cx<'_>, batch: BatchId) {
        self.moved = true;
        let word = self.flows.iter().find(|flow| flow.batch == batch).and_then(word_of);
        if let Some(word) = word {
            self.tell_all(cx, &word);
        }
    }

    /// Says to a member again what it lacks.
    fn say_again(&self, cx: &mut Cx<'_>, place: usize, batch: BatchId, (forward, backward, done): (u32, u32, bool)) {
        let Some(flow) = self.flows.iter().find(|flow| flow.batch == batch) else { return };
        for (way, from) in [(Way::Forward, forward), (Way::Backward, backward)] {
            if self.stand.target(way) == Some(place) {
                let made: Vec<_> = flow.made_from(way, from).take(AGAIN_MAX).collect();
                made.into_iter().for_each(|(index, blob)| self.pass(cx, batch, way, index, blob));
            }
        }
        if (done || flow.is_void())
            && let Some(word) = word_of(flow)
        {
            self.tell(cx, place, word);
        }
    }

    /// Looks whether things move; if not, says what is missing. Tells whenever other members than before are silent.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>, batch: Option<BatchId>, steps: &[Step]) {
        cx.arm(TimerKind::Quorum, Some(cx.now.after_ms(PATIENCE_MS)));
        if !core::mem::take(&mut self.moved) {
            self.complain(cx, batch, steps);
        }
        let late = |since: &Time| cx.now.ms_since(*since) >= LOST_MS;
        let late = self.owing.iter().filter(|(_, since)| late(since));
        let silent = late.filter_map(|(place, _)| self.plan.members.get(*place)).map(|member| member.node).collect();
        if silent != self.silent {
            self.silent.clone_from(&silent);
            cx.tell(Local::Silent(silent));
        }
    }

    /// Says what is missing.
    fn complain(&mut self, cx: &mut Cx<'_>, batch: Option<BatchId>, steps: &[Step]) {
        match &mut self.phase {
            Phase::Waiting if self.stand.is_first() => {}
            Phase::Waiting => {
                self.owing.entry(0).or_insert(cx.now);
                self.report(cx, steps);
            }
            Phase::Gathering(reports) => {
                reports.insert(self.stand.place, steps.to_vec());
                let silent: Vec<usize> = (0..self.stand.members).filter(|place| !reports.contains_key(place)).collect();
                silent.into_iter().for_each(|place| self.ask(cx, place, Word::Gather));
            }
            Phase::Going(_) => {
                let flow = batch.and_then(|batch| self.flows.iter().find(|flow| flow.batch == batch));
                let complaints = flow.map(|flow| self.complaints(flow)).unwrap_or_default();
                complaints.into_iter().for_each(|(place, word)| self.ask(cx, place, word));
            }
        }
    }

    /// What is missing from whom.
    fn complaints(&self, flow: &Flow) -> Vec<(usize, Word)> {
        let others = (0..self.stand.members).filter(|place| *place != self.stand.place);
        let complaint = |place: usize| {
            let lacks =
                |way: Way| flow.lacks(way).filter(|_| self.stand.source(way) == Some(place)).unwrap_or(self.sequences);
            let (forward, backward, done) = (lacks(Way::Forward), lacks(Way::Backward), !flow.knows(place));
            let missing = done || forward.min(backward) < self.sequences;
            missing.then_some((place, Word::Lacks { batch: flow.batch, forward, backward, done }))
        };
        others.filter_map(complaint).collect()
    }
}

/// What this node has to say of its part of a batch.
fn word_of(flow: &Flow) -> Option<Word> {
    let batch = flow.batch;
    if flow.is_void() {
        return Some(Word::Void { batch });
    }
    let share = flow.share()?;
    let squared_norms = List::try_from(share.squared_norms.clone()).ok()?;
    Some(Word::Done { batch, loss_micro: share.loss_micro, tokens: share.tokens, squared_norms })
}
