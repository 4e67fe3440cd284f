//! A model whose numbers are hashes: each value depends on everything it should and on the order, so that a pipeline that drops,
//! doubles or swaps anything comes to other weights than one node alone.

use std::collections::BTreeMap;

use neuroshard_proto::{Domain, F32, Hash, Hasher, LayerBlobs, LayerRange, Micro, Sample, Snapshot, Step, codec, tile};

/// Bytes that a snapshot is said to take.
const SNAPSHOT_BYTES: u64 = 1 << 20;

/// Some stages of a model, as one executor holds them.
#[derive(Debug)]
pub(crate) struct Model {
    range: LayerRange,
    pub(crate) step: Step,
    weights: Vec<Hash>,
    gradients: Vec<Hash>,
    /// What entered each stage, kept for backward passes.
    held: BTreeMap<Micro, Vec<Hash>>,
}

impl Model {
    /// The stages as a network begins with them.
    pub(crate) fn new(range: LayerRange, seed: &Hash) -> Self {
        let weights = range.iter().map(|layer| mix(b"init", &[seed, &number(u64::from(layer.0))]));
        Self::at(range, Step(0), weights.collect())
    }

    /// The stages of a snapshot.
    pub(crate) fn load(range: LayerRange, snapshot: &Snapshot) -> Self {
        Self::at(range, snapshot.step, snapshot.layers.iter().map(|layer| layer.root).collect())
    }

    fn at(range: LayerRange, step: Step, weights: Vec<Hash>) -> Self {
        Self { range, step, gradients: vec![Hash::default(); weights.len()], weights, held: BTreeMap::new() }
    }

    pub(crate) fn stages(&self) -> usize {
        self.weights.len()
    }

    /// Whether the model's first stage is among them: nothing goes back from there.
    pub(crate) const fn is_first(&self) -> bool {
        self.range.start == 0
    }

    /// Each stage's weights, by the stage's number.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (u32, Hash)> {
        self.range.iter().map(|layer| layer.0).zip(self.weights.iter().copied())
    }

    /// The root of the whole state, or of this part of it.
    pub(crate) fn root(&self) -> Hash {
        tile::model_state(self.step, &self.weights)
    }

    /// Begins a batch anew.
    pub(crate) fn clear(&mut self) {
        self.gradients.fill(Hash::default());
        self.held.clear();
    }

    /// What enters the first stage of a model.
    pub(crate) fn embed(sample: &Sample) -> Hash {
        mix(b"embed", &[&Hash::of_blob(&codec::encode(sample))])
    }

    pub(crate) fn forward(&mut self, micro: Micro, input: Hash) -> Hash {
        let mut entering = Vec::with_capacity(self.weights.len());
        let mut stream = input;
        for weight in &self.weights {
            entering.push(stream);
            stream = mix(b"forward", &[weight, &stream]);
        }
        self.held.insert(micro, entering);
        stream
    }

    /// The gradient that goes back; `None` if no forward pass came before.
    pub(crate) fn backward(&mut self, micro: Micro, gradient: Hash) -> Option<Hash> {
        let entering = self.held.remove(&micro)?;
        let mut gradient = gradient;
        for ((weight, sum), entered) in self.weights.iter().zip(&mut self.gradients).zip(entering).rev() {
            *sum = mix(b"add", &[sum, weight, &entered, &gradient]);
            gradient = mix(b"backward", &[weight, &entered, &gradient]);
        }
        Some(gradient)
    }

    /// Both passes through the last stages: the loss, and the gradient that goes back.
    pub(crate) fn turn(&mut self, micro: Micro, input: Hash, sample: &Sample) -> (i64, Hash) {
        let out = self.forward(micro, input);
        let loss = mix(b"loss", &[&out, &Hash::of_blob(&codec::encode(sample))]);
        (1_000_000 + (loss.short() % 4_000_000) as i64, self.backward(micro, loss).unwrap_or_default())
    }

    /// One for each stage. Any bits will do, as long as they depend on the gradients.
    pub(crate) fn squared_norms(&self) -> Vec<F32> {
        self.gradients.iter().map(|gradient| F32::from_bits(gradient.short() as u32 & 0x3fff_ffff)).collect()
    }

    /// The optimizer's step, with the norms of all stages.
    pub(crate) fn step(&mut self, squared_norms: &[F32]) {
        let norms: Vec<u8> = squared_norms.iter().flat_map(|norm| norm.to_bits().to_le_bytes()).collect();
        let norms = Hash::of_blob(&norms);
        for (weight, gradient) in self.weights.iter_mut().zip(&self.gradients) {
            *weight = mix(b"step", &[weight, gradient, &norms]);
        }
        self.clear();
        self.step = self.step.next();
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let blob = |what: &[u8], weight: &Hash| mix(what, &[weight, &number(self.step.0)]);
        let layers = self.weights.iter().map(|weight| {
            let (weights, moments) = (blob(b"weights", weight), blob(b"moments", weight));
            LayerBlobs { root: *weight, weights, moments }
        });
        let layers = layers.collect::<Vec<_>>().try_into().unwrap_or_default();
        Snapshot { step: self.step, root: self.root(), layers, bytes: SNAPSHOT_BYTES }
    }
}

fn mix(name: &[u8], parts: &[&Hash]) -> Hash {
    let mut hasher = Hasher::new(Domain::Stream);
    hasher.update(name);
    for part in parts {
        hasher.update(part.as_bytes());
    }
    hasher.finish()
}

fn number(number: u64) -> Hash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Hash::from_bytes(bytes)
}
