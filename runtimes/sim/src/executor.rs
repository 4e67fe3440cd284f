//! A node's executor: it does jobs one after the other, at a pace of its own, and answers with commitments that depend on the
//! world's seed and the job alone, as real arithmetic would: equal jobs, equal answers, on every node.

use std::collections::{BTreeSet, VecDeque};

use neuroshard_proto::{
    BatchOutcome, Commitment, F32, Fault, Hash, Job, LayerBlobs, ModelSpec, RequestId, Snapshot, Step, VoidReason,
};

use crate::draw::{Draw, mix};
use crate::scenario::Lie;

/// The executor of one node.
#[derive(Debug)]
pub(crate) struct Executor {
    jobs: VecDeque<Asked>,
    /// The step of the state that it holds.
    resident: Option<Step>,
    /// Answers that are held back: for long, or for ever.
    held: Vec<(RequestId, Result<Commitment, Fault>)>,
}

#[derive(Debug)]
struct Asked {
    id: RequestId,
    job: Job,
    lie: Option<Lie>,
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
    pub(crate) fn takes_us(&self, batch_ms: u64, draw: Draw) -> Option<u64> {
        let share = match &self.jobs.front()?.job {
            Job::Benchmark { .. } => 500,
            Job::Init { .. } | Job::Load { .. } => 300,
            Job::Train { .. } => 1000,
            Job::Step { .. } | Job::Norms { .. } => 100,
            Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } => 200,
            Job::Evaluate { .. } => 400,
            Job::Snapshot { .. } => 600,
        };
        Some(batch_ms * share * draw.between(900, 1100) / 1000)
    }

    /// The job at hand is done.
    pub(crate) fn finish(&mut self, model: &ModelSpec, blobs: &BTreeSet<Hash>, draw: Draw) -> Said {
        let Some(Asked { id, job, lie }) = self.jobs.pop_front() else { return Said::Nothing };
        match lie {
            None => Said::Answer { id, result: self.execute(&job, model, blobs, draw) },
            Some(Lie::Late) => {
                let result = self.execute(&job, model, blobs, draw);
                self.held.push((id, result));
                Said::Later { id }
            }
            Some(Lie::Lost) => {
                self.held.push((id, Err(Fault::device("the device hung and was restarted"))));
                Said::Nothing
            }
            Some(Lie::Wrong) => Said::Wrong { id, result: self.wrong(&job, model, blobs, draw) },
        }
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

    fn execute(
        &mut self,
        job: &Job,
        model: &ModelSpec,
        blobs: &BTreeSet<Hash>,
        draw: Draw,
    ) -> Result<Commitment, Fault> {
        let at = self.resident;
        let resident =
            |step: &Step| if at == Some(*step) { Ok(*step) } else { Err(Fault::WrongStep { expected: *step, at }) };
        let stages = model.all_layers().iter().count();
        Ok(match job {
            Job::Init { .. } => {
                self.resident = Some(Step(0));
                Commitment::Ready { step: Step(0), root: root(Step(0)) }
            }
            Job::Load { snapshot, .. } => {
                self.resident = None;
                if let Some(hash) = blobs_of(snapshot).find(|hash| !blobs.contains(hash)) {
                    return Err(Fault::BlobMissing { hash });
                }
                self.resident = Some(snapshot.step);
                Commitment::Ready { step: snapshot.step, root: snapshot.root }
            }
            // Machines differ: this is the one answer that depends on the node.
            Job::Benchmark { .. } => Commitment::Benchmark { layer_us: draw.pick(&[900, 15_000, 120_000, 700_000]) },
            Job::Train { step, batch, samples, .. } => {
                resident(step)?;
                Commitment::Batch(BatchOutcome::Done {
                    loss_micro: 1_000_000 + (mix(batch.0) % 4_000_000) as i64,
                    tokens: samples.len() as u64,
                    squared_norms: vec![F32::ONE; stages].try_into().unwrap_or_default(),
                })
            }
            Job::Step { step, .. } => {
                let step = resident(step)?.next();
                self.resident = Some(step);
                Commitment::Step { step, norm: F32::ONE }
            }
            Job::Evaluate { step, .. } => {
                Commitment::Evaluation { step: resident(step)?, loss_micro: Some(2_000_000), tokens: 1 }
            }
            Job::Snapshot { step } => Commitment::Snapshot(snapshot(resident(step)?, stages)),
            Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => {
                return Err(Fault::bad_job("a simulated executor trains whole models only"));
            }
        })
    }

    /// An answer that is not what an honest executor would say.
    fn wrong(&mut self, job: &Job, model: &ModelSpec, blobs: &BTreeSet<Hash>, draw: Draw) -> Result<Commitment, Fault> {
        match draw.of(1).below(6) {
            0 => {
                // The device is gone and with it what it held.
                self.resident = None;
                Err(Fault::device("the device went away"))
            }
            1 => Err(Fault::DiskFull { needed: 1 << 20 }),
            2 => Ok(Commitment::Step { step: Step(draw.of(2).below(1000)), norm: F32::ONE }),
            3 => Ok(Commitment::Snapshot(snapshot(Step(draw.of(2).below(1000)), 1))),
            4 => Ok(Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange))),
            _ => {
                let answer = self.execute(job, model, blobs, draw)?;
                Ok(match answer {
                    Commitment::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
                    other => other,
                })
            }
        }
    }
}

/// The state after so many steps.
fn root(step: Step) -> Hash {
    Hash::of_blob(&step.0.to_le_bytes())
}

fn snapshot(step: Step, stages: usize) -> Snapshot {
    let blob = |layer: usize, what: &[u8]| Hash::of_blob(&[&step.0.to_le_bytes(), &[layer as u8][..], what].concat());
    let layers = (0..stages).map(|layer| {
        let (root, weights, moments) = (blob(layer, b"r"), blob(layer, b"w"), blob(layer, b"m"));
        LayerBlobs { root, weights, moments }
    });
    let layers = layers.collect::<Vec<_>>().try_into().unwrap_or_default();
    Snapshot { step, root: root(step), layers, bytes: 1 << 20 }
}

/// The blobs of a snapshot.
pub(crate) fn blobs_of(snapshot: &Snapshot) -> impl Iterator<Item = Hash> {
    snapshot.layers.iter().flat_map(|layer| [layer.weights, layer.moments])
}

#[cfg(test)]
mod tests {
    use super::*;
    use neuroshard_proto::Preset;

    fn executor() -> (Executor, ModelSpec) {
        (Executor::new(), Preset::Nano.specs().0)
    }

    fn said(executor: &mut Executor, model: &ModelSpec) -> Said {
        executor.finish(model, &BTreeSet::new(), Draw::new(0, "test"))
    }

    #[test]
    fn a_job_that_has_begun_is_finished_and_the_others_can_be_given_up() {
        let (mut executor, model) = executor();
        assert!(executor.ask(RequestId(1), Job::Snapshot { step: Step(0) }, None));
        assert!(!executor.ask(RequestId(2), Job::Snapshot { step: Step(0) }, None));
        assert!(!executor.ask(RequestId(3), Job::Snapshot { step: Step(0) }, None));
        executor.cancel(RequestId(2));
        executor.cancel(RequestId(1));
        let ids = [said(&mut executor, &model), said(&mut executor, &model)].map(|said| match said {
            Said::Answer { id, result: Err(Fault::WrongStep { .. }) } => id.0,
            other => panic!("{other:?}"),
        });
        assert_eq!(ids, [1, 3]);
        assert!(matches!(said(&mut executor, &model), Said::Nothing));
    }

    #[test]
    fn a_lost_answer_is_remembered_until_the_device_is_back() {
        let (mut executor, model) = executor();
        executor.ask(RequestId(5), Job::Snapshot { step: Step(0) }, Some(Lie::Lost));
        assert!(matches!(said(&mut executor, &model), Said::Nothing));
        assert_eq!(executor.held().collect::<Vec<_>>(), [RequestId(5)]);
        assert!(matches!(executor.release(RequestId(5)), Some(Err(Fault::Device { .. }))));
        assert_eq!(executor.release(RequestId(5)), None);
    }
}
