//! The backward pass: from the gradient of the residual stream under the head to the gradients of all weights.
//!
//! A layer is three rounds of work: blocks of tokens down to the attention's output; heads of sequences; blocks of tokens
//! down to the layer's input. Then come the gradients of weights, which run over all tokens in order: tiles of them, each
//! on some thread.

use neuroshard_proto::ops::{Op, Slot};

use super::attention::{Group, HeadRows};
use super::attention_backward::{self, Kept as HeadsKept};
use super::gemm::{Depth, Left, Right, Start, Unpacked, product};
use super::isa::Isa;
use super::memory::{LANES, Tile, TokenPanels, cuts};
use super::pass::{Crew, Cx, GAINS, Gradients, HeadKept, LayerKept, Missing, Scratch, blocks, blocks_mut, group_words};
use super::rows;
use super::state::Stage;

/// Rows and columns of a weight's gradient that one task makes.
const GRADIENT_ROWS: usize = 64;
const GRADIENT_COLS: usize = 512;
/// Columns of a sum over rows that one task makes.
const SUM_COLS: usize = 64;

/// What a backward pass runs over, after [`super::forward::forward`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone<'a> {
    pub(crate) tokens: usize,
    /// The tokens themselves, if they entered.
    pub(crate) inputs: Option<&'a [u32]>,
    pub(crate) layers: &'a [LayerKept],
    /// The head, if the pass ended there.
    pub(crate) head: Option<&'a HeadKept>,
}

/// Adds the gradients of some stages: from the gradient of the stream that left them, or that entered the head, to that of the
/// stream that entered them, both in `grads.stream`.
pub(crate) fn backward(crew: &Crew, cx: Cx<'_>, stages: &mut [Stage], gone: Gone<'_>, grads: &mut Gradients) {
    let Gone { tokens, inputs, layers, head } = gone;
    if let (Some(stage), Some(head)) = (stages.last_mut(), head) {
        let matrices = [(Slot::HeadWeight, &head.grad_logits, &head.normed)];
        let sums = [(Slot::FinalGain, &grads.terms[0][..])];
        gather(crew, cx, stage, &matrices, &sums, tokens);
    }
    for (stage, kept) in stages.iter_mut().zip(layers).rev() {
        leave(crew, cx, stage, kept, grads, tokens);
        attend(crew, cx, kept, grads, tokens);
        enter(crew, cx, stage, kept, grads, tokens);
        let matrices = [
            (Slot::GateUpWeight, &grads.gate_up, &kept.normed_middle),
            (Slot::DownWeight, &grads.output, &kept.activated),
            (Slot::QkvWeight, &grads.qkv, &kept.normed_input),
            (Slot::OutputWeight, &grads.middle, &grads.attended_panels),
        ];
        let sums = [(GAINS[0], &grads.terms[0][..]), (GAINS[1], &grads.terms[1][..])];
        gather(crew, cx, stage, &matrices, &sums, tokens);
    }
    if let (Some(stage), Some(inputs)) = (stages.first_mut(), inputs) {
        let place = stage.place(Slot::EmbeddingWeight);
        embed_backward(crew, cx, &grads.stream, inputs, &mut stage.gradient[place]);
    }
}

/// A block of tokens from the end of a layer to the attention's output.
struct Leave<'a> {
    gate_up: &'a [f32],
    middle: &'a [f32],
    scale: &'a [f32],
    stream: &'a mut [f32],
    terms: &'a mut [f32],
    grad_output: &'a mut [u32],
    grad_gate_up: &'a mut [u32],
    grad_middle: &'a mut [u32],
    grad_attended: &'a mut [u32],
    /// What attention put out, as rows and as panels.
    attended: &'a [u32],
    attended_panels: &'a mut [u32],
}

fn leave(crew: &Crew, cx: Cx<'_>, stage: &Stage, kept: &LayerKept, grads: &mut Gradients, tokens: usize) {
    let sizes = cx.sizes;
    let stride = sizes.hidden_stride();
    let scales = blocks(&kept.middle_scale, 1, tokens);
    let attended = blocks(&kept.attended, sizes.hidden_pairs(), tokens);
    let read = blocks(&kept.gate_up, sizes.gate_up_stride(), tokens)
        .zip(blocks(&kept.middle, stride, tokens))
        .zip(scales.zip(attended));
    let rows = blocks_mut(&mut grads.stream, stride, tokens)
        .zip(blocks_mut(&mut grads.terms[1], stride, tokens))
        .zip(blocks_mut(&mut grads.attended, sizes.hidden_pairs(), tokens));
    let panels = grads.output.blocks_mut().zip(grads.gate_up.blocks_mut());
    let panels = panels.zip(grads.middle.blocks_mut().zip(grads.attended_panels.blocks_mut()));
    let items = read.zip(rows).zip(panels).map(|((read, rows), panels)| {
        let ((gate_up, middle), (scale, attended)) = read;
        let ((stream, terms), grad_attended) = rows;
        let ((grad_output, grad_gate_up), (grad_middle, attended_panels)) = panels;
        Leave {
            gate_up,
            middle,
            scale,
            stream,
            terms,
            grad_output,
            grad_gate_up,
            grad_middle,
            grad_attended,
            attended,
            attended_panels,
        }
    });
    crew.for_each(items.collect(), |scratch, mut block| leave_block(cx, stage, &mut block, scratch));
}

fn leave_block(cx: Cx<'_>, stage: &Stage, block: &mut Leave<'_>, scratch: &mut Scratch) {
    let (sizes, count) = (cx.sizes, block.scale.len());
    let (hidden, stride, ffn) = (sizes.hidden, sizes.hidden_stride(), sizes.ffn);
    cast(cx, block.stream, scratch);
    cx.interleave(&scratch.pairs, hidden, count, Missing::Left, block.grad_output);
    let Scratch { pairs, wide, lines: [line, ..], unpacked, watch, .. } = scratch;
    watch.lap(Op::Cast);
    let ffn_stride = super::memory::padded(ffn);
    let down = stage.matrix(Slot::DownWeight).backward();
    cx.multiply(pairs, hidden, down, Tile::new(wide, ffn_stride, count, ffn), unpacked);
    watch.lap(Op::MatmulNn);
    let rows = wide.chunks(ffn_stride).zip(block.gate_up.chunks(sizes.gate_up_stride()));
    for ((da, row), out) in rows.zip(pairs.chunks_mut(super::memory::pair_stride(2 * ffn))).take(count) {
        let (gate, up) = row[..2 * ffn].split_at(ffn);
        cx.worst.see(rows::swiglu_backward(cx.isa, &da[..ffn], gate, up, line, out));
    }
    cx.interleave(pairs, 2 * ffn, count, Missing::Left, block.grad_gate_up);
    watch.lap(Op::SwiGluBackward);
    let gate_up = stage.matrix(Slot::GateUpWeight).backward();
    cx.multiply(pairs, 2 * ffn, gate_up, Tile::new(block.terms, stride, count, hidden), unpacked);
    watch.lap(Op::MatmulNn);
    let gain = stage.weights(Slot::FfnGain);
    norm_backward(cx, block.middle, gain, block.scale, block.stream, block.terms, scratch);
    scratch.watch.lap(Op::RmsNormBackward);
    cast(cx, block.stream, scratch);
    cx.interleave(&scratch.pairs, hidden, count, Missing::Left, block.grad_middle);
    cx.interleave(block.attended, hidden, count, Missing::Right, block.attended_panels);
    let Scratch { pairs, wide, lines: [line, ..], unpacked, watch, .. } = scratch;
    watch.lap(Op::Cast);
    let output = stage.matrix(Slot::OutputWeight).backward();
    cx.multiply(pairs, hidden, output, Tile::new(wide, stride, count, hidden), unpacked);
    watch.lap(Op::MatmulNn);
    for (row, out) in wide.chunks(stride).zip(block.grad_attended.chunks_mut(sizes.hidden_pairs())).take(count) {
        cx.worst.see(rows::cast(cx.isa, &row[..hidden], line, out));
    }
    watch.lap(Op::Cast);
}

/// `cast` of rows of the residual stream's gradient to pairs.
fn cast(cx: Cx<'_>, stream: &[f32], scratch: &mut Scratch) {
    let Scratch { pairs, lines: [line, ..], .. } = scratch;
    let rows = stream.chunks(cx.sizes.hidden_stride()).zip(pairs.chunks_mut(cx.sizes.hidden_pairs()));
    for (row, out) in rows {
        cx.worst.see(rows::cast(cx.isa, &row[..cx.sizes.hidden], line, out));
    }
}

/// `rms_norm_backward` of a block's rows.
fn norm_backward(
    cx: Cx<'_>,
    x: &[f32],
    gain: &[f32],
    scales: &[f32],
    stream: &mut [f32],
    terms: &mut [f32],
    scratch: &mut Scratch,
) {
    let (hidden, stride) = (cx.sizes.hidden, cx.sizes.hidden_stride());
    let rows = x.chunks(stride).zip(stream.chunks_mut(stride)).zip(terms.chunks_mut(stride));
    for (((x, grad), terms), scale) in rows.zip(scales) {
        let [line, line2, line3] = &mut scratch.lines;
        let (lines, x): ([&mut [f32]; 3], _) = ([line, line2, line3], &x[..hidden]);
        let inverse = cx.sizes.inverse;
        cx.worst.see(rows::rms_norm_backward(cx.isa, x, gain, inverse, *scale, lines, grad, terms));
    }
}

/// Attention of all groups of all sequences, and the inverse rotation.
fn attend(crew: &Crew, cx: Cx<'_>, kept: &LayerKept, grads: &mut Gradients, tokens: usize) {
    let (sizes, sequence) = (cx.sizes, cx.sequence);
    let words = sizes.head.words();
    let mut ends = cuts(sizes.hidden / 2, sizes.group * words);
    ends.extend(cuts(sizes.kv, words).iter().map(|end| sizes.hidden / 2 + end));
    let rows = Tile::new(&mut grads.qkv_rows, sizes.qkv_pairs(), tokens, sizes.qkv / 2);
    let mut tiles = rows.grid(&cuts(tokens, sequence), &ends).into_iter();
    let mut items = Vec::new();
    for _ in 0..tokens / sequence {
        let mut kind = || tiles.by_ref().take(sizes.kv_heads).collect::<Vec<_>>();
        let (queries, keys, values) = (kind(), kind(), kind());
        for ((query, key), value) in queries.into_iter().zip(keys).zip(values) {
            items.push((items.len(), [query, key, value]));
        }
    }
    let attended = &grads.attended;
    crew.for_each(items, |scratch, (index, parts)| attend_group(cx, kept, attended, index, parts, scratch));
}

fn attend_group(
    cx: Cx<'_>,
    kept: &LayerKept,
    grads: &[u32],
    index: usize,
    parts: [Tile<'_, u32>; 3],
    scratch: &mut Scratch,
) {
    let (sizes, sequence) = (cx.sizes, cx.sequence);
    let (stride, first) = (sizes.qkv_pairs(), index / sizes.kv_heads * sequence);
    let [query, key, value] = group_words(sizes, index % sizes.kv_heads);
    let rotated = HeadRows { words: &kept.rotated[first * stride..], stride };
    let group = Group {
        queries: rotated.skip(query),
        keys: rotated.skip(key),
        values: rotated.skip(value),
        heads: sizes.group,
        tokens: sequence,
    };
    let stride = sizes.hidden_pairs();
    let place = index * sizes.group * sequence..(index + 1) * sizes.group * sequence;
    let heads = HeadsKept {
        outputs: HeadRows { words: &kept.attended[first * stride + query..], stride },
        grads: HeadRows { words: &grads[first * stride + query..], stride },
        maxima: &kept.maxima[place.clone()],
        scales: &kept.scales[place],
    };
    let backward = &mut scratch.backward;
    cx.worst.see(attention_backward::backward(cx.isa, sizes.head, group, heads, backward));
    scratch.watch.lap(Op::AttentionBackward);
    let backward = &mut scratch.backward;
    let width = sizes.head.width;
    let heads = sizes.group * width;
    let columns = [0..heads, heads..heads + width, heads + width..heads + 2 * width];
    for ((mut out, columns), turned) in parts.into_iter().zip(columns).zip([heads, width, 0]) {
        for token in 0..sequence {
            let row = attention_backward::gradients(backward, sizes.head, sizes.group, token);
            let (cosines, sines) = (sizes.turns(&sizes.cosines, token), sizes.turns(&sizes.sines_back, token));
            cx.worst.see(rows::rope(cx.isa, &mut row[columns.clone()], turned, cosines, sines, out.row(token)));
        }
    }
    scratch.watch.lap(Op::RopeBackward);
}

/// A block of tokens from the gradients of queries, keys and values to the layer's input.
struct Enter<'a> {
    qkv: &'a [u32],
    panels: &'a mut [u32],
    input: &'a [f32],
    scale: &'a [f32],
    stream: &'a mut [f32],
    terms: &'a mut [f32],
}

fn enter(crew: &Crew, cx: Cx<'_>, stage: &Stage, kept: &LayerKept, grads: &mut Gradients, tokens: usize) {
    let (sizes, stride) = (cx.sizes, cx.sizes.hidden_stride());
    let read = blocks(&grads.qkv_rows, sizes.qkv_pairs(), tokens).zip(blocks(&kept.input, stride, tokens)).zip(blocks(
        &kept.input_scale,
        1,
        tokens,
    ));
    let write = blocks_mut(&mut grads.stream, stride, tokens)
        .zip(blocks_mut(&mut grads.terms[0], stride, tokens))
        .zip(grads.qkv.blocks_mut());
    let items = read.zip(write).map(|(((qkv, input), scale), ((stream, terms), panels))| Enter {
        qkv,
        panels,
        input,
        scale,
        stream,
        terms,
    });
    let (matrix, gain) = (stage.matrix(Slot::QkvWeight), stage.weights(Slot::AttentionGain));
    crew.for_each(items.collect(), |scratch, block: Enter<'_>| {
        let count = block.scale.len();
        cx.interleave(block.qkv, sizes.qkv, count, Missing::Left, block.panels);
        scratch.watch.lap(Op::RopeBackward);
        let out = Tile::new(block.terms, stride, count, sizes.hidden);
        cx.multiply(block.qkv, sizes.qkv, matrix.backward(), out, &mut scratch.unpacked);
        scratch.watch.lap(Op::MatmulNn);
        norm_backward(cx, block.input, gain, block.scale, block.stream, block.terms, scratch);
        scratch.watch.lap(Op::RmsNormBackward);
    });
}

/// Work on gradients of weights: each part runs over all tokens in order.
pub(crate) enum Sum<'a> {
    /// `matmul_tn`: part of a matrix.
    Product { left: Left<'a>, right: Right<'a>, depth: Depth, out: Tile<'a, f32> },
    /// Part of a norm's gain: from a column on.
    Rows { terms: &'a [f32], first: usize, out: &'a mut [f32] },
}

impl Sum<'_> {
    /// Does a part that is a product.
    pub(crate) fn multiply(self, isa: Isa, unpacked: &mut Unpacked) {
        if let Self::Product { left, right, depth, out } = self {
            product(isa, left, right, depth, Start::Output, out, unpacked);
        }
    }
}

/// A weight's slot, and the two operands of its gradient.
type Factors<'a> = (Slot, &'a TokenPanels, &'a TokenPanels);

/// Adds to the gradients of a stage's matrices and gains.
fn gather(
    crew: &Crew,
    cx: Cx<'_>,
    stage: &mut Stage,
    matrices: &[Factors<'_>],
    gains: &[(Slot, &[f32])],
    tokens: usize,
) {
    let sizes = matrices.iter().map(|(slot, ..)| (stage.matrix(*slot).rows, stage.matrix(*slot).cols));
    let sizes: Vec<(usize, usize)> = sizes.collect();
    let mut gradients = stage.gradients();
    let mut items = Vec::new();
    for ((slot, left, right), (rows, cols)) in matrices.iter().zip(sizes) {
        let Some(gradient) = gradients.remove(slot) else { continue };
        product_sums(left, right, Tile::new(gradient, cols, rows, cols), &mut items);
    }
    for (slot, terms) in gains {
        let Some(gradient) = gradients.remove(slot) else { continue };
        let terms = &terms[..tokens * cx.sizes.hidden_stride()];
        let parts = gradient.chunks_mut(SUM_COLS).enumerate();
        items.extend(parts.map(|(index, out)| Sum::Rows { terms, first: index * SUM_COLS, out }));
    }
    sum_all(crew, cx, items);
}

/// Does every part on some thread.
pub(crate) fn sum_all(crew: &Crew, cx: Cx<'_>, sums: Vec<Sum<'_>>) {
    crew.for_each(sums, |scratch, sum| match sum {
        product @ Sum::Product { .. } => {
            product.multiply(cx.isa, &mut scratch.unpacked);
            scratch.watch.lap(Op::MatmulTn);
        }
        Sum::Rows { terms, first, out } => {
            rows::add_rows(cx.isa, terms, cx.sizes.hidden_stride(), first, out);
            scratch.watch.lap(Op::RmsNormBackward);
        }
    });
}

/// Cuts the product of two token panels into tasks.
pub(crate) fn product_sums<'a>(
    left: &'a TokenPanels,
    right: &'a TokenPanels,
    out: Tile<'a, f32>,
    items: &mut Vec<Sum<'a>>,
) {
    let (row_ends, col_ends) = (cuts(out.rows(), GRADIENT_ROWS), cuts(out.cols(), GRADIENT_COLS));
    let depth = Depth::tokens(left);
    for (index, out) in out.grid(&row_ends, &col_ends).into_iter().enumerate() {
        let (band, column) = (index / col_ends.len(), index % col_ends.len());
        let left = Left::tokens(left, band * GRADIENT_ROWS / LANES);
        let right = Right::tokens(right, column * GRADIENT_COLS / LANES);
        items.push(Sum::Product { left, right, depth, out });
    }
}

/// `embed_backward`: columns of the table on different threads, tokens in order.
pub(crate) fn embed_backward(crew: &Crew, cx: Cx<'_>, stream: &[f32], inputs: &[u32], gradient: &mut [f32]) {
    let (hidden, stride) = (cx.sizes.hidden, cx.sizes.hidden_stride());
    let table = Tile::new(gradient, hidden, cx.sizes.vocab, hidden);
    let parts = table.grid(&[cx.sizes.vocab], &cuts(hidden, SUM_COLS));
    crew.for_each(parts.into_iter().enumerate().collect(), |scratch, (index, mut part)| {
        for (token, row) in inputs.iter().zip(stream.chunks(stride)) {
            rows::add_rows(cx.isa, &row[..hidden], hidden, index * SUM_COLS, part.row(*token as usize));
        }
        scratch.watch.lap(Op::EmbedBackward);
    });
}
