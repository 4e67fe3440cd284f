// bf(x): singles to the operands of matrix products. One thread makes one word.

struct Params {
    zero: u32,
    // Rows of y and their elements.
    rows: u32,
    width: u32,
    // Elements of a padded row of x, and the rows of y that it holds: attention's operands have a row for each head.
    stride: u32,
    heads: u32,
    // Words of a padded row of y.
    words: u32,
    // The flag to raise if a value is out of range.
    flag: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

fn element(row: u32, column: u32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    return narrow(x[row / params.heads * params.stride + row % params.heads * params.width + column]);
}

@compute @workgroup_size(64)
fn cast_rows(
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
    y[index] = pack(element(row, column), element(row, column + 1u));
    report(params.flag);
}
