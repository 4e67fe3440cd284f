//! The WGSL twin of the canonical arithmetic, function by function, on every software driver.
#![cfg(feature = "gpu")]

mod gpu_support;

use gpu_support::on_every_driver;
use neuroshard_shaders::canon;
use neuroshard_shaders::gpu::Probe;

/// A function of the arithmetic in both languages, and the bits of an argument to try.
struct Twin {
    name: &'static str,
    /// WGSL, from the single `x` to a single.
    wgsl: &'static str,
    rust: fn(f32) -> f32,
    argument: fn(u32) -> f32,
}

fn mixed(i: u32) -> u32 {
    i.wrapping_mul(2_654_435_761)
}

/// Any normal single with an exponent in -100..=100, of either sign.
fn normal(i: u32) -> f32 {
    let exponent = 27 + (mixed(i) >> 8) % 201;
    f32::from_bits((mixed(i) & 0x8000_0000) | (exponent << 23) | (i.wrapping_mul(40_503) & 0x7f_ffff))
}

fn positive(i: u32) -> f32 {
    normal(i).abs()
}

/// Evenly in -80..=64.
fn exponent(i: u32) -> f32 {
    (mixed(i) as f32 / u32::MAX as f32).mul_add(144.0, -80.0)
}

/// Every bfloat16 with the low halves that decide ties.
fn pattern(i: u32) -> f32 {
    f32::from_bits((i << 16) | [0x0000, 0x8000, 0x7fff, 0x8001][(i >> 14) as usize % 4])
}

fn truth(x: bool) -> f32 {
    if x { 1.0 } else { 0.0 }
}

const TWINS: [Twin; 14] = [
    Twin { name: "z", wgsl: "z(x)", rust: canon::z, argument: pattern },
    Twin { name: "mul", wgsl: "mul(x, 0.37)", rust: |x| canon::mul(x, 0.37), argument: normal },
    Twin { name: "bf", wgsl: "bf(x)", rust: canon::bf, argument: pattern },
    Twin {
        name: "exceeds",
        wgsl: "select(0.0, 1.0, exceeds(x))",
        rust: |x| truth(canon::exceeds(x)),
        argument: pattern,
    },
    Twin {
        name: "exceeds_norm",
        wgsl: "select(0.0, 1.0, exceeds_norm(x))",
        rust: |x| truth(canon::exceeds_norm(x)),
        argument: pattern,
    },
    Twin {
        name: "key",
        wgsl: "bitcast<f32>(key(x))",
        rust: |x| f32::from_bits(canon::key(x) as u32),
        argument: normal,
    },
    Twin { name: "max", wgsl: "canon_max(x, -0.5)", rust: |x| canon::max(x, -0.5), argument: normal },
    Twin { name: "recip", wgsl: "recip(x)", rust: canon::recip, argument: positive },
    Twin { name: "rsqrt", wgsl: "rsqrt(x)", rust: canon::rsqrt, argument: positive },
    Twin { name: "exp", wgsl: "canon_exp(x)", rust: canon::exp, argument: exponent },
    Twin { name: "log", wgsl: "canon_log(x)", rust: canon::log, argument: positive },
    Twin { name: "sigmoid", wgsl: "sigmoid(x)", rust: canon::sigmoid, argument: exponent },
    Twin { name: "silu", wgsl: "silu(x)", rust: canon::silu, argument: exponent },
    Twin {
        name: "micro",
        wgsl: "bitcast<f32>(micro(abs(x)))",
        rust: |x| f32::from_bits(canon::micro(x.abs()) as u32),
        argument: exponent,
    },
];

#[test]
fn both_texts_of_the_arithmetic_give_the_same_bits() {
    on_every_driver("both_texts_of_the_arithmetic_give_the_same_bits", |adapter| {
        for twin in TWINS {
            let arguments: Vec<f32> = (0..65_536).map(twin.argument).collect();
            let got = Probe::run(adapter, twin.wgsl, &arguments).unwrap_or_else(|fault| panic!("{fault}"));
            let differing: Vec<String> = arguments
                .iter()
                .zip(&got)
                .filter(|(x, y)| (twin.rust)(**x).to_bits() != y.to_bits())
                .map(|(x, y)| format!("{x:e} ({:#010x}) gives {y:e} and not {:e}", x.to_bits(), (twin.rust)(*x)))
                .collect();
            assert!(differing.is_empty(), "{}: {} differ, first: {}", twin.name, differing.len(), differing[0]);
        }
    });
}
