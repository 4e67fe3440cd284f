//! Where a stage's tensors lie in its flat vector of parameters.

use std::ops::Range;

use neuroshard_proto::ops::Slot;
use neuroshard_proto::{F32, LayerIndex, ModelSpec, TensorKind, TensorSpec};

/// A constant of the protocol as a single.
pub fn single(bits: F32) -> f32 {
    f32::from_bits(bits.to_bits())
}

/// One tensor and its place.
#[derive(Clone, Debug)]
pub struct PlacedTensor {
    pub spec: TensorSpec,
    pub range: Range<usize>,
}

/// A stage's tensors, end to end in canonical order.
#[derive(Clone, Debug)]
pub struct LayerLayout {
    pub tensors: Vec<PlacedTensor>,
    /// Parameters of the stage.
    pub elements: usize,
}

impl LayerLayout {
    pub fn new(model: &ModelSpec, layer: LayerIndex) -> Self {
        let mut elements = 0;
        let place = |spec: TensorSpec| {
            let start = elements;
            elements += spec.rows as usize * spec.cols as usize;
            PlacedTensor { spec, range: start..elements }
        };
        let tensors = model.tensors(layer).into_iter().map(place).collect();
        Self { tensors, elements }
    }

    /// Where a tensor lies, if the stage has it.
    pub fn find(&self, kind: TensorKind) -> Option<Range<usize>> {
        self.tensors.iter().find(|tensor| tensor.spec.kind == kind).map(|tensor| tensor.range.clone())
    }
}

/// The operation table's weights of a stage: slot, slot of the gradient, and where both lie. Query, key and value stand
/// together and are one matrix there, and so are gate and up.
pub fn tensor_slots(layout: &LayerLayout) -> Vec<(Slot, Slot, Range<usize>)> {
    let groups = [
        (Slot::EmbeddingWeight, Slot::GradEmbeddingWeight, TensorKind::Embedding, TensorKind::Embedding),
        (Slot::AttentionGain, Slot::GradAttentionGain, TensorKind::AttentionNorm, TensorKind::AttentionNorm),
        (Slot::QkvWeight, Slot::GradQkvWeight, TensorKind::Query, TensorKind::Value),
        (Slot::OutputWeight, Slot::GradOutputWeight, TensorKind::Output, TensorKind::Output),
        (Slot::FfnGain, Slot::GradFfnGain, TensorKind::FfnNorm, TensorKind::FfnNorm),
        (Slot::GateUpWeight, Slot::GradGateUpWeight, TensorKind::Gate, TensorKind::Up),
        (Slot::DownWeight, Slot::GradDownWeight, TensorKind::Down, TensorKind::Down),
        (Slot::FinalGain, Slot::GradFinalGain, TensorKind::FinalNorm, TensorKind::FinalNorm),
        (Slot::HeadWeight, Slot::GradHeadWeight, TensorKind::Head, TensorKind::Head),
        (Slot::HeadBias, Slot::GradHeadBias, TensorKind::HeadBias, TensorKind::HeadBias),
    ];
    let place =
        |(weight, gradient, first, last)| Some((weight, gradient, layout.find(first)?.start..layout.find(last)?.end));
    groups.into_iter().filter_map(place).collect()
}
