//! The model's tensors: their roles, shapes and first values (PROTOCOL §13).

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::float::F32;
use crate::hash::Hash;
use crate::ids::LayerIndex;
use crate::model::ModelSpec;
use crate::stream::Stream;

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16, held in the upper half of a single-precision word.
    Bf16,
    /// Signed integers.
    I32,
}

impl DType {
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 1,
            Self::I32 => 2,
        }
    }
}

/// A tensor's role in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum TensorKind {
    Embedding,
    AttentionNorm,
    Query,
    Key,
    Value,
    Output,
    FfnNorm,
    Gate,
    Up,
    Down,
    FinalNorm,
    Head,
    HeadBias,
}

impl TensorKind {
    /// The name of the tensor in a Llama checkpoint; `{}` stands for the layer's number.
    pub const fn checkpoint_name(self) -> &'static str {
        match self {
            Self::Embedding => "model.embed_tokens.weight",
            Self::AttentionNorm => "model.layers.{}.input_layernorm.weight",
            Self::Query => "model.layers.{}.self_attn.q_proj.weight",
            Self::Key => "model.layers.{}.self_attn.k_proj.weight",
            Self::Value => "model.layers.{}.self_attn.v_proj.weight",
            Self::Output => "model.layers.{}.self_attn.o_proj.weight",
            Self::FfnNorm => "model.layers.{}.post_attention_layernorm.weight",
            Self::Gate => "model.layers.{}.mlp.gate_proj.weight",
            Self::Up => "model.layers.{}.mlp.up_proj.weight",
            Self::Down => "model.layers.{}.mlp.down_proj.weight",
            Self::FinalNorm => "model.norm.weight",
            Self::Head => "lm_head.weight",
            Self::HeadBias => "lm_head.bias",
        }
    }

    /// Whether weight decay applies: to matrices, not to norms and the bias.
    pub const fn decays(self) -> bool {
        match self {
            Self::Embedding
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::Output
            | Self::Gate
            | Self::Up
            | Self::Down
            | Self::Head => true,
            Self::AttentionNorm | Self::FfnNorm | Self::FinalNorm | Self::HeadBias => false,
        }
    }

    /// Whether training changes it. The head's bias belongs to the vocabulary: it is zero until a vocabulary activation
    /// sets it (PROTOCOL §7), so that until then the model is a Llama without anything beside it (PROTOCOL §13).
    pub const fn is_trained(self) -> bool {
        !matches!(self, Self::HeadBias)
    }

    const fn code(self) -> u8 {
        match self {
            Self::Embedding => 0,
            Self::AttentionNorm => 1,
            Self::Query => 2,
            Self::Key => 3,
            Self::Value => 4,
            Self::Output => 5,
            Self::FfnNorm => 6,
            Self::Gate => 7,
            Self::Up => 8,
            Self::Down => 9,
            Self::FinalNorm => 10,
            Self::Head => 11,
            Self::HeadBias => 12,
        }
    }

    /// How the tensor starts.
    pub const fn init(self) -> TensorInit {
        match self {
            Self::Embedding | Self::Query | Self::Key | Self::Value | Self::Gate | Self::Up | Self::Head => {
                TensorInit::Normal
            }
            Self::Output | Self::Down => TensorInit::NormalResidual,
            Self::AttentionNorm | Self::FfnNorm | Self::FinalNorm => TensorInit::One,
            Self::HeadBias => TensorInit::Zero,
        }
    }
}

/// The distribution of a tensor's first values (PROTOCOL §13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorInit {
    /// N(0, 0.02).
    Normal,
    /// N(0, 0.02 / sqrt(2 L)): projections that write into the residual stream.
    NormalResidual,
    /// All ones.
    One,
    /// All zeros.
    Zero,
}

/// One tensor of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub kind: TensorKind,
    pub rows: u32,
    pub cols: u32,
}

/// Fraction bits of the integers that first weights are made of.
const INIT_FRACTION_BITS: u32 = 44;

impl TensorSpec {
    pub fn elements(&self) -> u64 {
        u64::from(self.rows).saturating_mul(u64::from(self.cols))
    }

    /// Writes the first values of the elements `first..first + out.len()` as single-precision bits.
    ///
    /// A normal value is the centred sum of eight 16-bit uniforms of the stream `(seed, "weights", layer, kind)`, which
    /// has the normal's first three moments and a kurtosis of 2.85, times the wanted deviation: integers throughout.
    pub fn fill_init(&self, model: &ModelSpec, seed: &Hash, layer: LayerIndex, first: u64, out: &mut [u32]) {
        let divisor = match self.kind.init() {
            TensorInit::Zero => return out.fill(0),
            TensorInit::One => return out.fill(F32::ONE.to_bits()),
            TensorInit::Normal => 1,
            TensorInit::NormalResidual => u128::from(model.layers).saturating_mul(2),
        };
        // The centred, doubled sum of eight uniforms has the variance 8/3 (2^32 - 1); the scale is
        // sqrt(0.02^2 / divisor / that variance) in units of 2^-44.
        let variance = divisor.saturating_mul(10_000).saturating_mul(8).saturating_mul(0xffff_ffff);
        let square = (12_u128 << (2 * INIT_FRACTION_BITS)).checked_div(variance).unwrap_or_default();
        let scale = i128::try_from(square.isqrt()).unwrap_or_default();
        let place = (u64::from(layer.0) << 8_u32) | u64::from(self.kind.code());
        let stream = Stream::new(seed, "weights", place);
        let mut position = first.saturating_mul(16);
        let mut bytes = [0_u8; 4096];
        for block in out.chunks_mut(256) {
            stream.fill(position, &mut bytes);
            position = position.saturating_add(4096);
            for (element, draws) in block.iter_mut().zip(bytes.chunks_exact(16)) {
                let sum: i128 = draws.chunks_exact(2).map(|d| i128::from(uniform(d))).sum();
                let centred = sum.saturating_mul(2).saturating_sub(8 * 65_535);
                *element = F32::from_fixed(centred.saturating_mul(scale), INIT_FRACTION_BITS).to_bits();
            }
        }
    }
}

fn uniform(bytes: &[u8]) -> u16 {
    match bytes {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::model::Preset;

    fn float(bits: u32) -> f64 {
        f64::from(f32::from_bits(bits))
    }

    #[test]
    fn first_weights_have_the_wanted_mean_and_deviation() {
        let (model, _) = Preset::Nano.specs();
        let seed = Hash::of_blob(b"init");
        for (kind, want) in [(TensorKind::Query, 0.02), (TensorKind::Output, 0.02 / 8_f64.sqrt())] {
            let tensor = TensorSpec { kind, rows: 256, cols: 256 };
            let mut values = vec![0; 65_536];
            tensor.fill_init(&model, &seed, LayerIndex(2), 0, &mut values);
            let mean = values.iter().map(|v| float(*v)).sum::<f64>() / 65_536.0;
            let deviation = (values.iter().map(|v| float(*v).powi(2)).sum::<f64>() / 65_536.0).sqrt();
            assert!(mean.abs() < want / 50.0, "{mean}");
            assert!((deviation / want - 1.0).abs() < 0.01, "{deviation}");
        }
    }

    #[test]
    fn first_weights_are_the_same_in_parts_and_differ_between_tensors() {
        let (model, _) = Preset::Nano.specs();
        let seed = Hash::default();
        let tensor = TensorSpec { kind: TensorKind::Gate, rows: 384, cols: 128 };
        let (mut whole, mut part) = (vec![0; 1000], vec![0; 300]);
        tensor.fill_init(&model, &seed, LayerIndex(0), 0, &mut whole);
        tensor.fill_init(&model, &seed, LayerIndex(0), 500, &mut part);
        assert_eq!(whole[500..800], part);
        let other = TensorSpec { kind: TensorKind::Up, ..tensor };
        other.fill_init(&model, &seed, LayerIndex(0), 500, &mut part);
        assert_ne!(whole[500..800], part);
    }
}
