//! A device made slower on purpose: after each job it rests in proportion to the time that the job took. So one machine
//! can play many of different speeds, and its owner can keep most of it for other things.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use neuroshard_proto::Commitment;
use serde::Deserialize;

/// The slowest that can be asked for.
pub const THROTTLE_MAX: f64 = 10_000.0;

/// How many times longer every job takes than the device needs: from 1, as fast as it can, to [`THROTTLE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Throttle(f64);

impl Default for Throttle {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Throttle {
    /// How long to rest after a job that took `took`.
    pub fn rest(&self, took: Duration) -> Duration {
        took.mul_f64(self.0 - 1.0)
    }

    /// What a job makes, with the self-benchmark's verdict that fits the slower device.
    #[must_use]
    pub fn slow(&self, made: Commitment) -> Commitment {
        match made {
            Commitment::Benchmark { layer_us } => Commitment::Benchmark { layer_us: (layer_us as f64 * self.0) as u64 },
            other => other,
        }
    }
}

impl FromStr for Throttle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.trim().parse().ok().and_then(|factor: f64| factor.try_into().ok()).ok_or_else(|| wrong(text))
    }
}

impl TryFrom<f64> for Throttle {
    type Error = String;

    fn try_from(factor: f64) -> Result<Self, String> {
        if (1.0..=THROTTLE_MAX).contains(&factor) { Ok(Self(factor)) } else { Err(wrong(factor)) }
    }
}

fn wrong(factor: impl fmt::Display) -> String {
    format!("`{factor}` is no factor; write how many times slower, from 1 to {THROTTLE_MAX}")
}

impl fmt::Display for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_of_four_rests_three_times_as_long_and_measures_four_times_as_much() {
        let throttle: Throttle = "4".parse().unwrap();
        assert_eq!(throttle.rest(Duration::from_millis(10)), Duration::from_millis(30));
        let made = throttle.slow(Commitment::Benchmark { layer_us: 1500 });
        assert_eq!(made, Commitment::Benchmark { layer_us: 6000 });
        assert_eq!(Throttle::default().rest(Duration::MAX / 2), Duration::ZERO);
    }

    #[test]
    fn what_is_no_factor_is_refused() {
        assert_eq!("1.5".parse(), Ok(Throttle(1.5)));
        for text in ["", "0", "0.9", "-1", "nan", "inf", "10001", "x2"] {
            assert!(text.parse::<Throttle>().unwrap_err().contains("from 1 to 10000"), "{text}");
        }
    }
}
