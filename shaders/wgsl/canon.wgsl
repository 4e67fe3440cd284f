// The arithmetic that agrees on every machine (ARCHITECTURE §4), one element at a time: the twin of src/canon.rs, same
// names, same constants, same order. Functions that WGSL has under the same name carry the prefix `canon_`.
//
// This text stands before every operator. The operator declares `var<uniform> params`, whose member `zero` is 0: a fact
// that no compiler knows.

// Set to 1 where a value left its range; one word for a batch, one for the weights.
@group(0) @binding(1) var<storage, read_write> flags: array<atomic<u32>>;

const LIMIT_BITS: u32 = (127u + 50u) << 23u;
const NORM_LIMIT_BITS: u32 = (127u + 40u) << 23u;
const TINY_BITS: u32 = (127u - 100u) << 23u;
const OPERAND_TINY_BITS: u32 = (127u - 52u) << 23u;
const MAGNITUDE: u32 = 0x7fffffffu;

// The shield: what went through it is neither fused nor reassociated with the arithmetic it feeds. It stands around
// every product and every sum that feeds a sum; src/canon.rs marks the products only, since Rust reassociates nothing.
fn q(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

fn q4(x: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ vec4<u32>(params.zero));
}

// The +0 that sums start from. Were it a constant, `0 + x` could become `x`, and -0 would survive.
fn start() -> f32 {
    return bitcast<f32>(params.zero);
}

// A step of a chain. The factors are bfloat16 values: their product is exact, and fusing it changes nothing.
fn mac(sum: f32, a: f32, b: f32) -> f32 {
    return q(sum + a * b);
}

fn z(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    return bitcast<f32>(select(bits, 0u, (bits & MAGNITUDE) < TINY_BITS));
}

fn mul(a: f32, b: f32) -> f32 {
    return z(q(a * b));
}

fn exceeds(x: f32) -> bool {
    return (bitcast<u32>(x) & MAGNITUDE) > LIMIT_BITS;
}

fn exceeds_norm(x: f32) -> bool {
    return (bitcast<u32>(x) & MAGNITUDE) > NORM_LIMIT_BITS;
}

fn bf(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u;
    return bitcast<f32>(select(rounded, 0u, (bits & MAGNITUDE) < OPERAND_TINY_BITS));
}

fn key(x: f32) -> i32 {
    let bits = bitcast<i32>(x);
    return bits ^ ((bits >> 31u) & 0x7fffffff);
}

// The number with this key.
fn unkey(k: i32) -> f32 {
    return bitcast<f32>(k ^ ((k >> 31u) & 0x7fffffff));
}

fn canon_max(a: f32, b: f32) -> f32 {
    return select(a, b, key(a) < key(b));
}

fn recip(x: f32) -> f32 {
    var y = bitcast<f32>(0x7ef311c3u - bitcast<u32>(x));
    for (var i = 0; i < 3; i++) {
        let e = q(1.0 - q(x * y));
        y = q(y + q(y * e));
    }
    return y;
}

fn rsqrt(x: f32) -> f32 {
    let h = q(0.5 * x);
    var y = bitcast<f32>(0x5f375a86u - (bitcast<u32>(x) >> 1u));
    for (var i = 0; i < 3; i++) {
        let t = q(y * y);
        let e = q(0.5 - q(h * t));
        y = q(y + q(y * e));
    }
    return select(y, 0.0, bitcast<u32>(x) == 0u);
}

fn canon_exp(x: f32) -> f32 {
    // x = n ln 2 + r; adding 1.5 * 2^23 leaves n in the low bits.
    let shifted = q(q(x * 1.4426950408889634) + 12582912.0);
    let n = bitcast<i32>(bitcast<u32>(shifted) - 0x4b400000u);
    let f = f32(n);
    let r = q(q(x - q(f * 0.6933594)) - q(f * -2.1219444e-4));
    var p = 1.9875691e-4;
    p = q(q(p * r) + 1.3982e-3);
    p = q(q(p * r) + 8.333452e-3);
    p = q(q(p * r) + 4.1665796e-2);
    p = q(q(p * r) + 1.6666665e-1);
    p = q(q(p * r) + 5.0000001e-1);
    let s = q(r * r);
    let y = q(1.0 + q(r + q(p * s)));
    let scaled = bitcast<f32>(bitcast<u32>(y) + (bitcast<u32>(n) << 23u));
    return select(scaled, 0.0, x < -69.0);
}

fn canon_log(x: f32) -> f32 {
    // x = 2^n m with m in [sqrt 1/2, sqrt 2); log m = 2 artanh((m - 1) / (m + 1)).
    let n = bitcast<i32>(bitcast<u32>(x) - 0x3f3504f3u) >> 23u;
    let m = bitcast<f32>(bitcast<u32>(x) - (bitcast<u32>(n) << 23u));
    let f = q(m - 1.0);
    let s = q(f * recip(q(2.0 + f)));
    let w = q(s * s);
    var p = 0.22222222;
    p = q(q(p * w) + 0.2857143);
    p = q(q(p * w) + 0.4);
    p = q(q(p * w) + 0.6666667);
    let series = q(q(s + s) + q(s * q(p * w)));
    let whole = f32(n);
    return q(q(whole * 0.6933594) + q(q(whole * -2.1219444e-4) + series));
}

fn sigmoid(x: f32) -> f32 {
    let negated = bitcast<f32>(bitcast<u32>(x) ^ 0x80000000u);
    let low = select(negated, -64.0, negated < -64.0);
    let clamped = select(low, 64.0, low > 64.0);
    return recip(q(1.0 + canon_exp(clamped)));
}

fn silu(x: f32) -> f32 {
    return mul(x, sigmoid(x));
}

fn canon_sqrt(x: f32) -> f32 {
    return mul(x, rsqrt(x));
}

fn micro(loss: f32) -> i32 {
    let scaled = q(mul(loss, 1000000.0) + 0.5);
    return select(i32(floor(scaled)), 1i << 30u, scaled >= 1073741824.0);
}

// --- What this kernel's values did, gathered privately and reported once.

var<private> out_of_range: bool = false;

fn check(x: f32) -> f32 {
    out_of_range = out_of_range || exceeds(x);
    return x;
}

// `bf` of a checked value.
fn narrow(x: f32) -> f32 {
    return bf(check(x));
}

fn report(flag: u32) {
    if out_of_range {
        atomicOr(&flags[flag], 1u);
    }
}

// --- bfloat16 values lie two to a word, the first in the low half; every row is padded with zeros to 16 bytes.

fn low_half(word: u32) -> f32 {
    return bitcast<f32>(word << 16u);
}

fn high_half(word: u32) -> f32 {
    return bitcast<f32>(word & 0xffff0000u);
}

// Two values that are bfloat16 already.
fn pack(first: f32, second: f32) -> u32 {
    return (bitcast<u32>(first) >> 16u) | (bitcast<u32>(second) & 0xffff0000u);
}

// --- Workgroups are counted in one dimension; a grid wider than 65535 is folded into two.

fn place(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
