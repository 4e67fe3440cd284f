//! What a device must be able to do: hold a model state and perform the operation table on it.

use neuroshard_proto::ops::Call;
use neuroshard_proto::{F32, Fault, LayerIndex, LayerRange, ModelSpec, Schedule};

use crate::optimizer::Rates;
use crate::values::{Shape, Values};

/// A part of a stage's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Weights,
    /// First moments of the gradient.
    Moments1,
    /// Second moments of the gradient.
    Moments2,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Weights, Self::Moments1, Self::Moments2];
}

/// Sequences of equal length, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// Tokens in a sequence.
    pub sequence: u32,
    /// `sequences * sequence` tokens, each below the vocabulary's size.
    pub inputs: Vec<u32>,
    /// The token that follows each input.
    pub targets: Vec<u32>,
}

/// What a batch came to in an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trained {
    Done {
        /// Sum of the token losses in micro-nats.
        loss_micro: i64,
        /// Squared norm of the gathered gradients, times `token_weight` squared, for each stage in order.
        squared_norms: Vec<F32>,
    },
    /// A value left its range; the gradients are worthless.
    Void,
}

/// A device that holds one model state and trains it.
///
/// Every engine gives the same bits for the same calls: [`crate::reference`] is the plainest one, and the tests hold the
/// others to it.
pub trait Engine: Send {
    /// The device, for people: `CPU, 2 threads, AVX-512`.
    fn describe(&self) -> String;

    /// Makes room for these stages of a model, with undefined weights, zero moments and zero gradients.
    fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault>;

    /// Sets a part of a stage: all its tensors in canonical order.
    fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault>;

    /// Reads a part of a stage into `out`, which has the stage's length.
    fn read(&mut self, part: Part, layer: LayerIndex, out: &mut [f32]) -> Result<(), Fault>;

    /// Forward and backward through all stages, adding to the gradients; `fresh` clears them first.
    fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault>;

    /// The sum of the token losses in micro-nats; `None` if a value left its range.
    fn evaluate(&mut self, batch: &TokenBatch) -> Result<Option<i64>, Fault>;

    /// Applies AdamW to the gradients, given the global squared norm, and clears them.
    fn step(&mut self, token_weight: F32, squared_norm: F32, schedule: &Schedule) -> Result<(), Fault>;

    /// Performs one call of the operation table on host values, on the device; returns whether every value stayed in its
    /// range. For self-tests and audits; touches no state.
    fn apply(&mut self, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault>;

    /// The operation `sum_squares` on a tensor's gradient; `None` if a value is out of range.
    fn sum_squares(&mut self, gradient: &[f32], token_weight: F32) -> Result<Option<F32>, Fault>;

    /// The operation `adamw` on a tensor: weights, first and second moments, and the gradient.
    fn adamw(&mut self, rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) -> Result<(), Fault>;

    /// The median time of one layer's forward pass over one sequence, in microseconds. Touches no state.
    fn benchmark(&mut self, model: &ModelSpec, sequence: u32, warmup: u32, runs: u32) -> Result<u64, Fault>;
}
