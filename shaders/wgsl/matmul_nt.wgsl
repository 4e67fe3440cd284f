// y[t, o] = chain(0, x[t, k], w[o, k]): a product with a weight. The weight may come in parts, each a range of columns.

struct Params {
    zero: u32,
    // Rows of x, and rows of w that are bound.
    rows: u32,
    columns: u32,
    // Eights in a row of x and of w.
    depth8: u32,
    // Fours in a row of y, and where the part's columns start.
    stride4: u32,
    first4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(THREADS_M * THREADS_N)
fn matmul_nt(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let across = (params.columns + TILE_N - 1u) / TILE_N;
    let row = place(group, groups) / across * TILE_M;
    let column = place(group, groups) % across * TILE_N;
    if row >= params.rows {
        return;
    }
    clear();
    for (var k8 = 0u; k8 < params.depth8; k8 += DEPTH8) {
        stage_rows(OF_A, thread, 0u, params.depth8, row, params.rows, k8, params.depth8);
        stage_rows(OF_B, thread, 0u, params.depth8, column, params.columns, k8, params.depth8);
        workgroupBarrier();
        multiply(thread);
        workgroupBarrier();
    }
    let columns4 = (params.columns + 3u) / 4u;
    store(Corner(params.first4, params.stride4, row, params.rows, column / 4u, columns4), thread);
}
