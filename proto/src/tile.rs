//! Commitments to tensors: a Merkle tree over 16x16 tiles (ARCHITECTURE §4).
//!
//! A tile is 256 elements in row-major order, little-endian, ragged edges filled with zeros; tiles are numbered row by
//! row. The tensor's hash binds its dtype and shape, so an opened tile's place and meaning are fixed.

use alloc::vec::Vec;

use crate::codec;
use crate::hash::{Domain, Hash, Hasher};
use crate::ids::Step;
use crate::job::TensorRef;
use crate::merkle;
use crate::tensor::DType;

/// Rows and columns of a tile.
pub const TILE: u32 = 16;

/// Bytes of a tile of 32-bit elements: exactly one BLAKE3 chunk.
const TILE_BYTES: usize = 1024;

/// The shape of a row-major tensor of 32-bit elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub rows: u32,
    pub cols: u32,
}

impl Shape {
    /// Tiles that cover the tensor.
    pub fn tiles(self) -> u64 {
        let across = u64::from(self.cols.div_ceil(TILE));
        u64::from(self.rows.div_ceil(TILE)).saturating_mul(across)
    }

    pub fn elements(self) -> u64 {
        u64::from(self.rows).saturating_mul(u64::from(self.cols))
    }
}

/// The hash of one tile, as it is opened in an audit: 1024 bytes.
pub fn tile_hash(tile: &[u8; TILE_BYTES]) -> Hash {
    Domain::Tile.hash(tile)
}

/// Hashes the tiles `first..first + out.len()` of a tensor. The work splits over threads by tile.
///
/// # Panics
/// If `elements` is not the tensor's `rows * cols` words, or the tiles asked for do not exist: the caller owns both.
pub fn hash_tiles(shape: Shape, elements: &[u32], first: u64, out: &mut [Hash]) {
    let width = usize::try_from(shape.cols).unwrap_or(usize::MAX);
    assert!(u64::try_from(elements.len()) == Ok(shape.elements()), "one word for each element");
    let across = u64::from(shape.cols.div_ceil(TILE)).max(1);
    for (tile, slot) in (first..).zip(out.iter_mut()) {
        assert!(tile < shape.tiles(), "a tile of the tensor");
        let side = u64::from(TILE);
        let top = tile.checked_div(across).unwrap_or_default().saturating_mul(side);
        let left = tile.checked_rem(across).unwrap_or_default().saturating_mul(side);
        let mut bytes = [0_u8; TILE_BYTES];
        let rows = elements.chunks_exact(width).skip(usize::try_from(top).unwrap_or(usize::MAX));
        for (row, line) in rows.zip(bytes.chunks_exact_mut(64)) {
            let columns = row.iter().skip(usize::try_from(left).unwrap_or(usize::MAX));
            for (element, cell) in columns.zip(line.chunks_exact_mut(4)) {
                cell.copy_from_slice(&element.to_le_bytes());
            }
        }
        *slot = tile_hash(&bytes);
    }
}

/// The commitment to a tensor whose tiles have these hashes.
pub fn tensor_of_tiles(dtype: DType, shape: Shape, tiles: &[Hash]) -> TensorRef {
    let mut hasher = Hasher::new(Domain::Tensor);
    hasher.update(&[dtype.tag()]).update(&shape.rows.to_le_bytes()).update(&shape.cols.to_le_bytes());
    hasher.update(merkle::root(tiles).as_bytes());
    TensorRef { dtype, rows: shape.rows, cols: shape.cols, root: hasher.finish() }
}

/// The commitment to a tensor of 32-bit elements.
pub fn tensor(dtype: DType, shape: Shape, elements: &[u32]) -> TensorRef {
    let count = usize::try_from(shape.tiles()).unwrap_or(usize::MAX);
    let mut tiles: Vec<Hash> = Vec::new();
    tiles.resize(count, Hash::default());
    hash_tiles(shape, elements, 0, &mut tiles);
    tensor_of_tiles(dtype, shape, &tiles)
}

/// The commitment to the state of a stage: its weights, first and second moments, each in canonical order of tensors.
pub fn stage_state(tensors: &[TensorRef]) -> Hash {
    let leaves: Vec<Hash> = tensors.iter().map(|tensor| merkle::leaf(&codec::encode(tensor))).collect();
    Domain::StageState.hash(merkle::root(&leaves).as_bytes())
}

/// The commitment to a model state, or to that of some stages that follow each other: the step and the stages' roots in
/// order. So whoever knows the roots of all stages knows the root of any range of them.
pub fn model_state(step: Step, stages: &[Hash]) -> Hash {
    let leaves: Vec<Hash> = stages.iter().map(|root| merkle::leaf(root.as_bytes())).collect();
    let mut hasher = Hasher::new(Domain::ModelState);
    hasher.update(&step.0.to_le_bytes()).update(merkle::root(&leaves).as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn numbered(rows: u32, cols: u32) -> Vec<u32> {
        (0..rows * cols).collect()
    }

    #[test]
    fn a_tensor_binds_every_element_its_shape_and_its_type() {
        let shape = Shape { rows: 17, cols: 33 };
        let elements = numbered(17, 33);
        let whole = tensor(DType::F32, shape, &elements);
        for place in [0, 15, 16, 32, 33, 17 * 33 - 1] {
            let mut changed = elements.clone();
            changed[place] ^= 1;
            assert_ne!(tensor(DType::F32, shape, &changed).root, whole.root, "{place}");
        }
        assert_ne!(tensor(DType::F32, Shape { rows: 33, cols: 17 }, &elements).root, whole.root);
        assert_ne!(tensor(DType::I32, shape, &elements).root, whole.root);
    }

    #[test]
    fn tiles_hash_the_same_in_parts() {
        let shape = Shape { rows: 40, cols: 20 };
        let elements = numbered(40, 20);
        let mut parts = vec![Hash::default(); 6];
        let (head, tail) = parts.split_at_mut(2);
        hash_tiles(shape, &elements, 0, head);
        hash_tiles(shape, &elements, 2, tail);
        assert_eq!(tensor_of_tiles(DType::F32, shape, &parts), tensor(DType::F32, shape, &elements));
    }

    #[test]
    fn a_ragged_tile_is_filled_with_zeros() {
        let mut tile = [0_u8; 1024];
        for (row, line) in [[1_u32, 2], [3, 4], [5, 6]].iter().enumerate() {
            for (col, value) in line.iter().enumerate() {
                tile[row * 64 + col * 4] = u8::try_from(*value).unwrap();
            }
        }
        let mut one = [Hash::default()];
        hash_tiles(Shape { rows: 3, cols: 2 }, &[1, 2, 3, 4, 5, 6], 0, &mut one);
        assert_eq!(one[0], tile_hash(&tile));
    }
}
