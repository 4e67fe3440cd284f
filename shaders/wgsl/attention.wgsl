// Causal attention as two matrix products with a softmax between them. The scores of a window of (sequence, head)
// planes are held at once: either whole planes, or some rows of one. Keys and values of a group of query heads are
// shared.
//
// d = chain(0, q, key); s = mul(d, scale); m = max s; e = exp(z(s - m)); c = recip(tree(e)); y = bf(chain(0,
// bf(mul(e, c)), value)).

struct Params {
    zero: u32,
    // Tokens in a sequence, query heads, query heads to a key head, elements of a head.
    sequence: u32,
    heads: u32,
    group: u32,
    head_width: u32,
    // The window: planes counted by sequence and then head, and rows of each.
    first_plane: u32,
    planes: u32,
    first_row: u32,
    rows: u32,
    // Columns of a padded row of scores: a multiple of 8.
    columns: u32,
    // Eights from token to token, from head to head, and to the first head, of A (one head for each query head).
    a_row8: u32,
    a_head8: u32,
    // The same for B (one head for each key head).
    b_row8: u32,
    b_head8: u32,
    b_first8: u32,
    // Words of a padded row of y, elements of a padded row of maxima and scales.
    y_words: u32,
    heads_stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> scores: array<f32>;
@group(0) @binding(6) var<storage, read_write> weights: array<u32>;
@group(0) @binding(7) var<storage, read_write> maxima: array<f32>;
@group(0) @binding(8) var<storage, read_write> scales: array<f32>;
@group(0) @binding(9) var<storage, read_write> y: array<u32>;

// c[plane, t, j] = chain(0, A[t], B[j]) over a head's elements. Tiles above the diagonal are left out.
@compute @workgroup_size(THREADS_M * THREADS_N)
fn products(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let across = (params.columns + TILE_N - 1u) / TILE_N;
    let down = (params.rows + TILE_M - 1u) / TILE_M;
    let plane = place(group, groups) / (across * down);
    let row = place(group, groups) / across % down * TILE_M;
    let column = place(group, groups) % across * TILE_N;
    if plane >= params.planes || column > params.first_row + row + TILE_M - 1u {
        return;
    }
    let sequence = (params.first_plane + plane) / params.heads;
    let head = (params.first_plane + plane) % params.heads;
    let first_token = sequence * params.sequence;
    let a_base = (first_token + params.first_row) * params.a_row8 + head * params.a_head8;
    let b_base = first_token * params.b_row8 + params.b_first8 + head / params.group * params.b_head8;
    clear();
    for (var k8 = 0u; k8 < params.a_head8; k8 += DEPTH8) {
        stage_rows(OF_A, thread, a_base, params.a_row8, row, params.rows, k8, params.a_head8);
        stage_rows(OF_B, thread, b_base, params.b_row8, column, params.sequence, k8, params.a_head8);
        workgroupBarrier();
        multiply(thread);
        workgroupBarrier();
    }
    let columns4 = params.columns / 4u;
    store(Corner(plane * params.rows * columns4, columns4, row, params.rows, column / 4u, columns4), thread);
}

fn score(row: u32, column: u32) -> f32 {
    return mul(scores[row * params.columns + column], params.scale);
}

// e, and +0 beyond the row's own position.
fn weight(row: u32, column: u32, seen: u32, m: f32) -> f32 {
    if column >= seen {
        return 0.0;
    }
    return canon_exp(z(score(row, column) - m));
}

// Scores to weights: a workgroup of 64 lanes takes a row of a plane.
@compute @workgroup_size(64)
fn softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = place(group, groups);
    if row >= params.planes * params.rows {
        return;
    }
    let position = params.first_row + row % params.rows;
    let seen = position + 1u;
    var highest = unkey(bitcast<i32>(0x80000000u));
    for (var j = lane; j < seen; j += LANES) {
        out_of_range = out_of_range || exceeds(scores[row * params.columns + j]);
        highest = canon_max(highest, score(row, j));
    }
    let m = top_of(lane, highest);
    var total = start();
    for (var first = 0u; first < seen; first += TREE) {
        let j = first + lane;
        let block = vec4(
            weight(row, j, seen, m),
            weight(row, j + 64u, seen, m),
            weight(row, j + 128u, seen, m),
            weight(row, j + 192u, seen, m),
        );
        total = q(total + tree_block(lane, block));
    }
    let scale = recip(total);
    for (var word = lane; word < params.columns / 2u; word += LANES) {
        let first = bf(mul(weight(row, 2u * word, seen, m), scale));
        weights[row * (params.columns / 2u) + word] =
            pack(first, bf(mul(weight(row, 2u * word + 1u, seen, m), scale)));
    }
    if lane == 0u {
        let plane = params.first_plane + row / params.rows;
        let token = plane / params.heads * params.sequence + position;
        maxima[token * params.heads_stride + plane % params.heads] = m;
        scales[token * params.heads_stride + plane % params.heads] = scale;
    }
    report(0u);
}

// Stores two bfloat16 words of y from four sums: heads stand without padding in y, and their width is even.
fn store_words(thread: u32, r: u32, h: u32, row: u32, column: u32, token: u32, head: u32, four: vec4<f32>) {
    let own_row = row + row_of(thread, r);
    let i = column + 4u * column4_of(thread, h);
    if own_row >= params.rows || i >= params.head_width {
        return;
    }
    let word = (token + own_row) * params.y_words + (head * params.head_width + i) / 2u;
    y[word] = pack(narrow(four.x), narrow(four.y));
    if i + 2u < params.head_width {
        y[word + 1u] = pack(narrow(four.z), narrow(four.w));
    }
}

// y[t] = bf(chain(0, A[t, j], B[j])), A the weights of the window and B the values.
@compute @workgroup_size(THREADS_M * THREADS_N)
fn attended(
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
    store_words(thread, 0u, 0u, row, column, token, head, sums[0]);
    store_words(thread, 0u, 1u, row, column, token, head, sums[1]);
    store_words(thread, 1u, 0u, row, column, token, head, sums[2]);
    store_words(thread, 1u, 1u, row, column, token, head, sums[3]);
    store_words(thread, 2u, 0u, row, column, token, head, sums[4]);
    store_words(thread, 2u, 1u, row, column, token, head, sums[5]);
    store_words(thread, 3u, 0u, row, column, token, head, sums[6]);
    store_words(thread, 3u, 1u, row, column, token, head, sums[7]);
    store_words(thread, 4u, 0u, row, column, token, head, sums[8]);
    store_words(thread, 4u, 1u, row, column, token, head, sums[9]);
    store_words(thread, 5u, 0u, row, column, token, head, sums[10]);
    store_words(thread, 5u, 1u, row, column, token, head, sums[11]);
    store_words(thread, 6u, 0u, row, column, token, head, sums[12]);
    store_words(thread, 6u, 1u, row, column, token, head, sums[13]);
    store_words(thread, 7u, 0u, row, column, token, head, sums[14]);
    store_words(thread, 7u, 1u, row, column, token, head, sums[15]);
    report(0u);
}
