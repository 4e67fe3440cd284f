//! Training as a member of a quorum: what the trainer does alone in one job, it does here a sequence at a time, with what comes
//! from its neighbours (PROTOCOL §4). Steps, snapshots and stops are those of the solo trainer, so a quorum of any size makes
//! of the model what one node would.

use alloc::vec::Vec;

use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, Job, List, Mode, Passed, QuorumMessage, RequestId, Returned, Sample, Step,
    Turned, VoidReason,
};

use super::flow::{Task, Way};
use super::quorum::Turn;
use super::solo::{Phase, Solo, token_weight};
use crate::cx::Cx;
use crate::io::FetchFault;
use crate::sampling::Sampler;

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

    /// The step of the state that is taken up: the newest persisted one.
    pub(super) fn taken_up(&self) -> Step {
        self.states.last().map(|state| state.snapshot.step).unwrap_or_default()
    }

    /// The steps from which this node could go on.
    fn steps(&self) -> Vec<Step> {
        let saved = self.states.iter().map(|state| state.snapshot.step);
        [Step(0)].into_iter().chain(saved.filter(|step| *step != Step(0))).collect()
    }

    pub(super) fn on_quorum_mode(&mut self, cx: &mut Cx<'_>) {
        let steps = self.steps();
        let trains = self.trains();
        let Some(quorum) = &mut self.quorum else { return };
        if trains {
            let turn = quorum.present(cx, &steps);
            self.turn(cx, turn);
        }
    }

    /// This node has lost what it had in the executor: the quorum begins anew.
    pub(super) fn lose_quorum(&mut self, cx: &mut Cx<'_>) {
        let steps = self.steps();
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
        let steps = self.steps();
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
        match &mut self.quorum {
            Some(quorum) => quorum.on_fetched(cx, id, result),
            None => cx.requests.unknown = cx.requests.unknown.saturating_add(1),
        }
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_quorum_timer(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        let (steps, batch) = (self.steps(), self.train.map(|(_, batch)| batch));
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
        if let Some(step) = at
            && self.taken_up() > step
        {
            // What came after is trained again, to the same bits.
            let states = self.states.iter().filter(|state| state.snapshot.step <= step).cloned().collect();
            self.keep(cx, states);
        }
    }

    /// Asks for whatever comes next.
    pub(super) fn go_on(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
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
                    let (micro, sample) = (flow.micro(index), sample_of(sampler, batch, index)?);
                    Job::Forward { step, micro, fresh, sequence, sample, input }
                }
                Task::Turn { index, input, fresh } => {
                    let (micro, sample) = (flow.micro(index), sample_of(sampler, batch, index)?);
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
    pub(super) fn on_flow(&mut self, cx: &mut Cx<'_>, id: RequestId, answer: &Commitment) {
        let (Some(quorum), Some((None, batch))) = (&mut self.quorum, self.train) else { return };
        let Some(flow) = quorum.current(batch) else { return };
        let Some(task) = flow.answered(id) else { return };
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

/// The sequence of this number in a batch.
fn sample_of(sampler: &Sampler, batch: BatchId, index: u32) -> Option<Sample> {
    let samples = sampler.batch(batch);
    let place = usize::try_from(index).unwrap_or(usize::MAX);
    samples.get(place).copied()
}
