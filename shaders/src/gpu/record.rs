//! Calls of the operation table as dispatches.

use std::collections::BTreeMap;

use neuroshard_proto::ops::{Call, Op, Slot};
use neuroshard_proto::{F32, Fault};

use super::attention;
use super::kernels::{self, Tile};
use super::pipelines::Variant;
use super::program::{Extent, Recorder};
use super::tensor::{Tensor, count};
use crate::values::Shape;

/// The operands of a layer step by name, on the device.
pub(crate) type Slots = BTreeMap<Slot, Tensor>;

/// Workgroups below which a device is not filled and a smaller tile is chosen.
const GROUPS_WANTED: usize = 128;

/// What operations need beside their operands.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) shape: &'a Shape,
    /// Rotations: cosine in the high half of a word and sine in the low half, `[context][head_width / 2]`.
    pub(crate) rotary: &'a wgpu::Buffer,
    /// The positions of all tokens, by token and then by position.
    pub(crate) order: &'a wgpu::Buffer,
    /// Room for the scores of attention.
    pub(crate) scores: &'a attention::Scratch,
    /// The tile of every product; `None` chooses by its shape.
    pub(crate) tile: Option<Tile>,
}

impl Surroundings<'_> {
    /// The tile for `planes` products of this shape: the largest that is mostly used and still fills a device.
    pub(crate) fn tile(&self, rows: usize, columns: usize, planes: usize) -> Tile {
        let fits = |tile: &&Tile| {
            let [m, n] = tile.size().map(|n| n as usize);
            let groups = rows.div_ceil(m) * columns.div_ceil(n) * planes;
            groups >= GROUPS_WANTED && (columns > n / 2 || n == 32)
        };
        let smallest = Tile::ALL[Tile::ALL.len() - 1];
        self.tile.or(Tile::ALL.iter().find(fits).copied()).unwrap_or(smallest)
    }
}

/// The extent of `planes` tiled products.
pub(crate) fn tiled(tile: Tile, rows: usize, columns: usize, depth: usize, planes: usize) -> Extent {
    let [m, n] = tile.size().map(|n| n as usize);
    let groups = (rows.div_ceil(m) * columns.div_ceil(n) * planes) as u64;
    Extent { groups, work: (rows * columns * planes) as u64 * depth as u64 }
}

pub(crate) fn tile_variant(tile: Tile) -> Variant {
    Variant { tile: Some(tile), ..Variant::default() }
}

/// A positive constant of the protocol as a parameter.
pub(crate) fn bits(x: F32) -> u32 {
    x.to_bits()
}

/// Adds a call of the operation table.
///
/// # Errors
/// If an operand is missing, or the call is not one of the table's.
pub(crate) fn record(
    rec: &mut Recorder<'_>,
    around: &Surroundings<'_>,
    call: &Call,
    slots: &Slots,
) -> Result<(), Fault> {
    let find = |slot: Option<&Slot>| {
        slot.and_then(|slot| slots.get(slot)).ok_or_else(|| Fault::bad_job(&format!("{:?} lacks an operand", call.op)))
    };
    let reads = |i: usize| find(call.reads.get(i));
    let writes = |i: usize| find(call.writes.get(i));
    match call.op {
        Op::Embed => embed(rec, [reads(0)?, reads(1)?, writes(0)?]),
        Op::EmbedBackward => embed_backward(rec, around, [reads(0)?, reads(1)?, writes(0)?]),
        Op::RmsNorm => rms_norm(rec, around, [reads(0)?, reads(1)?, writes(0)?, writes(1)?]),
        Op::RmsNormBackward => {
            let skip = if call.reads.len() > 5 { Some(reads(5)?) } else { None };
            let operands = [reads(0)?, reads(1)?, reads(2)?, reads(3)?, writes(0)?, writes(1)?];
            rms_norm_backward(rec, around, operands, skip);
        }
        Op::MatmulNt => matmul_nt(rec, around, [reads(0)?, reads(1)?, writes(0)?]),
        Op::MatmulNn => matmul_nn(rec, around, [reads(0)?, reads(1)?, writes(0)?]),
        Op::MatmulTn => matmul_tn(rec, around, [reads(0)?, reads(1)?, writes(0)?]),
        Op::Rope => rope(rec, around, false, [reads(0)?, writes(0)?]),
        Op::RopeBackward => rope(rec, around, true, [reads(0)?, writes(0)?]),
        Op::Attention => attention::forward(rec, around, [reads(0)?, writes(0)?, writes(1)?, writes(2)?]),
        Op::AttentionBackward => {
            let operands = [reads(0)?, reads(1)?, reads(2)?, reads(3)?, reads(4)?, writes(0)?];
            attention::backward(rec, around, operands);
        }
        Op::SwiGlu => swiglu(rec, [reads(0)?, writes(0)?]),
        Op::SwiGluBackward => swiglu_backward(rec, [reads(0)?, reads(1)?, writes(0)?]),
        Op::Residual => residual(rec, [reads(0)?, reads(1)?, writes(0)?]),
        Op::Cast => cast(rec, reads(0)?, writes(0)?, 0),
        Op::CrossEntropy => cross_entropy(rec, [reads(0)?, reads(1)?, reads(2)?, writes(0)?, writes(1)?]),
        Op::SumSquares | Op::AdamW => return Err(Fault::bad_job("the optimizer's operations stand in no program")),
    }
    Ok(())
}

fn embed(rec: &mut Recorder<'_>, [tokens, table, y]: [&Tensor; 3]) {
    let width4 = y.layout.stride() / 4;
    for block in &table.blocks {
        let params = [
            ("tokens", count(y.layout.rows)),
            ("width4", count(width4)),
            ("first_row", count(block.first_row)),
            ("rows", count(block.rows)),
        ];
        let buffers = [("tokens", tokens.whole()), ("table", &block.buffer), ("y", y.whole())];
        rec.dispatch(&kernels::EMBED, Variant::default(), &params, &buffers, Extent::threads(y.layout.rows * width4));
    }
}

fn embed_backward(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [dy, tokens, dtable]: [&Tensor; 3]) {
    let width4 = dy.layout.stride() / 4;
    for block in &dtable.blocks {
        let params = [
            ("tokens", count(dy.layout.rows)),
            ("width4", count(width4)),
            ("first_row", count(block.first_row)),
            ("rows", count(block.rows)),
        ];
        let buffers =
            [("dy", dy.whole()), ("tokens", tokens.whole()), ("order", around.order), ("dtable", &block.buffer)];
        let extent = Extent::threads(dy.layout.rows * width4);
        rec.dispatch(&kernels::EMBED_BACKWARD, Variant::default(), &params, &buffers, extent);
    }
}

fn rms_norm(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [x, gain, y, scales]: [&Tensor; 4]) {
    let model = &around.shape.model;
    let params = [
        ("rows", count(x.layout.rows)),
        ("width", count(x.layout.width)),
        ("stride", count(x.layout.stride())),
        ("words", count(y.layout.words())),
        ("inverse_width", bits(model.inverse_hidden())),
        ("eps", bits(model.norm_eps())),
    ];
    let buffers = [("x", x.whole()), ("gain", gain.whole()), ("y", y.whole()), ("scales", scales.whole())];
    rec.dispatch(&kernels::RMS_NORM, Variant::default(), &params, &buffers, Extent::groups(x.layout.rows));
}

fn rms_norm_backward(
    rec: &mut Recorder<'_>,
    around: &Surroundings<'_>,
    [dy, x, gain, scales, dx, dgain]: [&Tensor; 6],
    skip: Option<&Tensor>,
) {
    let params = [
        ("rows", count(x.layout.rows)),
        ("width", count(x.layout.width)),
        ("stride", count(x.layout.stride())),
        ("inverse_width", bits(around.shape.model.inverse_hidden())),
        ("has_skip", u32::from(skip.is_some())),
    ];
    let buffers = [
        ("dy", dy.whole()),
        ("x", x.whole()),
        ("gain", gain.whole()),
        ("scales", scales.whole()),
        // A binding must hold something; without `has_skip` it is not read.
        ("skip", skip.unwrap_or(x).whole()),
        ("dx", dx.whole()),
    ];
    let extent = Extent::groups(x.layout.rows);
    rec.dispatch(&kernels::RMS_NORM_INPUT_GRADIENT, Variant::default(), &params, &buffers, extent);
    let buffers = [("dy", dy.whole()), ("x", x.whole()), ("scales", scales.whole()), ("dgain", dgain.whole())];
    let extent = Extent::groups(x.layout.width.div_ceil(32));
    rec.dispatch(&kernels::RMS_NORM_GAIN_GRADIENT, Variant::default(), &params, &buffers, extent);
}

fn matmul_nt(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [x, w, y]: [&Tensor; 3]) {
    let (rows, depth) = (x.layout.rows, x.layout.width);
    for block in &w.blocks {
        let tile = around.tile(rows, block.rows, 1);
        let params = [
            ("rows", count(rows)),
            ("columns", count(block.rows)),
            ("depth8", count(x.layout.stride() / 8)),
            ("stride4", count(y.layout.stride() / 4)),
            ("first4", count(block.first_row / 4)),
        ];
        let buffers = [("a", x.whole()), ("b", &block.buffer), ("c", y.whole())];
        let extent = tiled(tile, rows, block.rows, depth, 1);
        rec.dispatch(&kernels::MATMUL_NT, tile_variant(tile), &params, &buffers, extent);
    }
}

fn matmul_nn(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [dy, w, dx]: [&Tensor; 3]) {
    let (rows, columns) = (dx.layout.rows, dx.layout.width);
    let tile = around.tile(rows, columns, 1);
    for block in &w.blocks {
        let params = [
            ("rows", count(rows)),
            ("depth", count(block.rows)),
            ("first8", count(block.first_row / 8)),
            ("dy_stride8", count(dy.layout.stride() / 8)),
            ("w_stride8", count(w.layout.stride() / 8)),
            ("columns4", count(dx.layout.stride() / 4)),
            ("resumes", u32::from(block.first_row > 0)),
        ];
        let buffers = [("a", dy.whole()), ("b", &block.buffer), ("c", dx.whole())];
        let extent = tiled(tile, rows, dx.layout.stride(), block.rows, 1);
        rec.dispatch(&kernels::MATMUL_NN, tile_variant(tile), &params, &buffers, extent);
    }
}

fn matmul_tn(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [dy, x, dw]: [&Tensor; 3]) {
    let (depth, columns) = (x.layout.rows, dw.layout.width);
    for block in &dw.blocks {
        let tile = around.tile(block.rows, columns, 1);
        let params = [
            ("depth", count(depth)),
            ("rows", count(block.rows)),
            ("first8", count(block.first_row / 8)),
            ("dy_stride8", count(dy.layout.stride() / 8)),
            ("x_stride8", count(x.layout.stride() / 8)),
            ("columns4", count(dw.layout.stride() / 4)),
        ];
        let buffers = [("a", dy.whole()), ("b", x.whole()), ("c", &block.buffer)];
        let extent = tiled(tile, block.rows, dw.layout.stride(), depth, 1);
        rec.dispatch(&kernels::MATMUL_TN, tile_variant(tile), &params, &buffers, extent);
    }
}

/// Elements from token to token and from head to head of a tensor whose rows are heads, or tokens.
fn head_steps(tensor: &Tensor, heads: usize, head_width: usize) -> (usize, usize) {
    if tensor.layout.width == head_width {
        (heads * tensor.layout.stride(), tensor.layout.stride())
    } else {
        (tensor.layout.stride(), head_width)
    }
}

fn rope(rec: &mut Recorder<'_>, around: &Surroundings<'_>, inverse: bool, [x, y]: [&Tensor; 2]) {
    let (model, tokens) = (&around.shape.model, around.shape.tokens);
    let heads = (model.heads + 2 * model.kv_heads) as usize;
    let head_width = model.head_width() as usize;
    let (x_row, x_head) = head_steps(x, heads, head_width);
    let (y_row, y_head) = head_steps(y, heads, head_width);
    let params = [
        ("tokens", count(tokens)),
        ("sequence", count(around.shape.sequence)),
        ("turning", model.heads + model.kv_heads),
        ("heads", count(heads)),
        ("head_width", count(head_width)),
        ("x_row", count(x_row)),
        ("x_head", count(x_head)),
        ("y_row", count(y_row / 2)),
        ("y_head", count(y_head / 2)),
    ];
    let buffers = [("x", x.whole()), ("rotary", around.rotary), ("y", y.whole())];
    let variant = Variant { inverse, ..Variant::default() };
    rec.dispatch(&kernels::ROPE, variant, &params, &buffers, Extent::threads(tokens * y_row / 2));
}

fn swiglu(rec: &mut Recorder<'_>, [x, a]: [&Tensor; 2]) {
    let params = [
        ("rows", count(a.layout.rows)),
        ("width", count(a.layout.width)),
        ("stride", count(x.layout.stride())),
        ("words", count(a.layout.words())),
    ];
    let extent = Extent::threads(a.layout.rows * a.layout.words());
    rec.dispatch(&kernels::SWIGLU, Variant::default(), &params, &[("x", x.whole()), ("a", a.whole())], extent);
}

fn swiglu_backward(rec: &mut Recorder<'_>, [da, x, dx]: [&Tensor; 3]) {
    let params = [
        ("rows", count(da.layout.rows)),
        ("width", count(da.layout.width)),
        ("da_stride", count(da.layout.stride())),
        ("stride", count(x.layout.stride())),
        ("words", count(dx.layout.words())),
    ];
    let buffers = [("da", da.whole()), ("x", x.whole()), ("dx", dx.whole())];
    let extent = Extent::threads(dx.layout.rows * dx.layout.words());
    rec.dispatch(&kernels::SWIGLU_BACKWARD, Variant::default(), &params, &buffers, extent);
}

fn residual(rec: &mut Recorder<'_>, [x, y, sum]: [&Tensor; 3]) {
    let count4 = sum.layout.rows * sum.layout.stride() / 4;
    let buffers = [("x", x.whole()), ("y", y.whole()), ("sum", sum.whole())];
    let extent = Extent::threads(count4);
    rec.dispatch(&kernels::RESIDUAL, Variant::default(), &[("count4", count(count4))], &buffers, extent);
}

/// Narrows a tensor, block by block, raising `flag` if a value is out of range.
pub(crate) fn cast(rec: &mut Recorder<'_>, x: &Tensor, y: &Tensor, flag: u32) {
    for (from, to) in x.blocks.iter().zip(&y.blocks) {
        // Attention's operands have heads as rows: their source is as long, cut elsewhere.
        let heads = y.layout.rows / x.layout.rows;
        let rows = to.rows;
        let params = [
            ("rows", count(rows)),
            ("width", count(y.layout.width)),
            ("stride", count(x.layout.stride())),
            ("heads", count(heads)),
            ("words", count(y.layout.words())),
            ("flag", flag),
        ];
        let extent = Extent::threads(rows * y.layout.words());
        rec.dispatch(&kernels::CAST, Variant::default(), &params, &[("x", &from.buffer), ("y", &to.buffer)], extent);
    }
}

fn cross_entropy(rec: &mut Recorder<'_>, [logits, bias, targets, losses, dlogits]: [&Tensor; 5]) {
    let params = [
        ("rows", count(logits.layout.rows)),
        ("width", count(logits.layout.width)),
        ("stride", count(logits.layout.stride())),
        ("words", count(dlogits.layout.words())),
    ];
    let buffers = [
        ("logits", logits.whole()),
        ("bias", bias.whole()),
        ("targets", targets.whole()),
        ("losses", losses.whole()),
        ("dlogits", dlogits.whole()),
    ];
    let extent = Extent::groups(logits.layout.rows);
    rec.dispatch(&kernels::CROSS_ENTROPY, Variant::default(), &params, &buffers, extent);
}
