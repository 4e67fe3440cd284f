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

/// What enters the first of the stages that an engine holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry<'a> {
    /// Tokens, each below the vocabulary's size: the stages begin with the model's first.
    Tokens(&'a [u32]),
    /// The residual stream that the stage before made, `[sequence, hidden]`.
    Stream(&'a [f32]),
}

impl Entry<'_> {
    /// Tokens of the sequence, if a part of a model that ends with the head (`turns`) or does not can take it.
    ///
    /// # Errors
    /// [`Fault::BadJob`] with what does not fit.
    pub fn sequence(&self, model: &ModelSpec, range: LayerRange, turns: bool) -> Result<usize, Fault> {
        let ends = range.end == model.layers + 1;
        match (ends, turns) {
            (true, false) => {
                return Err(Fault::bad_job("these stages end with the model's head: a sequence turns there"));
            }
            (false, true) => {
                return Err(Fault::bad_job("a sequence turns in the model's last stages, and these are not"));
            }
            (true, true) | (false, false) => {}
        }
        let hidden = model.hidden as usize;
        let length = match (range.start, self) {
            (0, Self::Tokens(tokens)) if tokens.iter().all(|token| *token < model.vocab) => tokens.len(),
            (0, Self::Tokens(_)) => return Err(Fault::bad_job("a sequence holds a token outside the vocabulary")),
            (0, Self::Stream(_)) => return Err(Fault::bad_job("the model's first stage takes tokens, not a stream")),
            (_, Self::Tokens(_)) => return Err(Fault::bad_job("only the model's first stage takes tokens")),
            (_, Self::Stream(stream)) if stream.len().is_multiple_of(hidden) => stream.len() / hidden,
            (_, Self::Stream(_)) => return Err(Fault::bad_job("a stream has whole rows of the model's width")),
        };
        if length == 0 || length > model.context as usize {
            return Err(Fault::bad_job("a sequence is empty or longer than the context"));
        }
        Ok(length)
    }
}

/// Refuses what only who holds a whole model can do.
pub(crate) fn check_whole(model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
    if range == model.all_layers() {
        return Ok(());
    }
    Err(Fault::bad_job("only who holds the whole model trains or evaluates whole batches, and this is a part of one"))
}

/// Refuses targets that are not one token of the vocabulary for each position.
pub(crate) fn check_targets(model: &ModelSpec, sequence: usize, targets: &[u32]) -> Result<(), Fault> {
    if targets.len() == sequence && targets.iter().all(|token| *token < model.vocab) {
        return Ok(());
    }
    Err(Fault::bad_job("a sequence has a target of the vocabulary for each of its tokens"))
}

/// Refuses a gradient that is not of the stream it should belong to.
pub(crate) fn check_gradient(wanted: usize, found: usize) -> Result<(), Fault> {
    if wanted == found {
        return Ok(());
    }
    Err(Fault::bad_job(&format!("a gradient of {found} values was given where {wanted} belong to the stream")))
}

/// A device that holds one model state, or that of some stages of a model, and trains it.
///
/// A sequence goes through a part of a model in two passes. What its backward pass needs is kept in a place, by number: the
/// caller counts places from 0 and reuses them, so that their memory is reused too. `clear`, then [`Engine::forward`] and
/// [`Engine::backward`] or [`Engine::turn`] of sequence after sequence, and [`Engine::norms`] give the bits of one
/// [`Engine::train`] of all of them, if backward passes come in the sequences' order.
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

    /// Forward and backward of a batch through a whole model, adding to the gradients; `fresh` clears them first.
    fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault>;

    /// Clears the gradients.
    fn clear(&mut self) -> Result<(), Fault>;

    /// Forward of one sequence through stages without the model's head, to the stream that leaves them: `output` is
    /// `[sequence, hidden]`. What the backward pass needs is kept in `place`. Returns whether every value stayed in its range;
    /// if not, the place is worthless.
    fn forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault>;

    /// Backward of the sequence kept in `place`, adding to the gradients: from the gradient of the loss sum with respect to
    /// the stream that left to that with respect to the stream that entered, if one did. Returns whether every value stayed
    /// in its range; if not, the gradients are worthless.
    fn backward(&mut self, place: usize, leaving: &[f32], entering: Option<&mut [f32]>) -> Result<bool, Fault>;

    /// Forward, loss and backward of one sequence through the model's last stages, adding to the gradients; `entering` takes
    /// the gradient with respect to the stream that entered, if one did. Returns the sum of the token losses in micro-nats;
    /// `None` if a value left its range, which makes the gradients worthless.
    fn turn(&mut self, entry: Entry<'_>, targets: &[u32], entering: Option<&mut [f32]>) -> Result<Option<i64>, Fault>;

    /// Squared norm of the gathered gradients, times `token_weight` squared, for each stage in order; `None` if a gradient
    /// left its range.
    fn norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault>;

    /// The sum of the token losses of a batch in micro-nats, by a whole model; `None` if a value left its range.
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
