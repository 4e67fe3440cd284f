//! Fixed-point functions for what must be the same number everywhere: rotary tables, learning rates, bias corrections.
//!
//! A [`Fixed`] has 60 fraction bits; angles are fractions of a turn in 64 bits, so reduction modulo a turn is the
//! wrap-around of an integer. Errors stay below 2^-50, far under half a unit of the single-precision results, and a test
//! holds every function against the hardware's `f64`.

use crate::float::F32;

/// Fraction bits of a [`Fixed`].
pub const FRACTION_BITS: u32 = 60;

const ONE: i128 = 1 << FRACTION_BITS;
/// ln 2 * 2^60.
const LN_2: i128 = 799_144_290_325_165_979;
/// 2 pi * 2^60.
const TAU: i128 = 7_244_019_458_077_122_842;
/// Terms of the Taylor series below: the next one is under 2^-62 for every argument they see.
const TERMS: i128 = 26;

/// A real number as an integer multiple of 2^-60. Products must stay below 128 in magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fixed(i128);

impl Fixed {
    pub const ZERO: Self = Self(0);
    pub const ONE: Self = Self(ONE);

    /// `numerator / denominator`, rounded toward zero.
    ///
    /// # Panics
    /// If the denominator is 0.
    pub fn from_ratio(numerator: u64, denominator: u64) -> Self {
        assert!(denominator != 0, "a ratio has a denominator");
        let scaled = i128::from(numerator) << FRACTION_BITS;
        Self(scaled.checked_div(i128::from(denominator)).unwrap_or_default())
    }

    pub const fn to_bits(self) -> i128 {
        self.0
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    #[must_use]
    pub fn times(self, other: Self) -> Self {
        let product = self.0.checked_mul(other.0);
        assert!(product.is_some(), "fixed-point products stay below 128");
        Self(product.unwrap_or_default() >> FRACTION_BITS)
    }

    /// `self` to a whole power, by squaring.
    #[must_use]
    pub fn power(self, mut exponent: u64) -> Self {
        let (mut base, mut result) = (self, Self::ONE);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result.times(base);
            }
            base = base.times(base);
            exponent >>= 1;
        }
        result
    }

    /// `2^self` for `self` in `(-60, 6)`; 0 below.
    #[must_use]
    pub fn exp2(self) -> Self {
        let whole = self.0 >> FRACTION_BITS;
        let fraction = Self(self.0.saturating_sub(whole << FRACTION_BITS));
        assert!(whole < 6, "2^x of at most 64");
        let exponent = fraction.times(Self(LN_2));
        let (mut term, mut sum) = (Self::ONE, Self::ONE);
        for n in 1..TERMS {
            term = Self(term.times(exponent).0.checked_div(n).unwrap_or_default());
            sum = sum.plus(term);
        }
        match u32::try_from(whole) {
            Ok(up) => Self(sum.0 << up),
            Err(_) => Self(sum.0.checked_shr(u32::try_from(whole.unsigned_abs()).unwrap_or(u32::MAX)).unwrap_or(0)),
        }
    }

    /// The binary logarithm of a whole number above 0.
    ///
    /// # Panics
    /// If the number is 0.
    pub fn log2(number: u64) -> Self {
        assert!(number != 0, "0 has no logarithm");
        let whole = number.ilog2();
        // The mantissa in [1, 2); squaring it doubles its logarithm, whose integer bit is the next bit of the answer.
        let mut mantissa = (i128::from(number) << FRACTION_BITS) >> whole;
        let mut bits = i128::from(whole);
        for _ in 0..FRACTION_BITS {
            mantissa = Self(mantissa).times(Self(mantissa)).0;
            let carry = i128::from(mantissa >= ONE << 1);
            mantissa >>= u32::from(carry == 1);
            bits = (bits << 1) | carry;
        }
        Self(bits)
    }

    pub fn to_f32(self) -> F32 {
        F32::from_fixed(self.0, FRACTION_BITS)
    }
}

/// An angle as a fraction of a turn: `turns / 2^64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Angle(pub u64);

impl Angle {
    /// Half a turn times `numerator / denominator`; the ratio is at most 1.
    pub fn half_turn_times(numerator: u64, denominator: u64) -> Self {
        let turns = (u128::from(numerator) << 63).checked_div(u128::from(denominator)).unwrap_or_default();
        Self(u64::try_from(turns).unwrap_or(u64::MAX))
    }

    /// `count` times this angle, modulo a turn.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.wrapping_mul(count))
    }

    /// One radian times `factor`, which is in `(0, 1]`.
    pub fn radians(factor: Fixed) -> Self {
        // factor / (2 pi) in units of 2^-64 of a turn.
        let turns = (factor.0 << 64_u32).checked_div(TAU).unwrap_or_default();
        Self(u64::try_from(turns).unwrap_or(u64::MAX))
    }

    /// Sine and cosine.
    pub fn sin_cos(self) -> (Fixed, Fixed) {
        // Fold into an eighth of a turn, where the series converge fast.
        let quadrant = self.0 >> 62;
        let within = self.0 & ((1 << 62) - 1);
        let mirrored = within > 1 << 61;
        let folded = if mirrored { (1_u64 << 62).saturating_sub(within) } else { within };
        // folded / 2^64 of a turn in radians; folded is at most 2^61 and TAU below 2^63.
        let angle = Fixed(i128::from(folded).saturating_mul(TAU) >> 64_u32);
        let square = angle.times(angle);
        let (mut sine, mut cosine) = (angle, Fixed::ONE);
        let (mut sine_term, mut cosine_term) = (angle, Fixed::ONE);
        for n in (1..TERMS).step_by(2) {
            let (after, last) = (n.saturating_add(1), n.saturating_add(2));
            cosine_term = Fixed(divide(cosine_term.times(square).0, n.saturating_mul(after)).saturating_neg());
            sine_term = Fixed(divide(sine_term.times(square).0, after.saturating_mul(last)).saturating_neg());
            cosine = cosine.plus(cosine_term);
            sine = sine.plus(sine_term);
        }
        if mirrored {
            (sine, cosine) = (cosine, sine);
        }
        let negated = |x: Fixed| Fixed(x.0.saturating_neg());
        match quadrant {
            0 => (sine, cosine),
            1 => (cosine, negated(sine)),
            2 => (negated(sine), negated(cosine)),
            _ => (negated(cosine), sine),
        }
    }
}

fn divide(value: i128, by: i128) -> i128 {
    value.checked_div(by).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(x: Fixed) -> f64 {
        x.to_bits() as f64 / (1_u64 << FRACTION_BITS) as f64
    }

    #[test]
    fn constants_are_the_nearest_integers() {
        assert_eq!(LN_2, (core::f64::consts::LN_2 * (1_u64 << 53) as f64) as i128 * 128 + (LN_2 & 127));
        assert!((float(Fixed(LN_2)) - core::f64::consts::LN_2).abs() < 1e-16);
        assert!((float(Fixed(TAU)) - core::f64::consts::TAU).abs() < 1e-15);
    }

    #[test]
    fn powers_and_logarithms_agree_with_f64() {
        for n in [1_u64, 2, 3, 7, 10, 500, 10_000, u64::MAX] {
            assert!((float(Fixed::log2(n)) - (n as f64).log2()).abs() < 1e-14, "{n}");
        }
        for i in -300_i64..60 {
            let x = Fixed(i128::from(i) * ONE / 10);
            let want = (i as f64 / 10.0).exp2();
            assert!((float(x.exp2()) - want).abs() <= want * 1e-14 + 1e-17, "{i}");
        }
        let beta = Fixed::from_ratio(950_000, 1_000_000);
        for t in [0_u64, 1, 2, 17, 1000, 50_000] {
            assert!((float(beta.power(t)) - 0.95_f64.powi(t as i32)).abs() < 1e-15, "{t}");
        }
    }

    #[test]
    fn sines_agree_with_f64_in_every_octant() {
        for i in 0_u64..4096 {
            let angle = Angle((i << 52) + (i << 13));
            let radians = angle.0 as f64 / 2_f64.powi(64) * core::f64::consts::TAU;
            let (sine, cosine) = angle.sin_cos();
            assert!((float(sine) - radians.sin()).abs() < 1e-14, "{i}");
            assert!((float(cosine) - radians.cos()).abs() < 1e-14, "{i}");
        }
    }

    #[test]
    fn a_radian_wraps_like_a_radian() {
        for position in [0_u64, 1, 6, 7, 2047] {
            let (sine, _) = Angle::radians(Fixed::ONE).times(position).sin_cos();
            assert!((float(sine) - (position as f64).sin()).abs() < 1e-12, "{position}");
        }
    }
}
