//! A model's weights, moments and gradients, and the weights once more as products read them.

use std::collections::BTreeMap;
use std::ops::Range;

use neuroshard_proto::ops::{Op, Slot};
use neuroshard_proto::{F32, Fault, LayerIndex, ModelSpec, mutant};

use crate::canon::{TREE, bf};
use crate::layout::{LayerLayout, single, tensor_slots};
use crate::optimizer::Rates;

use super::gemm::Right;
use super::isa::{Isa, kernel};
use super::memory::{Buffer, LANES, Tile, cuts};
use super::pass::Crew;
use super::rows::{self, Magnitude, magnitude, pair};

/// Rows of a matrix that one task updates.
const STRIPE: usize = 2 * LANES;
/// Elements of a gradient that one task squares.
const SQUARES: usize = 64 * TREE;

/// A weight matrix `[rows, cols]` in bfloat16, twice: as the right operand of `y = x W^T` and of `dx = dy W`.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) slot: Slot,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Columns are the rows of the matrix, depth its columns.
    forward: Buffer<u32>,
    /// Columns are the columns of the matrix, depth its rows.
    backward: Buffer<u32>,
}

impl Matrix {
    pub(crate) fn new(slot: Slot, rows: usize, cols: usize) -> Result<Self, Fault> {
        let forward = Buffer::new(rows.next_multiple_of(LANES) * cols.div_ceil(2))?;
        let backward = Buffer::new(cols.next_multiple_of(LANES) * rows.div_ceil(2))?;
        Ok(Self { slot, rows, cols, forward, backward })
    }

    /// The right operand of `y = x W^T`.
    pub(crate) fn forward(&self) -> Right<'_> {
        Right::panels(&self.forward, self.cols.div_ceil(2))
    }

    /// The right operand of `dx = dy W`.
    pub(crate) fn backward(&self) -> Right<'_> {
        Right::panels(&self.backward, self.rows.div_ceil(2))
    }

    /// Cuts the packed forms into what stripes of rows fill.
    fn stripes(&mut self) -> impl Iterator<Item = (&mut [u32], Tile<'_, u32>)> {
        let depth = self.rows.div_ceil(2) * LANES;
        let panels = self.cols.div_ceil(LANES);
        let backward = Tile::new(&mut self.backward, depth, panels, depth);
        let forward = self.forward.chunks_mut(STRIPE * self.cols.div_ceil(2));
        forward.zip(backward.grid(&[panels], &cuts(depth, STRIPE / 2 * LANES)))
    }

    /// Packs weights given in row-major order; returns the largest magnitude.
    pub(crate) fn pack(&mut self, crew: &Crew, weights: &[f32]) -> Magnitude {
        let cols = self.cols;
        let stripe_len = STRIPE * cols;
        let items: Vec<_> = weights.chunks(stripe_len).zip(self.stripes()).collect();
        let worst = Worst::default();
        crew.for_each(items, |_, (weights, (forward, backward))| {
            worst.see(pack(crew.isa, weights, cols, forward, backward));
        });
        worst.get()
    }
}

/// The largest magnitude that any thread saw.
#[derive(Debug, Default)]
pub(crate) struct Worst(std::sync::atomic::AtomicU32);

impl Worst {
    pub(crate) fn see(&self, magnitude: Magnitude) {
        self.0.fetch_max(magnitude, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Magnitude {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Packs a matrix as the right operand of `y = x W^T` alone; returns the largest magnitude.
pub(crate) fn pack_forward(isa: Isa, weights: &[f32], cols: usize, out: &mut [u32]) -> Magnitude {
    for (rows, out) in weights.chunks(LANES * cols).zip(out.chunks_mut(LANES * cols.div_ceil(2))) {
        pack_across(isa, rows, cols, out);
    }
    weights.iter().map(|weight| magnitude(*weight)).fold(0, u32::max)
}

/// Rounds a stripe of rows to bfloat16 and packs it both ways.
fn pack(isa: Isa, weights: &[f32], cols: usize, forward: &mut [u32], mut backward: Tile<'_, u32>) -> Magnitude {
    for (rows, out) in weights.chunks(LANES * cols).zip(forward.chunks_mut(LANES * cols.div_ceil(2))) {
        pack_across(isa, rows, cols, out);
    }
    let mut worst = 0;
    for panel in 0..backward.rows() {
        worst = worst.max(pack_down(isa, weights, cols, panel * LANES, backward.row(panel)));
    }
    worst
}

kernel! {
    /// Up to 16 rows to `[pair of columns][row]`.
    fn pack_across(rows: &[f32], cols: usize, out: &mut [u32]) {
        for (lane, row) in rows.chunks_exact(cols).enumerate() {
            let mut words = out.iter_mut().skip(lane).step_by(LANES);
            let (pairs, last) = row.as_chunks::<2>();
            for ([earlier, later], out) in pairs.iter().zip(&mut words) {
                *out = pair(bf(*earlier), bf(*later));
            }
            if let ([last], Some(out)) = (last, words.next()) {
                *out = pair(bf(*last), 0.0);
            }
        }
    }
}

kernel! {
    /// Sixteen columns, from `first` on, to `[pair of rows][column]`.
    fn pack_down(weights: &[f32], cols: usize, first: usize, out: &mut [u32]) -> Magnitude {
        let mut worst = [0; LANES];
        for (rows, out) in weights.chunks(2 * cols).zip(out.as_chunks_mut::<LANES>().0) {
            let (earlier, later) = rows.split_at(cols);
            let (earlier, later) = (columns(earlier, first), columns(later, first));
            for i in 0..LANES {
                worst[i] = worst[i].max(magnitude(earlier[i])).max(magnitude(later[i]));
                out[i] = pair(bf(earlier[i]), bf(later[i]));
            }
        }
        worst.into_iter().fold(0, u32::max)
    }
}

/// Sixteen columns of a row, with zeros beyond its end.
#[inline(always)]
fn columns(row: &[f32], first: usize) -> [f32; LANES] {
    let row = row.get(first..).unwrap_or_default();
    row.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0.0; LANES];
        padded[..row.len()].copy_from_slice(row);
        padded
    })
}

/// One stage.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) layout: LayerLayout,
    /// Weights, first and second moments.
    pub(crate) parts: [Buffer<f32>; 3],
    pub(crate) gradient: Buffer<f32>,
    pub(crate) matrices: Vec<Matrix>,
    slots: Vec<(Slot, Slot, Range<usize>)>,
}

impl Stage {
    pub(crate) fn new(model: &ModelSpec, layer: LayerIndex) -> Result<Self, Fault> {
        let layout = LayerLayout::new(model, layer);
        let vector = || Buffer::new(layout.elements);
        let slots = tensor_slots(&layout);
        let (hidden, qkv, ffn) = (model.hidden as usize, model.qkv_width() as usize, model.ffn as usize);
        let mut matrices = Vec::new();
        for (slot, _, _) in &slots {
            let (rows, cols) = match slot {
                Slot::QkvWeight => (qkv, hidden),
                Slot::OutputWeight => (hidden, hidden),
                Slot::GateUpWeight => (2 * ffn, hidden),
                Slot::DownWeight => (hidden, ffn),
                Slot::HeadWeight => (model.vocab as usize, hidden),
                _ => continue,
            };
            matrices.push(Matrix::new(*slot, rows, cols)?);
        }
        Ok(Self { parts: [vector()?, vector()?, vector()?], gradient: vector()?, layout, matrices, slots })
    }

    /// Where a slot's values lie in the stage's vectors.
    ///
    /// # Panics
    /// If the stage has no such tensor.
    pub(crate) fn place(&self, slot: Slot) -> Range<usize> {
        let found = self.slots.iter().find(|(weight, gradient, _)| *weight == slot || *gradient == slot);
        found.map(|(_, _, range)| range.clone()).expect("the stage has the tensor")
    }

    /// The gradients of all slots, named by their weights.
    pub(crate) fn gradients(&mut self) -> BTreeMap<Slot, &mut [f32]> {
        let mut rest = &mut self.gradient[..];
        let mut parts = BTreeMap::new();
        // Slots cover the vector end to end.
        for (slot, _, range) in &self.slots {
            let (own, others) = rest.split_at_mut(range.len());
            rest = others;
            parts.insert(*slot, own);
        }
        parts
    }

    pub(crate) fn weights(&self, slot: Slot) -> &[f32] {
        &self.parts[0][self.place(slot)]
    }

    /// # Panics
    /// If the stage has no such matrix.
    pub(crate) fn matrix(&self, slot: Slot) -> &Matrix {
        self.matrices.iter().find(|matrix| matrix.slot == slot).expect("the stage has the matrix")
    }

    /// Packs all matrices; returns the largest magnitude of a weight.
    pub(crate) fn pack(&mut self, crew: &Crew) -> Magnitude {
        let mut worst = 0;
        for matrix in &mut self.matrices {
            let found = self.slots.iter().find(|(slot, ..)| *slot == matrix.slot);
            let range = found.map(|(_, _, range)| range.clone()).unwrap_or_default();
            worst = worst.max(matrix.pack(crew, &self.parts[0][range]));
        }
        worst
    }
}

/// A stripe of a tensor that the optimizer works on.
struct Stripe<'a> {
    decay: bool,
    parts: [&'a mut [f32]; 3],
    gradient: &'a mut [f32],
    packed: Option<(usize, &'a mut [u32], Tile<'a, u32>)>,
}

/// AdamW on all stages: new weights and moments, cleared gradients, and the weights packed for the next step. Returns the
/// largest magnitude of a matrix' weight.
pub(crate) fn step(crew: &Crew, stages: &mut [Stage], rates: &Rates) -> Magnitude {
    let mut items = Vec::new();
    for stage in stages {
        let [weights, moments1, moments2] = &mut stage.parts;
        let mut rest: [&mut [f32]; 4] = [weights, moments1, moments2, &mut stage.gradient];
        let mut matrices = stage.matrices.iter_mut();
        // Slots cover the stage's vectors end to end, in the order of their matrices.
        for (slot, _, range) in &stage.slots {
            let [weights, moments1, moments2, gradient] = rest;
            let (weights, rest_w) = weights.split_at_mut(range.len());
            let (moments1, rest_m) = moments1.split_at_mut(range.len());
            let (moments2, rest_v) = moments2.split_at_mut(range.len());
            let (gradient, rest_g) = gradient.split_at_mut(range.len());
            rest = [rest_w, rest_m, rest_v, rest_g];
            let matrix = if is_matrix(*slot) { matrices.next() } else { None };
            let (size, cols) = matrix.as_ref().map_or((SQUARES, 0), |matrix| (STRIPE * matrix.cols, matrix.cols));
            let decay = matrix.is_some() || *slot == Slot::EmbeddingWeight || mutant("gains decay");
            let mut stripes = matrix.map(Matrix::stripes);
            let chunks = weights.chunks_mut(size).zip(moments1.chunks_mut(size)).zip(moments2.chunks_mut(size));
            for (((weights, moments1), moments2), gradient) in chunks.zip(gradient.chunks_mut(size)) {
                let packed = stripes.as_mut().and_then(Iterator::next).map(|(across, down)| (cols, across, down));
                items.push(Stripe { decay, parts: [weights, moments1, moments2], gradient, packed });
            }
        }
    }
    let worst = Worst::default();
    crew.for_each(items, |scratch, stripe| {
        let Stripe { decay, parts: [weights, moments1, moments2], gradient, packed } = stripe;
        adamw(crew.isa, rates, decay, [&mut *weights, moments1, moments2], gradient);
        gradient.fill(0.0);
        if let Some((cols, forward, backward)) = packed {
            worst.see(pack(crew.isa, weights, cols, forward, backward));
        }
        scratch.watch.lap(Op::AdamW);
    });
    worst.get()
}

fn is_matrix(slot: Slot) -> bool {
    matches!(slot.shape(), (_, _, neuroshard_proto::DType::Bf16))
}

kernel! {
    /// `adamw` on some elements.
    pub(crate) fn adamw(rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) {
        let [weights, moments1, moments2] = parts.map(|part| &mut part[..gradient.len()]);
        let rates = *rates;
        for (((w, m), v), g) in weights.iter_mut().zip(moments1).zip(moments2).zip(gradient) {
            [*w, *m, *v] = rates.update(decay, [*w, *m, *v, *g]);
        }
    }
}

/// The squared norms of all stages' gradients, if every element is in range.
pub(crate) fn squared_norms(crew: &Crew, stages: &[Stage], token_weight: F32) -> Option<Vec<F32>> {
    let tensors = stages.iter().map(|stage| {
        stage.layout.tensors.iter().map(|tensor| &stage.gradient[tensor.range.clone()]).collect::<Vec<_>>()
    });
    let tensors: Vec<Vec<&[f32]>> = tensors.collect();
    let all: Vec<&[f32]> = tensors.iter().flatten().copied().collect();
    let sums = sums_of_squares(crew, &all, single(token_weight))?;
    let mut sums = sums.into_iter();
    let norm = |tensors: &Vec<&[f32]>| {
        let total = sums.by_ref().take(tensors.len()).fold(0.0, |total: f32, sum| total + sum);
        F32::from_bits(total.to_bits())
    };
    Some(tensors.iter().map(norm).collect())
}

/// `sum_squares` of some tensors, if every element is in range.
pub(crate) fn sums_of_squares(crew: &Crew, tensors: &[&[f32]], token_weight: f32) -> Option<Vec<f32>> {
    let blocks = |tensor: &&[f32]| tensor.len().div_ceil(TREE);
    let mut sums = vec![0.0; tensors.iter().map(blocks).sum()];
    let (mut items, mut rest) = (Vec::new(), &mut sums[..]);
    for tensor in tensors {
        let (own, others) = rest.split_at_mut(blocks(tensor));
        rest = others;
        items.extend(tensor.chunks(SQUARES).zip(own.chunks_mut(SQUARES / TREE)));
    }
    let worst = Worst::default();
    crew.for_each(items, |scratch, (gradient, sums)| {
        worst.see(rows::block_squares(crew.isa, gradient, token_weight, sums));
        scratch.watch.lap(Op::SumSquares);
    });
    if !rows::fits(worst.get()) {
        return None;
    }
    let mut sums = sums.into_iter();
    let total = |tensor| sums.by_ref().take(blocks(tensor)).fold(0.0, |total: f32, sum| total + sum);
    Some(tensors.iter().map(total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::Pool;
    use crate::reference;

    #[test]
    fn squares_are_summed_as_the_reference_does() {
        let gradient: Vec<f32> =
            (0..70_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32 as f32) * 1e-9).collect();
        let crew = Crew::new(Isa::best(), Pool::new(2, || ()));
        for count in [0, 1, 256, 257, 70_001] {
            let got = sums_of_squares(&crew, &[&gradient[..count]], 0.37).unwrap()[0];
            assert_eq!(got.to_bits(), reference::sum_squares(&gradient[..count], 0.37).unwrap().to_bits());
        }
        let spoiled = [1.0, f32::NAN];
        assert!(sums_of_squares(&crew, &[&gradient, &spoiled], 1.0).is_none());
    }
}
