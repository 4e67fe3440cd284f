//! Money and ratios (PROTOCOL §0.2). Integers only; what does not fit is an error, never a wrap.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Money in units of 10^-9 NEURO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Amount(u64);

impl Amount {
    pub const ZERO: Self = Self(0);
    /// Units in one NEURO.
    pub const NEURO: u64 = 1_000_000_000;

    pub const fn from_units(units: u64) -> Self {
        Self(units)
    }

    pub const fn units(self) -> u64 {
        self.0
    }

    /// The amount that is left after taking some away, nothing if more is taken than there is.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The sum, which stays at the largest amount rather than to pass it.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.checked_div(Self::NEURO).unwrap_or_default();
        let rest = self.0.checked_rem(Self::NEURO).unwrap_or_default();
        write!(f, "{whole}.{rest:09} NEURO")
    }
}

/// A ratio in parts per million; applying it rounds down (PROTOCOL §0.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Ratio(u32);

impl Ratio {
    pub const ONE: Self = Self(1_000_000);

    pub const fn from_ppm(ppm: u32) -> Self {
        Self(ppm)
    }

    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// `ceil(value * ratio)`, saturating at `u64::MAX`.
    pub fn of_rounded_up(self, value: u64) -> u64 {
        let product = u128::from(value).saturating_mul(u128::from(self.0));
        u64::try_from(product.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// `floor(value * ratio)`, saturating at `u64::MAX`.
    pub fn of(self, value: u64) -> u64 {
        let product = u128::from(value).saturating_mul(u128::from(self.0));
        let quotient = product.checked_div(1_000_000).unwrap_or_default();
        u64::try_from(quotient).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.checked_div(10_000).unwrap_or_default();
        let rest = self.0.checked_rem(10_000).unwrap_or_default();
        write!(f, "{whole}.{rest:04} %")
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_ratio_rounds_down_and_never_overflows() {
        assert_eq!(Ratio::from_ppm(333_333).of(10), 3);
        assert_eq!(Ratio::from_ppm(333_333).of_rounded_up(10), 4);
        assert_eq!(Ratio::from_ppm(500_000).of_rounded_up(10), 5);
        assert_eq!(Ratio::ONE.of(u64::MAX), u64::MAX);
        assert_eq!(Ratio::from_ppm(u32::MAX).of(u64::MAX), u64::MAX);
    }

    #[test]
    fn money_prints_all_nine_digits() {
        assert_eq!(Amount::from_units(1_000_000_001).to_string(), "1.000000001 NEURO");
    }
}
