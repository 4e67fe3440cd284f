//! The operation table as an engine: slow, plain, and the oracle of the others.

use std::collections::BTreeMap;
use std::time::Instant;

use neuroshard_proto::ops::{self, Call, Dim, Slot};
use neuroshard_proto::{F32, Fault, LayerIndex, LayerRange, ModelSpec, Schedule};

use super::{apply, run, sum_squares};
use crate::canon::{bf, exceeds};
use crate::engine::{Engine, Entry, Part, TokenBatch, Trained, check_gradient, check_targets, check_whole};
use crate::layout::{LayerLayout, single, tensor_slots};
use crate::optimizer::Rates;
use crate::values::{Shape, Value, Values};

/// The reference engine.
#[derive(Clone, Debug, Default)]
pub struct Reference<const CONTRACT: bool> {
    state: Option<State>,
}

#[derive(Clone, Debug)]
struct State {
    model: ModelSpec,
    range: LayerRange,
    layers: Vec<LayerState>,
    /// Sequences that are to come back, by place.
    kept: BTreeMap<usize, Kept>,
}

/// A sequence after its forward pass: the values of each stage.
#[derive(Clone, Debug)]
struct Kept {
    shape: Shape,
    stages: Vec<Values>,
}

#[derive(Clone, Debug)]
struct LayerState {
    layout: LayerLayout,
    parts: [Vec<f32>; 3],
    gradient: Vec<f32>,
}

fn part_index(part: Part) -> usize {
    match part {
        Part::Weights => 0,
        Part::Moments1 => 1,
        Part::Moments2 => 2,
    }
}

impl LayerState {
    /// The values a program reads from the state: weights as operands, gains as they are, gradients as accumulators.
    fn lend(&self, values: &mut Values) -> bool {
        let mut fits = true;
        for (weight, gradient, range) in tensor_slots(&self.layout) {
            let own = &self.parts[0][range.clone()];
            let (_, _, dtype) = weight.shape();
            let operand = if dtype == neuroshard_proto::DType::Bf16 {
                fits &= !own.iter().any(|w| exceeds(*w));
                own.iter().map(|w| bf(*w)).collect()
            } else {
                own.to_vec()
            };
            values.insert(weight, Value::Float(operand));
            values.insert(gradient, Value::Float(self.gradient[range].to_vec()));
        }
        fits
    }

    fn take_gradients(&mut self, values: &Values) {
        for (_, gradient, range) in tensor_slots(&self.layout) {
            self.gradient[range].copy_from_slice(values[&gradient].float());
        }
    }
}

impl State {
    fn shape(&self, sequence: usize, tokens: usize) -> Shape {
        Shape::new(&self.model, u32::try_from(sequence).unwrap_or(u32::MAX), tokens)
    }

    /// Whether the stage at this place of the range is the head.
    fn is_head(&self, index: usize) -> bool {
        self.range.start as usize + index == self.model.layers as usize
    }

    /// All values of a forward pass, stage by stage. `None` if one left its range.
    fn forward<const CONTRACT: bool>(&self, shape: &Shape, entry: Entry<'_>, targets: &[u32]) -> Option<Vec<Values>> {
        let ints = |tokens: &[u32]| Value::Int(tokens.iter().map(|token| token.cast_signed()).collect());
        let mut stages: Vec<Values> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let mut values = Values::new();
            let mut fits = layer.lend(&mut values);
            match (stages.last(), entry) {
                (Some(before), _) => drop(values.insert(Slot::Input, before[&Slot::Output].clone())),
                (None, Entry::Stream(stream)) => drop(values.insert(Slot::Input, Value::Float(stream.to_vec()))),
                (None, Entry::Tokens(tokens)) => {
                    values.insert(Slot::Tokens, ints(tokens));
                    fits &= run::<CONTRACT>(&ops::EMBED, shape, &mut values);
                }
            }
            let program: &[Call] = if self.is_head(index) {
                values.insert(Slot::Targets, ints(targets));
                &ops::HEAD_FORWARD
            } else {
                &ops::LAYER_FORWARD
            };
            if !(fits && run::<CONTRACT>(program, shape, &mut values)) {
                return None;
            }
            stages.push(values);
        }
        Some(stages)
    }

    /// From the gradient of the stream that left, or from the loss, to that of the stream that entered, which stands in the
    /// first stage's values. Returns whether every value stayed in its range.
    fn backward<const CONTRACT: bool>(&mut self, shape: &Shape, stages: &mut [Values], leaving: &[f32]) -> bool {
        let mut gradient = Value::Float(leaving.to_vec());
        for index in (0..stages.len()).rev() {
            let program: &[Call] = if self.is_head(index) { &ops::HEAD_BACKWARD } else { &ops::LAYER_BACKWARD };
            let values = &mut stages[index];
            // Other sequences may have added to the gradients since this one went forward.
            self.layers[index].lend(values);
            values.insert(Slot::GradOutput, gradient);
            let mut fits = run::<CONTRACT>(program, shape, values);
            if values.contains_key(&Slot::Tokens) {
                fits &= run::<CONTRACT>(&ops::EMBED_BACKWARD, shape, values);
            }
            if !fits {
                return false;
            }
            self.layers[index].take_gradients(values);
            gradient = values[&Slot::GradInput].clone();
        }
        true
    }

    fn clear(&mut self) {
        self.layers.iter_mut().for_each(|layer| layer.gradient.fill(0.0));
    }

    fn norms(&self, token_weight: F32) -> Option<Vec<F32>> {
        let norm = |layer: &LayerState| {
            let tensors = layer.layout.tensors.iter().map(|tensor| &layer.gradient[tensor.range.clone()]);
            let squares = tensors.map(|gradient| sum_squares(gradient, single(token_weight)));
            let squares = squares.collect::<Option<Vec<f32>>>()?;
            Some(F32::from_bits(squares.into_iter().fold(0.0, |sum: f32, s| sum + s).to_bits()))
        };
        self.layers.iter().map(norm).collect()
    }
}

impl<const CONTRACT: bool> Reference<CONTRACT> {
    fn state(&mut self) -> Result<&mut State, Fault> {
        self.state.as_mut().ok_or_else(|| Fault::device("no state is loaded"))
    }

    fn layer(&mut self, layer: LayerIndex) -> Result<&mut LayerState, Fault> {
        let state = self.state()?;
        let place = layer.0.checked_sub(state.range.start).map(|place| place as usize);
        let found = place.and_then(|place| state.layers.get_mut(place));
        found.ok_or_else(|| Fault::bad_job("the stage is not among those that are held"))
    }
}

/// Hands over the gradient of the stream that entered the first stage, if the caller wants it.
fn hand_over(stages: &[Values], entering: Option<&mut [f32]>) -> Result<(), Fault> {
    let (Some(first), Some(entering)) = (stages.first(), entering) else { return Ok(()) };
    let gradient = first[&Slot::GradInput].float();
    check_gradient(gradient.len(), entering.len())?;
    entering.copy_from_slice(gradient);
    Ok(())
}

fn total_loss(stages: &[Values]) -> i64 {
    let head = stages.last().map(|values| values[&Slot::Loss].int());
    head.unwrap_or_default().iter().map(|loss| i64::from(*loss)).sum()
}

impl<const CONTRACT: bool> Engine for Reference<CONTRACT> {
    fn describe(&self) -> String {
        format!("reference interpreter{}", if CONTRACT { ", contracting" } else { "" })
    }

    fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
        let layers = range.iter().map(|layer| {
            let layout = LayerLayout::new(model, layer);
            let zeros = vec![0.0; layout.elements];
            LayerState { layout, parts: [zeros.clone(), zeros.clone(), zeros.clone()], gradient: zeros }
        });
        let (layers, kept) = (layers.collect(), BTreeMap::new());
        self.state = Some(State { model: *model, range, layers, kept });
        Ok(())
    }

    fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
        self.layer(layer)?.parts[part_index(part)].copy_from_slice(values);
        Ok(())
    }

    fn read(&mut self, part: Part, layer: LayerIndex, out: &mut [f32]) -> Result<(), Fault> {
        out.copy_from_slice(&self.layer(layer)?.parts[part_index(part)]);
        Ok(())
    }

    fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault> {
        let state = self.state()?;
        check_whole(&state.model, state.range)?;
        let shape = state.shape(batch.sequence as usize, batch.inputs.len());
        if fresh {
            state.clear();
        }
        let entered = state.forward::<CONTRACT>(&shape, Entry::Tokens(&batch.inputs), &batch.targets);
        let Some(mut stages) = entered else { return Ok(Trained::Void) };
        let loss_micro = total_loss(&stages);
        if !state.backward::<CONTRACT>(&shape, &mut stages, &[]) {
            return Ok(Trained::Void);
        }
        let norms = state.norms(token_weight);
        Ok(norms.map_or(Trained::Void, |squared_norms| Trained::Done { loss_micro, squared_norms }))
    }

    fn clear(&mut self) -> Result<(), Fault> {
        self.state()?.clear();
        Ok(())
    }

    fn forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault> {
        let state = self.state()?;
        let sequence = entry.sequence(&state.model, state.range, false)?;
        let shape = state.shape(sequence, sequence);
        state.kept.remove(&place);
        let Some(mut stages) = state.forward::<CONTRACT>(&shape, entry, &[]) else { return Ok(false) };
        let left = stages.last().map_or(&[][..], |last| last[&Slot::Output].float());
        check_gradient(left.len(), output.len())?;
        output.copy_from_slice(left);
        stages.iter_mut().for_each(|values| values.retain(|slot, _| slot.shape().0 == Dim::Tokens));
        state.kept.insert(place, Kept { shape, stages });
        Ok(true)
    }

    fn backward(&mut self, place: usize, leaving: &[f32], entering: Option<&mut [f32]>) -> Result<bool, Fault> {
        let state = self.state()?;
        let kept = state.kept.remove(&place).ok_or_else(|| Fault::bad_job("nothing is kept in this place"))?;
        let Kept { shape, mut stages } = kept;
        check_gradient(shape.tokens * shape.dim(Dim::Hidden), leaving.len())?;
        let fits = state.backward::<CONTRACT>(&shape, &mut stages, leaving);
        if fits {
            hand_over(&stages, entering)?;
        }
        Ok(fits)
    }

    fn turn(&mut self, entry: Entry<'_>, targets: &[u32], entering: Option<&mut [f32]>) -> Result<Option<i64>, Fault> {
        let state = self.state()?;
        let sequence = entry.sequence(&state.model, state.range, true)?;
        check_targets(&state.model, sequence, targets)?;
        let shape = state.shape(sequence, sequence);
        let Some(mut stages) = state.forward::<CONTRACT>(&shape, entry, targets) else { return Ok(None) };
        let loss_micro = total_loss(&stages);
        if !state.backward::<CONTRACT>(&shape, &mut stages, &[]) {
            return Ok(None);
        }
        hand_over(&stages, entering)?;
        Ok(Some(loss_micro))
    }

    fn norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault> {
        Ok(self.state()?.norms(token_weight))
    }

    fn evaluate(&mut self, batch: &TokenBatch) -> Result<Option<i64>, Fault> {
        let state = self.state()?;
        check_whole(&state.model, state.range)?;
        let shape = state.shape(batch.sequence as usize, batch.inputs.len());
        let stages = state.forward::<CONTRACT>(&shape, Entry::Tokens(&batch.inputs), &batch.targets);
        Ok(stages.map(|stages| total_loss(&stages)))
    }

    fn step(&mut self, token_weight: F32, squared_norm: F32, schedule: &Schedule) -> Result<(), Fault> {
        let rates = Rates::new(schedule, token_weight, squared_norm);
        for layer in &mut self.state()?.layers {
            for tensor in &layer.layout.tensors {
                for i in tensor.range.clone() {
                    let [w, m, v] = [0, 1, 2].map(|part| layer.parts[part][i]);
                    let updated = rates.update(tensor.spec.kind.decays(), [w, m, v, layer.gradient[i]]);
                    layer.parts.iter_mut().zip(updated).for_each(|(part, value)| part[i] = value);
                }
            }
            layer.gradient.fill(0.0);
        }
        Ok(())
    }

    fn apply(&mut self, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault> {
        Ok(apply::<CONTRACT>(call, shape, values))
    }

    fn sum_squares(&mut self, gradient: &[f32], token_weight: F32) -> Result<Option<F32>, Fault> {
        Ok(sum_squares(gradient, single(token_weight)).map(|sum| F32::from_bits(sum.to_bits())))
    }

    fn adamw(&mut self, rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) -> Result<(), Fault> {
        let [weights, moments1, moments2] = parts;
        for (((w, m), v), g) in weights.iter_mut().zip(moments1).zip(moments2).zip(gradient) {
            [*w, *m, *v] = rates.update(decay, [*w, *m, *v, *g]);
        }
        Ok(())
    }

    fn benchmark(&mut self, model: &ModelSpec, sequence: u32, warmup: u32, runs: u32) -> Result<u64, Fault> {
        let layout = LayerLayout::new(model, LayerIndex(0));
        let shape = Shape::new(model, sequence, sequence as usize);
        let parts = [vec![0.01; layout.elements], Vec::new(), Vec::new()];
        let gradient = vec![0.0; layout.elements];
        let mut values = Values::new();
        LayerState { layout, parts, gradient }.lend(&mut values);
        values.insert(Slot::Input, Value::Float(vec![1.0; shape.tokens * shape.dim(Dim::Hidden)]));
        crate::timing::median_us(warmup, runs, || {
            let started = Instant::now();
            run::<CONTRACT>(&ops::LAYER_FORWARD, &shape, &mut values);
            Ok(started.elapsed())
        })
    }
}
