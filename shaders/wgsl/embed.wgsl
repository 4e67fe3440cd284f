// y[t] = table[token[t]], moved as bits. One thread moves four elements. The table may come in parts: each call serves
// the tokens whose rows it holds.

struct Params {
    zero: u32,
    tokens: u32,
    // Elements of a row, in fours.
    width4: u32,
    // The part of the table that is bound.
    first_row: u32,
    rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(64)
fn embed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let token = index / params.width4;
    if token >= params.tokens {
        return;
    }
    let row = tokens[token] - params.first_row;
    if row < params.rows {
        y[index] = table[row * params.width4 + index % params.width4];
    }
}
