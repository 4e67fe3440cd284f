// Rotates each pair (i, i + h/2) of the query and key heads by its position's angle, or back, and narrows everything to
// bfloat16. One thread makes one word. Heads may be padded on either side, so each side has its own steps.

override INVERSE: bool = false;

struct Params {
    zero: u32,
    tokens: u32,
    // Tokens in a sequence.
    sequence: u32,
    // Heads that turn (query and key), and all heads.
    turning: u32,
    heads: u32,
    head_width: u32,
    // Elements from row to row and from head to head of x.
    x_row: u32,
    x_head: u32,
    // Words from row to row and from head to head of y.
    y_row: u32,
    y_head: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
// Cosine in the high half, sine in the low half, [context][head_width / 2].
@group(0) @binding(3) var<storage, read> rotary: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;

fn turned(token: u32, head: u32, i: u32) -> f32 {
    if head >= params.heads || i >= params.head_width {
        return 0.0;
    }
    let base = token * params.x_row + head * params.x_head;
    let own = x[base + i];
    if head >= params.turning {
        return narrow(own);
    }
    let pairs = params.head_width / 2u;
    let first = i < pairs;
    let other = x[base + select(i - pairs, i + pairs, first)];
    let turn = rotary[(token % params.sequence) * pairs + select(i - pairs, i, first)];
    let along = mul(own, high_half(turn));
    let across = mul(other, low_half(turn));
    // The first of a pair subtracts when turning forward, the second when turning back.
    if first != INVERSE {
        return narrow(z(along - across));
    }
    return narrow(z(along + across));
}

@compute @workgroup_size(64)
fn rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let token = index / params.y_row;
    if token >= params.tokens {
        return;
    }
    let word = index % params.y_row;
    let head = word / params.y_head;
    let i = 2u * (word % params.y_head);
    y[index] = pack(turned(token, head, i), turned(token, head, i + 1u));
    report(0u);
}
