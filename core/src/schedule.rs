//! The numbers of an optimizer step, computed in fixed point and rounded once (PROTOCOL §4, §13).

use neuroshard_proto::fixed::{Angle, Fixed};
use neuroshard_proto::{F32, Schedule, Step, TrainSpec, mutant};

const PPM: u64 = 1_000_000;

/// The schedule of the step that follows `step` earlier ones: linear warm-up from `1 / warmup` of the peak, then a cosine
/// to the floor at the horizon, then the floor.
pub fn schedule(spec: &TrainSpec, step: Step) -> Schedule {
    let count = if mutant("schedule one step late") { step.0.max(1) } else { step.0.saturating_add(1) };
    let ratio = |ppm: u32| F32::from_ratio(u128::from(ppm), u128::from(PPM));
    Schedule {
        rate: rate(spec, step),
        beta1: ratio(spec.beta1_ppm),
        beta1_rest: ratio(1_000_000_u32.saturating_sub(spec.beta1_ppm)),
        beta2: ratio(spec.beta2_ppm),
        beta2_rest: ratio(1_000_000_u32.saturating_sub(spec.beta2_ppm)),
        correction1: correction(spec.beta1_ppm, count),
        correction2: correction(spec.beta2_ppm, count),
        epsilon: F32::from_ratio(u128::from(spec.epsilon_pico), 1_000_000_000_000),
        weight_decay: ratio(spec.weight_decay_ppm),
        clip: ratio(spec.clip_ppm),
    }
}

/// The learning rate of the step that follows `step` earlier ones.
pub fn rate(spec: &TrainSpec, step: Step) -> F32 {
    share_of_peak(spec, step.0.saturating_add(1))
        .times(Fixed::from_ratio(u64::from(spec.peak_rate_nano), 1_000_000_000))
        .to_f32()
}

fn share_of_peak(spec: &TrainSpec, count: u64) -> Fixed {
    let (warmup, horizon) = (u64::from(spec.warmup), u64::from(spec.horizon));
    let floor = Fixed::from_ratio(u64::from(spec.floor_ppm), PPM);
    if count < warmup {
        return Fixed::from_ratio(count, warmup);
    }
    if count >= horizon {
        return floor;
    }
    let (done, span) = (count.saturating_sub(warmup), horizon.saturating_sub(warmup));
    let (_, cosine) = Angle::half_turn_times(done, span).sin_cos();
    let half = Fixed::from_ratio(1, 2);
    let share = half.plus(half.times(cosine));
    floor.plus(Fixed::ONE.minus(floor).times(share))
}

/// `1 / (1 - beta^count)`.
fn correction(beta_ppm: u32, count: u64) -> F32 {
    let rest = Fixed::ONE.minus(Fixed::from_ratio(u64::from(beta_ppm), PPM).power(count));
    F32::from_ratio(Fixed::ONE.to_bits().unsigned_abs(), rest.to_bits().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Preset;

    use super::*;

    fn float(bits: F32) -> f64 {
        f64::from(f32::from_bits(bits.to_bits()))
    }

    #[test]
    fn rates_follow_the_textbook_curve() {
        let (_, spec) = Preset::Genesis.specs();
        for step in [0_u64, 1, 500, 998, 999, 1000, 1001, 25_000, 49_998, 49_999, 50_000, 1_000_000] {
            let count = (step + 1) as f64;
            let want = if count < 1000.0 {
                1e-4 * count / 1000.0
            } else {
                let progress = ((count - 1000.0) / 49_000.0).min(1.0);
                1e-4 * (0.1 + 0.9 * 0.5 * (1.0 + (core::f64::consts::PI * progress).cos()))
            };
            let got = float(rate(&spec, Step(step)));
            assert!((got / want - 1.0).abs() < 1e-7, "step {step}: {got} {want}");
        }
    }

    #[test]
    fn corrections_undo_the_bias_of_young_moments() {
        let (_, spec) = Preset::Nano.specs();
        for step in [0_u64, 1, 9, 100, 5000] {
            let got = schedule(&spec, Step(step));
            let power = i32::try_from(step + 1).unwrap();
            assert!((float(got.correction1) * (1.0 - 0.9_f64.powi(power)) - 1.0).abs() < 1e-7);
            assert!((float(got.correction2) * (1.0 - 0.95_f64.powi(power)) - 1.0).abs() < 1e-7);
        }
        let first = schedule(&spec, Step(0));
        assert_eq!(first.beta1.to_bits(), 0.9_f32.to_bits());
        assert_eq!(first.beta1_rest.to_bits(), 0.1_f32.to_bits());
        assert_eq!(first.epsilon.to_bits(), 1e-8_f32.to_bits());
    }
}
