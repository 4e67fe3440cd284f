//! Training as a member of a quorum: what the trainer does alone in one job, it does here a sequence at a time, with what comes
//! from its neighbours (PROTOCOL §4). Steps, snapshots and stops are those of the solo trainer, so a quorum of any size makes
//! of the model what one node would.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use neuroshard_proto::chain::Action;
use neuroshard_proto::{
    BatchOutcome, Commitment, Fault, Job, LayerRange, List, Mode, POSTED_MAX, Passed, Position, QuorumMessage,
    RequestId, Returned, Step, Turned, VoidReason,
};

use super::flow::{Task, Way};
use super::forming::Reached;
use super::quorum::{Assignment, Quorum, Turn};
use super::solo::{Phase, Solo, snapshots_kept, token_weight};
use crate::config::Config;
use crate::count;
use crate::cx::{Cx, Local};
use crate::io::{FetchFault, JobKind, Output};
use crate::journal::Progress;
use crate::ledger::Ledger;
use crate::sampling::Sampler;

/// Blobs dropped when a quorum ends with none after it; a host forgets the others when it ends.
const DROPS_MAX: usize = 32;
/// A post that is not on the ledger after so long was lost.
const POST_AGAIN_MS: u64 = 20_000;
/// Batches that may end in one step: those that were void elsewhere.
const BATCHES_A_STEP: usize = 3;

impl Solo {
    /// Whether the mode in force is one in which this part trains.
    pub(super) fn trains(&self) -> bool {
        match self.mode {
            Some(Mode::Solo) => self.quorum.is_none(),
            Some(Mode::Pipeline) => self.quorum.is_some(),
            Some(Mode::Async | Mode::Data | Mode::Verify | Mode::Inference | Mode::Idle) | None => false,
        }
    }

    /// The stages that this node trains: its quorum's member's, or all.
    pub(super) fn range(&self, config: &Config) -> LayerRange {
        self.quorum.as_ref().map_or(config.genesis.model.all_layers(), |quorum| quorum.range())
    }

    /// The step of the state that is being taken up.
    pub(super) const fn taken_up(&self) -> Step {
        match self.phase {
            Phase::Preparing(_, taken) => taken.step,
            Phase::Absent | Phase::Ready | Phase::Stopped => Step(0),
        }
    }

    /// The step to go on from: the one that the quorum agreed on, or the newest that is known. `None` while there is none yet.
    pub(super) fn wanted_step(&self, config: &Config) -> Option<Step> {
        match &self.quorum {
            Some(quorum) => quorum.going(),
            // Nobody begins anew while the network knows of more.
            None => self.steps(config).last().copied().filter(|step| *step > Step(0) || !self.holding.knows_more()),
        }
    }

    /// How this node's training stands to what was posted.
    pub(crate) fn reached(&self, config: &Config, ledger: &Ledger) -> Reached {
        let all = config.genesis.model.all_layers();
        let posted = ledger.anchor().map(|anchor| anchor.step).unwrap_or_default();
        let saved = self.shelf.newest(all).map(|state| state.snapshot.step).unwrap_or_default();
        let unsaved = self.quorum.is_none() && self.phase == Phase::Ready && self.step > saved;
        Reached { step: self.step, ahead: saved > posted || unsaved, unsaved }
    }

    /// The steps from which this node could go on, in order: those whose states are here, or with others.
    fn steps(&self, config: &Config) -> Vec<Step> {
        let range = self.range(config);
        let saved = self.shelf.states().iter().filter(|state| state.range == range).map(|state| state.snapshot.step);
        let posted = self.holding.steps();
        let steps: BTreeSet<Step> = saved.chain(posted).chain([Step(0)]).collect();
        steps.into_iter().collect()
    }

    /// Forgets the state that could not be taken up, for an older one; `None` if there is none.
    pub(super) fn distrust(&mut self, cx: &mut Cx<'_>) -> Option<Step> {
        let (range, damaged) = (self.range(cx.config), self.wanted_step(cx.config)?);
        let steps = self.steps(cx.config);
        let older = steps.iter().rev().find(|step| **step < damaged).copied()?;
        if older == Step(0) && self.shelf.at(range, older).is_none() {
            // Beginning anew is for the operator to decide.
            return None;
        }
        self.shelf.distrust(range, damaged);
        self.lose_quorum(cx);
        Some(older)
    }

    /// This node became a member of a quorum, of another one, or of none.
    pub(crate) fn on_assigned(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, assignment: Option<Assignment>) {
        if self.phase == Phase::Stopped {
            return;
        }
        let renewed = match (&mut self.quorum, &assignment) {
            (Some(quorum), Some(assignment)) => quorum.renew(assignment),
            (old, new) => old.is_none() && new.is_none(),
        };
        if renewed {
            return;
        }
        self.cancel_all(cx);
        self.phase = Phase::Absent;
        let litter = self.quorum.take().map(|quorum| quorum.into_litter(cx)).unwrap_or_default();
        self.holding.give_up(cx, &self.shelf);
        self.quorum = assignment.and_then(|assignment| Quorum::new(cx.config, assignment)).map(Box::new);
        match &mut self.quorum {
            Some(quorum) => {
                if self.holding.knows_more() {
                    quorum.advance();
                }
                quorum.inherit(litter);
            }
            None => litter.into_iter().take(DROPS_MAX).for_each(|hash| cx.out.push(Output::Drop { hash })),
        }
        self.on_quorum_mode(cx);
        self.go_on(cx, sampler);
    }

    /// The agreed world has moved on: members may have posted what they persisted.
    pub(crate) fn on_head(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, ledger: &Ledger) {
        self.posted = ledger.posted(&cx.config.node, self.range(cx.config));
        if self.holding.learn(cx.config, ledger) {
            self.keep_copies(cx);
        }
        if self.holding.knows_more()
            && let Some(quorum) = &mut self.quorum
        {
            quorum.advance();
        }
        self.post(cx);
        self.go_on(cx, sampler);
    }

    /// Gives others what this node persisted in its quorum, unless that is done.
    pub(super) fn post(&mut self, cx: &mut Cx<'_>) {
        let range = self.range(cx.config);
        let (Some(quorum), Some(state)) = (&self.quorum, self.shelf.newest(range)) else { return };
        let step = state.snapshot.step;
        let told = self.told.is_some_and(|(told, at)| told >= step && cx.now.ms_since(at) < POST_AGAIN_MS);
        if cx.config.plan.is_some() || step == Step(0) || self.posted.is_some_and(|posted| posted >= step) || told {
            return;
        }
        let Progress { batch, tokens, voids, .. } = state.progress;
        let (quorum, position) = (quorum.id(), Position { batch, tokens, voids });
        let part = count::place(POSTED_MAX);
        for (first, stages) in range.iter().step_by(part).zip(state.snapshot.layers.chunks(part)) {
            let Ok(stages) = List::try_from(stages.to_vec()) else { continue };
            let action = Action::PostStages { quorum, step, position, first, stages };
            cx.tell(Local::Act { action: Box::new(action), after: self.shelf.record() });
        }
        self.told = Some((step, cx.now));
    }

    fn keep_copies(&mut self, cx: &mut Cx<'_>) {
        let Some(quorum) = &self.quorum else { return };
        for range in quorum.copied() {
            self.holding.copy(cx, &self.shelf, range);
        }
    }

    /// Takes what was fetched.
    fn take_in(&mut self, cx: &mut Cx<'_>) {
        let Some((own, state)) = self.holding.go_on(cx) else { return };
        if own {
            self.shelf.put(cx, state, snapshots_kept(cx.config), self.holding.anchor());
        } else {
            self.shelf.copy(cx, state);
            self.keep_copies(cx);
        }
    }

    pub(super) fn on_quorum_mode(&mut self, cx: &mut Cx<'_>) {
        let steps = self.steps(cx.config);
        let trains = self.trains();
        let Some(quorum) = &mut self.quorum else { return };
        if trains {
            let turn = quorum.present(cx, &steps);
            self.turn(cx, turn);
        }
    }

    /// This node has lost what it had in the executor: the quorum begins anew.
    pub(super) fn lose_quorum(&mut self, cx: &mut Cx<'_>) {
        let steps = self.steps(cx.config);
        if let Some(quorum) = &mut self.quorum {
            let turn = quorum.present(cx, &steps);
            self.turn(cx, turn);
        }
    }

    pub(super) fn leave_quorum(&mut self, cx: &mut Cx<'_>) {
        if let Some(quorum) = &mut self.quorum {
            quorum.leave(cx);
        }
    }

    pub(crate) fn on_said(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, said: &QuorumMessage) {
        let steps = self.steps(cx.config);
        if !self.trains() || self.phase == Phase::Stopped {
            return;
        }
        let Some(quorum) = &mut self.quorum else { return };
        let turn = quorum.on_message(cx, said, &steps);
        self.turn(cx, turn);
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_fetched(
        &mut self,
        cx: &mut Cx<'_>,
        sampler: &Sampler,
        id: RequestId,
        result: Result<(), FetchFault>,
    ) {
        let taken = self.holding.on_fetched(cx, id, result);
        if taken && self.holding.despair(cx, &self.shelf) {
            self.lose_quorum(cx);
        }
        if !taken {
            match &mut self.quorum {
                Some(quorum) => quorum.on_fetched(cx, id, result),
                None => cx.requests.unknown = cx.requests.unknown.saturating_add(1),
            }
        }
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_quorum_timer(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        self.holding.forgive(cx.now);
        let (steps, batch) = (self.steps(cx.config), self.train.map(|(_, batch)| batch));
        if self.trains()
            && self.phase != Phase::Stopped
            && let Some(quorum) = &mut self.quorum
        {
            quorum.on_timer(cx, batch, &steps);
        }
        self.go_on(cx, sampler);
    }

    /// Does what the quorum demands of the state.
    fn turn(&mut self, cx: &mut Cx<'_>, turn: Turn) {
        let at = match turn {
            Turn::On => return,
            Turn::Halt => None,
            Turn::Go(step) => Some(step),
        };
        self.cancel_all(cx);
        self.phase = Phase::Absent;
        if let Some(step) = at {
            self.shelf.go_back(cx, step, self.holding.anchor());
        }
    }

    /// Asks for whatever comes next.
    pub(super) fn go_on(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        if self.phase != Phase::Stopped {
            self.take_in(cx);
        }
        self.advance(cx, sampler);
        self.drive(cx, sampler);
    }

    /// Gives the executor what it can do of the batch under way, and asks for what it will need.
    pub(super) fn drive(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        if let Some(quorum) = &mut self.quorum {
            quorum.sweep(cx);
            quorum.fetch(cx);
        }
        for _ in 0..BATCHES_A_STEP {
            let Some(outcome) = self.drive_batch(cx, sampler) else { return };
            self.on_batch(cx, sampler, &outcome);
            self.advance(cx, sampler);
        }
    }

    /// Does what can be done of the batch under way; what it came to, if it is over.
    fn drive_batch(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) -> Option<BatchOutcome> {
        let (Some(quorum), Some((None, batch))) = (&mut self.quorum, self.train) else { return None };
        if self.phase != Phase::Ready {
            return None;
        }
        // A step that is under way is done when the executor comes to these jobs.
        let step = if self.stepping.is_some() { self.step.next() } else { self.step };
        let training = cx.config.genesis.training;
        let flow = quorum.current(batch)?;
        while let Some(task) = flow.next_task() {
            let sequence = training.sequence;
            let job = match task {
                Task::Forward { index, input, fresh } => {
                    let (micro, sample) = (flow.micro(index), sampler.sample(batch, index)?);
                    Job::Forward { step, micro, fresh, sequence, sample, input }
                }
                Task::Turn { index, input, fresh } => {
                    let (micro, sample) = (flow.micro(index), sampler.sample(batch, index)?);
                    Job::Turn { step, micro, fresh, sequence, sample, input }
                }
                Task::Backward { index, gradient } => Job::Backward { step, micro: flow.micro(index), gradient },
                Task::Norms => Job::Norms { step, token_weight: token_weight(cx.config) },
            };
            let id = cx.compute(job);
            flow.given(id, task);
        }
        if self.stepping.is_some() {
            return None;
        }
        let outcome = if flow.is_void() {
            BatchOutcome::Void(VoidReason::OutOfRange)
        } else {
            let share = flow.outcome()?;
            let squared_norms = List::try_from(share.squared_norms).ok()?;
            BatchOutcome::Done { loss_micro: share.loss_micro, tokens: share.tokens, squared_norms }
        };
        let open: Vec<RequestId> = flow.jobs().collect();
        open.into_iter().for_each(|id| cx.cancel(id));
        Some(outcome)
    }

    /// A part of a batch is done.
    pub(super) fn on_flow(&mut self, cx: &mut Cx<'_>, id: RequestId, job: JobKind, answer: &Commitment) {
        let (Some(quorum), Some((None, batch))) = (&mut self.quorum, self.train) else { return };
        let Some(flow) = quorum.current(batch) else { return };
        let Some((task, in_order)) = flow.answered(id) else { return };
        if !in_order {
            return self.reload(cx, job, &Fault::device("the answer to an earlier job never came"));
        }
        let (spent, made) = match (task, answer) {
            (Task::Forward { index, .. }, Commitment::Forward(Passed::Done { output })) => {
                flow.make(Way::Forward, index, *output);
                (flow.used(Way::Forward, index), Some((Way::Forward, index, *output)))
            }
            (Task::Turn { index, .. }, Commitment::Turn(Turned::Done { loss_micro, tokens, gradient })) => {
                flow.add_loss(*loss_micro, *tokens);
                gradient.iter().for_each(|blob| flow.make(Way::Backward, index, *blob));
                (flow.used(Way::Forward, index), gradient.map(|blob| (Way::Backward, index, blob)))
            }
            (Task::Backward { index, .. }, Commitment::Backward(Returned::Done { gradient })) => {
                gradient.iter().for_each(|blob| flow.make(Way::Backward, index, *blob));
                (flow.used(Way::Backward, index), gradient.map(|blob| (Way::Backward, index, blob)))
            }
            (Task::Norms, Commitment::Norms { squared_norms: Some(norms), .. }) => {
                flow.conclude(norms.to_vec());
                quorum.tell_share(cx, batch);
                (None, None)
            }
            // A value left its range, or the executor answered something else than it was asked: nothing of it counts.
            _ => {
                flow.cancel();
                quorum.tell_share(cx, batch);
                (None, None)
            }
        };
        quorum.discard(spent);
        if let Some((way, index, blob)) = made {
            quorum.pass(cx, batch, way, index, blob);
        }
    }
}
