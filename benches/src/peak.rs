//! What a core can do at most: loops of nothing but multiply-adds.

use std::hint::black_box;

use crate::cpu_seconds;

/// A loop and its rate.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    pub name: &'static str,
    /// 10^9 floating-point operations per CPU-second; a multiply-add is two.
    pub gflops: f64,
}

/// Turns of a loop: about a tenth of a second.
const TURNS: u32 = 10_000_000;

fn rate(name: &'static str, operations: f64, run: impl Fn()) -> Peak {
    let once = || {
        let start = cpu_seconds();
        run();
        operations * f64::from(TURNS) / (cpu_seconds() - start) * 1e-9
    };
    Peak { name, gflops: (0..3).map(|_| once()).fold(0.0, f64::max) }
}

/// Single-precision fused multiply-adds of the widest vectors, and products of bfloat16 pairs where there are any.
pub fn peaks() -> Vec<Peak> {
    let mut peaks = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bf16") {
            peaks.push(rate("AVX-512 bfloat16 pairs", 12.0 * 64.0, || {
                // SAFETY: the machine has the instructions.
                unsafe { x86::pairs() }
            }));
        }
        if is_x86_feature_detected!("avx512f") {
            peaks.push(rate("AVX-512 f32", 12.0 * 32.0, || {
                // SAFETY: the machine has the instructions.
                unsafe { x86::fma512() }
            }));
        } else if is_x86_feature_detected!("fma") {
            peaks.push(rate("AVX2 f32", 12.0 * 16.0, || {
                // SAFETY: the machine has the instructions.
                unsafe { x86::fma256() }
            }));
        }
    }
    #[cfg(target_arch = "aarch64")]
    peaks.push(rate("NEON f32", 24.0 * 8.0, arm::fma));
    peaks
}

/// Twelve independent sums hide the latency of every multiply-add; more would not fit the registers of the narrow sets.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
        _mm512_set1_ps,
    };

    use super::{TURNS, black_box};

    macro_rules! sums {
        ($acc:ident, $zero:expr, $step:expr) => {{
            let mut sums = [$zero; 12];
            for _ in 0..TURNS {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = &mut sums;
                for $acc in [a, b, c, d, e, f, g, h, i, j, k, l] {
                    *$acc = $step;
                }
            }
            black_box(sums);
        }};
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn pairs() {
        // SAFETY: both are 64 plain bytes.
        let factor = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f00_3f00))) };
        sums!(acc, _mm512_set1_ps(0.0), _mm512_dpbf16_ps(*acc, factor, factor));
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fma512() {
        let factor = _mm512_set1_ps(black_box(0.5));
        sums!(acc, _mm512_set1_ps(0.0), _mm512_fmadd_ps(factor, factor, *acc));
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn fma256() {
        let factor = _mm256_set1_ps(black_box(0.5));
        sums!(acc, _mm256_set1_ps(0.0), _mm256_fmadd_ps(factor, factor, *acc));
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{vdupq_n_f32, vfmaq_f32};

    use super::{TURNS, black_box};

    pub(super) fn fma() {
        // SAFETY: 64-bit Arm has these instructions.
        unsafe {
            let factor = vdupq_n_f32(black_box(0.5));
            let mut sums = [vdupq_n_f32(0.0); 24];
            for _ in 0..TURNS {
                for sum in &mut sums {
                    *sum = vfmaq_f32(*sum, factor, factor);
                }
            }
            black_box(sums);
        }
    }
}
