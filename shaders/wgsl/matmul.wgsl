// The tile engine of every matrix product, C = A B: one accumulator for each output, k ascending, products of bfloat16
// values, so tiling rows and columns changes no bit. Entry points stand in the files that follow this one.
//
// A workgroup makes a tile of TILE_M x TILE_N outputs and a thread 8 x 8 of them, as four blocks of 4 x 4 so that
// neighbouring threads read neighbouring words. Both operands are staged DEPTH deep in workgroup memory, unpacked, k
// outermost: tile[k][row of A or column of B]. Steps that lie beyond an edge bring zeros, which change no sum.

// Whether accumulators are shielded: where a compiler reassociates sums of exact products (Metal's fast math).
override SHIELD_CHAINS: bool = false;
override THREADS_M: u32 = 8u;
override THREADS_N: u32 = 8u;
override TILE_M: u32 = 8u * THREADS_M;
override TILE_N: u32 = 8u * THREADS_N;
const DEPTH: u32 = 16u;
// DEPTH in eights.
const DEPTH8: u32 = 2u;

@group(0) @binding(2) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> c: array<vec4<f32>>;

// Four rows of A or columns of B an element: DEPTH lines of A's tile, then DEPTH lines of B's.
var<workgroup> tile: array<vec4<f32>, 4u * (TILE_M + TILE_N)>;

// This thread's outputs: row r, columns of half h at [2 r + h].
var<private> sums: array<vec4<f32>, 16>;

const OF_A: u32 = 0u;
const OF_B: u32 = 1u;

fn fetch(operand: u32, at: u32) -> vec4<u32> {
    if operand == OF_A {
        return a[at];
    }
    return b[at];
}

// Where an operand's tile starts, and the fours in its lines.
fn tile_start(operand: u32) -> u32 {
    return select(DEPTH * TILE_M / 4u, 0u, operand == OF_A);
}

fn tile_width4(operand: u32) -> u32 {
    return select(TILE_N, TILE_M, operand == OF_A) / 4u;
}

// Stages an operand whose rows run along k: rows first.. of `rows`, k from 8 k8 on. A thread turns four rows by eight.
fn stage_rows(operand: u32, thread: u32, base: u32, stride8: u32, first: u32, rows: u32, k8: u32, depth8: u32) {
    let width4 = tile_width4(operand);
    for (var task = thread; task < width4 * DEPTH8; task += THREADS_M * THREADS_N) {
        let row = first + 4u * (task % width4);
        let step8 = task / width4;
        let at = base + row * stride8 + k8 + step8;
        var r0 = vec4<u32>();
        var r1 = vec4<u32>();
        var r2 = vec4<u32>();
        var r3 = vec4<u32>();
        if k8 + step8 < depth8 {
            if row < rows {
                r0 = fetch(operand, at);
            }
            if row + 1u < rows {
                r1 = fetch(operand, at + stride8);
            }
            if row + 2u < rows {
                r2 = fetch(operand, at + 2u * stride8);
            }
            if row + 3u < rows {
                r3 = fetch(operand, at + 3u * stride8);
            }
        }
        let line = tile_start(operand) + 8u * step8 * width4 + task % width4;
        stage_pair(line, width4, vec4(r0.x, r1.x, r2.x, r3.x));
        stage_pair(line + 2u * width4, width4, vec4(r0.y, r1.y, r2.y, r3.y));
        stage_pair(line + 4u * width4, width4, vec4(r0.z, r1.z, r2.z, r3.z));
        stage_pair(line + 6u * width4, width4, vec4(r0.w, r1.w, r2.w, r3.w));
    }
}

// Two steps of k of four rows.
fn stage_pair(at: u32, width4: u32, words: vec4<u32>) {
    tile[at] = bitcast<vec4<f32>>(words << vec4<u32>(16u));
    tile[at + width4] = bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u));
}

// Stages an operand whose rows are steps of k: k from `k` on of `depth`, columns first.., `width8` eights a row.
fn stage_columns(operand: u32, thread: u32, base: u32, stride8: u32, k: u32, depth: u32, first: u32, width8: u32) {
    let width4 = tile_width4(operand);
    let eights = width4 / 2u;
    for (var task = thread; task < eights * DEPTH; task += THREADS_M * THREADS_N) {
        let step = task / eights;
        let column8 = task % eights;
        var words = vec4<u32>();
        if k + step < depth && first / 8u + column8 < width8 {
            words = fetch(operand, base + (k + step) * stride8 + first / 8u + column8);
        }
        let at = tile_start(operand) + step * width4 + 2u * column8;
        tile[at] = vec4(low_half(words.x), high_half(words.x), low_half(words.y), high_half(words.y));
        tile[at + 1u] = vec4(low_half(words.z), high_half(words.z), low_half(words.w), high_half(words.w));
    }
}

fn clear() {
    let zero = vec4<f32>(start());
    sums = array<vec4<f32>, 16>(
        zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero);
}

fn chained4(sum: vec4<f32>) -> vec4<f32> {
    if SHIELD_CHAINS {
        return q4(sum);
    }
    return sum;
}

fn mac4(sum: vec4<f32>, factor: f32, others: vec4<f32>) -> vec4<f32> {
    return chained4(sum + factor * others);
}

// Adds the staged products, k ascending.
fn multiply(thread: u32) {
    let a_at = thread / THREADS_N;
    let b_at = tile_start(OF_B) + thread % THREADS_N;
    for (var k = 0u; k < DEPTH; k++) {
        let a0 = tile[k * (TILE_M / 4u) + a_at];
        let a1 = tile[k * (TILE_M / 4u) + a_at + THREADS_M];
        let b0 = tile[k * (TILE_N / 4u) + b_at];
        let b1 = tile[k * (TILE_N / 4u) + b_at + THREADS_N];
        sums[0] = mac4(sums[0], a0.x, b0);
        sums[1] = mac4(sums[1], a0.x, b1);
        sums[2] = mac4(sums[2], a0.y, b0);
        sums[3] = mac4(sums[3], a0.y, b1);
        sums[4] = mac4(sums[4], a0.z, b0);
        sums[5] = mac4(sums[5], a0.z, b1);
        sums[6] = mac4(sums[6], a0.w, b0);
        sums[7] = mac4(sums[7], a0.w, b1);
        sums[8] = mac4(sums[8], a1.x, b0);
        sums[9] = mac4(sums[9], a1.x, b1);
        sums[10] = mac4(sums[10], a1.y, b0);
        sums[11] = mac4(sums[11], a1.y, b1);
        sums[12] = mac4(sums[12], a1.z, b0);
        sums[13] = mac4(sums[13], a1.z, b1);
        sums[14] = mac4(sums[14], a1.w, b0);
        sums[15] = mac4(sums[15], a1.w, b1);
    }
}

// The tile's row of this thread's row r.
fn row_of(thread: u32, r: u32) -> u32 {
    return 4u * (thread / THREADS_N) + (r & 3u) + select(0u, TILE_M / 2u, r >= 4u);
}

// The tile's columns of this thread's half h, in fours.
fn column4_of(thread: u32, h: u32) -> u32 {
    return thread % THREADS_N + h * THREADS_N;
}

// A tile of C: rows first_row.. of `rows`, columns first_column.. of 4 `columns4`, element (0, 0) at c[base].
struct Corner {
    base: u32,
    stride4: u32,
    first_row: u32,
    rows: u32,
    first_column4: u32,
    columns4: u32,
}

fn load_four(corner: Corner, thread: u32, r: u32, h: u32) -> vec4<f32> {
    let row = corner.first_row + row_of(thread, r);
    let column4 = corner.first_column4 + column4_of(thread, h);
    if row < corner.rows && column4 < corner.columns4 {
        return c[corner.base + row * corner.stride4 + column4];
    }
    return vec4<f32>();
}

fn store_four(corner: Corner, thread: u32, r: u32, h: u32, four: vec4<f32>) {
    let row = corner.first_row + row_of(thread, r);
    let column4 = corner.first_column4 + column4_of(thread, h);
    if row < corner.rows && column4 < corner.columns4 {
        c[corner.base + row * corner.stride4 + column4] = four;
    }
}

// Starts the sums from what C holds.
fn resume(corner: Corner, thread: u32) {
    sums[0] = load_four(corner, thread, 0u, 0u);
    sums[1] = load_four(corner, thread, 0u, 1u);
    sums[2] = load_four(corner, thread, 1u, 0u);
    sums[3] = load_four(corner, thread, 1u, 1u);
    sums[4] = load_four(corner, thread, 2u, 0u);
    sums[5] = load_four(corner, thread, 2u, 1u);
    sums[6] = load_four(corner, thread, 3u, 0u);
    sums[7] = load_four(corner, thread, 3u, 1u);
    sums[8] = load_four(corner, thread, 4u, 0u);
    sums[9] = load_four(corner, thread, 4u, 1u);
    sums[10] = load_four(corner, thread, 5u, 0u);
    sums[11] = load_four(corner, thread, 5u, 1u);
    sums[12] = load_four(corner, thread, 6u, 0u);
    sums[13] = load_four(corner, thread, 6u, 1u);
    sums[14] = load_four(corner, thread, 7u, 0u);
    sums[15] = load_four(corner, thread, 7u, 1u);
}

fn store(corner: Corner, thread: u32) {
    store_four(corner, thread, 0u, 0u, sums[0]);
    store_four(corner, thread, 0u, 1u, sums[1]);
    store_four(corner, thread, 1u, 0u, sums[2]);
    store_four(corner, thread, 1u, 1u, sums[3]);
    store_four(corner, thread, 2u, 0u, sums[4]);
    store_four(corner, thread, 2u, 1u, sums[5]);
    store_four(corner, thread, 3u, 0u, sums[6]);
    store_four(corner, thread, 3u, 1u, sums[7]);
    store_four(corner, thread, 4u, 0u, sums[8]);
    store_four(corner, thread, 4u, 1u, sums[9]);
    store_four(corner, thread, 5u, 0u, sums[10]);
    store_four(corner, thread, 5u, 1u, sums[11]);
    store_four(corner, thread, 6u, 0u, sums[12]);
    store_four(corner, thread, 6u, 1u, sums[13]);
    store_four(corner, thread, 7u, 0u, sums[14]);
    store_four(corner, thread, 7u, 1u, sums[15]);
}
