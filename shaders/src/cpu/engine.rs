//! The CPU as an engine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use neuroshard_proto::ops::{Call, Op};
use neuroshard_proto::{F32, Fault, LayerIndex, LayerRange, ModelSpec, Schedule};

use crate::engine::{Engine, Part, TokenBatch, Trained};
use crate::layout::single;
use crate::optimizer::Rates;
use crate::values::{Shape, Values};

use super::forward::{self, Sequences};
use super::isa::Isa;
use super::memory::Buffer;
use super::pass::{Crew, Cx, Kept, Sizes};
use super::pool::Pool;
use super::rows;
use super::state::{self, Stage, Worst};
use super::{backward, table};

/// How an engine is to use the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that compute, the caller's counted: at least 1, at most [`THREADS_MAX`].
    pub threads: usize,
    /// Instructions to use; the fastest that [`Isa::best`] trusts if none are named.
    pub isa: Option<Isa>,
    /// What each of the engine's own threads does first, for instance [`super::lower_priority`]. The caller's thread, which
    /// computes too, is the caller's affair.
    pub thread_start: fn(),
    /// Bytes that activations may take; sequences that do not fit go one group after the other, with the same result. At
    /// least one sequence goes at a time. By default 96 MiB, or twice the model's state if that is more.
    pub activation_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { threads, isa: None, thread_start: || (), activation_bytes: None }
    }
}

/// Most threads of an engine: beyond, its work is cut too coarsely to occupy more.
pub const THREADS_MAX: usize = 256;

/// Trains on the CPU, to the bit as [`crate::reference`] does.
///
/// ```
/// use neuroshard_proto::Preset;
/// use neuroshard_shaders::cpu::{CpuEngine, Options};
/// use neuroshard_shaders::engine::Engine;
///
/// let mut engine = CpuEngine::new(Options { threads: 2, ..Options::default() })?;
/// println!("computes on {}", engine.describe());
/// let (model, _) = Preset::Nano.specs();
/// engine.allocate(&model, model.all_layers())?;
/// # Ok::<(), neuroshard_proto::Fault>(())
/// ```
#[derive(Debug)]
pub struct CpuEngine {
    crew: Crew,
    activation_bytes: Option<u64>,
    model: Option<Resident>,
}

/// A model in memory.
#[derive(Debug)]
struct Resident {
    spec: ModelSpec,
    sizes: Sizes,
    stages: Vec<Stage>,
    kept: Kept,
    /// The largest magnitude of a matrix' weight, if the matrices are packed as they are.
    packed: Option<u32>,
    activation_bytes: u64,
}

/// See [`Options::activation_bytes`].
const ACTIVATION_BYTES_MIN: u64 = 96 << 20;

impl CpuEngine {
    /// An engine without a model.
    ///
    /// # Errors
    /// [`Fault::Device`] if this machine lacks the instructions that were asked for.
    pub fn new(options: Options) -> Result<Self, Fault> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !isa.is_available() {
            return Err(Fault::device(&format!("this machine has no {isa} instructions")));
        }
        let pool = Pool::new(options.threads.min(THREADS_MAX), options.thread_start);
        Ok(Self { crew: Crew::new(isa, pool), activation_bytes: options.activation_bytes, model: None })
    }

    /// Begins to note where the threads' time goes, for [`Self::take_profile`].
    pub fn start_profile(&mut self) {
        self.crew.scratch_mut().for_each(|scratch| scratch.watch.wind());
    }

    /// The time that all threads together spent on each operation since the profile began or was taken last. Packing counts
    /// to the operation whose result is packed; waiting counts to none.
    pub fn take_profile(&mut self) -> BTreeMap<Op, Duration> {
        let mut total = BTreeMap::new();
        self.crew.scratch_mut().for_each(|scratch| scratch.watch.take(&mut total));
        total
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.crew.isa
    }

    fn resident(&mut self) -> Result<&mut Resident, Fault> {
        self.model.as_mut().ok_or_else(no_state)
    }

    /// A stage of the resident model.
    fn stage(&mut self, layer: LayerIndex) -> Result<&mut Stage, Fault> {
        let stages = &mut self.resident()?.stages;
        stages.get_mut(layer.0 as usize).ok_or_else(|| Fault::bad_job("the model has no such stage"))
    }
}

fn no_state() -> Fault {
    Fault::device("no state is loaded")
}

fn part_index(part: Part) -> usize {
    match part {
        Part::Weights => 0,
        Part::Moments1 => 1,
        Part::Moments2 => 2,
    }
}

impl Resident {
    fn new(spec: &ModelSpec, activation_bytes: Option<u64>) -> Result<Self, Fault> {
        let stages = spec.all_layers().iter().map(|layer| Stage::new(spec, layer)).collect::<Result<_, _>>()?;
        let usual = ACTIVATION_BYTES_MIN.max(2 * spec.training_bytes(spec.all_layers()));
        let activation_bytes = activation_bytes.unwrap_or(usual);
        Ok(Self { spec: *spec, sizes: Sizes::new(spec), stages, kept: Kept::default(), packed: None, activation_bytes })
    }

    /// Tokens of whole sequences that go together.
    fn together(&self, sequence: usize) -> usize {
        let tokens = usize::try_from(self.activation_bytes).unwrap_or(usize::MAX) / self.sizes.bytes_a_token();
        sequence * (tokens / sequence).max(1)
    }

    /// Runs a batch, as many sequences at a time as memory allows; `None` if a value left its range.
    fn run(&mut self, crew: &mut Crew, batch: &TokenBatch, training: bool) -> Result<Option<i64>, Fault> {
        check(&self.spec, batch)?;
        let sequence = batch.sequence as usize;
        let together = self.together(sequence);
        let most = together.min(batch.inputs.len());
        crew.reserve(&self.sizes, sequence, training)?;
        let packed = match self.packed {
            Some(worst) => worst,
            None => {
                let pack = |stage: &mut Stage| stage.pack(crew);
                *self.packed.insert(self.stages.iter_mut().map(pack).max().unwrap_or_default())
            }
        };
        let worst = Worst::default();
        worst.see(packed);
        let cx = Cx { isa: crew.isa, sizes: &self.sizes, sequence, worst: &worst };
        let mut loss = 0;
        self.kept.resize(&self.sizes, most, training)?;
        for (inputs, targets) in batch.inputs.chunks(together).zip(batch.targets.chunks(together)) {
            self.kept.resize(&self.sizes, inputs.len(), training)?;
            forward::forward(crew, cx, &self.stages, Sequences { inputs, targets }, &mut self.kept, training);
            if !rows::fits(worst.get()) {
                return Ok(None);
            }
            loss += self.kept.head.losses.iter().map(|loss| i64::from(*loss)).sum::<i64>();
            if training {
                backward::backward(crew, cx, &mut self.stages, inputs, &mut self.kept);
            }
        }
        Ok(rows::fits(worst.get()).then_some(loss))
    }
}

/// Refuses batches that do not fit the model.
fn check(model: &ModelSpec, batch: &TokenBatch) -> Result<(), Fault> {
    let sequence = batch.sequence as usize;
    if sequence == 0 || batch.sequence > model.context {
        return Err(Fault::bad_job("sequences are empty or longer than the context"));
    }
    if batch.inputs.is_empty()
        || !batch.inputs.len().is_multiple_of(sequence)
        || batch.inputs.len() != batch.targets.len()
    {
        return Err(Fault::bad_job("a batch is whole sequences with a target for each token"));
    }
    if batch.inputs.iter().chain(&batch.targets).any(|token| *token >= model.vocab) {
        return Err(Fault::bad_job("a batch holds a token outside the vocabulary"));
    }
    Ok(())
}

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        let threads = self.crew.pool.threads();
        format!("CPU, {threads} thread{}, {}", if threads == 1 { "" } else { "s" }, self.crew.isa)
    }

    fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
        model.check().map_err(|error| Fault::bad_job(&error.to_string()))?;
        if range != model.all_layers() {
            return Err(Fault::bad_job("the CPU engine holds whole models only"));
        }
        self.model = None;
        self.model = Some(Resident::new(model, self.activation_bytes)?);
        Ok(())
    }

    fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
        let target = &mut self.stage(layer)?.parts[part_index(part)];
        if target.len() != values.len() {
            return Err(Fault::bad_job("a stage's part has another length"));
        }
        target.copy_from_slice(values);
        if part == Part::Weights {
            self.resident()?.packed = None;
        }
        Ok(())
    }

    fn read(&mut self, part: Part, layer: LayerIndex, out: &mut [f32]) -> Result<(), Fault> {
        let source = &self.stage(layer)?.parts[part_index(part)];
        if source.len() != out.len() {
            return Err(Fault::bad_job("a stage's part has another length"));
        }
        out.copy_from_slice(source);
        Ok(())
    }

    fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault> {
        let Self { crew, model, .. } = self;
        let model = model.as_mut().ok_or_else(no_state)?;
        if fresh {
            model.stages.iter_mut().for_each(|stage| stage.gradient.fill(0.0));
        }
        let Some(loss_micro) = model.run(crew, batch, true)? else { return Ok(Trained::Void) };
        let norms = state::squared_norms(crew, &model.stages, token_weight);
        Ok(norms.map_or(Trained::Void, |squared_norms| Trained::Done { loss_micro, squared_norms }))
    }

    fn evaluate(&mut self, batch: &TokenBatch) -> Result<Option<i64>, Fault> {
        self.model.as_mut().ok_or_else(no_state)?.run(&mut self.crew, batch, false)
    }

    fn step(&mut self, token_weight: F32, squared_norm: F32, schedule: &Schedule) -> Result<(), Fault> {
        let rates = Rates::new(schedule, token_weight, squared_norm);
        let model = self.model.as_mut().ok_or_else(no_state)?;
        model.packed = Some(state::step(&self.crew, &mut model.stages, &rates));
        Ok(())
    }

    fn apply(&mut self, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault> {
        table::apply(&mut self.crew, call, shape, values)
    }

    fn sum_squares(&mut self, gradient: &[f32], token_weight: F32) -> Result<Option<F32>, Fault> {
        let sums = state::sums_of_squares(&self.crew, &[gradient], single(token_weight));
        Ok(sums.map(|sums| F32::from_bits(sums[0].to_bits())))
    }

    fn adamw(&mut self, rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) -> Result<(), Fault> {
        if parts.iter().any(|part| part.len() != gradient.len()) {
            return Err(Fault::bad_job("a tensor's parts differ in length"));
        }
        state::adamw(self.crew.isa, rates, decay, parts, gradient);
        Ok(())
    }

    fn benchmark(&mut self, model: &ModelSpec, sequence: u32, warmup: u32, runs: u32) -> Result<u64, Fault> {
        let one = ModelSpec { layers: 1, ..*model };
        let mut bench = Resident::new(&one, None)?;
        let tokens = sequence as usize;
        bench.stages[0].parts[0].fill(0.01);
        let crew = &mut self.crew;
        bench.stages[0].pack(crew);
        crew.reserve(&bench.sizes, tokens, false)?;
        bench.kept.resize(&bench.sizes, tokens, false)?;
        bench.kept.layers[0].input.fill(1.0);
        let worst = Worst::default();
        let cx = Cx { isa: crew.isa, sizes: &bench.sizes, sequence: tokens, worst: &worst };
        let mut output = Buffer::new(tokens * bench.sizes.hidden_stride())?;
        crate::timing::median_us(warmup, runs, || {
            let started = Instant::now();
            forward::layer(crew, cx, &bench.stages[0], &mut bench.kept.layers[0], tokens, &mut output);
            Ok(started.elapsed())
        })
    }
}
