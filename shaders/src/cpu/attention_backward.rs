//! The backward pass of [`super::attention`]: gradients of queries, keys and values of one group over one sequence.
//!
//! Keys and values gather over the query heads of their group in order and in each over its tokens in order, so a task
//! takes a whole group. Weights are computed anew from the scores; what the forward pass kept is one maximum and one
//! scale a token.

use neuroshard_proto::Fault;

use crate::canon::{bf, exp, mul, z};

use super::attention::{
    Group, HeadRows, HeadShape, across_tokens, across_words, along_tokens, along_words, score_stride,
};
use super::gemm::{Depth, Left, Right, Start, Unpacked, product};
use super::isa::{Isa, kernel};
use super::memory::{BLOCK, Buffer, LANES, Tile, padded, pair_stride};
use super::rows::{self, Magnitude, magnitude, split};

/// Tokens whose keys' range is cut together.
const CUT: usize = 8;

/// A thread's room for attention, backward.
#[derive(Debug, Default)]
pub(crate) struct BackwardScratch {
    /// Keys and values as right operands whose columns are the tokens.
    keys: Buffer<u32>,
    values: Buffer<u32>,
    /// Keys, queries and gradients of the output as right operands whose depth is the tokens.
    keys_along: Buffer<u32>,
    queries_along: Buffer<u32>,
    grads_along: Buffer<u32>,
    /// Sixteen tokens of the output and its gradient across, and their products for every token.
    outputs_across: Buffer<u32>,
    grads_across: Buffer<u32>,
    products: Buffer<f32>,
    /// A block's scores, then weights; and the gradients of weights, then of scores.
    weights: Buffer<f32>,
    slopes: Buffer<f32>,
    /// Gradients of scores as pairs of keys; weights and gradients of scores as pairs of tokens.
    slope_pairs: Buffer<u32>,
    weights_down: Buffer<u32>,
    slopes_down: Buffer<u32>,
    /// Gradients of the group's queries, keys and values at every token, side by side.
    gradients: Buffer<f32>,
    unpacked: Unpacked,
}

impl BackwardScratch {
    /// Makes room for sequences of `tokens` tokens and `heads` query heads in a group.
    pub(crate) fn reserve(&mut self, head: HeadShape, tokens: usize, heads: usize) -> Result<(), Fault> {
        let (across, along) = (across_words(head, tokens), along_words(head, tokens.div_ceil(2)));
        self.keys.reserve(across)?;
        self.values.reserve(across)?;
        self.keys_along.reserve(along)?;
        self.queries_along.reserve(along)?;
        self.grads_along.reserve(along)?;
        self.outputs_across.reserve(across_words(head, LANES))?;
        self.grads_across.reserve(across_words(head, LANES))?;
        self.products.reserve(padded(tokens))?;
        self.weights.reserve(BLOCK * score_stride(tokens))?;
        self.slopes.reserve(BLOCK * score_stride(tokens))?;
        self.slope_pairs.reserve(BLOCK * pair_stride(tokens))?;
        self.weights_down.reserve(BLOCK / 2 * score_stride(tokens))?;
        self.slopes_down.reserve(BLOCK / 2 * score_stride(tokens))?;
        self.gradients.reserve(tokens * gradient_stride(head, heads))
    }
}

fn gradient_stride(head: HeadShape, heads: usize) -> usize {
    padded((heads + 2) * head.width)
}

/// What the forward pass kept and what comes back, with the heads of the group side by side in the rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) outputs: HeadRows<'a>,
    pub(crate) grads: HeadRows<'a>,
    /// `[head][token]`.
    pub(crate) maxima: &'a [f32],
    pub(crate) scales: &'a [f32],
}

/// `attention_backward` of a group; [`gradients`] has what comes out.
pub(crate) fn backward(
    isa: Isa,
    head: HeadShape,
    group: Group<'_>,
    kept: Kept<'_>,
    scratch: &mut BackwardScratch,
) -> Magnitude {
    let (tokens, words, stride) = (group.tokens, head.words(), gradient_stride(head, group.heads));
    across_tokens(isa, head, group.keys, 0, tokens, &mut scratch.keys);
    across_tokens(isa, head, group.values, 0, tokens, &mut scratch.values);
    along_tokens(isa, head, group.keys, 0, tokens, tokens.div_ceil(2), &mut scratch.keys_along);
    scratch.gradients[..tokens * stride].fill(0.0);
    let mut worst = 0;
    for index in 0..group.heads {
        let pass = HeadPass {
            isa,
            head,
            tokens,
            queries: group.queries.skip(index * words),
            grads: kept.grads.skip(index * words),
            maxima: &kept.maxima[index * tokens..][..tokens],
            scales: &kept.scales[index * tokens..][..tokens],
            columns: [index * head.width, group.heads * head.width, (group.heads + 1) * head.width],
            stride,
        };
        along_tokens(isa, head, pass.queries, 0, tokens, tokens.div_ceil(2), &mut scratch.queries_along);
        along_tokens(isa, head, pass.grads, 0, tokens, tokens.div_ceil(2), &mut scratch.grads_along);
        pass.multiply_outputs(kept.outputs.skip(index * words), scratch);
        for first in (0..tokens).step_by(BLOCK) {
            worst = worst.max(pass.block(first, scratch));
        }
    }
    worst
}

/// The gradients that [`backward`] left: queries of all heads, key and value of a token, side by side.
pub(crate) fn gradients(scratch: &mut BackwardScratch, head: HeadShape, heads: usize, token: usize) -> &mut [f32] {
    let stride = gradient_stride(head, heads);
    &mut scratch.gradients[token * stride..][..(heads + 2) * head.width]
}

/// One query head's part.
struct HeadPass<'a> {
    isa: Isa,
    head: HeadShape,
    tokens: usize,
    queries: HeadRows<'a>,
    grads: HeadRows<'a>,
    maxima: &'a [f32],
    scales: &'a [f32],
    /// Where the gradients of query, key and value stand in a row.
    columns: [usize; 3],
    stride: usize,
}

impl HeadPass<'_> {
    /// `b = chain(0, dy, y)` of every token, sixteen tokens side by side.
    fn multiply_outputs(&self, outputs: HeadRows<'_>, scratch: &mut BackwardScratch) {
        for first in (0..self.tokens).step_by(LANES) {
            let count = (self.tokens - first).min(LANES);
            let from = |rows: HeadRows<'_>, out: &mut [u32]| {
                across_tokens(self.isa, self.head, rows.skip(first * rows.stride), 0, count, out);
            };
            from(outputs, &mut scratch.outputs_across);
            from(self.grads, &mut scratch.grads_across);
            let length = across_words(self.head, LANES);
            let (outputs, grads) = (&scratch.outputs_across[..length], &scratch.grads_across[..length]);
            if let Some(products) = scratch.products[first..].first_chunk_mut() {
                chain_across(self.isa, grads, outputs, products);
            }
        }
    }

    /// Up to 64 tokens.
    fn block(&self, first: usize, scratch: &mut BackwardScratch) -> Magnitude {
        let (count, width) = ((self.tokens - first).min(BLOCK), self.head.width);
        let all = first + count;
        let (stride, pairs) = (score_stride(all), pair_stride(all));
        let [query, key, value] = self.columns.map(|column| column..column + width);
        let mut worst = 0;
        for top in (0..count).step_by(CUT) {
            let rows = top..(top + CUT).min(count);
            worst = worst.max(self.slopes(first, rows.clone(), all, scratch));
            let left = Left::rows(&scratch.slope_pairs[rows.start * pairs..], pairs);
            let right = Right::panels(&scratch.keys_along, self.tokens.div_ceil(2));
            let mut gradients = Tile::new(&mut scratch.gradients, self.stride, self.tokens, self.stride);
            let out = gradients.sub(first + rows.start..first + rows.end, query.clone());
            product(self.isa, left, right, Depth::of(first + rows.end), Start::Zero, out, &mut scratch.unpacked);
        }
        for pair in 0..count.div_ceil(2) {
            let down = |rows: &[f32], out: &mut [u32]| {
                let (earlier, out) = (&rows[2 * pair * stride..], &mut out[pair * stride..][..all]);
                // A token that is not there weighs nothing.
                if 2 * pair + 1 < count {
                    rows::pairs_down(self.isa, &earlier[..all], &earlier[stride..][..all], out);
                } else {
                    rows::pairs_alone(self.isa, &earlier[..all], out);
                }
            };
            down(&scratch.weights, &mut scratch.weights_down);
            down(&scratch.slopes, &mut scratch.slopes_down);
        }
        let mut gradients = Tile::new(&mut scratch.gradients, self.stride, self.tokens, self.stride);
        let room = self.tokens.div_ceil(2);
        for (left, right, columns) in
            [(&scratch.slopes_down, &scratch.queries_along, key), (&scratch.weights_down, &scratch.grads_along, value)]
        {
            let right = Right::panels(&right[first / 2 * LANES..], room);
            let out = gradients.sub(0..all, columns);
            product(
                self.isa,
                Left::columns(left, stride),
                right,
                Depth::of(count),
                Start::Output,
                out,
                &mut scratch.unpacked,
            );
        }
        worst
    }

    /// Weights and gradients of scores of a few tokens of a block.
    fn slopes(
        &self,
        first: usize,
        rows: std::ops::Range<usize>,
        all: usize,
        scratch: &mut BackwardScratch,
    ) -> Magnitude {
        let (keys, stride) = (first + rows.end, score_stride(all));
        for (rows_of, right, out) in
            [(self.queries, &scratch.keys, &mut scratch.weights), (self.grads, &scratch.values, &mut scratch.slopes)]
        {
            let left = Left::rows(&rows_of.words[(first + rows.start) * rows_of.stride..], rows_of.stride);
            let out = Tile::new(&mut out[rows.start * stride..], stride, rows.len(), padded(keys));
            let right = Right::panels(right, self.head.words());
            product(self.isa, left, right, Depth::of(self.head.width), Start::Zero, out, &mut scratch.unpacked);
        }
        let mut worst = 0;
        for row in rows {
            let token = first + row;
            let constants = Constants {
                scale: self.head.scale,
                maximum: self.maxima[token],
                reciprocal: self.scales[token],
                product: scratch.products[token],
            };
            let weights = &mut scratch.weights[row * stride..][..padded(all)];
            let slopes = &mut scratch.slopes[row * stride..][..padded(all)];
            let pairs = &mut scratch.slope_pairs[row * pair_stride(all)..][..padded(all) / 2];
            worst = worst.max(slope(self.isa, weights, slopes, token + 1, constants, pairs));
        }
        worst
    }
}

/// The numbers of a token.
#[derive(Clone, Copy, Debug)]
struct Constants {
    scale: f32,
    /// The greatest score.
    maximum: f32,
    /// One over the sum of exponentials.
    reciprocal: f32,
    /// `chain(0, dy, y)`.
    product: f32,
}

kernel! {
    /// One token: scores and gradients of weights in, `bf` of weights and gradients of scores out, zeros from `seen` on.
    fn slope(
        weights: &mut [f32], slopes: &mut [f32], seen: usize, constants: Constants, pairs: &mut [u32],
    ) -> Magnitude {
        let Constants { scale, maximum, reciprocal, product } = constants;
        let reach = seen.next_multiple_of(LANES);
        // Keys that come later: the exponential of this number is zero, and then so is all that follows from it.
        weights[seen..reach].fill(f32::MIN);
        slopes[seen..reach].fill(0.0);
        let mut worst = [0; LANES];
        let slope_lanes = slopes[..reach].as_chunks_mut::<LANES>().0;
        for (weights, slopes) in weights[..reach].as_chunks_mut::<LANES>().0.iter_mut().zip(slope_lanes) {
            for i in 0..LANES {
                let p = mul(exp(z(mul(weights[i], scale) - maximum)), reciprocal);
                let ds = mul(mul(p, z(slopes[i] - product)), scale);
                worst[i] = worst[i].max(magnitude(ds));
                weights[i] = bf(p);
                slopes[i] = bf(ds);
            }
        }
        weights[reach..].fill(0.0);
        slopes[reach..].fill(0.0);
        rows::write_pairs(slopes, pairs);
        worst.into_iter().fold(0, u32::max)
    }
}

kernel! {
    /// `chain(0, a, b)` over the pairs of a head's width, sixteen tokens side by side.
    fn chain_across(a: &[u32], b: &[u32], out: &mut [f32; LANES]) {
        let mut acc = [0.0; LANES];
        for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                let ([a0, a1], [b0, b1]) = (split(a[i]), split(b[i]));
                acc[i] += a0 * b0;
                acc[i] += a1 * b1;
            }
        }
        *out = acc;
    }
}
