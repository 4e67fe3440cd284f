//! Matrix products in the canonical order: one accumulator for each output, depth ascending, never split
//! (ARCHITECTURE §4).
//!
//! Operands are bfloat16, two consecutive depths in one word: **the earlier in the upper half**. The instruction
//! `vdpbf16ps` adds the product of the upper halves first and the product of the lower halves second, each sum rounded
//! to nearest, so on such words it *is* the canonical chain, two links at a time. [`is_canonical`] checks that on the
//! machine at hand. The other instruction sets take the words apart and chain single-precision operations; products of
//! bfloat16 values are exact, so fusing them changes nothing.
//!
//! An odd depth is padded with a factor `0` on the right and `0` or `-0` on the left: adding `0 * 0` changes no
//! accumulator but `-0`, and adding `-0 * 0` changes none at all.
//!
//! Nothing is repacked on the way: the left operand is read by broadcasts from rows or [`TokenPanels`], the right one lies
//! in panels of 16 columns already. A whole depth at a time stays in registers, and one panel pair in the first-level
//! cache while the rows pass by.

use super::isa::{Isa, kernel};
use super::memory::{BLOCK_PAIRS, LANES, Tile, TokenPanels};
use super::rows::split;
use super::tiles;

/// How depth runs through an operand: `blocks` times `pairs` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) blocks: usize,
    pub(crate) pairs: usize,
}

impl Depth {
    /// A depth without blocks, rounded up to pairs.
    pub(crate) fn of(depth: usize) -> Self {
        Self { blocks: 1, pairs: depth.div_ceil(2) }
    }

    /// The depth of products over all tokens of some panels.
    pub(crate) fn tokens(panels: &TokenPanels) -> Self {
        Self { blocks: panels.blocks(), pairs: BLOCK_PAIRS }
    }

    fn last(self, block: usize, pair: usize) -> usize {
        (self.blocks - 1) * block + (self.pairs - 1) * pair
    }
}

/// The left operand: word `(m, block, pair)` lies at `m / 16 * panel + m % 16 * row + block * self.block + pair *
/// self.pair`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) panel: usize,
    pub(crate) row: usize,
    pub(crate) block: usize,
    pub(crate) pair: usize,
}

impl<'a> Left<'a> {
    /// Rows of pairs, `stride` words apart.
    pub(crate) fn rows(words: &'a [u32], stride: usize) -> Self {
        Self { words, panel: LANES * stride, row: stride, block: 0, pair: 1 }
    }

    /// Columns as rows: word `(m, pair)` lies at `pair * stride + m`.
    pub(crate) fn columns(words: &'a [u32], stride: usize) -> Self {
        Self { words, panel: LANES, row: 1, block: 0, pair: stride }
    }

    /// The columns of token panels from a panel on, as rows.
    pub(crate) fn tokens(panels: &'a TokenPanels, first_panel: usize) -> Self {
        let words = panels.words_from(first_panel);
        Self { words, panel: BLOCK_PAIRS * LANES, row: 1, block: panels.block(), pair: LANES }
    }

    fn at(&self, m: usize) -> usize {
        m / LANES * self.panel + m % LANES * self.row
    }
}

/// The right operand: word `(pair, column)` lies at `column / 16 * panel + block * self.block + pair * 16 + column % 16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) panel: usize,
    pub(crate) block: usize,
}

impl<'a> Right<'a> {
    /// Panels of a whole depth each, `pairs` words of 16 columns.
    pub(crate) fn panels(words: &'a [u32], pairs: usize) -> Self {
        Self { words, panel: pairs * LANES, block: 0 }
    }

    pub(crate) fn tokens(panels: &'a TokenPanels, first_panel: usize) -> Self {
        let words = panels.words_from(first_panel);
        Self { words, panel: BLOCK_PAIRS * LANES, block: panels.block() }
    }
}

/// What accumulators start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Zero,
    Output,
}

/// Where a thread takes left operands apart for instruction sets without bfloat16 products.
pub(crate) type Unpacked = Vec<f32>;

/// `out[m, n] = chain(out[m, n] or 0, left[m, k], right[k, n])` ([`neuroshard_proto::ops`]).
pub(crate) fn product(
    isa: Isa,
    left: Left<'_>,
    right: Right<'_>,
    depth: Depth,
    start: Start,
    mut out: Tile<'_, f32>,
    unpacked: &mut Unpacked,
) {
    let (rows, cols) = (out.rows(), out.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    if depth.blocks == 0 || depth.pairs == 0 {
        if start == Start::Zero {
            (0..rows).for_each(|row| out.row(row).fill(0.0));
        }
        return;
    }
    // The tiles below read by address: this is where it is seen that every address lies inside.
    assert!(left.at(rows - 1).max(left.at(LANES.min(rows) - 1)) + depth.last(left.block, left.pair) < left.words.len());
    let last = (cols - 1) / LANES * right.panel + depth.last(right.block, LANES) + LANES;
    assert!(last <= right.words.len(), "the right operand has all panels");
    if isa == Isa::Avx512Bf16 {
        return sweep(&Walk { isa, left: Some(left), unpacked: &[], right, depth, start }, &mut out);
    }
    // Taking the left operand apart needs room: a bounded depth at a time, each but the first adding to the last.
    let (mut block, mut pair) = (0, 0);
    while block < depth.blocks {
        let part = if depth.blocks == 1 {
            Depth { blocks: 1, pairs: (depth.pairs - pair).min(tiles::UNPACKED_PAIRS) }
        } else {
            Depth { blocks: (depth.blocks - block).min(tiles::UNPACKED_PAIRS.div_ceil(depth.pairs)), ..depth }
        };
        let left_part = Left { words: &left.words[block * left.block + pair * left.pair..], ..left };
        let right_part = Right { words: &right.words[block * right.block + pair * LANES..], ..right };
        unpack(isa, &left_part, rows, part, unpacked);
        let start = if block + pair == 0 { start } else { Start::Output };
        sweep(&Walk { isa, left: None, unpacked, right: right_part, depth: part, start }, &mut out);
        (block, pair) = if depth.blocks == 1 && pair + part.pairs < depth.pairs {
            (0, pair + part.pairs)
        } else {
            (block + part.blocks, 0)
        };
    }
}

/// One pass over the output.
struct Walk<'a> {
    isa: Isa,
    left: Option<Left<'a>>,
    unpacked: &'a [f32],
    right: Right<'a>,
    depth: Depth,
    start: Start,
}

fn sweep(walk: &Walk<'_>, out: &mut Tile<'_, f32>) {
    let (rows, cols, height) = (out.rows(), out.cols(), tiles::height(walk.isa));
    for first_col in (0..cols).step_by(2 * LANES) {
        let width = (cols - first_col).min(2 * LANES);
        for first_row in (0..rows).step_by(height) {
            let count = (rows - first_row).min(height);
            let mut part = out.sub(first_row..first_row + count, first_col..first_col + width);
            if width % LANES == 0 {
                let stride = part.stride();
                multiply(walk, first_row, first_col, count, width / LANES, part.as_mut_ptr(), stride);
            } else {
                edge(walk, first_row, first_col, &mut part);
            }
        }
    }
}

/// A tile that ends inside a vector: computed beside the output and copied.
fn edge(walk: &Walk<'_>, first_row: usize, first_col: usize, out: &mut Tile<'_, f32>) {
    let mut whole = [[0.0_f32; 2 * LANES]; tiles::HEIGHT_MAX];
    let (rows, cols) = (out.rows(), out.cols());
    if walk.start == Start::Output {
        whole.iter_mut().take(rows).enumerate().for_each(|(row, whole)| whole[..cols].copy_from_slice(out.row(row)));
    }
    multiply(walk, first_row, first_col, rows, cols.div_ceil(LANES), whole.as_flattened_mut().as_mut_ptr(), 2 * LANES);
    whole.iter().take(rows).enumerate().for_each(|(row, whole)| out.row(row).copy_from_slice(&whole[..cols]));
}

fn multiply(walk: &Walk<'_>, row: usize, col: usize, rows: usize, panels: usize, out: *mut f32, stride: usize) {
    let right = walk.right.words[col / LANES * walk.right.panel..].as_ptr();
    let right = tiles::Source { words: right, row: walk.right.panel, block: walk.right.block, pair: LANES };
    let pairs = 2 * walk.depth.blocks * walk.depth.pairs;
    let job = tiles::Job {
        left: walk.left.map_or(tiles::Source::default(), |left| tiles::Source {
            words: left.words[left.at(row)..].as_ptr(),
            row: left.row,
            block: left.block,
            pair: left.pair,
        }),
        unpacked: walk.unpacked.get(row * pairs..).unwrap_or_default().as_ptr(),
        right,
        depth: walk.depth,
        start: walk.start,
        out,
        stride,
    };
    // SAFETY: `product` saw that all words of both operands lie inside; the caller gives an output of `rows` rows and
    // `panels` whole vectors; `isa` is available on this machine.
    unsafe { tiles::run(walk.isa, &job, rows, panels) }
}

/// Takes rows apart into `[tile of rows][depth][row]`, as the tiles without bfloat16 products read them.
fn unpack(isa: Isa, left: &Left<'_>, rows: usize, depth: Depth, out: &mut Unpacked) {
    let (height, pairs) = (tiles::height(isa), depth.blocks * depth.pairs);
    out.resize(rows.next_multiple_of(height) * 2 * pairs, 0.0);
    for (first, tile) in (0..rows).step_by(height).zip(out.chunks_exact_mut(height * 2 * pairs)) {
        for (block, out) in tile.chunks_exact_mut(height * 2 * depth.pairs).enumerate() {
            // Rows past the last are not looked at: any will do.
            let row = |row: usize| left.at((first + row).min(rows - 1)) + block * left.block;
            let starts = std::array::from_fn(row);
            unpack_tile(isa, left.words, starts, left.pair, height, out);
        }
    }
}

kernel! {
    /// One block of a tile of rows, each from its start on, to `[depth][row]`.
    fn unpack_tile(
        words: &[u32], starts: [usize; tiles::HEIGHT_MAX], pair: usize, height: usize, out: &mut [f32],
    ) {
        match height {
            8 => unpack_columns::<8>(words, starts, pair, out),
            6 => unpack_columns::<6>(words, starts, pair, out),
            _ => unpack_columns::<2>(words, starts, pair, out),
        }
    }
}

#[inline(always)]
fn unpack_columns<const HEIGHT: usize>(
    words: &[u32],
    starts: [usize; tiles::HEIGHT_MAX],
    pair: usize,
    out: &mut [f32],
) {
    let rows: [&[u32]; HEIGHT] = std::array::from_fn(|row| &words[starts[row]..]);
    let mut place = 0;
    for depths in out.as_chunks_mut::<HEIGHT>().0.as_chunks_mut::<2>().0 {
        let column: [u32; HEIGHT] = std::array::from_fn(|row| rows[row][place]);
        *depths = [column.map(|word| split(word)[0]), column.map(|word| split(word)[1])];
        place += pair;
    }
}

/// Whether an instruction set's products are the canonical chain on this machine: values whose sums round differently in
/// any other order, a large start, cancellation, and both zeros.
pub(crate) fn is_canonical(isa: Isa) -> bool {
    const DEPTH: usize = 37;
    let mut seed = 1_u32;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (sign, exponent, fraction) = (seed & 0x8000_0000, 117 + (seed >> 8) % 21, seed & 0x7f_0000);
        f32::from_bits(sign | (exponent << 23) | fraction)
    };
    let (rows, cols) = (11, 40);
    let mut left: Vec<f32> = (0..rows * DEPTH).map(|_| random()).collect();
    let mut right: Vec<f32> = (0..cols * DEPTH).map(|_| random()).collect();
    left[3] = -0.0;
    left[DEPTH..2 * DEPTH].fill(-0.0);
    right[..DEPTH].fill(0.0);
    let stride = DEPTH.div_ceil(2);
    let pair = |earlier: f32, later: f32| (earlier.to_bits() & 0xffff_0000) | (later.to_bits() >> 16);
    let words: Vec<u32> =
        left.chunks(DEPTH).flat_map(|row| row.chunks(2).map(|k| pair(k[0], *k.get(1).unwrap_or(&-0.0)))).collect();
    let mut panels = vec![0; cols.next_multiple_of(LANES) * stride];
    for (col, depths) in right.chunks(DEPTH).enumerate() {
        for (k, factors) in depths.chunks(2).enumerate() {
            let at = (col / LANES * stride + k) * LANES + col % LANES;
            panels[at] = pair(factors[0], *factors.get(1).unwrap_or(&0.0));
        }
    }
    let mut out: Vec<f32> = (0..rows * cols).map(|_| random()).collect();
    out[cols] = -0.0;
    let chained = |place: usize| {
        let factors = left[place / cols * DEPTH..][..DEPTH].iter().zip(&right[place % cols * DEPTH..][..DEPTH]);
        factors.fold(out[place], |acc, (a, b)| acc + a * b)
    };
    let wanted: Vec<u32> = (0..out.len()).map(|place| chained(place).to_bits()).collect();
    let tile = Tile::new(&mut out, cols, rows, cols);
    let (left, right) = (Left::rows(&words, stride), Right::panels(&panels, stride));
    product(isa, left, right, Depth::of(DEPTH), Start::Output, tile, &mut Unpacked::new());
    out.iter().map(|x| x.to_bits()).eq(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_of_this_machine_multiplies_canonically() {
        let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
        assert!(available.contains(&Isa::Scalar));
        for isa in available {
            assert!(is_canonical(isa), "{isa}");
        }
    }

    #[test]
    fn an_empty_depth_gives_zeros_or_leaves_the_output() {
        for (start, wanted) in [(Start::Zero, 0.0), (Start::Output, 7.0)] {
            let mut out = [7.0; 6];
            let (left, right) = (Left::rows(&[], 0), Right::panels(&[], 0));
            product(Isa::Scalar, left, right, Depth::of(0), start, Tile::new(&mut out, 3, 2, 3), &mut Vec::new());
            assert_eq!(out, [wanted; 6]);
        }
    }

    #[test]
    #[should_panic(expected = "the right operand has all panels")]
    fn operands_that_are_too_short_are_refused() {
        let mut out = [0.0; 32];
        let (left, right) = (Left::rows(&[0; 8], 8), Right::panels(&[0; 8 * LANES], 8));
        let tile = Tile::new(&mut out, 32, 1, 32);
        product(Isa::Scalar, left, right, Depth::of(16), Start::Zero, tile, &mut Vec::new());
    }
}
