//! Whether an executor's answer can be so. A fact made of one that cannot might never be restored.

use neuroshard_proto::{BatchOutcome, Commitment, Fault, LayerRange, Snapshot, Step};

/// What speaks against an answer, if the executor was asked about the state at step `at`, or for the one saved last.
pub(crate) fn contradiction(answer: &Commitment, range: LayerRange, at: Step, taken_up: Step) -> Option<Fault> {
    let other_step =
        |expected: Step, found: Step| (found != expected).then_some(Fault::WrongStep { expected, at: Some(found) });
    let other_stages = |found: usize, why: &str| (range.iter().count() != found).then(|| Fault::bad_job(why));
    match answer {
        Commitment::Ready { step, .. } => other_step(taken_up, *step),
        Commitment::Evaluation { step, .. } => other_step(at, *step),
        Commitment::Snapshot(Snapshot { step, layers, .. }) => other_step(at, *step)
            .or_else(|| other_stages(layers.len(), "the executor persisted other stages than the model has")),
        Commitment::Batch(BatchOutcome::Done { squared_norms, .. }) => {
            other_stages(squared_norms.len(), "the executor answered with norms of other stages than the model has")
        }
        Commitment::Norms { step, squared_norms } => other_step(at, *step).or_else(|| {
            let norms = squared_norms.as_ref()?;
            other_stages(norms.len(), "the executor answered with norms of other stages than it holds")
        }),
        Commitment::Benchmark { .. }
        | Commitment::Batch(BatchOutcome::Void(_))
        | Commitment::Step { .. }
        | Commitment::Forward(_)
        | Commitment::Turn(_)
        | Commitment::Backward(_) => None,
    }
}

/// What an executor answered, for the report that it was not what was asked.
pub(crate) const fn answer_name(answer: &Commitment) -> &'static str {
    match answer {
        Commitment::Ready { .. } => "the executor answered with a state",
        Commitment::Benchmark { .. } => "the executor answered with a benchmark",
        Commitment::Batch(_) => "the executor answered with a batch",
        Commitment::Step { .. } => "the executor answered with a step",
        Commitment::Evaluation { .. } => "the executor answered with an evaluation",
        Commitment::Snapshot(_) => "the executor answered with a snapshot",
        Commitment::Forward(_) => "the executor answered with a forward pass",
        Commitment::Turn(_) => "the executor answered with a loss",
        Commitment::Backward(_) => "the executor answered with a backward pass",
        Commitment::Norms { .. } => "the executor answered with norms",
    }
}
