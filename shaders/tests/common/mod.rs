//! What the tests of engines share: toy models, random numbers, and a training run in a few lines.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod pipeline;

use neuroshard_proto::{F32, Hash, LayerIndex, ModelSpec, Schedule, Stream};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::layout::LayerLayout;

/// Small, with every ratio of the presets: grouped heads, a feed-forward and a vocabulary that fit no tile.
pub const TOY: ModelSpec = ModelSpec {
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

pub fn bits(x: f32) -> F32 {
    F32::from_bits(x.to_bits())
}

pub fn single(x: F32) -> f32 {
    f32::from_bits(x.to_bits())
}

/// The schedule of the `step`-th step, counted from 1.
pub fn schedule(step: i32, rate: f32, weight_decay: f32) -> Schedule {
    Schedule {
        rate: bits(rate),
        beta1: bits(0.9),
        beta1_rest: bits(0.1),
        beta2: bits(0.95),
        beta2_rest: bits(0.05),
        correction1: bits(1.0 / (1.0 - 0.9_f32.powi(step))),
        correction2: bits(1.0 / (1.0 - 0.95_f32.powi(step))),
        epsilon: bits(1e-8),
        weight_decay: bits(weight_decay),
        clip: bits(1.0),
    }
}

/// The first weights of a stage.
pub fn first_weights(model: &ModelSpec, layer: LayerIndex) -> Vec<f32> {
    let layout = LayerLayout::new(model, layer);
    let mut weights = vec![0; layout.elements];
    for tensor in &layout.tensors {
        tensor.spec.fill_init(model, &Hash::default(), layer, 0, &mut weights[tensor.range.clone()]);
    }
    weights.into_iter().map(f32::from_bits).collect()
}

/// Puts a model's first weights into an engine.
pub fn load<E: Engine + ?Sized>(engine: &mut E, model: &ModelSpec) {
    engine.allocate(model, model.all_layers()).unwrap();
    for layer in model.all_layers().iter() {
        engine.write(Part::Weights, layer, &first_weights(model, layer)).unwrap();
    }
}

/// Everything an engine holds.
pub fn state<E: Engine + ?Sized>(engine: &mut E, model: &ModelSpec) -> Vec<Vec<u32>> {
    let mut state = Vec::new();
    for layer in model.all_layers().iter() {
        for part in Part::ALL {
            let mut values = vec![0.0; LayerLayout::new(model, layer).elements];
            engine.read(part, layer, &mut values).unwrap();
            state.push(values.into_iter().map(f32::to_bits).collect());
        }
    }
    state
}

/// Random numbers for tests.
#[derive(Clone, Debug)]
pub struct Random(Stream);

impl Random {
    pub fn new(index: u64) -> Self {
        Self(Stream::new(&Hash::default(), "test", index))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// A number between -1 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.0.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub fn tokens(&mut self, model: &ModelSpec, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(model.vocab as usize) as u32).collect()
    }

    pub fn batch(&mut self, model: &ModelSpec, sequences: usize, sequence: u32) -> TokenBatch {
        let count = sequences * sequence as usize;
        TokenBatch { sequence, inputs: self.tokens(model, count), targets: self.tokens(model, count) }
    }
}

/// One step on one batch: the loss and the squared norms' bits.
pub fn train_step<E: Engine + ?Sized>(engine: &mut E, batch: &TokenBatch, step: i32) -> (i64, Vec<F32>) {
    let weight = F32::from_ratio(1, batch.inputs.len() as u128);
    let Trained::Done { loss_micro, squared_norms } = engine.train(batch, true, weight).unwrap() else {
        panic!("the batch is in range")
    };
    let total = squared_norms.iter().fold(0.0, |total, norm| total + single(*norm));
    engine.step(weight, bits(total), &schedule(step, 1e-2, 0.1)).unwrap();
    (loss_micro, squared_norms)
}
