// dtable[token[t]] += dy[t], t ascending. `order` lists the positions by token and then by position, so the positions
// of one token stand together; the thread of a token's first place adds them all, and no atomics are needed.

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
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<storage, read> order: array<u32>;
@group(0) @binding(5) var<storage, read_write> dtable: array<vec4<f32>>;

@compute @workgroup_size(64)
fn embed_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let first = index / params.width4;
    let column = index % params.width4;
    if first >= params.tokens {
        return;
    }
    let token = tokens[order[first]];
    let row = token - params.first_row;
    if row >= params.rows {
        return;
    }
    if first > 0u {
        if tokens[order[first - 1u]] == token {
            return;
        }
    }
    var sum = dtable[row * params.width4 + column];
    for (var i = first; i < params.tokens; i++) {
        let position = order[i];
        if tokens[position] != token {
            break;
        }
        sum = q4(sum + dy[position * params.width4 + column]);
    }
    dtable[row * params.width4 + column] = sum;
}
