//! The CPU as an engine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use neuroshard_proto::ops::{Call, Op};
use neuroshard_proto::{F32, Fault, LayerIndex, LayerRange, ModelSpec, Schedule};

use crate::engine::{Engine, Entry, Part, TokenBatch, Trained};
use crate::layout::single;
use crate::optimizer::Rates;
use crate::values::{Shape, Values};

use super::forward;
use super::isa::Isa;
use super::memory::Buffer;
use super::pass::{Crew, Cx};
use super::pool::Pool;
use super::resident::Resident;
use super::state::{self, Worst};
use super::table;

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

    /// Bytes that sequences between forward and backward take.
    pub fn kept_bytes(&self) -> usize {
        self.model.as_ref().map_or(0, Resident::places_bytes)
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

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        let threads = self.crew.pool.threads();
        format!("CPU, {threads} thread{}, {}", if threads == 1 { "" } else { "s" }, self.crew.isa)
    }

    fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
        model.check().map_err(|error| Fault::bad_job(&error.to_string()))?;
        self.model = None;
        self.model = Some(Resident::new(model, range, self.activation_bytes)?);
        Ok(())
    }

    fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
        let target = &mut self.resident()?.stage(layer)?.parts[part_index(part)];
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
        let source = &self.resident()?.stage(layer)?.parts[part_index(part)];
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
            model.clear();
        }
        let Some(loss_micro) = model.run(crew, batch, true)? else { return Ok(Trained::Void) };
        let norms = state::squared_norms(crew, &model.stages, token_weight);
        Ok(norms.map_or(Trained::Void, |squared_norms| Trained::Done { loss_micro, squared_norms }))
    }

    fn clear(&mut self) -> Result<(), Fault> {
        self.resident()?.clear();
        Ok(())
    }

    fn forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault> {
        self.model.as_mut().ok_or_else(no_state)?.forward(&mut self.crew, place, entry, output)
    }

    fn backward(&mut self, place: usize, leaving: &[f32], entering: Option<&mut [f32]>) -> Result<bool, Fault> {
        self.model.as_mut().ok_or_else(no_state)?.backward(&mut self.crew, place, leaving, entering)
    }

    fn turn(&mut self, entry: Entry<'_>, targets: &[u32], entering: Option<&mut [f32]>) -> Result<Option<i64>, Fault> {
        self.model.as_mut().ok_or_else(no_state)?.turn(&mut self.crew, entry, targets, entering)
    }

    fn norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault> {
        let model = self.model.as_ref().ok_or_else(no_state)?;
        Ok(state::squared_norms(&self.crew, &model.stages, token_weight))
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
        let mut bench = Resident::new(&one, one.all_layers(), None)?;
        let tokens = sequence as usize;
        bench.stages[0].parts[0].fill(0.01);
        let crew = &mut self.crew;
        bench.stages[0].pack(crew);
        crew.reserve(&bench.sizes, tokens, false)?;
        bench.kept.resize(&bench.sizes, tokens)?;
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
