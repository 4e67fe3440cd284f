//! What forward and backward passes share: the model's sizes, what a forward pass keeps, and each thread's room.

use std::sync::Mutex;

use neuroshard_proto::ops::Slot;
use neuroshard_proto::{Fault, LayerRange, ModelSpec};

use crate::layout::single;

use super::attention::{AttentionScratch, HeadShape};
use super::attention_backward::BackwardScratch;
use super::gemm::{Depth, Left, Right, Start, Unpacked, product};
use super::isa::Isa;
use super::memory::{BLOCK, Buffer, Tile, TokenPanels, padded, pair_stride};
use super::pool::Pool;
use super::rows;
use super::state::Worst;
use crate::timing::Stopwatch;

/// The sizes and constants of a model.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Transformer layers at hand.
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) qkv: usize,
    pub(crate) kv: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) kv_heads: usize,
    /// Query heads that share a key.
    pub(crate) group: usize,
    pub(crate) head: HeadShape,
    /// `1 / hidden`, and what is added to mean squares.
    pub(crate) inverse: f32,
    pub(crate) eps: f32,
    /// Rotary tables, `[position][pair]`: cosines, sines, and sines with their signs turned over.
    pub(crate) cosines: Vec<f32>,
    pub(crate) sines: Vec<f32>,
    pub(crate) sines_back: Vec<f32>,
}

impl Sizes {
    pub(crate) fn new(model: &ModelSpec) -> Self {
        let wide = |half: u16| f32::from_bits(u32::from(half) << 16);
        let table: Vec<[f32; 2]> = model.rotary_table().into_iter().map(|turn| turn.map(wide)).collect();
        Self::with_table(model, &table)
    }

    /// The sizes of some stages of a model.
    pub(crate) fn of_part(model: &ModelSpec, range: LayerRange) -> Self {
        let layers = (range.end.min(model.layers) - range.start) as usize;
        Self { layers, ..Self::new(model) }
    }

    /// With a rotary table `[position][pair]` of cosine and sine.
    pub(crate) fn with_table(model: &ModelSpec, table: &[[f32; 2]]) -> Self {
        Self {
            layers: model.layers as usize,
            hidden: model.hidden as usize,
            qkv: model.qkv_width() as usize,
            kv: model.kv_width() as usize,
            ffn: model.ffn as usize,
            vocab: model.vocab as usize,
            kv_heads: model.kv_heads as usize,
            group: (model.heads / model.kv_heads) as usize,
            head: HeadShape { width: model.head_width() as usize, scale: single(model.attention_scale()) },
            inverse: single(model.inverse_hidden()),
            eps: single(model.norm_eps()),
            cosines: table.iter().map(|turn| turn[0]).collect(),
            sines: table.iter().map(|turn| turn[1]).collect(),
            sines_back: table.iter().map(|turn| -turn[1]).collect(),
        }
    }

    pub(crate) fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// Distances between rows of singles, of normed values and of query, key and value.
    pub(crate) fn hidden_stride(&self) -> usize {
        padded(self.hidden)
    }

    pub(crate) fn hidden_pairs(&self) -> usize {
        pair_stride(self.hidden)
    }

    pub(crate) fn qkv_pairs(&self) -> usize {
        pair_stride(self.qkv)
    }

    pub(crate) fn gate_up_stride(&self) -> usize {
        padded(2 * self.ffn)
    }

    /// The widest row of any value.
    fn widest(&self) -> usize {
        self.hidden.max(self.qkv).max(2 * self.ffn).max(self.vocab)
    }

    /// The rotary table's entries of one position.
    pub(crate) fn turns<'a>(&self, table: &'a [f32], position: usize) -> &'a [f32] {
        &table[position * self.head.words()..][..self.head.words()]
    }

    /// Bytes that a forward pass keeps for each token, about: what bounds how many sequences go together.
    pub(crate) fn bytes_a_token(&self) -> usize {
        let layer = 4 * (2 * self.hidden_stride() + self.gate_up_stride() + self.qkv_pairs() + self.hidden_pairs())
            + 2 * (2 * self.hidden + self.ffn)
            + 8 * self.heads();
        let once = 4 * (4 * self.hidden_stride() + self.hidden_pairs() + self.qkv_pairs())
            + 2 * (2 * self.hidden + self.qkv + 2 * self.ffn + self.vocab);
        self.layers * layer + once
    }
}

/// One thread's room.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// 64 rows of pairs of any width.
    pub(crate) pairs: Buffer<u32>,
    /// 64 rows of singles of any width.
    pub(crate) wide: Buffer<f32>,
    pub(crate) lines: [Buffer<f32>; 3],
    pub(crate) attention: AttentionScratch,
    pub(crate) backward: BackwardScratch,
    pub(crate) unpacked: Unpacked,
    pub(crate) watch: Stopwatch,
}

impl Scratch {
    fn reserve(&mut self, sizes: &Sizes, sequence: usize, training: bool) -> Result<(), Fault> {
        let widest = sizes.widest();
        self.pairs.reserve(BLOCK * pair_stride(widest))?;
        self.wide.reserve(BLOCK * padded(widest))?;
        self.lines.iter_mut().try_for_each(|line| line.reserve(padded(widest)))?;
        self.attention.reserve(sizes.head, sequence)?;
        if training {
            self.backward.reserve(sizes.head, sequence, sizes.group)?;
        }
        Ok(())
    }
}

/// The threads, each with its room.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
    scratch: Vec<Mutex<Scratch>>,
}

impl Crew {
    pub(crate) fn new(isa: Isa, pool: Pool) -> Self {
        let scratch = (0..pool.threads()).map(|_| Mutex::default()).collect();
        Self { isa, pool, scratch }
    }

    /// Makes room for sequences of a model.
    pub(crate) fn reserve(&mut self, sizes: &Sizes, sequence: usize, training: bool) -> Result<(), Fault> {
        self.scratch_mut().try_for_each(|scratch| scratch.reserve(sizes, sequence, training))
    }

    /// Hands every item to some thread with that thread's room.
    pub(crate) fn for_each<T: Send>(&self, items: Vec<T>, work: impl Fn(&mut Scratch, T) + Sync) {
        self.pool.for_each(items, |thread, item| {
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            scratch.watch.start();
            work(&mut scratch, item);
        });
    }

    /// Each thread's room, between two pieces of work.
    pub(crate) fn scratch_mut(&mut self) -> impl Iterator<Item = &mut Scratch> {
        self.scratch.iter_mut().map(|scratch| scratch.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What row-wise work needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) isa: Isa,
    pub(crate) sizes: &'a Sizes,
    /// Tokens in a sequence.
    pub(crate) sequence: usize,
    /// Collects the magnitudes that must stay in range.
    pub(crate) worst: &'a Worst,
}

impl Cx<'_> {
    /// `y = x W^T` or `dx = dy W` for up to 64 rows of pairs.
    pub(crate) fn multiply(
        &self,
        rows: &[u32],
        depth: usize,
        right: Right<'_>,
        mut out: Tile<'_, f32>,
        unpacked: &mut Unpacked,
    ) {
        let left = Left::rows(rows, pair_stride(depth));
        let (count, cols) = (out.rows(), out.cols());
        product(self.isa, left, right, Depth::of(depth), Start::Zero, out.sub(0..count, 0..cols), unpacked);
    }

    /// Rows of pairs of a width to a block of token panels. `missing` is what stands for tokens past the end.
    pub(crate) fn interleave(&self, rows: &[u32], width: usize, count: usize, missing: Missing, out: &mut [u32]) {
        rows::interleave(self.isa, rows, pair_stride(width), count, missing as u32, out);
    }
}

/// What stands for tokens past the end of a ragged block: a zero in a right operand, a negative zero in a left one, so
/// that their product, `-0`, changes no accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Missing {
    Right = 0,
    Left = 0x8000_8000,
}

/// What a layer's forward pass keeps for its backward pass. Rows are tokens.
#[derive(Debug, Default)]
pub(crate) struct LayerKept {
    /// The residual stream that enters.
    pub(crate) input: Buffer<f32>,
    pub(crate) input_scale: Buffer<f32>,
    pub(crate) normed_input: TokenPanels,
    pub(crate) rotated: Buffer<u32>,
    pub(crate) attended: Buffer<u32>,
    /// `[sequence][head][token]`.
    pub(crate) maxima: Buffer<f32>,
    pub(crate) scales: Buffer<f32>,
    /// The residual stream between attention and feed-forward.
    pub(crate) middle: Buffer<f32>,
    pub(crate) middle_scale: Buffer<f32>,
    pub(crate) normed_middle: TokenPanels,
    pub(crate) gate_up: Buffer<f32>,
    pub(crate) activated: TokenPanels,
}

impl LayerKept {
    fn resize(&mut self, sizes: &Sizes, tokens: usize) -> Result<(), Fault> {
        self.input.reserve(tokens * sizes.hidden_stride())?;
        self.input_scale.reserve(tokens)?;
        self.normed_input.resize(tokens, sizes.hidden)?;
        self.rotated.reserve(tokens * sizes.qkv_pairs())?;
        self.attended.reserve(tokens * sizes.hidden_pairs())?;
        self.maxima.reserve(tokens * sizes.heads())?;
        self.scales.reserve(tokens * sizes.heads())?;
        self.middle.reserve(tokens * sizes.hidden_stride())?;
        self.middle_scale.reserve(tokens)?;
        self.normed_middle.resize(tokens, sizes.hidden)?;
        self.gate_up.reserve(tokens * sizes.gate_up_stride())?;
        self.activated.resize(tokens, sizes.ffn)
    }

    fn bytes(&self) -> usize {
        let singles = [&self.input, &self.input_scale, &self.maxima, &self.scales, &self.middle, &self.middle_scale];
        let words = singles.iter().map(|buffer| buffer.len()).sum::<usize>() + self.gate_up.len();
        let panels = [&self.normed_input, &self.normed_middle, &self.activated];
        4 * (words + self.rotated.len() + self.attended.len())
            + panels.iter().map(|panels| panels.bytes()).sum::<usize>()
    }
}

/// What the head keeps: its input is where the last layer's output goes.
#[derive(Debug, Default)]
pub(crate) struct HeadKept {
    pub(crate) input: Buffer<f32>,
    pub(crate) normed: TokenPanels,
    pub(crate) grad_logits: TokenPanels,
    pub(crate) losses: Vec<i32>,
}

/// Gradients of the layer at hand.
#[derive(Debug, Default)]
pub(crate) struct Gradients {
    /// The gradient of the residual stream, all the way down.
    pub(crate) stream: Buffer<f32>,
    /// What each token adds to the gradients of the norms' gains: the first norm's, or the head's, and the second's.
    pub(crate) terms: [Buffer<f32>; 2],
    pub(crate) output: TokenPanels,
    pub(crate) gate_up: TokenPanels,
    pub(crate) middle: TokenPanels,
    pub(crate) attended: Buffer<u32>,
    pub(crate) attended_panels: TokenPanels,
    pub(crate) qkv_rows: Buffer<u32>,
    pub(crate) qkv: TokenPanels,
}

/// What some layers keep of the sequences that go through together.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) layers: Vec<LayerKept>,
}

impl Kept {
    /// Makes room for so many tokens.
    pub(crate) fn resize(&mut self, sizes: &Sizes, tokens: usize) -> Result<(), Fault> {
        self.layers.resize_with(sizes.layers, LayerKept::default);
        self.layers.iter_mut().try_for_each(|layer| layer.resize(sizes, tokens))
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(LayerKept::bytes).sum()
    }
}

/// What nothing is kept in beyond a pass: room for the head, and for gradients on their way.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) head: HeadKept,
    pub(crate) grads: Gradients,
}

impl Room {
    /// Makes room in the head for so many tokens of a model.
    pub(crate) fn resize_head(&mut self, sizes: &Sizes, tokens: usize) -> Result<(), Fault> {
        self.head.input.reserve(tokens * sizes.hidden_stride())?;
        self.head.normed.resize(tokens, sizes.hidden)?;
        self.head.grad_logits.resize(tokens, sizes.vocab)?;
        self.head.losses.clear();
        self.head.losses.resize(tokens, 0);
        Ok(())
    }

    /// Makes room for the gradients of so many tokens of a model.
    pub(crate) fn resize_grads(&mut self, sizes: &Sizes, tokens: usize) -> Result<(), Fault> {
        let grads = &mut self.grads;
        grads.stream.reserve(tokens * sizes.hidden_stride())?;
        grads.terms.iter_mut().try_for_each(|terms| terms.reserve(tokens * sizes.hidden_stride()))?;
        grads.output.resize(tokens, sizes.hidden)?;
        grads.gate_up.resize(tokens, 2 * sizes.ffn)?;
        grads.middle.resize(tokens, sizes.hidden)?;
        grads.attended_panels.resize(tokens, sizes.hidden)?;
        grads.attended.reserve(tokens * sizes.hidden_pairs())?;
        grads.qkv_rows.reserve(tokens * sizes.qkv_pairs())?;
        grads.qkv.resize(tokens, sizes.qkv)
    }
}

/// Copies rows of the residual stream's width that lie `from` apart to rows that lie `to` apart.
pub(crate) fn copy_rows(sizes: &Sizes, source: &[f32], from: usize, target: &mut [f32], to: usize) {
    for (source, target) in source.chunks(from).zip(target.chunks_mut(to)) {
        target[..sizes.hidden].copy_from_slice(&source[..sizes.hidden]);
    }
}

/// Rows of tokens cut into blocks.
pub(crate) fn blocks<T>(rows: &[T], stride: usize, tokens: usize) -> std::slice::Chunks<'_, T> {
    rows[..tokens * stride].chunks(BLOCK * stride)
}

/// As [`blocks`], for writing.
pub(crate) fn blocks_mut<T>(rows: &mut [T], stride: usize, tokens: usize) -> std::slice::ChunksMut<'_, T> {
    rows[..tokens * stride].chunks_mut(BLOCK * stride)
}

/// Where the words of query, key and value heads of one group stand in a row of pairs.
pub(crate) fn group_words(sizes: &Sizes, group: usize) -> [usize; 3] {
    let words = sizes.head.words();
    let keys = sizes.hidden / 2 + group * words;
    [group * sizes.group * words, keys, keys + sizes.kv / 2]
}

/// The slots of a layer's gains, in the order of [`Gradients::terms`].
pub(crate) const GAINS: [Slot; 2] = [Slot::AttentionGain, Slot::FfnGain];
