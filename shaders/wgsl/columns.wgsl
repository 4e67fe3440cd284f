// Sums down the columns, row by row. A workgroup holds 32 columns: its 256 threads make the terms of 64 rows at a time,
// and one thread a column adds them in order.

const COLUMNS: u32 = 32u;
const ROWS_AT_ONCE: u32 = 64u;
const ROW_LANES: u32 = 8u;

var<workgroup> terms: array<f32, 2048>;

// `sum` and the first `count` terms of this thread's column.
fn add_terms(sum: f32, column: u32, count: u32) -> f32 {
    var total = sum;
    for (var i = 0u; i < count; i++) {
        total = q(total + terms[i * COLUMNS + column]);
    }
    return total;
}
