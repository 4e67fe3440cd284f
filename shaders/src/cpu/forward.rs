//! The forward pass: tokens to losses, in blocks of 64 tokens that stay in the caches from one operation to the next.
//!
//! Only attention looks at other tokens. So a layer is two rounds of work: heads of sequences; then blocks of tokens, from
//! the attention's output through the feed-forward to the next layer's queries, keys and values. In training the head's
//! block goes on to the gradient of the residual stream.

use neuroshard_proto::ops::{Op, Slot};

use super::attention::{self, Group, HeadRows, Normalisers};
use super::memory::{BLOCK, Tile, cuts, padded, pair_stride};
use super::pass::{
    Crew, Cx, Gradients, HeadKept, LayerKept, Missing, Scratch, blocks, blocks_mut, copy_rows, group_words,
};
use super::rows;
use super::state::Stage;
use crate::engine::Entry;

/// Where a forward pass through some stages ends.
#[derive(Debug)]
pub(crate) enum Exit<'a> {
    /// In the head, with losses; with `grads` when training, then with the gradient that enters the last layer too.
    Head { targets: &'a [u32], kept: &'a mut HeadKept, grads: Option<&'a mut Gradients> },
    /// With the residual stream, in rows that lie [`super::pass::Sizes::hidden_stride`] apart.
    Stream(&'a mut [f32]),
}

/// Runs the forward pass of some stages over `tokens` tokens: the layers that `layers` keeps, and the head if it ends there.
pub(crate) fn forward(
    crew: &Crew,
    cx: Cx<'_>,
    stages: &[Stage],
    entry: Entry<'_>,
    layers: &mut [LayerKept],
    exit: Exit<'_>,
) {
    let tokens = match entry {
        Entry::Tokens(tokens) => tokens.len(),
        Entry::Stream(stream) => stream.len() / cx.sizes.hidden,
    };
    let mut exit = Some(exit);
    if let Some(first) = layers.first_mut() {
        take_in(cx, &stages[0], entry, &mut first.input);
        let enter = enter_blocks(cx, first, tokens);
        crew.for_each(enter, |scratch, block| enter_attention(cx, &stages[0], block, scratch));
    } else if let Some(Exit::Head { targets, kept, grads }) = exit.take() {
        take_in(cx, &stages[0], entry, &mut kept.input);
        let blocks = head_blocks(cx, kept, grads, targets);
        crew.for_each(blocks, |scratch, mut head| finish(cx, &stages[0], &mut head, scratch));
    }
    for layer in 0..layers.len() {
        attend(crew, cx, &mut layers[layer], tokens);
        let (done, next) = layers.split_at_mut(layer + 1);
        let blocks = leave_blocks(cx, &mut done[layer], tokens).into_iter();
        if let Some(next) = next.first_mut() {
            let items = blocks.zip(enter_blocks(cx, next, tokens)).collect();
            crew.for_each(items, |scratch, (mut leave, enter)| {
                leave_attention(cx, &stages[layer], &mut leave, enter.input, scratch);
                enter_attention(cx, &stages[layer + 1], enter, scratch);
            });
            continue;
        }
        match exit.take() {
            Some(Exit::Head { targets, kept, grads }) => {
                let items = blocks.zip(head_blocks(cx, kept, grads, targets)).collect();
                crew.for_each(items, |scratch, (mut leave, mut head)| {
                    leave_attention(cx, &stages[layer], &mut leave, head.input, scratch);
                    finish(cx, &stages[layer + 1], &mut head, scratch);
                });
            }
            Some(Exit::Stream(output)) => {
                let items = blocks.zip(blocks_mut(output, cx.sizes.hidden_stride(), tokens)).collect();
                crew.for_each(items, |scratch, (mut leave, output)| {
                    leave_attention(cx, &stages[layer], &mut leave, output, scratch);
                });
            }
            None => {}
        }
    }
}

/// Brings in what enters the first stage.
fn take_in(cx: Cx<'_>, stage: &Stage, entry: Entry<'_>, out: &mut [f32]) {
    let (hidden, stride) = (cx.sizes.hidden, cx.sizes.hidden_stride());
    match entry {
        Entry::Tokens(tokens) => embed(stage.weights(Slot::EmbeddingWeight), hidden, tokens, out, stride),
        Entry::Stream(stream) => copy_rows(cx.sizes, stream, hidden, out, stride),
    }
}

/// One layer alone, from `kept.input` to `output`.
pub(crate) fn layer(crew: &Crew, cx: Cx<'_>, stage: &Stage, kept: &mut LayerKept, tokens: usize, output: &mut [f32]) {
    crew.for_each(enter_blocks(cx, kept, tokens), |scratch, block| enter_attention(cx, stage, block, scratch));
    attend(crew, cx, kept, tokens);
    let blocks = leave_blocks(cx, kept, tokens).into_iter().zip(blocks_mut(output, cx.sizes.hidden_stride(), tokens));
    crew.for_each(blocks.collect(), |scratch, (mut block, output)| {
        leave_attention(cx, stage, &mut block, output, scratch);
    });
}

/// `embed`: copies the tokens' rows of the table to rows that lie `stride` apart.
pub(crate) fn embed(table: &[f32], width: usize, tokens: &[u32], out: &mut [f32], stride: usize) {
    for (token, out) in tokens.iter().zip(out.chunks_mut(stride)) {
        out[..width].copy_from_slice(&table[*token as usize * width..][..width]);
    }
}

/// Where a block of tokens enters a layer.
struct Enter<'a> {
    /// The first token.
    first: usize,
    input: &'a mut [f32],
    scale: &'a mut [f32],
    normed: &'a mut [u32],
    rotated: &'a mut [u32],
}

fn enter_blocks<'a>(cx: Cx<'_>, kept: &'a mut LayerKept, tokens: usize) -> Vec<Enter<'a>> {
    let inputs = blocks_mut(&mut kept.input, cx.sizes.hidden_stride(), tokens);
    let scales = blocks_mut(&mut kept.input_scale, 1, tokens);
    let rotated = blocks_mut(&mut kept.rotated, cx.sizes.qkv_pairs(), tokens);
    let rows = inputs.zip(scales).zip(kept.normed_input.blocks_mut()).zip(rotated).enumerate();
    rows.map(|(block, (((input, scale), normed), rotated))| Enter {
        first: block * BLOCK,
        input,
        scale,
        normed,
        rotated,
    })
    .collect()
}

/// `rms_norm` of a block's rows: pairs for the product that follows, token panels for the weight's gradient.
pub(crate) fn norm(
    cx: Cx<'_>,
    x: &[f32],
    gain: &[f32],
    scales: &mut [f32],
    pairs: &mut [u32],
    line: &mut [f32],
    panels: &mut [u32],
) {
    let (hidden, stride) = (cx.sizes.hidden, cx.sizes.hidden_pairs());
    let count = scales.len();
    for ((x, scale), out) in x.chunks(cx.sizes.hidden_stride()).zip(scales).zip(pairs.chunks_mut(stride)) {
        cx.worst.see(rows::rms_norm(cx.isa, &x[..hidden], gain, cx.sizes.inverse, cx.sizes.eps, scale, line, out));
    }
    cx.interleave(pairs, hidden, count, Missing::Right, panels);
}

/// From the residual stream to rotated queries and keys, and values.
fn enter_attention(cx: Cx<'_>, stage: &Stage, block: Enter<'_>, scratch: &mut Scratch) {
    let (sizes, count) = (cx.sizes, block.scale.len());
    let Scratch { pairs, wide, lines: [line, ..], unpacked, watch, .. } = scratch;
    norm(cx, block.input, stage.weights(Slot::AttentionGain), block.scale, pairs, line, block.normed);
    watch.lap(Op::RmsNorm);
    let stride = padded(sizes.qkv);
    let out = Tile::new(wide, stride, count, sizes.qkv);
    cx.multiply(pairs, sizes.hidden, stage.matrix(Slot::QkvWeight).forward(), out, unpacked);
    watch.lap(Op::MatmulNt);
    let rows = wide.chunks_mut(stride).zip(block.rotated.chunks_mut(sizes.qkv_pairs()));
    for (token, (row, out)) in (block.first..block.first + count).zip(rows) {
        let position = token % cx.sequence;
        let (cosines, sines) = (sizes.turns(&sizes.cosines, position), sizes.turns(&sizes.sines, position));
        cx.worst.see(rows::rope(cx.isa, &mut row[..sizes.qkv], sizes.hidden + sizes.kv, cosines, sines, out));
    }
    watch.lap(Op::Rope);
}

/// Attention of all groups of all sequences.
pub(crate) fn attend(crew: &Crew, cx: Cx<'_>, kept: &mut LayerKept, tokens: usize) {
    let (sizes, sequence) = (cx.sizes, cx.sequence);
    let (stride, words) = (sizes.qkv_pairs(), sizes.group * sizes.head.words());
    let attended = Tile::new(&mut kept.attended, sizes.hidden_pairs(), tokens, sizes.hidden / 2);
    let outputs = attended.grid(&cuts(tokens, sequence), &cuts(sizes.hidden / 2, words));
    let normalisers = sizes.group * sequence;
    let maxima = kept.maxima[..tokens * sizes.heads()].chunks_mut(normalisers);
    let scales = kept.scales[..tokens * sizes.heads()].chunks_mut(normalisers);
    let items = outputs.into_iter().zip(maxima.zip(scales)).enumerate().collect();
    let rotated = &kept.rotated;
    crew.for_each(items, |scratch, (index, (out, (maxima, scales)))| {
        let sequence_rows = HeadRows { words: &rotated[index / sizes.kv_heads * sequence * stride..], stride };
        let [queries, keys, values] = group_words(sizes, index % sizes.kv_heads).map(|word| sequence_rows.skip(word));
        let group = Group { queries, keys, values, heads: sizes.group, tokens: sequence };
        let normalisers = Normalisers { maxima, scales };
        cx.worst.see(attention::forward(cx.isa, sizes.head, group, normalisers, out, &mut scratch.attention));
        scratch.watch.lap(Op::Attention);
    });
}

/// A block of tokens from the attention's output to the end of its layer.
struct Leave<'a> {
    attended: &'a [u32],
    input: &'a [f32],
    middle: &'a mut [f32],
    scale: &'a mut [f32],
    normed: &'a mut [u32],
    gate_up: &'a mut [f32],
    activated: &'a mut [u32],
}

fn leave_blocks<'a>(cx: Cx<'_>, kept: &'a mut LayerKept, tokens: usize) -> Vec<Leave<'a>> {
    let sizes = cx.sizes;
    let attended = blocks(&kept.attended, sizes.hidden_pairs(), tokens);
    let inputs = blocks(&kept.input, sizes.hidden_stride(), tokens);
    let middles = blocks_mut(&mut kept.middle, sizes.hidden_stride(), tokens);
    let scales = blocks_mut(&mut kept.middle_scale, 1, tokens);
    let gate_ups = blocks_mut(&mut kept.gate_up, sizes.gate_up_stride(), tokens);
    let panels = kept.normed_middle.blocks_mut().zip(kept.activated.blocks_mut());
    let rows = attended.zip(inputs).zip(middles.zip(scales)).zip(gate_ups).zip(panels);
    rows.map(|((((attended, input), (middle, scale)), gate_up), (normed, activated))| Leave {
        attended,
        input,
        middle,
        scale,
        normed,
        gate_up,
        activated,
    })
    .collect()
}

/// From the attention's output to the residual stream that leaves the layer.
fn leave_attention(cx: Cx<'_>, stage: &Stage, block: &mut Leave<'_>, output: &mut [f32], scratch: &mut Scratch) {
    let (sizes, count) = (cx.sizes, block.scale.len());
    let (hidden, stride) = (sizes.hidden, sizes.hidden_stride());
    let Scratch { pairs, lines: [line, ..], unpacked, watch, .. } = scratch;
    let out = Tile::new(block.middle, stride, count, hidden);
    cx.multiply(block.attended, hidden, stage.matrix(Slot::OutputWeight).forward(), out, unpacked);
    watch.lap(Op::MatmulNt);
    add(cx, block.input, block.middle);
    watch.lap(Op::Residual);
    norm(cx, block.middle, stage.weights(Slot::FfnGain), block.scale, pairs, line, block.normed);
    watch.lap(Op::RmsNorm);
    let out = Tile::new(block.gate_up, sizes.gate_up_stride(), count, 2 * sizes.ffn);
    cx.multiply(pairs, hidden, stage.matrix(Slot::GateUpWeight).forward(), out, unpacked);
    watch.lap(Op::MatmulNt);
    let rows = block.gate_up.chunks(sizes.gate_up_stride()).zip(pairs.chunks_mut(pair_stride(sizes.ffn)));
    for (row, out) in rows {
        let (gate, up) = row[..2 * sizes.ffn].split_at(sizes.ffn);
        cx.worst.see(rows::swiglu(cx.isa, gate, up, line, out));
    }
    cx.interleave(pairs, sizes.ffn, count, Missing::Right, block.activated);
    watch.lap(Op::SwiGlu);
    let out = Tile::new(output, stride, count, hidden);
    cx.multiply(pairs, sizes.ffn, stage.matrix(Slot::DownWeight).forward(), out, unpacked);
    watch.lap(Op::MatmulNt);
    add(cx, block.middle, output);
    watch.lap(Op::Residual);
}

/// `residual` of rows that are as wide as the residual stream.
fn add(cx: Cx<'_>, x: &[f32], y: &mut [f32]) {
    let (hidden, stride) = (cx.sizes.hidden, cx.sizes.hidden_stride());
    for (x, y) in x.chunks(stride).zip(y.chunks_mut(stride)) {
        rows::residual(cx.isa, &x[..hidden], &mut y[..hidden]);
    }
}

/// A block of tokens in the head.
struct Head<'a> {
    targets: &'a [u32],
    input: &'a mut [f32],
    normed: &'a mut [u32],
    losses: &'a mut [i32],
    grad_logits: &'a mut [u32],
    /// Gradients of the residual stream and of the gain, when training.
    back: Option<(&'a mut [f32], &'a mut [f32])>,
}

fn head_blocks<'a>(
    cx: Cx<'_>,
    kept: &'a mut HeadKept,
    grads: Option<&'a mut Gradients>,
    targets: &'a [u32],
) -> Vec<Head<'a>> {
    let (tokens, stride) = (targets.len(), cx.sizes.hidden_stride());
    let inputs = blocks_mut(&mut kept.input, stride, tokens);
    let panels = kept.normed.blocks_mut().zip(kept.grad_logits.blocks_mut());
    let losses = kept.losses.chunks_mut(BLOCK).zip(targets.chunks(BLOCK));
    let mut back = grads.map(|grads| {
        let [terms, _] = &mut grads.terms;
        blocks_mut(&mut grads.stream, stride, tokens).zip(blocks_mut(terms, stride, tokens))
    });
    inputs
        .zip(panels)
        .zip(losses)
        .map(|((input, (normed, grad_logits)), (losses, targets))| Head {
            targets,
            input,
            normed,
            losses,
            grad_logits,
            back: back.as_mut().and_then(Iterator::next),
        })
        .collect()
}

/// The head: losses, and when training the gradients of logits and of the residual stream.
fn finish(cx: Cx<'_>, stage: &Stage, block: &mut Head<'_>, scratch: &mut Scratch) {
    let (sizes, count) = (cx.sizes, block.targets.len());
    let (hidden, stride, vocab_stride) = (sizes.hidden, sizes.hidden_stride(), padded(sizes.vocab));
    let Scratch { pairs, wide, lines: [line, line2, line3], unpacked, watch, .. } = scratch;
    let (gain, bias) = (stage.weights(Slot::FinalGain), stage.weights(Slot::HeadBias));
    let mut scales = [0.0; BLOCK];
    norm(cx, block.input, gain, &mut scales[..count], pairs, line, block.normed);
    watch.lap(Op::RmsNorm);
    let out = Tile::new(wide, vocab_stride, count, sizes.vocab);
    cx.multiply(pairs, hidden, stage.matrix(Slot::HeadWeight).forward(), out, unpacked);
    watch.lap(Op::MatmulNt);
    let rows = wide.chunks(vocab_stride).zip(pairs.chunks_mut(pair_stride(sizes.vocab)));
    for ((row, out), (target, loss)) in rows.zip(block.targets.iter().zip(&mut *block.losses)) {
        let (logits, target) = (&row[..sizes.vocab], *target as usize);
        cx.worst.see(rows::cross_entropy(cx.isa, logits, bias, target, line, loss, out));
    }
    watch.lap(Op::CrossEntropy);
    let Some((stream, terms)) = &mut block.back else { return };
    cx.interleave(pairs, sizes.vocab, count, Missing::Left, block.grad_logits);
    watch.lap(Op::CrossEntropy);
    let out = Tile::new(terms, stride, count, hidden);
    cx.multiply(pairs, sizes.vocab, stage.matrix(Slot::HeadWeight).backward(), out, unpacked);
    watch.lap(Op::MatmulNn);
    stream.fill(0.0);
    for (token, scale) in scales.iter().enumerate().take(count) {
        let row = token * stride..token * stride + hidden;
        let lines: [&mut [f32]; 3] = [line, line2, line3];
        let (grad, terms) = (&mut stream[row.clone()], &mut terms[row.clone()]);
        cx.worst.see(rows::rms_norm_backward(
            cx.isa,
            &block.input[row],
            gain,
            sizes.inverse,
            *scale,
            lines,
            grad,
            terms,
        ));
    }
    watch.lap(Op::RmsNormBackward);
}
