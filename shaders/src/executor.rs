//! Jobs in, commitments out: what stands between the core's requests and a device.

mod part;

use neuroshard_proto::{
    BatchOutcome, Commitment, DType, F32, Fault, Hash, Job, LayerBlobs, LayerIndex, LayerRange, ModelSpec, Sample,
    Snapshot, Step, TensorRef, VoidReason, tile,
};

use crate::canon;
use crate::engine::{Engine, Part, TokenBatch, Trained, check_whole};
use crate::layout::{LayerLayout, single};

use part::{Asked, Held};

/// The host's blob store, as an executor sees it.
pub trait Blobs {
    /// The bytes behind an address.
    ///
    /// # Errors
    /// [`Fault::BlobMissing`], [`Fault::BlobDamaged`] if the bytes do not have that hash, or [`Fault::Store`].
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault>;

    /// Stores bytes under their hash. They are durable when this returns.
    ///
    /// # Errors
    /// [`Fault::DiskFull`] or [`Fault::Store`].
    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault>;

    /// Keeps bytes under their hash until they are dropped or the process ends: what one stage of a pipeline makes for
    /// another.
    ///
    /// # Errors
    /// [`Fault::Store`] if there is no room.
    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault>;
}

/// Runs jobs on an engine. It holds the state of one model, or of some of its stages; a fault leaves that state as it was
/// unless it says otherwise.
pub struct Executor {
    engine: Box<dyn Engine>,
    resident: Option<Resident>,
    held: Held,
    /// Shards read lately, decoded.
    shards: ShardCache,
}

#[derive(Clone, Copy, Debug)]
struct Resident {
    model: ModelSpec,
    range: LayerRange,
    step: Step,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("engine", &self.describe()).field("resident", &self.resident).finish()
    }
}

impl Executor {
    pub fn new(engine: Box<dyn Engine>) -> Self {
        Self { engine, resident: None, held: Held::default(), shards: ShardCache::default() }
    }

    /// The device, for people.
    pub fn describe(&self) -> String {
        self.engine.describe()
    }

    /// Does a job.
    ///
    /// # Errors
    /// See [`Fault`]. A fault is the device's, the disk's or the job's own.
    pub fn run(&mut self, job: &Job, blobs: &mut dyn Blobs) -> Result<Commitment, Fault> {
        match job {
            Job::Init { model, range, seed } => self.init(model, *range, seed),
            Job::Load { model, range, snapshot } => self.load(model, *range, snapshot, blobs),
            Job::Benchmark { model, sequence, warmup, runs } => {
                checked(model, model.all_layers())?;
                if *sequence == 0 || *sequence > model.context {
                    return Err(Fault::bad_job("the benchmark's sequence does not fit the context"));
                }
                let layer_us = self.engine.benchmark(model, *sequence, *warmup, *runs)?;
                Ok(Commitment::Benchmark { layer_us })
            }
            Job::Train { step, batch: _, fresh, sequence, token_weight, samples } => {
                let resident = self.at(*step)?;
                check_whole(&resident.model, resident.range)?;
                let batch = self.shards.batch(&resident.model, *sequence, samples, blobs)?;
                let tokens = batch.inputs.len() as u64;
                if *fresh {
                    self.held.clear();
                }
                let outcome = match self.engine.train(&batch, *fresh, *token_weight)? {
                    Trained::Void => BatchOutcome::Void(VoidReason::OutOfRange),
                    Trained::Done { loss_micro, squared_norms } => {
                        let squared_norms = squared_norms.try_into().map_err(|_| Fault::bad_job("too many stages"))?;
                        BatchOutcome::Done { loss_micro, tokens, squared_norms }
                    }
                };
                Ok(Commitment::Batch(outcome))
            }
            Job::Step { step, token_weight, squared_norms, schedule } => {
                let resident = self.at(*step)?;
                if squared_norms.len() as u64 != u64::from(resident.model.layers) + 1 {
                    return Err(Fault::bad_job("a step takes one squared norm of each stage"));
                }
                let total = squared_norms.iter().fold(0.0, |sum: f32, norm| sum + single(*norm));
                self.held.clear();
                self.engine.step(*token_weight, F32::from_bits(total.to_bits()), schedule)?;
                let next = step.next();
                self.resident = Some(Resident { step: next, ..resident });
                Ok(Commitment::Step { step: next, norm: F32::from_bits(canon::sqrt(total).to_bits()) })
            }
            Job::Evaluate { step, sequence, samples } => {
                let resident = self.at(*step)?;
                check_whole(&resident.model, resident.range)?;
                let batch = self.shards.batch(&resident.model, *sequence, samples, blobs)?;
                let tokens = batch.inputs.len() as u64;
                let loss_micro = self.engine.evaluate(&batch)?;
                Ok(Commitment::Evaluation { step: *step, loss_micro, tokens })
            }
            Job::Snapshot { step } => self.snapshot(*step, blobs),
            Job::Forward { step, micro, fresh, sequence, sample, input } => {
                let (step, micro, fresh, sequence) = (*step, *micro, *fresh, *sequence);
                self.forward(Asked { step, micro, fresh, sequence, sample, input: input.as_ref() }, blobs)
            }
            Job::Turn { step, micro, fresh, sequence, sample, input } => {
                let (step, micro, fresh, sequence) = (*step, *micro, *fresh, *sequence);
                self.turn(Asked { step, micro, fresh, sequence, sample, input: input.as_ref() }, blobs)
            }
            Job::Backward { step, micro, gradient } => self.backward(*step, *micro, gradient, blobs),
            Job::Norms { step, token_weight } => self.norms(*step, *token_weight),
        }
    }

    fn at(&self, step: Step) -> Result<Resident, Fault> {
        match self.resident {
            Some(resident) if resident.step == step => Ok(resident),
            other => Err(Fault::WrongStep { expected: step, at: other.map(|resident| resident.step) }),
        }
    }

    fn init(&mut self, model: &ModelSpec, range: LayerRange, seed: &Hash) -> Result<Commitment, Fault> {
        checked(model, range)?;
        self.resident = None;
        self.held.clear();
        self.engine.allocate(model, range)?;
        for layer in range.iter() {
            let layout = LayerLayout::new(model, layer);
            let mut bits = vec![0_u32; layout.elements];
            for tensor in &layout.tensors {
                tensor.spec.fill_init(model, seed, layer, 0, &mut bits[tensor.range.clone()]);
            }
            self.engine.write(Part::Weights, layer, bytemuck::cast_slice(&bits))?;
        }
        self.resident = Some(Resident { model: *model, range, step: Step(0) });
        let root = tile::model_state(Step(0), &self.roots(Step(0))?);
        Ok(Commitment::Ready { step: Step(0), root })
    }

    fn load(
        &mut self,
        model: &ModelSpec,
        range: LayerRange,
        snapshot: &Snapshot,
        blobs: &mut dyn Blobs,
    ) -> Result<Commitment, Fault> {
        checked(model, range)?;
        if snapshot.layers.len() != range.iter().count() {
            return Err(Fault::bad_job("the snapshot does not hold the stages asked for"));
        }
        self.resident = None;
        self.held.clear();
        self.engine.allocate(model, range)?;
        for (layer, stored) in range.iter().zip(&snapshot.layers) {
            let elements = LayerLayout::new(model, layer).elements;
            let weights = floats(&stored.weights, elements, blobs)?;
            let moments = floats(&stored.moments, 2 * elements, blobs)?;
            self.engine.write(Part::Weights, layer, &weights)?;
            self.engine.write(Part::Moments1, layer, &moments[..elements])?;
            self.engine.write(Part::Moments2, layer, &moments[elements..])?;
        }
        self.resident = Some(Resident { model: *model, range, step: snapshot.step });
        let roots = self.roots(snapshot.step)?;
        let root = tile::model_state(snapshot.step, &roots);
        let stages = snapshot.layers.iter().map(|stage| stage.root).zip(roots);
        let wrong = stages.chain([(snapshot.root, root)]).find(|(expected, found)| expected != found);
        if let Some((expected, found)) = wrong {
            self.resident = None;
            return Err(Fault::RootMismatch { expected, found });
        }
        Ok(Commitment::Ready { step: snapshot.step, root })
    }

    fn snapshot(&mut self, step: Step, blobs: &mut dyn Blobs) -> Result<Commitment, Fault> {
        let Resident { model, range, .. } = self.at(step)?;
        let (mut layers, mut bytes) = (Vec::new(), 0);
        for layer in range.iter() {
            let layout = LayerLayout::new(&model, layer);
            let (mut values, mut tensors) = (vec![0.0_f32; 3 * layout.elements], Vec::new());
            for (part, out) in Part::ALL.into_iter().zip(values.chunks_exact_mut(layout.elements)) {
                self.engine.read(part, layer, out)?;
                tensors.extend(commit(&layout, out));
            }
            let (weights, moments) = values.split_at(layout.elements);
            layers.push(LayerBlobs {
                root: tile::stage_state(&tensors),
                weights: blobs.put(bytemuck::cast_slice(weights))?,
                moments: blobs.put(bytemuck::cast_slice(moments))?,
            });
            bytes += 4 * values.len() as u64;
        }
        let layers = layers.try_into().map_err(|_| Fault::bad_job("too many stages"))?;
        Ok(Commitment::Snapshot(Snapshot::of_stages(step, layers, bytes)))
    }

    /// The commitments to the resident stages.
    fn roots(&mut self, step: Step) -> Result<Vec<Hash>, Fault> {
        let Resident { model, range, .. } = self.at(step)?;
        let mut roots = Vec::new();
        for layer in range.iter() {
            let layout = LayerLayout::new(&model, layer);
            let (mut values, mut tensors) = (vec![0.0; layout.elements], Vec::new());
            for part in Part::ALL {
                self.engine.read(part, layer, &mut values)?;
                tensors.extend(commit(&layout, &values));
            }
            roots.push(tile::stage_state(&tensors));
        }
        Ok(roots)
    }

    /// Reads a part of a resident stage: for export and tests.
    ///
    /// # Errors
    /// If no state is loaded or the device fails.
    pub fn read(&mut self, part: Part, layer: LayerIndex) -> Result<Vec<f32>, Fault> {
        let Some(resident) = self.resident else { return Err(Fault::bad_job("no state is loaded")) };
        let mut values = vec![0.0; LayerLayout::new(&resident.model, layer).elements];
        self.engine.read(part, layer, &mut values)?;
        Ok(values)
    }
}

fn checked(model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
    model.check().map_err(|error| Fault::bad_job(&error.to_string()))?;
    if range.start >= range.end || range.end > model.layers + 1 {
        return Err(Fault::bad_job("the stages asked for are not the model's"));
    }
    Ok(())
}

/// The commitments to a part's tensors, hashed on as many threads as there are cores.
fn commit(layout: &LayerLayout, values: &[f32]) -> Vec<TensorRef> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let tensor = |placed: &crate::layout::PlacedTensor| {
        let shape = tile::Shape { rows: placed.spec.rows, cols: placed.spec.cols };
        let elements: &[u32] = bytemuck::cast_slice(&values[placed.range.clone()]);
        let mut tiles = vec![Hash::default(); shape.tiles() as usize];
        let share = tiles.len().div_ceil(threads).max(256);
        std::thread::scope(|scope| {
            for (index, part) in tiles.chunks_mut(share).enumerate() {
                let mut work = move || tile::hash_tiles(shape, elements, (index * share) as u64, part);
                if index == 0 { work() } else { drop(scope.spawn(work)) }
            }
        });
        tile::tensor_of_tiles(DType::F32, shape, &tiles)
    };
    layout.tensors.iter().map(tensor).collect()
}

fn floats(hash: &Hash, elements: usize, blobs: &mut dyn Blobs) -> Result<Vec<f32>, Fault> {
    let bytes = blobs.get(hash)?;
    if bytes.len() != 4 * elements {
        return Err(Fault::BlobDamaged { hash: *hash });
    }
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Shards kept decoded, the most recently used last. A batch draws from few shards of a small network and from many of a
/// large one; eight of the largest are 64 MiB.
#[derive(Default)]
struct ShardCache {
    shards: Vec<(Hash, Vec<u8>)>,
}

const CACHED_SHARDS_MAX: usize = 8;

impl ShardCache {
    fn shard(&mut self, hash: &Hash, blobs: &mut dyn Blobs) -> Result<&[u8], Fault> {
        let found = match self.shards.iter().position(|(cached, _)| cached == hash) {
            Some(place) => self.shards.remove(place),
            None => (*hash, blobs.get(hash)?),
        };
        if self.shards.len() == CACHED_SHARDS_MAX {
            self.shards.remove(0);
        }
        self.shards.push(found);
        Ok(self.shards.last().map_or(&[], |(_, bytes)| bytes))
    }

    /// Reads the sequences of a batch.
    fn batch(
        &mut self,
        model: &ModelSpec,
        sequence: u32,
        samples: &[Sample],
        blobs: &mut dyn Blobs,
    ) -> Result<TokenBatch, Fault> {
        if samples.is_empty() || sequence == 0 || sequence > model.context {
            return Err(Fault::bad_job("a batch has sequences, and they fit the context"));
        }
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for sample in samples {
            let bytes = self.shard(&sample.shard, blobs)?;
            let first = 2 * sample.offset as usize;
            let window = bytes.get(first..first + 2 * (sequence as usize + 1));
            let window = window.ok_or_else(|| Fault::bad_job("a sample reaches past the end of its shard"))?;
            let tokens: Vec<u32> =
                window.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
            if tokens.iter().any(|token| *token >= model.vocab) {
                return Err(Fault::bad_job("a shard holds a token outside the vocabulary"));
            }
            inputs.extend_from_slice(&tokens[..sequence as usize]);
            targets.extend_from_slice(&tokens[1..]);
        }
        Ok(TokenBatch { sequence, inputs, targets })
    }
}
