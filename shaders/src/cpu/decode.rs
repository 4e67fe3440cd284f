//! The forward pass of one sequence that grows: keys and values of earlier tokens stay packed as right operands.

use std::ops::Range;

use neuroshard_proto::ops::Slot;
use neuroshard_proto::{Fault, ModelSpec, TensorKind};

use crate::layout::{LayerLayout, tensor_slots};

use super::attention::{
    self, Asking, AttentionScratch, HeadRows, KeysValues, Normalisers, across_tokens, across_words, along_tokens,
    along_words,
};
use super::gemm::{Depth, Left, Right, Start, Unpacked, product};
use super::isa::Isa;
use super::memory::{BLOCK, Buffer, Tile, padded, pair_stride};
use super::pass::{Sizes, group_words};
use super::rows::{self, Magnitude};
use super::state::pack_forward;

/// A stage's weights as they come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerWeights<'a> {
    pub(crate) layout: &'a LayerLayout,
    pub(crate) values: &'a [f32],
}

impl<'a> LayerWeights<'a> {
    pub(crate) fn tensor(&self, kind: TensorKind) -> Option<&'a [f32]> {
        self.layout.find(kind).map(|range| &self.values[range])
    }

    fn slot(&self, slot: Slot) -> &'a [f32] {
        let found = tensor_slots(self.layout).into_iter().find(|(weight, ..)| *weight == slot);
        found.map(|(_, _, range)| &self.values[range]).unwrap_or_default()
    }
}

/// A weight matrix as the right operand of `y = x W^T`.
#[derive(Debug)]
struct Packed {
    words: Buffer<u32>,
    depth: usize,
    width: usize,
}

impl Packed {
    /// The packed weights, and the largest magnitude among them.
    fn new(isa: Isa, weights: &[f32], depth: usize) -> Result<(Self, Magnitude), Fault> {
        let width = weights.len() / depth;
        let mut words = Buffer::new(padded(width) * depth.div_ceil(2))?;
        let worst = pack_forward(isa, weights, depth, &mut words);
        Ok((Self { words, depth, width }, worst))
    }
}

/// A layer's weights, and its keys and values of earlier tokens, head by head.
#[derive(Debug)]
struct Layer {
    gains: [Vec<f32>; 2],
    qkv: Packed,
    output: Packed,
    gate_up: Packed,
    down: Packed,
    keys: Buffer<u32>,
    values: Buffer<u32>,
}

#[derive(Debug, Default)]
struct Room {
    stream: Buffer<f32>,
    wide: Buffer<f32>,
    line: Buffer<f32>,
    pairs: Buffer<u32>,
    rotated: Buffer<u32>,
    attended: Buffer<u32>,
    attention: AttentionScratch,
    unpacked: Unpacked,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Decoder {
    isa: Isa,
    sizes: Sizes,
    context: usize,
    layers: Vec<Layer>,
    final_gain: Vec<f32>,
    head: Packed,
    room: Room,
}

impl Decoder {
    /// `None` if a weight is out of range.
    pub(crate) fn new(model: &ModelSpec, stages: &[LayerWeights<'_>], isa: Isa) -> Result<Option<Self>, Fault> {
        let (sizes, context) = (Sizes::new(model), model.context as usize);
        let mut worst = 0;
        let mut pack = |stage: &LayerWeights<'_>, slot, depth| {
            let (packed, magnitude) = Packed::new(isa, stage.slot(slot), depth)?;
            worst = worst.max(magnitude);
            Ok::<_, Fault>(packed)
        };
        let mut layers = Vec::new();
        for stage in &stages[..sizes.layers] {
            layers.push(Layer {
                gains: [stage.slot(Slot::AttentionGain).to_vec(), stage.slot(Slot::FfnGain).to_vec()],
                qkv: pack(stage, Slot::QkvWeight, sizes.hidden)?,
                output: pack(stage, Slot::OutputWeight, sizes.hidden)?,
                gate_up: pack(stage, Slot::GateUpWeight, sizes.hidden)?,
                down: pack(stage, Slot::DownWeight, sizes.ffn)?,
                keys: Buffer::new(sizes.kv_heads * across_words(sizes.head, context))?,
                values: Buffer::new(sizes.kv_heads * along_words(sizes.head, context.div_ceil(2)))?,
            });
        }
        let last = &stages[sizes.layers];
        let head = pack(last, Slot::HeadWeight, sizes.hidden)?;
        let final_gain = last.slot(Slot::FinalGain).to_vec();
        let mut room = Room::default();
        let widest = sizes.hidden.max(sizes.qkv).max(2 * sizes.ffn).max(sizes.vocab);
        room.stream.reserve(BLOCK * sizes.hidden_stride())?;
        room.wide.reserve(BLOCK * padded(widest))?;
        room.line.reserve(padded(widest))?;
        room.pairs.reserve(BLOCK * pair_stride(widest))?;
        room.rotated.reserve(BLOCK * sizes.qkv_pairs())?;
        room.attended.reserve(BLOCK * sizes.hidden_pairs())?;
        room.attention.reserve(sizes.head, context)?;
        let decoder = Self { isa, sizes, context, layers, final_gain, head, room };
        Ok(rows::fits(worst).then_some(decoder))
    }

    /// Forgets all tokens, so that nothing of them meets a later sequence.
    pub(crate) fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.keys.fill(0);
            layer.values.fill(0);
        }
    }

    /// Adds tokens after the first `fed`; the last one's logits without bias. Whether every value stayed in range.
    pub(crate) fn feed(&mut self, embedding: &[f32], tokens: &[u32], fed: usize, logits: &mut [f32]) -> bool {
        let Self { isa, sizes, context, layers, final_gain, head, room } = self;
        let mut worst = 0;
        let mut first = fed;
        for tokens in tokens.chunks(BLOCK) {
            super::forward::embed(embedding, sizes.hidden, tokens, &mut room.stream, sizes.hidden_stride());
            let cx = Step { isa: *isa, sizes, context: *context, tokens: first..first + tokens.len() };
            for layer in &mut *layers {
                worst = worst.max(cx.attend(layer, room)).max(cx.activate(layer, room));
            }
            first += tokens.len();
        }
        let cx = Step { isa: *isa, sizes, context: *context, tokens: first - 1..first };
        // Only the last token's logits are wanted: its row becomes the first.
        let last = (tokens.len() - 1) % BLOCK * sizes.hidden_stride();
        room.stream.copy_within(last..last + sizes.hidden, 0);
        worst = worst.max(cx.norm(final_gain, room));
        cx.multiply(head, &room.pairs, &mut room.wide, &mut room.unpacked);
        logits.copy_from_slice(&room.wide[..sizes.vocab]);
        // As training does it, so that the same sequences are refused.
        worst = logits.iter().map(|logit| rows::magnitude(*logit)).fold(worst, u32::max);
        rows::fits(worst)
    }
}

/// Up to 64 tokens on their way through a layer.
struct Step<'a> {
    isa: Isa,
    sizes: &'a Sizes,
    context: usize,
    /// Their positions.
    tokens: Range<usize>,
}

impl Step<'_> {
    /// Rows of pairs times a matrix, to rows of whole vectors.
    fn multiply(&self, matrix: &Packed, pairs: &[u32], out: &mut [f32], unpacked: &mut Unpacked) {
        let left = Left::rows(pairs, pair_stride(matrix.depth));
        let right = Right::panels(&matrix.words, matrix.depth.div_ceil(2));
        let out = Tile::new(out, padded(matrix.width), self.tokens.len(), matrix.width);
        product(self.isa, left, right, Depth::of(matrix.depth), Start::Zero, out, unpacked);
    }

    /// The stream's norm as pairs.
    fn norm(&self, gain: &[f32], room: &mut Room) -> Magnitude {
        let Sizes { hidden, inverse, eps, .. } = *self.sizes;
        let Room { stream, line, pairs, .. } = room;
        let rows = stream.chunks(self.sizes.hidden_stride()).zip(pairs.chunks_mut(self.sizes.hidden_pairs()));
        let mut scale = 0.0;
        let norm = |(x, out): (&[f32], &mut [u32])| {
            rows::rms_norm(self.isa, &x[..hidden], gain, inverse, eps, &mut scale, line, out)
        };
        rows.take(self.tokens.len()).map(norm).fold(0, u32::max)
    }

    /// Adds the rows of a product to the stream.
    fn add(&self, room: &mut Room) {
        let (hidden, stride) = (self.sizes.hidden, self.sizes.hidden_stride());
        let rows = room.stream.chunks_mut(stride).zip(room.wide.chunks(stride)).take(self.tokens.len());
        for (x, y) in rows {
            // The sum of two numbers does not depend on which comes first.
            rows::residual(self.isa, &y[..hidden], &mut x[..hidden]);
        }
    }

    fn attend(&self, layer: &mut Layer, room: &mut Room) -> Magnitude {
        let (sizes, count) = (self.sizes, self.tokens.len());
        let mut worst = self.norm(&layer.gains[0], room);
        self.multiply(&layer.qkv, &room.pairs, &mut room.wide, &mut room.unpacked);
        let rows = room.wide.chunks_mut(padded(sizes.qkv)).zip(room.rotated.chunks_mut(sizes.qkv_pairs()));
        for (position, (row, out)) in self.tokens.clone().zip(rows) {
            let (cosines, sines) = (sizes.turns(&sizes.cosines, position), sizes.turns(&sizes.sines, position));
            worst =
                worst.max(rows::rope(self.isa, &mut row[..sizes.qkv], sizes.hidden + sizes.kv, cosines, sines, out));
        }
        let (across, slots) = (across_words(sizes.head, self.context), self.context.div_ceil(2));
        let along = along_words(sizes.head, slots);
        for group in 0..sizes.kv_heads {
            let [query, key, value] = group_words(sizes, group);
            let of = |word: usize| HeadRows { words: &room.rotated, stride: sizes.qkv_pairs() }.skip(word);
            let keys = &mut layer.keys[group * across..][..across];
            let values = &mut layer.values[group * along..][..along];
            across_tokens(self.isa, sizes.head, of(key), self.tokens.start, count, keys);
            along_tokens(self.isa, sizes.head, of(value), self.tokens.start, count, slots, values);
            let seen = KeysValues { keys, values, room: slots };
            for head in 0..sizes.group {
                let word = query + head * sizes.head.words();
                let [mut maxima, mut scales] = [[0.0; BLOCK]; 2];
                let mut normalisers = Normalisers { maxima: &mut maxima, scales: &mut scales };
                let mut out = Tile::new(&mut room.attended, sizes.hidden_pairs(), count, sizes.hidden / 2);
                let out = out.sub(0..count, word..word + sizes.head.words());
                let asking =
                    Asking { isa: self.isa, head: sizes.head, queries: of(word), first: self.tokens.start, seen };
                worst = worst.max(attention::attend(asking, &mut normalisers, out, &mut room.attention));
            }
        }
        self.multiply(&layer.output, &room.attended, &mut room.wide, &mut room.unpacked);
        self.add(room);
        worst
    }

    fn activate(&self, layer: &Layer, room: &mut Room) -> Magnitude {
        let ffn = self.sizes.ffn;
        let mut worst = self.norm(&layer.gains[1], room);
        self.multiply(&layer.gate_up, &room.pairs, &mut room.wide, &mut room.unpacked);
        let Room { wide, line, pairs, .. } = room;
        let rows = wide.chunks(padded(2 * ffn)).zip(pairs.chunks_mut(pair_stride(ffn))).take(self.tokens.len());
        for (row, out) in rows {
            let (gate, up) = row[..2 * ffn].split_at(ffn);
            worst = worst.max(rows::swiglu(self.isa, gate, up, line, out));
        }
        self.multiply(&layer.down, &room.pairs, &mut room.wide, &mut room.unpacked);
        self.add(room);
        worst
    }
}
