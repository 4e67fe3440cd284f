//! The names, shapes and places of a model's tensors in a `model.safetensors`.
//!
//! The file is eight bytes of length, a header in JSON, and the tensors' bytes end to end. They are written in canonical
//! order, so the part behind the header is the stages' weights as the store holds them, and a model of any size goes
//! through the memory of one stage. A file of another order is read as well.

use std::collections::HashMap;

use neuroshard_proto::{LayerIndex, ModelSpec, TensorKind, TensorSpec};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// Bytes that hold the header's length.
pub(super) const LENGTH_BYTES: usize = 8;
/// Longest header that is read: four times what a model with the most layers and the longest numbers needs.
pub(super) const HEADER_BYTES_MAX: u64 = 8 << 20;

/// The name of a stage's tensor.
pub(super) fn name(kind: TensorKind, layer: LayerIndex) -> String {
    kind.checkpoint_name().replace("{}", &layer.to_string())
}

/// A tensor's shape in a checkpoint: vectors have one dimension, matrices two.
pub(super) fn shape(tensor: &TensorSpec) -> Vec<usize> {
    let (rows, cols) = (tensor.rows as usize, tensor.cols as usize);
    match tensor.kind {
        TensorKind::AttentionNorm | TensorKind::FfnNorm | TensorKind::FinalNorm | TensorKind::HeadBias => vec![cols],
        _ => vec![rows, cols],
    }
}

/// Every tensor of a model with its stage, in canonical order.
pub(super) fn tensors(model: &ModelSpec) -> impl Iterator<Item = (LayerIndex, TensorSpec)> {
    model.all_layers().iter().flat_map(|layer| model.tensors(layer).into_iter().map(move |tensor| (layer, tensor)))
}

/// Length and header of a file with a model's tensors in canonical order, as singles. The head's bias is the last tensor
/// and may be left out.
pub(super) fn header(model: &ModelSpec, bias: bool) -> Vec<u8> {
    let mut end = 0;
    let info = |(layer, tensor): (LayerIndex, TensorSpec)| {
        let (start, shape) = (end, shape(&tensor));
        end += 4 * shape.iter().product::<usize>();
        (name(tensor.kind, layer), TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) })
    };
    let written = tensors(model).filter(|(_, tensor)| bias || tensor.kind != TensorKind::HeadBias).map(info).collect();
    // Loaders want to know which library's layout it is; Llama's comes from PyTorch.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), written).expect("tensors follow each other without a gap");
    let mut json = serde_json::to_vec(&metadata).expect("names and numbers are JSON");
    // Spaces behind it, so that the tensors begin at a multiple of eight.
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// Why a header cannot be used, in words.
pub(super) fn parse(json: &[u8]) -> Result<Metadata, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// The single that a half-precision number is.
pub(super) fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        // Zero, or a subnormal: `fraction` times 2^-24, which a single holds exactly.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::{LAYERS_MAX, Preset, WIDTH_MAX};
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn every_half_precision_number_becomes_the_single_of_the_same_value() {
        for bits in 0..=u16::MAX {
            let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                0 => fraction * 2_f64.powi(-24),
                _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
            };
            let wanted = if sign == 1 { -magnitude } else { magnitude };
            let found = f64::from(half(bits));
            assert!(found == wanted && found.is_sign_negative() == (sign == 1) || found.is_nan() && wanted.is_nan());
        }
    }

    #[test]
    fn the_largest_model_has_a_header_that_is_read() {
        let (genesis, _) = Preset::Genesis.specs();
        let width = WIDTH_MAX;
        let largest = ModelSpec { layers: LAYERS_MAX, hidden: width, heads: 16, kv_heads: 16, ffn: width, ..genesis };
        largest.check().unwrap();
        assert!(4 * header(&largest, true).len() as u64 <= HEADER_BYTES_MAX);
    }

    #[test]
    fn a_header_is_what_the_format_says_and_covers_all_weights() {
        for preset in Preset::ALL {
            let (model, _) = preset.specs();
            let mut file = header(&model, true);
            let header_bytes = file.len();
            assert_eq!(header_bytes % 8, 0);
            file.resize(header_bytes + 4 * model.parameters() as usize, 0);
            let tensors = SafeTensors::deserialize(&file).unwrap();
            assert_eq!(tensors.tensor("model.layers.3.mlp.down_proj.weight").unwrap().shape(), {
                [model.hidden as usize, model.ffn as usize]
            });
            assert_eq!(tensors.tensor("lm_head.bias").unwrap().shape(), [266]);
            assert_eq!(tensors.len(), 9 * model.layers as usize + 4);
        }
    }
}
