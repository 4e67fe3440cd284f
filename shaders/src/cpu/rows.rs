//! Element-wise work, one row at a time, in the words of the operation table ([`neuroshard_proto::ops`]).
//!
//! Each kernel returns the largest magnitude it had to check, as bits; [`fits`] says whether that is in range. Rows of
//! bfloat16 go out as words of two, the earlier value in the upper half.

use neuroshard_proto::mutant;

use crate::canon::{TREE, bf, exceeds, exceeds_norm, exp, key, log, micro, mul, recip, rsqrt, sigmoid, z};

use super::isa::kernel;
use super::memory::{BLOCK_PAIRS, LANES};

/// The largest magnitude a kernel had to check.
pub(crate) type Magnitude = u32;

/// A magnitude no value may have: for bounds that are not [`exceeds`]'s.
const OUT_OF_RANGE: Magnitude = f32::NAN.to_bits();

#[inline(always)]
pub(crate) fn magnitude(x: f32) -> Magnitude {
    x.to_bits() & 0x7fff_ffff
}

/// The number with an integer [`key`], which turns back by the same step.
#[inline(always)]
pub(crate) fn of_key(ordered: i32) -> f32 {
    f32::from_bits(key(f32::from_bits(ordered.cast_unsigned())).cast_unsigned())
}

/// Whether checked values stayed in their range.
pub(crate) fn fits(worst: Magnitude) -> bool {
    !exceeds(f32::from_bits(worst))
}

/// Two bfloat16 values as one word.
#[inline(always)]
pub(crate) fn pair(earlier: f32, later: f32) -> u32 {
    let (earlier, later) = if mutant("depth in another order") { (later, earlier) } else { (earlier, later) };
    (earlier.to_bits() & 0xffff_0000) | (later.to_bits() >> 16)
}

/// The two values of a word.
#[inline(always)]
pub(crate) fn split(word: u32) -> [f32; 2] {
    [f32::from_bits(word & 0xffff_0000), f32::from_bits(word << 16)]
}

/// Writes bfloat16 values as words; an odd last one stands beside a zero.
#[inline(always)]
pub(crate) fn write_pairs(values: &[f32], out: &mut [u32]) {
    let (pairs, last) = values.as_chunks::<2>();
    for ([earlier, later], out) in pairs.iter().zip(&mut *out) {
        *out = pair(*earlier, *later);
    }
    if let [last] = last {
        out[pairs.len()] = pair(*last, 0.0);
    }
}

/// `tree` over values of which none is `-0`, so that zeros may be left out.
#[inline(always)]
pub(crate) fn tree(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<TREE>();
    let mut total = 0.0;
    for block in blocks {
        total += halve(*block);
    }
    total
        + match rest.len() {
            0 => 0.0,
            1..=16 => halve(filled::<16>(rest)),
            17..=32 => halve(filled::<32>(rest)),
            33..=64 => halve(filled::<64>(rest)),
            65..=128 => halve(filled::<128>(rest)),
            _ => halve(filled::<TREE>(rest)),
        }
}

#[inline(always)]
fn filled<const N: usize>(values: &[f32]) -> [f32; N] {
    values.first_chunk().copied().unwrap_or_else(|| {
        let mut block = [0.0; N];
        block[..values.len()].copy_from_slice(values);
        block
    })
}

/// Sums a block by halving.
#[inline(always)]
fn halve<const N: usize>(mut block: [f32; N]) -> f32 {
    /// One halving, if the block is that long.
    #[inline(always)]
    fn fold<const W: usize, const N: usize>(block: &mut [f32; N]) {
        if N > W {
            let (low, high) = block.split_at_mut(W);
            for (low, high) in low.iter_mut().zip(high) {
                *low += *high;
            }
        }
    }
    fold::<128, N>(&mut block);
    fold::<64, N>(&mut block);
    fold::<32, N>(&mut block);
    fold::<16, N>(&mut block);
    fold::<8, N>(&mut block);
    fold::<4, N>(&mut block);
    fold::<2, N>(&mut block);
    fold::<1, N>(&mut block);
    block[0]
}

kernel! {
    /// `rms_norm` of a row: normed values out, and the scale. `line` is room for a row.
    pub(crate) fn rms_norm(
        x: &[f32], gain: &[f32], inverse: f32, eps: f32, scale: &mut f32, line: &mut [f32], out: &mut [u32],
    ) -> Magnitude {
        let (gain, line) = (&gain[..x.len()], &mut line[..x.len()]);
        let mut entering = 0;
        for (line, x) in line.iter_mut().zip(x) {
            entering = entering.max(magnitude(*x));
            *line = mul(*x, *x);
        }
        let r = rsqrt(mul(tree(line), inverse) + eps);
        let mut worst = 0;
        for ((line, x), gain) in line.iter_mut().zip(x).zip(gain) {
            let y = mul(mul(*x, r), *gain);
            worst = worst.max(magnitude(y));
            *line = bf(y);
        }
        write_pairs(line, out);
        *scale = r;
        if exceeds_norm(f32::from_bits(entering)) { OUT_OF_RANGE } else { worst }
    }
}

kernel! {
    /// `rms_norm_backward` of a row: `grad` holds the gradient that by-passes the norm and then the input's; `terms`
    /// holds the gradient of the norm's output and then what the row adds to the gain's gradient.
    pub(crate) fn rms_norm_backward(
        x: &[f32], gain: &[f32], inverse: f32, scale: f32, lines: [&mut [f32]; 3], grad: &mut [f32], terms: &mut [f32],
    ) -> Magnitude {
        let width = x.len();
        let (gain, grad, terms) = (&gain[..width], &mut grad[..width], &mut terms[..width]);
        let [normed, scaled, products] = lines.map(|line| &mut line[..width]);
        let mut worst = 0;
        for c in 0..width {
            worst = worst.max(magnitude(terms[c]));
            normed[c] = mul(x[c], scale);
            scaled[c] = mul(terms[c], gain[c]);
            products[c] = mul(scaled[c], normed[c]);
        }
        let s = if mutant("norm without its mean") { 0.0 } else { mul(tree(products), inverse) };
        for c in 0..width {
            let own = mul(scale, z(scaled[c] - mul(normed[c], s)));
            grad[c] = z(grad[c] + own);
            terms[c] = mul(terms[c], normed[c]);
        }
        worst
    }
}

kernel! {
    /// `y = z(x + y)`.
    pub(crate) fn residual(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = z(*x + *y);
        }
    }
}

kernel! {
    /// `cast` of a row.
    pub(crate) fn cast(x: &[f32], line: &mut [f32], out: &mut [u32]) -> Magnitude {
        let line = &mut line[..x.len()];
        let mut worst = 0;
        for (line, x) in line.iter_mut().zip(x) {
            worst = worst.max(magnitude(*x));
            *line = bf(*x);
        }
        write_pairs(line, out);
        worst
    }
}

kernel! {
    /// `cast` of a row that is not needed afterwards.
    pub(crate) fn cast_in_place(x: &mut [f32], out: &mut [u32]) -> Magnitude {
        let mut worst = 0;
        for x in &mut *x {
            worst = worst.max(magnitude(*x));
            *x = bf(*x);
        }
        write_pairs(x, out);
        worst
    }
}

/// Turns the pairs `(i, i + HALF)` of each head; `HALF` 0 means that the length of the table decides.
#[inline(always)]
fn turn<const HALF: usize>(x: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let half = if HALF == 0 { cosines.len() } else { HALF };
    let (cosines, sines) = (&cosines[..half], &sines[..half]);
    for head in x.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            low[i] = z(mul(a, cosines[i]) - mul(b, sines[i]));
            high[i] = z(mul(b, cosines[i]) + mul(a, sines[i]));
        }
    }
}

kernel! {
    /// `rope` of a row whose first `turned` values are heads. For `rope_backward`, the sines' signs are turned over, which
    /// gives the same bits: `a - (-b) = a + b`.
    pub(crate) fn rope(x: &mut [f32], turned: usize, cosines: &[f32], sines: &[f32], out: &mut [u32]) -> Magnitude {
        let heads = &mut x[..turned];
        match cosines.len() {
            16 => turn::<16>(heads, cosines, sines),
            32 => turn::<32>(heads, cosines, sines),
            64 => turn::<64>(heads, cosines, sines),
            _ => turn::<0>(heads, cosines, sines),
        }
        let mut worst = 0;
        for x in &mut *x {
            worst = worst.max(magnitude(*x));
            *x = bf(*x);
        }
        write_pairs(x, out);
        worst
    }
}

kernel! {
    /// bfloat16 values of two rows as words: the earlier row in the upper halves.
    pub(crate) fn pairs_down(earlier: &[f32], later: &[f32], out: &mut [u32]) {
        for ((out, earlier), later) in out.iter_mut().zip(earlier).zip(later) {
            *out = pair(*earlier, *later);
        }
    }
}

kernel! {
    /// bfloat16 values of a row that no other follows.
    pub(crate) fn pairs_alone(earlier: &[f32], out: &mut [u32]) {
        for (out, earlier) in out.iter_mut().zip(earlier) {
            *out = pair(*earlier, 0.0);
        }
    }
}

kernel! {
    /// `swiglu` of a row.
    pub(crate) fn swiglu(gate: &[f32], up: &[f32], line: &mut [f32], out: &mut [u32]) -> Magnitude {
        let (up, line) = (&up[..gate.len()], &mut line[..gate.len()]);
        let mut worst = 0;
        for ((line, g), u) in line.iter_mut().zip(gate).zip(up) {
            let a = mul(mul(*g, sigmoid(*g)), *u);
            worst = worst.max(magnitude(*g)).max(magnitude(*u)).max(magnitude(a));
            *line = bf(a);
        }
        write_pairs(line, out);
        worst
    }
}

kernel! {
    /// `swiglu_backward` of a row: the gradients of gate and up, side by side.
    pub(crate) fn swiglu_backward(
        da: &[f32], gate: &[f32], up: &[f32], line: &mut [f32], out: &mut [u32],
    ) -> Magnitude {
        let width = da.len();
        let (gate, up, line) = (&gate[..width], &up[..width], &mut line[..2 * width]);
        let (gates, ups) = line.split_at_mut(width);
        let mut worst = 0;
        for c in 0..width {
            let (g, u, da) = (gate[c], up[c], da[c]);
            let s = sigmoid(g);
            let dg = mul(mul(da, u), mul(s, 1.0 + mul(g, 1.0 - s)));
            let du = mul(da, mul(g, s));
            let (dg, du) = if mutant("gate and up swapped") { (du, dg) } else { (dg, du) };
            worst = worst.max(magnitude(da)).max(magnitude(dg)).max(magnitude(du));
            gates[c] = bf(dg);
            ups[c] = bf(du);
        }
        write_pairs(line, out);
        worst
    }
}

kernel! {
    /// `cross_entropy` of a row: its loss in micro-nats and the gradient of its logits. `line` is room for a row, rounded up
    /// to vectors.
    pub(crate) fn cross_entropy(
        logits: &[f32], bias: &[f32], target: usize, line: &mut [f32], loss: &mut i32, out: &mut [u32],
    ) -> Magnitude {
        let vocab = logits.len();
        let (line, _) = line[..vocab.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
        let (values, bias) = (&mut line.as_flattened_mut()[..vocab], &bias[..vocab]);
        let (mut worst, mut top) = (0, key(f32::MIN));
        for ((line, x), bias) in values.iter_mut().zip(logits).zip(bias) {
            worst = worst.max(magnitude(*x));
            *line = z(*x + *bias);
            top = top.max(key(*line));
        }
        let (own, top) = (values[target], of_key(top));
        // Beyond the vocabulary stand numbers whose exponentials are zero.
        line.as_flattened_mut()[vocab..].fill(f32::MIN);
        for x in line.as_flattened_mut() {
            *x = exp(z(*x - top));
        }
        let sum = tree(line.as_flattened());
        let c = recip(sum);
        for x in line.as_flattened_mut() {
            *x = mul(*x, c);
        }
        let values = &mut line.as_flattened_mut()[..vocab];
        values[target] = z(values[target] - 1.0);
        for x in &mut *values {
            worst = worst.max(magnitude(*x));
            *x = bf(*x);
        }
        write_pairs(values, out);
        *loss = micro(log(sum) + (top - own));
        worst
    }
}

/// Two rows' words of one panel to a word a column, the earlier row's value in the upper half.
#[inline(always)]
pub(crate) fn zip_words(earlier: [u32; LANES / 2], later: [u32; LANES / 2]) -> [u32; LANES] {
    let mut out = [0; LANES];
    for i in 0..LANES / 2 {
        out[2 * i] = (earlier[i] & 0xffff_0000) | (later[i] >> 16);
        out[2 * i + 1] = (earlier[i] << 16) | (later[i] & 0xffff);
    }
    out
}

kernel! {
    /// Rows of pairs to a block of token panels: up to 64 rows; `missing` stands for a token that is not there, twice.
    pub(crate) fn interleave(rows: &[u32], stride: usize, count: usize, missing: u32, out: &mut [u32]) {
        for (panel, out) in out.chunks_exact_mut(BLOCK_PAIRS * LANES).enumerate() {
            let (out, _) = out.as_chunks_mut::<LANES>();
            let (both, rest) = out.split_at_mut(count / 2);
            let mut rows = rows.chunks(stride).take(count).map(|row| panel_words(row, panel));
            for out in both {
                if let (Some(earlier), Some(later)) = (rows.next(), rows.next()) {
                    *out = zip_words(earlier, later);
                }
            }
            let absent = [missing; LANES / 2];
            for out in rest {
                *out = zip_words(rows.next().unwrap_or(absent), absent);
            }
        }
    }
}

/// A row's words of one panel.
#[inline(always)]
pub(crate) fn panel_words(row: &[u32], panel: usize) -> [u32; LANES / 2] {
    row[panel * LANES / 2..].first_chunk().copied().expect("rows of pairs reach to the end of their last panel")
}

kernel! {
    /// Adds rows to a row, one after the other: `acc[c] = acc[c] + rows[t][first + c]`, `t` ascending.
    pub(crate) fn add_rows(rows: &[f32], stride: usize, first: usize, acc: &mut [f32]) {
        for row in rows.chunks(stride) {
            for (acc, x) in acc.iter_mut().zip(&row[first..]) {
                *acc += *x;
            }
        }
    }
}

kernel! {
    /// `sum_squares` block by block: the sum of each 256 elements.
    pub(crate) fn block_squares(gradient: &[f32], token_weight: f32, sums: &mut [f32]) -> Magnitude {
        let mut worst = 0;
        for (block, sum) in gradient.chunks(TREE).zip(sums) {
            let mut squares = [0.0; TREE];
            for (square, g) in squares.iter_mut().zip(block) {
                worst = worst.max(magnitude(*g));
                let weighted = mul(*g, token_weight);
                *square = mul(weighted, weighted);
            }
            *sum = halve(squares);
        }
        worst
    }
}
