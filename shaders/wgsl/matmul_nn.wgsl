// dx[t, i] = chain(0, dy[t, k], w[k, i]): the gradient of a product's input. The weight may come in parts, each a range
// of k: the first starts from 0 and the others go on from what dx holds.

struct Params {
    zero: u32,
    // Rows of dy and dx.
    rows: u32,
    // Rows of w that are bound, and the eight of dy's row where they start.
    depth: u32,
    first8: u32,
    // Eights in a row of dy and of w.
    dy_stride8: u32,
    w_stride8: u32,
    // Fours in a row of dx.
    columns4: u32,
    // 1 to go on.
    resumes: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(THREADS_M * THREADS_N)
fn matmul_nn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let across = (4u * params.columns4 + TILE_N - 1u) / TILE_N;
    let row = place(group, groups) / across * TILE_M;
    let column = place(group, groups) % across * TILE_N;
    if row >= params.rows {
        return;
    }
    let corner = Corner(0u, params.columns4, row, params.rows, column / 4u, params.columns4);
    let depth8 = (params.depth + 7u) / 8u;
    clear();
    if params.resumes != 0u {
        resume(corner, thread);
    }
    for (var k8 = 0u; k8 < depth8; k8 += DEPTH8) {
        stage_rows(OF_A, thread, params.first8, params.dy_stride8, row, params.rows, k8, depth8);
        stage_columns(OF_B, thread, 0u, params.w_stride8, 8u * k8, params.depth, column, params.w_stride8);
        workgroupBarrier();
        multiply(thread);
        workgroupBarrier();
    }
    store(corner, thread);
}
