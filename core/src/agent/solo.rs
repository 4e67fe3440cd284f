//! Training the whole model alone (PROTOCOL §2 rule 1, §4): draw a batch, have its gradients computed, step, and persist
//! the state now and then.
//!
//! One batch is one step here. Jobs are done in the order they are asked for, so the next batch is asked for together with
//! the step before it unless something is due in between: a snapshot, an evaluation, an end. What the model becomes depends
//! on the genesis alone, never on when snapshots, evaluations or crashes happen.
//!
//! Snapshots are taken every 30 s or 100 steps, whichever comes first, but so rarely that they cost at most 5 % of
//! the time. A snapshot counts from the moment its journal record is durable; only then are older blobs dropped.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;

use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, F32, Fault, Hash, Job, Mode, RequestId, Snapshot, Step, Time, mutant,
};
use serde::{Deserialize, Serialize};

use crate::agent::answer::{answer_name, contradiction};
use crate::agent::holding::Holding;
use crate::agent::pace::Pace;
use crate::agent::quorum::Quorum;
use crate::agent::shelf::Shelf;
use crate::config::Config;
use crate::cx::Cx;
use crate::io::{Command, Event, JobKind, Output, Recovery, TimerKind};
use crate::journal::{Progress, SNAPSHOTS_MAX, SavedState};
use crate::sampling::Sampler;
use crate::schedule::schedule;

/// Void batches in a row after which a model has lost its way.
const VOIDS_IN_A_ROW_MAX: u32 = 100;
/// Returns to the last snapshot without a new one in between.
const RELOADS_MAX: u32 = 3;
/// Wait before a failed job is tried again; doubles up to the maximum.
const RETRY_MS: u64 = 10_000;
const RETRY_MS_MAX: u64 = 600_000;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Solo {
    pub(super) mode: Option<Mode>,
    pub(super) phase: Phase,
    /// Steps the resident state has taken.
    pub(super) step: Step,
    progress: Progress,
    voids_in_a_row: u32,
    /// The batch under way, and the job that does all of it; a quorum does it in many.
    pub(super) train: Option<(Option<RequestId>, BatchId)>,
    pub(super) stepping: Option<Stepping>,
    aside: Option<(RequestId, Time)>,
    pub(super) shelf: Shelf,
    wish: Wish,
    limit_told: bool,
    reloads: u32,
    retry_ms: u64,
    /// A state is not asked for before this.
    prepare_at: Time,
    snapshots: Pace,
    evaluations: Pace,
    /// Since when training has run without a pause.
    running_since: Option<Time>,
    /// The members this node trains with.
    pub(super) quorum: Option<Box<Quorum>>,
    pub(super) holding: Holding,
    /// The newest step that the ledger has of this node's stages, and the one that was last told to it, and when.
    pub(super) posted: Option<Step>,
    pub(super) told: Option<(Step, Time)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// The executor holds no state.
    Absent,
    /// The executor was asked to make or load one.
    Preparing(RequestId, Taken),
    /// The executor holds the state at [`Solo::step`].
    Ready,
    /// Nothing more is asked for.
    Stopped,
}

/// The state that an executor is asked to take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    pub(super) step: Step,
    pub(super) progress: Progress,
}

/// What the operator waits for, the stronger wish last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Wish {
    None,
    Save,
    Stop,
}

/// An optimizer step under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stepping {
    id: RequestId,
    batch: BatchId,
    loss_micro: i64,
    tokens: u64,
    rate: F32,
}

impl Solo {
    pub(crate) fn new(shelf: Shelf, quorum: Option<Quorum>) -> Self {
        let quorum = quorum.map(Box::new);
        Self {
            mode: None,
            phase: Phase::Absent,
            step: Step(0),
            progress: Progress::default(),
            voids_in_a_row: 0,
            train: None,
            stepping: None,
            aside: None,
            shelf,
            wish: Wish::None,
            limit_told: false,
            reloads: 0,
            retry_ms: RETRY_MS,
            prepare_at: Time::ZERO,
            snapshots: Pace::default(),
            evaluations: Pace::default(),
            running_since: None,
            quorum,
            holding: Holding::default(),
            posted: None,
            told: None,
        }
    }

    /// Every blob that a durable fact names.
    pub(crate) fn pinned(&self) -> BTreeSet<Hash> {
        self.shelf.pinned()
    }

    /// The last persisted step.
    fn saved(&self) -> Option<Step> {
        self.shelf.saved()
    }

    pub(crate) fn step(&self) -> Step {
        self.step
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    pub(crate) fn states(&self) -> &[SavedState] {
        self.shelf.states()
    }

    /// The newest state of the whole model that is here.
    pub(crate) fn whole(&self, config: &Config) -> Option<Snapshot> {
        self.shelf.whole(&config.genesis.model)
    }

    pub(crate) fn on_mode(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, mode: Mode) {
        self.mode = Some(mode);
        self.on_quorum_mode(cx);
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_command(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, command: Command) {
        match command {
            Command::Save => self.on_save(cx),
            Command::Stop => self.wish = Wish::Stop,
            Command::Submit(_) | Command::Leave => {}
        }
        self.advance(cx, sampler);
    }

    /// Writes down again which states are persisted, so that older records may go.
    pub(crate) fn on_rewrite(&mut self, cx: &mut Cx<'_>) {
        self.shelf.rewrite(cx);
    }

    pub(crate) fn on_retry(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_answer(
        &mut self,
        cx: &mut Cx<'_>,
        sampler: &Sampler,
        id: RequestId,
        job: JobKind,
        result: Result<Commitment, Fault>,
    ) {
        match result {
            Ok(answer) => match contradiction(&answer, self.range(cx.config), self.step, self.taken_up()) {
                None => self.on_done(cx, sampler, id, job, &answer),
                Some(fault) => self.on_fault(cx, job, &fault),
            },
            Err(fault) => self.on_fault(cx, job, &fault),
        }
        self.go_on(cx, sampler);
    }

    pub(crate) fn on_late(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, job: JobKind) {
        cx.event(Event::JobLate { job });
        self.reload(cx, job, &Fault::device("no answer came before the deadline"));
        self.advance(cx, sampler);
    }

    fn on_save(&mut self, cx: &mut Cx<'_>) {
        match self.shelf.newest(self.range(cx.config)) {
            // Nothing is newer than what is saved: say so once more, when it is durable.
            Some(state) if self.phase == Phase::Ready && state.snapshot.step == self.step => {
                self.shelf.tell(cx, saved_event(&state.snapshot));
            }
            Some(_) | None => self.wish = self.wish.max(Wish::Save),
        }
    }

    /// Asks for whatever comes next, if nothing is under way that it must wait for.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        match self.phase {
            Phase::Stopped | Phase::Preparing(..) => {}
            Phase::Absent if self.wish == Wish::Stop => self.stop(cx),
            Phase::Absent => {
                if self.trains() && cx.now >= self.prepare_at {
                    self.prepare(cx);
                }
            }
            Phase::Ready => self.advance_ready(cx, sampler),
        }
    }

    fn advance_ready(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        if self.stepping.is_some() || self.aside.is_some() {
            return;
        }
        let leaving = self.wish == Wish::Stop || !self.trains();
        if let Some((id, batch)) = self.train {
            if !leaving {
                return;
            }
            // The batch under way is given up and will be drawn again: the state is that of the last step.
            id.into_iter().for_each(|id| cx.cancel(id));
            self.train = None;
            self.leave_quorum(cx);
            if !mutant("batch lost at a stop") {
                self.progress.batch = batch;
            }
        }
        if self.limit_reached(cx.config, self.step) && !self.limit_told {
            let measures = !leaving && self.evaluates(cx.config) && self.evaluations.steps_since(self.step) > 0;
            if measures && cx.now >= self.evaluations.not_before {
                return self.evaluate(cx, sampler);
            }
            self.limit_told = true;
            self.wish = Wish::Stop;
            cx.event(Event::StepLimit { step: self.step });
        }
        if self.save_due(cx, self.step) {
            let id = cx.compute(Job::Snapshot { step: self.step });
            self.pause(cx.now, id);
        } else if self.wish == Wish::Stop {
            self.stop(cx);
        } else if !self.trains() {
            self.running_since = None;
        } else if self.evaluation_due(cx, self.step) {
            self.evaluate(cx, sampler);
        } else {
            self.ask_batch(cx, sampler, self.step);
        }
    }

    fn evaluate(&mut self, cx: &mut Cx<'_>, sampler: &Sampler) {
        let sequence = cx.config.genesis.training.sequence;
        let id = cx.compute(Job::Evaluate { step: self.step, sequence, samples: sampler.held_out() });
        self.pause(cx.now, id);
    }

    /// Notes that training waits for a job aside.
    fn pause(&mut self, now: Time, id: RequestId) {
        self.aside = Some((id, now));
        self.running_since = None;
    }

    fn ask_batch(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, step: Step) {
        let batch = self.progress.batch;
        self.progress.batch = batch.next();
        self.running_since = self.running_since.or(Some(cx.now));
        if let Some(quorum) = &mut self.quorum {
            quorum.begin(batch);
            self.train = Some((None, batch));
            return;
        }
        let (sequence, samples) = (cx.config.genesis.training.sequence, sampler.batch(batch));
        let token_weight = token_weight(cx.config);
        let id = cx.compute(Job::Train { step, batch, fresh: true, sequence, token_weight, samples });
        self.train = Some((Some(id), batch));
    }

    fn limit_reached(&self, config: &Config, step: Step) -> bool {
        config.operator.steps.is_some_and(|limit| step.0 >= limit)
    }

    fn save_due(&self, cx: &Cx<'_>, step: Step) -> bool {
        let operator = &cx.config.operator;
        let durable = self.shelf.is_durable(cx);
        let newest = self.shelf.newest(self.range(cx.config)).map(|state| state.snapshot.step);
        if newest.is_some_and(|saved| saved >= step) || step == Step(0) {
            return false;
        }
        if self.wish >= Wish::Save {
            // What the operator wants is tried now, once: a failure clears a wish to save and ends a wish to stop.
            return true;
        }
        if !self.trains() {
            return durable && cx.now >= self.snapshots.not_before;
        }
        if let Some(quorum) = &self.quorum {
            // All members persist the same steps, so that they can go back together.
            return step.0.checked_rem(quorum.snapshot_steps()) == Some(0) && cx.now >= self.snapshots.not_before;
        }
        let due = self.snapshots.steps_since(step) >= operator.snapshot_every_steps
            || self.snapshots.ms_since(cx.now) >= operator.snapshot_every_ms;
        due && durable && self.snapshots.affordable(cx.now, operator.snapshot_share)
    }

    fn evaluation_due(&self, cx: &Cx<'_>, step: Step) -> bool {
        let operator = &cx.config.operator;
        self.evaluates(cx.config)
            && self.evaluations.steps_since(step) >= operator.evaluate_every_steps
            && self.evaluations.affordable(cx.now, operator.evaluate_share)
    }

    /// Whether this node measures the held-out loss: who has all stages does.
    fn evaluates(&self, config: &Config) -> bool {
        self.range(config) == config.genesis.model.all_layers()
    }

    /// Asks for the newest persisted state, or for the first weights.
    fn prepare(&mut self, cx: &mut Cx<'_>) {
        let (model, range, seed) = (cx.config.genesis.model, self.range(cx.config), cx.config.genesis.seed);
        let Some(step) = self.wanted_step(cx.config) else { return };
        let (job, progress) = match self.shelf.at(range, step) {
            Some(state) => (Job::Load { model, range, snapshot: state.snapshot.clone() }, state.progress),
            None if step == Step(0) => (Job::Init { model, range, seed }, Progress::default()),
            None => {
                if !self.holding.take_up(cx, &self.shelf, range, step) {
                    self.lose_quorum(cx);
                }
                return;
            }
        };
        self.phase = Phase::Preparing(cx.compute(job), Taken { step, progress });
    }

    fn on_done(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, id: RequestId, job: JobKind, answer: &Commitment) {
        match (job, answer) {
            (JobKind::Benchmark, _) => {}
            (JobKind::Init | JobKind::Load, Commitment::Ready { step, root }) => self.on_ready(cx, *step, *root),
            (JobKind::Train, Commitment::Batch(outcome)) => self.on_batch(cx, sampler, outcome),
            (JobKind::Step, Commitment::Step { step, norm }) => self.on_stepped(cx, *step, *norm),
            (JobKind::Evaluate, Commitment::Evaluation { step, loss_micro, tokens }) => {
                self.finish_aside(id, |solo, started| solo.evaluations.done(*step, started, cx.now));
                if let Some(loss_micro) = *loss_micro {
                    cx.event(Event::HeldOut { step: *step, loss_micro, tokens: *tokens });
                }
            }
            (JobKind::Forward, Commitment::Forward(_))
            | (JobKind::Turn, Commitment::Turn(_))
            | (JobKind::Backward, Commitment::Backward(_))
            | (JobKind::Norms, Commitment::Norms { .. }) => self.on_flow(cx, id, job, answer),
            (JobKind::Snapshot, Commitment::Snapshot(snapshot)) => {
                self.finish_aside(id, |solo, started| solo.snapshots.done(snapshot.step, started, cx.now));
                self.on_snapshot(cx, snapshot);
            }
            (
                JobKind::Init
                | JobKind::Load
                | JobKind::Train
                | JobKind::Step
                | JobKind::Evaluate
                | JobKind::Snapshot
                | JobKind::Forward
                | JobKind::Turn
                | JobKind::Backward
                | JobKind::Norms,
                other,
            ) => self.on_fault(cx, job, &Fault::bad_job(answer_name(other))),
        }
    }

    fn finish_aside(&mut self, id: RequestId, done: impl FnOnce(&mut Self, Time)) {
        if let Some((expected, started)) = self.aside.take() {
            assert!(expected == id, "one job aside at a time");
            done(self, started);
        }
    }

    fn on_ready(&mut self, cx: &mut Cx<'_>, step: Step, root: Hash) {
        let Phase::Preparing(_, taken) = self.phase else { return };
        self.phase = Phase::Ready;
        self.step = step;
        self.progress = taken.progress;
        self.snapshots.last = Some((step, cx.now));
        self.evaluations.last = None;
        self.voids_in_a_row = 0;
        cx.event(Event::StateReady { step, root });
    }

    pub(super) fn on_batch(&mut self, cx: &mut Cx<'_>, sampler: &Sampler, outcome: &BatchOutcome) {
        if self.stepping.is_some() {
            let fault = Fault::bad_job("the executor answered a batch before the step that was asked for earlier");
            return self.on_fault(cx, JobKind::Train, &fault);
        }
        let Some((_, batch)) = self.train.take() else { return };
        match outcome {
            BatchOutcome::Done { loss_micro, tokens, squared_norms } => {
                self.voids_in_a_row = 0;
                let (step, next) = (self.step, self.step.next());
                let schedule = schedule(&cx.config.genesis.training, step);
                let (token_weight, squared_norms) = (token_weight(cx.config), squared_norms.clone());
                let id = cx.compute(Job::Step { step, token_weight, squared_norms, schedule });
                let rate = schedule.rate;
                self.stepping = Some(Stepping { id, batch, loss_micro: *loss_micro, tokens: *tokens, rate });
                let interrupted = self.wish != Wish::None
                    || !self.trains()
                    || self.limit_reached(cx.config, next)
                    || self.save_due(cx, next)
                    || self.evaluation_due(cx, next);
                if !interrupted {
                    self.ask_batch(cx, sampler, next);
                }
            }
            BatchOutcome::Void(_) => {
                self.progress.voids = self.progress.voids.saturating_add(1);
                self.voids_in_a_row = self.voids_in_a_row.saturating_add(1);
                cx.event(Event::BatchVoid { step: self.step, batch, voids: self.progress.voids });
                if self.voids_in_a_row >= VOIDS_IN_A_ROW_MAX {
                    cx.event(Event::Diverged { step: self.step, voids: self.progress.voids });
                    self.stop(cx);
                }
            }
        }
    }

    fn on_stepped(&mut self, cx: &mut Cx<'_>, step: Step, norm: F32) {
        let Some(stepping) = self.stepping.take() else { return };
        if step != self.step.next() {
            return self.reload(cx, JobKind::Step, &Fault::WrongStep { expected: self.step.next(), at: Some(step) });
        }
        self.step = step;
        self.progress.tokens = self.progress.tokens.saturating_add(stepping.tokens);
        if let Some(since) = self.running_since {
            self.progress.trained_ms = self.progress.trained_ms.saturating_add(cx.now.ms_since(since));
            self.running_since = Some(cx.now);
        }
        let Stepping { batch, loss_micro, tokens, rate, .. } = stepping;
        cx.event(Event::Stepped { step, batch, loss_micro, tokens, norm, rate });
    }

    fn on_snapshot(&mut self, cx: &mut Cx<'_>, snapshot: &Snapshot) {
        if self.wish == Wish::Save {
            self.wish = Wish::None;
        }
        let state = SavedState { range: self.range(cx.config), snapshot: snapshot.clone(), progress: self.progress };
        self.reloads = 0;
        self.retry_ms = RETRY_MS;
        let record = self.shelf.put(cx, state, snapshots_kept(cx.config), self.holding.anchor());
        cx.after(record, Output::Event(saved_event(snapshot)));
        self.post(cx);
    }

    fn on_fault(&mut self, cx: &mut Cx<'_>, job: JobKind, fault: &Fault) {
        let lost = match fault {
            Fault::Device { .. } | Fault::WrongStep { .. } | Fault::BadJob { .. } => true,
            Fault::BlobMissing { .. }
            | Fault::BlobDamaged { .. }
            | Fault::RootMismatch { .. }
            | Fault::DiskFull { .. }
            | Fault::Store { .. } => false,
        };
        match job {
            JobKind::Benchmark => {}
            JobKind::Init | JobKind::Load => self.on_prepare_failed(cx, job, fault),
            JobKind::Forward | JobKind::Turn | JobKind::Backward | JobKind::Norms => self.reload(cx, job, fault),
            JobKind::Train | JobKind::Step | JobKind::Evaluate | JobKind::Snapshot if lost => {
                self.reload(cx, job, fault);
            }
            JobKind::Train | JobKind::Step => self.give_up(cx, job, fault),
            JobKind::Evaluate => {
                self.aside = None;
                self.evaluations.not_before = self.retry_later(cx, job, fault);
            }
            JobKind::Snapshot => {
                self.aside = None;
                if self.wish == Wish::Stop {
                    return self.give_up(cx, job, fault);
                }
                self.wish = Wish::None;
                self.snapshots.not_before = self.retry_later(cx, job, fault);
                // A node that leaves solo work tries to save until it can; meanwhile the state stays in memory.
                cx.timers.set(TimerKind::Retry, Some(self.snapshots.not_before));
            }
        }
    }

    /// Tells of a failed job that is tried again, and when.
    fn retry_later(&mut self, cx: &mut Cx<'_>, job: JobKind, fault: &Fault) -> Time {
        let at = cx.now.after_ms(self.retry_ms);
        self.retry_ms = self.retry_ms.saturating_mul(2).min(RETRY_MS_MAX);
        cx.event(Event::JobFailed { job, fault: fault.clone(), then: Recovery::Later { at } });
        at
    }

    fn on_prepare_failed(&mut self, cx: &mut Cx<'_>, job: JobKind, fault: &Fault) {
        self.phase = Phase::Absent;
        let damaged = match fault {
            Fault::BlobMissing { .. } | Fault::BlobDamaged { .. } | Fault::RootMismatch { .. } => true,
            Fault::WrongStep { .. }
            | Fault::BadJob { .. }
            | Fault::DiskFull { .. }
            | Fault::Store { .. }
            | Fault::Device { .. } => false,
        };
        if damaged && let Some(step) = self.distrust(cx) {
            cx.event(Event::JobFailed { job, fault: fault.clone(), then: Recovery::Reload { step } });
            return;
        }
        if damaged || self.reloads >= RELOADS_MAX {
            return self.give_up(cx, job, fault);
        }
        self.reloads = self.reloads.saturating_add(1);
        self.prepare_at = self.retry_later(cx, job, fault);
        cx.timers.set(TimerKind::Retry, Some(self.prepare_at));
    }

    /// Forgets what the executor holds and goes back to the last persisted state.
    pub(super) fn reload(&mut self, cx: &mut Cx<'_>, job: JobKind, fault: &Fault) {
        if self.reloads >= RELOADS_MAX {
            return self.give_up(cx, job, fault);
        }
        self.reloads = self.reloads.saturating_add(1);
        self.cancel_all(cx);
        self.phase = Phase::Absent;
        self.lose_quorum(cx);
        let step = self.saved().unwrap_or_default();
        cx.event(Event::JobFailed { job, fault: fault.clone(), then: Recovery::Reload { step } });
    }

    fn give_up(&mut self, cx: &mut Cx<'_>, job: JobKind, fault: &Fault) {
        cx.event(Event::JobFailed { job, fault: fault.clone(), then: Recovery::Stop });
        self.stop(cx);
    }

    /// Ends the work; the report waits for the last record.
    fn stop(&mut self, cx: &mut Cx<'_>) {
        self.cancel_all(cx);
        self.leave_quorum(cx);
        // What a quorum without this node goes on with is its own to save, and whoever goes back has left the steps behind.
        let (saved, here) = (self.saved(), self.trains() && self.phase == Phase::Ready);
        self.phase = Phase::Stopped;
        let stopped = Event::Stopped { step: if here { self.step } else { saved.unwrap_or_default() }, saved };
        self.shelf.tell(cx, stopped);
    }

    pub(super) fn cancel_all(&mut self, cx: &mut Cx<'_>) {
        let preparing = match self.phase {
            Phase::Preparing(id, _) => Some(id),
            Phase::Absent | Phase::Ready | Phase::Stopped => None,
        };
        let train = self.train.take().and_then(|(id, _)| id);
        let stepping = self.stepping.take().map(|stepping| stepping.id);
        let aside = self.aside.take().map(|(id, _)| id);
        for id in [preparing, train, stepping, aside].into_iter().flatten() {
            cx.cancel(id);
        }
        self.running_since = None;
    }
}

pub(super) fn token_weight(config: &Config) -> F32 {
    F32::from_ratio(1, u128::from(config.genesis.training.batch_tokens()))
}

fn saved_event(snapshot: &Snapshot) -> Event {
    Event::Saved { step: snapshot.step, root: snapshot.root, bytes: snapshot.bytes }
}

/// Snapshots that the operator wants and the disk has room for, with one more being written; at least one.
pub(crate) fn snapshots_kept(config: &Config) -> usize {
    let fit = config.operator.disk_bytes.checked_div(snapshot_bytes(config)).unwrap_or(u64::MAX).saturating_sub(1);
    let kept = u64::from(config.operator.snapshots_kept).min(fit).clamp(1, u64::from(SNAPSHOTS_MAX));
    usize::try_from(kept).unwrap_or(1)
}

/// Bytes of a snapshot: weights and two moments.
pub(crate) fn snapshot_bytes(config: &Config) -> u64 {
    config.genesis.model.held_bytes(config.stages())
}
