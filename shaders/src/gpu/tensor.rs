//! How values lie on a device: every row padded with zeros to 16 bytes, so that every row can be read in fours of
//! singles or eights of bfloat16 values, two to a word. What lies beyond a row's width stays zero.

use bytemuck::cast_slice;
use neuroshard_proto::ops::{Dim, Slot};
use neuroshard_proto::{DType, Fault};

use super::device::Gpu;
use crate::values::{Shape, Value};

/// A number of elements, rows or words for a shader. Tensors are bound whole or in blocks below 4 GiB, so it fits.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).expect("what a device can bind is counted in 32 bits")
}

/// Rows of elements and their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) dtype: DType,
}

impl Layout {
    /// How an operand of the operation table lies: columns of one element as one row, and each head of what attention
    /// multiplies as a row of its own.
    pub(crate) fn of(slot: Slot, shape: &Shape) -> Self {
        let (rows, cols, dtype) = slot.shape();
        let (rows, width) = (shape.dim(rows), shape.dim(cols));
        let model = &shape.model;
        let head_rows = |heads: u32| (rows * heads as usize, model.head_width() as usize);
        let (rows, width) = match slot {
            Slot::Rotated | Slot::GradRotated => head_rows(model.heads + 2 * model.kv_heads),
            Slot::GradAttendedCast => head_rows(model.heads),
            _ if cols == Dim::One => (1, rows),
            _ => (rows, width),
        };
        Self { rows, width, dtype }
    }

    /// Elements of a padded row.
    pub(crate) fn stride(&self) -> usize {
        match self.dtype {
            DType::Bf16 => self.width.next_multiple_of(8),
            DType::F32 | DType::I32 => self.width.next_multiple_of(4),
        }
    }

    /// Words of a padded row.
    pub(crate) fn words(&self) -> usize {
        match self.dtype {
            DType::Bf16 => self.stride() / 2,
            DType::F32 | DType::I32 => self.stride(),
        }
    }

    pub(crate) fn row_bytes(&self) -> u64 {
        4 * self.words() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.rows as u64 * self.row_bytes()
    }

    fn elements(&self) -> usize {
        self.rows * self.width
    }

    /// Host singles as device words.
    fn pack_floats(&self, values: &[f32]) -> Result<Vec<u32>, Fault> {
        let bf16 = self.dtype == DType::Bf16;
        if bf16 && values.iter().any(|value| value.to_bits() & 0xffff != 0) {
            return Err(Fault::bad_job("an operand of a matrix product is not a bfloat16 value"));
        }
        let mut words = vec![0_u32; self.rows * self.words()];
        for (row, out) in values.chunks_exact(self.width).zip(words.chunks_exact_mut(self.words())) {
            if bf16 {
                for (pair, word) in row.chunks(2).zip(out) {
                    *word = pair[0].to_bits() >> 16 | pair.get(1).map_or(0, |second| second.to_bits());
                }
            } else {
                out[..self.width].copy_from_slice(cast_slice(row));
            }
        }
        Ok(words)
    }

    /// Device words as host singles.
    pub(crate) fn unpack_floats(&self, words: &[u32], out: &mut [f32]) {
        for (row, out) in words.chunks_exact(self.words()).zip(out.chunks_exact_mut(self.width)) {
            for (column, value) in out.iter_mut().enumerate() {
                *value = f32::from_bits(match self.dtype {
                    DType::Bf16 if column % 2 == 0 => row[column / 2] << 16,
                    DType::Bf16 => row[column / 2] & 0xffff_0000,
                    DType::F32 | DType::I32 => row[column],
                });
            }
        }
    }
}

/// Some rows of a tensor in a buffer of their own.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) buffer: wgpu::Buffer,
}

/// A tensor on the device: one buffer, or several if it is larger than the device binds at once. Cloning shares it.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) layout: Layout,
    pub(crate) blocks: Vec<Block>,
}

impl Tensor {
    /// A tensor of zeros in one buffer.
    pub(crate) fn new(gpu: &Gpu, label: &str, layout: Layout) -> Self {
        Self::in_blocks(gpu, label, layout, &[(0, layout.rows)])
    }

    /// A tensor of zeros in blocks: their first rows and rows.
    pub(crate) fn in_blocks(gpu: &Gpu, label: &str, layout: Layout, blocks: &[(usize, usize)]) -> Self {
        let block = |&(first_row, rows): &(usize, usize)| {
            let buffer = storage(gpu, label, rows as u64 * layout.row_bytes());
            Block { first_row, rows, buffer }
        };
        Self { layout, blocks: blocks.iter().map(block).collect() }
    }

    /// The buffer of a tensor that is never split.
    pub(crate) fn whole(&self) -> &wgpu::Buffer {
        assert!(self.blocks.len() == 1, "only weights and their gradients come in blocks");
        &self.blocks[0].buffer
    }

    /// Sets the tensor from host values in canonical order.
    pub(crate) fn upload(&self, gpu: &Gpu, values: &Value) -> Result<(), Fault> {
        match values {
            Value::Float(values) => self.upload_floats(gpu, values),
            Value::Int(values) => {
                self.check_length(values.len())?;
                gpu.queue.write_buffer(self.whole(), 0, cast_slice(values));
                Ok(())
            }
        }
    }

    pub(crate) fn upload_floats(&self, gpu: &Gpu, values: &[f32]) -> Result<(), Fault> {
        self.check_length(values.len())?;
        for block in &self.blocks {
            let rows = block.first_row * self.layout.width..(block.first_row + block.rows) * self.layout.width;
            let part = Layout { rows: block.rows, ..self.layout };
            if part.dtype == DType::F32 && part.words() == part.width {
                // They lie there as they do here.
                gpu.queue.write_buffer(&block.buffer, 0, cast_slice(&values[rows]));
            } else {
                gpu.queue.write_buffer(&block.buffer, 0, cast_slice(&part.pack_floats(&values[rows])?));
            }
        }
        Ok(())
    }

    fn check_length(&self, length: usize) -> Result<(), Fault> {
        if length == self.layout.elements() {
            return Ok(());
        }
        Err(Fault::bad_job(&format!("{length} values were given where {} fit", self.layout.elements())))
    }

    /// Reads singles in canonical order.
    pub(crate) fn download_floats(&self, gpu: &Gpu, staging: &mut Staging, out: &mut [f32]) -> Result<(), Fault> {
        for block in &self.blocks {
            let rows = block.first_row * self.layout.width..(block.first_row + block.rows) * self.layout.width;
            let part = Layout { rows: block.rows, ..self.layout };
            staging.read(gpu, &block.buffer, part.bytes(), |words| part.unpack_floats(words, &mut out[rows]))?;
        }
        Ok(())
    }

    /// Reads all values in canonical order.
    pub(crate) fn download(&self, gpu: &Gpu, staging: &mut Staging) -> Result<Value, Fault> {
        let mut floats = vec![0.0; self.layout.elements()];
        self.download_floats(gpu, staging, &mut floats)?;
        Ok(match self.layout.dtype {
            DType::F32 | DType::Bf16 => Value::Float(floats),
            DType::I32 => Value::Int(floats.into_iter().map(|x| x.to_bits().cast_signed()).collect()),
        })
    }
}

/// A buffer that kernels read and write, of at least 16 bytes, all zero.
pub(crate) fn storage(gpu: &Gpu, label: &str, bytes: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = bytes.next_multiple_of(16).max(16);
    gpu.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}

/// The buffer through which results come back; it grows and is kept.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    buffer: Option<wgpu::Buffer>,
}

impl Staging {
    /// The buffer, with room for `bytes`.
    pub(crate) fn buffer(&mut self, gpu: &Gpu, bytes: u64) -> &wgpu::Buffer {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.size() < bytes) {
            self.buffer = None;
        }
        self.buffer.get_or_insert_with(|| {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let size = bytes.next_multiple_of(4096);
            let label = Some("staging");
            gpu.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        })
    }

    /// Copies a buffer's first `bytes` here and shows them.
    pub(crate) fn read<T>(
        &mut self,
        gpu: &Gpu,
        source: &wgpu::Buffer,
        bytes: u64,
        read: impl FnOnce(&[u32]) -> T,
    ) -> Result<T, Fault> {
        let staging = self.buffer(gpu, bytes);
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source, 0, staging, 0, Some(bytes));
        gpu.queue.submit([encoder.finish()]);
        gpu.mapped(staging, bytes, |bytes| read(cast_slice(bytes)))
    }
}

/// How a tensor is cut where it is larger than `bytes_max`. `members` are its own tensors, by first row and rows: none
/// is cut together with its neighbour, and cuts fall where blocks of a reduction's tree do.
pub(crate) fn cut(layout: &Layout, members: &[(usize, usize)], bytes_max: u64) -> Result<Vec<(usize, usize)>, Fault> {
    if layout.bytes() <= bytes_max {
        return Ok(vec![(0, layout.rows)]);
    }
    // Both are powers of two: the rows that fill whole trees, and the rows that fill whole eights.
    let step = (256 >> layout.width.trailing_zeros().min(8)).max(8);
    let most = (bytes_max / layout.row_bytes()) as usize / step * step;
    if most == 0 || members.iter().any(|member| member.0 % 8 != 0) {
        return Err(Fault::device(&format!(
            "a matrix of {} rows by {} is larger than this device binds at once and cannot be cut: use the CPU",
            layout.rows, layout.width
        )));
    }
    let mut blocks = Vec::new();
    for (first, rows) in members {
        blocks.extend((0..*rows).step_by(most).map(|start| (first + start, most.min(rows - start))));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_sixteen_bytes_and_come_back_whole() {
        for (dtype, words) in [(DType::F32, 8), (DType::Bf16, 4)] {
            let layout = Layout { rows: 3, width: 5, dtype };
            let values: Vec<f32> = (0..15_u8).map(f32::from).collect();
            let packed = layout.pack_floats(&values).unwrap();
            assert_eq!((packed.len(), layout.words()), (3 * words, words));
            assert!(packed.chunks(words).all(|row| row[words - 1] == 0), "padding is zero");
            let mut back = vec![0.0; 15];
            layout.unpack_floats(&packed, &mut back);
            assert_eq!(back, values);
        }
    }

    #[test]
    fn an_operand_that_is_no_bfloat16_value_is_refused() {
        let layout = Layout { rows: 1, width: 1, dtype: DType::Bf16 };
        assert!(layout.pack_floats(&[1.0 + f32::EPSILON]).is_err());
        assert!(layout.pack_floats(&[-1.5]).is_ok());
    }

    #[test]
    fn large_matrices_are_cut_between_their_tensors_and_at_whole_trees() {
        let layout = Layout { rows: 160, width: 96, dtype: DType::F32 };
        let members = [(0, 96), (96, 32), (128, 32)];
        assert_eq!(cut(&layout, &members, layout.bytes()), Ok(vec![(0, 160)]));
        let blocks = cut(&layout, &members, 20_000).unwrap();
        assert_eq!(blocks, [(0, 48), (48, 48), (96, 32), (128, 32)]);
        assert!(blocks.iter().all(|block| block.1 * 96 % 256 == 0));
        // Operands are read in eights, whatever the width.
        let wide = Layout { rows: 64, width: 512, dtype: DType::F32 };
        assert_eq!(cut(&wide, &[(0, 64)], 31 * 2048).unwrap(), [(0, 24), (24, 24), (48, 16)]);
        assert!(cut(&layout, &members, 100).is_err());
        assert!(cut(&layout, &[(0, 90), (90, 70)], 20_000).is_err());
    }
}
