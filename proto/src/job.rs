//! What the core asks of an executor, and what the executor answers: the seam between protocol and arithmetic.
//!
//! A [`Job`] names everything its result depends on; a [`Commitment`] is a small statement about the result. Tensors stay
//! with the executor and in the host's blob store.

use alloc::vec::Vec;
use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::codec::Canonical;
use crate::float::F32;
use crate::genesis::Sample;
use crate::hash::Hash;
use crate::ids::{BatchId, Step};
use crate::model::{LAYERS_MAX, LayerRange, ModelSpec};
use crate::tensor::DType;
use crate::tile;

/// Most microbatches in one job.
pub const MICROBATCHES_MAX: u32 = 256;
/// Most microbatches between their forward and their backward pass in one executor: a pipeline has 64 in flight (PROTOCOL
/// §4), and some that are replayed after a loss may stand beside them.
pub const HELD_MAX: u32 = 64 + 16;
/// Most stages of a model: its layers and the head.
pub const STAGES_MAX: u32 = LAYERS_MAX + 1;

/// A tensor by commitment: what it is and the root over its tiles (see [`crate::tile`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct TensorRef {
    pub dtype: DType,
    pub rows: u32,
    pub cols: u32,
    pub root: Hash,
}

/// One stage's persisted state: its commitment and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct LayerBlobs {
    /// Root over the tiles of its weights and moments (see [`crate::tile::stage_state`]).
    pub root: Hash,
    /// Address of the weights: single-precision little-endian, tensors in canonical order.
    pub weights: Hash,
    /// Address of the first moments followed by the second moments, in the same order.
    pub moments: Hash,
}

/// The state of a model, or of some of its stages, at a step: its commitment and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Snapshot {
    /// Steps taken to reach this state.
    pub step: Step,
    /// Root over the roots of the stages (see [`crate::tile::model_state`]).
    pub root: Hash,
    /// The stages' blobs, in order.
    pub layers: List<LayerBlobs, STAGES_MAX>,
    /// Bytes of all blobs together.
    pub bytes: u64,
}

impl Snapshot {
    /// The state of these stages after a step. `bytes` are those of all blobs together.
    pub fn of_stages(step: Step, layers: List<LayerBlobs, STAGES_MAX>, bytes: u64) -> Self {
        let roots: Vec<Hash> = layers.iter().map(|stage| stage.root).collect();
        Self { step, root: tile::model_state(step, &roots), layers, bytes }
    }
}

/// The numbers of one optimizer step, computed by the core in integers and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Schedule {
    /// Learning rate.
    pub rate: F32,
    /// Decay of the first moment, and one minus it.
    pub beta1: F32,
    pub beta1_rest: F32,
    /// Decay of the second moment, and one minus it.
    pub beta2: F32,
    pub beta2_rest: F32,
    /// `1 / (1 - beta1^t)` and `1 / (1 - beta2^t)` at the t-th step, counted from 1.
    pub correction1: F32,
    pub correction2: F32,
    pub epsilon: F32,
    pub weight_decay: F32,
    /// Largest global gradient norm.
    pub clip: F32,
}

/// A microbatch's place in a step: one sequence of a batch. Gradients add up in this order (PROTOCOL §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Micro {
    pub batch: BatchId,
    /// Which of the batch's sequences, from 0 on.
    pub index: u32,
}

impl fmt::Display for Micro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sequence {} of batch {}", self.index, self.batch)
    }
}

/// Work for an executor. One executor holds the state of a model, or of some of its stages; jobs run in the order they are
/// given.
///
/// Who holds the whole model trains it with [`Job::Train`]. Members of a pipeline (PROTOCOL §4) do [`Job::Forward`],
/// [`Job::Turn`] and [`Job::Backward`] for one sequence at a time, then [`Job::Norms`], and together come to the same bits.
/// What they pass on are blobs: the residual stream that leaves a stage, or the gradient of the loss sum with respect to the
/// stream that entered it, `[sequence, hidden]` in single precision, little-endian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Job {
    /// Make the state of step 0 from a seed. Answered by [`Commitment::Ready`].
    Init { model: ModelSpec, range: LayerRange, seed: Hash },
    /// Take up a persisted state, checking every blob against its address and every stage against its root. Answered by
    /// [`Commitment::Ready`].
    Load { model: ModelSpec, range: LayerRange, snapshot: Snapshot },
    /// Time one forward pass of a transformer layer of this shape (PROTOCOL §2). Needs no state. Answered by
    /// [`Commitment::Benchmark`].
    Benchmark { model: ModelSpec, sequence: u32, warmup: u32, runs: u32 },
    /// Forward and backward of these sequences through all layers, adding to the gradients; `fresh` clears them first.
    /// `token_weight` is one over the tokens of the whole step. Answered by [`Commitment::Batch`].
    Train {
        step: Step,
        batch: BatchId,
        fresh: bool,
        sequence: u32,
        token_weight: F32,
        samples: List<Sample, MICROBATCHES_MAX>,
    },
    /// Apply the optimizer to the gathered gradients, weighted by `token_weight`, and clear them. `squared_norms` are all
    /// stages' in order, the other members' too. Answered by [`Commitment::Step`].
    Step { step: Step, token_weight: F32, squared_norms: List<F32, STAGES_MAX>, schedule: Schedule },
    /// The loss of these sequences under the current weights. Answered by [`Commitment::Evaluation`].
    Evaluate { step: Step, sequence: u32, samples: List<Sample, MICROBATCHES_MAX> },
    /// Persist the current state as blobs. Answered by [`Commitment::Snapshot`].
    Snapshot { step: Step },
    /// Forward of one sequence through stages that are not the model's last. `fresh` clears the gradients and lets go of all
    /// held microbatches first. The model's first stage embeds the sample and takes no `input`; others take the stream that
    /// the stage before them made. What the backward pass needs is held under `micro`, in place of what was held there.
    /// Answered by [`Commitment::Forward`].
    Forward { step: Step, micro: Micro, fresh: bool, sequence: u32, sample: Sample, input: Option<Hash> },
    /// Forward, loss and backward of one sequence through the model's last stages, adding to the gradients; `fresh` and
    /// `input` as above. Nothing is held. Answered by [`Commitment::Turn`].
    Turn { step: Step, micro: Micro, fresh: bool, sequence: u32, sample: Sample, input: Option<Hash> },
    /// Backward of a held microbatch, adding to the gradients, from the gradient with respect to the stream that left these
    /// stages. It is held no longer. Answered by [`Commitment::Backward`].
    Backward { step: Step, micro: Micro, gradient: Hash },
    /// The squared norms of the gradients gathered so far, weighted by `token_weight`. Answered by [`Commitment::Norms`].
    Norms { step: Step, token_weight: F32 },
}

impl Canonical for Job {}

impl Job {
    /// The job's name in logs, metrics and traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Init { .. } => "init",
            Self::Load { .. } => "load",
            Self::Benchmark { .. } => "benchmark",
            Self::Train { .. } => "train",
            Self::Step { .. } => "step",
            Self::Evaluate { .. } => "evaluate",
            Self::Snapshot { .. } => "snapshot",
            Self::Forward { .. } => "forward",
            Self::Turn { .. } => "turn",
            Self::Backward { .. } => "backward",
            Self::Norms { .. } => "norms",
        }
    }
}

/// Why a batch does not count: nothing of it enters the model (PROTOCOL §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum VoidReason {
    /// A value left the range in which arithmetic agrees on every machine, or was not a number (ARCHITECTURE §4).
    OutOfRange,
}

/// What a batch came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum BatchOutcome {
    /// The batch was added to the gradients.
    Done {
        /// Sum of the token losses, in micro-nats.
        loss_micro: i64,
        /// Tokens whose loss was summed.
        tokens: u64,
        /// Squared norm of the gradients gathered so far, stage by stage in order.
        squared_norms: List<F32, STAGES_MAX>,
    },
    /// The batch is skipped; the gradients are to be cleared.
    Void(VoidReason),
}

/// What a microbatch's forward pass through some stages came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Passed {
    /// The stream that leaves the stages lies at this address.
    Done { output: Hash },
    /// The batch is skipped; nothing is held of this microbatch, and the gradients are to be cleared.
    Void(VoidReason),
}

/// What a microbatch came to in the model's last stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Turned {
    /// It was added to the gradients.
    Done {
        /// Sum of the token losses, in micro-nats.
        loss_micro: i64,
        /// Tokens whose loss was summed.
        tokens: u64,
        /// Where the gradient with respect to the stream that entered lies; `None` if the tokens themselves entered.
        gradient: Option<Hash>,
    },
    /// The batch is skipped; the gradients are to be cleared.
    Void(VoidReason),
}

/// What a microbatch's backward pass through some stages came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Returned {
    /// It was added to the gradients; `gradient` as in [`Turned::Done`].
    Done { gradient: Option<Hash> },
    /// The batch is skipped; the gradients are to be cleared.
    Void(VoidReason),
}

/// An executor's answer to a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Commitment {
    /// A state is in place.
    Ready { step: Step, root: Hash },
    /// Median time of one layer's forward pass, in microseconds.
    Benchmark { layer_us: u64 },
    /// A batch went through.
    Batch(BatchOutcome),
    /// The optimizer ran; `norm` is the global gradient norm before clipping.
    Step { step: Step, norm: F32 },
    /// Sum of the token losses in micro-nats, if every value stayed in its range, and the tokens.
    Evaluation { step: Step, loss_micro: Option<i64>, tokens: u64 },
    /// The state is persisted.
    Snapshot(Snapshot),
    /// A microbatch went forward.
    Forward(Passed),
    /// A microbatch went forward and back.
    Turn(Turned),
    /// A microbatch went back.
    Backward(Returned),
    /// Squared norms of the gradients of the stages held, in order; `None` if a gradient left its range, which voids the
    /// step's batches.
    Norms { step: Step, squared_norms: Option<List<F32, STAGES_MAX>> },
}

impl Canonical for Commitment {}

impl Commitment {
    /// The blob that was made for another member of the pipeline, if one was.
    pub const fn passing(&self) -> Option<Hash> {
        match self {
            Self::Forward(Passed::Done { output }) => Some(*output),
            Self::Turn(Turned::Done { gradient, .. }) | Self::Backward(Returned::Done { gradient }) => *gradient,
            Self::Forward(Passed::Void(_))
            | Self::Turn(Turned::Void(_))
            | Self::Backward(Returned::Void(_))
            | Self::Ready { .. }
            | Self::Benchmark { .. }
            | Self::Batch(_)
            | Self::Step { .. }
            | Self::Evaluation { .. }
            | Self::Snapshot(_)
            | Self::Norms { .. } => None,
        }
    }
}

/// A device's or a disk's failure to do a job. The model state is as it was before the job unless the fault says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Fault {
    /// A blob is not in the store.
    BlobMissing { hash: Hash },
    /// A blob's bytes do not have its hash, or not the size its place demands.
    BlobDamaged { hash: Hash },
    /// The state that was loaded does not have the root the snapshot names.
    RootMismatch { expected: Hash, found: Hash },
    /// The job is for another step than the executor's state is at; `at` is `None` if there is no state.
    WrongStep { expected: Step, at: Option<Step> },
    /// The job contradicts the model or itself.
    BadJob { why: Text<200> },
    /// There is no room to store what the job makes.
    DiskFull { needed: u64 },
    /// The store failed.
    Store { why: Text<200> },
    /// The device failed or went away; the state it held is lost.
    Device { why: Text<200> },
}

impl Canonical for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlobMissing { hash } => write!(f, "blob {hash:.16} is missing"),
            Self::BlobDamaged { hash } => write!(f, "blob {hash:.16} is damaged"),
            Self::RootMismatch { expected, found } => {
                write!(f, "the state has root {found:.16}, the snapshot says {expected:.16}")
            }
            Self::WrongStep { expected, at: Some(at) } => write!(f, "job for step {expected}, state at step {at}"),
            Self::WrongStep { expected, at: None } => write!(f, "job for step {expected}, no state is loaded"),
            Self::BadJob { why } => write!(f, "impossible job: {why}"),
            Self::DiskFull { needed } => write!(f, "no room to store {needed} bytes"),
            Self::Store { why } => write!(f, "the store failed: {why}"),
            Self::Device { why } => write!(f, "the compute device failed: {why}"),
        }
    }
}

impl core::error::Error for Fault {}

impl Fault {
    /// A fault text of any length, cut to what the type holds.
    fn text(why: &str) -> Text<200> {
        let mut end = why.len().min(200);
        while !why.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Text::try_from(alloc::string::String::from(why.get(..end).unwrap_or_default())).unwrap_or_default()
    }

    pub fn bad_job(why: &str) -> Self {
        Self::BadJob { why: Self::text(why) }
    }

    pub fn store(why: &str) -> Self {
        Self::Store { why: Self::text(why) }
    }

    pub fn device(why: &str) -> Self {
        Self::Device { why: Self::text(why) }
    }
}
