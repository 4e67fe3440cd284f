//! The arithmetic against the mathematics: an independent model in double precision, its central differences, the operation
//! table in double precision, and numbers that an independent program made (benches/peers/fixture.py).

mod common;
#[path = "common/model64.rs"]
mod model64;
#[path = "common/table64.rs"]
mod table64;

use common::{Random, bits};
use neuroshard_proto::ops::{self, Call, Op, Slot};
use neuroshard_proto::{DType, F32, LayerIndex, ModelSpec, Schedule};
use neuroshard_shaders::canon::bf;
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::infer::Generator;
use neuroshard_shaders::layout::{LayerLayout, tensor_slots};
use neuroshard_shaders::optimizer::Rates;
use neuroshard_shaders::reference;
use neuroshard_shaders::values::{Shape, Value, Values};
use table64::{Shape64, Values64};

/// Small enough to differentiate one parameter at a time; every ratio of the presets occurs.
const MODEL: ModelSpec = ModelSpec {
    layers: 2,
    hidden: 16,
    heads: 4,
    kv_heads: 2,
    ffn: 24,
    context: 12,
    vocab: 13,
    rope_theta: 10_000,
    norm_eps_pico: 1_000_000,
};
const SEQUENCE: u32 = 12;

/// Weights by a formula that other programs can repeat: the n-th parameter is `h / 2^24 - 1/2` with
/// `h = (2654435761 n + 12345 mod 2^32) >> 8`, halved for matrices and the bias, and `1 +` a quarter of it for gains.
fn weights(model: &ModelSpec) -> Vec<Vec<f32>> {
    let mut n = 0_u32;
    let mut stage = |layer: LayerIndex| {
        let layout = LayerLayout::new(model, layer);
        let mut values = Vec::with_capacity(layout.elements);
        for tensor in &layout.tensors {
            for _ in tensor.range.clone() {
                let unit = (n.wrapping_mul(2_654_435_761).wrapping_add(12_345) >> 8) as f32 / 16_777_216.0 - 0.5;
                let gain = tensor.spec.rows == 1 && tensor.spec.kind != neuroshard_proto::TensorKind::HeadBias;
                values.push(if gain { 1.0 + 0.25 * unit } else { 0.5 * unit });
                n += 1;
            }
        }
        values
    };
    model.all_layers().iter().map(&mut stage).collect()
}

fn wide(weights: &[Vec<f32>]) -> Vec<Vec<f64>> {
    weights.iter().map(|stage| stage.iter().map(|w| f64::from(*w)).collect()).collect()
}

fn batch() -> TokenBatch {
    let tokens: Vec<u32> = (0..=2 * SEQUENCE).map(|i| (i * i * 5 + i * 3 + 1) % MODEL.vocab).collect();
    let count = 2 * SEQUENCE as usize;
    TokenBatch { sequence: SEQUENCE, inputs: tokens[..count].to_vec(), targets: tokens[1..].to_vec() }
}

/// The gradient of the summed loss by the operation table in double precision: one vector a stage.
fn table_gradient(weights: &[Vec<f64>], batch: &TokenBatch) -> (f64, Vec<Vec<f64>>) {
    let shape = Shape64::new(&MODEL, SEQUENCE as usize, batch.inputs.len());
    let whole = |tokens: &[u32]| tokens.iter().map(|token| f64::from(*token)).collect::<Vec<_>>();
    let mut stages: Vec<Values64> = Vec::new();
    for (layer, weights) in MODEL.all_layers().iter().zip(weights) {
        let mut values = Values64::new();
        for (weight, gradient, range) in tensor_slots(&LayerLayout::new(&MODEL, layer)) {
            values.insert(weight, weights[range.clone()].to_vec());
            values.insert(gradient, vec![0.0; range.len()]);
        }
        values.insert(Slot::Tokens, whole(&batch.inputs));
        values.insert(Slot::Targets, whole(&batch.targets));
        match stages.last() {
            None => table64::run(&ops::EMBED, &shape, &mut values),
            Some(below) => drop(values.insert(Slot::Input, below[&Slot::Output].clone())),
        }
        let last = layer.0 == MODEL.layers;
        table64::run(if last { &ops::HEAD_FORWARD } else { &ops::LAYER_FORWARD }, &shape, &mut values);
        stages.push(values);
    }
    let loss = stages.last().map(|head| head[&Slot::Loss].iter().sum()).unwrap_or_default();
    let mut gradients = Vec::new();
    let mut above: Option<Vec<f64>> = None;
    for (layer, values) in MODEL.all_layers().iter().rev().zip(stages.iter_mut().rev()) {
        match above.take() {
            None => table64::run(&ops::HEAD_BACKWARD, &shape, values),
            Some(gradient) => {
                values.insert(Slot::GradOutput, gradient);
                table64::run(&ops::LAYER_BACKWARD, &shape, values);
            }
        }
        if layer.0 == 0 {
            table64::run(&ops::EMBED_BACKWARD, &shape, values);
        }
        above = Some(values[&Slot::GradInput].clone());
        let mut gradient = vec![0.0; weights[layer.0 as usize].len()];
        for (_, slot, range) in tensor_slots(&LayerLayout::new(&MODEL, layer)) {
            gradient[range].copy_from_slice(&values[&slot]);
        }
        gradients.insert(0, gradient);
    }
    (loss, gradients)
}

/// The length of the difference over the length of what is wanted.
fn distance(got: impl IntoIterator<Item = f64>, wanted: impl IntoIterator<Item = f64>) -> f64 {
    let (mut apart, mut length) = (0.0, 0.0);
    for (got, wanted) in got.into_iter().zip(wanted) {
        apart += (got - wanted).powi(2);
        length += wanted.powi(2);
    }
    (apart / length.max(1e-300)).sqrt()
}

#[test]
fn the_backward_pass_is_the_derivative_of_the_independent_model() {
    let (weights, batch) = (wide(&weights(&MODEL)), batch());
    let loss = |weights: &[Vec<f64>]| model64::loss(&MODEL, weights, SEQUENCE as usize, &batch.inputs, &batch.targets);
    let (table_loss, gradient) = table_gradient(&weights, &batch);
    assert!((table_loss / loss(&weights) - 1.0).abs() < 1e-12);
    let mut random = Random::new(21);
    // Every tensor along random directions, which touch all of its elements.
    for layer in MODEL.all_layers().iter() {
        let stage = layer.0 as usize;
        for tensor in LayerLayout::new(&MODEL, layer).tensors {
            if !tensor.spec.kind.is_trained() {
                assert!(gradient[stage][tensor.range.clone()].iter().all(|g| *g == 0.0));
                continue;
            }
            for _ in 0..3 {
                let direction: Vec<f64> = tensor.range.clone().map(|_| f64::from(random.unit())).collect();
                let shifted = |step: f64| {
                    let mut weights = weights.clone();
                    weights[stage][tensor.range.clone()].iter_mut().zip(&direction).for_each(|(w, d)| *w += step * d);
                    loss(&weights)
                };
                // Five points: the error is of the fourth order.
                let step = 1e-3;
                let difference = (8.0 * (shifted(step) - shifted(-step))
                    - (shifted(2.0 * step) - shifted(-2.0 * step)))
                    / (12.0 * step);
                let own = &gradient[stage][tensor.range.clone()];
                let slope: f64 = own.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let scale = own.iter().map(|g| g * g).sum::<f64>().sqrt();
                let error = (difference - slope).abs() / slope.abs().max(0.1 * scale);
                assert!(error < 1e-6, "{:?} of stage {stage}: {error:e}", tensor.spec.kind);
            }
        }
    }
}

/// Runs the engine's backward pass and reads the gradient of the summed loss out of the first moments.
fn engine_gradient(weights: &[Vec<f32>], batch: &TokenBatch) -> (f64, Vec<Vec<f32>>) {
    let mut engine = CpuEngine::new(Options { threads: 2, ..Options::default() }).unwrap();
    engine.allocate(&MODEL, MODEL.all_layers()).unwrap();
    for (layer, weights) in MODEL.all_layers().iter().zip(weights) {
        engine.write(Part::Weights, layer, weights).unwrap();
    }
    let Trained::Done { loss_micro, .. } = engine.train(batch, true, F32::ONE).unwrap() else { panic!("in range") };
    // With a first moment that forgets at once, it is the gradient.
    let one = F32::ONE;
    let forget = Schedule {
        rate: F32::ZERO,
        beta1: F32::ZERO,
        beta1_rest: one,
        beta2: F32::ZERO,
        beta2_rest: one,
        correction1: one,
        correction2: one,
        epsilon: one,
        weight_decay: F32::ZERO,
        clip: bits(1e6),
    };
    engine.step(one, one, &forget).unwrap();
    let read = |layer: LayerIndex| {
        let mut gradient = vec![0.0; weights[layer.0 as usize].len()];
        engine.read(Part::Moments1, layer, &mut gradient).unwrap();
        gradient
    };
    (loss_micro as f64 * 1e-6, MODEL.all_layers().iter().map(read).collect())
}

/// Compares gradients as a whole, and tensor by tensor with room for those small ones in which most terms cancel.
fn compare_gradients(got: &[Vec<f32>], wanted: &[Vec<f64>]) {
    let all = got.concat().into_iter().map(f64::from);
    let error = distance(all, wanted.concat());
    assert!(error < 1e-2, "the whole gradient: {error:e}");
    for layer in MODEL.all_layers().iter() {
        let stage = layer.0 as usize;
        for tensor in LayerLayout::new(&MODEL, layer).tensors {
            let got = got[stage][tensor.range.clone()].iter().map(|g| f64::from(*g));
            let error = distance(got, wanted[stage][tensor.range.clone()].iter().copied());
            assert!(error < 2e-2, "{:?} of stage {stage}: {error:e}", tensor.spec.kind);
        }
    }
}

#[test]
fn the_canonical_model_is_near_the_mathematics() {
    let (weights, batch) = (weights(&MODEL), batch());
    let (loss, gradient) = engine_gradient(&weights, &batch);
    let (wanted_loss, wanted) = table_gradient(&wide(&weights), &batch);
    assert!((loss / wanted_loss - 1.0).abs() < 1e-3, "{loss} {wanted_loss}");
    compare_gradients(&gradient, &wanted);
}

/// Largest difference over largest value.
fn apart(got: &[f64], wanted: &[f64]) -> f64 {
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |most: f64, x| most.max(x.abs()));
    most(&mut got.iter().zip(wanted).map(|(a, b)| a - b)) / most(&mut wanted.iter().copied()).max(1e-300)
}

#[test]
fn every_canonical_operation_is_near_the_mathematics() {
    let programs: [&[Call]; 6] = [
        &ops::EMBED,
        &ops::LAYER_FORWARD,
        &ops::HEAD_FORWARD,
        &ops::HEAD_BACKWARD,
        &ops::LAYER_BACKWARD,
        &ops::EMBED_BACKWARD,
    ];
    let (shape, shape64) = (Shape::new(&MODEL, 12, 24), Shape64::new(&MODEL, 12, 24));
    let mut random = Random::new(22);
    for call in programs.into_iter().flatten() {
        let operand = |slot: &Slot| {
            let (rows, cols, dtype) = slot.shape();
            let count = shape.dim(rows) * shape.dim(cols);
            let value = match dtype {
                DType::I32 => Value::Int((0..count).map(|_| random.below(13) as i32).collect()),
                DType::Bf16 => Value::Float((0..count).map(|_| bf(random.unit())).collect()),
                DType::F32 => Value::Float((0..count).map(|_| random.unit()).collect()),
            };
            (*slot, value)
        };
        let mut values: Values = call.reads.iter().map(operand).collect();
        if call.op == Op::AttentionBackward {
            // What the forward pass kept belongs to the same queries and keys.
            let forward = ops::LAYER_FORWARD.iter().find(|call| call.op == Op::Attention).unwrap();
            assert!(reference::apply::<false>(forward, &shape, &mut values));
        }
        let exact = |value: &Value| match value {
            Value::Float(values) => values.iter().map(|x| f64::from(*x)).collect(),
            Value::Int(values) => values.iter().map(|x| f64::from(*x)).collect(),
        };
        let mut values64: Values64 = values.iter().map(|(slot, value)| (*slot, exact(value))).collect();
        assert!(reference::apply::<false>(call, &shape, &mut values));
        table64::apply(call, &shape64, &mut values64);
        for slot in call.writes {
            let mut got: Vec<f64> = exact(&values[slot]);
            if *slot == Slot::Loss {
                got.iter_mut().for_each(|loss| *loss *= 1e-6);
            }
            let error = apart(&got, &values64[slot]);
            assert!(error < 1e-2, "{:?} makes {slot:?}: {error:e}", call.op);
        }
    }
}

#[test]
fn the_optimizer_is_near_the_mathematics() {
    let mut random = Random::new(23);
    let mut cpu = CpuEngine::new(Options { threads: 2, ..Options::default() }).unwrap();
    let (count, weight, schedule) = (1000, 1.0 / 64.0, common::schedule(3, 1e-2, 0.1));
    let mut draw = |scale: f32| (0..count).map(|_| scale * random.unit()).collect::<Vec<f32>>();
    let [gradient, w, m] = [draw(40.0), draw(0.1), draw(0.01)];
    let v: Vec<f32> = draw(0.01).into_iter().map(|v| v * v).collect();
    let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let squared: f64 = wide(&gradient).iter().map(|g| (g * weight).powi(2)).sum();
    let norm = cpu.sum_squares(&gradient, bits(weight as f32)).unwrap().unwrap();
    assert!((f64::from(common::single(norm)) / squared - 1.0).abs() < 1e-5);
    assert!(squared > 1.5, "the gradient is clipped");
    for decay in [true, false] {
        let rates = Rates::new(&schedule, bits(weight as f32), norm);
        let mut parts = [w.clone(), m.clone(), v.clone()];
        cpu.adamw(&rates, decay, parts.each_mut().map(Vec::as_mut_slice), &gradient).unwrap();
        let mut wanted = [wide(&w), wide(&m), wide(&v)];
        for i in 0..count {
            let g = f64::from(gradient[i]) * weight / squared.sqrt();
            wanted[1][i] = 0.9 * wanted[1][i] + 0.1 * g;
            wanted[2][i] = 0.95 * wanted[2][i] + 0.05 * g * g;
            let mean = wanted[1][i] / (1.0 - 0.9_f64.powi(3));
            let spread = (wanted[2][i] / (1.0 - 0.95_f64.powi(3))).sqrt();
            let pull = if decay { 0.1 * wanted[0][i] } else { 0.0 };
            wanted[0][i] -= 1e-2 * (mean / (spread + 1e-8) + pull);
        }
        for (got, wanted) in parts.iter().zip(&wanted) {
            assert!(apart(&wide(got), wanted) < 1e-5);
        }
    }
}

#[test]
fn decay_pulls_at_matrices_and_at_nothing_else() {
    let weights = weights(&MODEL);
    let mut cpu = CpuEngine::new(Options { threads: 2, ..Options::default() }).unwrap();
    cpu.allocate(&MODEL, MODEL.all_layers()).unwrap();
    for (layer, weights) in MODEL.all_layers().iter().zip(&weights) {
        cpu.write(Part::Weights, layer, weights).unwrap();
    }
    // Without gradients, only decay moves a weight.
    cpu.step(F32::ONE, F32::ONE, &common::schedule(1, 0.5, 0.5)).unwrap();
    for (layer, before) in MODEL.all_layers().iter().zip(&weights) {
        let mut after = vec![0.0; before.len()];
        cpu.read(Part::Weights, layer, &mut after).unwrap();
        for tensor in LayerLayout::new(&MODEL, layer).tensors {
            let factor = if tensor.spec.kind.decays() { 0.75 } else { 1.0 };
            for i in tensor.range {
                assert!((after[i] - factor * before[i]).abs() <= 1e-6, "{:?}", tensor.spec.kind);
            }
        }
    }
}

/// The fixture's sections by name.
fn fixture() -> std::collections::BTreeMap<&'static str, Vec<f64>> {
    let mut sections = std::collections::BTreeMap::<_, Vec<f64>>::new();
    let mut name = "";
    for line in include_str!("fixtures/llama64.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(title) => name = title.trim_end_matches(']'),
            None => sections.entry(name).or_default().extend(line.split(' ').map(|x| x.parse::<f64>().unwrap())),
        }
    }
    sections
}

#[test]
fn logits_and_gradients_agree_with_an_independent_llama() {
    let (weights, batch, fixture) = (weights(&MODEL), batch(), fixture());
    // The batch is the same.
    let tokens: Vec<f64> = batch.inputs.iter().map(|token| f64::from(*token)).collect();
    assert_eq!(fixture["inputs"], tokens);
    // Double precision agrees to the fixture's own precision.
    let logits: Vec<f64> = batch
        .inputs
        .chunks(SEQUENCE as usize)
        .flat_map(|tokens| model64::logits(&MODEL, &wide(&weights), tokens).concat())
        .collect();
    assert!(apart(&logits, &fixture["logits"]) < 1e-6, "{:e}", apart(&logits, &fixture["logits"]));
    let (loss64, gradient64) = table_gradient(&wide(&weights), &batch);
    assert!((loss64 / fixture["loss"][0] - 1.0).abs() < 1e-6);
    let mut wanted: Vec<Vec<f64>> =
        (0..=MODEL.layers).map(|stage| fixture[format!("gradient {stage}").as_str()].clone()).collect();
    // There the bias has a gradient; here it is not trained.
    let head = LayerLayout::new(&MODEL, LayerIndex(MODEL.layers));
    let bias = head.tensors.into_iter().find(|tensor| !tensor.spec.kind.is_trained()).unwrap();
    wanted.last_mut().unwrap()[bias.range].fill(0.0);
    assert!(distance(gradient64.concat(), wanted.concat()) < 1e-6);
    // And so does the canonical arithmetic, to its own.
    let (loss, gradient) = engine_gradient(&weights, &batch);
    assert!((loss / fixture["loss"][0] - 1.0).abs() < 1e-3);
    compare_gradients(&gradient, &wanted);
    let mut generator = Generator::new(&MODEL, &weights).unwrap();
    let mut got = Vec::new();
    for (index, token) in batch.inputs.iter().enumerate() {
        if index % SEQUENCE as usize == 0 {
            generator.clear();
        }
        got.extend(generator.feed(&[*token]).unwrap().iter().map(|logit| f64::from(*logit)));
    }
    assert!(apart(&got, &fixture["logits"]) < 1e-2, "{:e}", apart(&got, &fixture["logits"]));
}
