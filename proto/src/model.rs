//! The model's shape and its training recipe (PROTOCOL §13), all in integers.

use alloc::vec::Vec;
use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::codec::Canonical;
use crate::fixed::{Angle, Fixed};
use crate::float::F32;
use crate::ids::LayerIndex;
use crate::tensor::{TensorKind, TensorSpec};

/// Most transformer layers a model may have.
pub const LAYERS_MAX: u32 = 1024;
/// Widest dimension of any tensor.
pub const WIDTH_MAX: u32 = 1 << 20;
/// Longest context.
pub const CONTEXT_MAX: u32 = 1 << 20;

/// The shape of a NeuroLLM: a pre-norm decoder with RMSNorm, grouped-query causal attention, RoPE and SwiGLU, no biases
/// but the head's, untied embedding and head (PROTOCOL §13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct ModelSpec {
    /// Transformer layers `L`; the model has stages `0..=L`.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Longest sequence, in tokens.
    pub context: u32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Base of the rotary frequencies.
    pub rope_theta: u32,
    /// RMSNorm's epsilon in units of 10^-12.
    pub norm_eps_pico: u32,
}

impl Canonical for ModelSpec {}

/// Why a shape is not a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelError {
    /// A dimension is 0 or above its limit.
    OutOfRange { name: &'static str, value: u32, max: u32 },
    /// `hidden` is not a multiple of `2 * heads`: rotary embedding turns pairs of a head's elements.
    HeadWidth { hidden: u32, heads: u32 },
    /// `heads` is not a multiple of `kv_heads`.
    HeadGroups { heads: u32, kv_heads: u32 },
    /// Training sequences are longer than the context.
    SequenceTooLong { sequence: u32, context: u32 },
    /// The schedule's warm-up does not end before its horizon.
    Schedule { warmup: u32, horizon: u32 },
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { name, value, max } => write!(f, "{name} is {value}, it must be in 1..={max}"),
            Self::HeadWidth { hidden, heads } => {
                write!(f, "hidden size {hidden} is not a multiple of twice the {heads} heads")
            }
            Self::HeadGroups { heads, kv_heads } => {
                write!(f, "{heads} heads cannot share {kv_heads} key-value heads evenly")
            }
            Self::SequenceTooLong { sequence, context } => {
                write!(f, "training sequences of {sequence} tokens exceed the context of {context}")
            }
            Self::Schedule { warmup, horizon } => {
                write!(f, "a warm-up of {warmup} steps does not end before the horizon of {horizon}")
            }
        }
    }
}

impl core::error::Error for ModelError {}

fn within(name: &'static str, value: u32, max: u32) -> Result<(), ModelError> {
    if value == 0 || value > max { Err(ModelError::OutOfRange { name, value, max }) } else { Ok(()) }
}

fn divides(part: u32, whole: u32) -> bool {
    whole.checked_rem(part) == Some(0)
}

impl ModelSpec {
    /// Checks every limit and relation; the other methods may be called on checked shapes only.
    ///
    /// # Errors
    /// The first rule the shape breaks.
    pub fn check(&self) -> Result<(), ModelError> {
        within("layers", self.layers, LAYERS_MAX)?;
        within("hidden", self.hidden, WIDTH_MAX)?;
        within("heads", self.heads, self.hidden)?;
        within("kv_heads", self.kv_heads, self.heads)?;
        within("ffn", self.ffn, WIDTH_MAX)?;
        within("context", self.context, CONTEXT_MAX)?;
        within("vocab", self.vocab, WIDTH_MAX)?;
        within("rope_theta", self.rope_theta, u32::MAX)?;
        within("norm_eps_pico", self.norm_eps_pico, 1_000_000_000)?;
        if !divides(self.heads.saturating_mul(2), self.hidden) {
            return Err(ModelError::HeadWidth { hidden: self.hidden, heads: self.heads });
        }
        if !divides(self.kv_heads, self.heads) {
            return Err(ModelError::HeadGroups { heads: self.heads, kv_heads: self.kv_heads });
        }
        Ok(())
    }

    /// Width of one head.
    pub fn head_width(&self) -> u32 {
        self.hidden.checked_div(self.heads).unwrap_or_default()
    }

    /// Width of all keys, or of all values: `kv_heads * head_width`.
    pub fn kv_width(&self) -> u32 {
        self.kv_heads.saturating_mul(self.head_width())
    }

    /// Width of query, key and value together.
    pub fn qkv_width(&self) -> u32 {
        self.hidden.saturating_add(self.kv_width().saturating_mul(2))
    }

    /// All stages `0..=L`.
    pub fn all_layers(&self) -> LayerRange {
        LayerRange { start: 0, end: self.layers.saturating_add(1) }
    }

    /// The tensors of a stage in canonical order: the order of their bytes in snapshots and of their norms.
    ///
    /// Matrices are `[out, in]` as in a checkpoint: `y = x W^T`. Query, key and value stand together, and so do gate and
    /// up, so that each group is one matrix product.
    pub fn tensors(&self, layer: LayerIndex) -> Vec<TensorSpec> {
        let mut tensors = Vec::with_capacity(10);
        let mut add = |kind: TensorKind, rows: u32, cols: u32| tensors.push(TensorSpec { kind, rows, cols });
        if layer.0 == self.layers {
            add(TensorKind::FinalNorm, 1, self.hidden);
            add(TensorKind::Head, self.vocab, self.hidden);
            add(TensorKind::HeadBias, 1, self.vocab);
            return tensors;
        }
        if layer.0 == 0 {
            add(TensorKind::Embedding, self.vocab, self.hidden);
        }
        add(TensorKind::AttentionNorm, 1, self.hidden);
        add(TensorKind::Query, self.hidden, self.hidden);
        add(TensorKind::Key, self.kv_width(), self.hidden);
        add(TensorKind::Value, self.kv_width(), self.hidden);
        add(TensorKind::Output, self.hidden, self.hidden);
        add(TensorKind::FfnNorm, 1, self.hidden);
        add(TensorKind::Gate, self.ffn, self.hidden);
        add(TensorKind::Up, self.ffn, self.hidden);
        add(TensorKind::Down, self.hidden, self.ffn);
        tensors
    }

    /// Parameters of one stage, the head's bias included.
    pub fn layer_parameters(&self, layer: LayerIndex) -> u64 {
        self.tensors(layer).iter().map(TensorSpec::elements).fold(0, u64::saturating_add)
    }

    /// Parameters of the model, the head's bias included.
    pub fn parameters(&self) -> u64 {
        self.all_layers().iter().map(|layer| self.layer_parameters(layer)).fold(0, u64::saturating_add)
    }

    /// Parameters as PROTOCOL §13 counts them: without the head's bias.
    pub fn parameters_without_bias(&self) -> u64 {
        self.parameters().saturating_sub(u64::from(self.vocab))
    }

    /// Bytes of a persisted state: weights and two moments, 12 bytes a parameter.
    pub fn state_bytes(&self) -> u64 {
        self.parameters().saturating_mul(12)
    }

    /// Bytes of the persisted state of these stages.
    pub fn held_bytes(&self, range: LayerRange) -> u64 {
        let parameters = range.iter().map(|layer| self.layer_parameters(layer)).fold(0, u64::saturating_add);
        parameters.saturating_mul(12)
    }

    /// Bytes to train these layers: weights, gradient and two moments, 16 bytes a parameter (PROTOCOL §2).
    pub fn training_bytes(&self, range: LayerRange) -> u64 {
        let parameters = range.iter().map(|layer| self.layer_parameters(layer)).fold(0, u64::saturating_add);
        parameters.saturating_mul(16)
    }

    /// Bytes that an executor keeps at most of a microbatch between its forward and its backward pass through these stages,
    /// [`Self::kept_token_bytes`] for each token. Sequences are kept in blocks of 64 tokens.
    pub fn microbatch_bytes(&self, range: LayerRange, sequence: u32) -> u64 {
        let tokens = u64::from(sequence).next_multiple_of(64);
        self.kept_token_bytes(range).saturating_mul(tokens)
    }

    /// Bytes that an executor keeps at most of each token of a microbatch: the residual stream before attention and before
    /// the feed-forward, what its norms, attention and activation make, and all of that for each transformer layer. Rows
    /// stand at cache lines of 64 bytes.
    pub fn kept_token_bytes(&self, range: LayerRange) -> u64 {
        let lines = |width: u32, in_a_line: u32| u64::from(width.div_ceil(in_a_line));
        let singles = |width: u32| lines(width, 16).saturating_mul(64);
        let halves = |width: u32| (lines(width, 32) | 1).saturating_mul(64);
        let panels = |width: u32| lines(width, 16).saturating_mul(32);
        // Heads stand in eights where a device reads them so.
        let heads = self.heads.saturating_add(self.kv_heads.saturating_mul(2));
        let rotated = heads.saturating_mul(self.head_width().next_multiple_of(8));
        let (hidden, ffn) = (self.hidden, self.ffn);
        let parts = [
            singles(hidden).saturating_mul(2),
            panels(hidden).saturating_mul(2),
            halves(rotated),
            halves(hidden),
            singles(ffn.saturating_mul(2)),
            panels(ffn),
            // A scale for each norm; for each head a maximum and a scale; the token itself and its place in their order.
            u64::from(self.heads.saturating_add(2)).saturating_mul(8),
        ];
        let layers = u64::from(range.end.min(self.layers).saturating_sub(range.start));
        parts.into_iter().fold(0, u64::saturating_add).saturating_mul(layers)
    }

    /// RMSNorm's epsilon.
    pub fn norm_eps(&self) -> F32 {
        F32::from_ratio(u128::from(self.norm_eps_pico), 1_000_000_000_000)
    }

    /// `1 / hidden`, for RMSNorm's mean.
    pub fn inverse_hidden(&self) -> F32 {
        F32::from_ratio(1, u128::from(self.hidden))
    }

    /// `1 / sqrt(head_width)`, the scale of attention scores.
    pub fn attention_scale(&self) -> F32 {
        // sqrt(2^120 / width) * 2^-60
        let square = (1_u128 << 120_u32).checked_div(u128::from(self.head_width())).unwrap_or_default();
        F32::from_fixed(i128::try_from(square.isqrt()).unwrap_or_default(), 60)
    }

    /// Cosine and sine of every rotation as bfloat16 bits, `[context][head_width / 2]`: position `p` turns pair `i` by
    /// `p * theta^(-2 i / head_width)`.
    pub fn rotary_table(&self) -> Vec<[u16; 2]> {
        let pairs = self.head_width() >> 1_u32;
        let frequencies: Vec<Angle> = (0..pairs).map(|pair| self.rotary_frequency(pair, pairs)).collect();
        let positions = u64::from(self.context);
        let turns = (0..positions).flat_map(|position| frequencies.iter().map(move |angle| angle.times(position)));
        turns
            .map(|angle| {
                let (sine, cosine) = angle.sin_cos();
                [cosine.to_f32().to_bf16(), sine.to_f32().to_bf16()]
            })
            .collect()
    }

    fn rotary_frequency(&self, pair: u32, pairs: u32) -> Angle {
        let exponent =
            Fixed::log2(u64::from(self.rope_theta)).times(Fixed::from_ratio(u64::from(pair), u64::from(pairs)));
        Angle::radians(Fixed::ZERO.minus(exponent).exp2())
    }
}

/// A half-open range of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct LayerRange {
    pub start: u32,
    pub end: u32,
}

impl LayerRange {
    pub fn iter(self) -> impl DoubleEndedIterator<Item = LayerIndex> {
        (self.start..self.end).map(LayerIndex)
    }

    pub fn contains(self, layer: LayerIndex) -> bool {
        (self.start..self.end).contains(&layer.0)
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// How a model is trained: batch shape, AdamW and its schedule (PROTOCOL §4, §13), in integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct TrainSpec {
    /// Sequences, that is microbatches, in a batch.
    pub batch: u32,
    /// Tokens in a sequence.
    pub sequence: u32,
    /// Peak learning rate in units of 10^-9.
    pub peak_rate_nano: u32,
    /// Steps of linear warm-up.
    pub warmup: u32,
    /// Step at which the cosine reaches its floor.
    pub horizon: u32,
    /// Floor of the learning rate as a share of the peak, in parts per million.
    pub floor_ppm: u32,
    /// Decay of the first moment, in parts per million.
    pub beta1_ppm: u32,
    /// Decay of the second moment, in parts per million.
    pub beta2_ppm: u32,
    /// Decoupled weight decay, in parts per million.
    pub weight_decay_ppm: u32,
    /// AdamW's epsilon in units of 10^-12.
    pub epsilon_pico: u32,
    /// Largest global gradient norm, in parts per million.
    pub clip_ppm: u32,
}

impl TrainSpec {
    /// Checks every limit and relation.
    ///
    /// # Errors
    /// The first rule the recipe breaks.
    pub fn check(&self, model: &ModelSpec) -> Result<(), ModelError> {
        within("batch", self.batch, crate::job::MICROBATCHES_MAX)?;
        within("sequence", self.sequence, CONTEXT_MAX)?;
        within("peak_rate_nano", self.peak_rate_nano, 1_000_000_000)?;
        within("floor_ppm", self.floor_ppm, 1_000_000)?;
        within("beta1_ppm", self.beta1_ppm, 999_999)?;
        within("beta2_ppm", self.beta2_ppm, 999_999)?;
        within("epsilon_pico", self.epsilon_pico, 1_000_000_000)?;
        within("clip_ppm", self.clip_ppm, u32::MAX)?;
        within("horizon", self.horizon, u32::MAX)?;
        if self.weight_decay_ppm > 1_000_000 {
            let (name, value) = ("weight_decay_ppm", self.weight_decay_ppm);
            return Err(ModelError::OutOfRange { name, value, max: 1_000_000 });
        }
        if self.sequence > model.context {
            return Err(ModelError::SequenceTooLong { sequence: self.sequence, context: model.context });
        }
        if self.warmup >= self.horizon {
            return Err(ModelError::Schedule { warmup: self.warmup, horizon: self.horizon });
        }
        Ok(())
    }

    /// Tokens whose loss a batch sums.
    pub fn batch_tokens(&self) -> u64 {
        u64::from(self.batch).saturating_mul(u64::from(self.sequence))
    }
}

/// The named shapes of PROTOCOL §13.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Preset {
    Nano,
    Micro,
    Genesis,
}

impl Preset {
    pub const ALL: [Self; 3] = [Self::Nano, Self::Micro, Self::Genesis];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Micro => "micro",
            Self::Genesis => "genesis",
        }
    }

    /// The shape and recipe of this preset.
    pub const fn specs(self) -> (ModelSpec, TrainSpec) {
        let model = ModelSpec {
            layers: 11,
            hidden: 512,
            heads: 16,
            kv_heads: 4,
            ffn: 2048,
            context: 2048,
            vocab: 266,
            rope_theta: 10_000,
            norm_eps_pico: 1_000_000,
        };
        let training = TrainSpec {
            batch: 4,
            sequence: 512,
            peak_rate_nano: 100_000,
            warmup: 1000,
            horizon: 50_000,
            floor_ppm: 100_000,
            beta1_ppm: 900_000,
            beta2_ppm: 950_000,
            weight_decay_ppm: 100_000,
            epsilon_pico: 10_000,
            clip_ppm: 1_000_000,
        };
        match self {
            Self::Genesis => (model, training),
            Self::Micro => (
                ModelSpec { layers: 6, hidden: 256, heads: 8, kv_heads: 4, ffn: 704, context: 512, ..model },
                TrainSpec {
                    batch: 8,
                    sequence: 256,
                    peak_rate_nano: 1_000_000,
                    warmup: 200,
                    horizon: 20_000,
                    ..training
                },
            ),
            Self::Nano => (
                ModelSpec { layers: 4, hidden: 128, heads: 4, kv_heads: 2, ffn: 384, context: 256, ..model },
                TrainSpec { batch: 8, sequence: 128, peak_rate_nano: 3_000_000, warmup: 50, horizon: 5000, ..training },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits))
    }

    #[test]
    fn every_preset_is_a_model() {
        for preset in Preset::ALL {
            let (model, training) = preset.specs();
            assert_eq!(model.check(), Ok(()));
            assert_eq!(training.check(&model), Ok(()));
        }
    }

    #[test]
    fn the_genesis_model_has_the_size_the_protocol_says() {
        let (model, _) = Preset::Genesis.specs();
        assert_eq!(model.parameters_without_bias(), 42_096_128);
        assert_eq!(model.parameters(), 42_096_128 + 266);
        assert_eq!(model.training_bytes(model.all_layers()), 16 * (42_096_128 + 266));
    }

    #[test]
    fn what_is_kept_of_a_microbatch_grows_with_its_tokens_and_layers() {
        let (model, _) = Preset::Genesis.specs();
        let (one, head) = (LayerRange { start: 3, end: 4 }, LayerRange { start: 11, end: 12 });
        // 14 times the hidden width, twice query, key and value, ten times the feed-forward, and rows' ends.
        assert_eq!(model.kept_token_bytes(one), 29_456);
        assert_eq!(model.microbatch_bytes(one, 512), 512 * 29_456);
        assert_eq!(model.microbatch_bytes(one, 1), 64 * 29_456);
        assert_eq!(model.microbatch_bytes(model.all_layers(), 512), 11 * 512 * 29_456);
        assert_eq!(model.microbatch_bytes(head, 512), 0);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (model, training) = Preset::Nano.specs();
        assert!(ModelSpec { heads: 3, ..model }.check().is_err());
        assert!(ModelSpec { kv_heads: 3, ..model }.check().is_err());
        assert!(ModelSpec { layers: 0, ..model }.check().is_err());
        assert!(ModelSpec { vocab: u32::MAX, ..model }.check().is_err());
        assert!(TrainSpec { sequence: 257, ..training }.check(&model).is_err());
        assert!(TrainSpec { warmup: 5000, ..training }.check(&model).is_err());
    }

    #[test]
    fn rotations_agree_with_f64() {
        let (model, _) = Preset::Genesis.specs();
        let table = model.rotary_table();
        let pairs = model.head_width() as usize / 2;
        assert_eq!(table.len(), 2048 * pairs);
        for (position, pair) in [(0, 0), (1, 0), (2047, 0), (2047, 15), (1000, 7)] {
            let angle = position as f64 * 10_000_f64.powf(-(pair as f64) / pairs as f64);
            let [cosine, sine] = table[position * pairs + pair];
            assert!((float(u32::from(cosine) << 16) - angle.cos()).abs() < 0.004);
            assert!((float(u32::from(sine) << 16) - angle.sin()).abs() < 0.004);
        }
        assert_eq!(model.attention_scale().to_bits(), (1.0 / 32_f64.sqrt()).to_bits_f32());
    }

    trait ToBits {
        fn to_bits_f32(self) -> u32;
    }
    impl ToBits for f64 {
        fn to_bits_f32(self) -> u32 {
            (self as f32).to_bits()
        }
    }
}
