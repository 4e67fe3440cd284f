// dw[o, i] = chain(dw[o, i], dy[k, o], x[k, i]), k over the tokens: the gradient of a weight, which may come in parts,
// each a range of rows.

struct Params {
    zero: u32,
    // Tokens.
    depth: u32,
    // Rows of dw that are bound, and the eight of dy's row where they start.
    rows: u32,
    first8: u32,
    // Eights in a row of dy and of x.
    dy_stride8: u32,
    x_stride8: u32,
    // Fours in a row of dw.
    columns4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(THREADS_M * THREADS_N)
fn matmul_tn(
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
    resume(corner, thread);
    for (var k = 0u; k < params.depth; k += DEPTH) {
        stage_columns(
            OF_A, thread, params.first8, params.dy_stride8, k, params.depth, row, params.dy_stride8 - params.first8);
        stage_columns(OF_B, thread, 0u, params.x_stride8, k, params.depth, column, params.x_stride8);
        workgroupBarrier();
        multiply(thread);
        workgroupBarrier();
    }
    store(corner, thread);
}
