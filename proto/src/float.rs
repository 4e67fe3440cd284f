//! Single-precision numbers as bits. Floats never appear in the core; what kernels need as a constant is computed here
//! with integers, correctly rounded, and travels as the 32 bits of an IEEE 754 single.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// The bits of an IEEE 754 binary32. Compared and hashed as bits, so `-0` is not `+0` here.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct F32(u32);

/// Significand bits of a binary32, the hidden one included.
const SIGNIFICAND_BITS: u32 = 24;
const EXPONENT_BIAS: i32 = 127;

impl F32 {
    pub const ZERO: Self = Self(0);
    pub const ONE: Self = Self(0x3f80_0000);

    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// `numerator / denominator`, rounded to nearest, ties to even; below the smallest normal number it is 0.
    ///
    /// # Panics
    /// If the denominator is 0 or needs more than 100 bits, or the quotient overflows: constants of the protocol do not.
    pub fn from_ratio(numerator: u128, denominator: u128) -> Self {
        assert!(denominator != 0, "a ratio has a denominator");
        assert!(denominator.leading_zeros() >= 28, "a denominator of at most 100 bits");
        if numerator == 0 {
            return Self::ZERO;
        }
        // Shift so that the integer quotient has 26 or 27 bits: 24 that stay, at least two that decide the rounding.
        let bits = |x: u128| i32::try_from(128_u32.saturating_sub(x.leading_zeros())).unwrap_or_default();
        let shift = 26_i32.saturating_sub(bits(numerator)).saturating_add(bits(denominator));
        let (n, d) = if shift >= 0 {
            (numerator.checked_shl(shift.unsigned_abs()), Some(denominator))
        } else {
            (Some(numerator), denominator.checked_shl(shift.unsigned_abs()))
        };
        let (n, d) = (n.unwrap_or_default(), d.unwrap_or(1));
        let sticky = u128::from(n.checked_rem(d) != Some(0));
        let quotient = n.checked_div(d).unwrap_or_default();
        Self::round(false, (quotient << 1_u32) | sticky, shift.saturating_add(1))
    }

    /// `value * 2^-fraction_bits`, rounded to nearest, ties to even; below the smallest normal number it is 0.
    ///
    /// # Panics
    /// If the result overflows.
    pub fn from_fixed(value: i128, fraction_bits: u32) -> Self {
        Self::round(value < 0, value.unsigned_abs(), i32::try_from(fraction_bits).unwrap_or(i32::MAX))
    }

    /// `magnitude * 2^-fraction_bits` with a sign, rounded to nearest, ties to even.
    fn round(negative: bool, magnitude: u128, fraction_bits: i32) -> Self {
        if magnitude == 0 {
            return Self::ZERO;
        }
        let len = 128_u32.saturating_sub(magnitude.leading_zeros());
        let drop = len.saturating_sub(SIGNIFICAND_BITS);
        let kept = magnitude.checked_shr(drop).unwrap_or_default();
        let half = if drop == 0 { 0 } else { 1_u128 << drop.saturating_sub(1) };
        let rest = magnitude.saturating_sub(kept << drop);
        let up = drop > 0 && (rest > half || (rest == half && kept & 1 == 1));
        let rounded = kept.saturating_add(u128::from(up));
        // With fewer than 24 bits the number is exact and is shifted up; a carry out of 24 bits moves the exponent.
        let lift = SIGNIFICAND_BITS.saturating_sub(len);
        let significand = u32::try_from(rounded << lift).unwrap_or_default();
        let carry = significand >> SIGNIFICAND_BITS;
        let significand = significand.checked_shr(carry).unwrap_or_default();
        let exponent = i32::try_from(len)
            .unwrap_or_default()
            .saturating_sub(1)
            .saturating_add(i32::try_from(carry).unwrap_or_default())
            .saturating_sub(fraction_bits);
        let biased = exponent.saturating_add(EXPONENT_BIAS);
        if biased <= 0 {
            return Self::ZERO;
        }
        assert!(biased < 255, "a protocol constant fits in single precision");
        let sign = u32::from(negative) << 31;
        Self(sign | (u32::try_from(biased).unwrap_or_default() << 23) | (significand & 0x007f_ffff))
    }

    /// This number rounded to bfloat16 (nearest, ties to even), as the upper 16 bits.
    ///
    /// # Panics
    /// If the number is infinite or not a number.
    pub fn to_bf16(self) -> u16 {
        assert!(self.0 & 0x7f80_0000 != 0x7f80_0000, "a finite number");
        let odd = (self.0 >> 16) & 1;
        let rounded = self.0.wrapping_add(0x7fff).wrapping_add(odd) >> 16;
        u16::try_from(rounded).unwrap_or_default()
    }
}

impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F32({:#010x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state ^ (*state >> 29)
    }

    #[test]
    fn ratios_of_exact_floats_round_as_the_hardware_divides() {
        let mut state = 7;
        for _ in 0..200_000 {
            // Both fit in 24 bits, so the hardware's single division is the correctly rounded quotient.
            let n = (random(&mut state) & 0xff_ffff) + 1;
            let d = (random(&mut state) & 0xff_ffff) + 1;
            let want = (n as f32 / d as f32).to_bits();
            assert_eq!(F32::from_ratio(u128::from(n), u128::from(d)).to_bits(), want, "{n}/{d}");
        }
    }

    #[test]
    fn fixed_point_rounds_as_the_hardware_converts() {
        let mut state = 11;
        for _ in 0..200_000 {
            let value = (random(&mut state) as i64) >> (random(&mut state) % 63);
            let want = (value as f32 * 2f32.powi(-44)).to_bits();
            assert_eq!(F32::from_fixed(i128::from(value), 44).to_bits(), want, "{value}");
        }
        assert_eq!(F32::from_fixed(0, 3), F32::ZERO);
        assert_eq!(F32::from_fixed(1, 0), F32::ONE);
        assert_eq!(F32::from_fixed((1 << 25) - 1, 25), F32::ONE, "a carry out of the significand");
    }

    #[test]
    fn narrowing_rounds_half_to_even() {
        assert_eq!(F32::from_bits(0x3f80_8000).to_bf16(), 0x3f80);
        assert_eq!(F32::from_bits(0x3f81_8000).to_bf16(), 0x3f82);
        assert_eq!(F32::from_bits(0x3f80_8001).to_bf16(), 0x3f81);
    }
}
