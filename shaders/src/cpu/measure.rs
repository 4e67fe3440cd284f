//! A matrix product alone, as training performs it, for benchmarks.

use neuroshard_proto::Fault;
use neuroshard_proto::ops::Slot;

use super::backward::product_sums;
use super::gemm::{Depth, Left, Start, Unpacked, product};
use super::isa::Isa;
use super::memory::{BLOCK, Buffer, Tile, TokenPanels, pair_stride};
use super::pass::{Crew, Missing};
use super::pool::Pool;
use super::rows;
use super::state::Matrix;

/// Which product of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows times a packed weight: `matmul_nt`, `matmul_nn`.
    Rows,
    /// Over all tokens: `matmul_tn`.
    Tokens,
}

/// `[rows, depth] x [depth, cols]` on the calling thread, with its operands.
#[derive(Debug)]
pub struct Product {
    isa: Isa,
    shape: [usize; 3],
    /// `[rows, depth]`, and `[cols, depth]`: as activations and weights lie; or, over tokens, `[depth, rows]` and
    /// `[depth, cols]`.
    operands: [Vec<f32>; 2],
    pairs: Buffer<u32>,
    packed: Packed,
    out: Buffer<f32>,
    unpacked: Unpacked,
}

#[derive(Debug)]
enum Packed {
    Weights { crew: Crew, matrix: Matrix },
    Tokens([TokenPanels; 2]),
}

impl Product {
    /// A product of numbers between -1 and 1, packed.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(isa: Isa, kind: Kind, [rows, cols, depth]: [usize; 3]) -> Result<Self, Fault> {
        let values = |count: usize, step: usize| {
            (0..count).map(|i| ((i * step) % 1999) as f32 / 999.5 - 1.0).collect::<Vec<f32>>()
        };
        let packed = match kind {
            Kind::Rows => {
                let crew = Crew::new(isa, Pool::new(1, || ()));
                Packed::Weights { crew, matrix: Matrix::new(Slot::DownWeight, cols, depth)? }
            }
            Kind::Tokens => {
                let mut panels = [TokenPanels::default(), TokenPanels::default()];
                panels[0].resize(depth, rows)?;
                panels[1].resize(depth, cols)?;
                Packed::Tokens(panels)
            }
        };
        let widest = rows.max(cols).max(depth);
        let mut product = Self {
            isa,
            shape: [rows, cols, depth],
            operands: [values(rows * depth, 7), values(cols * depth, 11)],
            pairs: Buffer::new(rows.max(BLOCK) * pair_stride(widest))?,
            packed,
            out: Buffer::new(rows * cols)?,
            unpacked: Unpacked::new(),
        };
        product.pack_left();
        product.pack_right();
        Ok(product)
    }

    /// Floating-point operations of [`Self::multiply`].
    pub fn operations(&self) -> f64 {
        2.0 * self.shape.iter().map(|size| *size as f64).product::<f64>()
    }

    /// Rounds and packs the left operand, which training does for each use.
    pub fn pack_left(&mut self) {
        let [rows, _, depth] = self.shape;
        match &mut self.packed {
            Packed::Weights { .. } => {
                let mut line = vec![0.0; depth];
                let rows = self.operands[0].chunks_exact(depth).zip(self.pairs.chunks_exact_mut(pair_stride(depth)));
                for (row, out) in rows {
                    rows::cast(self.isa, row, &mut line, out);
                }
            }
            Packed::Tokens([left, _]) => {
                pack_tokens(self.isa, &self.operands[0], rows, Missing::Left, &mut self.pairs, left);
            }
        }
    }

    /// Rounds and packs the right operand, which for a weight training does once a step.
    pub fn pack_right(&mut self) {
        let cols = self.shape[1];
        match &mut self.packed {
            Packed::Weights { crew, matrix } => drop(matrix.pack(crew, &self.operands[1])),
            Packed::Tokens([_, right]) => {
                pack_tokens(self.isa, &self.operands[1], cols, Missing::Right, &mut self.pairs, right);
            }
        }
    }

    /// Multiplies the packed operands; the product in rows.
    pub fn multiply(&mut self) -> &[f32] {
        let [rows, cols, depth] = self.shape;
        match &self.packed {
            Packed::Weights { matrix, .. } => {
                let stride = pair_stride(depth);
                for (pairs, out) in self.pairs.chunks(BLOCK * stride).zip(self.out.chunks_mut(BLOCK * cols)) {
                    let out = Tile::new(out, cols, (out.len() / cols).min(rows), cols);
                    let left = Left::rows(pairs, stride);
                    product(self.isa, left, matrix.forward(), Depth::of(depth), Start::Zero, out, &mut self.unpacked);
                }
            }
            Packed::Tokens([left, right]) => {
                self.out.fill(0.0);
                let mut sums = Vec::new();
                product_sums(left, right, Tile::new(&mut self.out, cols, rows, cols), &mut sums);
                sums.into_iter().for_each(|sum| sum.multiply(self.isa, &mut self.unpacked));
            }
        }
        &self.out
    }
}

/// Rounds rows of tokens and packs them as token panels.
fn pack_tokens(isa: Isa, values: &[f32], width: usize, missing: Missing, pairs: &mut [u32], panels: &mut TokenPanels) {
    let (mut line, stride) = (vec![0.0; width], pair_stride(width));
    for (block, out) in values.chunks(BLOCK * width).zip(panels.blocks_mut()) {
        for (row, out) in block.chunks_exact(width).zip(pairs.chunks_exact_mut(stride)) {
            rows::cast(isa, row, &mut line, out);
        }
        rows::interleave(isa, pairs, stride, block.len() / width, missing as u32, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::bf;

    #[test]
    fn what_is_measured_is_the_product() {
        let [rows, cols, depth] = [70, 37, 129];
        for kind in [Kind::Rows, Kind::Tokens] {
            let mut product = Product::new(Isa::best(), kind, [rows, cols, depth]).unwrap();
            let [left, right] = product.operands.clone();
            let factor = |k: usize, row: usize, col: usize| match kind {
                Kind::Rows => (left[row * depth + k], right[col * depth + k]),
                Kind::Tokens => (left[k * rows + row], right[k * cols + col]),
            };
            let got = product.multiply();
            for (place, got) in got.iter().enumerate() {
                let factors = (0..depth).map(|k| factor(k, place / cols, place % cols));
                let wanted = factors.fold(0.0, |acc: f32, (a, b)| acc + bf(a) * bf(b));
                assert_eq!(got.to_bits(), wanted.to_bits(), "{kind:?} at {place}");
            }
        }
    }
}
