//! Matrix products of the presets, by us and by the libraries that programs of our kind use.

use gemm::{Parallelism, gemm};
use neuroshard_shaders::cpu::measure::Kind;

/// A product that training makes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub kind: Kind,
    /// Rows, columns, depth.
    pub size: [usize; 3],
}

const fn shape(name: &'static str, kind: Kind, size: [usize; 3]) -> Shape {
    Shape { name, kind, size }
}

/// The shapes that are compared: cubes, and each preset's feed-forward there and back, its weight's gradient, and its head.
pub const SHAPES: [Shape; 14] = [
    shape("cube", Kind::Rows, [512, 512, 512]),
    shape("cube", Kind::Rows, [1024, 1024, 1024]),
    shape("nano gate and up", Kind::Rows, [1024, 768, 128]),
    shape("nano gate and up, back", Kind::Rows, [1024, 128, 768]),
    shape("nano gate and up, weights", Kind::Tokens, [768, 128, 1024]),
    shape("nano head", Kind::Rows, [1024, 266, 128]),
    shape("micro gate and up", Kind::Rows, [2048, 1408, 256]),
    shape("micro gate and up, back", Kind::Rows, [2048, 256, 1408]),
    shape("micro gate and up, weights", Kind::Tokens, [1408, 256, 2048]),
    shape("micro head", Kind::Rows, [2048, 266, 256]),
    shape("genesis gate and up", Kind::Rows, [2048, 4096, 512]),
    shape("genesis gate and up, back", Kind::Rows, [2048, 512, 4096]),
    shape("genesis gate and up, weights", Kind::Tokens, [4096, 512, 2048]),
    shape("genesis head", Kind::Rows, [2048, 266, 512]),
];

/// Operands of a peer: singles in the layout in which training has them.
#[derive(Debug)]
pub struct Operands {
    shape: Shape,
    left: Vec<f32>,
    right: Vec<f32>,
    out: Vec<f32>,
}

impl Operands {
    pub fn new(shape: Shape) -> Self {
        let [rows, cols, depth] = shape.size;
        let values = |count: usize| (0..count).map(|i| (i % 1999) as f32 / 999.5 - 1.0).collect();
        Self { shape, left: values(rows * depth), right: values(cols * depth), out: vec![0.0; rows * cols] }
    }

    /// Row and column strides of left and right: `x W^T`, or `dy^T x`.
    fn strides(&self) -> [isize; 4] {
        let [rows, cols, depth] = self.shape.size.map(usize::cast_signed);
        match self.shape.kind {
            Kind::Rows => [depth, 1, 1, depth],
            Kind::Tokens => [1, rows, cols, 1],
        }
    }

    /// The crate `gemm`, on one thread.
    pub fn gemm(&mut self) {
        let ([rows, cols, depth], [left_row, left_col, right_row, right_col]) = (self.shape.size, self.strides());
        let (left, right, out) = (self.left.as_ptr(), self.right.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: the operands have the sizes and strides that are said.
        unsafe {
            gemm(
                rows,
                cols,
                depth,
                out,
                1,
                cols.cast_signed(),
                false,
                left,
                left_col,
                left_row,
                right,
                right_col,
                right_row,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }

    /// The crate `matrixmultiply`, on one thread.
    pub fn matrixmultiply(&mut self) {
        let ([rows, cols, depth], [left_row, left_col, right_row, right_col]) = (self.shape.size, self.strides());
        let (left, right, out) = (self.left.as_ptr(), self.right.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: the operands have the sizes and strides that are said.
        unsafe {
            matrixmultiply::sgemm(
                rows,
                depth,
                cols,
                1.0,
                left,
                left_row,
                left_col,
                right,
                right_row,
                right_col,
                0.0,
                out,
                cols.cast_signed(),
                1,
            );
        }
    }

    pub fn out(&self) -> &[f32] {
        &self.out
    }
}
