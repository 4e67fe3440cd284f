//! A batch shape's buffers and programs: made once, replayed every step.

use std::collections::BTreeSet;

use neuroshard_proto::ops::{self, Call, Dim, Slot};
use neuroshard_proto::{Fault, LayerRange, ModelSpec};

use super::attention::Scratch;
use super::device::Gpu;
use super::kernels::Tile;
use super::pipelines::Pipelines;
use super::program::{Program, Recorder};
use super::record::{Slots, Surroundings, record};
use super::state::State;
use super::tensor::{Layout, Tensor, storage};
use crate::engine::{Entry, TokenBatch};
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

/// Where the stages at hand stand in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    first: usize,
    held: usize,
    /// Stages of the whole model.
    stages: usize,
}

impl Place {
    pub(crate) fn of(model: &ModelSpec, range: LayerRange) -> Self {
        let held = range.iter().count();
        Self { first: range.start as usize, held, stages: model.layers as usize + 1 }
    }

    /// The numbers of the stages at hand in the whole model.
    fn numbers(self) -> std::ops::Range<usize> {
        self.first..self.first + self.held
    }

    /// The calls of a stage, forward.
    fn forward(self, stage: usize) -> impl Iterator<Item = &'static Call> {
        let embed: &'static [Call] = if stage == 0 { &ops::EMBED } else { &[] };
        let own: &'static [Call] = if stage + 1 == self.stages { &ops::HEAD_FORWARD } else { &ops::LAYER_FORWARD };
        embed.iter().chain(own)
    }

    /// The calls of a stage, backward.
    fn backward(self, stage: usize) -> impl Iterator<Item = &'static Call> {
        let own: &'static [Call] = if stage + 1 == self.stages { &ops::HEAD_BACKWARD } else { &ops::LAYER_BACKWARD };
        let embed: &'static [Call] = if stage == 0 { &ops::EMBED_BACKWARD } else { &[] };
        own.iter().chain(embed)
    }

    /// The activations that a stage's backward pass reads and does not make: each stage keeps its own.
    fn kept(self, stage: usize) -> BTreeSet<Slot> {
        let made: BTreeSet<Slot> = self.backward(stage).flat_map(|call| call.writes).copied().collect();
        let read = self.backward(stage).flat_map(|call| call.reads).copied();
        read.filter(|slot| slot.shape().0 == Dim::Tokens && !made.contains(slot)).collect()
    }
}

/// Forward, and perhaps backward, of some sequences through the stages at hand.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) key: PlanKey,
    pub(crate) forward: Program,
    pub(crate) backward: Program,
    /// The loss of each token in micro-nats.
    pub(crate) losses: Tensor,
    /// The residual stream that leaves the last stage, until another pass begins.
    pub(crate) left: Tensor,
    /// The gradients of the streams that left and that entered, where a pass goes backward.
    pub(crate) gradients: Option<[Tensor; 2]>,
    entered: Tensor,
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

/// What passes over one shape share: nothing in it outlives a pass.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) key: PlanKey,
    shape: Shape,
    scores: Scratch,
    tile: Option<Tile>,
    /// Two take turns: the gradients of the residual stream, or the stream itself where no backward pass follows.
    turns: [Tensor; 2],
    shared: Slots,
}

impl Room {
    pub(crate) fn new(gpu: &Gpu, state: &State, key: PlanKey, options: PlanOptions) -> Self {
        let shape = Shape::new(&state.model, count32(key.sequence), key.sequence * key.sequences);
        let scores = Scratch::new(gpu, &shape, options.scores_max, key.backward);
        let turns = [Slot::Input, Slot::Output].map(|slot| tensor(gpu, &shape, slot));
        Self { key, shape, scores, tile: options.tile, turns, shared: Slots::new() }
    }
}

fn tensor(gpu: &Gpu, shape: &Shape, slot: Slot) -> Tensor {
    Tensor::new(gpu, &format!("{slot:?}"), Layout::of(slot, shape))
}

impl Plan {
    /// A plan of its own.
    pub(crate) fn new(
        gpu: &Gpu,
        pipelines: &mut Pipelines,
        flags: &wgpu::Buffer,
        state: &State,
        key: PlanKey,
        options: PlanOptions,
    ) -> Result<Self, Fault> {
        Self::within(gpu, pipelines, flags, state, &mut Room::new(gpu, state, key, options))
    }

    /// A plan that shares a room with others: what it keeps between forward and backward is its own.
    pub(crate) fn within(
        gpu: &Gpu,
        pipelines: &mut Pipelines,
        flags: &wgpu::Buffer,
        state: &State,
        room: &mut Room,
    ) -> Result<Self, Fault> {
        let (place, key) = (state.place(), room.key);
        let activations = Activations::new(gpu, state, room);
        let shape = &room.shape;
        let order = storage(gpu, "order of tokens", 4 * shape.tokens as u64);
        let around =
            Surroundings { shape, rotary: &state.rotary, order: &order, scores: &room.scores, tile: room.tile };
        let mut rec = Recorder::new(gpu, pipelines, flags);
        for (stage, slots) in place.numbers().zip(&activations.stages) {
            for call in place.forward(stage) {
                record(&mut rec, &around, call, slots)?;
            }
        }
        let forward = rec.finish();
        let mut rec = Recorder::new(gpu, pipelines, flags);
        if key.backward {
            for (stage, slots) in place.numbers().zip(&activations.stages).rev() {
                for call in place.backward(stage) {
                    record(&mut rec, &around, call, slots)?;
                }
            }
        }
        let backward = rec.finish();
        let Activations { tokens, targets, losses, entered, left, gradients, .. } = activations;
        Ok(Self { key, forward, backward, losses, left, gradients, entered, tokens, targets, order })
    }

    /// Sets the sequences to go through next: some of a batch's.
    pub(crate) fn set_batch(&self, gpu: &Gpu, batch: &TokenBatch, first_sequence: usize) -> Result<(), Fault> {
        let first = first_sequence * self.key.sequence;
        let own = first..first + self.key.sequence * self.key.sequences;
        self.set_targets(gpu, &batch.targets[own.clone()]);
        self.set_entry(gpu, Entry::Tokens(&batch.inputs[own]))
    }

    /// Sets what enters next.
    pub(crate) fn set_entry(&self, gpu: &Gpu, entry: Entry<'_>) -> Result<(), Fault> {
        match entry {
            Entry::Stream(stream) => self.entered.upload_floats(gpu, stream),
            Entry::Tokens(tokens) => {
                gpu.queue.write_buffer(self.tokens.whole(), 0, bytemuck::cast_slice(tokens));
                gpu.queue.write_buffer(&self.order, 0, bytemuck::cast_slice(&order_of(tokens)));
                Ok(())
            }
        }
    }

    pub(crate) fn set_targets(&self, gpu: &Gpu, targets: &[u32]) {
        gpu.queue.write_buffer(self.targets.whole(), 0, bytemuck::cast_slice(targets));
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

/// The activations of the stages at hand: kept where a backward pass needs them, shared where not.
#[derive(Debug)]
struct Activations {
    stages: Vec<Slots>,
    tokens: Tensor,
    targets: Tensor,
    losses: Tensor,
    entered: Tensor,
    left: Tensor,
    gradients: Option<[Tensor; 2]>,
}

impl Activations {
    fn new(gpu: &Gpu, state: &State, room: &mut Room) -> Self {
        let Room { key: PlanKey { backward, .. }, shape, turns, shared, .. } = room;
        let (place, backward) = (state.place(), *backward);
        let tensor = |slot: Slot| tensor(gpu, shape, slot);
        let [tokens, targets, losses] = [Slot::Tokens, Slot::Targets, Slot::Loss].map(tensor);
        let entered = if backward { tensor(Slot::Input) } else { turns[1].clone() };
        let mut stream = entered.clone();
        let mut stages = Vec::new();
        for (index, stage) in place.numbers().enumerate() {
            let keeps = if backward { place.kept(stage) } else { BTreeSet::new() };
            let mut slots = state.lend(index);
            slots.insert(Slot::Tokens, tokens.clone());
            slots.insert(Slot::Targets, targets.clone());
            slots.insert(Slot::Loss, losses.clone());
            slots.insert(Slot::Input, stream);
            // Nobody here reads what leaves the last stage.
            let is_last = index + 1 == place.held;
            stream = if backward && !is_last { tensor(Slot::Output) } else { turns[index % 2].clone() };
            slots.insert(Slot::Output, stream.clone());
            if backward {
                slots.insert(Slot::GradInput, turns[index % 2].clone());
                slots.insert(Slot::GradOutput, turns[(index + 1) % 2].clone());
            }
            let calls: Vec<&Call> = if backward {
                place.forward(stage).chain(place.backward(stage)).collect()
            } else {
                place.forward(stage).collect()
            };
            for slot in calls.into_iter().flat_map(|call| call.writes) {
                if slots.contains_key(slot) {
                    continue;
                }
                let made = if keeps.contains(slot) { tensor(*slot) } else { shared_tensor(shared, *slot, &tensor) };
                slots.insert(*slot, made);
            }
            stages.push(slots);
        }
        let gradients = backward.then(|| [turns[place.held % 2].clone(), turns[0].clone()]);
        Self { stages, tokens, targets, losses, entered, left: stream, gradients }
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
    pub(crate) fn of_sequence(shape: &Shape, place: Place, backward: bool) -> Self {
        let (mut bytes, mut largest, mut shared) = (0, 0, BTreeSet::new());
        for stage in place.numbers() {
            let keeps = if backward { place.kept(stage) } else { BTreeSet::new() };
            let calls: Vec<&Call> = if backward {
                place.forward(stage).chain(place.backward(stage)).collect()
            } else {
                place.forward(stage).collect()
            };
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
        let place = Place { first: 0, held: 3, stages: 3 };
        assert_eq!(place.kept(1), wanted.into_iter().collect());
        assert!(place.kept(2).contains(&Slot::GradLogits) && !place.kept(2).contains(&Slot::Logits));
    }
}
