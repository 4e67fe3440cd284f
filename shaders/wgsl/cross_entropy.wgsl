// l = z(logit + bias); m = max l; e = exp(z(l - m)); s = tree(e); the loss log(s) + (m - l_target) in micro-nats, and
// the gradient bf(z(mul(e, recip(s)) - [target])). A workgroup of 64 lanes takes a row.

struct Params {
    zero: u32,
    rows: u32,
    // Tokens in the vocabulary.
    width: u32,
    // Elements of a padded row of logits.
    stride: u32,
    // Words of a padded row of dlogits.
    words: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> targets: array<u32>;
@group(0) @binding(5) var<storage, read_write> losses: array<i32>;
@group(0) @binding(6) var<storage, read_write> dlogits: array<u32>;

fn biased(row: u32, column: u32) -> f32 {
    return z(check(logits[row * params.stride + column]) + bias[column]);
}

fn weight(row: u32, column: u32, m: f32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    return canon_exp(z(biased(row, column) - m));
}

fn gradient(row: u32, column: u32, m: f32, c: f32, target_column: u32) -> f32 {
    if column >= params.width {
        return 0.0;
    }
    return narrow(z(mul(weight(row, column, m), c) - select(0.0, 1.0, column == target_column)));
}

@compute @workgroup_size(64)
fn cross_entropy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups);
    if row >= params.rows {
        return;
    }
    var highest = unkey(bitcast<i32>(0x80000000u));
    for (var column = lane; column < params.width; column += LANES) {
        highest = canon_max(highest, biased(row, column));
    }
    let m = top_of(lane, highest);
    var s = start();
    for (var first = 0u; first < params.width; first += TREE) {
        let c = first + lane;
        let block =
            vec4(weight(row, c, m), weight(row, c + 64u, m), weight(row, c + 128u, m), weight(row, c + 192u, m));
        s = q(s + tree_block(lane, block));
    }
    let c = recip(s);
    let target_column = targets[row];
    for (var word = lane; word < params.words; word += LANES) {
        let column = 2u * word;
        let first = gradient(row, column, m, c, target_column);
        dlogits[row * params.words + word] = pack(first, gradient(row, column + 1u, m, c, target_column));
    }
    if lane == 0u {
        losses[row] = micro(q(canon_log(s) + q(m - biased(row, target_column))));
    }
    report(0u);
}
