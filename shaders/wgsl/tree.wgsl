// The fixed tree of every reduction: blocks of 256 by halving, their totals one after the other. One workgroup of 64
// lanes reduces one row.

const LANES: u32 = 64u;
const TREE: u32 = 256u;

var<workgroup> quarters: array<f32, 64>;
var<workgroup> eighths: array<f32, 8>;
var<workgroup> top: atomic<i32>;

// The sum of a block whose elements lane, lane + 64, lane + 128 and lane + 192 this lane brings; every lane gets it.
// Two halvings happen in a lane's registers, three in each of eight lanes, three in all: two barriers instead of eight.
fn tree_block(lane: u32, x: vec4<f32>) -> f32 {
    quarters[lane] = q(q(x.x + x.z) + q(x.y + x.w));
    workgroupBarrier();
    if lane < 8u {
        let even = q(q(quarters[lane] + quarters[lane + 32u]) + q(quarters[lane + 16u] + quarters[lane + 48u]));
        let odd = q(q(quarters[lane + 8u] + quarters[lane + 40u]) + q(quarters[lane + 24u] + quarters[lane + 56u]));
        eighths[lane] = q(even + odd);
    }
    workgroupBarrier();
    let even = q(q(eighths[0] + eighths[4]) + q(eighths[2] + eighths[6]));
    let odd = q(q(eighths[1] + eighths[5]) + q(eighths[3] + eighths[7]));
    return q(even + odd);
}

// The largest of the numbers that the lanes bring; every lane gets it. Keys are integers, so their order does not
// matter.
fn top_of(lane: u32, x: f32) -> f32 {
    if lane == 0u {
        atomicStore(&top, bitcast<i32>(0x80000000u));
    }
    workgroupBarrier();
    atomicMax(&top, key(x));
    workgroupBarrier();
    return unkey(atomicLoad(&top));
}
