//! An executor that computes with hashes instead of numbers: everything depends on everything it should, and on the order.

use std::collections::{BTreeMap, BTreeSet};

use neuroshard_core::proto::{
    BatchOutcome, Commitment, Domain, F32, Fault, Hash, Hasher, Job, LayerBlobs, LayerRange, Micro, Passed, Returned,
    Sample, Snapshot, Step, Turned, VoidReason,
};

/// One machine.
#[derive(Default)]
pub(crate) struct Executor {
    range: Option<LayerRange>,
    step: Step,
    weights: Vec<Hash>,
    gradients: Vec<Hash>,
    /// Streams kept for backward passes: what entered each stage.
    held: BTreeMap<Micro, Vec<Hash>>,
    /// Batches in which a value leaves its range here.
    pub(crate) voids: BTreeSet<u64>,
}

/// Blobs by address; here a blob is its address.
pub(crate) type Blobs = BTreeSet<Hash>;

fn mix(name: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Hasher::new(Domain::Stream);
    hasher.update(name.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

fn number(hash: &Hash) -> u64 {
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

fn sample_bytes(sample: &Sample) -> Vec<u8> {
    neuroshard_core::proto::codec::encode(sample)
}

impl Executor {
    fn stages(&self) -> usize {
        self.weights.len()
    }

    pub(crate) fn weights(&self) -> &[Hash] {
        &self.weights
    }

    fn take_up(&mut self, range: LayerRange, step: Step, weights: Vec<Hash>) {
        (self.range, self.step) = (Some(range), step);
        self.gradients = vec![Hash::default(); weights.len()];
        self.weights = weights;
        self.held.clear();
    }

    fn norms(&self) -> Vec<F32> {
        // Any bits will do, as long as they depend on the gradients.
        self.gradients.iter().map(|one| F32::from_bits((number(one) as u32) & 0x3fff_ffff)).collect()
    }

    fn clear(&mut self) {
        self.gradients.iter_mut().for_each(|gradient| *gradient = Hash::default());
        self.held.clear();
    }

    fn forward(&mut self, micro: Micro, input: Hash) -> Hash {
        let mut entering = Vec::new();
        let mut stream = input;
        for weight in &self.weights {
            entering.push(stream);
            stream = mix("forward", &[weight.as_bytes(), stream.as_bytes()]);
        }
        self.held.insert(micro, entering);
        stream
    }

    fn backward(&mut self, micro: Micro, gradient: Hash) -> Hash {
        let entering = self.held.remove(&micro).expect("a forward pass came before");
        let mut gradient = gradient;
        for stage in (0..self.stages()).rev() {
            let parts = [self.weights[stage], entering[stage], gradient];
            let parts = parts.each_ref().map(Hash::as_bytes);
            let sum = mix("add", &[self.gradients[stage].as_bytes(), parts[0], parts[1], parts[2]]);
            gradient = mix("backward", &[parts[0], parts[1], parts[2]]);
            self.gradients[stage] = sum;
        }
        gradient
    }

    fn turn(&mut self, micro: Micro, input: Hash, sample: &Sample) -> (i64, Hash) {
        let out = self.forward(micro, input);
        let loss = mix("loss", &[out.as_bytes(), &sample_bytes(sample)]);
        ((number(&loss) % 6_000_000) as i64, self.backward(micro, loss))
    }

    fn snapshot(&self, blobs: &mut Blobs) -> Snapshot {
        let step = self.step;
        let blob = |what: &str, weight: &Hash| mix(what, &[weight.as_bytes(), &step.0.to_le_bytes()]);
        let layer = |weight: &Hash| {
            let (root, moments) = (mix("root", &[weight.as_bytes()]), blob("moments", weight));
            LayerBlobs { root, weights: *weight, moments }
        };
        let layers: Vec<LayerBlobs> = self.weights.iter().map(layer).collect();
        blobs.extend(layers.iter().flat_map(|layer| [layer.weights, layer.moments]));
        Snapshot::of_stages(step, layers.try_into().unwrap(), 1)
    }

    pub(crate) fn run(&mut self, job: &Job, blobs: &mut Blobs) -> Result<Commitment, Fault> {
        let at = |step: &Step| {
            (self.range.is_some() && self.step == *step)
                .then_some(())
                .ok_or(Fault::WrongStep { expected: *step, at: self.range.map(|_| self.step) })
        };
        let enters = |input: &Option<Hash>, sample: &Sample| match input {
            Some(hash) if blobs.contains(hash) => Ok(*hash),
            Some(hash) => Err(Fault::BlobMissing { hash: *hash }),
            None => Ok(mix("embed", &[&sample_bytes(sample)])),
        };
        Ok(match job {
            Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 900 },
            Job::Init { range, seed, .. } => {
                let weights = range.iter().map(|layer| mix("init", &[seed.as_bytes(), &layer.0.to_le_bytes()]));
                self.take_up(*range, Step(0), weights.collect());
                Commitment::Ready { step: Step(0), root: self.snapshot(&mut Blobs::new()).root }
            }
            Job::Load { range, snapshot, .. } => {
                let weights: Vec<Hash> = snapshot.layers.iter().map(|layer| layer.weights).collect();
                if let Some(hash) = weights.iter().find(|hash| !blobs.contains(hash)) {
                    return Err(Fault::BlobMissing { hash: *hash });
                }
                self.take_up(*range, snapshot.step, weights);
                Commitment::Ready { step: snapshot.step, root: snapshot.root }
            }
            Job::Train { step, batch, samples, .. } => {
                at(step)?;
                self.clear();
                let mut loss_micro = 0;
                for (index, sample) in (0..).zip(samples) {
                    let input = mix("embed", &[&sample_bytes(sample)]);
                    loss_micro += self.turn(Micro { batch: *batch, index }, input, sample).0;
                }
                let (tokens, squared_norms) = (samples.len() as u64 * 8, self.norms().try_into().unwrap());
                Commitment::Batch(BatchOutcome::Done { loss_micro, tokens, squared_norms })
            }
            Job::Forward { step, micro, fresh, sample, input, .. } => {
                at(step)?;
                let input = enters(input, sample)?;
                if *fresh {
                    self.clear();
                }
                if self.voids.remove(&micro.batch.0) {
                    return Ok(Commitment::Forward(Passed::Void(VoidReason::OutOfRange)));
                }
                let output = self.forward(*micro, input);
                blobs.insert(output);
                Commitment::Forward(Passed::Done { output })
            }
            Job::Turn { step, micro, fresh, sample, input, .. } => {
                at(step)?;
                let entering = enters(input, sample)?;
                if *fresh {
                    self.clear();
                }
                let (loss_micro, gradient) = self.turn(*micro, entering, sample);
                let gradient = input.map(|_| gradient);
                blobs.extend(gradient);
                Commitment::Turn(Turned::Done { loss_micro, tokens: 8, gradient })
            }
            Job::Backward { step, micro, gradient } => {
                at(step)?;
                if !blobs.contains(gradient) {
                    return Err(Fault::BlobMissing { hash: *gradient });
                }
                let back = self.backward(*micro, *gradient);
                let gradient = self.range.filter(|range| range.start > 0).map(|_| back);
                blobs.extend(gradient);
                Commitment::Backward(Returned::Done { gradient })
            }
            Job::Norms { step, .. } => {
                at(step)?;
                Commitment::Norms { step: *step, squared_norms: Some(self.norms().try_into().unwrap()) }
            }
            Job::Step { step, squared_norms, .. } => {
                at(step)?;
                let norms: Vec<u8> = squared_norms.iter().flat_map(|norm| norm.to_bits().to_le_bytes()).collect();
                for (weight, gradient) in self.weights.iter_mut().zip(&self.gradients) {
                    *weight = mix("step", &[weight.as_bytes(), gradient.as_bytes(), &norms]);
                }
                self.clear();
                self.step = step.next();
                Commitment::Step { step: self.step, norm: F32::from_bits(norms.len() as u32) }
            }
            Job::Evaluate { step, .. } => {
                at(step)?;
                Commitment::Evaluation { step: *step, loss_micro: Some(1), tokens: 1 }
            }
            Job::Snapshot { step } => {
                at(step)?;
                Commitment::Snapshot(self.snapshot(blobs))
            }
        })
    }
}
