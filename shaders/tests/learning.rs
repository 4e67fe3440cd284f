//! The arithmetic learns: the smallest proof that forward, backward and optimizer belong together.

use neuroshard_proto::{F32, Hash, ModelSpec, Schedule};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::layout::LayerLayout;
use neuroshard_shaders::reference::Reference;

const TOY: ModelSpec = ModelSpec {
    layers: 2,
    hidden: 32,
    heads: 4,
    kv_heads: 2,
    ffn: 48,
    context: 32,
    vocab: 29,
    rope_theta: 10_000,
    norm_eps_pico: 1_000_000,
};

fn f32_bits(x: f32) -> F32 {
    F32::from_bits(x.to_bits())
}

fn schedule(step: i32, rate: f32) -> Schedule {
    Schedule {
        rate: f32_bits(rate),
        beta1: f32_bits(0.9),
        beta1_rest: f32_bits(0.1),
        beta2: f32_bits(0.95),
        beta2_rest: f32_bits(0.05),
        correction1: f32_bits(1.0 / (1.0 - 0.9_f32.powi(step))),
        correction2: f32_bits(1.0 / (1.0 - 0.95_f32.powi(step))),
        epsilon: f32_bits(1e-8),
        weight_decay: f32_bits(0.0),
        clip: f32_bits(1.0),
    }
}

fn toy<E: Engine>(mut engine: E) -> E {
    engine.allocate(&TOY, TOY.all_layers()).unwrap();
    for layer in TOY.all_layers().iter() {
        let layout = LayerLayout::new(&TOY, layer);
        let mut bits = vec![0; layout.elements];
        for tensor in &layout.tensors {
            tensor.spec.fill_init(&TOY, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
        }
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        engine.write(Part::Weights, layer, &values).unwrap();
    }
    engine
}

#[test]
fn one_batch_is_learned_by_heart() {
    let mut engine = toy(Reference::<false>::default());
    let tokens: Vec<u32> = (0..33_u32).map(|i| (i * i * 7 + i * 3) % 29).collect();
    let batch = TokenBatch { sequence: 16, inputs: tokens[..32].to_vec(), targets: tokens[1..].to_vec() };
    let weight = F32::from_ratio(1, 32);
    let mut loss = f64::NAN;
    for step in 1..=150 {
        let Trained::Done { loss_micro, squared_norms } = engine.train(&batch, true, weight).unwrap() else {
            panic!("in range")
        };
        loss = loss_micro as f64 / 32e6;
        if step == 1 {
            assert!((loss - 29_f64.ln()).abs() < 0.1, "{loss}");
        }
        let total = squared_norms.iter().map(|norm| f32::from_bits(norm.to_bits())).sum();
        engine.step(weight, f32_bits(total), &schedule(step, 1e-2)).unwrap();
    }
    assert!(loss < 0.05, "{loss}");
}
