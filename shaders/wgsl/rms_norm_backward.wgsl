// n = mul(x, r); u = mul(dy, gain); s = mul(tree(mul(u, n)), 1/D); dx = z(skip + mul(r, z(u - mul(n, s)))), and
// dgain += mul(dy, n), rows ascending.

struct Params {
    zero: u32,
    rows: u32,
    width: u32,
    // Elements of a padded row.
    stride: u32,
    inverse_width: f32,
    // 1 if a gradient by-passes the norm.
    has_skip: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> gain: array<f32>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read> skip: array<f32>;
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;
@group(0) @binding(8) var<storage, read_write> dgain: array<f32>;

// A workgroup holds 32 columns of the gain: its 256 threads make the terms of 64 rows at a time, and one thread a column
// adds them in order.
const COLUMNS: u32 = 32u;
const ROWS_AT_ONCE: u32 = 64u;
const ROW_LANES: u32 = 8u;

var<workgroup> terms: array<f32, 2048>;

// `sum` and the first `count` terms of this thread's column.
fn add_terms(sum: f32, column: u32, count: u32) -> f32 {
    var total = sum;
    for (var i = 0u; i < count; i++) {
        total = q(total + terms[i * COLUMNS + column]);
    }
    return total;
}

fn term(row: u32, column: u32, r: f32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    let at = row * params.stride + column;
    return mul(mul(check(dy[at]), gain[column]), mul(x[at], r));
}

// The gradient of the norm's input: a workgroup of 64 lanes takes a row.
@compute @workgroup_size(64)
fn input_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups);
    if row >= params.rows {
        return;
    }
    let r = scales[row];
    var total = start();
    for (var first = 0u; first < params.width; first += TREE) {
        let c = first + lane;
        let block = vec4(term(row, c, r), term(row, c + 64u, r), term(row, c + 128u, r), term(row, c + 192u, r));
        total = q(total + tree_block(lane, block));
    }
    let s = mul(total, params.inverse_width);
    for (var column = lane; column < params.width; column += LANES) {
        let at = row * params.stride + column;
        let u = mul(dy[at], gain[column]);
        let own = mul(r, z(u - mul(mul(x[at], r), s)));
        var bypass = 0.0;
        if params.has_skip != 0u {
            bypass = skip[at];
        }
        dx[at] = z(bypass + own);
    }
    report(0u);
}

// The gradient of the gain.
@compute @workgroup_size(256)
fn gain_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let column = place(group, groups) * COLUMNS + thread % COLUMNS;
    let adds = thread < COLUMNS && column < params.width;
    var sum = 0.0;
    if adds {
        sum = dgain[column];
    }
    for (var first = 0u; first < params.rows; first += ROWS_AT_ONCE) {
        let count = min(ROWS_AT_ONCE, params.rows - first);
        for (var i = thread / COLUMNS; i < count; i += ROW_LANES) {
            if column < params.width {
                let row = first + i;
                let at = row * params.stride + column;
                terms[i * COLUMNS + thread % COLUMNS] = mul(dy[at], mul(x[at], scales[row]));
            }
        }
        workgroupBarrier();
        if adds {
            sum = add_terms(sum, thread, count);
        }
        workgroupBarrier();
    }
    if adds {
        dgain[column] = sum;
    }
}
