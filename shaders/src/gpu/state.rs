//! A model's state on the device, and what runs over it without a batch: casts to operands, gradient norms, AdamW.

use std::ops::Range;

use bytemuck::{Pod, Zeroable, bytes_of, cast_slice};
use neuroshard_proto::ops::Slot;
use neuroshard_proto::{DType, Fault, LayerIndex, LayerRange, ModelSpec};

use super::device::Gpu;
use super::kernels;
use super::pipelines::{Pipelines, Variant};
use super::plan::Place;
use super::program::{Extent, Program, Recorder, uniform};
use super::record::{Slots, cast};
use super::tensor::{Layout, Staging, Tensor, count, cut, storage};
use crate::engine::Part;
use crate::layout::{LayerLayout, tensor_slots};
use crate::optimizer::Rates;
use crate::values::Shape;

/// The flag words: a batch's values, and the weights'.
pub(crate) const BATCH_FLAG: u32 = 0;
pub(crate) const WEIGHTS_FLAG: u32 = 1;

/// The uniform `Rates` of `adamw.wgsl`; `sum_squares.wgsl` reads its first member.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RateWords {
    token_weight: f32,
    clip_factor: f32,
    rate: f32,
    beta1: [f32; 2],
    beta2: [f32; 2],
    corrections: [f32; 2],
    epsilon: f32,
    weight_decay: f32,
    padding: f32,
}

/// Sets the numbers of an optimizer step.
pub(crate) fn write_rates(gpu: &Gpu, buffer: &wgpu::Buffer, rates: &Rates) {
    let words = RateWords {
        token_weight: rates.token_weight,
        clip_factor: rates.clip_factor,
        rate: rates.rate,
        beta1: rates.beta1,
        beta2: rates.beta2,
        corrections: rates.corrections,
        epsilon: rates.epsilon,
        weight_decay: rates.weight_decay,
        padding: 0.0,
    };
    gpu.queue.write_buffer(buffer, 0, bytes_of(&words));
}

/// A buffer for [`write_rates`].
pub(crate) fn rates_buffer(gpu: &Gpu) -> wgpu::Buffer {
    uniform(gpu, "rates", size_of::<RateWords>() as u64)
}

/// Sets the weight of a token, all that the norms need of the rates.
pub(crate) fn write_token_weight(gpu: &Gpu, buffer: &wgpu::Buffer, token_weight: f32) {
    gpu.queue.write_buffer(buffer, 0, bytes_of(&token_weight));
}

/// One operand of the operation table among the weights: one tensor of the model, or several that stand together.
#[derive(Debug)]
struct Group {
    weight: Slot,
    gradient_slot: Slot,
    /// Its elements among the stage's.
    range: Range<usize>,
    /// The model's tensors in it: first row and rows.
    members: Vec<(usize, usize)>,
    decays: bool,
    weights: Tensor,
    moments: [Tensor; 2],
    gradient: Tensor,
    /// The weights as bfloat16, where they are a product's operand.
    operand: Option<Tensor>,
}

impl Group {
    fn part(&self, part: Part) -> &Tensor {
        match part {
            Part::Weights => &self.weights,
            Part::Moments1 => &self.moments[0],
            Part::Moments2 => &self.moments[1],
        }
    }

    /// Where the gradients of the model's tensors in it stand.
    fn spans(&self) -> impl Iterator<Item = Span<'_>> {
        self.members.iter().map(|rows| Span { tensor: &self.gradient, rows: *rows })
    }
}

#[derive(Debug)]
struct Stage {
    elements: usize,
    groups: Vec<Group>,
}

/// The state of a model, or of some of its stages.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) model: ModelSpec,
    pub(crate) range: LayerRange,
    /// `rotary[position][pair]`, cosine in the high half of a word and sine in the low half.
    pub(crate) rotary: wgpu::Buffer,
    pub(crate) rates: wgpu::Buffer,
    /// One squared norm for each stage, after [`State::norms`] ran.
    pub(crate) stage_norms: wgpu::Buffer,
    /// Weights to operands.
    pub(crate) casts: Program,
    pub(crate) norms: Program,
    /// AdamW over everything.
    pub(crate) update: Program,
    /// The weights changed since `casts` ran.
    pub(crate) stale: bool,
    stages: Vec<Stage>,
}

impl State {
    /// Room for these stages of a model, all zeros. No buffer is larger than `bytes_max`.
    pub(crate) fn new(
        gpu: &Gpu,
        pipelines: &mut Pipelines,
        flags: &wgpu::Buffer,
        model: &ModelSpec,
        range: LayerRange,
        bytes_max: u64,
    ) -> Result<Self, Fault> {
        let shape = Shape::new(model, 1, 1);
        let stages =
            range.iter().map(|layer| Stage::new(gpu, &shape, layer, bytes_max)).collect::<Result<Vec<_>, _>>()?;
        let rates = rates_buffer(gpu);
        let stage_norms = storage(gpu, "norms", 4 * stages.len() as u64);
        let mut rec = Recorder::new(gpu, pipelines, flags);
        for group in stages.iter().flat_map(|stage| &stage.groups) {
            if let Some(operand) = &group.operand {
                cast(&mut rec, &group.weights, operand, WEIGHTS_FLAG);
            }
        }
        let casts = rec.finish();
        let mut rec = Recorder::new(gpu, pipelines, flags);
        let spans: Vec<Vec<Span<'_>>> = stages.iter().map(Stage::spans).collect();
        squared_norms(&mut rec, &rates, &spans, &stage_norms);
        let norms = rec.finish();
        let mut rec = Recorder::new(gpu, pipelines, flags);
        for group in stages.iter().flat_map(|stage| &stage.groups) {
            adamw(
                &mut rec,
                &rates,
                group.decays,
                [&group.weights, &group.moments[0], &group.moments[1], &group.gradient],
            );
        }
        let update = rec.finish();
        let rotary = rotary(gpu, &shape);
        Ok(Self { model: *model, range, rotary, rates, stage_norms, casts, norms, update, stale: true, stages })
    }

    /// Stages that are held, the head's included.
    pub(crate) fn stages(&self) -> usize {
        self.stages.len()
    }

    /// Where the stages that are held stand in the model.
    pub(crate) fn place(&self) -> Place {
        Place::of(&self.model, self.range)
    }

    /// The operands that a stage's weights and gradients are to the operation table.
    pub(crate) fn lend(&self, stage: usize) -> Slots {
        let mut slots = Slots::new();
        for group in &self.stages[stage].groups {
            slots.insert(group.weight, group.operand.as_ref().unwrap_or(&group.weights).clone());
            slots.insert(group.gradient_slot, group.gradient.clone());
        }
        slots
    }

    pub(crate) fn clear_gradients(&self, encoder: &mut wgpu::CommandEncoder) {
        for block in self.stages.iter().flat_map(|stage| &stage.groups).flat_map(|group| &group.gradient.blocks) {
            encoder.clear_buffer(&block.buffer, 0, None);
        }
    }

    fn stage(&self, layer: LayerIndex, elements: usize) -> Result<&Stage, Fault> {
        let place = layer.0.checked_sub(self.range.start).map(|place| place as usize);
        let stage = place.and_then(|place| self.stages.get(place)).filter(|stage| stage.elements == elements);
        stage.ok_or_else(|| Fault::bad_job(&format!("no stage {} of {elements} parameters is held", layer.0)))
    }

    pub(crate) fn write(&mut self, gpu: &Gpu, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
        for group in &self.stage(layer, values.len())?.groups {
            group.part(part).upload_floats(gpu, &values[group.range.clone()])?;
        }
        self.stale |= part == Part::Weights;
        Ok(())
    }

    pub(crate) fn read(
        &self,
        gpu: &Gpu,
        staging: &mut Staging,
        part: Part,
        layer: LayerIndex,
        out: &mut [f32],
    ) -> Result<(), Fault> {
        for group in &self.stage(layer, out.len())?.groups {
            group.part(part).download_floats(gpu, staging, &mut out[group.range.clone()])?;
        }
        Ok(())
    }
}

impl Stage {
    fn new(gpu: &Gpu, shape: &Shape, layer: LayerIndex, bytes_max: u64) -> Result<Self, Fault> {
        let layout = LayerLayout::new(&shape.model, layer);
        let group = |(weight, gradient_slot, range): (Slot, Slot, Range<usize>)| {
            let own = || layout.tensors.iter().filter(|tensor| range.contains(&tensor.range.start));
            let mut first_row = 0;
            let mut member = |rows: usize| {
                first_row += rows;
                (first_row - rows, rows)
            };
            let members: Vec<(usize, usize)> = own().map(|tensor| member(tensor.spec.rows as usize)).collect();
            let decays = own().all(|tensor| tensor.spec.kind.decays());
            let float = Layout::of(gradient_slot, shape);
            let blocks = cut(&float, &members, bytes_max)?;
            let tensor = |label, layout| Tensor::in_blocks(gpu, label, layout, &blocks);
            let operand = Layout::of(weight, shape);
            Ok(Group {
                weight,
                gradient_slot,
                range,
                members,
                decays,
                weights: tensor("weights", float),
                moments: [tensor("first moments", float), tensor("second moments", float)],
                gradient: tensor("gradient", float),
                operand: (operand.dtype == DType::Bf16).then(|| tensor("operand", operand)),
            })
        };
        let groups = tensor_slots(&layout).into_iter().map(group).collect::<Result<_, Fault>>()?;
        Ok(Self { elements: layout.elements, groups })
    }

    /// The model's tensors of this stage in canonical order.
    fn spans(&self) -> Vec<Span<'_>> {
        self.groups.iter().flat_map(Group::spans).collect()
    }
}

/// One of the model's tensors in a gradient: first row and rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub(crate) tensor: &'a Tensor,
    pub(crate) rows: (usize, usize),
}

/// Adds the squared norm of each stage's tensors.
pub(crate) fn squared_norms(
    rec: &mut Recorder<'_>,
    rates: &wgpu::Buffer,
    stages: &[Vec<Span<'_>>],
    norms: &wgpu::Buffer,
) {
    let trees = |span: &Span<'_>| (span.rows.1 * span.tensor.layout.width).div_ceil(256);
    let all: usize = stages.iter().flatten().map(trees).sum();
    let totals = storage(rec.gpu, "totals of trees", 4 * all as u64);
    let (mut of_tensors, mut of_stages): (Vec<[u32; 2]>, Vec<[u32; 2]>) = (Vec::new(), Vec::new());
    let mut first_total = 0;
    for stage in stages {
        of_stages.push([count(of_tensors.len()), count(stage.len())]);
        for span in stage {
            of_tensors.push([count(first_total), count(trees(span))]);
            square_blocks(rec, rates, span, first_total, &totals);
            first_total += trees(span);
        }
    }
    let gpu = rec.gpu;
    let upload = |label, spans: &[[u32; 2]]| {
        let buffer = storage(gpu, label, 8 * spans.len() as u64);
        gpu.queue.write_buffer(&buffer, 0, cast_slice(spans));
        buffer
    };
    let (tensors, stages) = (upload("tensors", &of_tensors), upload("stages", &of_stages));
    let params = [("count", 0), ("width", 0), ("stride", 0), ("first_row", 0), ("first_total", 0)];
    let buffers = [("totals", &totals), ("tensors", &tensors), ("stages", &stages), ("norms", norms)];
    let extent = Extent::groups(of_stages.len());
    rec.dispatch(&kernels::SUM_SQUARES_STAGES, Variant::default(), &params, &buffers, extent);
}

/// Adds the totals of one tensor's trees.
fn square_blocks(
    rec: &mut Recorder<'_>,
    rates: &wgpu::Buffer,
    span: &Span<'_>,
    first_total: usize,
    totals: &wgpu::Buffer,
) {
    let (layout, (first, rows)) = (&span.tensor.layout, span.rows);
    for block in &span.tensor.blocks {
        // A block holds several whole tensors, or a part of one that starts where a tree does.
        let start = block.first_row.max(first);
        let end = (block.first_row + block.rows).min(first + rows);
        if start >= end {
            continue;
        }
        let elements = (end - start) * layout.width;
        let params = [
            ("count", count(elements)),
            ("width", count(layout.width)),
            ("stride", count(layout.stride())),
            ("first_row", count(start - block.first_row)),
            ("first_total", count(first_total + (start - first) * layout.width / 256)),
        ];
        let buffers = [("weighting", rates), ("gradient", &block.buffer), ("totals", totals)];
        let extent = Extent::groups(elements.div_ceil(256));
        rec.dispatch(&kernels::SUM_SQUARES_BLOCKS, Variant::default(), &params, &buffers, extent);
    }
}

/// Adds AdamW over a tensor: weights, first and second moments, and the gradient, which it clears.
pub(crate) fn adamw(
    rec: &mut Recorder<'_>,
    rates: &wgpu::Buffer,
    decays: bool,
    [weights, moments1, moments2, gradient]: [&Tensor; 4],
) {
    for (i, block) in weights.blocks.iter().enumerate() {
        let count4 = block.rows * weights.layout.stride() / 4;
        let params = [("count4", count(count4)), ("decays", u32::from(decays))];
        let buffers = [
            ("rates", rates),
            ("weights", &block.buffer),
            ("moments1", &moments1.blocks[i].buffer),
            ("moments2", &moments2.blocks[i].buffer),
            ("gradients", &gradient.blocks[i].buffer),
        ];
        rec.dispatch(&kernels::ADAMW, Variant::default(), &params, &buffers, Extent::threads(count4));
    }
}

/// The model's rotations on the device.
pub(crate) fn rotary(gpu: &Gpu, shape: &Shape) -> wgpu::Buffer {
    let words: Vec<u32> = shape.rotary.iter().map(|[cosine, sine]| cosine.to_bits() | sine.to_bits() >> 16).collect();
    let buffer = storage(gpu, "rotations", 4 * words.len() as u64);
    gpu.queue.write_buffer(&buffer, 0, cast_slice(&words));
    buffer
}
