//! The innermost loops of matrix products: a few rows by one or two vectors of 16 columns, all of whose accumulators stay
//! in registers for the whole depth.
//!
//! Every tile does the same: `acc = start; for k ascending: acc = acc + left[k] * right[k]`. They differ in how many
//! rows fit the registers and in how a pair of depths is multiplied.

use super::gemm::{Depth, Start};
use super::isa::Isa;
use super::memory::LANES;

/// Most rows of any tile.
pub(crate) const HEIGHT_MAX: usize = 8;

/// Pairs of depths that are taken apart at a time where products work on singles.
pub(crate) const UNPACKED_PAIRS: usize = 256;

/// Rows of an instruction set's tile: as many as keep its multipliers busy and its registers from spilling.
pub(crate) const fn height(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Bf16 | Isa::Avx512 => 8,
        Isa::Avx2 | Isa::Neon => 6,
        Isa::Scalar => 2,
    }
}

const _: () = assert!(height(Isa::Avx512) == HEIGHT_MAX, "the tallest tile");

/// Where an operand's words lie: distances between rows (or panels), blocks of depth and pairs of depth, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) words: *const u32,
    pub(crate) row: usize,
    pub(crate) block: usize,
    pub(crate) pair: usize,
}

impl Default for Source {
    fn default() -> Self {
        Self { words: std::ptr::null(), row: 0, block: 0, pair: 0 }
    }
}

/// A distance in words. Release builds check overflow; these loops cannot afford it, and [`super::gemm::product`] saw that
/// the farthest word lies inside its operand.
#[inline(always)]
fn times(count: usize, distance: usize) -> usize {
    count.wrapping_mul(distance)
}

/// One tile's operands and output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Read by bfloat16 products.
    pub(crate) left: Source,
    /// Read by all others: `[depth][row of the tile]`.
    pub(crate) unpacked: *const f32,
    pub(crate) right: Source,
    pub(crate) depth: Depth,
    pub(crate) start: Start,
    pub(crate) out: *mut f32,
    /// Distance of the output's rows.
    pub(crate) stride: usize,
}

/// Computes a tile of `rows` rows and `panels` vectors, 1 or 2.
///
/// # Safety
/// The machine has `isa`; `rows` is at most its height; all words the job speaks of can be read, and its output written.
pub(crate) unsafe fn run(isa: Isa, job: &Job, rows: usize, panels: usize) {
    macro_rules! choose {
        ($module:ident :: $function:ident, $($rows:literal)*) => {
            match (rows, panels) {
                $(
                    // SAFETY: the caller's promise.
                    ($rows, 1) => unsafe { $module::$function::<$rows, 1>(job) },
                    // SAFETY: the caller's promise.
                    ($rows, 2) => unsafe { $module::$function::<$rows, 2>(job) },
                )*
                _ => unreachable!("a tile has no {rows} rows of {panels} vectors"),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => choose!(x86::avx512_bf16, 1 2 3 4 5 6 7 8),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => choose!(x86::avx512, 1 2 3 4 5 6 7 8),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => choose!(x86::avx2, 1 2 3 4 5 6),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => choose!(arm::neon, 1 2 3 4 5 6),
        _ => choose!(plain::scalar, 1 2),
    }
}

mod plain {
    use super::{Isa, Job, LANES, Start, height, times};

    /// # Safety
    /// As [`super::run`].
    pub(super) unsafe fn scalar<const ROWS: usize, const PANELS: usize>(job: &Job) {
        let mut acc = [[[0.0_f32; LANES]; PANELS]; ROWS];
        // SAFETY: the caller's promise: every address below is an operand's word or the output's.
        unsafe {
            if job.start == Start::Output {
                for (row, acc) in acc.iter_mut().enumerate() {
                    acc.as_flattened_mut().as_mut_ptr().copy_from(job.out.add(times(row, job.stride)), PANELS * LANES);
                }
            }
            let mut left = job.unpacked;
            for block in 0..job.depth.blocks {
                let mut right = job.right.words.add(times(block, job.right.block));
                for _ in 0..job.depth.pairs {
                    for panel in 0..PANELS {
                        let words = &*right.add(times(panel, job.right.row)).cast::<[u32; LANES]>();
                        for (row, acc) in acc.iter_mut().enumerate() {
                            let (earlier, later) = (*left.add(row), *left.add(height(Isa::Scalar) + row));
                            for (acc, word) in acc[panel].iter_mut().zip(words) {
                                *acc += earlier * f32::from_bits(word & 0xffff_0000);
                                *acc += later * f32::from_bits(word << 16);
                            }
                        }
                    }
                    (left, right) = (left.add(2 * height(Isa::Scalar)), right.add(LANES));
                }
            }
            for (row, acc) in acc.iter().enumerate() {
                job.out.add(times(row, job.stride)).copy_from(acc.as_flattened().as_ptr(), PANELS * LANES);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, __m512bh, __m512i, _mm256_and_ps, _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
        _mm512_and_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
        _mm512_storeu_ps,
    };

    use super::{Isa, Job, LANES, Start, height, times};

    /// # Safety
    /// As [`super::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn avx512_bf16<const ROWS: usize, const PANELS: usize>(job: &Job) {
        // SAFETY: the caller's promise: every address below is an operand's word or the output's.
        unsafe {
            let mut acc = load512::<ROWS, PANELS>(job);
            for block in 0..job.depth.blocks {
                let mut left = job.left.words.add(times(block, job.left.block));
                let mut right = job.right.words.add(times(block, job.right.block));
                for _ in 0..job.depth.pairs {
                    let mut columns = [_mm512_setzero_si512(); PANELS];
                    for (panel, columns) in columns.iter_mut().enumerate() {
                        *columns = _mm512_loadu_si512(right.add(times(panel, job.right.row)).cast());
                    }
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let factor = _mm512_set1_epi32(left.add(times(row, job.left.row)).read().cast_signed());
                        for (acc, columns) in acc.iter_mut().zip(columns) {
                            *acc = _mm512_dpbf16_ps(*acc, pairs(factor), pairs(columns));
                        }
                    }
                    (left, right) = (left.add(job.left.pair), right.add(LANES));
                }
            }
            store512(job, &acc);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(words: __m512i) -> __m512bh {
        // SAFETY: both are 64 plain bytes.
        unsafe { std::mem::transmute(words) }
    }

    /// # Safety
    /// As [`super::run`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn avx512<const ROWS: usize, const PANELS: usize>(job: &Job) {
        // SAFETY: the caller's promise: every address below is an operand's word or the output's.
        unsafe {
            let mut acc = load512::<ROWS, PANELS>(job);
            let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            let mut left = job.unpacked;
            for block in 0..job.depth.blocks {
                let mut right = job.right.words.add(times(block, job.right.block));
                for _ in 0..job.depth.pairs {
                    let (mut earlier, mut later) = ([_mm512_setzero_ps(); PANELS], [_mm512_setzero_ps(); PANELS]);
                    for panel in 0..PANELS {
                        let words = _mm512_loadu_si512(right.add(times(panel, job.right.row)).cast());
                        earlier[panel] = _mm512_castsi512_ps(_mm512_and_si512(words, upper));
                        later[panel] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
                    }
                    for (depth, columns) in [earlier, later].into_iter().enumerate() {
                        for (row, acc) in acc.iter_mut().enumerate() {
                            let factor = _mm512_set1_ps(*left.add(depth * height(Isa::Avx512) + row));
                            for (acc, columns) in acc.iter_mut().zip(columns) {
                                *acc = _mm512_fmadd_ps(factor, columns, *acc);
                            }
                        }
                    }
                    (left, right) = (left.add(2 * height(Isa::Avx512)), right.add(LANES));
                }
            }
            store512(job, &acc);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load512<const ROWS: usize, const PANELS: usize>(job: &Job) -> [[__m512; PANELS]; ROWS] {
        let mut acc = [[_mm512_setzero_ps(); PANELS]; ROWS];
        if job.start == Start::Output {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller's promise about the output.
                    *acc = unsafe { _mm512_loadu_ps(job.out.add(times(row, job.stride)).add(times(panel, LANES))) };
                }
            }
        }
        acc
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store512<const ROWS: usize, const PANELS: usize>(job: &Job, acc: &[[__m512; PANELS]; ROWS]) {
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                // SAFETY: the caller's promise about the output.
                unsafe { _mm512_storeu_ps(job.out.add(times(row, job.stride)).add(times(panel, LANES)), *acc) };
            }
        }
    }

    /// Sixteen registers hold six rows of one panel; the second panel is a second pass.
    ///
    /// # Safety
    /// As [`super::run`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<const ROWS: usize, const PANELS: usize>(job: &Job) {
        for panel in 0..PANELS {
            // SAFETY: the caller's promise: the panel's words and columns are the job's.
            unsafe { avx2_panel::<ROWS>(job, panel) };
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_panel<const ROWS: usize>(job: &Job, panel: usize) {
        const HALF: usize = LANES / 2;
        // SAFETY: the caller's promise: every address below is an operand's word or the output's.
        unsafe {
            let out = job.out.add(panel * LANES);
            let mut acc = [[_mm256_setzero_ps(); 2]; ROWS];
            if job.start == Start::Output {
                for (row, acc) in acc.iter_mut().enumerate() {
                    let out = out.add(times(row, job.stride));
                    *acc = [_mm256_loadu_ps(out), _mm256_loadu_ps(out.add(HALF))];
                }
            }
            let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            let mut left = job.unpacked;
            for block in 0..job.depth.blocks {
                let mut right = job.right.words.add(times(panel, job.right.row)).add(times(block, job.right.block));
                for _ in 0..job.depth.pairs {
                    let words = right.cast::<f32>();
                    let earlier = [
                        _mm256_and_ps(upper, _mm256_loadu_ps(words)),
                        _mm256_and_ps(upper, _mm256_loadu_ps(words.add(HALF))),
                    ];
                    chain256(&mut acc, left, earlier);
                    let later = [
                        _mm256_slli_epi32::<16>(_mm256_loadu_si256(right.cast())),
                        _mm256_slli_epi32::<16>(_mm256_loadu_si256(right.add(HALF).cast())),
                    ];
                    chain256(&mut acc, left.add(height(Isa::Avx2)), later.map(|half| _mm256_castsi256_ps(half)));
                    (left, right) = (left.add(2 * height(Isa::Avx2)), right.add(LANES));
                }
            }
            for (row, acc) in acc.iter().enumerate() {
                let out = out.add(times(row, job.stride));
                _mm256_storeu_ps(out, acc[0]);
                _mm256_storeu_ps(out.add(HALF), acc[1]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn chain256<const ROWS: usize>(acc: &mut [[__m256; 2]; ROWS], left: *const f32, columns: [__m256; 2]) {
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the left operand has every row of the tile.
            let factor = unsafe { _mm256_broadcast_ss(&*left.add(row)) };
            for (acc, columns) in acc.iter_mut().zip(columns) {
                *acc = _mm256_fmadd_ps(factor, columns, *acc);
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{
        float32x4_t, vandq_u32, vdupq_n_f32, vdupq_n_u32, vfmaq_n_f32, vld1q_f32, vld1q_u32, vreinterpretq_f32_u32,
        vshlq_n_u32, vst1q_f32,
    };

    use super::{Isa, Job, LANES, Start, height, times};

    const QUARTERS: usize = 4;

    /// Six rows of one panel fill 24 of 32 registers; the second panel is a second pass.
    ///
    /// # Safety
    /// As [`super::run`].
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn neon<const ROWS: usize, const PANELS: usize>(job: &Job) {
        for panel in 0..PANELS {
            // SAFETY: the caller's promise: the panel's words and columns are the job's.
            unsafe { neon_panel::<ROWS>(job, panel) };
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn neon_panel<const ROWS: usize>(job: &Job, panel: usize) {
        // SAFETY: the caller's promise: every address below is an operand's word or the output's.
        unsafe {
            let out = job.out.add(panel * LANES);
            let mut acc = [[vdupq_n_f32(0.0); QUARTERS]; ROWS];
            if job.start == Start::Output {
                for (row, acc) in acc.iter_mut().enumerate() {
                    for (quarter, acc) in acc.iter_mut().enumerate() {
                        *acc = vld1q_f32(out.add(times(row, job.stride)).add(4 * quarter));
                    }
                }
            }
            let upper = vdupq_n_u32(0xffff_0000);
            let mut left = job.unpacked;
            for block in 0..job.depth.blocks {
                let mut right = job.right.words.add(times(panel, job.right.row)).add(times(block, job.right.block));
                for _ in 0..job.depth.pairs {
                    let mut words = [vdupq_n_u32(0); QUARTERS];
                    for (quarter, words) in words.iter_mut().enumerate() {
                        *words = vld1q_u32(right.add(4 * quarter));
                    }
                    chain(&mut acc, left, words.map(|words| vreinterpretq_f32_u32(vandq_u32(words, upper))));
                    let later = words.map(|words| vreinterpretq_f32_u32(vshlq_n_u32::<16>(words)));
                    chain(&mut acc, left.add(height(Isa::Neon)), later);
                    (left, right) = (left.add(2 * height(Isa::Neon)), right.add(LANES));
                }
            }
            for (row, acc) in acc.iter().enumerate() {
                for (quarter, acc) in acc.iter().enumerate() {
                    vst1q_f32(out.add(times(row, job.stride)).add(4 * quarter), *acc);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn chain<const ROWS: usize>(
        acc: &mut [[float32x4_t; QUARTERS]; ROWS],
        left: *const f32,
        columns: [float32x4_t; QUARTERS],
    ) {
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the left operand has every row of the tile.
            let factor = unsafe { *left.add(row) };
            for (acc, columns) in acc.iter_mut().zip(columns) {
                *acc = vfmaq_n_f32(*acc, columns, factor);
            }
        }
    }
}
