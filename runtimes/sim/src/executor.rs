//! A node's executor: it does jobs one after the other, at a pace of its own, and answers with commitments that depend on the
//! world's seed and the job alone, as real arithmetic would: equal jobs, equal answers, on every node.

use std::collections::VecDeque;

use neuroshard_proto::{
    BatchOutcome, Commitment, F32, Fault, Hash, Job, LayerRange, Micro, Passed, RequestId, Returned, Sample, Snapshot,
    Step, Turned, VoidReason,
};

use crate::draw::Draw;
use crate::model::Model;
use crate::scenario::Lie;

/// The executor of one node.
#[derive(Debug)]
pub(crate) struct Executor {
    jobs: VecDeque<Asked>,
    /// The state that it holds.
    resident: Option<Box<Model>>,
    /// Answers that are held back: for long, or for ever.
    held: Vec<(RequestId, Result<Commitment, Fault>)>,
}

#[derive(Debug)]
struct Asked {
    id: RequestId,
    job: Job,
    lie: Option<Lie>,
}

/// How fast a machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// What its benchmark says.
    pub(crate) layer_us: u64,
    /// How long a batch takes where nodes train alone.
    pub(crate) batch_ms: u64,
    /// Whether nodes train together, and jobs take as long as the benchmark says.
    pub(crate) shared: bool,
}

/// What an executor has around it.
pub(crate) struct Around<'a> {
    pub(crate) pace: Pace,
    /// The stages of the whole model.
    pub(crate) all: LayerRange,
    pub(crate) blobs: &'a dyn Fn(&Hash) -> bool,
}

impl Around<'_> {
    fn has(&self, hash: &Hash) -> bool {
        (self.blobs)(hash)
    }
}

/// What an executor says when a job is done.
#[derive(Debug)]
pub(crate) enum Said {
    Answer {
        id: RequestId,
        result: Result<Commitment, Fault>,
    },
    /// An answer that is not what the job comes to.
    Wrong {
        id: RequestId,
        result: Result<Commitment, Fault>,
    },
    /// The answer is held back; [`Executor::release`] gives it.
    Later {
        id: RequestId,
    },
    Nothing,
}

impl Executor {
    pub(crate) const fn new() -> Self {
        Self { jobs: VecDeque::new(), resident: None, held: Vec::new() }
    }

    /// Takes a job; answers whether it is the only one, so that it begins at once.
    pub(crate) fn ask(&mut self, id: RequestId, job: Job, lie: Option<Lie>) -> bool {
        self.jobs.push_back(Asked { id, job, lie });
        self.jobs.len() == 1
    }

    /// Gives up a job that has not begun; one that has is done to its end.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        let running = self.jobs.pop_front();
        self.jobs.retain(|asked| asked.id != id);
        self.jobs.extend(running);
        self.jobs.rotate_right(usize::from(!self.jobs.is_empty()));
        self.held.retain(|(held, _)| *held != id);
    }

    /// Whether it holds nothing and does nothing, so that a new one is as good.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.held.is_empty() && self.resident.is_none()
    }

    /// How long the job at hand takes, in microseconds.
    pub(crate) fn takes_us(&self, pace: Pace, draw: Draw) -> Option<u64> {
        let job = &self.jobs.front()?.job;
        let batch = pace.batch_ms * 1000;
        let stages = self.resident.as_ref().map_or(1, |model| model.stages() as u64) * pace.layer_us;
        let takes = match job {
            Job::Benchmark { .. } => batch / 2,
            Job::Init { .. } | Job::Load { .. } => batch * 3 / 10,
            Job::Evaluate { .. } => batch * 4 / 10,
            Job::Snapshot { .. } => batch * 6 / 10,
            // A backward pass is two forward passes (PROTOCOL §2).
            Job::Train { samples, .. } if pace.shared => 3 * stages * samples.len() as u64,
            Job::Forward { .. } => stages,
            Job::Turn { .. } => 3 * stages,
            Job::Backward { .. } => 2 * stages,
            Job::Norms { .. } | Job::Step { .. } if pace.shared => stages / 2,
            Job::Train { .. } => batch,
            Job::Step { .. } | Job::Norms { .. } => batch / 10,
        };
        Some(takes * draw.between(900, 1100) / 1000)
    }

    /// Whether the job at hand is a pass of a pipeline.
    pub(crate) fn passes(&self) -> bool {
        let job = self.jobs.front().map(|asked| &asked.job);
        matches!(job, Some(Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. }))
    }

    /// The job at hand is done.
    pub(crate) fn finish(&mut self, world: &Around<'_>, draw: Draw) -> Said {
        let Some(Asked { id, job, lie }) = self.jobs.pop_front() else { return Said::Nothing };
        match lie {
            None => Said::Answer { id, result: self.execute(&job, world) },
            Some(Lie::Late) => {
                let result = self.execute(&job, world);
                self.held.push((id, result));
                Said::Later { id }
            }
            Some(Lie::Lost) => {
                self.held.push((id, Err(Fault::device("the device hung and was restarted"))));
                Said::Nothing
            }
            Some(Lie::Wrong) => Said::Wrong { id, result: self.wrong(&job, world, draw) },
        }
    }

    /// The state that it holds, if it does.
    pub(crate) fn resident(&self) -> Option<&Model> {
        self.resident.as_deref()
    }

    /// An answer that was held back, if it was not given up.
    pub(crate) fn release(&mut self, id: RequestId) -> Option<Result<Commitment, Fault>> {
        let place = self.held.iter().position(|(held, _)| *held == id)?;
        Some(self.held.remove(place).1)
    }

    /// The jobs whose answers are held back.
    pub(crate) fn held(&self) -> impl Iterator<Item = RequestId> {
        self.held.iter().map(|(id, _)| *id)
    }

    fn execute(&mut self, job: &Job, world: &Around<'_>) -> Result<Commitment, Fault> {
        match job {
            Job::Init { range, seed, .. } => {
                let model = Model::new(*range, seed);
                let root = model.root();
                self.resident = Some(Box::new(model));
                return Ok(Commitment::Ready { step: Step(0), root });
            }
            Job::Load { range, snapshot, .. } => {
                self.resident = None;
                if let Some(hash) = blobs_of(snapshot).find(|hash| !world.has(hash)) {
                    return Err(Fault::BlobMissing { hash });
                }
                let model = Model::load(*range, snapshot);
                if model.root() != snapshot.root {
                    return Err(Fault::bad_job("the stages' roots are not those of the state"));
                }
                self.resident = Some(Box::new(model));
                return Ok(Commitment::Ready { step: snapshot.step, root: snapshot.root });
            }
            Job::Benchmark { .. } => return Ok(Commitment::Benchmark { layer_us: world.pace.layer_us }),
            Job::Train { .. }
            | Job::Step { .. }
            | Job::Evaluate { .. }
            | Job::Snapshot { .. }
            | Job::Forward { .. }
            | Job::Turn { .. }
            | Job::Backward { .. }
            | Job::Norms { .. } => {}
        }
        let expected = step_of(job);
        let at = self.resident.as_ref().map(|model| model.step);
        match &mut self.resident {
            Some(model) if Some(model.step) == expected => compute(model, job, world),
            Some(_) | None => Err(Fault::WrongStep { expected: expected.unwrap_or_default(), at }),
        }
    }

    /// An answer that is not what an honest executor would say.
    fn wrong(&mut self, job: &Job, world: &Around<'_>, draw: Draw) -> Result<Commitment, Fault> {
        match draw.of(1).below(6) {
            0 => {
                // The device is gone and with it what it held.
                self.resident = None;
                Err(Fault::device("the device went away"))
            }
            1 => Err(Fault::DiskFull { needed: 1 << 20 }),
            2 => Ok(Commitment::Step { step: Step(draw.of(2).below(1000)), norm: F32::ONE }),
            3 => {
                let model = Model::new(LayerRange { start: 0, end: 1 }, &Hash::default());
                let step = Step(draw.of(2).below(1000));
                Ok(Commitment::Snapshot(Snapshot { step, ..model.snapshot() }))
            }
            // Of a pipeline's members all must find the same batches void, whoever runs them.
            4 if !world.pace.shared => Ok(Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange))),
            _ => {
                let answer = self.execute(job, world)?;
                Ok(match answer {
                    Commitment::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
                    other => other,
                })
            }
        }
    }
}

/// The step whose state a job needs.
const fn step_of(job: &Job) -> Option<Step> {
    match job {
        Job::Train { step, .. }
        | Job::Step { step, .. }
        | Job::Evaluate { step, .. }
        | Job::Snapshot { step }
        | Job::Forward { step, .. }
        | Job::Turn { step, .. }
        | Job::Backward { step, .. }
        | Job::Norms { step, .. } => Some(*step),
        Job::Init { .. } | Job::Load { .. } | Job::Benchmark { .. } => None,
    }
}

/// What a job comes to where the right state is resident.
fn compute(model: &mut Model, job: &Job, world: &Around<'_>) -> Result<Commitment, Fault> {
    let enters = |input: &Option<Hash>, sample: &Sample| match input {
        Some(hash) if world.has(hash) => Ok(*hash),
        Some(hash) => Err(Fault::BlobMissing { hash: *hash }),
        None => Ok(Model::embed(sample)),
    };
    Ok(match job {
        Job::Train { batch, fresh, samples, .. } => {
            if *fresh {
                model.clear();
            }
            let mut loss_micro = 0;
            for (index, sample) in (0..).zip(samples) {
                loss_micro += model.turn(Micro { batch: *batch, index }, Model::embed(sample), sample).0;
            }
            let squared_norms = model.squared_norms().try_into().unwrap_or_default();
            Commitment::Batch(BatchOutcome::Done { loss_micro, tokens: samples.len() as u64, squared_norms })
        }
        Job::Forward { micro, fresh, sample, input, .. } => {
            let input = enters(input, sample)?;
            if *fresh {
                model.clear();
            }
            Commitment::Forward(Passed::Done { output: model.forward(*micro, input) })
        }
        Job::Turn { micro, fresh, sample, input, .. } => {
            let entering = enters(input, sample)?;
            if *fresh {
                model.clear();
            }
            let (loss_micro, gradient) = model.turn(*micro, entering, sample);
            Commitment::Turn(Turned::Done { loss_micro, tokens: 1, gradient: input.map(|_| gradient) })
        }
        Job::Backward { micro, gradient, .. } => {
            if !world.has(gradient) {
                return Err(Fault::BlobMissing { hash: *gradient });
            }
            let back = model.backward(*micro, *gradient);
            let back = back.ok_or_else(|| Fault::bad_job("no forward pass of this microbatch is held"))?;
            Commitment::Backward(Returned::Done { gradient: Some(back).filter(|_| !model.is_first()) })
        }
        Job::Norms { step, .. } => {
            let squared_norms = model.squared_norms().try_into().ok();
            Commitment::Norms { step: *step, squared_norms }
        }
        Job::Step { squared_norms, .. } => {
            model.step(squared_norms);
            Commitment::Step { step: model.step, norm: F32::ONE }
        }
        Job::Evaluate { step, .. } if model.stages() == world.all.iter().count() => {
            Commitment::Evaluation { step: *step, loss_micro: Some(2_000_000), tokens: 1 }
        }
        Job::Evaluate { .. } => return Err(Fault::bad_job("a part of a model evaluates nothing")),
        Job::Snapshot { .. } => Commitment::Snapshot(model.snapshot()),
        Job::Init { .. } | Job::Load { .. } | Job::Benchmark { .. } => {
            return Err(Fault::bad_job("this job needs no state"));
        }
    })
}

/// The blobs of a snapshot.
pub(crate) fn blobs_of(snapshot: &Snapshot) -> impl Iterator<Item = Hash> {
    snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: LayerRange = LayerRange { start: 0, end: 5 };

    fn said(executor: &mut Executor) -> Said {
        let pace = Pace { layer_us: 900, batch_ms: 1000, shared: true };
        executor.finish(&Around { pace, all: ALL, blobs: &|_| true }, Draw::new(0, "test"))
    }

    #[test]
    fn a_job_that_has_begun_is_finished_and_the_others_can_be_given_up() {
        let mut executor = Executor::new();
        assert!(executor.ask(RequestId(1), Job::Snapshot { step: Step(0) }, None));
        assert!(!executor.ask(RequestId(2), Job::Snapshot { step: Step(0) }, None));
        assert!(!executor.ask(RequestId(3), Job::Snapshot { step: Step(0) }, None));
        executor.cancel(RequestId(2));
        executor.cancel(RequestId(1));
        let ids = [said(&mut executor), said(&mut executor)].map(|said| match said {
            Said::Answer { id, result: Err(Fault::WrongStep { .. }) } => id.0,
            other => panic!("{other:?}"),
        });
        assert_eq!(ids, [1, 3]);
        assert!(matches!(said(&mut executor), Said::Nothing));
    }

    #[test]
    fn a_lost_answer_is_remembered_until_the_device_is_back() {
        let mut executor = Executor::new();
        executor.ask(RequestId(5), Job::Snapshot { step: Step(0) }, Some(Lie::Lost));
        assert!(matches!(said(&mut executor), Said::Nothing));
        assert_eq!(executor.held().collect::<Vec<_>>(), [RequestId(5)]);
        assert!(matches!(executor.release(RequestId(5)), Some(Err(Fault::Device { .. }))));
        assert_eq!(executor.release(RequestId(5)), None);
    }
}
