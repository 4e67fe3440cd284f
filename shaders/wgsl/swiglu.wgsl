// a = bf(mul(silu(g), u)), gate and up side by side in a row of x. One thread makes one word.

struct Params {
    zero: u32,
    rows: u32,
    // Elements of a row of a; x has twice as many.
    width: u32,
    // Elements of a padded row of x.
    stride: u32,
    // Words of a padded row of a.
    words: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> a: array<u32>;

fn activated(row: u32, column: u32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    let g = check(x[row * params.stride + column]);
    let u = check(x[row * params.stride + params.width + column]);
    return narrow(mul(silu(g), u));
}

@compute @workgroup_size(64)
fn swiglu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let row = index / params.words;
    if row >= params.rows {
        return;
    }
    let column = 2u * (index % params.words);
    a[index] = pack(activated(row, column), activated(row, column + 1u));
    report(0u);
}
