//! Memory as vector kernels want it: aligned buffers, rectangles of matrices, and token panels.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytemuck::{Pod, Zeroable};
use neuroshard_proto::Fault;

/// Lanes of the widest vector, and columns of a panel.
pub(crate) const LANES: usize = 16;

/// Rounds up to whole vectors.
pub(crate) const fn padded(count: usize) -> usize {
    count.next_multiple_of(LANES)
}

/// One cache line: 16 words of 32 bits.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; LANES]);

/// Words of 32 bits that start at a cache line and begin as zeros.
#[derive(Clone, Debug)]
pub(crate) struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    words: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    const WORD: () = assert!(size_of::<T>() == size_of::<u32>(), "a buffer holds words of 32 bits");

    /// A buffer of `len` zeros.
    pub(crate) fn new(len: usize) -> Result<Self, Fault> {
        let () = Self::WORD;
        let lines = bytemuck::allocation::try_zeroed_vec(len.div_ceil(LANES))
            .map_err(|()| Fault::device(&format!("no memory for {len} numbers of 4 bytes; try a smaller model")))?;
        Ok(Self { lines, len, words: PhantomData })
    }

    /// Makes room for at least `len` words; what they hold is unspecified.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), Fault> {
        if self.len < len {
            *self = Self::new(len)?;
        }
        Ok(())
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), len: 0, words: PhantomData }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A rectangle of a row-major matrix, lent for writing.
#[derive(Debug)]
pub(crate) struct Tile<'a, T> {
    start: *mut T,
    stride: usize,
    rows: usize,
    cols: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: a tile is an exclusive borrow of its elements, as `&mut [T]` is.
unsafe impl<T: Send> Send for Tile<'_, T> {}

impl<'a, T> Tile<'a, T> {
    /// The first `rows` rows and `cols` columns of a matrix whose rows lie `stride` apart.
    pub(crate) fn new(data: &'a mut [T], stride: usize, rows: usize, cols: usize) -> Self {
        assert!(cols <= stride || rows <= 1, "rows do not overlap");
        assert!(rows == 0 || (rows - 1) * stride + cols <= data.len(), "the rectangle lies in its matrix");
        Self { start: data.as_mut_ptr(), stride, rows, cols, lent: PhantomData }
    }

    /// Cuts a matrix into a grid, row band by row band; bands and columns end at the given places.
    pub(crate) fn grid(self, row_ends: &[usize], col_ends: &[usize]) -> Vec<Self> {
        assert!(row_ends.is_sorted() && col_ends.is_sorted(), "cuts ascend");
        let mut tiles = Vec::with_capacity(row_ends.len() * col_ends.len());
        let mut top = 0;
        for bottom in row_ends {
            let mut left = 0;
            for right in col_ends {
                // SAFETY: cuts ascend, so tiles do not share elements; `part` checks that they lie in this one, which is
                // consumed.
                tiles.push(unsafe { self.part(top..*bottom, left..*right) });
                left = *right;
            }
            top = *bottom;
        }
        tiles
    }

    /// # Safety
    /// Parts that live at the same time share no element, and this tile is not used while they live.
    unsafe fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && cols.end <= self.cols, "a part lies in its rectangle");
        // SAFETY: the part lies in this rectangle.
        let start = unsafe { self.start.add(rows.start * self.stride + cols.start) };
        Self { start, stride: self.stride, rows: rows.len(), cols: cols.len(), lent: PhantomData }
    }

    /// A part of the rectangle, lent on.
    pub(crate) fn sub(&mut self, rows: Range<usize>, cols: Range<usize>) -> Tile<'_, T> {
        // SAFETY: the part borrows this tile exclusively.
        unsafe { self.part(rows, cols) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "a row of the rectangle");
        // SAFETY: the row lies in the rectangle, which is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.cols) }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.start
    }
}

/// Where cuts of at most `size` end.
pub(crate) fn cuts(count: usize, size: usize) -> Vec<usize> {
    (0..count.div_ceil(size)).map(|index| ((index + 1) * size).min(count)).collect()
}

/// Tokens that row-wise work handles together, and that one block of token panels holds.
pub(crate) const BLOCK: usize = 64;
/// Pairs of tokens in a block.
pub(crate) const BLOCK_PAIRS: usize = BLOCK / 2;

/// A matrix of tokens by columns in bfloat16 with pairs of tokens side by side, as products over tokens read it:
/// `[block of 64 tokens][panel of 16 columns][pair of tokens][column]`. A word holds the earlier token in its upper half.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenPanels {
    words: Buffer<u32>,
    panels: usize,
    tokens: usize,
}

impl TokenPanels {
    /// Takes another size; what the panels hold is unspecified.
    pub(crate) fn resize(&mut self, tokens: usize, width: usize) -> Result<(), Fault> {
        (self.panels, self.tokens) = (width.div_ceil(LANES), tokens);
        self.words.reserve(self.blocks() * self.block())
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.words.len()
    }

    /// Words of one block.
    pub(crate) fn block(&self) -> usize {
        self.panels * BLOCK_PAIRS * LANES
    }

    /// Blocks of tokens, the last of which may be ragged.
    pub(crate) fn blocks(&self) -> usize {
        self.tokens.div_ceil(BLOCK)
    }

    /// The words from a panel of the first block on.
    pub(crate) fn words_from(&self, panel: usize) -> &[u32] {
        &self.words[panel * BLOCK_PAIRS * LANES..self.blocks() * self.block()]
    }

    pub(crate) fn blocks_mut(&mut self) -> std::slice::ChunksExactMut<'_, u32> {
        let (blocks, block) = (self.blocks(), self.block());
        self.words[..blocks * block].chunks_exact_mut(block)
    }
}

/// Words between rows of bfloat16 pairs: whole cache lines, an odd number of them, so that rows spread over the cache.
pub(crate) fn pair_stride(width: usize) -> usize {
    let lines = width.div_ceil(2 * LANES);
    (lines | 1) * LANES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_covers_its_matrix_once() {
        let mut data = vec![0_u32; 7 * 10];
        let matrix = Tile::new(&mut data, 10, 7, 9);
        for (index, mut tile) in matrix.grid(&cuts(7, 3), &cuts(9, 4)).into_iter().enumerate() {
            for row in 0..tile.rows() {
                tile.row(row).iter_mut().for_each(|word| *word += 1 + index as u32);
            }
        }
        assert_eq!(data[..9], [1, 1, 1, 1, 2, 2, 2, 2, 3]);
        assert_eq!((data[9], data[6 * 10 + 8], data[6 * 10 + 9]), (0, 9, 0));
        assert!(data.chunks(10).all(|row| row[..9].iter().all(|word| *word > 0)));
    }

    #[test]
    #[should_panic(expected = "the rectangle lies in its matrix")]
    fn a_rectangle_outside_its_matrix_is_refused() {
        Tile::new(&mut [0.0; 10], 4, 3, 3);
    }

    #[test]
    fn buffers_start_at_cache_lines() {
        let buffer = Buffer::<f32>::new(17).unwrap();
        assert_eq!((buffer.as_ptr() as usize % 64, buffer.len()), (0, 17));
        assert!(Buffer::<f32>::new(usize::MAX / 64).is_err());
    }
}
