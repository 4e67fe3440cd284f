//! Causal attention of the query heads that share one key and value head, over one sequence.
//!
//! Scores of 64 tokens at a time are products over the head's width, weighted values are products over the keys up to
//! the token's own. Keys that come later than a block of eight tokens are left out as a whole: their weights are `+0`,
//! and adding `+0` times anything changes no accumulator that started from `+0`.

use crate::canon::{bf, exp, key, mul, recip, z};

use super::gemm::{Depth, Left, Right, Start, Unpacked, product};
use super::isa::{Isa, kernel};
use super::memory::{BLOCK, Buffer, LANES, Tile, padded, pair_stride};
use super::rows::{self, Magnitude, magnitude, of_key, tree};
use neuroshard_proto::{Fault, mutant};

/// Tokens whose keys' range is cut together.
const CUT: usize = 8;

/// What all heads of a model have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadShape {
    /// Width of a head: even.
    pub(crate) width: usize,
    /// `1 / sqrt(width)`.
    pub(crate) scale: f32,
}

impl HeadShape {
    /// Words of a head in a row of pairs.
    pub(crate) fn words(&self) -> usize {
        self.width / 2
    }
}

/// Rows of pairs in a longer row: the words of one head at every token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadRows<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) stride: usize,
}

impl<'a> HeadRows<'a> {
    /// The rows from a word on.
    pub(crate) fn skip(self, words: usize) -> Self {
        Self { words: &self.words[words..], ..self }
    }

    fn row(&self, token: usize, words: usize) -> &'a [u32] {
        &self.words[token * self.stride..][..words]
    }
}

/// Writes rows as right operands whose columns are the tokens: `[token / 16][pair of the head's width][token % 16]`. Row 0
/// is the token `first`.
pub(crate) fn across_tokens(
    isa: Isa,
    head: HeadShape,
    source: HeadRows<'_>,
    first: usize,
    count: usize,
    out: &mut [u32],
) {
    let (pairs, mut row) = (head.words(), 0);
    while row < count {
        let token = first + row;
        let panel = &mut out[token / LANES * pairs * LANES..][..pairs * LANES];
        if token.is_multiple_of(LANES) && count - row >= LANES {
            transpose(isa, &source.words[row * source.stride..], source.stride, panel);
            row += LANES;
        } else {
            for (word, at) in source.row(row, pairs).iter().zip(panel[token % LANES..].iter_mut().step_by(LANES)) {
                *at = *word;
            }
            row += 1;
        }
    }
}

kernel! {
    /// Sixteen rows to `[word][row]`, as many words as `out` has room for.
    fn transpose(rows: &[u32], stride: usize, out: &mut [u32]) {
        let words = out.len() / LANES;
        for first in (0..words).step_by(LANES) {
            let mut block = [[0; LANES]; LANES];
            let width = (words - first).min(LANES);
            for (row, block) in block.iter_mut().enumerate() {
                let source = &rows[row * stride + first..][..width];
                match source.first_chunk() {
                    Some(source) => *block = *source,
                    None => block[..width].copy_from_slice(source),
                }
            }
            // Four perfect shuffles of sixteen rows transpose them.
            let block = shuffle(shuffle(shuffle(shuffle(block))));
            for (out, block) in out[first * LANES..].as_chunks_mut::<LANES>().0.iter_mut().zip(&block[..width]) {
                *out = *block;
            }
        }
    }
}

/// Rows `2 i` and `2 i + 1` become the two halves of rows `i` and `i + 8` with their elements alternating.
#[inline(always)]
fn shuffle(block: [[u32; LANES]; LANES]) -> [[u32; LANES]; LANES] {
    let mut out = [[0; LANES]; LANES];
    for row in 0..LANES / 2 {
        let (low, high) = (&block[row], &block[row + LANES / 2]);
        for i in 0..LANES / 2 {
            out[2 * row][2 * i] = low[i];
            out[2 * row][2 * i + 1] = high[i];
            out[2 * row + 1][2 * i] = low[LANES / 2 + i];
            out[2 * row + 1][2 * i + 1] = high[LANES / 2 + i];
        }
    }
    out
}

/// Writes rows as right operands whose depth is the tokens: `[column / 16][pair of tokens][column % 16]`, with room for
/// `room` pairs; an odd last token stands beside zeros. Row 0 is the token `first`.
pub(crate) fn along_tokens(
    isa: Isa,
    head: HeadShape,
    source: HeadRows<'_>,
    first: usize,
    count: usize,
    room: usize,
    out: &mut [u32],
) {
    let alone = first % 2;
    for (panel, out) in out.chunks_exact_mut(room * LANES).take(padded(head.width) / LANES).enumerate() {
        let words = (head.words() - panel * LANES / 2).min(LANES / 2);
        let source = source.skip(panel * LANES / 2);
        if alone == 1 {
            // The token joins an earlier one.
            for (word, at) in source.row(0, words).iter().zip(out[first / 2 * LANES..].as_chunks_mut::<2>().0) {
                *at = [(at[0] & 0xffff_0000) | (word >> 16), (at[1] & 0xffff_0000) | (word & 0xffff)];
            }
        }
        if count > alone {
            let rows = &source.words[alone * source.stride..];
            zip_rows(isa, rows, source.stride, count - alone, words, &mut out[first.div_ceil(2) * LANES..]);
        }
    }
}

kernel! {
    /// Pairs of rows to `[pair of rows][column]`, up to eight words a row; an odd last row stands beside zeros.
    fn zip_rows(rows: &[u32], stride: usize, count: usize, words: usize, out: &mut [u32]) {
        let row = |index: usize| {
            let row = &rows[index * stride..][..words];
            row.first_chunk().copied().unwrap_or_else(|| {
                let mut padded = [0; LANES / 2];
                padded[..words].copy_from_slice(row);
                padded
            })
        };
        for (index, out) in out.as_chunks_mut::<LANES>().0.iter_mut().take(count.div_ceil(2)).enumerate() {
            let later = if 2 * index + 1 < count { row(2 * index + 1) } else { [0; LANES / 2] };
            *out = rows::zip_words(row(2 * index), later);
        }
    }
}

/// Keys and values of one head as right operands, for any number of query rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeysValues<'a> {
    /// See [`across_tokens`].
    pub(crate) keys: &'a [u32],
    /// See [`along_tokens`].
    pub(crate) values: &'a [u32],
    /// Pairs of tokens that the values have room for.
    pub(crate) room: usize,
}

/// A thread's room for attention, forward.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    keys: Buffer<u32>,
    values: Buffer<u32>,
    scores: Buffer<f32>,
    weights: Buffer<u32>,
    mixed: Buffer<f32>,
    unpacked: Unpacked,
}

impl AttentionScratch {
    /// Makes room for sequences of `tokens` tokens.
    pub(crate) fn reserve(&mut self, head: HeadShape, tokens: usize) -> Result<(), Fault> {
        self.keys.reserve(across_words(head, tokens))?;
        self.values.reserve(along_words(head, tokens.div_ceil(2)))?;
        self.scores.reserve(BLOCK * score_stride(tokens))?;
        self.weights.reserve(BLOCK * pair_stride(tokens))?;
        self.mixed.reserve(BLOCK * padded(head.width))
    }
}

/// Words of rows [`across_tokens`].
pub(crate) fn across_words(head: HeadShape, tokens: usize) -> usize {
    padded(tokens) * head.words()
}

/// Words of rows [`along_tokens`].
pub(crate) fn along_words(head: HeadShape, room: usize) -> usize {
    padded(head.width) * room
}

/// Numbers between rows of scores.
pub(crate) fn score_stride(tokens: usize) -> usize {
    (tokens.div_ceil(LANES) | 1) * LANES
}

kernel! {
    /// The weights of one token: scores of the `seen` keys up to its own in, `bf` of the weights out as pairs, with zeros
    /// up to the end of `weights`. Returns the greatest score and the reciprocal of the exponentials' sum too.
    fn softmax(scores: &mut [f32], seen: usize, scale: f32, weights: &mut [u32]) -> (f32, f32, Magnitude) {
        let (lanes, _) = scores[..seen.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
        // A score twice changes neither the greatest nor the check.
        let first = lanes[0][0];
        lanes.as_flattened_mut()[seen..].fill(first);
        let (mut worst, mut top) = ([0; LANES], [key(f32::MIN); LANES]);
        for scores in &mut *lanes {
            for i in 0..LANES {
                worst[i] = worst[i].max(magnitude(scores[i]));
                scores[i] = mul(scores[i], scale);
                top[i] = top[i].max(key(scores[i]));
            }
        }
        let top = of_key(top.into_iter().fold(key(f32::MIN), i32::max));
        // Keys that come later have no weight: the exponential of this number is zero.
        lanes.as_flattened_mut()[seen..].fill(f32::MIN);
        for score in lanes.as_flattened_mut() {
            *score = exp(z(*score - top));
        }
        let c = recip(tree(lanes.as_flattened()));
        for exponential in lanes.as_flattened_mut() {
            *exponential = bf(mul(*exponential, c));
        }
        rows::write_pairs(lanes.as_flattened(), weights);
        weights[seen.next_multiple_of(LANES) / 2..].fill(0);
        (top, c, worst.into_iter().fold(0, u32::max))
    }
}

/// What a forward pass leaves for each token of a head: greatest score and reciprocal of the sum of exponentials.
#[derive(Debug)]
pub(crate) struct Normalisers<'a> {
    pub(crate) maxima: &'a mut [f32],
    pub(crate) scales: &'a mut [f32],
}

/// Up to 64 tokens of one head that stand at `first` and after it in their sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) isa: Isa,
    pub(crate) head: HeadShape,
    pub(crate) queries: HeadRows<'a>,
    pub(crate) first: usize,
    /// Keys and values, the asking tokens' own among them.
    pub(crate) seen: KeysValues<'a>,
}

/// `attention` of as many tokens as `out` has rows.
pub(crate) fn attend(
    asking: Asking<'_>,
    normalisers: &mut Normalisers<'_>,
    mut out: Tile<'_, u32>,
    scratch: &mut AttentionScratch,
) -> Magnitude {
    let Asking { isa, head, queries, first, seen } = asking;
    let AttentionScratch { scores, weights, mixed, unpacked, .. } = scratch;
    let (count, all) = (out.rows(), first + out.rows());
    let (stride, weight_stride) = (score_stride(all), pair_stride(all));
    let mut worst = 0;
    for top in (0..count).step_by(CUT) {
        let rows = top..(top + CUT).min(count);
        let keys = first + rows.end;
        let left = Left::rows(&queries.words[rows.start * queries.stride..], queries.stride);
        let right = Right::panels(seen.keys, head.words());
        let tile = Tile::new(&mut scores[rows.start * stride..], stride, rows.len(), padded(keys));
        product(isa, left, right, Depth::of(head.width), Start::Zero, tile, unpacked);
        for row in rows.clone() {
            let scores = &mut scores[row * stride..][..padded(keys)];
            let weights = &mut weights[row * weight_stride..][..padded(keys) / 2];
            let late = usize::from(mutant("mask one token late"));
            let (top, c, magnitude) = softmax(isa, scores, (first + row + 1 + late).min(keys), head.scale, weights);
            (normalisers.maxima[row], normalisers.scales[row]) = (top, c);
            worst = worst.max(magnitude);
        }
        let left = Left::rows(&weights[rows.start * weight_stride..], weight_stride);
        let right = Right::panels(seen.values, seen.room);
        let tile = Tile::new(mixed, padded(head.width), rows.len(), head.width);
        product(isa, left, right, Depth::of(keys), Start::Zero, tile, unpacked);
        for row in rows.clone() {
            let mixed = &mut mixed[(row - rows.start) * padded(head.width)..][..head.width];
            worst = worst.max(rows::cast_in_place(isa, mixed, out.row(row)));
        }
    }
    worst
}

/// The rows of one key and value head and of the query heads that share it, over one sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) queries: HeadRows<'a>,
    pub(crate) keys: HeadRows<'a>,
    pub(crate) values: HeadRows<'a>,
    /// Query heads, side by side in `queries`.
    pub(crate) heads: usize,
    pub(crate) tokens: usize,
}

/// `attention` of a whole group. `normalisers` are `[head][token]`; `out` has the heads side by side.
pub(crate) fn forward(
    isa: Isa,
    head: HeadShape,
    group: Group<'_>,
    normalisers: Normalisers<'_>,
    mut out: Tile<'_, u32>,
    scratch: &mut AttentionScratch,
) -> Magnitude {
    let (tokens, room) = (group.tokens, group.tokens.div_ceil(2));
    let (mut keys, mut values) = (std::mem::take(&mut scratch.keys), std::mem::take(&mut scratch.values));
    across_tokens(isa, head, group.keys, 0, tokens, &mut keys);
    along_tokens(isa, head, group.values, 0, tokens, room, &mut values);
    let seen = KeysValues { keys: &keys, values: &values, room };
    let mut worst = 0;
    for index in 0..group.heads {
        let columns = index * head.words()..(index + 1) * head.words();
        for first in (0..tokens).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(tokens);
            let place = index * tokens + rows.start..index * tokens + rows.end;
            let queries = group.queries.skip(first * group.queries.stride + columns.start);
            let mut normalisers =
                Normalisers { maxima: &mut normalisers.maxima[place.clone()], scales: &mut normalisers.scales[place] };
            let asking = Asking { isa, head, queries, first, seen };
            worst = worst.max(attend(asking, &mut normalisers, out.sub(rows, columns.clone()), scratch));
        }
    }
    (scratch.keys, scratch.values) = (keys, values);
    worst
}
