// The gradient of causal attention, window by window as in attention.wgsl, whose `products` make q key^T and dy
// value^T.
//
// p = mul(e, c); b = chain(0, dy, y); ds = bf(mul(mul(p, z(dp - b)), scale)); dq = chain(0, ds, key);
// dkey[j] = chain(0, ds[t, j], q[t]) and dvalue[j] = chain(0, bf(p[t, j]), dy[t]) over the query heads of the group
// ascending and in each t >= j ascending.

struct Params {
    zero: u32,
    // Tokens in a sequence, all tokens, query heads, query heads to a key head, elements of a head.
    sequence: u32,
    tokens: u32,
    heads: u32,
    group: u32,
    head_width: u32,
    // The window: planes counted by sequence and then head, and rows of each.
    first_plane: u32,
    planes: u32,
    first_row: u32,
    rows: u32,
    // Planes of the window that share a key head.
    sharing: u32,
    // Columns of a padded row of scores: a multiple of 8.
    columns: u32,
    // Eights from token to token, from head to head, and to the first head, of B.
    b_row8: u32,
    b_head8: u32,
    b_first8: u32,
    // Fours from token to token, from head to head, and to the first head, of C.
    c_row4: u32,
    c_head4: u32,
    c_first4: u32,
    // Words of a padded row of y and of a padded head of dy, elements of a padded row of maxima, scales and overlaps.
    y_words: u32,
    dy_head_words: u32,
    heads_stride: u32,
    // 1 to go on from what C holds.
    resumes: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> y: array<u32>;
@group(0) @binding(6) var<storage, read> dy: array<u32>;
@group(0) @binding(7) var<storage, read_write> overlaps: array<f32>;
@group(0) @binding(8) var<storage, read> scores: array<f32>;
@group(0) @binding(9) var<storage, read> score_gradients: array<f32>;
@group(0) @binding(10) var<storage, read> maxima: array<f32>;
@group(0) @binding(11) var<storage, read> scales: array<f32>;
@group(0) @binding(12) var<storage, read_write> weights: array<u32>;
@group(0) @binding(13) var<storage, read_write> gradients: array<u32>;

// b of one token and head a thread.
@compute @workgroup_size(64)
fn overlap(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let token = index / params.heads;
    if token >= params.tokens {
        return;
    }
    let head = index % params.heads;
    let y_at = token * params.y_words + head * params.head_width / 2u;
    let dy_at = index * params.dy_head_words;
    var sum = start();
    for (var word = 0u; word < params.head_width / 2u; word++) {
        let left = dy[dy_at + word];
        let right = y[y_at + word];
        sum = mac(sum, low_half(left), low_half(right));
        sum = mac(sum, high_half(left), high_half(right));
    }
    overlaps[token * params.heads_stride + head] = sum;
}

// bf(p) and ds of one element.
fn weigh(row: u32, column: u32) -> vec2<f32> {
    let position = params.first_row + row % params.rows;
    if column > position {
        return vec2<f32>();
    }
    let plane = params.first_plane + row / params.rows;
    let token = plane / params.heads * params.sequence + position;
    let of_row = token * params.heads_stride + plane % params.heads;
    let at = row * params.columns + column;
    let p = mul(canon_exp(z(mul(scores[at], params.scale) - maxima[of_row])), scales[of_row]);
    let ds = narrow(mul(mul(p, z(score_gradients[at] - overlaps[of_row])), params.scale));
    return vec2(bf(p), ds);
}

// Scores and their gradients to the operands of the products that follow; one thread makes one word of each.
@compute @workgroup_size(64)
fn weighted(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    let row = index / (params.columns / 2u);
    if row >= params.planes * params.rows {
        return;
    }
    let column = 2u * (index % (params.columns / 2u));
    let first = weigh(row, column);
    let second = weigh(row, column + 1u);
    weights[index] = pack(first.x, second.x);
    gradients[index] = pack(first.y, second.y);
    report(0u);
}

// c[t] = chain(0, A[t, j], B[j]): the gradient of the queries, A the gradients of the scores and B the keys.
@compute @workgroup_size(THREADS_M * THREADS_N)
fn query_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let across = (params.head_width + TILE_N - 1u) / TILE_N;
    let down = (params.rows + TILE_M - 1u) / TILE_M;
    let plane = place(group, groups) / (across * down);
    let row = place(group, groups) / across % down * TILE_M;
    let column = place(group, groups) % across * TILE_N;
    if plane >= params.planes {
        return;
    }
    let sequence = (params.first_plane + plane) / params.heads;
    let head = (params.first_plane + plane) % params.heads;
    let columns8 = params.columns / 8u;
    let a_base = plane * params.rows * columns8;
    let b_base = sequence * params.sequence * params.b_row8 + params.b_first8 + head / params.group * params.b_head8;
    // No row of the tile sees further than its last one.
    let depth8 = min(columns8, (params.first_row + row + TILE_M + 7u) / 8u);
    clear();
    for (var k8 = 0u; k8 < depth8; k8 += DEPTH8) {
        stage_rows(OF_A, thread, a_base, columns8, row, params.rows, k8, depth8);
        stage_columns(OF_B, thread, b_base, params.b_row8, 8u * k8, params.sequence, column, params.b_head8);
        workgroupBarrier();
        multiply(thread);
        workgroupBarrier();
    }
    let token = sequence * params.sequence + params.first_row;
    let base = token * params.c_row4 + params.c_first4 + head * params.c_head4;
    store(Corner(base, params.c_row4, row, params.rows, column / 4u, params.c_head4), thread);
}

// c[j] = chain(c[j], A[t, j], B[t]) over heads and t: the gradient of the keys (A the gradients of the scores, B the
// queries) and of the values (A the weights, B the gradients of the outputs).
@compute @workgroup_size(THREADS_M * THREADS_N)
fn key_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let across = (params.head_width + TILE_N - 1u) / TILE_N;
    let down = (params.sequence + TILE_M - 1u) / TILE_M;
    let shared_by = place(group, groups) / (across * down);
    let position = place(group, groups) / across % down * TILE_M;
    let column = place(group, groups) % across * TILE_N;
    let plane = shared_by * params.sharing;
    if plane >= params.planes {
        return;
    }
    let sequence = (params.first_plane + plane) / params.heads;
    let head = (params.first_plane + plane) % params.heads;
    let token = sequence * params.sequence;
    let base = token * params.c_row4 + params.c_first4 + head / params.group * params.c_head4;
    let corner = Corner(base, params.c_row4, position, params.sequence, column / 4u, params.c_head4);
    let columns8 = params.columns / 8u;
    // Rows before the tile's first position see none of it.
    let first = max(position, params.first_row) - params.first_row;
    clear();
    if params.resumes != 0u {
        resume(corner, thread);
    }
    for (var i = 0u; i < params.sharing; i++) {
        let a_base = (plane + i) * params.rows * columns8;
        let b_base = (token + params.first_row) * params.b_row8 + params.b_first8 + (head + i) * params.b_head8;
        for (var k = first; k < params.rows; k += DEPTH) {
            stage_columns(OF_A, thread, a_base, columns8, k, params.rows, position, columns8);
            stage_columns(OF_B, thread, b_base, params.b_row8, k, params.rows, column, params.b_head8);
            workgroupBarrier();
            multiply(thread);
            workgroupBarrier();
        }
    }
    store(corner, thread);
}
