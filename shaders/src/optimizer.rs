//! AdamW, one parameter at a time ([`neuroshard_proto::ops::Op::AdamW`]).

use neuroshard_proto::{F32, Schedule, mutant};

use crate::canon::{mul, recip, rsqrt, sqrt, z};
use crate::layout::single;

/// The factor that clips the global gradient norm (see [`neuroshard_proto::ops::Op::AdamW`]).
pub fn clip_factor(squared_norm: f32, clip: f32) -> f32 {
    // Both are positive, so their bits order as they do.
    let within = squared_norm.to_bits() <= mul(clip, clip).to_bits() || mutant("norm never clipped");
    if within { 1.0 } else { mul(clip, rsqrt(squared_norm)) }
}

/// The numbers of an optimizer step as singles.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub rate: f32,
    pub beta1: [f32; 2],
    pub beta2: [f32; 2],
    pub corrections: [f32; 2],
    pub epsilon: f32,
    pub weight_decay: f32,
    pub token_weight: f32,
    /// See [`clip_factor`].
    pub clip_factor: f32,
}

impl Rates {
    pub fn new(schedule: &Schedule, token_weight: F32, squared_norm: F32) -> Self {
        Self {
            rate: single(schedule.rate),
            beta1: [single(schedule.beta1), single(schedule.beta1_rest)],
            beta2: [single(schedule.beta2), single(schedule.beta2_rest)],
            corrections: [single(schedule.correction1), single(schedule.correction2)],
            epsilon: single(schedule.epsilon),
            weight_decay: single(schedule.weight_decay),
            token_weight: single(token_weight),
            clip_factor: clip_factor(single(squared_norm), single(schedule.clip)),
        }
    }

    /// One parameter's update ([`neuroshard_proto::ops::Op::AdamW`]): weight, moments and gradient to weight and moments.
    #[inline(always)]
    pub fn update(&self, decay: bool, [w, m, v, gradient]: [f32; 4]) -> [f32; 3] {
        let g = mul(mul(gradient, self.token_weight), self.clip_factor);
        let m = z(mul(self.beta1[0], m) + mul(self.beta1[1], g));
        let v = z(mul(self.beta2[0], v) + mul(self.beta2[1], mul(g, g)));
        let u = mul(mul(m, self.corrections[0]), recip(sqrt(mul(v, self.corrections[1])) + self.epsilon));
        let pull = if decay { z(u + mul(self.weight_decay, w)) } else { u };
        [z(w - mul(self.rate, pull)), m, v]
    }
}
