// s = sigmoid(g); du = bf(mul(da, mul(g, s))); dg = bf(mul(mul(da, u), mul(s, 1 + mul(g, 1 - s)))), gate and up side by
// side in a row. One thread makes one word.

struct Params {
    zero: u32,
    rows: u32,
    // Elements of a row of da; x and dx have twice as many.
    width: u32,
    // Elements of a padded row of da, and of x.
    da_stride: u32,
    stride: u32,
    // Words of a padded row of dx.
    words: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> da: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<u32>;

fn gradient(row: u32, place_in_row: u32) -> f32 {
    if place_in_row >= 2u * params.width {
        return 0.0;
    }
    let of_gate = place_in_row < params.width;
    let column = select(place_in_row - params.width, place_in_row, of_gate);
    let d = check(da[row * params.da_stride + column]);
    let g = x[row * params.stride + column];
    let s = sigmoid(g);
    if of_gate {
        let u = x[row * params.stride + params.width + column];
        let slope = q(1.0 + mul(g, q(1.0 - s)));
        return narrow(mul(mul(d, u), mul(s, slope)));
    }
    return narrow(mul(d, mul(g, s)));
}

@compute @workgroup_size(64)
fn swiglu_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let row = index / params.words;
    if row >= params.rows {
        return;
    }
    let first = 2u * (index % params.words);
    dx[index] = pack(gradient(row, first), gradient(row, first + 1u));
    report(0u);
}
