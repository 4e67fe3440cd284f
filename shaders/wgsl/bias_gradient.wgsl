// db[c] += dl[t, c], rows ascending.

struct Params {
    zero: u32,
    rows: u32,
    width: u32,
    // Words of a padded row of dl.
    words: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> dl: array<u32>;
@group(0) @binding(3) var<storage, read_write> db: array<f32>;

fn element(row: u32, column: u32) -> f32 {
    let word = dl[row * params.words + column / 2u];
    return select(high_half(word), low_half(word), column % 2u == 0u);
}

@compute @workgroup_size(256)
fn bias_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let column = place(group, groups) * COLUMNS + thread % COLUMNS;
    let adds = thread < COLUMNS && column < params.width;
    var sum = 0.0;
    if adds {
        sum = db[column];
    }
    for (var first = 0u; first < params.rows; first += ROWS_AT_ONCE) {
        let count = min(ROWS_AT_ONCE, params.rows - first);
        for (var i = thread / COLUMNS; i < count; i += ROW_LANES) {
            if column < params.width {
                terms[i * COLUMNS + thread % COLUMNS] = element(first + i, column);
            }
        }
        workgroupBarrier();
        if adds {
            sum = add_terms(sum, thread, count);
        }
        workgroupBarrier();
    }
    if adds {
        db[column] = sum;
    }
}
