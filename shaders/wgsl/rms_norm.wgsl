// r = rsqrt(mul(tree(mul(x, x)), 1/D) + eps); y = bf(mul(mul(x, r), gain)). A workgroup of 64 lanes takes a row.

struct Params {
    zero: u32,
    rows: u32,
    width: u32,
    // Elements of a padded row of x.
    stride: u32,
    // Words of a padded row of y.
    words: u32,
    inverse_width: f32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;

fn square(row: u32, column: u32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    let value = x[row * params.stride + column];
    out_of_range = out_of_range || exceeds_norm(value);
    return mul(value, value);
}

fn normed(row: u32, column: u32, r: f32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    return narrow(mul(mul(x[row * params.stride + column], r), gain[column]));
}

@compute @workgroup_size(64)
fn rms_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups);
    if row >= params.rows {
        return;
    }
    var total = start();
    for (var first = 0u; first < params.width; first += TREE) {
        let c = first + lane;
        let squares = vec4(square(row, c), square(row, c + 64u), square(row, c + 128u), square(row, c + 192u));
        total = q(total + tree_block(lane, squares));
    }
    let r = rsqrt(q(mul(total, params.inverse_width) + params.eps));
    for (var word = lane; word < params.words; word += LANES) {
        y[row * params.words + word] = pack(normed(row, 2u * word, r), normed(row, 2u * word + 1u, r));
    }
    if lane == 0u {
        scales[row] = r;
    }
    report(0u);
}
