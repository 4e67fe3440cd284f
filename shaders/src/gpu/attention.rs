//! Attention as dispatches: the scores of a window of (sequence, head) planes are held at once, so that memory does not
//! grow with the square of the context.

use super::device::Gpu;
use super::kernels;
use super::pipelines::Variant;
use super::program::{Extent, Recorder};
use super::record::{Surroundings, bits, tile_variant, tiled};
use super::tensor::{Tensor, count, storage};
use crate::values::Shape;

/// Some rows of some planes; planes are counted by sequence and then query head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    first_plane: usize,
    planes: usize,
    first_row: usize,
    rows: usize,
    /// Planes in a row that share a key head: a whole group, or one where a plane itself is split.
    sharing: usize,
}

/// The windows that cover `sequences * heads` planes of `length` rows, each of at most `room` scores where a single row
/// is no longer than that. Their order is that in which the gradients of keys and values gather.
fn windows(planes: usize, group: usize, length: usize, columns: usize, room: usize) -> Vec<Window> {
    let group_scores = group * length * columns;
    if group_scores <= room {
        let step = room / group_scores * group;
        let window = |first_plane| {
            let planes = step.min(planes - first_plane);
            Window { first_plane, planes, first_row: 0, rows: length, sharing: group }
        };
        return (0..planes).step_by(step).map(window).collect();
    }
    let step = (room / columns).clamp(1, length);
    let rows = move |first_plane| {
        (0..length).step_by(step).map(move |first_row| {
            let rows = step.min(length - first_row);
            Window { first_plane, planes: 1, first_row, rows, sharing: 1 }
        })
    };
    (0..planes).flat_map(rows).collect()
}

/// Room for what attention makes between its products.
#[derive(Debug)]
pub(crate) struct Scratch {
    windows: Vec<Window>,
    /// Columns of a padded row of scores.
    columns: usize,
    scores: wgpu::Buffer,
    weights: wgpu::Buffer,
    backward: Option<BackwardScratch>,
}

#[derive(Debug)]
struct BackwardScratch {
    score_gradients: wgpu::Buffer,
    gradients: wgpu::Buffer,
    overlaps: wgpu::Buffer,
}

impl Scratch {
    /// Room for windows of `room` scores.
    pub(crate) fn new(gpu: &Gpu, shape: &Shape, room: u64, backward: bool) -> Self {
        let model = &shape.model;
        let (heads, length) = (model.heads as usize, shape.sequence);
        let columns = length.next_multiple_of(8);
        let planes = shape.tokens / length * heads;
        let group = (model.heads / model.kv_heads) as usize;
        let windows = windows(planes, group, length, columns, usize::try_from(room).unwrap_or(usize::MAX));
        let most = windows.iter().map(|window| window.planes * window.rows * columns).max().unwrap_or_default() as u64;
        let overlaps = (shape.tokens * heads.next_multiple_of(4)) as u64;
        Self {
            windows,
            columns,
            scores: storage(gpu, "scores", 4 * most),
            weights: storage(gpu, "attention weights", 2 * most),
            backward: backward.then(|| BackwardScratch {
                score_gradients: storage(gpu, "gradients of the attention weights", 4 * most),
                gradients: storage(gpu, "gradients of the scores", 2 * most),
                overlaps: storage(gpu, "overlaps", 4 * overlaps),
            }),
        }
    }
}

/// One side of a product, in eights: from token to token, from head to head, and to the first head.
#[derive(Clone, Copy, Debug)]
struct Heads {
    row8: usize,
    head8: usize,
    first8: usize,
}

impl Heads {
    /// The heads of a tensor that has a row for each of `heads`, from the `first` on.
    fn of(tensor: &Tensor, heads: usize, first: usize) -> Self {
        let head8 = tensor.layout.stride() / 8;
        Self { row8: heads * head8, head8, first8: first * head8 }
    }
}

/// The dimensions that all of attention's kernels share.
#[derive(Debug)]
struct Dims<'a> {
    shape: &'a Shape,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
}

impl<'a> Dims<'a> {
    fn new(shape: &'a Shape) -> Self {
        let model = &shape.model;
        Self {
            shape,
            heads: model.heads as usize,
            kv_heads: model.kv_heads as usize,
            head_width: model.head_width() as usize,
        }
    }

    fn all_heads(&self) -> usize {
        self.heads + 2 * self.kv_heads
    }

    fn heads_stride(&self) -> usize {
        self.heads.next_multiple_of(4)
    }

    /// The queries, keys and values of a tensor of all heads.
    fn queries_keys_values(&self, tensor: &Tensor) -> [Heads; 3] {
        [0, self.heads, self.heads + self.kv_heads].map(|first| Heads::of(tensor, self.all_heads(), first))
    }

    /// Parameters of the kernels in `attention.wgsl`.
    fn forward_params(
        &self,
        window: &Window,
        columns: usize,
        [a, b]: [Heads; 2],
        y_words: usize,
    ) -> [(&'static str, u32); 17] {
        [
            ("sequence", count(self.shape.sequence)),
            ("heads", count(self.heads)),
            ("group", count(self.heads / self.kv_heads)),
            ("head_width", count(self.head_width)),
            ("first_plane", count(window.first_plane)),
            ("planes", count(window.planes)),
            ("first_row", count(window.first_row)),
            ("rows", count(window.rows)),
            ("columns", count(columns)),
            ("a_row8", count(a.row8)),
            ("a_head8", count(a.head8)),
            ("b_row8", count(b.row8)),
            ("b_head8", count(b.head8)),
            ("b_first8", count(b.first8)),
            ("y_words", count(y_words)),
            ("heads_stride", count(self.heads_stride())),
            ("scale", bits(self.shape.model.attention_scale())),
        ]
    }
}

/// Adds `c[plane, t, j] = chain(0, A[t], B[j])` for a window.
fn products(
    rec: &mut Recorder<'_>,
    around: &Surroundings<'_>,
    window: &Window,
    [a, b]: [(&Tensor, Heads); 2],
    c: &wgpu::Buffer,
) {
    let (dims, columns) = (Dims::new(around.shape), around.scores.columns);
    let tile = around.tile(window.rows, columns, window.planes);
    let params = dims.forward_params(window, columns, [a.1, b.1], 0);
    let buffers = [("a", a.0.whole()), ("b", b.0.whole()), ("c", c)];
    let extent = tiled(tile, window.rows, columns, dims.head_width, window.planes);
    rec.dispatch(&kernels::ATTENTION_PRODUCTS, tile_variant(tile), &params, &buffers, extent);
}

/// Adds [`neuroshard_proto::ops::Op::Attention`]: rotated heads to outputs, maxima and scales.
pub(crate) fn forward(rec: &mut Recorder<'_>, around: &Surroundings<'_>, [rotated, y, maxima, scales]: [&Tensor; 4]) {
    let (dims, scratch) = (Dims::new(around.shape), around.scores);
    let [queries, keys, values] = dims.queries_keys_values(rotated);
    let columns = scratch.columns;
    for window in &scratch.windows {
        products(rec, around, window, [(rotated, queries), (rotated, keys)], &scratch.scores);
        let params = dims.forward_params(window, columns, [queries, values], y.layout.words());
        let buffers = [
            ("scores", &scratch.scores),
            ("weights", &scratch.weights),
            ("maxima", maxima.whole()),
            ("scales", scales.whole()),
        ];
        let extent = Extent::groups(window.planes * window.rows);
        rec.dispatch(&kernels::ATTENTION_SOFTMAX, Variant::default(), &params, &buffers, extent);
        let tile = around.tile(window.rows, dims.head_width, window.planes);
        let buffers = [("a", &scratch.weights), ("b", rotated.whole()), ("y", y.whole())];
        let extent = tiled(tile, window.rows, dims.head_width, columns, window.planes);
        rec.dispatch(&kernels::ATTENTION_ATTENDED, tile_variant(tile), &params, &buffers, extent);
    }
}

/// Adds [`neuroshard_proto::ops::Op::AttentionBackward`]: to the gradient of the rotated heads.
pub(crate) fn backward(
    rec: &mut Recorder<'_>,
    around: &Surroundings<'_>,
    [rotated, y, dy, maxima, scales, gradient]: [&Tensor; 6],
) {
    let (dims, scratch) = (Dims::new(around.shape), around.scores);
    let Some(own) = &scratch.backward else { panic!("a backward pass has room for its scores") };
    let columns = scratch.columns;
    let [queries, keys, values] = dims.queries_keys_values(rotated);
    let outputs = Heads::of(dy, dims.heads, 0);
    let params = |window: &Window, b: Heads, c_first: usize, resumes: bool| {
        backward_params(&dims, columns, window, b, [y, dy, gradient], c_first, resumes)
    };
    let [c_queries, c_keys, c_values] = [0, dims.heads, dims.heads + dims.kv_heads];
    let first = &scratch.windows[0];
    let buffers = [("y", y.whole()), ("dy", dy.whole()), ("overlaps", &own.overlaps)];
    let extent = Extent::threads(around.shape.tokens * dims.heads);
    let overlap = params(first, keys, c_queries, false);
    rec.dispatch(&kernels::ATTENTION_OVERLAP, Variant::default(), &overlap, &buffers, extent);
    for window in &scratch.windows {
        products(rec, around, window, [(rotated, queries), (rotated, keys)], &scratch.scores);
        products(rec, around, window, [(dy, outputs), (rotated, values)], &own.score_gradients);
        let query_params = params(window, keys, c_queries, false);
        let buffers = [
            ("overlaps", &own.overlaps),
            ("scores", &scratch.scores),
            ("score_gradients", &own.score_gradients),
            ("maxima", maxima.whole()),
            ("scales", scales.whole()),
            ("weights", &scratch.weights),
            ("gradients", &own.gradients),
        ];
        let extent = Extent::threads(window.planes * window.rows * columns / 2);
        rec.dispatch(&kernels::ATTENTION_WEIGHTED, Variant::default(), &query_params, &buffers, extent);

        let tile = around.tile(window.rows, dims.head_width, window.planes);
        let extent = tiled(tile, window.rows, dims.head_width, columns, window.planes);
        let buffers = [("a", &own.gradients), ("b", rotated.whole()), ("c", gradient.whole())];
        rec.dispatch(&kernels::ATTENTION_QUERY_GRADIENT, tile_variant(tile), &query_params, &buffers, extent);

        let shared = window.planes / window.sharing;
        let tile = around.tile(around.shape.sequence, dims.head_width, shared);
        let depth = window.rows * window.sharing;
        let extent = tiled(tile, around.shape.sequence, dims.head_width, depth, shared);
        // The group's first head at its first row starts from 0.
        let group = dims.heads / dims.kv_heads;
        let resumes = window.first_row > 0 || window.first_plane % group != 0;
        let key_params = params(window, queries, c_keys, resumes);
        rec.dispatch(&kernels::ATTENTION_KEY_GRADIENT, tile_variant(tile), &key_params, &buffers, extent);
        let value_params = params(window, outputs, c_values, resumes);
        let buffers = [("a", &scratch.weights), ("b", dy.whole()), ("c", gradient.whole())];
        rec.dispatch(&kernels::ATTENTION_KEY_GRADIENT, tile_variant(tile), &value_params, &buffers, extent);
    }
}

/// Parameters of the kernels in `attention_backward.wgsl`; C starts at head `c_first` of the gradient.
fn backward_params(
    dims: &Dims<'_>,
    columns: usize,
    window: &Window,
    b: Heads,
    [y, dy, gradient]: [&Tensor; 3],
    c_first: usize,
    resumes: bool,
) -> [(&'static str, u32); 22] {
    let c_head4 = gradient.layout.stride() / 4;
    [
        ("sequence", count(dims.shape.sequence)),
        ("tokens", count(dims.shape.tokens)),
        ("heads", count(dims.heads)),
        ("group", count(dims.heads / dims.kv_heads)),
        ("head_width", count(dims.head_width)),
        ("first_plane", count(window.first_plane)),
        ("planes", count(window.planes)),
        ("first_row", count(window.first_row)),
        ("rows", count(window.rows)),
        ("sharing", count(window.sharing)),
        ("columns", count(columns)),
        ("b_row8", count(b.row8)),
        ("b_head8", count(b.head8)),
        ("b_first8", count(b.first8)),
        ("c_row4", count(dims.all_heads() * c_head4)),
        ("c_head4", count(c_head4)),
        ("c_first4", count(c_first * c_head4)),
        ("y_words", count(y.layout.words())),
        ("dy_head_words", count(dy.layout.words())),
        ("heads_stride", count(dims.heads_stride())),
        ("resumes", u32::from(resumes)),
        ("scale", bits(dims.shape.model.attention_scale())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every (plane, row) that the windows cover, in order.
    fn covered(windows: &[Window]) -> Vec<(usize, usize)> {
        let rows = |window: &Window| {
            let (planes, rows) = (window.first_plane..window.first_plane + window.planes, window.first_row);
            let rows = rows..rows + window.rows;
            planes.flat_map(move |plane| rows.clone().map(move |row| (plane, row))).collect::<Vec<_>>()
        };
        windows.iter().flat_map(rows).collect()
    }

    #[test]
    fn windows_cover_every_row_of_every_plane_once_and_in_order_within_their_room() {
        for (planes, group, length, room) in [(8, 2, 9_usize, 1 << 20), (8, 2, 9, 300), (6, 3, 9, 100), (4, 4, 20, 1)] {
            let columns = length.next_multiple_of(8);
            let windows = windows(planes, group, length, columns, room);
            let all: Vec<_> = (0..planes).flat_map(|plane| (0..length).map(move |row| (plane, row))).collect();
            assert_eq!(covered(&windows), all);
            let largest = windows.iter().map(|window| window.planes * window.rows * columns).max().unwrap();
            assert!(largest <= room.max(columns));
            assert!(windows.iter().all(|window| window.planes % window.sharing == 0));
        }
    }

    #[test]
    fn a_group_shares_a_window_unless_its_planes_are_split() {
        let whole = windows(8, 4, 16, 16, 4 * 256);
        assert!(whole.iter().all(|window| window.sharing == 4 && window.planes == 4));
        let split = windows(8, 4, 16, 16, 4 * 256 - 1);
        assert!(split.iter().all(|window| window.sharing == 1 && window.planes == 1));
    }
}
