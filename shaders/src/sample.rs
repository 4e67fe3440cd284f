//! The next token from logits: greedy, or drawn by temperature and nucleus (top-p), reproducibly (PROTOCOL §9).
//!
//! The draw is made in integers from the keyed stream of the seed and the arithmetic is the canonical lane's, so the same
//! logits and seed give the same tokens on every machine.

use std::fmt;

use neuroshard_proto::{Hash, Stream};

use crate::canon::{exp, key, mul, recip, z};

/// How to choose tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 draws from the model's distribution; more is wilder. At most [`TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Draws among the likeliest tokens that together have at least this share of the probability: in (0, 1].
    pub top_p: f32,
    /// Names the random numbers.
    pub seed: u64,
}

/// The highest temperature.
pub const TEMPERATURE_MAX: f32 = 100.0;
/// The lowest temperature but 0: below it, draws are greedy in all but name.
pub const TEMPERATURE_MIN: f32 = 0.001;

/// Why settings cannot be used.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    Temperature(f32),
    TopP(f32),
}

impl fmt::Display for SamplingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Temperature(given) => {
                write!(f, "the temperature is 0 or from {TEMPERATURE_MIN} to {TEMPERATURE_MAX}, not {given}")
            }
            Self::TopP(given) => write!(f, "top-p is above 0 and at most 1, not {given}"),
        }
    }
}

impl std::error::Error for SamplingError {}

/// Chooses tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    stream: Stream,
}

/// One in the integers that probabilities are drawn with.
const UNIT: f32 = 4_294_967_296.0;

impl Sampler {
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(settings: Sampling) -> Result<Self, SamplingError> {
        let Sampling { temperature, top_p, seed } = settings;
        if temperature != 0.0 && !(TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(&temperature) {
            return Err(SamplingError::Temperature(temperature));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError::TopP(top_p));
        }
        Ok(Self { settings, stream: Stream::new(&Hash::of_blob(&seed.to_le_bytes()), "sample", 0) })
    }

    /// The next token; 0 if there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        // Likeliest first; of equals, the lower id.
        let mut order: Vec<(i32, u32)> = (0..).zip(logits).map(|(token, logit)| (key(*logit), token)).collect();
        let Some((_, greedy)) = order.iter().copied().max_by_key(|(key, token)| (*key, std::cmp::Reverse(*token)))
        else {
            return 0;
        };
        if self.settings.temperature == 0.0 {
            return greedy;
        }
        order.sort_unstable_by_key(|(key, token)| (std::cmp::Reverse(*key), *token));
        let (top, inverse) = (logits[greedy as usize], recip(self.settings.temperature));
        let chance = |token: u32| (exp(z(mul(z(logits[token as usize] - top), inverse))) * UNIT) as u64;
        let chances: Vec<u64> = order.iter().map(|(_, token)| chance(*token)).collect();
        let total: u64 = chances.iter().sum();
        let nucleus = (u128::from(total) * u128::from((self.settings.top_p * UNIT) as u64)) >> 32;
        let (mut kept, mut mass) = (0, 0);
        while kept < chances.len() && (kept == 0 || u128::from(mass) < nucleus) {
            mass += chances[kept];
            kept += 1;
        }
        if mass == 0 {
            return greedy;
        }
        let mut drawn = self.stream.below(mass);
        for (chance, (_, token)) in chances.iter().zip(&order) {
            if drawn < *chance {
                return *token;
            }
            drawn -= chance;
        }
        greedy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, seed }).unwrap()
    }

    #[test]
    fn without_temperature_the_likeliest_token_with_the_lowest_id_is_taken() {
        assert_eq!(sampler(0.0, 1.0, 3).sample(&[-1.0, 2.5, 0.0, 2.5]), 1);
        assert_eq!(sampler(0.0, 1.0, 3).sample(&[]), 0);
    }

    #[test]
    fn draws_have_the_models_probabilities() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        for temperature in [1.0, 2.0] {
            let mut sampler = sampler(temperature, 1.0, 5);
            let mut counts = [0_u32; 4];
            for _ in 0..20_000 {
                counts[sampler.sample(&logits) as usize] += 1;
            }
            let weights = logits.map(|logit: f32| f64::from(logit / temperature).exp());
            for (count, weight) in counts.into_iter().zip(weights) {
                let wanted = weight / weights.iter().sum::<f64>();
                assert!((f64::from(count) / 20_000.0 - wanted).abs() < 0.012, "{counts:?} at {temperature}");
            }
        }
    }

    #[test]
    fn the_nucleus_keeps_the_fewest_tokens_that_reach_its_share() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let logits = [0.0, 1.0, 2.0, 0.0].map(|bits: f32| bits * std::f32::consts::LN_2);
        for (top_p, tokens) in [(0.4, 1), (0.7, 2), (0.8, 3), (1.0, 4)] {
            let mut sampler = sampler(1.0, top_p, 9);
            let drawn: std::collections::BTreeSet<u32> = (0..500).map(|_| sampler.sample(&logits)).collect();
            assert_eq!(drawn.len(), tokens, "{top_p}");
        }
    }

    #[test]
    fn a_seed_names_its_draws() {
        let logits: Vec<f32> = (0..266).map(|i| (i % 17) as f32 * 0.2).collect();
        let draws = |seed| {
            let mut sampler = sampler(1.0, 0.95, seed);
            (0..30).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn settings_out_of_range_are_refused_and_spoiled_logits_do_no_harm() {
        for temperature in [-1.0, f32::NAN, f32::INFINITY, 1e-9] {
            let settings = Sampling { temperature, top_p: 1.0, seed: 0 };
            assert!(matches!(Sampler::new(settings), Err(SamplingError::Temperature(_))));
        }
        for top_p in [0.0, -0.5, 1.1, f32::NAN] {
            let settings = Sampling { temperature: 1.0, top_p, seed: 0 };
            assert!(matches!(Sampler::new(settings), Err(SamplingError::TopP(_))));
        }
        assert!(sampler(1.0, 1.0, 0).sample(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) < 3);
    }
}
