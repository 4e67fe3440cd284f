//! The arithmetic that agrees on every machine (ARCHITECTURE §4), one element at a time.
//!
//! `wgsl/canon.wgsl` defines the same functions with the same names in the same order of operations; a test holds the
//! two texts' constants together and another runs both. Nothing here uses division, square roots or any function of the
//! platform's mathematics library.
//!
//! The words `bf`, `z`, `mul`, `chain` and `tree` are defined in [`neuroshard_proto::ops`].

#![allow(clippy::inline_always, reason = "these bodies are inlined into kernels compiled for wider vectors")]

/// Largest magnitude of checked values; above it a batch is void.
pub const LIMIT: f32 = f32::from_bits(LIMIT_BITS);
/// 2^50.
const LIMIT_BITS: u32 = (127 + 50) << 23;
/// 2^40: the bound on what enters a norm.
const NORM_LIMIT_BITS: u32 = (127 + 40) << 23;
/// 2^-100: below it, values are zero.
const TINY_BITS: u32 = (127 - 100) << 23;
/// 2^-52: below it, matrix operands are zero.
const OPERAND_TINY_BITS: u32 = (127 - 52) << 23;
const MAGNITUDE: u32 = 0x7fff_ffff;

/// Width of a reduction tree.
pub const TREE: usize = 256;

/// The shield: a product that went through it is not fused with the sum it feeds. The compiler of this crate never fuses
/// on its own, so here it only marks the places; in WGSL it is an exclusive-or with a zero that no compiler knows.
#[inline(always)]
pub fn q(x: f32) -> f32 {
    x
}

/// `x`, or `+0` if its magnitude is below 2^-100.
#[inline(always)]
pub fn z(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & MAGNITUDE < TINY_BITS { 0 } else { bits })
}

/// A product as an element-wise result.
#[inline(always)]
pub fn mul(a: f32, b: f32) -> f32 {
    z(q(a * b))
}

/// Whether a value is out of its range, or not a number.
#[inline(always)]
pub fn exceeds(x: f32) -> bool {
    x.to_bits() & MAGNITUDE > LIMIT_BITS
}

/// Whether a value is too large to enter a norm, or not a number.
#[inline(always)]
pub fn exceeds_norm(x: f32) -> bool {
    x.to_bits() & MAGNITUDE > NORM_LIMIT_BITS
}

/// Rounds to bfloat16, nearest, ties to even, and flushes small magnitudes; the result is the single with that value. The
/// caller checks [`exceeds`].
#[inline(always)]
pub fn bf(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1) & 0xffff_0000;
    f32::from_bits(if bits & MAGNITUDE < OPERAND_TINY_BITS { 0 } else { rounded })
}

/// An integer that orders as the floats do.
#[inline(always)]
pub fn key(x: f32) -> i32 {
    let bits = x.to_bits().cast_signed();
    bits ^ ((bits >> 31) & 0x7fff_ffff)
}

/// The larger of two numbers, compared as integers.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if key(a) < key(b) { b } else { a }
}

/// `1 / x` for `x` in `[2^-100, 2^100]`, to 0.9 units of 2^-23.
#[inline(always)]
pub fn recip(x: f32) -> f32 {
    let mut y = f32::from_bits(0x7ef3_11c3_u32.wrapping_sub(x.to_bits()));
    for _ in 0..3 {
        let e = 1.0 - q(x * y);
        y += q(y * e);
    }
    y
}

/// `1 / sqrt(x)` for `x` in `[2^-100, 2^100]`, to 1 unit of 2^-23; 0 for 0.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    let h = q(0.5 * x);
    let mut y = f32::from_bits(0x5f37_5a86_u32.wrapping_sub(x.to_bits() >> 1));
    for _ in 0..3 {
        let t = q(y * y);
        let e = 0.5 - q(h * t);
        y += q(y * e);
    }
    if x.to_bits() == 0 { 0.0 } else { y }
}

/// `e^x` for `x <= 64`, to 0.7 units of 2^-23; `+0` below -69.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r; adding 1.5 * 2^23 leaves n in the low bits.
    let shifted = q(x * std::f32::consts::LOG2_E) + 12_582_912.0;
    let n = shifted.to_bits().wrapping_sub(0x4b40_0000).cast_signed();
    let f = n as f32;
    let r = (x - q(f * 0.693_359_4)) - q(f * -2.121_944_4e-4);
    let mut p = 1.987_569_1e-4;
    p = q(p * r) + 1.398_2e-3;
    p = q(p * r) + 8.333_452e-3;
    p = q(p * r) + 4.166_579_6e-2;
    p = q(p * r) + 1.666_666_5e-1;
    p = q(p * r) + 0.5;
    let s = q(r * r);
    let y = 1.0 + (r + q(p * s));
    let scaled = f32::from_bits(y.to_bits().wrapping_add(n.cast_unsigned() << 23));
    if x < -69.0 { 0.0 } else { scaled }
}

/// The natural logarithm of a positive normal number, to 1 unit of 2^-23 or 2^-23 absolute.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    // x = 2^n m with m in [sqrt 1/2, sqrt 2); log m = 2 artanh((m - 1) / (m + 1)).
    let n = x.to_bits().wrapping_sub(0x3f35_04f3).cast_signed() >> 23;
    let m = f32::from_bits(x.to_bits().wrapping_sub(n.cast_unsigned() << 23));
    let f = m - 1.0;
    let s = q(f * recip(2.0 + f));
    let w = q(s * s);
    let mut p = 0.222_222_22;
    p = q(p * w) + 0.285_714_3;
    p = q(p * w) + 0.4;
    p = q(p * w) + 0.666_666_7;
    let series = (s + s) + q(s * q(p * w));
    let whole = n as f32;
    q(whole * 0.693_359_4) + (q(whole * -2.121_944_4e-4) + series)
}

/// `1 / (1 + e^-x)`, the argument clamped to 64 in magnitude.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let negated = f32::from_bits(x.to_bits() ^ 0x8000_0000);
    let low = if negated < -64.0 { -64.0 } else { negated };
    let clamped = if low > 64.0 { 64.0 } else { low };
    recip(1.0 + exp(clamped))
}

/// `x sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    mul(x, sigmoid(x))
}

/// The square root, 0 for 0.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    mul(x, rsqrt(x))
}

/// A loss in whole micro-nats, rounded half up, at most 2^30.
#[inline(always)]
pub fn micro(loss: f32) -> i32 {
    let scaled = mul(loss, 1_000_000.0) + 0.5;
    if scaled >= 1_073_741_824.0 { 1 << 30 } else { scaled.floor() as i32 }
}

/// Sums one block of at most 256 values in place by halving.
#[inline(always)]
pub fn tree_block(block: &mut [f32; TREE]) -> f32 {
    let mut width = TREE / 2;
    while width > 0 {
        for i in 0..width {
            block[i] += block[i + width];
        }
        width /= 2;
    }
    block[0]
}

/// The sum of `count` values in the fixed order: blocks of 256 by halving, then one after the other.
pub fn tree(count: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut total = 0.0;
    let mut first = 0;
    while first < count {
        let mut block = [0.0; TREE];
        for (i, slot) in block.iter_mut().enumerate().take(count - first) {
            *slot = value(first + i);
        }
        total += tree_block(&mut block);
        first += TREE;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal numbers over the whole range in which the functions promise anything.
    fn samples() -> impl Iterator<Item = f32> {
        (0..2_000_000_u32).map(|i| {
            let mixed = i.wrapping_mul(2_654_435_761);
            let exponent = 27 + (mixed >> 8) % 200;
            f32::from_bits((exponent << 23) | (mixed.wrapping_mul(40_503) & 0x7f_ffff))
        })
    }

    fn worst(values: impl Iterator<Item = (f32, f64)>) -> f64 {
        values.map(|(got, want)| ((f64::from(got) - want) / want).abs() * f64::from(1 << 23)).fold(0.0, f64::max)
    }

    #[test]
    fn reciprocals_and_roots_keep_their_ceilings() {
        let recip_error = worst(samples().map(|x| (recip(x), 1.0 / f64::from(x))));
        let rsqrt_error = worst(samples().map(|x| (rsqrt(x), 1.0 / f64::from(x).sqrt())));
        assert!(recip_error <= 0.9, "{recip_error}");
        assert!(rsqrt_error <= 1.0, "{rsqrt_error}");
        assert_eq!((rsqrt(0.0), sqrt(0.0)), (0.0, 0.0));
    }

    #[test]
    fn exponentials_and_logarithms_keep_their_ceilings() {
        let arguments = (-690_000..640_000).map(|i| i as f32 * 1e-4);
        let exp_error = worst(arguments.clone().map(|x| (exp(x), f64::from(x).exp())));
        let sigmoid_error = worst(arguments.map(|x| (sigmoid(x), 1.0 / (1.0 + (-f64::from(x.max(-64.0))).exp()))));
        assert!(exp_error <= 0.7, "{exp_error}");
        assert!(sigmoid_error <= 1.9, "{sigmoid_error}");
        assert_eq!(exp(-69.1), 0.0);
        let log_error = samples()
            .map(|x| {
                let want = f64::from(x).ln();
                (f64::from(log(x)) - want).abs() / want.abs().max(1.0) * f64::from(1 << 23)
            })
            .fold(0.0, f64::max);
        assert!(log_error <= 1.0, "{log_error}");
        assert_eq!(log(1.0), 0.0);
    }

    #[test]
    fn narrowing_is_exact_for_every_bfloat16_and_rounds_the_rest_to_even() {
        for high in 0..=u16::MAX {
            let x = f32::from_bits(u32::from(high) << 16);
            if x.is_finite() && x.abs() >= 2f32.powi(-52) {
                assert_eq!(bf(x).to_bits(), x.to_bits());
                let half = f32::from_bits(x.to_bits() | 0x8000);
                assert_eq!((bf(half).to_bits() >> 16) & 1, 0, "ties go to even");
            }
        }
        assert_eq!(bf(-2f32.powi(-53)).to_bits(), 0);
        assert!(exceeds(f32::NAN) && exceeds(f32::NEG_INFINITY) && exceeds(2f32.powi(51)) && !exceeds(LIMIT));
    }

    #[test]
    fn tiny_results_become_positive_zero() {
        assert_eq!(z(-0.0).to_bits(), 0);
        assert_eq!(z(-2f32.powi(-101)).to_bits(), 0);
        assert_eq!(z(2f32.powi(-100)), 2f32.powi(-100));
        assert_eq!(mul(2f32.powi(-60), -2f32.powi(-60)).to_bits(), 0);
    }

    #[test]
    fn keys_order_as_numbers_do() {
        let ordered = [f32::MIN, -1.0, -2f32.powi(-100), 0.0, 2f32.powi(-100), 1.0, f32::MAX];
        assert!(ordered.windows(2).all(|pair| key(pair[0]) < key(pair[1]) && max(pair[0], pair[1]) == pair[1]));
    }

    #[test]
    fn the_tree_adds_in_its_fixed_order() {
        // 2^24 + 1 is not a single: the order decides whether the ones survive.
        let values = |i: usize| if i == 0 { 16_777_216.0 } else { 1.0 };
        assert_eq!(tree(256, values), 16_777_470.0);
        assert_eq!(tree(257, values), 16_777_472.0);
        assert_eq!(tree(3, |i| [1.0, 2.0, 4.0][i]), 7.0);
        assert_eq!(tree(0, |_| 1.0), 0.0);
    }

    #[test]
    fn losses_round_to_whole_micro_nats() {
        assert_eq!(micro(5.583_496), 5_583_496);
        assert_eq!(micro(0.0), 0);
        assert_eq!(micro(1e9), 1 << 30);
    }
}
