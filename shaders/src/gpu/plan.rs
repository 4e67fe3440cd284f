//! A batch shape's buffers and programs: made once, replayed every step.

use std::collections::BTreeSet;

use neuroshard_proto::Fault;
use neuroshard_proto::ops::{self, Call, Dim, Slot};

use super::attention::Scratch;
use super::device::Gpu;
use super::kernels::Tile;
use super::pipelines::Pipelines;
use super::program::{Program, Recorder};
use super::record::{Slots, Surroundings, record};
use super::state::State;
use super::tensor::{Layout, Tensor, storage};
use crate::engine::TokenBatch;
use crate::values::Shape;

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanKey {
    /// Tokens in a sequence.
    pub(crate) sequence: usize,
    /// Sequences that go through together.
    pub(crate) sequences: usize,
    pub(crate) backward: bool,
}

/// Forward, and perhaps backward, of some sequences through a whole model.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) key: PlanKey,
    pub(crate) forward: Program,
    pub(crate) backward: Program,
    /// The loss of each token in micro-nats.
    pub(crate) losses: Tensor,
    tokens: Tensor,
    targets: Tensor,
    /// The tokens' positions by token and then by position.
    order: wgpu::Buffer,
}

/// The numbers that shape a plan beside the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlanOptions {
    /// Most attention scores held at once.
    pub(crate) scores_max: u64,
    pub(crate) tile: Option<Tile>,
}

impl Plan {
    pub(crate) fn new(
        gpu: &Gpu,
        pipelines: &mut Pipelines,
        flags: &wgpu::Buffer,
        state: &State,
        key: PlanKey,
        options: PlanOptions,
    ) -> Result<Self, Fault> {
        let shape = Shape::new(&state.model, count32(key.sequence), key.sequence * key.sequences);
        let scores = Scratch::new(gpu, &shape, options.scores_max, key.backward);
        let order = storage(gpu, "order of tokens", 4 * shape.tokens as u64);
        let around =
            Surroundings { shape: &shape, rotary: &state.rotary, order: &order, scores: &scores, tile: options.tile };
        let activations = Activations::new(gpu, &shape, state, key.backward);
        let mut rec = Recorder::new(gpu, pipelines, flags);
        for (index, slots) in activations.stages.iter().enumerate() {
            for call in forward_calls(index, state.stages()) {
                record(&mut rec, &around, call, slots)?;
            }
        }
        let forward = rec.finish();
        let mut rec = Recorder::new(gpu, pipelines, flags);
        if key.backward {
            for (index, slots) in activations.stages.iter().enumerate().rev() {
                for call in backward_calls(index, state.stages()) {
                    record(&mut rec, &around, call, slots)?;
                }
            }
        }
        let backward = rec.finish();
        let Activations { tokens, targets, losses, .. } = activations;
        Ok(Self { key, forward, backward, losses, tokens, targets, order })
    }

    /// Sets the sequences to go through next: some of a batch's.
    pub(crate) fn set_batch(&self, gpu: &Gpu, batch: &TokenBatch, first_sequence: usize) {
        let first = first_sequence * self.key.sequence;
        let own = first..first + self.key.sequence * self.key.sequences;
        let (inputs, targets) = (&batch.inputs[own.clone()], &batch.targets[own]);
        gpu.queue.write_buffer(self.tokens.whole(), 0, bytemuck::cast_slice(inputs));
        gpu.queue.write_buffer(self.targets.whole(), 0, bytemuck::cast_slice(targets));
        gpu.queue.write_buffer(&self.order, 0, bytemuck::cast_slice(&order_of(inputs)));
    }
}

fn count32(n: usize) -> u32 {
    super::tensor::count(n)
}

/// The positions of tokens, by token and then by position.
pub(crate) fn order_of(tokens: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count32(tokens.len())).collect();
    order.sort_by_key(|position| tokens[*position as usize]);
    order
}

/// The calls of a stage, forward.
fn forward_calls(stage: usize, stages: usize) -> impl Iterator<Item = &'static Call> {
    let embed: &'static [Call] = if stage == 0 { &ops::EMBED } else { &[] };
    let own: &'static [Call] = if stage + 1 == stages { &ops::HEAD_FORWARD } else { &ops::LAYER_FORWARD };
    embed.iter().chain(own)
}

/// The calls of a stage, backward.
fn backward_calls(stage: usize, stages: usize) -> impl Iterator<Item = &'static Call> {
    let own: &'static [Call] = if stage + 1 == stages { &ops::HEAD_BACKWARD } else { &ops::LAYER_BACKWARD };
    let embed: &'static [Call] = if stage == 0 { &ops::EMBED_BACKWARD } else { &[] };
    own.iter().chain(embed)
}

/// The activations that a stage's backward pass reads and does not make: each stage keeps its own.
fn kept(stage: usize, stages: usize) -> BTreeSet<Slot> {
    let made: BTreeSet<Slot> = backward_calls(stage, stages).flat_map(|call| call.writes).copied().collect();
    let read = backward_calls(stage, stages).flat_map(|call| call.reads).copied();
    read.filter(|slot| slot.shape().0 == Dim::Tokens && !made.contains(slot)).collect()
}

/// The activations of all stages: kept where a backward pass needs them, shared where not.
#[derive(Debug)]
struct Activations {
    stages: Vec<Slots>,
    tokens: Tensor,
    targets: Tensor,
    losses: Tensor,
}

impl Activations {
    fn new(gpu: &Gpu, shape: &Shape, state: &State, backward: bool) -> Self {
        let tensor = |slot: Slot| Tensor::new(gpu, &format!("{slot:?}"), Layout::of(slot, shape));
        let [tokens, targets, losses] = [Slot::Tokens, Slot::Targets, Slot::Loss].map(tensor);
        // Two take turns: the gradients of the residual stream, or the stream itself where no backward pass follows.
        let turns = [Slot::Input, Slot::Output].map(tensor);
        let mut shared = Slots::new();
        let mut stream = if backward { tensor(Slot::Input) } else { turns[1].clone() };
        let mut stages = Vec::new();
        for index in 0..state.stages() {
            let keeps = if backward { kept(index, state.stages()) } else { BTreeSet::new() };
            let mut slots = state.lend(index);
            slots.insert(Slot::Tokens, tokens.clone());
            slots.insert(Slot::Targets, targets.clone());
            slots.insert(Slot::Loss, losses.clone());
            slots.insert(Slot::Input, stream);
            stream = if backward { tensor(Slot::Output) } else { turns[index % 2].clone() };
            slots.insert(Slot::Output, stream.clone());
            if backward {
                slots.insert(Slot::GradInput, turns[index % 2].clone());
                slots.insert(Slot::GradOutput, turns[(index + 1) % 2].clone());
            }
            let calls = forward_calls(index, state.stages());
            let calls: Vec<&Call> =
                if backward { calls.chain(backward_calls(index, state.stages())).collect() } else { calls.collect() };
            for slot in calls.into_iter().flat_map(|call| call.writes) {
                if slots.contains_key(slot) {
                    continue;
                }
                let made =
                    if keeps.contains(slot) { tensor(*slot) } else { shared_tensor(&mut shared, *slot, &tensor) };
                slots.insert(*slot, made);
            }
            stages.push(slots);
        }
        Self { stages, tokens, targets, losses }
    }
}

fn shared_tensor(shared: &mut Slots, slot: Slot, new: &impl Fn(Slot) -> Tensor) -> Tensor {
    shared.entry(slot).or_insert_with(|| new(slot)).clone()
}

/// What one sequence takes: bytes of all activations, and of the largest, which must be bound at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) bytes: u64,
    pub(crate) largest: u64,
}

impl Footprint {
    pub(crate) fn of_sequence(shape: &Shape, backward: bool) -> Self {
        let stages = shape.model.layers as usize + 1;
        let (mut bytes, mut largest, mut shared) = (0, 0, BTreeSet::new());
        for index in 0..stages {
            let keeps = if backward { kept(index, stages) } else { BTreeSet::new() };
            let calls = forward_calls(index, stages);
            let calls: Vec<&Call> =
                if backward { calls.chain(backward_calls(index, stages)).collect() } else { calls.collect() };
            let made: BTreeSet<Slot> = calls.into_iter().flat_map(|call| call.writes).copied().collect();
            for slot in made.into_iter().filter(|slot| slot.shape().0 == Dim::Tokens) {
                let own = Layout::of(slot, shape).bytes();
                largest = largest.max(own);
                if keeps.contains(&slot) || shared.insert(slot) {
                    bytes += own;
                }
            }
        }
        Self { bytes, largest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stand_by_token_and_then_in_order() {
        assert_eq!(order_of(&[3, 1, 3, 0, 1]), [3, 1, 4, 0, 2]);
    }

    #[test]
    fn a_layer_keeps_what_its_backward_pass_reads_and_nothing_else() {
        use Slot::{
            Activated, Attended, GateUp, GradOutput, Input, InputScale, Middle, MiddleScale, NormedInput, NormedMiddle,
            Rotated, RowMax, RowScale,
        };
        let wanted = [
            GradOutput,
            Activated,
            GateUp,
            NormedMiddle,
            Middle,
            MiddleScale,
            Attended,
            Rotated,
            RowMax,
            RowScale,
            NormedInput,
            Input,
            InputScale,
        ];
        assert_eq!(kept(1, 3), wanted.into_iter().collect());
        assert!(kept(2, 3).contains(&Slot::GradLogits) && !kept(2, 3).contains(&Slot::Logits));
    }
}
